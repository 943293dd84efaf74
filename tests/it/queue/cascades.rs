//! Trees of leases: depth, width, parallel branches, parts that meet.

use std::sync::Arc;
use std::time::Duration;

use drydock::model::{LeaseState, ResourceState};

use super::kit::{Bench, Fate, Gate, Phase, TestKind, World, admin, ask, eventually};

crate::postgres::on_postgres_too! {
    one_worker_finishes_a_cascade_of_depth_sixteen_without_a_timer,
    siblings_are_built_at_the_same_time_by_four_workers,
    a_parent_that_waits_holds_no_worker,
    two_that_need_the_same_thing_share_what_one_builds,
    a_part_that_is_met_between_the_look_and_the_commit_is_no_failure,
}

const LEVELS: [&str; 16] =
    ["l00", "l01", "l02", "l03", "l04", "l05", "l06", "l07", "l08", "l09", "l10", "l11", "l12", "l13", "l14", "l15"];

/// A spine of sixteen types, each with three leaves beside the next.
fn spine(world: &Arc<World>) -> Vec<TestKind> {
    let mut kinds = vec![TestKind::new(world, "leaf")];
    for (depth, name) in LEVELS.into_iter().enumerate() {
        let kind = TestKind::new(world, name);
        kinds.push(match LEVELS.get(depth + 1) {
            Some(below) => kind.needing(&["leaf", below, "leaf", "leaf"]),
            None => kind,
        });
    }
    kinds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_worker_finishes_a_cascade_of_depth_sixteen_without_a_timer() {
    let world = Arc::new(World::default());
    let bench = Bench::start(1, Arc::clone(&world), spine(&world)).await;
    let root = bench.queue(ask("l00")).await;
    bench.reaches(&root, LeaseState::Active).await;
    let tree = bench.engine().store().tree(&root).await.unwrap();
    assert_eq!(tree.len(), 16 + 15 * 3);
    assert!(tree.iter().all(|lease| lease.state == LeaseState::Active));
    bench.idle().await;
    bench.release(&root).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn siblings_are_built_at_the_same_time_by_four_workers() {
    let world = Arc::new(World::default());
    let kinds =
        vec![TestKind::new(&world, "top").needing(&["part", "part", "part", "part"]), TestKind::new(&world, "part")];
    let gates: Vec<_> = (0..4).map(|_| Gate::new()).collect();
    world.will("part", Phase::Build, gates.iter().cloned().map(Fate::Block));
    let bench = Bench::start(4, Arc::clone(&world), kinds).await;
    let root = bench.queue(ask("top")).await;
    for gate in &gates {
        gate.begun().await;
    }
    // All four stand still at once: no worker waits for another's work.
    for gate in &gates {
        gate.open();
    }
    bench.reaches(&root, LeaseState::Active).await;
    bench.release(&root).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parent_that_waits_holds_no_worker() {
    let world = Arc::new(World::default());
    let kinds = vec![
        TestKind::new(&world, "top").needing(&["part"]),
        TestKind::new(&world, "part"),
        TestKind::new(&world, "other"),
    ];
    let gate = Gate::new();
    world.will("part", Phase::Build, [Fate::Later(Duration::from_hours(1)), Fate::Block(Arc::clone(&gate))]);
    let bench = Bench::start(1, Arc::clone(&world), kinds).await;
    let root = bench.queue(ask("top")).await;
    eventually("the part takes its time", async || (!world.calls(Phase::Build, "part").is_empty()).then_some(())).await;
    let other = bench.queue(ask("other")).await;
    bench.reaches(&other, LeaseState::Active).await;
    gate.open();
    bench.reaches_in_time(&root, LeaseState::Active).await;
    bench.release(&root).await;
    // Its life may have run out while the clock was turned.
    bench.release(&other).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_need_the_same_thing_share_what_one_builds() {
    let world = Arc::new(World::default());
    let shared = TestKind::new(&world, "host").limit(1).with(|kind| {
        kind.leases_per_resource = 4;
        kind.stays = true;
    });
    let kinds = vec![TestKind::new(&world, "top").needing(&["host"]), shared];
    let gate = Gate::new();
    world.will("host", Phase::Build, [Fate::Block(Arc::clone(&gate))]);
    let bench = Bench::start(2, Arc::clone(&world), kinds).await;
    let one = bench.queue(ask("top")).await;
    let two = bench.queue(ask("top")).await;
    gate.begun().await;
    bench.clock.advance(Duration::from_secs(1));
    gate.open();
    bench.reaches(&one, LeaseState::Active).await;
    bench.reaches(&two, LeaseState::Active).await;
    assert_eq!(bench.resources("host").await.len(), 1);
    bench.release(&one).await;
    bench.release(&two).await;
    let host = bench.resources("host").await.remove(0);
    eventually("the host can go", async || {
        bench.engine().release_resource(&admin(), host.id.as_str(), false, None).await.ok()
    })
    .await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_is_met_between_the_look_and_the_commit_is_no_failure() {
    let world = Arc::new(World::default());
    let kinds = vec![TestKind::new(&world, "top").needing(&["part"]), TestKind::new(&world, "part")];
    let (part, top) = (Gate::new(), Gate::new());
    world.will("part", Phase::Build, [Fate::Block(Arc::clone(&part))]);
    // The second look of the top stands still while its part comes to be; then it asks for what it saw missing.
    world.will("top", Phase::Build, [Fate::Ready, Fate::Slow(Arc::clone(&top))]);
    let bench = Bench::start(2, Arc::clone(&world), kinds).await;
    let root = bench.queue(ask("top")).await;
    part.begun().await;
    let task = eventually("the top waits", async || {
        let resource = bench.resources("top").await.into_iter().next()?;
        bench.task_of(resource.id.as_str()).await.filter(|task| !task.waits_for.is_empty())
    })
    .await;
    bench.engine().retry_task(&admin(), task.id.as_str(), None).await.unwrap();
    top.begun().await;
    part.open();
    eventually("the part is there", async || {
        let tree = bench.engine().store().tree(&root).await.unwrap();
        tree.iter().any(|lease| lease.spec.resource_type == "part" && lease.state == LeaseState::Active).then_some(())
    })
    .await;
    top.open();
    bench.reaches(&root, LeaseState::Active).await;
    let top = bench.resources("top").await.remove(0);
    let task = bench.task_of(top.id.as_str()).await.unwrap();
    assert_eq!((top.state, task.last_error.as_str()), (ResourceState::Active, ""));
    bench.release(&root).await;
    bench.assert_nothing_left().await;
}
