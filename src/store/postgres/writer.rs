//! Operations in transactions: each in one of its own, several at a time, run again when they met others.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::Instant;

use super::session::{self, Session};
use super::tidings::Tidings;
use super::wire::Wires;
use super::{Readers, failure, pause};
use crate::clock::SharedClock;
use crate::error::{Error, Reason, Result, report};
use crate::metrics::Metrics;
use crate::store::count::Meter;
use crate::store::idle::{Given, Idle};
use crate::store::tx::{Opening, Trouble, Tx};
use crate::store::writer::{COMMITS, Operation, Ran, fail_point, operation};
use crate::store::{Claim, News};

/// Runs of an operation that goes on meeting others.
const RUNS: u32 = 60;
/// Runs of an operation whose connections are lost.
const CONNECTIONS: u32 = 5;
/// No operation begins again after this.
const PATIENCE: Duration = Duration::from_secs(10);
/// No operation begins again after this on yet another connection: they are not lost, the database is.
const PATIENCE_WHEN_LOST: Duration = Duration::from_secs(5);

/// What runs operations.
#[derive(Clone)]
pub(in crate::store) struct Writer {
    pub(super) wires: Wires,
    pub(super) aside: Readers,
    pub(super) clock: SharedClock,
    pub(super) news: broadcast::Sender<Arc<News>>,
    pub(super) idle: Arc<Idle>,
    pub(super) count: Arc<AtomicU64>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tidings: Arc<Tidings>,
    pub(super) home: Arc<str>,
}

/// How a run ended.
enum End {
    Answered,
    Again(Trouble, Box<dyn Operation>, Option<Error>),
}

impl Writer {
    /// Begins an operation; a run of it goes on when its caller leaves, and is the last one then.
    pub(in crate::store) fn begin(self: &Arc<Self>, operation: Box<dyn Operation>) {
        tokio::spawn(Arc::clone(self).serve(operation));
    }

    /// Connections that no transaction stands in line with.
    pub(in crate::store) fn aside(&self) -> &Readers {
        &self.aside
    }

    /// See [`crate::store::Store::look_around`].
    pub(in crate::store) fn look_around(&self) {
        self.tidings.look_around();
    }

    async fn serve(self: Arc<Self>, mut operation: Box<dyn Operation>) {
        let begun = Instant::now();
        let (mut met, mut lost) = (0_u32, 0_u32);
        loop {
            let patience = if lost == 0 { PATIENCE } else { PATIENCE_WHEN_LOST };
            let is_last = met + 1 >= RUNS || lost + 1 >= CONNECTIONS || begun.elapsed() > patience;
            // Longer each time: a lock that is merely slow in coming is got in the end.
            let patience = (session::PATIENCE * (met + 1)).min(Duration::from_secs(3));
            let (trouble, again, error) = match self.run(operation, patience).await {
                End::Answered => return,
                End::Again(trouble, again, error) => (trouble, again, error),
            };
            if is_last {
                // Without an error of the transaction it answers its own.
                again.answer(error.as_ref().map_or(Ok(()), Err));
                return;
            }
            operation = again;
            let ceiling = match trouble {
                Trouble::Met => {
                    met += 1;
                    2_u64 << met.min(5)
                }
                Trouble::Lost => {
                    lost += 1;
                    50_u64 << lost
                }
            };
            pause(Duration::from_micros(fastrand::u64(..ceiling * 1000))).await;
        }
    }

    /// Runs an operation in a transaction.
    async fn run(&self, mut operation: Box<dyn Operation>, patience: Duration) -> End {
        let wire = match self.wires.take().await {
            Ok(wire) => wire,
            Err(error) => return end(failure::trouble(&error), operation, failure::failed(error)),
        };
        // Who asks again because it took too long here must not stand in its own way.
        if !operation.is_awaited() {
            return End::Answered;
        }
        let meter = Meter::start(&self.metrics, 1);
        let session = Session::new(wire, Arc::clone(&self.count), Arc::clone(&self.home), patience);
        let session = session.knowing(Arc::clone(&self.tidings.low_water));
        let mut tx = Tx::new(Box::new(session), Arc::clone(&self.clock));
        if let Err(error) = tx.begin(operation.opening()).await {
            return end(tx.trouble(), operation, error);
        }
        if operation.run(&mut tx).await != Ran::Done {
            tx.rollback().await;
            if let Some(trouble) = tx.trouble() {
                return End::Again(trouble, operation, None);
            }
            operation.answer(Ok(()));
            return End::Answered;
        }
        if !tx.has_written_at_all() {
            tx.rollback().await;
            operation.answer(Ok(()));
            return End::Answered;
        }
        match self.commit(&mut tx).await {
            Ok((told, given)) => {
                drop(tx);
                meter.stop(Some(&told));
                operation.answer(Ok(()));
                self.announce(told, given);
                End::Answered
            }
            Err(error) => {
                tx.rollback().await;
                end(tx.trouble(), operation, error)
            }
        }
    }

    async fn commit(&self, tx: &mut Tx) -> Result<(News, Vec<Given>)> {
        let given = self.idle.give(tx).await?;
        let number = COMMITS.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
        fail_point("before", number);
        let told = tx.commit().await?;
        fail_point("after", number);
        Ok((told, given))
    }

    /// Tells our own workers at once, others soon, and watchers when it is their turn.
    fn announce(&self, mut told: News, given: Vec<Given>) {
        let events = !std::mem::take(&mut told.events).is_empty();
        let moved = told.ready > 0 || told.timer.is_some();
        if events || moved {
            self.tidings.committed(events, told.level.filter(|_| told.ready > 0));
        }
        if moved {
            // Nobody may be listening; that is fine.
            let _ = self.news.send(Arc::new(told));
        }
        for Given { claim, to } in given {
            if let Err(claim) = to.send(claim) {
                // Its worker has just left.
                self.give_back(claim);
            }
        }
    }

    fn give_back(&self, claim: Claim) {
        let (again, answer) = operation(Opening::Plain, move |tx| {
            let claim = claim.clone();
            Box::pin(async move { tx.hand_back(&claim).await })
        });
        let writer = Arc::new(self.clone());
        tokio::spawn(async move {
            writer.serve(again).await;
            if let Ok(Err(error)) = answer.await {
                // It runs out, and someone takes it over.
                tracing::warn!(error = %report(&error), "cannot hand a claim back");
            }
        });
    }
}

/// The transaction itself failed.
fn end(trouble: Option<Trouble>, operation: Box<dyn Operation>, error: Error) -> End {
    if let Some(trouble) = trouble {
        let busy = "the database is too busy with the same things; nothing was written; try again";
        let error =
            if trouble == Trouble::Met { Error::new(Reason::StoreUnavailable, busy).because(error) } else { error };
        return End::Again(trouble, operation, Some(error));
    }
    operation.answer(Err(&error));
    End::Answered
}
