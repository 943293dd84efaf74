//! A step that was planned on what somebody else has changed meanwhile is taken again at once, and has not failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use drydock::clock::ManualClock;
use drydock::error::{Error, Reason, Result};
use drydock::model::id::Subject;
use drydock::scheduler::{Scheduler, Settings, Steps};
use drydock::store::{Baton, Claim, Committed, ListQuery, Location, Next, Scope, Store};
use tokio_util::sync::CancellationToken;

use super::kit::{NOON, eventually, folder};
use crate::store::ground::lease;

/// How often the step comes too late.
const OVERTAKEN: usize = 5;

struct TooLate {
    store: Store,
    taken: AtomicUsize,
    stumbled: AtomicUsize,
}

#[async_trait]
impl Steps for TooLate {
    async fn step(&self, claim: &Claim, next: Option<Scope>, _lost: CancellationToken) -> Result<Committed> {
        if self.taken.fetch_add(1, Ordering::SeqCst) < OVERTAKEN {
            return Err(Error::new(Reason::EtagMismatch, "the slot box/0 was taken meanwhile"));
        }
        self.store.commit_step(claim, next, |_| Box::pin(async { Ok((Next::Done, Baton::Pass)) })).await
    }

    async fn stumble(&self, _claim: &Claim, _error: &str, _panicked: bool) -> Result<()> {
        self.stumbled.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn poisoned(&self, _subject: &Subject) -> Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_was_overtaken_is_taken_again_and_has_not_failed() {
    let folder = folder();
    let location = Location::Sqlite { path: folder.path().join("drydock.db") };
    let store = Store::open(&location, ManualClock::at(NOON)).await.unwrap();
    let (taken, stumbled) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let steps = Arc::new(TooLate { store: store.clone(), taken, stumbled });
    let settings = Settings { workers: 1, sweep: false, daemon: "daemon_x".to_owned() };
    let scheduler = Scheduler::start(store.clone(), steps.clone(), &settings).await.unwrap();
    store.write(|tx| Box::pin(async move { tx.insert_lease(&lease()).await })).await.unwrap();
    eventually("the step is done, or has failed", async || {
        let left = store.list_tasks(&ListQuery { limit: 9, ..ListQuery::default() }).await.unwrap();
        (left.is_empty() || steps.stumbled.load(Ordering::SeqCst) > 0).then_some(())
    })
    .await;
    assert_eq!((steps.taken.load(Ordering::SeqCst), steps.stumbled.load(Ordering::SeqCst)), (OVERTAKEN + 1, 0));
    scheduler.stop();
    scheduler.stopped().await;
}
