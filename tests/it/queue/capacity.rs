//! Limits: turns, time-outs, and who is told when there is room again.

use std::sync::Arc;
use std::time::Duration;

use drydock::engine::{Acquire, ExplainSubject};
use drydock::error::Reason;
use drydock::model::LeaseState;
use drydock::model::id::LeaseId;

use super::invariants;
use super::kit::{Bench, Fate, Gate, Phase, TestKind, World, admin, ask, eventually, user};

crate::postgres::on_postgres_too! {
    an_explanation_names_what_the_caller_may_see,
    five_leases_on_a_limit_of_one_finish_in_turn,
    a_queue_timeout_leaves_nothing,
    a_raised_limit_wakes_as_many_as_now_fit,
    a_limit_that_comes_late_counts_what_was_built_without_one,
    enabling_a_blueprint_wakes_those_who_wait,
    all_who_wait_for_a_deleted_blueprint_are_told,
    an_undrained_resource_wakes_those_who_wait,
    demand_that_can_never_fit_is_refused_at_the_door,
    nothing_is_leased_on_what_has_begun_to_go,
    a_lease_that_is_woken_for_nothing_has_no_second_one_built,
    a_resource_takes_so_many_leases_and_no_more,
    a_dry_run_says_what_would_be_and_makes_nothing,
}

/// A stock of one that stays: it is built once and then leased in turn.
pub(crate) fn lasting(world: &Arc<World>, name: &'static str, resources: i64, leases: i64) -> TestKind {
    TestKind::new(world, name).limit(resources).with(|kind| {
        kind.stays = true;
        kind.leases_per_resource = leases;
    })
}

/// Takes a kind's resources down, for those that stay.
pub(crate) async fn take_down(bench: &Bench, of: &str) {
    for resource in bench.resources(of).await {
        eventually("nobody has it any more", async || {
            bench.engine().release_resource(&admin(), resource.id.as_str(), false, None).await.ok()
        })
        .await;
    }
}

