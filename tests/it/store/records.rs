//! Small records: requests, effects, daemons, blueprints; and what is taken away when it is old.

use std::time::Duration;

use drydock::clock::{Clock as _, micros};
use drydock::error::Reason;
use drydock::model::id::TaskId;
use drydock::model::{Blueprint, Lease, LeaseState, NewEvent, Placement, Resource, ResourceState, StringMap};
use drydock::store::{Daemon, ListQuery, Next, Purged, Request};
use serde_json::json;

use super::ground::{Ground, blueprint, lease, resource};
use crate::queue::kit::{NOON, eventually};

fn request(principal: &str, body: &str) -> Request {
    Request {
        principal: principal.to_owned(),
        method: "AcquireLease".to_owned(),
        request_id: "one".to_owned(),
        body: body.to_owned(),
    }
}

async fn seen(ground: &Ground, request: Request) -> drydock::error::Result<Option<String>> {
    ground
        .store
        .write(move |tx| {
            let request = request.clone();
            Box::pin(async move { tx.seen(&request).await })
        })
        .await
}

async fn remember(ground: &Ground, request: Request, object: &'static str) {
    ground
        .store
        .write(move |tx| {
            let request = request.clone();
            Box::pin(async move { tx.remember(&request, object).await })
        })
        .await
        .unwrap();
}

pub(super) async fn a_request_is_remembered_for_a_day_with_its_body(ground: Ground) {
    assert_eq!(seen(&ground, request("ann", "x")).await.unwrap(), None);
    remember(&ground, request("ann", "x"), "lease_a").await;
    assert_eq!(seen(&ground, request("ann", "x")).await.unwrap().as_deref(), Some("lease_a"));
    assert_eq!(seen(&ground, request("ann", "y")).await.unwrap_err().reason, Reason::RequestIdReused);
    assert_eq!(seen(&ground, request("bob", "y")).await.unwrap(), None, "each has ids of his own");
    let other = Request { method: "ReleaseLease".to_owned(), ..request("ann", "y") };
    assert_eq!(seen(&ground, other).await.unwrap(), None);
    ground.clock.advance(Duration::from_hours(24));
    assert_eq!(seen(&ground, request("ann", "y")).await.unwrap(), None);
    remember(&ground, request("ann", "y"), "lease_b").await;
    assert_eq!(seen(&ground, request("ann", "y")).await.unwrap().as_deref(), Some("lease_b"));
}

pub(super) async fn effects_are_begun_once_and_remembered(ground: Ground) {
    let resource = ground.insert_resource(&resource()).await;
    let store = &ground.store;
    assert_eq!(store.begin_effect(&resource.id, "clone", &json!({"url": "x"}), None).await.unwrap(), None);
    assert_eq!(store.begin_effect(&resource.id, "clone", &json!({}), None).await.unwrap(), Some(None));
    store.finish_effect(&resource.id, "clone", &json!({"commit": "abc"}), None).await.unwrap();
    let done = Some(Some(json!({"commit": "abc"})));
    assert_eq!(store.begin_effect(&resource.id, "clone", &json!({}), None).await.unwrap(), done);
    store.begin_effect(&resource.id, "make", &json!({}), None).await.unwrap();
    let all = store.effects_of(&resource.id).await.unwrap();
    assert_eq!(all, [("clone".to_owned(), Some(json!({"commit": "abc"}))), ("make".to_owned(), None)]);
    store.forget_effect(&resource.id, "clone", None).await.unwrap();
    let id = resource.id.clone();
    store
        .write(move |tx| {
            let id = id.clone();
            Box::pin(async move { tx.forget_effects(&id).await })
        })
        .await
        .unwrap();
    assert_eq!(store.effects_of(&resource.id).await.unwrap(), []);
}

