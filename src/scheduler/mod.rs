//! Who runs a task, and when. Knows nothing of what a task means: [`Steps`] does.
//!
//! A worker never waits for another's work: it claims the best ready task, takes one step, and the commit of that step
//! hands it the next. When nothing is ready it idles on the [`Bell`]. [`Scheduler::drive`] is the same loop for one tree: the
//! caller that waits for its lease is a worker for it, so that a lease gets on even when all workers are busy.
//! A slow sweep exists for what no wake can tell, a dead daemon's claims, and for nothing else.

mod bell;
mod taken;
mod timers;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use bell::Bell;

use crate::error::Result;
use crate::model::id::{LeaseId, Subject};
use crate::store::{Claim, Committed, Scope, Store};

/// Calls that leave work behind at a time.
const SEATS: usize = 64;

/// What a step of a task does.
#[async_trait]
pub trait Steps: Send + Sync + 'static {
    /// Takes the next step of the claimed task and commits it, claiming the next task of `next` in the same
    /// transaction. `lost` is cancelled when the claim could not be kept: give up without external effects.
    ///
    /// # Errors
    /// Whatever kept the step from being committed; the claim is still held then, and the scheduler decides.
    async fn step(&self, claim: &Claim, next: Option<Scope>, lost: CancellationToken) -> Result<Committed>;

    /// Parks a task whose step failed before it could be committed, to be tried again later. One that goes on panicking
    /// breaks its subject.
    ///
    /// # Errors
    /// When not even that can be written.
    async fn stumble(&self, claim: &Claim, error: &str, panicked: bool) -> Result<()>;

    /// A task has killed its daemon too often: breaks its subject.
    ///
    /// # Errors
    /// When that cannot be written.
    async fn poisoned(&self, subject: &Subject) -> Result<()>;
}

/// Workers, timers and the sweep of one daemon.
pub struct Scheduler {
    store: Store,
    steps: Arc<dyn Steps>,
    bell: Arc<Bell>,
    daemon: String,
    running: TaskTracker,
    stop: CancellationToken,
    drivers: AtomicU64,
    seats: Arc<Semaphore>,
    /// A claim was lost: this daemon lives all the same.
    lost: Notify,
}

/// See [`Scheduler::seat`].
pub struct Seat {
    scheduler: Arc<Scheduler>,
    permit: OwnedSemaphorePermit,
}

impl Seat {
    /// Makes a commit that may answer a claim, and answers what it did as soon as it is durable. Then takes the step of the
    /// claim, and those of its tree that come with the commits of these. What then is left is for workers: nobody waits
    /// here. A caller that leaves, at whatever moment, takes no claim with it.
    ///
    /// # Errors
    /// What `commit` says.
    pub async fn commit<T: Send + 'static>(
        self,
        root: LeaseId,
        commit: impl Future<Output = Result<(T, Option<Claim>)>> + Send + 'static,
    ) -> Result<T> {
        let Self { scheduler, permit } = self;
        let (answer, answered) = oneshot::channel();
        let worker = Arc::clone(&scheduler);
        scheduler.spawn(async move {
            let (outcome, claim) = match commit.await {
                Ok((value, claim)) => (Ok(value), claim),
                Err(error) => (Err(error), None),
            };
            // The caller may have left: then nobody wants the answer, and the commit stands.
            let _ = answer.send(outcome);
            if let Some(claim) = claim {
                worker::see_to(worker, claim, root).await;
            }
            drop(permit);
        });
        answered.await.map_err(|error| crate::error::Error::internal("a commit was broken off", error))?
    }
}

/// How it runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Workers; 0 leaves all work to those who drive their own leases.
    pub workers: usize,
    /// The sweep; only tests switch it off.
    pub sweep: bool,
    /// The daemon's id, for claims.
    pub daemon: String,
}

impl Scheduler {
    /// Takes over what a dead daemon left, then starts workers and timers.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn start(store: Store, steps: Arc<dyn Steps>, settings: &Settings) -> Result<Arc<Self>> {
        let bell = Arc::new(Bell::default());
        let scheduler = Arc::new(Self {
            store,
            steps,
            bell,
            daemon: settings.daemon.clone(),
            running: TaskTracker::new(),
            stop: CancellationToken::new(),
            drivers: AtomicU64::new(0),
            seats: Arc::new(Semaphore::new(SEATS)),
            lost: Notify::new(),
        });
        scheduler.spawn(bell::ring(Arc::clone(&scheduler.bell), scheduler.store.news(), scheduler.stop.clone()));
        // On one file there is one daemon: whoever held a claim is dead. Among several it must have run out.
        let reaped = scheduler.store.reap(!scheduler.store.is_shared()).await?;
        for subject in &reaped.poisoned {
            scheduler.steps.poisoned(subject).await?;
        }
        if reaped.returned > 0 {
            tracing::info!(claims = reaped.returned, "took over the claims of a dead daemon");
        }
        scheduler.spawn(timers::pump(Arc::clone(&scheduler)));
        if settings.sweep {
            scheduler.spawn(timers::sweep(Arc::clone(&scheduler)));
        }
        for number in 0..settings.workers {
            scheduler.spawn(worker::work(Arc::clone(&scheduler), format!("{}/w{number}", settings.daemon)));
        }
        Ok(scheduler)
    }

    /// Works on this lease's tree until `reached` says so or `patience` is over. Dropping the future ends the
    /// waiting, never a step half-way.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn drive<F, Fut>(
        self: &Arc<Self>,
        root: LeaseId,
        reached: F,
        patience: crate::clock::Micros,
    ) -> Result<()>
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<bool>> + Send + 'static,
    {
        let number = self.drivers.fetch_add(1, Ordering::Relaxed);
        let left = CancellationToken::new();
        let _leave = left.clone().drop_guard();
        let name = format!("{}/c{number}", self.daemon);
        let driver = worker::drive(Arc::clone(self), name, root, reached, patience, left);
        tokio::select! {
            biased;
            outcome = self.running.spawn(driver) => match outcome {
                Ok(outcome) => outcome,
                Err(error) => Err(crate::error::Error::internal("the driver of a lease failed", error)),
            },
            // In the middle of a step, which it takes to its end: the caller said how long it waits.
            () = self.store.clock().sleep_until(patience) => Ok(()),
        }
    }

    /// A place for work that a call leaves behind; `None` when there are many already, or when the scheduler stops: then
    /// workers do it.
    pub fn seat(self: &Arc<Self>) -> Option<Seat> {
        let permit = Arc::clone(&self.seats).try_acquire_owned().ok().filter(|_| !self.stop.is_cancelled())?;
        Some(Seat { scheduler: Arc::clone(self), permit })
    }

    /// Takes no new tasks; steps that run go on, and what they leave goes back to the queue.
    pub fn stop(&self) {
        self.stop.cancel();
        self.running.close();
    }

    /// Returns when all steps have ended.
    pub async fn stopped(&self) {
        self.running.wait().await;
    }

    /// Who rings when something becomes ready.
    #[must_use]
    pub fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    fn spawn<F: Future<Output = ()> + Send + 'static>(&self, future: F) {
        self.running.spawn(future);
    }
}
