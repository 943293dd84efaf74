//! Parking and waking: the eventcount, the look, timers, the baton.

use std::time::Duration;

use drydock::clock::Clock as _;
use drydock::model::{Lease, LeaseState, Resource, ResourceState, TaskState};
use drydock::store::{Baton, Next, Wait};

use super::ground::{Ground, lease, resource};
use crate::queue::kit::NOON;

fn pool() -> Vec<Wait> {
    vec![Wait::Pool("box".to_owned())]
}

pub(super) async fn a_signal_between_claim_and_park_makes_it_ready(ground: Ground) {
    let waiter = ground.insert(&lease()).await;
    for waits in [pool(), Vec::new()] {
        let claim = ground.claim().await.unwrap();
        let subject = waiter.id.clone().into();
        ground
            .store
            .write(move |tx| {
                let subject = drydock::model::id::Subject::clone(&subject);
                Box::pin(async move { tx.wake_task(&subject).await })
            })
            .await
            .unwrap();
        let until = Some(NOON + 1_000_000_000);
        ground.settle(&claim, Next::Park { waits, until }).await;
        let task = ground.task(&claim.task).await;
        assert_eq!((task.state, task.run_at), (TaskState::Ready, None));
        assert_eq!(task.signal, claim.signal + 1);
    }
    let claim = ground.claim().await.unwrap();
    ground.settle(&claim, Next::Park { waits: pool(), until: None }).await;
    assert_eq!(ground.task(&claim.task).await.state, TaskState::Parked);
}

pub(super) async fn what_changed_since_the_look_is_not_waited_for(ground: Ground) {
    let waiter = ground.insert(&lease()).await;
    let awaited = ground.insert(&lease()).await;
    let built = ground.insert_resource(&resource()).await;
    let claim = ground.claim_of(waiter.id.clone()).await;
    // Nobody knows yet that it waits, so that no wake can come: only the look tells.
    ground.become_(&awaited, LeaseState::Acquired).await;
    let waits = vec![
        Wait::Resource(built.id.clone(), ResourceState::Pending),
        Wait::Lease(awaited.id.clone(), LeaseState::Pending),
    ];
    ground.settle(&claim, Next::Park { waits, until: None }).await;
    let task = ground.task(&claim.task).await;
    assert_eq!((task.state, task.waits_for), (TaskState::Ready, Vec::new()));

    let claim = ground.claim_of(waiter.id.clone()).await;
    ground.put_resource(&built, &Resource { state: ResourceState::Active, ..built.clone() }).await.unwrap();
    let waits = vec![Wait::Resource(built.id.clone(), ResourceState::Pending)];
    ground.settle(&claim, Next::Park { waits, until: None }).await;
    assert_eq!(ground.task(&claim.task).await.state, TaskState::Ready);

    let claim = ground.claim_of(waiter.id).await;
    let missing = lease();
    let waits = vec![Wait::Lease(missing.id, LeaseState::Pending)];
    ground.settle(&claim, Next::Park { waits, until: None }).await;
    assert_eq!(ground.task(&claim.task).await.state, TaskState::Ready, "what is gone is not waited for");
}

pub(super) async fn a_wake_forgets_the_wait(ground: Ground) {
    let waiter = ground.insert(&lease()).await;
    let (one, two) = (ground.insert(&lease()).await, ground.insert(&lease()).await);
    let waits = [&one, &two].map(|lease| Wait::Lease(lease.id.clone(), LeaseState::Pending)).to_vec();
    let task = ground.park(&waiter, waits).await;
    assert_eq!(ground.task(&task).await.waits_for.len(), 2);
    ground.become_(&one, LeaseState::Released).await;
    let woken = ground.task(&task).await;
    assert_eq!((woken.state, woken.waits_for), (TaskState::Ready, vec![two.id.to_string()]));
    assert_eq!(woken.signal, 1);
    // A second cause while it is ready adds to the count and wakes nobody twice.
    ground.become_(&two, LeaseState::Released).await;
    let woken = ground.task(&task).await;
    assert_eq!((woken.state, woken.waits_for.len(), woken.signal), (TaskState::Ready, 0, 2));
}

pub(super) async fn timers_fire_when_they_are_due(ground: Ground) {
    let mut tasks = Vec::new();
    for seconds in [30, 10, 20] {
        let lease = ground.insert(&lease()).await;
        let claim = ground.claim_of(lease.id).await;
        let until = Some(NOON + seconds * 1_000_000);
        ground.settle(&claim, Next::Park { waits: pool(), until }).await;
        tasks.push(claim.task);
    }
    assert_eq!(ground.store.next_timer().await.unwrap(), Some(NOON + 10_000_000));
    assert_eq!(ground.store.fire_timers().await.unwrap(), Some(NOON + 10_000_000));
    assert!(ground.claim().await.is_none());
    ground.clock.advance(Duration::from_secs(10));
    assert_eq!(ground.store.fire_timers().await.unwrap(), Some(NOON + 20_000_000));
    assert_eq!(ground.claim().await.unwrap().task, tasks[1]);
    ground.clock.advance(Duration::from_mins(1));
    assert_eq!(ground.store.fire_timers().await.unwrap(), None);
    assert!(ground.claim().await.is_some() && ground.claim().await.is_some());
}

