//! Wake-ups that a careless queue loses: changes in the gap between look and park, room that was meant for someone who has gone.

use std::sync::Arc;
use std::time::Duration;

use drydock::engine::Acquire;
use drydock::model::LeaseState;
use drydock::model::filter::Filter;

use super::capacity::{lasting, take_down};
use super::kit::{Bench, Fate, Gate, Phase, TestKind, World, admin, ask, eventually};

crate::postgres::on_postgres_too! {
    a_cancel_between_look_and_park_is_not_lost,
    a_wake_between_claim_and_park_runs_the_step_again,
    a_renewal_sets_the_timer_of_the_end_anew,
    what_stays_is_handed_on_when_the_lease_it_was_built_for_has_gone,
    room_that_was_meant_for_one_who_goes_is_given_to_the_next,
    the_chosen_waiter_that_goes_in_the_same_moment_passes_the_room_on,
    a_waiter_that_cannot_use_the_room_passes_it_on,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_between_look_and_park_is_not_lost() {
    let world = Arc::new(World::default());
    let kinds = vec![TestKind::new(&world, "top").needing(&["part"]), TestKind::new(&world, "part")];
    let gate = Gate::new();
    // The step has looked and is about to ask for its part when the lease it builds for ends.
    world.will("top", Phase::Build, [Fate::Slow(Arc::clone(&gate))]);
    let bench = Bench::start(1, Arc::clone(&world), kinds).await;
    let root = bench.queue(ask("top")).await;
    gate.begun().await;
    bench.release(&root).await;
    gate.open();
    bench.reaches(&root, LeaseState::Destroyed).await;
    bench.assert_nothing_left().await;
    assert!(world.calls(Phase::Build, "part").is_empty(), "nobody wants the part any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wake_between_claim_and_park_runs_the_step_again() {
    let world = Arc::new(World::default());
    let gate = Gate::new();
    let bench = Bench::start(1, Arc::clone(&world), vec![TestKind::new(&world, "box")]).await;
    world.will("box", Phase::Prepare, [Fate::Slow(Arc::clone(&gate))]);
    let lease = bench.queue(Acquire { ttl: Some(Duration::from_mins(10)), ..ask("box") }).await;
    gate.begun().await;
    let before = bench.task_of(lease.as_str()).await.unwrap();
    bench.engine().retry_task(&admin(), before.id.as_str(), None).await.unwrap();
    gate.open();
    bench.reaches(&lease, LeaseState::Active).await;
    // It ran its next step instead of parking, and parked after that, with the timer of its end.
    bench.idle().await;
    let task = bench.task_of(lease.as_str()).await.unwrap();
    assert_eq!(task.run_at, bench.lease(&lease).await.expire_time);
    assert_eq!(task.attempt, before.attempt + 1, "{task:?}");
    bench.release(&lease).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_sets_the_timer_of_the_end_anew() {
    let world = Arc::new(World::default());
    let bench = Bench::start(1, Arc::clone(&world), vec![TestKind::new(&world, "box")]).await;
    let lease = bench.queue(Acquire { ttl: Some(Duration::from_mins(1)), ..ask("box") }).await;
    bench.reaches(&lease, LeaseState::Active).await;
    for _ in 0..3 {
        bench.clock.advance(Duration::from_secs(50));
        bench.engine().renew_lease(&admin(), lease.as_str(), None).await.unwrap();
    }
    bench.idle().await;
    assert_eq!(bench.state(&lease).await, LeaseState::Active);
    bench.clock.advance(Duration::from_secs(61));
    assert_eq!(bench.reaches(&lease, LeaseState::Destroyed).await.state_reason, "EXPIRED");
    let refused = bench.engine().renew_lease(&admin(), lease.as_str(), None).await.unwrap_err();
    assert_eq!(refused.reason, drydock::error::Reason::LeaseExpired);
    bench.assert_nothing_left().await;
}

/// Keeps the only worker busy from now on with something that goes first; the gate lets it go.
async fn keep_worker_busy(bench: &Bench, world: &World) -> Arc<Gate> {
    let gate = Gate::new();
    world.will("busy", Phase::Build, [Fate::Slow(Arc::clone(&gate))]);
    bench.queue(Acquire { priority: 100, ..ask("busy") }).await;
    gate
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stays_is_handed_on_when_the_lease_it_was_built_for_has_gone() {
    let world = Arc::new(World::default());
    let kinds = vec![lasting(&world, "host", 1, 1), TestKind::new(&world, "busy")];
    let gate = Gate::new();
    world.will("host", Phase::Build, [Fate::Later(Duration::from_mins(1)), Fate::Slow(Arc::clone(&gate))]);
    let bench = Bench::start(1, Arc::clone(&world), kinds).await;
    let first = bench.queue(ask("host")).await;
    let second = bench.queue(ask("host")).await;
    bench.idle().await;
    bench.clock.advance(Duration::from_mins(2));
    gate.begun().await;
    let busy = keep_worker_busy(&bench, &world).await;
    gate.open();
    busy.begun().await;
    // The host is there, and the one it was built for goes before it can take it.
    bench.release(&first).await;
    busy.open();
    bench.reaches(&second, LeaseState::Active).await;
    release_all(&bench).await;
    take_down(&bench, "host").await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_that_was_meant_for_one_who_goes_is_given_to_the_next() {
    let world = Arc::new(World::default());
    let kinds = vec![TestKind::new(&world, "box").limit(1), TestKind::new(&world, "busy")];
    let bench = Bench::start(1, Arc::clone(&world), kinds).await;
    let busy = keep_worker_busy(&bench, &world).await;
    busy.begun().await;
    let first = bench.queue(ask("box")).await;
    let second = bench.queue(ask("box")).await;
    // Its caller takes the step of the second before any worker takes one of the first, and leaves the room to that.
    let engine = Arc::clone(bench.engine());
    let id = second.to_string();
    let call = tokio::spawn(async move {
        engine.wait_lease(&admin(), &id, LeaseState::Active, Duration::from_mins(5)).await.unwrap()
    });
    eventually("the second has looked and waits", async || {
        bench.task_of(second.as_str()).await.filter(|task| !task.waits_for.is_empty())
    })
    .await;
    bench.release(&first).await;
    busy.open();
    bench.reaches(&second, LeaseState::Active).await;
    assert_eq!(call.await.unwrap().lease.state, LeaseState::Active);
    release_all(&bench).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_chosen_waiter_that_goes_in_the_same_moment_passes_the_room_on() {
    let world = Arc::new(World::default());
    let kinds = vec![TestKind::new(&world, "box").limit(1), TestKind::new(&world, "busy")];
    let bench = Bench::start(1, Arc::clone(&world), kinds).await;
    let holder = bench.queue(ask("box")).await;
    bench.reaches(&holder, LeaseState::Active).await;
    let mut waiters = Vec::new();
    for _ in 0..3 {
        waiters.push(bench.queue(ask("box")).await);
    }
    bench.idle().await;
    let gate = Gate::new();
    world.will("box", Phase::Destroy, [Fate::Slow(Arc::clone(&gate))]);
    bench.release(&holder).await;
    gate.begun().await;
    // Whoever gave the box back takes it down, and the only worker is busy; what goes before the waiters keeps their steps
    // from being taken along.
    let busy = keep_worker_busy(&bench, &world).await;
    busy.begun().await;
    bench.queue(Acquire { priority: 100, ..ask("busy") }).await;
    gate.open();
    eventually("the first is handed the baton and cannot use it yet", async || {
        bench.task_of(waiters[0].as_str()).await.filter(|task| task.baton.as_deref() == Some("pool:box"))
    })
    .await;
    bench.release(&waiters[0]).await;
    busy.open();
    bench.reaches(&waiters[1], LeaseState::Active).await;
    bench.release(&waiters[1]).await;
    bench.reaches(&waiters[2], LeaseState::Active).await;
    release_all(&bench).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_that_cannot_use_the_room_passes_it_on() {
    let world = Arc::new(World::default());
    let of_colour =
        |colour: &str| Acquire { attributes: [("colour".to_owned(), colour.to_owned())].into(), ..ask("paint") };
    let kinds = vec![lasting(&world, "paint", 1, 1)];
    let bench = Bench::start(2, Arc::clone(&world), kinds).await;
    let holder = bench.queue(of_colour("red")).await;
    bench.reaches(&holder, LeaseState::Active).await;
    let blue = bench.queue(of_colour("blue")).await;
    let red = bench.queue(of_colour("red")).await;
    bench.idle().await;
    bench.release(&holder).await;
    bench.reaches(&red, LeaseState::Active).await;
    assert_eq!(bench.state(&blue).await, LeaseState::Pending);
    bench.release(&red).await;
    bench.idle().await;
    take_down(&bench, "paint").await;
    bench.reaches(&blue, LeaseState::Active).await;
    bench.release(&blue).await;
    bench.idle().await;
    take_down(&bench, "paint").await;
    bench.assert_nothing_left().await;
}

/// Releases every live root lease.
pub(super) async fn release_all(bench: &Bench) {
    bench.engine().release_leases(&admin(), Filter::And(Vec::new()), "", true, false, None).await.unwrap();
}
