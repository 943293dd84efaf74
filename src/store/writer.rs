//! The one writer of `SQLite`: takes what waits, runs it in one transaction, commits once, answers everyone.
//!
//! It has a thread of its own, on which operations run and `SQLite` works: a write costs its caller one trip to that
//! thread and back, however many statements it makes. Group commit is why 64 callers are served faster than one: the disk's flush is paid once per batch. When one
//! operation of a batch fails after it has written, the batch is rolled back and each is run again alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::count::Meter;
use super::idle::{Given, Idle};
use super::tx::{Opening, Session, Tx};
use super::{Claim, News};
use crate::clock::SharedClock;
use crate::error::{Error, Reason, Result};
use crate::metrics::Metrics;

/// Operations in one transaction at most: enough to share a flush, few enough that a reply is not held long.
const BATCH: usize = 64;
/// Operations that wait for their turn at most; one more waits at the door.
const QUEUE: usize = 1024;

/// Commits so far in this process, for the fail points.
pub(super) static COMMITS: AtomicU64 = AtomicU64::new(0);

/// Work for the writer: run (again and again, if need be), then told how the commit went.
pub(super) trait Operation: Send {
    fn opening(&self) -> &Opening;
    /// Whether somebody waits for its answer.
    fn is_awaited(&self) -> bool;
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
    opening: Opening,
    work: F,
    result: Option<Result<T>>,
    answer: oneshot::Sender<Result<T>>,
}

/// An operation, and its answer.
pub(super) fn operation<T, F>(opening: Opening, work: F) -> (Box<dyn Operation>, oneshot::Receiver<Result<T>>)
where
    T: Send + 'static,
    F: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T>> + Send + 'static,
{
    let (answer, receiver) = oneshot::channel();
    (Box::new(Typed { opening, work, result: None, answer }), receiver)
}

