//! The store's queue on `PostgreSQL`, worked through by the real scheduler with steps that do next to nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use drydock::clock::{Clock as _, HeardClock, SystemClock};
use drydock::model::id::Subject;
use drydock::model::{NewEvent, StringMap};
use drydock::scheduler::{Scheduler, Settings, Steps};
use drydock::store::{Baton, Claim, Committed, Location, Next, Remote, Scope, Store};
use sqlx::postgres::PgConnection;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::server::{connect, run};
use crate::daemon::PATIENCE;
use crate::figures::{number, pause};

/// As many as there are workers on the other side.
pub(crate) const WORKERS: usize = 8;

/// Opens a database as a daemon does, and brings it to this version.
pub(crate) async fn open(url: &str, notify: bool) -> Result<Store> {
    let remote = Remote { notify, ..Remote::at(url) };
    Ok(Store::open(&Location::Postgres(remote), HeardClock::at(SystemClock.now())).await?)
}

/// Tasks of leases, each the root of its tree, in place of all that there were.
pub(crate) async fn fill(url: &str, count: usize, state: &str) -> Result<()> {
    let mut connection = connect(url).await?;
    run(&mut connection, "TRUNCATE task, wait, event".to_owned()).await?;
    tasks(&mut connection, "d", count, state).await?;
    run(&mut connection, "ANALYZE task; CHECKPOINT".to_owned()).await
}

/// More tasks; the letter tells them from others.
pub(crate) async fn tasks(connection: &mut PgConnection, letter: &str, count: usize, state: &str) -> Result<()> {
    let text = format!(
        "INSERT INTO task (id, subject, root_id, state, band, ord, depth, attempt, signal, crashes, failures, last_error) \
         SELECT 'task_01' || id, 'lease_01' || id, 'lease_01' || id, '{state}', 1, i, 0, 0, 0, 0, 0, '' \
         FROM (SELECT i, '{letter}' || lpad(i::text, 23, '0') AS id FROM generate_series(1, {count}) i) s"
    );
    run(connection, text).await
}

/// What a step does besides ending its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Nothing,
    /// Writes an event, as real steps do.
    Tells,
    /// Keeps its worker so long.
    Holds(Duration),
}

/// Steps that end their task.
pub(crate) struct Ends {
    store: Store,
    work: Work,
    taken: AtomicU64,
    /// How many have begun, and when the last of them did.
    begun: watch::Sender<(u64, Instant)>,
}

#[async_trait]
impl Steps for Ends {
    async fn step(
        &self,
        claim: &Claim,
        next: Option<Scope>,
        _lost: CancellationToken,
    ) -> drydock::error::Result<Committed> {
        self.begun.send_modify(|(count, at)| (*count, *at) = (*count + 1, Instant::now()));
        if let Work::Holds(span) = self.work {
            pause(span).await;
        }
        let (tells, subject, root_id) = (self.work == Work::Tells, claim.subject.to_string(), claim.root.clone());
        let committed = self.store.commit_step(claim, next, move |tx| {
            let (subject, root_id) = (subject.clone(), root_id.clone());
            Box::pin(async move {
                if tells {
                    let event = NewEvent {
                        kind: "lease.activated",
                        reason: String::new(),
                        message: "it is set up and can be used".to_owned(),
                        actor: "drydock".to_owned(),
                        subjects: vec![subject],
                        root_id,
                        owner: "bench".to_owned(),
                        details: StringMap::new(),
                    };
                    tx.event(event).await?;
                }
                Ok((Next::Done, Baton::Pass))
            })
        });
        let committed = committed.await?;
        self.taken.fetch_add(1, Ordering::Relaxed);
        Ok(committed)
    }

    async fn stumble(&self, _claim: &Claim, _error: &str, _panicked: bool) -> drydock::error::Result<()> {
        Ok(())
    }

    async fn poisoned(&self, _subject: &Subject) -> drydock::error::Result<()> {
        Ok(())
    }
}

/// The workers of a daemon.
pub(crate) struct Workers {
    steps: Arc<Ends>,
    scheduler: Arc<Scheduler>,
}

impl Workers {
    pub(crate) async fn start(store: &Store, work: Work, count: usize, daemon: &str) -> Result<Self> {
        let begun = watch::Sender::new((0, Instant::now()));
        let steps = Arc::new(Ends { store: store.clone(), work, taken: AtomicU64::new(0), begun });
        let settings = Settings { workers: count, sweep: true, daemon: daemon.to_owned() };
        let scheduler = Scheduler::start(store.clone(), Arc::clone(&steps) as Arc<dyn Steps>, &settings).await?;
        Ok(Self { steps, scheduler })
    }

    /// Steps so far.
    pub(crate) fn taken(&self) -> u64 {
        self.steps.taken.load(Ordering::Relaxed)
    }

    /// When that many had begun.
    pub(crate) async fn began(&self, count: u64) -> Result<Instant> {
        let mut begun = self.steps.begun.subscribe();
        let seen = timeout(PATIENCE, begun.wait_for(|(so_far, _)| *so_far >= count)).await;
        let (_, at) = *seen.context("a step does not begin")??;
        Ok(at)
    }

    pub(crate) async fn stop(self) {
        self.scheduler.stop();
        self.scheduler.stopped().await;
    }
}

/// Workers for a while: steps a second.
pub(crate) async fn steps_a_second(store: &Store, work: Work, span: Duration) -> Result<f64> {
    let workers = Workers::start(store, work, WORKERS, "daemon_bench").await?;
    let (started, before) = (Instant::now(), workers.taken());
    pause(span).await;
    let rate = number(workers.taken() - before) / started.elapsed().as_secs_f64();
    workers.stop().await;
    Ok(rate)
}
