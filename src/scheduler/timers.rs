//! Timers of parked tasks, and the sweep.

use std::sync::Arc;
use std::time::Duration;

use super::Scheduler;
use crate::clock::{Micros, micros};

/// Moves parked tasks into the queue when their time has come. Asleep between timers: no polling.
pub(super) async fn pump(scheduler: Arc<Scheduler>) {
    let clock = Arc::clone(scheduler.store.clock());
    let mut next: Option<Micros> = fire(&scheduler).await;
    loop {
        let rung = scheduler.bell.timer();
        tokio::pin!(rung);
        rung.as_mut().enable();
        if let Some(earlier) = scheduler.bell.take_earliest() {
            next = Some(next.map_or(earlier, |at| at.min(earlier)));
        }
        tokio::select! {
            biased;
            () = rung => {}
            () = clock.sleep_until(next.unwrap_or(Micros::MAX)), if next.is_some() => next = fire(&scheduler).await,
            () = scheduler.stop.cancelled() => return,
        }
    }
}

async fn fire(scheduler: &Scheduler) -> Option<Micros> {
    match scheduler.store.fire_timers().await {
        Ok(next) => next,
        Err(error) => {
            tracing::error!(error = %crate::error::report(&error), "cannot fire timers; trying again in 5 s");
            Some(scheduler.store.clock().now() + micros(Duration::from_secs(5)))
        }
    }
}

/// Every 5 s or so, claims that nobody renews go back to the queue, and what other daemons made ready is seen though they did
/// not tell.
pub(super) async fn sweep(scheduler: Arc<Scheduler>) {
    let clock = Arc::clone(scheduler.store.clock());
    loop {
        let pause = Duration::from_millis(4_000 + fastrand::u64(..2_000));
        tokio::select! {
            () = clock.sleep_until(clock.now() + micros(pause)) => {}
            // Others may take us for dead: they are told before we may really be.
            () = scheduler.lost.notified() => {}
            () = scheduler.stop.cancelled() => return,
        }
        scheduler.store.look_around();
        if let Err(error) = round(&scheduler).await {
            tracing::error!(error = %crate::error::report(&error), "the sweep failed; trying again");
        }
    }
}

async fn round(scheduler: &Scheduler) -> crate::error::Result<()> {
    if !scheduler.store.has_lapses(&scheduler.daemon).await? {
        return Ok(());
    }
    let reaped = scheduler.store.sweep(&scheduler.daemon).await?;
    for subject in &reaped.poisoned {
        tracing::error!(%subject, "a task has killed its daemon too often; its subject breaks");
        scheduler.steps.poisoned(subject).await?;
    }
    Ok(())
}
