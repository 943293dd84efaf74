//! The order of the queue: the oldest tree first, and in it depth first. Plain first-in-first-out would pass every test of
//! correctness, and finish all trees at the end.

use std::collections::BTreeMap;
use std::sync::Arc;

use drydock::clock::{Clock as _, span};
use drydock::model::id::LeaseId;
use drydock::model::{LeaseState, ResourceState};
use drydock::store::Scope;
use sqlx::{AnyConnection, ConnectOptions as _, Row as _};

use super::capacity::{end, lasting};
use super::kit::{Bench, Fate, Gate, PATIENCE, Phase, TestKind, World, admin, ask, eventually};

crate::postgres::on_postgres_too! {
    what_was_built_for_one_is_not_taken_by_one_behind,
    who_comes_behind_lets_the_one_ahead_go_first_for_an_instant,
    one_worker_finishes_trees_in_the_order_in_which_they_came,
    two_workers_finish_trees_nearly_in_the_order_in_which_they_came,
}

/// Two places come free while the step of the first in the queue is claimed, and then that goes on or does not.
async fn two_places_for_two(gets_on: bool) {
    let world = Arc::new(World::default());
    let mut bench = Bench::start(1, Arc::clone(&world), vec![lasting(&world, "box", 1, 2)]).await;
    let held = [bench.queue(ask("box")).await, bench.queue(ask("box")).await];
    for lease in &held {
        bench.reaches(lease, LeaseState::Active).await;
    }
    let (first, second) = (bench.queue(ask("box")).await, bench.queue(ask("box")).await);
    bench.idle().await;
    bench.restart(0).await;
    let engine = Arc::clone(bench.engine());
    let task = bench.task_of(first.as_str()).await.unwrap();
    engine.retry_task(&admin(), task.id.as_str(), None).await.unwrap();
    let claim = engine.store().claim(&Scope::Root(first.clone()), "elsewhere/1").await.unwrap().unwrap();
    for lease in &held {
        bench.release(lease).await;
        engine.wait_lease(&admin(), lease.as_str(), LeaseState::Destroyed, PATIENCE).await.unwrap();
    }
    let call = tokio::spawn({
        let (engine, second) = (Arc::clone(&engine), second.to_string());
        async move { engine.wait_lease(&admin(), &second, LeaseState::Active, PATIENCE).await.unwrap().lease }
    });
    let task = eventually("the second has looked", async || {
        bench.task_of(second.as_str()).await.filter(|task| task.run_at.is_some())
    })
    .await;
    assert_eq!(bench.state(&second).await, LeaseState::Pending);
    if gets_on {
        engine.store().hand_back(&claim).await.unwrap();
        engine.wait_lease(&admin(), first.as_str(), LeaseState::Active, PATIENCE).await.unwrap();
    } else {
        bench.clock.advance(span(task.run_at.unwrap() - bench.clock.now()));
    }
    assert_eq!(call.await.unwrap().state, LeaseState::Active);
    let state = bench.state(&first).await;
    assert_eq!(state, if gets_on { LeaseState::Active } else { LeaseState::Pending });
    let _ = engine.store().hand_back(&claim).await;
    drop(engine);
    bench.restart(1).await;
    bench.reaches(&first, LeaseState::Active).await;
    end(&bench, &[first, second], &["box"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_behind_lets_the_one_ahead_go_first_for_an_instant() {
    two_places_for_two(true).await;
    two_places_for_two(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_built_for_one_is_not_taken_by_one_behind() {
    let (world, gate) = (Arc::new(World::default()), Gate::new());
    world.will("box", Phase::Build, [Fate::Slow(Arc::clone(&gate))]);
    let bench = Bench::start(1, Arc::clone(&world), vec![lasting(&world, "box", 1, 1)]).await;
    let first = bench.queue(ask("box")).await;
    gate.begun().await;
    // It is ready while the step of the lease that it is for is claimed, and has not begun.
    let task = bench.task_of(first.as_str()).await.unwrap();
    bench.engine().retry_task(&admin(), task.id.as_str(), None).await.unwrap();
    let store = bench.engine().store();
    let claim = store.claim(&Scope::Root(first.clone()), "elsewhere/1").await.unwrap().unwrap();
    gate.open();
    eventually("it is built", async || {
        bench.resources("box").await.iter().any(|of| of.state == ResourceState::Active).then_some(())
    })
    .await;
    let second = bench.queue(ask("box")).await;
    eventually("the second has looked and waits", async || {
        bench.task_of(second.as_str()).await.filter(|task| !task.waits_for.is_empty())
    })
    .await;
    assert_eq!(bench.state(&second).await, LeaseState::Pending);
    store.hand_back(&claim).await.unwrap();
    bench.reaches(&first, LeaseState::Active).await;
    bench.release(&first).await;
    bench.reaches(&second, LeaseState::Active).await;
    end(&bench, &[second], &["box"]).await;
}

const TREES: usize = 12;

fn tree(world: &Arc<World>) -> Vec<TestKind> {
    vec![
        TestKind::new(world, "top").needing(&["branch", "branch"]),
        TestKind::new(world, "branch").needing(&["leaf", "leaf"]),
        TestKind::new(world, "leaf"),
    ]
}

/// Roots in the order in which they became ACTIVE.
async fn finished(bench: &Bench) -> Vec<String> {
    let mut reader = super::invariants::reader(&bench.database()).await;
    let rows =
        sqlx::query("SELECT subject FROM event WHERE kind = 'lease.activated' AND subject = root_id ORDER BY seq");
    rows.fetch_all(&mut reader).await.unwrap().iter().map(|row| row.get("subject")).collect()
}

/// How far, on average, a tree finishes from its place in the order of arrival.
fn disorder(arrived: &[LeaseId], finished: &[String]) -> f64 {
    let place: BTreeMap<&str, usize> = finished.iter().enumerate().map(|(at, id)| (id.as_str(), at)).collect();
    let off: usize = arrived.iter().enumerate().map(|(at, id)| place[id.as_str()].abs_diff(at)).sum();
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let mean = off as f64 / arrived.len() as f64;
    mean
}

/// When the first tree is done, this many others have been begun.
async fn begun_before_the_first_was_done(bench: &Bench) -> i64 {
    let mut reader: AnyConnection = super::invariants::reader(&bench.database()).await;
    let row = sqlx::query(
        "SELECT count(DISTINCT root_id) AS n FROM event WHERE kind = 'resource.created' AND seq < \
         (SELECT min(seq) FROM event WHERE kind = 'lease.activated' AND subject = root_id)",
    );
    row.fetch_one(&mut reader).await.unwrap().get("n")
}

/// All trees wait before the first worker comes.
async fn run(workers: usize, fifo: bool) -> (f64, i64) {
    let world = Arc::new(World::default());
    let mut bench = Bench::start(0, Arc::clone(&world), tree(&world)).await;
    let mut arrived = Vec::new();
    for _ in 0..TREES {
        arrived.push(bench.queue(ask("top")).await);
    }
    if fifo {
        forget_the_order(&bench).await;
    }
    bench.restart(workers).await;
    for root in &arrived {
        bench.reaches(root, LeaseState::Active).await;
    }
    let found = (disorder(&arrived, &finished(&bench).await), begun_before_the_first_was_done(&bench).await);
    for root in &arrived {
        bench.release(root).await;
    }
    bench.assert_nothing_left().await;
    found
}

/// The mutant: each task takes the place at the end of the queue, whatever its tree and depth.
async fn forget_the_order(bench: &Bench) {
    let options: sqlx::any::AnyConnectOptions = bench.database().parse().unwrap();
    let mut connection = options.connect().await.unwrap();
    let trigger = "CREATE TRIGGER fifo AFTER INSERT ON task BEGIN \
                   UPDATE task SET ord = (SELECT max(ord) + 1 FROM task), depth = 0 WHERE id = new.id; END";
    sqlx::query(trigger).execute(&mut connection).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_worker_finishes_trees_in_the_order_in_which_they_came() {
    assert_eq!(run(1, false).await, (0.0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_finish_trees_nearly_in_the_order_in_which_they_came() {
    let (disorder, begun) = run(2, false).await;
    assert!(disorder <= 1.0, "{disorder}");
    assert!(begun <= 3, "{begun} of {TREES} were begun before the first was done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_in_first_out_would_fail_the_test_of_the_order() {
    let (_, begun) = run(1, true).await;
    let (_, begun_by_two) = run(2, true).await;
    assert!(begun > 3 && begun_by_two > 3, "{begun} and {begun_by_two} of {TREES}");
}
