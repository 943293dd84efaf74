//! What does not work: once, five times, for good; in building, setting up and cleaning up; and steps that panic.

use std::sync::Arc;
use std::time::Duration;

use drydock::clock::{Clock as _, span};
use drydock::error::Reason;
use drydock::model::{LeaseState, ResourceState};
use drydock::store::ListQuery;

use super::capacity::{end, lasting, take_down};
use super::invariants;
use super::kit::{Bench, Fate, Gate, Phase, TestKind, World, admin, ask, eventually, user};

crate::postgres::on_postgres_too! {
    a_part_that_can_never_be_had_breaks_the_lease_with_the_end_of_the_output,
    what_fails_now_and_then_is_tried_again_later,
    three_resources_that_cannot_be_built_break_the_lease,
    a_resource_that_breaks_under_the_set_up_is_replaced,
    a_clean_up_that_fails_keeps_its_slot_and_is_shown_until_it_works,
    a_resource_is_healthy_again_when_the_failed_clean_up_on_it_works,
    a_step_that_panics_does_not_take_the_worker_along,
    a_build_that_always_panics_breaks_the_lease_in_the_end,
    a_blueprint_that_asks_for_what_it_has_breaks_its_lease,
    a_resource_that_cannot_be_built_is_taken_down_before_the_next_try,
    a_lease_is_not_set_up_on_what_has_gone_meanwhile,
    what_has_failed_waits_longer_and_longer,
    what_waits_to_be_tried_again_is_woken_like_any_other,
    an_operator_has_a_task_tried_again_at_once,
}

