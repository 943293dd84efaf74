//! State tables, versions, and what a change sets in motion.

use drydock::error::Reason;
use drydock::model::{Lease, LeaseState, Resource, ResourceState, TaskState};
use drydock::store::{Next, Wait};

use super::ground::{Ground, lease, resource};

pub(super) async fn every_pair_of_lease_states_is_decided(ground: Ground) {
    for from in LeaseState::ALL {
        for to in LeaseState::ALL {
            let before = ground.insert(&Lease { state: from, ..lease() }).await;
            let result =
                ground.put(&before, &Lease { state: to, state_reason: "X".to_owned(), ..before.clone() }).await;
            // A warm lease goes two ways in one commit; staying is no change of state.
            let allowed = from == to || from.may_become(to) || (from, to) == (LeaseState::Pending, LeaseState::Active);
            assert_eq!(result.is_ok(), allowed, "{from:?} -> {to:?}");
            let now = ground.store.find_lease(&before.id).await.unwrap().unwrap();
            if allowed {
                assert_eq!((now.state, now.state_reason.as_str(), now.version), (to, "X", before.version + 1));
            } else {
                assert_eq!(result.unwrap_err().reason, Reason::Internal);
                assert_eq!(now, before, "{from:?} -> {to:?}");
            }
        }
    }
}

pub(super) async fn every_pair_of_resource_states_is_decided(ground: Ground) {
    for from in ResourceState::ALL {
        for to in ResourceState::ALL {
            let before = ground.insert_resource(&Resource { state: from, ..resource() }).await;
            let after = Resource { state: to, problem: "x".to_owned(), ..before.clone() };
            let result = ground.put_resource(&before, &after).await;
            let allowed = from == to || from.may_become(to);
            assert_eq!(result.is_ok(), allowed, "{from:?} -> {to:?}");
            let now = ground.store.find_resource(&before.id).await.unwrap().unwrap();
            if allowed {
                assert_eq!((now.state, now.problem.as_str(), now.version), (to, "x", before.version + 1));
            } else {
                assert_eq!(result.unwrap_err().reason, Reason::Internal);
                assert_eq!(now, before, "{from:?} -> {to:?}");
            }
        }
    }
}

pub(super) async fn a_write_on_an_old_version_is_refused(ground: Ground) {
    let old = ground.insert(&lease()).await;
    ground.put(&old, &Lease { reacquires: 1, ..old.clone() }).await.unwrap();
    let refused = ground.put(&old, &Lease { reacquires: 2, ..old.clone() }).await.unwrap_err();
    assert_eq!(refused.reason, Reason::EtagMismatch);
    assert_eq!(ground.store.find_lease(&old.id).await.unwrap().unwrap().reacquires, 1);

    let old = ground.insert_resource(&resource()).await;
    ground.put_resource(&old, &Resource { cleanup_failures: 1, ..old.clone() }).await.unwrap();
    let refused = ground.put_resource(&old, &Resource { cleanup_failures: 2, ..old.clone() }).await.unwrap_err();
    assert_eq!(refused.reason, Reason::EtagMismatch);
    assert_eq!(ground.store.find_resource(&old.id).await.unwrap().unwrap().cleanup_failures, 1);
}

pub(super) async fn a_change_wakes_who_waits_and_hurries_what_ends(ground: Ground) {
    let (waiter, awaited) = (ground.insert(&lease()).await, ground.insert(&lease()).await);
    let claim = ground.claim_of(waiter.id.clone()).await;
    let waits = vec![Wait::Lease(awaited.id.clone(), LeaseState::Pending)];
    ground.settle(&claim, Next::Park { waits, until: None }).await;
    ground.park(&awaited, vec![Wait::Pool("box".to_owned())]).await;
    // A change that is none of the state wakes nobody.
    ground.put(&awaited, &Lease { reacquires: 1, ..awaited.clone() }).await.unwrap();
    assert_eq!(ground.task(&claim.task).await.state, TaskState::Parked);
    assert!(ground.claim().await.is_none());
    ground.become_(&awaited, LeaseState::Released).await;
    assert_eq!(ground.task(&claim.task).await.state, TaskState::Ready);
    // What frees goes before what allocates, though the other is as old.
    let first = ground.claim().await.unwrap();
    assert_eq!(first.subject.as_str(), awaited.id.as_str());
    assert_eq!(ground.claim().await.unwrap().task, claim.task);
}
