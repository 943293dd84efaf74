//! Connections to a server, each for as long as somebody has it. The other end may fall silent without a word: then whoever asked it something
//! is told so in time, and neither the connection nor its place is waited for.
//!
//! They come from sqlx's pool, but do not go back there after each use: it asks each whether it is well, which costs as much as a statement.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use sqlx::{Error, Postgres};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// The longest that a server which waits for nobody says nothing.
pub(super) const SILENCE: Duration = Duration::from_secs(3);
/// As [`SILENCE`], for a statement that may stand in line for a lock.
pub(super) const IN_LINE: Duration = Duration::from_secs(10);
/// As [`SILENCE`], for what may go through many rows: longer than the server itself lets it.
pub(super) const THOROUGH: Duration = Duration::from_secs(33);
/// Who was of no use for so long goes back to the pool, which closes it in time.
const IDLE: Duration = Duration::from_mins(5);

/// Connections that nobody has, the one that was used last at the end, and since when.
type Free = Arc<Mutex<Vec<(Instant, PoolConnection<Postgres>)>>>;

/// The connections of a daemon, of one kind.
#[derive(Clone)]
pub(super) struct Wires {
    pool: PgPool,
    /// One for each connection that somebody may have.
    places: Arc<Semaphore>,
    /// How long somebody waits for one.
    patience: Duration,
    free: Free,
}

impl Wires {
    /// As many as a pool makes, none of them yet.
    pub(super) fn new(pool: PgPool) -> Self {
        let most = usize::try_from(pool.options().get_max_connections()).unwrap_or(usize::MAX);
        let patience = pool.options().get_acquire_timeout();
        Self {
            pool,
            places: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            patience,
            free: Arc::default(),
        }
    }

    /// How each of them is made.
    pub(super) fn connect_options(&self) -> Arc<PgConnectOptions> {
        self.pool.connect_options()
    }

    /// One that is free, or a new one.
    pub(super) async fn take(&self) -> Result<Wire, Error> {
        let place = timeout(self.patience, Arc::clone(&self.places).acquire_owned()).await;
        let place = place.map_err(|_| Error::PoolTimedOut)?.map_err(|_| Error::PoolClosed)?;
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match free {
            Some((_, connection)) => connection,
            None => self.pool.acquire().await?,
        };
        Ok(Wire { connection: Some(connection), free: Arc::clone(&self.free), state: State::Well, _place: place })
    }
}

/// A connection.
pub(super) struct Wire {
    connection: Option<PoolConnection<Postgres>>,
    free: Free,
    state: State,
    _place: OwnedSemaphorePermit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// As far as is known it can be used again.
    Well,
    /// It was asked something; who did may be gone before the answer.
    Asked,
    /// Nobody is to use it again.
    Lost,
}

impl Wire {
    /// For a question; to be followed by [`Wire::heard`].
    pub(super) fn ask(&mut self) -> Result<&mut PgConnection, Error> {
        if self.state == State::Well {
            self.state = State::Asked;
        }
        self.connection.as_deref_mut().ok_or(Error::PoolClosed)
    }

    /// The answer, or that there was none.
    pub(super) fn heard<T>(&mut self, answer: &Result<T, Error>) {
        let is_lost = matches!(answer, Err(Error::Io(_) | Error::Tls(_) | Error::Protocol(_) | Error::WorkerCrashed));
        self.state = if is_lost || self.state == State::Lost { State::Lost } else { State::Well };
    }

    /// Nobody goes on with what was begun on it.
    pub(super) fn give_up(&mut self) {
        self.state = State::Lost;
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let now = Instant::now();
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let doubtful = match self.state {
            State::Well => {
                free.push((now, connection));
                // The first is the one that was used the longest time ago.
                let is_old = free.first().is_some_and(|(since, _)| now - *since > IDLE);
                if is_old { vec![free.remove(0).1] } else { Vec::new() }
            }
            State::Asked => vec![connection],
            State::Lost => {
                drop(connection.detach());
                // So may the others be: the server was started anew, say.
                free.drain(..).map(|(_, connection)| connection).collect()
            }
        };
        drop(free);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        for mut connection in doubtful {
            // The pool asks whether it is well, and would wait for the answer as long as it takes.
            drop(runtime.spawn(timeout(SILENCE, connection.return_to_pool())));
        }
    }
}

/// An answer that comes within this time, or an error that says that none did.
pub(super) async fn within<T>(patience: Duration, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match timeout(patience, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(silent(patience)),
    }
}

fn silent(patience: Duration) -> Error {
    let text = format!("it has said nothing for {} s, and the connection is given up", patience.as_secs());
    Error::Io(io::Error::new(io::ErrorKind::TimedOut, text))
}
