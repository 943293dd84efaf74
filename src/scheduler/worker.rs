//! The loop of a worker, the loop of a caller that drives its own lease, and the keeping of a claim.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{Scheduler, taken};
use crate::clock::{Micros, span};
use crate::error::{Error, Reason, Result, report};
use crate::model::id::LeaseId;
use crate::store::{Claim, Committed, Scope, claim_length};

/// How the error of a step that panicked begins.
const PANICKED: &str = "the step panicked";

/// A worker: steps until the scheduler stops, idle only when nothing is ready anywhere.
pub(super) async fn work(scheduler: Arc<Scheduler>, name: String) {
    let mut next = None;
    while !scheduler.stop.is_cancelled() {
        let claim = match next.take() {
            Some(claim) => Some(claim),
            None => find(&scheduler, &name).await,
        };
        if let Some(claim) = claim {
            next = run_one(&scheduler, &claim, || (!scheduler.stop.is_cancelled()).then_some(Scope::Any)).await;
        }
    }
    if let Some(claim) = next {
        hand_back(&scheduler, &claim).await;
    }
}

/// Scans, then idles; `None` when it is time to scan again. Who is busy does not listen: a ring goes to one that waits.
async fn find(scheduler: &Scheduler, name: &str) -> Option<Claim> {
    let scanned = {
        // Subscribed before the scan: what becomes ready after it rings. A ring that is not used goes on to another.
        let ready = scheduler.bell.ready();
        tokio::pin!(ready);
        ready.as_mut().enable();
        match scheduler.store.claim(&Scope::Any, name).await {
            Ok(None) => {
                let mut idle = scheduler.store.wait_for_work(name);
                return tokio::select! {
                    biased;
                    claim = idle.called() => claim,
                    () = ready => {
                        let claim = idle.leave();
                        if claim.is_some() {
                            // Called twice, for two tasks: another worker looks for the other one.
                            scheduler.bell.ring_one();
                        }
                        claim
                    }
                    () = scheduler.stop.cancelled() => idle.leave(),
                };
            }
            scanned => scanned,
        }
    };
    match scanned {
        Ok(claim) => claim,
        Err(error) => {
            pause(scheduler, &error).await;
            None
        }
    }
}

/// A caller that works for its own lease.
pub(super) async fn drive<F, Fut>(
    scheduler: Arc<Scheduler>,
    name: String,
    root: LeaseId,
    reached: F,
    patience: Micros,
    left: CancellationToken,
) -> Result<()>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<bool>> + Send + 'static,
{
    let clock = Arc::clone(scheduler.store.clock());
    let scope = Scope::Root(root.clone());
    let watched = scheduler.bell.watch(root);
    let over = || left.is_cancelled() || scheduler.stop.is_cancelled() || clock.now() >= patience;
    let mut next: Option<Claim> = None;
    loop {
        let changed = watched.changed();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let done = over() || reached().await.unwrap_or(true);
        if done {
            if let Some(claim) = next {
                hand_back(&scheduler, &claim).await;
            }
            return Ok(());
        }
        let claim = match next.take() {
            Some(claim) => Some(claim),
            None => match scheduler.store.claim(&scope, &name).await {
                Ok(claim) => claim,
                Err(error) => {
                    pause(&scheduler, &error).await;
                    continue;
                }
            },
        };
        if let Some(claim) = claim {
            next = run_one(&scheduler, &claim, || (!over()).then(|| scope.clone())).await;
        } else {
            tokio::select! {
                () = changed => {}
                () = left.cancelled() => {}
                () = scheduler.stop.cancelled() => {}
                () = clock.sleep_until(patience) => {}
            }
        }
    }
}

/// The end of a caller's work that has been answered already.
pub(super) async fn see_to(scheduler: Arc<Scheduler>, claim: Claim, root: LeaseId) {
    let scope = Scope::Root(root);
    let mut next = Some(claim);
    while let Some(claim) = next {
        if scheduler.stop.is_cancelled() {
            return hand_back(&scheduler, &claim).await;
        }
        next = run_one(&scheduler, &claim, || (!scheduler.stop.is_cancelled()).then(|| scope.clone())).await;
    }
}

/// After a scan or a commit that failed; it is done again.
async fn pause(scheduler: &Scheduler, error: &Error) {
    tracing::error!(error = %report(error), "the database does not do it; trying again in 1 s");
    tokio::select! {
        () = a_second(scheduler) => {}
        () = scheduler.stop.cancelled() => {}
    }
}

