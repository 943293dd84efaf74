//! Claims: their order, their fence, their end.

use std::time::Duration;

use drydock::error::{Error, Reason};
use drydock::model::id::TaskId;
use drydock::model::task::{MAX_CRASHES, MAX_DEATHS};
use drydock::model::{Lease, LeaseState, TaskState};
use drydock::store::{Baton, CLAIM_LENGTH, Claim, Committed, Next, Scope, Wait};
use futures::future::join_all;

use super::ground::{Ground, lease};
use crate::queue::kit::NOON;

pub(super) async fn the_order_is_band_then_ord_then_depth_then_id(ground: Ground) {
    let at = |ord: i64, depth: i64| Lease { ord: NOON + ord, depth, ..lease() };
    let young = ground.insert(&at(2, 9)).await;
    let shallow = ground.insert(&at(1, 0)).await;
    let deep = ground.insert(&at(1, 3)).await;
    let deep_too = ground.insert(&at(1, 3)).await;
    let oldest = ground.insert(&at(0, 0)).await;
    let ending = ground.insert(&at(7, 0)).await;
    ground.become_(&ending, LeaseState::Released).await;
    let (deep, deep_too) = {
        let of = async |lease: &Lease| (ground.task_of(lease.id.clone()).await.id.to_string(), lease.id.clone());
        let (one, two) = (of(&deep).await, of(&deep_too).await);
        if one.0 < two.0 { (one.1, two.1) } else { (two.1, one.1) }
    };
    for expected in [ending.id, oldest.id, deep, deep_too, shallow.id, young.id] {
        assert_eq!(ground.claim().await.unwrap().subject.as_str(), expected.as_str());
    }
    assert!(ground.claim().await.is_none());
}

pub(super) async fn a_task_is_claimed_once(ground: Ground) {
    for _ in 0..10 {
        ground.insert(&lease()).await;
    }
    let claims = join_all((0..40).map(|_| ground.claim())).await;
    let mut held: Vec<TaskId> = claims.into_iter().flatten().map(|claim| claim.task).collect();
    held.sort();
    held.dedup();
    assert_eq!(held.len(), 10);
}

pub(super) async fn a_claim_of_a_tree_reaches_what_the_tree_waits_for(ground: Ground) {
    let root = ground.insert(&lease()).await;
    let far = ground.insert(&lease()).await;
    let farther = ground.insert(&lease()).await;
    ground.insert(&lease()).await;
    ground.park(&root, vec![Wait::Lease(far.id.clone(), LeaseState::Pending)]).await;
    ground.park(&far, vec![Wait::Lease(farther.id.clone(), LeaseState::Pending)]).await;
    let scope = Scope::Root(root.id.clone());
    let claim = ground.store.claim(&scope, "daemon/c0").await.unwrap().unwrap();
    assert_eq!(claim.subject.as_str(), farther.id.as_str());
    assert!(ground.store.claim(&scope, "daemon/c0").await.unwrap().is_none(), "strangers are not its work");
}

pub(super) async fn a_claim_that_is_renewed_does_not_lapse(ground: Ground) {
    ground.insert(&lease()).await;
    let claim = ground.claim().await.unwrap();
    assert_eq!(claim.until, NOON + CLAIM_LENGTH);
    ground.clock.advance(Duration::from_secs(20));
    let renewed = ground.store.renew_claim(&claim).await.unwrap();
    assert_eq!(renewed, Some(NOON + 20_000_000 + CLAIM_LENGTH));
    ground.clock.advance(Duration::from_secs(20));
    assert!(!ground.store.has_lapses("daemon").await.unwrap());
    assert_eq!(ground.store.reap(false).await.unwrap().returned, 0);
    assert_eq!(ground.settle(&claim, Next::Again).await, Committed::Done(None));
}

pub(super) async fn a_lapsed_claim_goes_back_and_its_step_leaves_nothing(ground: Ground) {
    ground.insert(&lease()).await;
    let stale = ground.claim().await.unwrap();
    ground.clock.advance(Duration::from_secs(31));
    assert!(ground.store.has_lapses("daemon").await.unwrap());
    assert_eq!(ground.store.reap(false).await.unwrap().returned, 1);
    assert_eq!(ground.store.renew_claim(&stale).await.unwrap(), None);
    assert_eq!(ground.settle(&stale, Next::Done).await, Committed::FenceLost);
    ground.store.hand_back(&stale).await.unwrap();
    let fresh = ground.claim().await.unwrap();
    assert_eq!((fresh.task.clone(), fresh.attempt), (stale.task.clone(), stale.attempt + 1));
    assert_eq!((stale.lapsed, fresh.lapsed), (false, true), "who takes it over is told");
    // The old one can do nothing to the new one either.
    assert_eq!(ground.settle(&stale, Next::Done).await, Committed::FenceLost);
    ground.store.hand_back(&stale).await.unwrap();
    assert_eq!(ground.task(&fresh.task).await.state, TaskState::Running);
    assert_eq!(ground.settle(&fresh, Next::Again).await, Committed::Done(None));
    assert_eq!(ground.task(&fresh.task).await.crashes, 0, "a step that was finished ends the count");
    assert!(!ground.claim().await.unwrap().lapsed);
}

