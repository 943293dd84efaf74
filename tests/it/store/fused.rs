//! What shares a commit with what causes it: claims for workers that have nothing to do, and steps taken along.

use std::sync::Arc;

use async_trait::async_trait;
use drydock::error::{Error, Reason, Result};
use drydock::model::id::Subject;
use drydock::model::{Lease, LeaseState, TaskState};
use drydock::store::{Along, Baton, Claim, Committed, Next, Scope, Tx};

use super::ground::{Ground, lease};
use crate::queue::kit::NOON;

/// Has a step for this subject, which goes so.
struct OneStep(Subject, bool);

#[async_trait]
impl Along for OneStep {
    async fn takes(&self, _tx: &mut Tx, subject: &Subject) -> Result<bool> {
        Ok(*subject == self.0)
    }

    async fn step(&self, tx: &mut Tx, claim: &Claim) -> Result<(Next, Baton)> {
        let Subject::Lease(id) = &claim.subject else { return Ok((Next::Again, Baton::Pass)) };
        let before = tx.get_lease(id).await?;
        tx.put_lease(&before, &Lease { state: LeaseState::Released, ..before.clone() }).await?;
        if self.1 { Ok((Next::Done, Baton::Pass)) } else { Err(Error::new(Reason::Internal, "no")) }
    }
}

/// Two leases of which the first one's step is committed, and how that went.
async fn commit(ground: &Ground, works: bool) -> (Claim, Lease, Committed) {
    let (first, second) = (ground.insert(&lease()).await, ground.insert(&Lease { ord: NOON + 1, ..lease() }).await);
    ground.store.take_along(Arc::new(OneStep(second.id.clone().into(), works)));
    let claim = ground.claim_of(first.id.clone()).await;
    let second_id = second.id.clone();
    let committed = ground
        .store
        .commit_step(&claim, Some(Scope::Any), move |tx| {
            let second = second_id.clone();
            Box::pin(async move {
                tx.nudge(second).await?;
                Ok((Next::Done, Baton::Pass))
            })
        })
        .await
        .unwrap();
    (claim, second, committed)
}

pub(super) async fn a_step_that_needs_only_the_transaction_is_taken_along(ground: Ground) {
    let third = ground.insert(&Lease { ord: NOON + 2, ..lease() }).await;
    let (claim, second, committed) = commit(&ground, true).await;
    let Committed::Done(Some(next)) = committed else { panic!("there is a third task") };
    assert_eq!(next.subject, third.id.into());
    assert_eq!(ground.task(&claim.task).await.state, TaskState::Done);
    assert_eq!(ground.store.find_lease(&second.id).await.unwrap().unwrap().state, LeaseState::Released);
}

pub(super) async fn a_step_that_fails_along_spoils_no_other(ground: Ground) {
    let (claim, second, committed) = commit(&ground, false).await;
    let Committed::Done(Some(next)) = committed else { panic!("the second task is left to the worker") };
    assert_eq!(next.subject, second.id.clone().into());
    assert_eq!(ground.task(&claim.task).await.state, TaskState::Done);
    assert_eq!(ground.store.find_lease(&second.id).await.unwrap().unwrap().state, LeaseState::Pending);
}

pub(super) async fn a_commit_claims_for_who_has_nothing_to_do(ground: Ground) {
    let gone = ground.store.wait_for_work("daemon/w1");
    assert_eq!(gone.leave(), None);
    let mut idle = ground.store.wait_for_work("daemon/w2");
    let mut news = ground.store.news();
    let lease = ground.insert(&lease()).await;
    let claim = idle.called().await.unwrap();
    assert_eq!((&claim.subject, claim.worker.as_str()), (&lease.id.clone().into(), "daemon/w2"));
    assert!(ground.claim().await.is_none());
    let ready = std::iter::from_fn(|| news.try_recv().ok()).map(|told| told.ready).sum::<u32>();
    assert_eq!(ready, 0, "nobody else is told");
    assert!(matches!(ground.settle(&claim, Next::Again).await, Committed::Done(None)));
    assert!(ground.claim().await.is_some());
}
