//! Steps that run in this daemon, so that those nobody wants any more can be told; and the follower of the news that
//! tells them, and ends what goes through leases that have ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::Engine;
use crate::model::id::{LeaseId, TaskId};
use crate::store::{Claim, News};

/// Steps of blueprints that run here.
#[derive(Debug, Default)]
pub(super) struct Running {
    steps: Mutex<BTreeMap<TaskId, (Option<LeaseId>, CancellationToken)>>,
}

/// A step that runs, as long as this lives.
pub(super) struct RunningStep<'r> {
    running: &'r Running,
    task: TaskId,
    pub(super) cancel: CancellationToken,
}

impl Running {
    /// Notes a step that builds something for the tree of its root; its token is a child of `lost`.
    pub(super) fn begin(&self, claim: &Claim, lost: &CancellationToken) -> RunningStep<'_> {
        let cancel = lost.child_token();
        let entry = (claim.root.clone(), cancel.clone());
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).insert(claim.task.clone(), entry);
        RunningStep { running: self, task: claim.task.clone(), cancel }
    }

    /// The root has ended: nobody wants what is built for it.
    fn cancel_root(&self, root: &LeaseId) {
        for (of, cancel) in self.steps.lock().unwrap_or_else(PoisonError::into_inner).values() {
            if of.as_ref() == Some(root) {
                cancel.cancel();
            }
        }
    }

    pub(super) fn cancel_all(&self) {
        for (_, cancel) in self.steps.lock().unwrap_or_else(PoisonError::into_inner).values() {
            cancel.cancel();
        }
    }
}

impl Drop for RunningStep<'_> {
    fn drop(&mut self) {
        self.running.steps.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.task);
    }
}

/// Follows the news until the engine stops.
pub(super) async fn follow(engine: Arc<Engine>, mut news: Receiver<Arc<News>>) {
    loop {
        let told = tokio::select! {
            told = news.recv() => told,
            () = engine.stop.cancelled() => return,
        };
        match told {
            Ok(told) => {
                for event in &told.events {
                    super::log::event(event);
                    if matches!(event.kind.as_str(), "lease.released" | "lease.broken" | "lease.destroyed")
                        && let Some(id) = event.subjects.first().and_then(|id| LeaseId::parse(id))
                    {
                        engine.end_token(&id);
                        engine.running.cancel_root(&id);
                    }
                }
            }
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "the follower of the news fell behind; looking at all open leases");
                engine.end_tokens_of_ended_leases().await;
            }
            Err(RecvError::Closed) => return,
        }
    }
}

impl Engine {
    async fn end_tokens_of_ended_leases(&self) {
        let open: Vec<LeaseId> = self.open.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        for id in open {
            if self.active_lease(&id).await.is_err() {
                self.end_token(&id);
                self.running.cancel_root(&id);
            }
        }
    }
}