pub(super) async fn five_crashes_are_poison_and_a_retry_is_another_life(ground: Ground) {
    let lease = ground.insert(&lease()).await;
    let task = ground.task_of(lease.id.clone()).await.id;
    for crash in 1..=5 {
        ground.claim().await.unwrap();
        let reaped = ground.store.reap(true).await.unwrap();
        assert_eq!(reaped.returned, u64::from(crash < 5));
        assert_eq!(reaped.poisoned.len(), usize::from(crash == 5));
        assert_eq!(ground.task(&task).await.crashes, crash);
    }
    assert_eq!(ground.task(&task).await.state, TaskState::Dead);
    assert!(ground.claim().await.is_none());
    let id = task.clone();
    let retried = ground.store.write(move |tx| {
        let id = id.clone();
        Box::pin(async move { tx.retry_task(&id).await })
    });
    assert_eq!(retried.await.unwrap(), Some(lease.id.into()));
    assert_eq!(ground.task(&task).await.crashes, 0);
    let claim = ground.claim().await.unwrap();
    assert_eq!((claim.task, claim.lapsed), (task, true), "the last one may be alive");
}

pub(super) async fn a_poisoned_task_is_told_until_its_subject_has_ended(ground: Ground) {
    let lease = ground.insert(&lease()).await;
    for _ in 0..4 {
        ground.claim().await.unwrap();
        ground.store.reap(true).await.unwrap();
    }
    ground.claim().await.unwrap();
    // The daemon may die between hearing of it and breaking the lease: the next one must hear of it too.
    for _ in 0..2 {
        assert_eq!(ground.store.reap(true).await.unwrap().poisoned, [lease.id.clone().into()]);
    }
    ground.become_(&lease, LeaseState::Broken).await;
    assert_eq!(ground.store.reap(true).await.unwrap().poisoned, []);
}

pub(super) async fn a_claim_that_is_handed_back_counts_as_no_crash(ground: Ground) {
    ground.insert(&lease()).await;
    for _ in 0..10 {
        let claim = ground.claim().await.unwrap();
        ground.store.hand_back(&claim).await.unwrap();
    }
    let claim = ground.claim().await.unwrap();
    assert_eq!(ground.task(&claim.task).await.crashes, 0);
}

async fn claim_as(ground: &Ground, lease: &Lease, worker: &str) -> Claim {
    let scope = Scope::Root(lease.id.clone());
    ground.store.claim(&scope, worker).await.unwrap().expect("it is ready")
}

pub(super) async fn who_dies_in_company_is_given_more_deaths_and_no_more(ground: Ground) {
    let (killer, innocent) = (ground.insert(&lease()).await, ground.insert(&lease()).await);
    let task = ground.task_of(killer.id.clone()).await.id;
    for death in 1..=MAX_DEATHS {
        let daemon = format!("daemon-{death}");
        claim_as(&ground, &killer, &format!("{daemon}/w0")).await;
        claim_as(&ground, &innocent, &format!("{daemon}/w1")).await;
        ground.store.reap(true).await.unwrap();
        let now = ground.task(&task).await;
        assert_eq!((now.crashes, now.company), (death, death));
        assert_eq!(now.state == TaskState::Dead, death == MAX_DEATHS, "{death}");
        // The other one gets on with its step elsewhere, and is suspected of nothing any more.
        let claim = claim_as(&ground, &innocent, "other/w0").await;
        assert_eq!(ground.settle(&claim, Next::Again).await, Committed::Done(None));
    }
    assert_eq!(ground.store.reap(true).await.unwrap().poisoned, [killer.id.clone().into()]);
    // Alone it takes fewer, however many there were in company.
    let id = task.clone();
    let retry = ground.store.write(move |tx| {
        let id = id.clone();
        Box::pin(async move { tx.retry_task(&id).await })
    });
    retry.await.unwrap();
    claim_as(&ground, &killer, "company/w0").await;
    claim_as(&ground, &innocent, "company/w1").await;
    ground.store.reap(true).await.unwrap();
    for death in 1..=MAX_CRASHES {
        claim_as(&ground, &killer, &format!("alone-{death}/w0")).await;
        ground.store.reap(true).await.unwrap();
        let now = ground.task(&task).await;
        assert_eq!((now.crashes, now.company, now.state == TaskState::Dead), (death + 1, 1, death == MAX_CRASHES));
    }
}

