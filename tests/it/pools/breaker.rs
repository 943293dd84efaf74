//! Builds that fail pause their blueprint; one is tried after the pause; those who wait are told.

use std::sync::Arc;
use std::time::Duration;

use drydock::engine::ExplainSubject;
use drydock::model::{Blueprint, LeaseState};

use super::{MINUTE, hold, kept, let_all_go, settled};
use crate::queue::capacity::take_down;
use crate::queue::kit::{Bench, Fate, Gate, Phase, TestKind, World, admin, ask, eventually};

async fn blueprint(bench: &Bench) -> Blueprint {
    bench.engine().get_blueprint(&admin(), "box").await.unwrap()
}

/// Turns the clock from timer to timer until the blueprint pauses, until another time than `before`.
async fn pauses_after(bench: &Bench, before: Option<i64>) -> i64 {
    eventually("it pauses", async || {
        // Nothing moves by itself now: the clock is not turned behind a pause that has just begun.
        settled(bench).await;
        let until = blueprint(bench).await.breaker.until.filter(|until| Some(*until) != before);
        if until.is_none() {
            bench.turn_when_idle().await;
        }
        until
    })
    .await
}

async fn pauses(bench: &Bench) -> i64 {
    pauses_after(bench, None).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_failures_pause_it_and_all_are_told_until_one_probe_works() {
    let world = Arc::new(World::default());
    let bench = Bench::start(4, Arc::clone(&world), vec![TestKind::new(&world, "box")]).await;
    world.will("box", Phase::Build, vec![Fate::Fail; 3]);
    // Two are being built when it happens.
    let (first, second) = (bench.queue(ask("box")).await, bench.queue(ask("box")).await);
    let until = pauses(&bench).await;
    let now = drydock::clock::Clock::now(&*bench.clock);
    assert!((9_000_000..=11_000_000).contains(&(until - now)), "{} µs", until - now);
    settled(&bench).await;
    assert_eq!(world.calls(Phase::Build, "box").len(), 3);
    // Nothing is begun for those who come now, and everybody is told why.
    let mut leases = vec![first, second];
    for _ in 0..3 {
        leases.push(bench.queue(ask("box")).await);
    }
    settled(&bench).await;
    assert_eq!(bench.resources("box").await.len(), 2);
    for lease in &leases {
        let waiting = bench.lease(lease).await.waiting.unwrap();
        assert_eq!(waiting.reason, "BLUEPRINT_PAUSED", "{waiting:?}");
        assert!(waiting.message.contains("paused until 2023-") && waiting.message.contains("it did not work"));
    }
    let told = bench.engine().explain_lease(&admin(), ExplainSubject::Lease(leases[2].to_string())).await.unwrap();
    assert!(told.verdicts.iter().any(|verdict| verdict.reason == "PAUSED"), "{told:?}");
    // The pause is over: one is tried alone, and that one fails too.
    let gate = Gate::new();
    world.will("box", Phase::Build, [Fate::Slow(Arc::clone(&gate))]);
    bench.clock.advance(Duration::from_micros(u64::try_from(until - now).unwrap()));
    eventually("a probe begins", async || {
        bench.turn_when_idle().await;
        (world.calls(Phase::Build, "box").len() == 4).then_some(())
    })
    .await;
    gate.begun().await;
    bench.idle_but_one().await;
    assert_eq!(world.calls(Phase::Build, "box").len(), 4, "one probe");
    let probe = blueprint(&bench).await.breaker.probe;
    assert!(probe.is_some());
    // It works: all go on.
    gate.open();
    for lease in &leases {
        bench.reaches(lease, LeaseState::Active).await;
    }
    assert!(!blueprint(&bench).await.breaker.is_open());
    for lease in &leases {
        bench.release(lease).await;
    }
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_that_fails_pauses_it_for_twice_as_long_also_after_a_restart() {
    let world = Arc::new(World::default());
    let mut bench = Bench::start(2, Arc::clone(&world), vec![TestKind::new(&world, "box")]).await;
    world.will("box", Phase::Build, vec![Fate::Fail; 4]);
    let lease = bench.queue(ask("box")).await;
    let first = pauses(&bench).await;
    settled(&bench).await;
    bench.restart(2).await;
    assert_eq!(blueprint(&bench).await.breaker.until, Some(first));
    let second = pauses_after(&bench, Some(first)).await;
    let long = second - drydock::clock::Clock::now(&*bench.clock);
    assert!((17_000_000..=22_000_000).contains(&long), "{long} µs");
    assert_eq!(world.calls(Phase::Build, "box").len(), 4);
    bench.reaches_in_time(&lease, LeaseState::Active).await;
    assert_eq!(world.calls(Phase::Build, "box").len(), 5);
    bench.release(&lease).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_ends_the_pause() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![TestKind::new(&world, "box")]).await;
    world.will("box", Phase::Build, vec![Fate::Fail; 3]);
    let lease = bench.queue(ask("box")).await;
    pauses(&bench).await;
    settled(&bench).await;
    let late = bench.queue(ask("box")).await;
    settled(&bench).await;
    // No clock is turned.
    bench.engine().set_blueprint_enabled(&admin(), "box", true, None).await.unwrap();
    bench.reaches(&lease, LeaseState::Active).await;
    bench.reaches(&late, LeaseState::Active).await;
    for lease in [&lease, &late] {
        bench.release(lease).await;
    }
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_is_leased_while_nothing_is_built() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![kept(&world, "box", 60 * MINUTE)]).await;
    let warm = hold(&bench, &admin(), ask("box")).await;
    world.will("box", Phase::Build, vec![Fate::Fail; 3]);
    let lease = bench.queue(ask("box")).await;
    pauses(&bench).await;
    settled(&bench).await;
    bench.release(&warm).await;
    bench.reaches(&warm, LeaseState::Destroyed).await;
    let quick = hold(&bench, &admin(), ask("box")).await;
    assert_eq!(bench.lease(&quick).await.resource_id, bench.lease(&warm).await.resource_id);
    bench.release(&quick).await;
    bench.release(&lease).await;
    bench.idle().await;
    bench.reaches_in_time(&lease, LeaseState::Destroyed).await;
    take_down(&bench, "box").await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wish_that_can_never_work_pauses_nothing_but_a_pool_that_cannot_build_pauses() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![kept(&world, "box", MINUTE)]).await;
    world.will("box", Phase::Build, vec![Fate::Refuse; 5]);
    for _ in 0..5 {
        let lease = bench.queue(ask("box")).await;
        bench.reaches(&lease, LeaseState::Destroyed).await;
    }
    assert_eq!(blueprint(&bench).await.breaker.failures, 0);
    world.will("box", Phase::Build, vec![Fate::Refuse; 1000]);
    bench.limit("box", |limits| limits.upkeep.min_ready = 1).await;
    pauses(&bench).await;
    settled(&bench).await;
    assert_eq!(world.calls(Phase::Build, "box").len(), 5 + 3);
    world.calm();
    let_all_go(&bench, "box").await;
}