fn pair(world: &Arc<World>) -> Vec<TestKind> {
    vec![
        TestKind::new(world, "top").needing(&["part", "other"]),
        TestKind::new(world, "part"),
        TestKind::new(world, "other"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_can_never_be_had_breaks_the_lease_with_the_end_of_the_output() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), pair(&world)).await;
    let gate = Gate::new();
    // The sibling is being built meanwhile; it goes too.
    world.will("other", Phase::Build, [Fate::Block(Arc::clone(&gate))]);
    world.will("part", Phase::Build, [Fate::Refuse]);
    let root = bench.queue(ask("top")).await;
    let root = bench.reaches(&root, LeaseState::Destroyed).await;
    assert_eq!(root.state_reason, "BUILD_FAILED");
    assert!(root.state_message.contains("it can never work"), "{}", root.state_message);
    assert_eq!(world.calls(Phase::Build, "part").len(), 1);
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_now_and_then_is_tried_again_later() {
    let world = Arc::new(World::default());
    let bench = Bench::start(1, Arc::clone(&world), vec![TestKind::new(&world, "box")]).await;
    world.will("box", Phase::Build, [Fate::Fail, Fate::Fail, Fate::Fail]);
    world.will("box", Phase::Prepare, [Fate::Fail, Fate::Fail]);
    let lease = bench.queue(ask("box")).await;
    bench.reaches_in_time(&lease, LeaseState::Active).await;
    assert_eq!(world.calls(Phase::Build, "box").len(), 4);
    assert_eq!(world.calls(Phase::Prepare, "box").len(), 3);
    bench.release(&lease).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_resources_that_cannot_be_built_break_the_lease() {
    let world = Arc::new(World::default());
    let bench = Bench::start(1, Arc::clone(&world), vec![TestKind::new(&world, "box").limit(1)]).await;
    world.will("box", Phase::Build, vec![Fate::Fail; 15]);
    let lease = bench.queue(ask("box")).await;
    let lease = bench.reaches_in_time(&lease, LeaseState::Destroyed).await;
    assert_eq!(lease.state_reason, "BUILD_FAILED");
    assert!(lease.state_message.contains("the end of the output"), "{}", lease.state_message);
    let built = world.calls(Phase::Build, "box");
    assert_eq!(built.len(), 15);
    let resources: std::collections::BTreeSet<_> = built.into_iter().collect();
    assert_eq!(resources.len(), 3, "five tries for each of three");
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_that_breaks_under_the_set_up_is_replaced() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), pair(&world)).await;
    let gate = Gate::new();
    world.will("top", Phase::Prepare, [Fate::Slow(Arc::clone(&gate))]);
    let root = bench.queue(ask("top")).await;
    gate.begun().await;
    let tree = bench.engine().store().tree(&root).await.unwrap();
    let part = tree.iter().find(|lease| lease.spec.resource_type == "part").unwrap();
    let first = bench.lease(&root).await.resource_id.unwrap();
    bench.engine().release_lease(&admin(), part.id.as_str(), "", true, None, Duration::ZERO).await.unwrap();
    bench.idle_but_one().await;
    gate.open();
    let root = bench.reaches(&root, LeaseState::Active).await;
    assert_ne!(root.resource_id.unwrap(), first);
    assert_eq!(root.reacquires, 1);
    // It holds nothing of what it had before.
    invariants::assert_hold(&bench.database()).await;
    bench.release(&root.id).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_up_that_fails_keeps_its_slot_and_is_shown_until_it_works() {
    let world = Arc::new(World::default());
    let bench = Bench::start(1, Arc::clone(&world), vec![TestKind::new(&world, "box").limit(1)]).await;
    let first = bench.queue(ask("box")).await;
    bench.reaches(&first, LeaseState::Active).await;
    let second = bench.queue(ask("box")).await;
    world.will("box", Phase::Destroy, vec![Fate::Fail; 3]);
    bench.release(&first).await;
    let failing = eventually("it is shown", async || {
        bench.resources("box").await.into_iter().find(|resource| resource.cleanup_failures > 0)
    })
    .await;
    assert!(failing.problem.contains("it did not work"), "{}", failing.problem);
    assert_eq!(bench.state(&second).await, LeaseState::Pending, "its place is still taken");
    assert_eq!(bench.state(&first).await, LeaseState::Released, "something of it is left");
    bench.reaches_in_time(&second, LeaseState::Active).await;
    bench.reaches(&first, LeaseState::Destroyed).await;
    assert_eq!(world.calls(Phase::Destroy, "box").len(), 4);
    bench.release(&second).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_is_healthy_again_when_the_failed_clean_up_on_it_works() {
    let world = Arc::new(World::default());
    let bench = Bench::start(1, Arc::clone(&world), vec![lasting(&world, "host", 1, 2)]).await;
    let first = bench.queue(ask("host")).await;
    bench.reaches(&first, LeaseState::Active).await;
    world.will("host", Phase::Clean, [Fate::Fail, Fate::Fail]);
    bench.release(&first).await;
    eventually("it is shown", async || bench.resources("host").await.into_iter().find(|host| !host.problem.is_empty()))
        .await;
    // The failed one keeps its own place; the other place is as good as ever.
    let second = bench.queue(ask("host")).await;
    bench.reaches(&second, LeaseState::Active).await;
    bench.reaches_in_time(&first, LeaseState::Destroyed).await;
    let host = bench.resources("host").await.remove(0);
    assert_eq!((host.problem.as_str(), host.cleanup_failures), ("", 0));
    bench.release(&second).await;
    bench.idle().await;
    take_down(&bench, "host").await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_panics_does_not_take_the_worker_along() {
    let world = Arc::new(World::default());
    let bench = Bench::start(1, Arc::clone(&world), pair(&world)).await;
    world.will("part", Phase::Build, [Fate::Panic, Fate::Panic]);
    world.will("top", Phase::Clean, [Fate::Panic]);
    let root = bench.queue(ask("top")).await;
    bench.reaches_in_time(&root, LeaseState::Active).await;
    bench.release(&root).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_always_panics_breaks_the_lease_in_the_end() {
    let world = Arc::new(World::default());
    let bench = Bench::start(1, Arc::clone(&world), pair(&world)).await;
    world.will("part", Phase::Build, vec![Fate::Panic; 1000]);
    let root = bench.queue(ask("top")).await;
    let root = bench.reaches_in_time(&root, LeaseState::Destroyed).await;
    assert_eq!(root.state_reason, "BUILD_FAILED");
    assert!(root.state_message.contains("a blueprint that panics"), "{}", root.state_message);
    assert!(world.calls(Phase::Build, "part").len() <= 15, "{}", world.calls(Phase::Build, "part").len());
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blueprint_that_asks_for_what_it_has_breaks_its_lease() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), pair(&world)).await;
    world.will("top", Phase::Build, vec![Fate::AskAgain; 1000]);
    let root = bench.queue(ask("top")).await;
    let root = bench.reaches_in_time(&root, LeaseState::Destroyed).await;
    assert_eq!(root.state_reason, "BUILD_FAILED");
    assert!(root.state_message.contains("asks for leases that it has"), "{}", root.state_message);
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_that_cannot_be_built_is_taken_down_before_the_next_try() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![TestKind::new(&world, "box").limit(1)]).await;
    world.will("box", Phase::Build, vec![Fate::Fail; 5]);
    let lease = bench.queue(ask("box")).await;
    let lease = bench.reaches_in_time(&lease, LeaseState::Active).await;
    assert_eq!(lease.reacquires, 1);
    let live = bench.resources("box").await;
    assert_eq!(live.iter().map(|resource| resource.state).collect::<Vec<_>>(), [ResourceState::Active]);
    bench.release(&lease.id).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_failed_waits_longer_and_longer() {
    let world = Arc::new(World::default());
    let bench = Bench::start(1, Arc::clone(&world), vec![TestKind::new(&world, "box")]).await;
    // Setting up: no blueprint pauses for that.
    world.will("box", Phase::Prepare, vec![Fate::Fail; 4]);
    let lease = bench.queue(ask("box")).await;
    for failures in 1..=4_u32 {
        let task = eventually("it has failed", async || {
            bench.task_of(lease.as_str()).await.filter(|task| task.failures == i64::from(failures))
        })
        .await;
        assert_eq!(world.calls(Phase::Prepare, "box").len(), usize::try_from(failures).unwrap(), "not at once");
        let left = task.run_at.expect("it has a time") - bench.clock.now();
        let most = 1_000_000 * 2_i64.pow(failures - 1);
        assert!((1..=most).contains(&left), "{left} µs after {failures} failures");
        bench.clock.advance(span(left));
    }
    bench.reaches(&lease, LeaseState::Active).await;
    bench.release(&lease).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_to_be_tried_again_is_woken_like_any_other() {
    let world = Arc::new(World::default());
    let bench = Bench::start(1, Arc::clone(&world), vec![TestKind::new(&world, "box")]).await;
    world.will("box", Phase::Prepare, [Fate::Fail]);
    let lease = bench.queue(ask("box")).await;
    eventually("it has failed", async || bench.task_of(lease.as_str()).await.filter(|task| task.failures == 1)).await;
    bench.idle().await;
    // The clock stands still: only the wake brings it on.
    bench.release(&lease).await;
    bench.reaches(&lease, LeaseState::Destroyed).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_has_a_task_tried_again_at_once() {
    let world = Arc::new(World::default());
    let bench = Bench::start(1, Arc::clone(&world), vec![TestKind::new(&world, "box")]).await;
    world.will("box", Phase::Prepare, [Fate::Fail]);
    let lease = bench.queue_as(&user("ann"), ask("box")).await.unwrap();
    eventually("it has failed", async || bench.task_of(lease.as_str()).await.filter(|task| task.failures == 1)).await;
    bench.idle().await;
    let query = ListQuery { limit: 99, ..ListQuery::default() };
    let listed = bench.engine().list_tasks(&admin(), query.clone()).await.unwrap();
    let task = listed.into_iter().find(|task| task.subject.as_str() == lease.as_str()).unwrap();
    assert!(task.last_error.contains("it did not work"), "{}", task.last_error);
    // Whose lease it is has no say in it.
    assert!(bench.engine().list_tasks(&user("ann"), query).await.unwrap().is_empty());
    let refused = bench.engine().retry_task(&user("ann"), task.id.as_str(), None).await.unwrap_err();
    assert_eq!(refused.reason, Reason::TaskNotFound);
    assert_eq!(world.calls(Phase::Prepare, "box").len(), 1);
    // No clock is turned.
    bench.engine().retry_task(&admin(), task.id.as_str(), None).await.unwrap();
    bench.reaches(&lease, LeaseState::Active).await;
    bench.release(&lease).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_not_set_up_on_what_has_gone_meanwhile() {
    let world = Arc::new(World::default());
    let gate = Gate::new();
    // The only worker sets it up while its resource is released, so that nobody takes that down before.
    let bench = Bench::start(1, Arc::clone(&world), vec![lasting(&world, "box", 1, 1)]).await;
    world.will("box", Phase::Prepare, [Fate::Slow(Arc::clone(&gate))]);
    let lease = bench.queue(ask("box")).await;
    gate.begun().await;
    let first = bench.lease(&lease).await.resource_id.unwrap();
    bench.engine().release_resource(&admin(), first.as_str(), true, None).await.unwrap();
    gate.open();
    let lease = bench.reaches(&lease, LeaseState::Active).await;
    assert_eq!((lease.resource_id == Some(first), lease.reacquires), (false, 1));
    end(&bench, &[lease.id], &["box"]).await;
}
