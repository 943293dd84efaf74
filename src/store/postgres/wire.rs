//! A connection of the pool, for as long as somebody has it. The other end may fall silent without a word: then whoever asked it something
//! is told so in time, and neither the connection nor its place in the pool is waited for.

use std::io;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Error, Postgres};
use tokio::time::timeout;

/// The longest that a server which waits for nobody says nothing.
pub(super) const SILENCE: Duration = Duration::from_secs(3);
/// As [`SILENCE`], for a statement that may stand in line for a lock.
pub(super) const IN_LINE: Duration = Duration::from_secs(10);
/// As [`SILENCE`], for what may go through many rows: longer than the server itself lets it.
pub(super) const THOROUGH: Duration = Duration::from_secs(33);

/// A connection.
pub(super) struct Wire {
    connection: Option<PoolConnection<Postgres>>,
    /// As far as is known it can be used again.
    is_well: bool,
}

impl Wire {
    /// One that is free, or a new one.
    pub(super) async fn take(pool: &PgPool) -> Result<Self, Error> {
        Ok(Self { connection: Some(pool.acquire().await?), is_well: true })
    }

    /// For a question; to be followed by [`Wire::heard`].
    pub(super) fn ask(&mut self) -> Result<&mut PgConnection, Error> {
        self.connection.as_deref_mut().ok_or(Error::PoolClosed)
    }

    /// The answer, or that there was none.
    pub(super) fn heard<T>(&mut self, answer: &Result<T, Error>) {
        self.is_well &=
            !matches!(answer, Err(Error::Io(_) | Error::Tls(_) | Error::Protocol(_) | Error::WorkerCrashed));
    }

    /// Nobody goes on with what was begun on it.
    pub(super) fn give_up(&mut self) {
        self.is_well = false;
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        match tokio::runtime::Handle::try_current() {
            // On its way back it is asked whether it is well, also when whoever asked it something did not wait for the answer. The pool
            // would wait for that as long as it takes, and have a connection less.
            Ok(runtime) if self.is_well => {
                drop(runtime.spawn(timeout(SILENCE, connection.return_to_pool())));
            }
            _ => drop(connection.detach()),
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
