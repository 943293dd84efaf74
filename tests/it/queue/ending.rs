//! Ends: cancelled while it is built, at every step; released in use; expired; forced.

use std::sync::Arc;
use std::time::Duration;

use drydock::engine::Acquire;
use drydock::error::Reason;
use drydock::model::{LeaseState, ResourceState};

use super::kit::{Bench, Fate, Gate, Phase, TestKind, World, admin, ask, eventually};

// But for the caller that leaves while it gives back: there a look is a trip to the server, during which nothing is given back.
crate::postgres::on_postgres_too! {
    a_cascade_cancelled_at_any_call_leaves_nothing,
    a_cascade_cancelled_after_any_commit_leaves_nothing,
    a_build_that_nobody_wants_any_more_is_told,
    a_host_lease_in_use_is_not_released_unless_forced,
    a_released_resource_takes_its_leases_along_only_by_force,
    a_part_that_is_torn_out_by_force_breaks_the_whole,
    an_expired_lease_ends_with_its_whole_tree,
    a_restart_in_the_middle_goes_on_with_the_same_lease,
    what_a_daemon_has_claimed_goes_back_when_it_stops,
}

/// A small sandcastle: a top on a host, with two branches, one of them with a part of its own.
/// Between two moments that are tried: a whole engine on a database of its own for each costs more than a file.
fn stride() -> usize {
    if crate::postgres::is_chosen() { 9 } else { 1 }
}