/// Gives leases back and takes down what stays of these types: then nothing is left.
pub(super) async fn end(bench: &Bench, leases: &[LeaseId], types: &[&str]) {
    for lease in leases {
        bench.release(lease).await;
    }
    bench.idle().await;
    for of in types {
        take_down(bench, of).await;
    }
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_explanation_names_what_the_caller_may_see() {
    let world = Arc::new(World::default());
    let kind = TestKind::new(&world, "box").limit(1).limits(|limits| limits.shared = true);
    let bench = Bench::start(2, Arc::clone(&world), vec![kind]).await;
    let theirs = bench.queue_as(&user("alice"), ask("box")).await.unwrap();
    bench.reaches(&theirs, LeaseState::Active).await;
    let mine = bench.queue_as(&user("bob"), ask("box")).await.unwrap();
    bench.idle().await;
    let subject = ExplainSubject::Lease(mine.to_string());
    let told = bench.engine().explain_lease(&user("bob"), subject.clone()).await.unwrap();
    let holder = bench.resources("box").await.remove(0).id;
    let text = format!("{told:?}");
    assert!(!text.contains(theirs.as_str()) && !text.contains(holder.as_str()), "{text}");
    assert_eq!((told.queue_position, told.remedies.len()), (Some(1), 0), "{text}");
    assert!(text.contains("LIMIT_REACHED") && text.contains("1 of 1 resources built"), "{text}");
    let told = format!("{:?}", bench.engine().explain_lease(&admin(), subject).await.unwrap());
    assert!(told.contains(theirs.as_str()) && told.contains(holder.as_str()), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_leases_on_a_limit_of_one_finish_in_turn() {
    let world = Arc::new(World::default());
    let bench = Bench::start(4, Arc::clone(&world), vec![TestKind::new(&world, "box").limit(1)]).await;
    let mut leases = Vec::new();
    for _ in 0..5 {
        leases.push(bench.queue(ask("box")).await);
    }
    bench.reaches(&leases[0], LeaseState::Active).await;
    bench.idle().await;
    let third = ExplainSubject::Lease(leases[2].to_string());
    let explained = bench.engine().explain_lease(&admin(), third).await.unwrap();
    assert_eq!(explained.queue_position, Some(2));
    let holder = bench.resources("box").await.remove(0).id;
    let blocked = explained.waiting.unwrap().blocked_by;
    assert!(blocked.contains(&holder.to_string()), "{blocked:?}");
    for (turn, lease) in leases.iter().enumerate() {
        bench.reaches(lease, LeaseState::Active).await;
        for later in &leases[turn + 1..] {
            assert_eq!(bench.state(later).await, LeaseState::Pending);
        }
        assert_eq!(bench.resources("box").await.len(), 1);
        invariants::assert_hold(&bench.database()).await;
        bench.release(lease).await;
    }
    assert_eq!(world.calls(Phase::Build, "box").len(), 5);
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_timeout_leaves_nothing() {
    let world = Arc::new(World::default());
    let kinds = vec![TestKind::new(&world, "box").limit(1).needing(&["part"]), TestKind::new(&world, "part")];
    let bench = Bench::start(2, Arc::clone(&world), kinds).await;
    let first = bench.queue(ask("box")).await;
    bench.reaches(&first, LeaseState::Active).await;
    let patience = Some(Duration::from_secs(5));
    let queued = bench.queue(Acquire { queue_timeout: patience, ..ask("box") }).await;
    bench.idle().await;
    bench.clock.advance(Duration::from_secs(6));
    assert_eq!(bench.reaches(&queued, LeaseState::Destroyed).await.state_reason, "QUEUE_TIMEOUT");
    bench.release(&first).await;
    bench.reaches(&first, LeaseState::Destroyed).await;
    // The same while its part is being built.
    let gate = Gate::new();
    world.will("part", Phase::Build, [Fate::Block(Arc::clone(&gate))]);
    let building = bench.queue(Acquire { queue_timeout: patience, ..ask("box") }).await;
    gate.begun().await;
    bench.clock.advance(Duration::from_secs(6));
    assert_eq!(bench.reaches(&building, LeaseState::Destroyed).await.state_reason, "QUEUE_TIMEOUT");
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raised_limit_wakes_as_many_as_now_fit() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![TestKind::new(&world, "box").limit(1)]).await;
    let mut leases = Vec::new();
    for _ in 0..4 {
        leases.push(bench.queue(ask("box")).await);
    }
    bench.reaches(&leases[0], LeaseState::Active).await;
    bench.idle().await;
    bench.limit("box", |limits| limits.max_resources = Some(3)).await;
    bench.reaches(&leases[1], LeaseState::Active).await;
    bench.reaches(&leases[2], LeaseState::Active).await;
    bench.idle().await;
    assert_eq!(bench.state(&leases[3]).await, LeaseState::Pending);
    for lease in &leases {
        bench.release(lease).await;
    }
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_comes_late_counts_what_was_built_without_one() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![TestKind::new(&world, "box")]).await;
    let one = bench.queue(ask("box")).await;
    let two = bench.queue(ask("box")).await;
    bench.reaches(&one, LeaseState::Active).await;
    bench.reaches(&two, LeaseState::Active).await;
    bench.limit("box", |limits| limits.max_resources = Some(2)).await;
    let third = bench.queue(ask("box")).await;
    bench.idle().await;
    assert_eq!((bench.state(&third).await, bench.resources("box").await.len()), (LeaseState::Pending, 2));
    bench.release(&one).await;
    bench.reaches(&third, LeaseState::Active).await;
    bench.release(&two).await;
    bench.release(&third).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enabling_a_blueprint_wakes_those_who_wait() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![TestKind::new(&world, "box").limit(1)]).await;
    let holder = bench.queue(ask("box")).await;
    bench.reaches(&holder, LeaseState::Active).await;
    let (one, two) = (bench.queue(ask("box")).await, bench.queue(ask("box")).await);
    bench.idle().await;
    bench.engine().set_blueprint_enabled(&admin(), "box", false, None).await.unwrap();
    bench.release(&holder).await;
    bench.reaches(&holder, LeaseState::Destroyed).await;
    for lease in [&one, &two] {
        eventually("both are told that the blueprint pauses", async || {
            let lease = bench.lease(lease).await;
            lease.waiting.filter(|waiting| waiting.reason == "BLUEPRINT_PAUSED")
        })
        .await;
    }
    let refused = bench.queue_as(&admin(), ask("box")).await.unwrap_err();
    assert_eq!(refused.reason, Reason::NoBlueprint);
    bench.engine().set_blueprint_enabled(&admin(), "box", true, None).await.unwrap();
    bench.reaches(&one, LeaseState::Active).await;
    bench.release(&one).await;
    bench.reaches(&two, LeaseState::Active).await;
    bench.release(&two).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_who_wait_for_a_deleted_blueprint_are_told() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![TestKind::new(&world, "box").limit(1)]).await;
    let holder = bench.queue(ask("box")).await;
    bench.reaches(&holder, LeaseState::Active).await;
    let mut waiters = Vec::new();
    for _ in 0..3 {
        waiters.push(bench.queue(ask("box")).await);
    }
    bench.idle().await;
    bench.engine().set_blueprint_enabled(&admin(), "box", false, None).await.unwrap();
    bench.release(&holder).await;
    bench.reaches(&holder, LeaseState::Destroyed).await;
    eventually("the last resource is gone", async || bench.resources("box").await.is_empty().then_some(())).await;
    bench.idle().await;
    bench.engine().delete_blueprint(&admin(), "box", "", None).await.unwrap();
    for waiter in &waiters {
        assert_eq!(bench.reaches(waiter, LeaseState::Destroyed).await.state_reason, "BLUEPRINT_GONE");
    }
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undrained_resource_wakes_those_who_wait() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![lasting(&world, "host", 1, 2)]).await;
    let holder = bench.queue(ask("host")).await;
    bench.reaches(&holder, LeaseState::Active).await;
    let host = bench.resources("host").await.remove(0).id;
    bench.engine().drain_resource(&admin(), host.as_str(), "new disk", None).await.unwrap();
    let (one, two) = (bench.queue(ask("host")).await, bench.queue(ask("host")).await);
    bench.idle().await;
    assert_eq!(bench.lease(&one).await.waiting.unwrap().reason, "NO_HEALTHY_RESOURCE");
    assert_eq!(bench.state(&holder).await, LeaseState::Active, "who has it keeps it");
    bench.engine().undrain_resource(&admin(), host.as_str(), None).await.unwrap();
    bench.reaches(&one, LeaseState::Active).await;
    bench.idle().await;
    assert_eq!(bench.state(&two).await, LeaseState::Pending, "there is only one place");
    bench.release(&holder).await;
    bench.reaches(&two, LeaseState::Active).await;
    bench.release(&one).await;
    bench.release(&two).await;
    take_down(&bench, "host").await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demand_that_can_never_fit_is_refused_at_the_door() {
    let world = Arc::new(World::default());
    let kinds = vec![TestKind::new(&world, "pair").needing(&["box", "box"]), TestKind::new(&world, "box").limit(1)];
    let bench = Bench::start(1, Arc::clone(&world), kinds).await;
    let refused = bench.queue_as(&admin(), ask("pair")).await.unwrap_err();
    assert_eq!(refused.reason, Reason::CapacityNever);
    assert!(bench.engine().store().list_leases(&drydock::store::ListQuery::default(), true).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[should_panic(expected = "would close a circle: box needs crate needs box")]
async fn types_that_need_each_other_in_a_circle_are_refused() {
    let world = Arc::new(World::default());
    let kinds =
        vec![TestKind::new(&world, "box").needing(&["crate"]), TestKind::new(&world, "crate").needing(&["box"])];
    // It applies the one, and then the other.
    Bench::start(1, Arc::clone(&world), kinds).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_leased_on_what_has_begun_to_go() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![lasting(&world, "host", 1, 2)]).await;
    let first = bench.queue(ask("host")).await;
    let goes = bench.reaches(&first, LeaseState::Active).await.resource_id.unwrap();
    let gate = Gate::new();
    world.will("host", Phase::Clean, [Fate::Slow(Arc::clone(&gate))]);
    bench.engine().release_resource(&admin(), goes.as_str(), true, None).await.unwrap();
    gate.begun().await;
    // It is there as long as the clean-up on it takes, and one of its places is free.
    let next = bench.queue(ask("host")).await;
    bench.idle_but_one().await;
    assert_eq!(bench.state(&next).await, LeaseState::Pending);
    gate.open();
    assert_ne!(bench.reaches(&next, LeaseState::Active).await.resource_id, Some(goes));
    end(&bench, &[next], &["host"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_woken_for_nothing_has_no_second_one_built() {
    let world = Arc::new(World::default());
    let gate = Gate::new();
    world.will("box", Phase::Build, [Fate::Slow(Arc::clone(&gate))]);
    let bench = Bench::start(2, Arc::clone(&world), vec![TestKind::new(&world, "box")]).await;
    let lease = bench.queue(ask("box")).await;
    gate.begun().await;
    let task = bench.task_of(lease.as_str()).await.unwrap();
    for _ in 0..3 {
        bench.engine().retry_task(&admin(), task.id.as_str(), None).await.unwrap();
        bench.idle_but_one().await;
    }
    assert_eq!(bench.resources("box").await.len(), 1);
    gate.open();
    bench.reaches(&lease, LeaseState::Active).await;
    end(&bench, &[lease], &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_takes_so_many_leases_and_no_more() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![lasting(&world, "host", 1, 3)]).await;
    let mut leases = Vec::new();
    for _ in 0..5 {
        leases.push(bench.queue(ask("host")).await);
    }
    for lease in &leases[..3] {
        bench.reaches(lease, LeaseState::Active).await;
    }
    bench.idle().await;
    for lease in &leases[3..] {
        assert_eq!(bench.state(lease).await, LeaseState::Pending);
    }
    bench.release(&leases[1]).await;
    bench.reaches(&leases[3], LeaseState::Active).await;
    bench.idle().await;
    assert_eq!(bench.state(&leases[4]).await, LeaseState::Pending, "one place was given back");
    end(&bench, &leases, &["host"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_says_what_would_be_and_makes_nothing() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![TestKind::new(&world, "box").limit(1)]).await;
    let told = async || bench.engine().explain_lease(&admin(), ExplainSubject::Ask(ask("box"))).await.unwrap();
    let free = told().await;
    assert_eq!((free.waiting.unwrap().reason.as_str(), free.queue_position), ("BUILDING", None));
    assert_eq!(free.verdicts.iter().filter(|verdict| verdict.eligible).count(), 1);
    bench.idle().await;
    assert!(bench.resources("box").await.is_empty() && bench.engine().store().slots().await.unwrap().is_empty());
    let holder = bench.queue(ask("box")).await;
    bench.reaches(&holder, LeaseState::Active).await;
    let full = told().await;
    assert_eq!((full.waiting.unwrap().reason.as_str(), full.queue_position), ("LIMIT_REACHED", Some(1)));
    let all = bench.engine().store().list_leases(&drydock::store::ListQuery::default(), true).await.unwrap();
    assert_eq!(all.iter().map(|lease| &lease.id).collect::<Vec<_>>(), [&holder]);
    end(&bench, &[holder], &[]).await;
}