#[expect(clippy::disallowed_methods, reason = "it waits for a server, whatever the clock of leases shows")]
async fn a_second(scheduler: &Scheduler) {
    if scheduler.store.is_shared() {
        return tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let clock = scheduler.store.clock();
    clock.sleep_until(clock.now() + 1_000_000).await;
}

/// Takes one step; answers the next claim when one was fused into the commit. Whatever is logged in it has the ids.
async fn run_one(scheduler: &Scheduler, held: &Claim, scope: impl Fn() -> Option<Scope>) -> Option<Claim> {
    take_step(scheduler, held, scope).instrument(taken::span(held)).await
}

/// Takes one step, keeping the claim meanwhile.
async fn take_step(scheduler: &Scheduler, held: &Claim, scope: impl Fn() -> Option<Scope>) -> Option<Claim> {
    let begun = scheduler.store.clock().now();
    let lost = CancellationToken::new();
    let step = async {
        // A step planned on what someone else changed meanwhile is simply taken again.
        for _ in 0..16 {
            let outcome = AssertUnwindSafe(scheduler.steps.step(held, scope(), lost.clone())).catch_unwind().await;
            match outcome {
                Ok(Err(error)) if error.reason == Reason::EtagMismatch => {}
                // The server is away; as long as the claim is ours, its step can still be written.
                Ok(Err(error)) if error.reason == Reason::StoreUnavailable && scheduler.store.is_shared() => {
                    pause(scheduler, &error).await;
                }
                Ok(outcome) => return outcome,
                Err(panic) => {
                    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
                    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
                    return Err(Error::new(Reason::Internal, format!("{PANICKED}: {text}")));
                }
            }
        }
        Err(Error::new(Reason::Internal, "the step was overtaken 16 times"))
    };
    tokio::pin!(step);
    let kept = tokio::select! {
        biased;
        outcome = &mut step => Ok(outcome),
        left = keep(scheduler, held, &lost) => Err(left),
    };
    let outcome = match kept {
        Ok(outcome) => outcome,
        // Its commit may be under way, and what that claims would be nobody's: as long as the claim is ours, it may end.
        Err(left) => {
            let Ok(outcome) = tokio::time::timeout(left, step).await else {
                taken::tell(scheduler, held, begun, &Ok(Committed::FenceLost));
                scheduler.lost.notify_one();
                return None;
            };
            outcome
        }
    };
    taken::tell(scheduler, held, begun, &outcome);
    match outcome {
        Ok(Committed::Done(next)) => next,
        Ok(Committed::FenceLost) => {
            tracing::warn!(task = %held.task, subject = %held.subject, "a claim was lost; its step left nothing");
            scheduler.lost.notify_one();
            None
        }
        Err(error) => {
            let text = report(&error);
            tracing::error!(task = %held.task, subject = %held.subject, error = %text, "a step failed");
            if let Err(error) = scheduler.steps.stumble(held, &text, text.starts_with(PANICKED)).await {
                // The claim runs out, and someone takes it over.
                tracing::error!(task = %held.task, error = %report(&error), "cannot park a failed step");
            }
            None
        }
    }
}

/// Renews the claim at a third of its length. Returns, with `lost` cancelled, when it could not be kept, and for how long
/// it surely is ours: judged by our own monotonic clock, so that a daemon that was stopped does not act on what it lost.
async fn keep(scheduler: &Scheduler, claim: &Claim, lost: &CancellationToken) -> Duration {
    let length = span(claim_length());
    // From then on it may be someone else's before we have given it up.
    let surely_ours = length * 5 / 6;
    let mut renewed = Instant::now();
    let mut ticks = tokio::time::interval_at(renewed + length / 3, length / 3);
    let left = loop {
        ticks.tick().await;
        let asked = Instant::now();
        // A database that does not answer at all must not keep us from noticing.
        let patience = surely_ours.saturating_sub(renewed.elapsed());
        match tokio::time::timeout(patience, scheduler.store.renew_claim(claim)).await {
            Ok(Ok(Some(_))) => renewed = asked,
            Ok(Ok(None)) => break Duration::ZERO,
            Ok(Err(error)) => tracing::warn!(task = %claim.task, error = %report(&error), "cannot renew a claim"),
            Err(_) => tracing::warn!(task = %claim.task, "the database does not answer; cannot renew a claim"),
        }
        if renewed.elapsed() >= surely_ours {
            break length.saturating_sub(renewed.elapsed());
        }
    };
    tracing::warn!(task = %claim.task, subject = %claim.subject, "a claim could not be kept; giving its step up");
    lost.cancel();
    left
}

/// A claim that came with the last commit and is not wanted any more goes back at once.
async fn hand_back(scheduler: &Scheduler, claim: &Claim) {
    if let Err(error) = scheduler.store.hand_back(claim).await {
        tracing::warn!(task = %claim.task, error = %report(&error), "cannot hand a claim back");
    }
}