pub(super) async fn who_has_lost_a_claim_writes_no_effects(ground: Ground) {
    let resource = ground.insert_resource(&resource()).await;
    let store = &ground.store;
    let stale = ground.claim_of(resource.id.clone()).await;
    let (one, two) = (json!({"nth": 1}), json!({"nth": 2}));
    assert_eq!(store.begin_effect(&resource.id, "clone", &one, Some(&stale)).await.unwrap(), None);
    ground.clock.advance(Duration::from_secs(31));
    assert_eq!(store.reap(false).await.unwrap().returned, 1);
    let fresh = ground.claim_of(resource.id.clone()).await;
    store.finish_effect(&resource.id, "clone", &two, Some(&fresh)).await.unwrap();

    let lost = |outcome: drydock::error::Result<()>| assert_eq!(outcome.unwrap_err().reason, Reason::EtagMismatch);
    lost(store.begin_effect(&resource.id, "more", &one, Some(&stale)).await.map(drop));
    lost(store.finish_effect(&resource.id, "clone", &one, Some(&stale)).await);
    lost(store.forget_effect(&resource.id, "clone", Some(&stale)).await);
    assert_eq!(store.effects_of(&resource.id).await.unwrap(), [("clone".to_owned(), Some(two))]);
    store.forget_effect(&resource.id, "clone", Some(&fresh)).await.unwrap();
    assert_eq!(store.effects_of(&resource.id).await.unwrap(), []);
}

/// A lease whose life is over since then, its task done.
async fn ended(ground: &Ground, at: i64) -> (Lease, TaskId) {
    let lease = Lease { destroy_time: Some(at), ..lease() };
    let before = ground.insert(&Lease { state: LeaseState::Released, ..lease }).await;
    let claim = ground.claim_of(before.id.clone()).await;
    let gone = ground.become_(&before, LeaseState::Destroyed).await;
    ground.settle(&claim, Next::Done).await;
    (gone, claim.task)
}

async fn event(ground: &Ground, subject: &str) {
    let event = NewEvent {
        kind: "lease.created",
        reason: String::new(),
        message: String::new(),
        actor: "ann".to_owned(),
        subjects: vec![subject.to_owned()],
        root_id: None,
        owner: "ann".to_owned(),
        details: StringMap::new(),
    };
    ground
        .store
        .write(move |tx| {
            let event = event.clone();
            Box::pin(async move { tx.event(event).await })
        })
        .await
        .unwrap();
}

pub(super) async fn what_is_old_is_taken_away_and_nothing_else(ground: Ground) {
    let day = Duration::from_hours(24);
    let (old, old_task) = ended(&ground, NOON).await;
    let gone = Resource { state: ResourceState::Destroyed, end_time: Some(NOON), ..resource() };
    let gone = ground.insert_resource(&gone).await;
    let claim = ground.claim_of(gone.id.clone()).await;
    ground.settle(&claim, Next::Done).await;
    event(&ground, "old").await;
    remember(&ground, request("ann", "x"), "lease_a").await;
    ground.clock.advance(day * 2);
    let (young, young_task) = ended(&ground, ground.clock.now()).await;
    // As old as can be, and still there.
    let live = ground.insert(&lease()).await;
    event(&ground, "young").await;
    remember(&ground, request("bob", "x"), "lease_b").await;

    let purged = ground.store.purge(ground.clock.now() - micros(day)).await.unwrap();
    assert_eq!(purged, Purged { leases: 1, resources: 1, events: 1, requests: 1 });
    assert!(ground.store.find_lease(&old.id).await.unwrap().is_none());
    assert!(ground.store.find_resource(&gone.id).await.unwrap().is_none());
    for (task, kept) in [(&old_task, false), (&claim.task, false), (&young_task, true)] {
        assert_eq!(ground.store.find_task(task).await.unwrap().is_some(), kept, "{task}");
    }
    for kept in [&young, &live] {
        assert!(ground.store.find_lease(&kept.id).await.unwrap().is_some());
    }
    // On a server an event is shown when every transaction before its own has ended, of other databases too.
    let events = eventually("the young event is shown", async || {
        let events = ground.store.list_events(&ListQuery { limit: 9, ..ListQuery::default() }).await.unwrap();
        (!events.is_empty()).then_some(events)
    })
    .await;
    assert_eq!(events.iter().map(|event| event.subjects[0].as_str()).collect::<Vec<_>>(), ["young"]);
    assert_eq!(ground.claim().await.unwrap().subject, live.id.into(), "its task is there too");
    let again = ground.store.purge(ground.clock.now() - micros(day)).await.unwrap();
    assert_eq!(again, Purged::default());
}

