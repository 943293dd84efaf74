//! What is kept ready ahead of demand: how many, for whom, how fast, and never at the cost of those who wait.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use drydock::error::Reason;
use drydock::model::id::LeaseId;
use drydock::model::{Lease, LeaseState, Resource, ScaleAhead};
use drydock::store::ListQuery;

use super::{MINUTE, SECOND, active, give_back, hold, kept, let_all_go, most_at_once, pass, settled};
use crate::queue::invariants;
use crate::queue::kit::{Bench, Fate, Gate, Phase, TestKind, World, admin, ask, eventually, user};

fn ready(world: &Arc<World>, min_ready: i64, idle_ttl: i64) -> TestKind {
    kept(world, "box", idle_ttl).limits(|limits| limits.upkeep.min_ready = min_ready)
}

/// Waits until so many are ready for anybody, and nothing else goes on.
async fn are_ready(bench: &Bench, many: usize) {
    eventually(&format!("{many} are ready"), async || {
        let nobodys = active(bench, "box").await.into_iter().filter(Resource::is_nobodys).count();
        (nobodys == many && !bench.engine().store().is_busy().await.unwrap()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_leases_never_make_more_than_the_limit_and_five_are_ready_afterwards() {
    let world = Arc::new(World::default());
    let bench = Bench::start(3, Arc::clone(&world), vec![ready(&world, 5, 10 * MINUTE).limit(20)]).await;
    are_ready(&bench, 5).await;
    let owners = ["ann", "ben", "cleo"];
    let mut leases = BTreeSet::new();
    for turn in 0..100 {
        leases.insert(bench.queue_as(&user(owners[turn % 3]), ask("box")).await.unwrap());
    }
    let mut reader = invariants::reader(&bench.database()).await;
    while !leases.is_empty() {
        let all = bench.engine().store().list_leases(&ListQuery { limit: 499, ..ListQuery::default() }, false).await;
        let active = |lease: &Lease| lease.state == LeaseState::Active;
        let done: Vec<LeaseId> = all.unwrap().into_iter().filter(active).map(|lease| lease.id).collect();
        for lease in &done {
            bench.release(lease).await;
            leases.remove(lease);
        }
        // What is idle and another's is taken down for those who wait, once it is not fresh any more.
        if done.is_empty() {
            bench.turn_when_idle().await;
        }
    }
    assert_eq!(invariants::breaches(&mut reader).await, Vec::<String>::new());
    assert_eq!(most_at_once(&bench, "box").await, 20, "as many as may be, and no more");
    settled(&bench).await;
    pass(&bench, Duration::from_mins(10)).await;
    are_ready(&bench, 5).await;
    assert_eq!(bench.resources("box").await.len(), 5);
    pass(&bench, Duration::from_hours(5)).await;
    are_ready(&bench, 5).await;
    assert_eq!(most_at_once(&bench, "box").await, 20);
    invariants::assert_hold(&bench.database()).await;
    let_all_go(&bench, "box").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_ready_belongs_to_whoever_comes_first_with_all_that_it_needs() {
    let world = Arc::new(World::default());
    let kinds = vec![
        ready(&world, 1, 10 * MINUTE).needing(&["part"]),
        TestKind::new(&world, "part").needing(&["piece"]),
        TestKind::new(&world, "piece"),
    ];
    let bench = Bench::start(2, Arc::clone(&world), kinds).await;
    are_ready(&bench, 1).await;
    let warm = active(&bench, "box").await.remove(0);
    let part = active(&bench, "part").await.remove(0);
    assert_eq!(part.owner, warm.id.as_str(), "shared with nobody meanwhile");
    let lease = bench.queue_as(&user("ann"), ask("box")).await.unwrap();
    let lease = bench.lease(&lease).await;
    assert_eq!((lease.state, lease.resource_id.as_ref()), (LeaseState::Active, Some(&warm.id)), "in the very commit");
    for of in ["box", "part", "piece"] {
        let mine = bench.resources(of).await.into_iter().filter(|of| of.owner == "ann").count();
        assert_eq!(mine, 1, "{of}");
    }
    let needs = bench.engine().store().needs_of(&warm.id).await.unwrap();
    assert!(needs.iter().all(|need| need.owner == "ann"));
    // Another is built in its place.
    are_ready(&bench, 1).await;
    give_back(&bench, &lease.id).await;
    // What ann had waits for ann; ben gets the fresh one.
    let other = bench.lease(&hold(&bench, &user("ben"), ask("box")).await).await;
    assert_ne!(other.resource_id, Some(warm.id));
    give_back(&bench, &other.id).await;
    invariants::assert_hold(&bench.database()).await;
    let_all_go(&bench, "box").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_used_is_ready_again_where_all_may_have_it() {
    let world = Arc::new(World::default());
    let kind = ready(&world, 2, 10 * MINUTE).limits(|limits| limits.shared = true);
    let bench = Bench::start(2, Arc::clone(&world), vec![kind]).await;
    are_ready(&bench, 2).await;
    let mut leases = Vec::new();
    for _ in 0..4 {
        leases.push(hold(&bench, &user("ann"), ask("box")).await);
        are_ready(&bench, 2).await;
    }
    assert_eq!(bench.resources("box").await.len(), 6);
    for lease in &leases {
        give_back(&bench, lease).await;
    }
    // Those that were unused longest go; two stay, and nothing is built.
    pass(&bench, Duration::from_mins(10)).await;
    pass(&bench, Duration::from_hours(1)).await;
    assert_eq!(active(&bench, "box").await.len(), 2);
    assert_eq!(world.calls(Phase::Build, "box").len(), 6);
    let lease = hold(&bench, &user("ben"), ask("box")).await;
    give_back(&bench, &lease).await;
    invariants::assert_hold(&bench.database()).await;
    let_all_go(&bench, "box").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_takes_over_what_is_being_built_ahead() {
    let world = Arc::new(World::default());
    let gate = Gate::new();
    world.will("box", Phase::Build, [Fate::Slow(Arc::clone(&gate))]);
    let bench = Bench::start(2, Arc::clone(&world), vec![ready(&world, 1, 0).limit(1)]).await;
    gate.begun().await;
    let lease = bench.queue(ask("box")).await;
    bench.idle_but_one().await;
    let waiting = bench.lease(&lease).await;
    let build = bench.resources("box").await.remove(0);
    assert_eq!(waiting.allocating.as_ref(), Some(&build.id));
    assert_eq!(waiting.waiting.unwrap().reason, "BUILDING");
    let (task, own) = (bench.task_of(build.id.as_str()).await.unwrap(), bench.task_of(lease.as_str()).await.unwrap());
    assert!(own.waits_for.contains(&build.id.to_string()), "{own:?}");
    assert_eq!((build.owner.as_str(), build.ord), ("admin", bench.lease(&lease).await.ord), "{task:?}");
    gate.open();
    bench.reaches(&lease, LeaseState::Active).await;
    assert_eq!(world.calls(Phase::Build, "box").len(), 1);
    bench.release(&lease).await;
    are_ready(&bench, 1).await;
    let_all_go(&bench, "box").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_go_before_what_is_kept_ready() {
    let world = Arc::new(World::default());
    let gate = Gate::new();
    let bench = Bench::start(1, Arc::clone(&world), vec![kept(&world, "box", 10 * MINUTE).limit(3)]).await;
    // The only worker stands still; meanwhile a pool is asked for, and then leases that it does not suit.
    world.will("box", Phase::Build, [Fate::Slow(Arc::clone(&gate))]);
    let first = bench.queue(super::coloured("box", "red")).await;
    gate.begun().await;
    bench.limit("box", |limits| limits.upkeep.min_ready = 3).await;
    let blue = bench.queue(super::coloured("box", "blue")).await;
    let green = bench.queue(super::coloured("box", "green")).await;
    gate.open();
    for lease in [&first, &blue, &green] {
        bench.reaches(lease, LeaseState::Active).await;
    }
    bench.idle().await;
    let colours: BTreeSet<Option<String>> =
        bench.resources("box").await.into_iter().map(|of| of.attributes.get("colour").cloned()).collect();
    assert_eq!(colours.len(), 3, "{colours:?}");
    assert!(!colours.contains(&None), "nothing is ready while others need the room");
    for lease in [&first, &blue, &green] {
        give_back(&bench, lease).await;
    }
    pass(&bench, Duration::from_mins(10)).await;
    are_ready(&bench, 3).await;
    let_all_go(&bench, "box").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_are_ready_while_more_are_used_and_a_lull_takes_none_away() {
    let world = Arc::new(World::default());
    let kind = kept(&world, "box", 0).limits(|limits| {
        limits.upkeep.scale_ahead = ScaleAhead::parse("50%");
        limits.upkeep.scale_ahead_max = Some(3);
        limits.upkeep.min_ready = 1;
        limits.upkeep.shrink_delay = Some(5 * MINUTE);
    });
    let bench = Bench::start(2, Arc::clone(&world), vec![kind]).await;
    are_ready(&bench, 1).await;
    let mut leases = Vec::new();
    for (used, many) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3), (7, 3), (8, 3)] {
        leases.push(hold(&bench, &admin(), ask("box")).await);
        assert_eq!(leases.len(), used);
        are_ready(&bench, many).await;
    }
    for lease in leases {
        give_back(&bench, &lease).await;
    }
    pass(&bench, Duration::from_secs(299)).await;
    are_ready(&bench, 3).await;
    pass(&bench, Duration::from_secs(1)).await;
    are_ready(&bench, 1).await;
    assert_eq!(bench.resources("box").await.len(), 1);
    let_all_go(&bench, "box").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_grows_no_faster_than_it_may() {
    let world = Arc::new(World::default());
    let kind = ready(&world, 5, 0).limits(|limits| limits.upkeep.max_growth = Some(2));
    let bench = Bench::start(2, Arc::clone(&world), vec![kind]).await;
    for many in [2, 4, 5] {
        are_ready(&bench, many).await;
        assert_eq!(bench.resources("box").await.len(), many);
        pass(&bench, Duration::from_secs(59)).await;
        are_ready(&bench, many).await;
        pass(&bench, Duration::from_secs(1)).await;
    }
    // A lease is not held back by it.
    let mut leases = Vec::new();
    for _ in 0..7 {
        leases.push(hold(&bench, &admin(), ask("box")).await);
    }
    for lease in leases {
        bench.release(&lease).await;
    }
    let_all_go(&bench, "box").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_is_as_before_after_a_restart_and_goes_when_it_is_switched_off() {
    let world = Arc::new(World::default());
    let mut bench = Bench::start(2, Arc::clone(&world), vec![ready(&world, 2, MINUTE)]).await;
    are_ready(&bench, 2).await;
    bench.restart(2).await;
    let lease = hold(&bench, &admin(), ask("box")).await;
    are_ready(&bench, 2).await;
    give_back(&bench, &lease).await;
    bench.limit("box", |limits| limits.upkeep.min_ready = 0).await;
    // The lull first, then the time that each may be unused, which has passed by then.
    pass(&bench, Duration::from_secs(301)).await;
    eventually("all are gone", async || bench.resources("box").await.is_empty().then_some(())).await;
    let task = bench.engine().get_blueprint(&admin(), "box").await.unwrap().id;
    assert_eq!(bench.task_of(task.as_str()).await, None, "there is nothing to be looked after");
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_kept_ready_is_refused() {
    let world = Arc::new(World::default());
    let bench = Bench::start(1, Arc::clone(&world), vec![kept(&world, "box", SECOND).limit(2)]).await;
    let blueprint = bench.engine().get_blueprint(&admin(), "box").await.unwrap();
    let refused = async |change: fn(&mut drydock::model::Limits)| {
        let mut limits = blueprint.limits.clone();
        change(&mut limits);
        let draft = drydock::engine::BlueprintDraft {
            name: "box".to_owned(),
            kind: "box".to_owned(),
            config: serde_json::json!({}),
            labels: drydock::model::StringMap::new(),
            limits,
        };
        let error = bench.engine().apply_blueprint(&admin(), draft, true, None).await.unwrap_err();
        assert_eq!(error.reason, Reason::InvalidArgument);
        error.message
    };
    let message = refused(|limits| limits.upkeep.min_ready = 3).await;
    assert!(message.contains("min_ready is 3, above max_resources, 2"), "{message}");
    let message = refused(|limits| {
        limits.upkeep.min_ready = 1;
        limits.upkeep.ready_attributes = [("size".to_owned(), "1".to_owned())].into();
    })
    .await;
    assert!(message.contains("ready_attributes") && message.contains("size"), "{message}");
    let message = refused(|limits| {
        limits.upkeep.ready_attributes = [("colour".to_owned(), "red".to_owned())].into();
    })
    .await;
    assert!(message.contains("min_ready or scale_ahead"), "{message}");
    assert!(bench.resources("box").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_built_ahead_goes_behind_who_waits() {
    let world = Arc::new(World::default());
    let gate = Gate::new();
    world.will("box", Phase::Build, [Fate::Slow(Arc::clone(&gate))]);
    let bench = Bench::start(1, Arc::clone(&world), vec![ready(&world, 2, 10 * MINUTE)]).await;
    gate.begun().await;
    // The second one is due as well; then comes somebody whom neither suits.
    let lease = bench.queue(super::coloured("box", "red")).await;
    gate.open();
    let own = bench.reaches(&lease, LeaseState::Active).await.resource_id.unwrap();
    are_ready(&bench, 2).await;
    assert_eq!(world.calls(Phase::Build, "box")[1], own.to_string());
    give_back(&bench, &lease).await;
    let_all_go(&bench, "box").await;
}