/// Calls the work for its future; it may panic before there is one.
fn call<'t, T, F>(work: &F, tx: &'t mut Tx) -> std::thread::Result<BoxFuture<'t, Result<T>>>
where
    F: Fn(&'t mut Tx) -> BoxFuture<'t, Result<T>>,
{
    catch_unwind(AssertUnwindSafe(|| {
        // Moved in, since the future keeps it.
        let tx = tx;
        work(tx)
    }))
}

impl<T, F> Operation for Typed<T, F>
where
    T: Send + 'static,
    F: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T>> + Send + 'static,
{
    fn opening(&self) -> &Opening {
        &self.opening
    }

    fn is_awaited(&self) -> bool {
        !self.answer.is_closed()
    }

    fn run<'a>(&'a mut self, tx: &'a mut Tx) -> BoxFuture<'a, Ran> {
        Box::pin(async move {
            tx.begin_operation();
            let work = match call(&self.work, tx) {
                Ok(running) => AssertUnwindSafe(running).catch_unwind().await,
                Err(panic) => Err(panic),
            };
            let result = work.unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<&str>().map(ToString::to_string);
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
                Err(Error::new(Reason::Internal, format!("an operation of the store panicked: {text}")))
            });
            let result = match (&self.opening, tx.has_written()) {
                (Opening::Look, true) => Err(Error::new(Reason::Internal, "what was to look only has written")),
                _ => result,
            };
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

/// The one that writes to a file.
pub(super) struct Writer {
    tx: Tx,
    news: broadcast::Sender<Arc<News>>,
    idle: Arc<Idle>,
    metrics: Arc<Metrics>,
}

impl Writer {
    pub(super) fn new(
        session: impl Session + 'static,
        clock: SharedClock,
        news: broadcast::Sender<Arc<News>>,
        idle: Arc<Idle>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { tx: Tx::new(Box::new(session), clock), news, idle, metrics }
    }

    /// Serves on a thread of its own until nobody can ask any more.
    pub(super) fn on_a_thread(self) -> Result<mpsc::Sender<Box<dyn Operation>>> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || runtime.block_on(self.serve(receiver)))
            .map_err(|error| Error::internal("cannot start the thread that writes to the database", error))?;
        Ok(sender)
    }

    /// Serves as a task among the others.
    pub(super) fn in_turns(self) -> mpsc::Sender<Box<dyn Operation>> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(self.serve(receiver));
        sender
    }

    async fn serve(mut self, mut queue: mpsc::Receiver<Box<dyn Operation>>) {
        let mut batch = Vec::with_capacity(BATCH);
        while queue.recv_many(&mut batch, BATCH).await > 0 {
            if !self.together(&mut batch).await {
                for operation in batch.drain(..) {
                    self.alone(operation).await;
                }
            }
        }
    }

    /// Runs a batch in one transaction; `false` leaves it for [`Writer::alone`].
    async fn together(&mut self, batch: &mut Vec<Box<dyn Operation>>) -> bool {
        let meter = Meter::start(&self.metrics, batch.len());
        if let Err(error) = self.tx.begin(&Opening::Plain).await {
            answer_all(batch, Err(&error));
            return true;
        }
        for operation in &mut *batch {
            if operation.run(&mut self.tx).await == Ran::Spoiled {
                self.tx.rollback().await;
                if batch.len() > 1 {
                    return false;
                }
                answer_all(batch, Ok(()));
                return true;
            }
        }
        let committed = self.commit().await;
        meter.stop(committed.as_ref().ok().map(|(told, _)| told));
        answer_all(batch, committed.as_ref().map(|_| ()));
        self.announce(committed).await;
        true
    }

    async fn alone(&mut self, mut operation: Box<dyn Operation>) {
        let meter = Meter::start(&self.metrics, 1);
        if let Err(error) = self.tx.begin(&Opening::Plain).await {
            operation.answer(Err(&error));
            return;
        }
        if operation.run(&mut self.tx).await == Ran::Spoiled {
            self.tx.rollback().await;
            operation.answer(Ok(()));
            return;
        }
        let committed = self.commit().await;
        meter.stop(committed.as_ref().ok().map(|(told, _)| told));
        operation.answer(committed.as_ref().map(|_| ()));
        self.announce(committed).await;
    }

    async fn commit(&mut self) -> Result<(News, Vec<Given>)> {
        if !self.tx.has_written_at_all() {
            self.tx.rollback().await;
            return Ok((News::default(), Vec::new()));
        }
        let given = match self.idle.give(&mut self.tx).await {
            Ok(given) => given,
            Err(error) => {
                self.tx.rollback().await;
                return Err(error);
            }
        };
        let number = COMMITS.fetch_add(1, Ordering::SeqCst) + 1;
        fail_point("before", number);
        let told = self.tx.commit().await?;
        fail_point("after", number);
        Ok((told, given))
    }

    async fn announce(&mut self, committed: Result<(News, Vec<Given>)>) {
        let Ok((told, given)) = committed else { return };
        if told.ready > 0 || told.timer.is_some() || !told.events.is_empty() {
            // Nobody may be listening; that is fine.
            let _ = self.news.send(Arc::new(told));
        }
        for Given { claim, to } in given {
            if let Err(claim) = to.send(claim) {
                // Its worker has just left.
                self.give_back(claim).await;
            }
        }
    }

    async fn give_back(&mut self, claim: Claim) {
        let task = claim.task.clone();
        let (operation, answer) = operation(Opening::Plain, move |tx| {
            let claim = claim.clone();
            Box::pin(async move { tx.hand_back(&claim).await })
        });
        Box::pin(self.alone(operation)).await;
        if let Ok(Err(error)) = answer.await {
            // It runs out, and someone takes it over.
            tracing::warn!(%task, error = %crate::error::report(&error), "cannot hand a claim back");
        }
    }
}

fn answer_all(batch: &mut Vec<Box<dyn Operation>>, commit: Result<(), &Error>) {
    for operation in batch.drain(..) {
        operation.answer(commit);
    }
}

/// `DRYDOCK_FAIL_AT=before:N` or `after:N` kills the daemon with SIGKILL around its Nth commit. For the crash tests;
/// compiled in, so that what is tested is what is shipped.
pub(super) fn fail_point(place: &str, number: u64) {
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
