//! Workers that have nothing to do: the commit that makes tasks ready claims for them, so that no worker needs a commit of
//! its own to begin.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot::{self, Receiver, Sender};

use super::{Claim, Scope, Store, Tx};
use crate::error::Result;

/// Those who wait, the longest first.
#[derive(Default)]
pub(super) struct Idle {
    waiting: Mutex<VecDeque<(String, Sender<Claim>)>>,
}

/// A claim that is part of a transaction and of which nobody knows before the commit.
pub(super) struct Given {
    pub(super) claim: Claim,
    pub(super) to: Sender<Claim>,
}

impl Idle {
    fn join(&self, worker: &str) -> Receiver<Claim> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|(_, to)| !to.is_closed());
        waiting.push_back((worker.to_owned(), sender));
        receiver
    }

    fn next(&self) -> Option<(String, Sender<Claim>)> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| waiting.pop_front()).find(|(_, to)| !to.is_closed())
    }

    /// Claims what this transaction made ready for those who wait. Whoever is let down, because the transaction goes,
    /// wakes and looks for itself.
    pub(super) async fn give(&self, tx: &mut Tx) -> Result<Vec<Given>> {
        let mut given = Vec::new();
        while tx.has_ready()
            && let Some((worker, to)) = self.next()
        {
            let Some(claim) = tx.take(&Scope::Any, &worker).await? else { break };
            given.push(Given { claim, to });
        }
        Ok(given)
    }
}

/// A worker's place among those who have nothing to do, as long as this lives.
pub struct IdleWorker {
    claim: Receiver<Claim>,
}

impl IdleWorker {
    /// Returns when there is a claim for it, or reason to look for one.
    pub async fn called(&mut self) -> Option<Claim> {
        (&mut self.claim).await.ok()
    }

    /// Goes; a claim may have come at the last moment.
    #[must_use]
    pub fn leave(mut self) -> Option<Claim> {
        self.claim.close();
        self.claim.try_recv().ok()
    }
}

impl Store {
    /// Has the next commit that makes a task ready claim it for this worker.
    #[must_use]
    pub fn wait_for_work(&self, worker: &str) -> IdleWorker {
        IdleWorker { claim: self.idle().join(worker) }
    }

    fn idle(&self) -> &Arc<Idle> {
        &self.inner.idle
    }
}