pub(super) async fn claims_of_one_daemon_that_lapse_one_after_the_other_are_in_company(ground: Ground) {
    let (first, second) = (ground.insert(&lease()).await, ground.insert(&lease()).await);
    claim_as(&ground, &first, "dead/w0").await;
    ground.clock.advance(Duration::from_secs(10));
    claim_as(&ground, &second, "dead/w1").await;
    for lease in [&first, &second] {
        ground.clock.advance(Duration::from_micros(CLAIM_LENGTH.unsigned_abs() - 5_000_000));
        assert_eq!(ground.store.reap(false).await.unwrap().returned, 1);
        let task = ground.task_of(lease.id.clone()).await;
        assert_eq!((task.crashes, task.company), (1, 1));
        ground.clock.advance(Duration::from_secs(1));
    }
}

pub(super) async fn a_daemon_that_lives_takes_back_what_was_made_of_its_claims(ground: Ground) {
    let lease = ground.insert(&lease()).await;
    let task = ground.task_of(lease.id.clone()).await.id;
    for round in 0..2 * MAX_DEATHS {
        let late = claim_as(&ground, &lease, "late/w0").await;
        assert_eq!(late.lapsed, round > 0, "nobody finished a step since, whoever took a crash back");
        ground.clock.advance(Duration::from_secs(31));
        // It stands still, and another takes it for dead.
        assert_eq!(ground.store.sweep("other").await.unwrap().returned, 1);
        assert_eq!(ground.task(&task).await.crashes, 1);
        assert!(ground.store.has_lapses("late").await.unwrap() && !ground.store.has_lapses("other").await.unwrap());
        ground.store.sweep("late").await.unwrap();
        assert_eq!(ground.task(&task).await.crashes, 0, "its daemon has not died");
        assert!(!ground.store.has_lapses("late").await.unwrap());
        assert_eq!(ground.settle(&late, Next::Done).await, Committed::FenceLost);
        // It looks first: then it was none.
        claim_as(&ground, &lease, "late/w0").await;
        ground.clock.advance(Duration::from_secs(31));
        ground.store.sweep("late").await.unwrap();
        let now = ground.task(&task).await;
        assert_eq!((now.state, now.crashes), (TaskState::Ready, 0));
    }
    // One that was really made by another stays.
    claim_as(&ground, &lease, "dead/w0").await;
    ground.clock.advance(Duration::from_secs(31));
    ground.store.sweep("late").await.unwrap();
    ground.store.sweep("late").await.unwrap();
    assert_eq!(ground.task(&task).await.crashes, 1);
}

/// Parks for a pool that nobody serves.
fn park_for_a_box(_: &mut drydock::store::Tx) -> futures::future::BoxFuture<'_, drydock::error::Result<(Next, Baton)>> {
    Box::pin(async { Ok((Next::Park { waits: vec![Wait::Pool("box".to_owned())], until: None }, Baton::Pass)) })
}

pub(super) async fn the_next_claim_comes_with_the_commit(ground: Ground) {
    let (first, second) = (ground.insert(&lease()).await, ground.insert(&Lease { ord: NOON + 1, ..lease() }).await);
    let claim = ground.claim_of(first.id.clone()).await;
    let Committed::Done(Some(next)) = ground.store.commit_step(&claim, Some(Scope::Any), park_for_a_box).await.unwrap()
    else {
        panic!("there is a next task");
    };
    assert_eq!((next.subject.as_str(), next.worker.as_str()), (second.id.as_str(), claim.worker.as_str()));
    let nothing = ground.store.commit_step(&next, Some(Scope::Any), park_for_a_box).await.unwrap();
    assert_eq!(nothing, Committed::Done(None));
}

pub(super) async fn a_step_that_says_no_keeps_its_claim_and_writes_nothing(ground: Ground) {
    let lease = ground.insert(&lease()).await;
    let claim = ground.claim().await.unwrap();
    let before = lease.clone();
    let refused = ground.store.commit_step(&claim, None, move |tx| {
        let before = before.clone();
        Box::pin(async move {
            tx.put_lease(&before, &Lease { state: LeaseState::Released, ..before.clone() }).await?;
            Err(Error::new(Reason::Internal, "no"))
        })
    });
    assert_eq!(refused.await.unwrap_err().message, "no");
    assert_eq!(ground.store.find_lease(&lease.id).await.unwrap().unwrap(), lease);
    assert_eq!(ground.task(&claim.task).await.state, TaskState::Running);
    assert_eq!(ground.settle(&claim, Next::Done).await, Committed::Done(None));
    assert!(ground.store.list_tasks(&drydock::store::ListQuery::default()).await.unwrap().is_empty());
}