pub(super) async fn a_failure_counts_and_a_park_forgets_it(ground: Ground) {
    ground.insert(&lease()).await;
    for failures in 0..3 {
        let claim = ground.claim().await.unwrap();
        assert_eq!(claim.failures, failures);
        let until = ground.clock.now() + 1_000_000;
        ground.settle(&claim, Next::Retry { waits: Vec::new(), until, error: format!("no {failures}") }).await;
        let task = ground.task(&claim.task).await;
        assert_eq!((task.failures, task.last_error), (failures + 1, format!("no {failures}")));
        assert!(ground.claim().await.is_none(), "not before its time");
        ground.clock.advance(Duration::from_secs(1));
        ground.store.fire_timers().await.unwrap();
    }
    let claim = ground.claim().await.unwrap();
    ground.settle(&claim, Next::Park { waits: pool(), until: None }).await;
    assert_eq!(ground.task(&claim.task).await.failures, 0);
}

/// Waiters for the pool, best first.
async fn waiters(ground: &Ground, number: i64) -> Vec<Lease> {
    let mut waiters = Vec::new();
    for place in 0..number {
        let waiter = ground.insert(&Lease { ord: NOON + place, ..lease() }).await;
        ground.park(&waiter, pool()).await;
        waiters.push(waiter);
    }
    waiters
}

pub(super) async fn the_baton_goes_down_the_queue_once(ground: Ground) {
    let waiters = waiters(&ground, 3).await;
    ground.wake_pool("pool:box").await;
    for waiter in &waiters {
        let claim = ground.claim().await.expect("the baton woke one");
        assert_eq!(claim.subject.as_str(), waiter.id.as_str());
        assert!(ground.claim().await.is_none(), "one at a time");
        assert_eq!(ground.task(&claim.task).await.baton.as_deref(), Some("pool:box"));
        // It cannot use the room, parks again, and passes the baton on.
        ground.settle(&claim, Next::Park { waits: pool(), until: None }).await;
        let task = ground.task(&claim.task).await;
        assert_eq!((task.state, task.baton), (TaskState::Parked, None));
    }
    assert!(ground.claim().await.is_none(), "the journey ends with the last");
    ground.wake_pool("pool:other").await;
    assert!(ground.claim().await.is_none(), "another pool is not theirs");
}

pub(super) async fn a_baton_that_is_kept_goes_no_further(ground: Ground) {
    let waiters = waiters(&ground, 2).await;
    ground.wake_pool("pool:box").await;
    let claim = ground.claim().await.unwrap();
    ground.settle_with(&claim, Next::Done, Baton::Keep).await;
    assert!(ground.claim().await.is_none());
    ground.wake_pool("pool:box").await;
    let claim = ground.claim().await.unwrap();
    assert_eq!(claim.subject.as_str(), waiters[1].id.as_str());
}

pub(super) async fn two_wakes_of_a_pool_wake_two(ground: Ground) {
    let waiters = waiters(&ground, 3).await;
    ground.wake_pool("pool:box").await;
    ground.wake_pool("pool:box").await;
    let (one, two) = (ground.claim().await.unwrap(), ground.claim().await.unwrap());
    assert_eq!([one.subject.as_str(), two.subject.as_str()], [waiters[0].id.as_str(), waiters[1].id.as_str()]);
    assert!(ground.claim().await.is_none());
    // A baton that comes while its holder runs is told by the count, and is passed on as any other.
    ground.settle(&one, Next::Park { waits: pool(), until: None }).await;
    let third = ground.claim().await.unwrap();
    assert_eq!(third.subject.as_str(), waiters[2].id.as_str());
}

pub(super) async fn commits_tell_what_they_set_in_motion(ground: Ground) {
    let mut news = ground.store.news();
    let first = ground.insert(&lease()).await;
    let told = news.recv().await.unwrap();
    assert_eq!((told.ready, told.ready_roots.contains(&first.id), told.timer), (1, true, None));
    let claim = ground.claim().await.unwrap();
    let until = NOON + 5_000_000;
    ground.settle(&claim, Next::Park { waits: pool(), until: Some(until) }).await;
    let told = news.recv().await.unwrap();
    assert_eq!((told.ready, told.timer), (0, Some(until)));
    ground.wake_pool("pool:box").await;
    assert_eq!(news.recv().await.unwrap().ready, 1);
    let claim = ground.claim().await.unwrap();
    ground.store.hand_back(&claim).await.unwrap();
    assert_eq!(news.recv().await.unwrap().ready, 1);
}
