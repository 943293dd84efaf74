//! The one writer of `SQLite`: takes what waits, runs it in one transaction, commits once, answers everyone.
//!
//! It has a thread of its own, on which operations run and `SQLite` works: a write costs its caller one trip to that
//! thread and back, however many statements it makes. Group commit is why 64 callers are served faster than one: the disk's flush is paid once per batch. When one
//! operation of a batch fails after it has written, the batch is rolled back and each is run again alone.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::News;
use super::tx::{Session, Tx};
use crate::clock::SharedClock;
use crate::error::{Error, Reason, Result};

/// Operations in one transaction at most: enough to share a flush, few enough that a reply is not held long.
const BATCH: usize = 64;

/// Commits so far in this process, for the fail points.
static COMMITS: AtomicU64 = AtomicU64::new(0);

/// Work for the writer: run (again and again, if need be), then told how the commit went.
pub(super) trait Operation: Send {
    fn run<'a>(&'a mut self, tx: &'a mut Tx) -> BoxFuture<'a, Ran>;
    fn answer(self: Box<Self>, commit: Result<(), &Error>);
}

/// How a run of an operation came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ran {
    Done,
    /// It said no before it wrote anything.
    Declined,
    /// It said no and has written: the transaction must go.
    Spoiled,
}

struct Typed<T, F> {
    work: F,
    result: Option<Result<T>>,
    answer: oneshot::Sender<Result<T>>,
}

pub(super) fn operation<T, F>(work: F) -> (Box<dyn Operation>, oneshot::Receiver<Result<T>>)
where
    T: Send + 'static,
    F: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T>> + Send + 'static,
{
    let (answer, receiver) = oneshot::channel();
    (Box::new(Typed { work, result: None, answer }), receiver)
}

impl<T, F> Operation for Typed<T, F>
where
    T: Send + 'static,
    F: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T>> + Send + 'static,
{
    fn run<'a>(&'a mut self, tx: &'a mut Tx) -> BoxFuture<'a, Ran> {
        Box::pin(async move {
            tx.begin_operation();
            let work = AssertUnwindSafe((self.work)(tx)).catch_unwind().await;
            let result = work.unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<&str>().map(ToString::to_string);
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
                Err(Error::new(Reason::Internal, format!("an operation of the store panicked: {text}")))
            });
            let ran = match (&result, tx.has_written()) {
                (Ok(_), _) => Ran::Done,
                // The database itself failed: it may have rolled the transaction back already.
                (Err(error), _) if matches!(error.reason, Reason::StoreUnavailable | Reason::NoSpace) => Ran::Spoiled,
                (Err(_), false) => Ran::Declined,
                (Err(_), true) => Ran::Spoiled,
            };
            self.result = Some(result);
            ran
        })
    }

    fn answer(self: Box<Self>, commit: Result<(), &Error>) {
        let result = match (self.result, commit) {
            (Some(Err(error)), _) => Err(error),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (_, Err(error)) => Err(Error::new(error.reason, error.message.clone())),
            (None, Ok(())) => Err(Error::new(Reason::Internal, "the operation was not run")),
        };
        // The caller may have left: then nobody wants the answer, and the commit stands.
        let _ = self.answer.send(result);
    }
}

pub(super) fn start(
    session: Box<dyn Session>,
    clock: SharedClock,
    news: broadcast::Sender<Arc<News>>,
) -> Result<mpsc::Sender<Box<dyn Operation>>> {
    let (sender, receiver) = mpsc::channel(1024);
    let runtime = tokio::runtime::Handle::current();
    let tx = Tx::new(session, clock);
    std::thread::Builder::new()
        .name("store-writer".to_owned())
        .spawn(move || runtime.block_on(serve(tx, receiver, news)))
        .map_err(|error| Error::internal("cannot start the thread that writes to the database", error))?;
    Ok(sender)
}

async fn serve(mut tx: Tx, mut queue: mpsc::Receiver<Box<dyn Operation>>, news: broadcast::Sender<Arc<News>>) {
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        if !together(&mut tx, &mut batch, &news).await {
            for operation in batch.drain(..) {
                alone(&mut tx, operation, &news).await;
            }
        }
    }
}

/// Runs a batch in one transaction; `false` leaves it for [`alone`].
async fn together(tx: &mut Tx, batch: &mut Vec<Box<dyn Operation>>, news: &broadcast::Sender<Arc<News>>) -> bool {
    if let Err(error) = tx.begin().await {
        answer_all(batch, Err(&error));
        return true;
    }
    for operation in &mut *batch {
        if operation.run(tx).await == Ran::Spoiled {
            tx.rollback().await;
            if batch.len() > 1 {
                return false;
            }
            answer_all(batch, Ok(()));
            return true;
        }
    }
    let committed = commit(tx).await;
    answer_all(batch, committed.as_ref().map(|_| ()));
    announce(committed, news);
    true
}

async fn alone(tx: &mut Tx, mut operation: Box<dyn Operation>, news: &broadcast::Sender<Arc<News>>) {
    if let Err(error) = tx.begin().await {
        operation.answer(Err(&error));
        return;
    }
    if operation.run(tx).await == Ran::Spoiled {
        tx.rollback().await;
        operation.answer(Ok(()));
        return;
    }
    let committed = commit(tx).await;
    operation.answer(committed.as_ref().map(|_| ()));
    announce(committed, news);
}

fn answer_all(batch: &mut Vec<Box<dyn Operation>>, commit: Result<(), &Error>) {
    for operation in batch.drain(..) {
        operation.answer(commit);
    }
}

fn announce(committed: Result<News>, news: &broadcast::Sender<Arc<News>>) {
    if let Ok(told) = committed
        && (told.ready > 0 || told.timer.is_some() || !told.events.is_empty())
    {
        // Nobody may be listening; that is fine.
        let _ = news.send(Arc::new(told));
    }
}

async fn commit(tx: &mut Tx) -> Result<News> {
    if !tx.has_written_at_all() {
        tx.rollback().await;
        return Ok(News::default());
    }
    let number = COMMITS.fetch_add(1, Ordering::SeqCst) + 1;
    fail_point("before", number);
    let told = tx.commit().await?;
    fail_point("after", number);
    Ok(told)
}

/// `DRYDOCK_FAIL_AT=before:N` or `after:N` kills the daemon with SIGKILL around its Nth commit. For the crash tests;
/// compiled in, so that what is tested is what is shipped.
fn fail_point(place: &str, number: u64) {
    static ARMED: std::sync::OnceLock<Option<(String, u64)>> = std::sync::OnceLock::new();
    let armed = ARMED.get_or_init(|| {
        let text = std::env::var("DRYDOCK_FAIL_AT").ok()?;
        let (place, number) = text.split_once(':')?;
        Some((place.to_owned(), number.parse().ok()?))
    });
    if armed.as_ref().is_some_and(|(at, n)| at == place && *n == number) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}