fn castle(world: &Arc<World>) -> Vec<TestKind> {
    vec![
        TestKind::new(world, "castle").needing(&["host", "tower", "wall"]),
        TestKind::new(world, "tower").needing(&["flag"]),
        TestKind::new(world, "wall"),
        TestKind::new(world, "flag"),
        TestKind::new(world, "host").with(|kind| kind.instant = true),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cascade_cancelled_at_any_call_leaves_nothing() {
    for workers in [1, 2] {
        let mut reached_the_end = false;
        for number in (0..).step_by(stride()) {
            let world = Arc::new(World::default());
            let gate = Gate::new();
            world.stop_at(number, &gate);
            let bench = Bench::start(workers, Arc::clone(&world), castle(&world)).await;
            let root = bench.queue(ask("castle")).await;
            eventually("it stands still, or is done", async || {
                let done = bench.state(&root).await == LeaseState::Active;
                (world.count() > number || done).then_some(())
            })
            .await;
            reached_the_end = world.count() <= number;
            bench.release(&root).await;
            gate.open();
            let root = bench.reaches(&root, LeaseState::Destroyed).await;
            assert!(["CANCELLED", "RELEASED_BY_CALLER"].contains(&root.state_reason.as_str()), "{root:?}");
            bench.assert_nothing_left().await;
            if reached_the_end {
                assert!(number > 10, "only {number} calls to cancel at");
                break;
            }
        }
        assert!(reached_the_end);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cascade_cancelled_after_any_commit_leaves_nothing() {
    for number in (1..40).step_by(stride()) {
        let world = Arc::new(World::default());
        let bench = Bench::start(2, Arc::clone(&world), castle(&world)).await;
        let mut news = bench.engine().store().news();
        let root = bench.queue(ask("castle")).await;
        for _ in 0..number {
            // The last ones do not come when the castle stands.
            if bench.state(&root).await != LeaseState::Active {
                news.recv().await.unwrap();
            }
        }
        bench.release(&root).await;
        bench.reaches(&root, LeaseState::Destroyed).await;
        bench.assert_nothing_left().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_nobody_wants_any_more_is_told() {
    let world = Arc::new(World::default());
    let gate = Gate::new();
    let bench = Bench::start(1, Arc::clone(&world), castle(&world)).await;
    world.will("flag", Phase::Build, [Fate::Block(Arc::clone(&gate))]);
    let root = bench.queue(ask("castle")).await;
    gate.begun().await;
    bench.release(&root).await;
    // The gate stays shut: it is the cancelling that ends the step.
    bench.reaches(&root, LeaseState::Destroyed).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_lease_in_use_is_not_released_unless_forced() {
    let world = Arc::new(World::default());
    let kinds = vec![
        TestKind::new(&world, "host").with(|kind| kind.leases_per_resource = 4),
        TestKind::new(&world, "box").with(|kind| kind.instant = true),
    ];
    let bench = Bench::start(2, Arc::clone(&world), kinds).await;
    let host = bench.queue(ask("host")).await;
    bench.reaches(&host, LeaseState::Active).await;
    let placed = Acquire { attributes: [("host".to_owned(), host.to_string())].into(), ..ask("box") };
    let tenant = bench.queue(placed).await;
    bench.reaches(&tenant, LeaseState::Active).await;
    let refused = bench.engine().release_lease(&admin(), host.as_str(), "", false, None, Duration::ZERO).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.reason, Reason::LeaseInUse);
    assert!(refused.message.contains(tenant.as_str()), "{refused}");
    assert_eq!(bench.state(&host).await, LeaseState::Active);
    bench.engine().release_lease(&admin(), host.as_str(), "", true, None, Duration::ZERO).await.unwrap();
    bench.reaches(&host, LeaseState::Destroyed).await;
    let tenant = bench.reaches(&tenant, LeaseState::Destroyed).await;
    assert_eq!(tenant.state_reason, "RESOURCE_RELEASED");
    let order = [world.calls(Phase::Destroy, "box"), world.calls(Phase::Clean, "host")];
    assert!(order.iter().all(|calls| calls.len() == 1), "{order:?}");
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_released_resource_takes_its_leases_along_only_by_force() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![TestKind::new(&world, "box")]).await;
    let lease = bench.queue(ask("box")).await;
    bench.reaches(&lease, LeaseState::Active).await;
    let resource = bench.resources("box").await.remove(0).id;
    let refused = bench.engine().release_resource(&admin(), resource.as_str(), false, None).await.unwrap_err();
    assert_eq!(refused.reason, Reason::ResourceInUse);
    bench.engine().release_resource(&admin(), resource.as_str(), true, None).await.unwrap();
    assert_eq!(bench.reaches(&lease, LeaseState::Destroyed).await.state_reason, "RESOURCE_RELEASED");
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_is_torn_out_by_force_breaks_the_whole() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), castle(&world)).await;
    let root = bench.queue(ask("castle")).await;
    bench.reaches(&root, LeaseState::Active).await;
    let tree = bench.engine().store().tree(&root).await.unwrap();
    let flag = tree.iter().find(|lease| lease.spec.resource_type == "flag").unwrap();
    let refused = bench.engine().release_lease(&admin(), flag.id.as_str(), "", false, None, Duration::ZERO).await;
    assert_eq!(refused.unwrap_err().reason, Reason::LeaseInUse);
    bench.engine().release_lease(&admin(), flag.id.as_str(), "", true, None, Duration::ZERO).await.unwrap();
    let root = bench.reaches(&root, LeaseState::Destroyed).await;
    assert_eq!(root.state_reason, "RESOURCE_BROKEN");
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_lease_ends_with_its_whole_tree() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), castle(&world)).await;
    let root = bench.queue(Acquire { ttl: Some(Duration::from_mins(5)), ..ask("castle") }).await;
    bench.reaches(&root, LeaseState::Active).await;
    bench.clock.advance(Duration::from_mins(4));
    bench.idle().await;
    assert_eq!(bench.state(&root).await, LeaseState::Active);
    bench.clock.advance(Duration::from_mins(2));
    assert_eq!(bench.reaches(&root, LeaseState::Destroyed).await.state_reason, "EXPIRED");
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_in_the_middle_goes_on_with_the_same_lease() {
    let world = Arc::new(World::default());
    let gate = Gate::new();
    let mut bench = Bench::start(2, Arc::clone(&world), castle(&world)).await;
    world.will("wall", Phase::Build, [Fate::Block(Arc::clone(&gate))]);
    let root = bench.queue(ask("castle")).await;
    gate.begun().await;
    bench.restart(0).await;
    let wall = bench.resources("wall").await.remove(0);
    let task = bench.task_of(wall.id.as_str()).await.unwrap();
    assert_eq!((task.failures, task.crashes), (0, 0), "the daemon's end is no failure of the build: {task:?}");
    bench.restart(1).await;
    bench.reaches_in_time(&root, LeaseState::Active).await;
    let tree = bench.engine().store().tree(&root).await.unwrap();
    assert_eq!(tree.len(), 5, "nothing was made twice");
    assert!(bench.resources("wall").await.iter().all(|wall| wall.state == ResourceState::Active));
    bench.release(&root).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_daemon_has_claimed_goes_back_when_it_stops() {
    let world = Arc::new(World::default());
    let gate = Gate::new();
    let mut bench = Bench::start(1, Arc::clone(&world), vec![TestKind::new(&world, "box")]).await;
    world.will("box", Phase::Prepare, [Fate::Slow(Arc::clone(&gate))]);
    let first = bench.queue(ask("box")).await;
    gate.begun().await;
    let second = bench.queue(ask("box")).await;
    // The commit of the step that ends while the daemon stops claims the next one, which nobody will take there.
    let engine = Arc::clone(bench.engine());
    let stops = async move {
        eventually("it stops", async || engine.is_draining().then_some(())).await;
        gate.open();
    };
    futures::future::join(bench.restart(0), stops).await;
    for lease in [&first, &second] {
        let task = bench.task_of(lease.as_str()).await.unwrap();
        assert_eq!((task.crashes, task.failures, task.claimed_by.as_deref()), (0, 0, None), "{task:?}");
    }
    bench.restart(1).await;
    for lease in [&first, &second] {
        bench.reaches(lease, LeaseState::Active).await;
        bench.release(lease).await;
    }
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_leaves_while_it_gives_back_takes_no_claim_along() {
    let world = Arc::new(World::default());
    let bench = Bench::start(1, Arc::clone(&world), castle(&world)).await;
    for polls in 1..4 {
        let root = bench.queue(ask("castle")).await;
        bench.reaches(&root, LeaseState::Active).await;
        let (engine, caller) = (bench.engine(), admin());
        let mut release = Box::pin(engine.release_lease(&caller, root.as_str(), "", false, None, Duration::ZERO));
        for _ in 0..polls {
            let _ = futures::poll!(&mut release);
        }
        drop(release);
        bench.reaches(&root, LeaseState::Destroyed).await;
    }
    bench.assert_nothing_left().await;
}