pub(super) async fn a_round_of_taking_away_is_bounded(ground: Ground) {
    for number in 0..501 {
        event(&ground, &number.to_string()).await;
    }
    ground.clock.advance(Duration::from_secs(1));
    let rounds = [ground.store.purge(NOON + 1).await.unwrap(), ground.store.purge(NOON + 1).await.unwrap()];
    assert_eq!(rounds.map(|round| round.events), [500, 1]);
}

pub(super) async fn daemons_that_live_are_on_record(ground: Ground) {
    let daemon = |id: &str| Daemon {
        id: id.to_owned(),
        version: "1".to_owned(),
        machine: "m".to_owned(),
        address: "a".to_owned(),
        start_time: NOON,
        seen_time: NOON,
        draining: false,
        claims: 0,
    };
    ground.store.daemon_lives(&daemon("old")).await.unwrap();
    ground.store.daemon_lives(&daemon("daemon")).await.unwrap();
    ground.insert(&lease()).await;
    ground.claim().await.unwrap();
    // On one file there is one.
    let living = ground.store.daemons().await.unwrap().len();
    assert_eq!(living, if ground.store.is_shared() { 2 } else { 1 });
    ground.clock.advance(Duration::from_mins(11));
    ground.store.daemon_lives(&Daemon { draining: true, ..daemon("daemon") }).await.unwrap();
    let expected = Daemon { seen_time: NOON + 660_000_000, draining: true, claims: 1, ..daemon("daemon") };
    assert_eq!(ground.store.daemons().await.unwrap(), [expected]);
}

pub(super) async fn a_blueprint_is_found_by_id_and_name_and_replaced_by_version(ground: Ground) {
    let made = Blueprint { labels: [("zone".to_owned(), "n".to_owned())].into(), ..blueprint("one") };
    let insert = async |blueprint: Blueprint| {
        ground
            .store
            .write(move |tx| {
                let blueprint = blueprint.clone();
                Box::pin(async move { tx.insert_blueprint(&blueprint).await })
            })
            .await
            .unwrap()
    };
    assert!(insert(made.clone()).await);
    assert!(!insert(blueprint("one")).await, "the name is taken");
    for key in [made.id.as_str(), "one"] {
        assert_eq!(ground.store.find_blueprint(key).await.unwrap(), Some(made.clone()));
    }
    let mut after = Blueprint { enabled: false, ..made.clone() };
    after.limits.max_resources = Some(3);
    after.limits.placement = Placement::Spread;
    after.limits.shared = true;
    let put = async |version: i64, after: Blueprint| {
        ground
            .store
            .write(move |tx| {
                let after = after.clone();
                Box::pin(async move { tx.put_blueprint(version, &after).await })
            })
            .await
    };
    put(1, after.clone()).await.unwrap();
    assert_eq!(ground.store.find_blueprint("one").await.unwrap(), Some(Blueprint { version: 2, ..after.clone() }));
    assert_eq!(put(1, made.clone()).await.unwrap_err().reason, Reason::EtagMismatch);
    let id = made.id.clone();
    ground
        .store
        .write(move |tx| {
            let id = id.clone();
            Box::pin(async move { tx.delete_blueprint(&id).await })
        })
        .await
        .unwrap();
    assert_eq!(ground.store.all_blueprints().await.unwrap(), []);
}
