//! Limits beside the number of resources: per owner, per key, builds at once, and who will not share.

use std::sync::Arc;

use drydock::engine::Acquire;
use drydock::model::id::LeaseId;
use drydock::model::{Lease, LeaseState, StringMap};

use super::capacity::{end, lasting};
use super::kit::{Bench, Fate, Gate, Phase, TestKind, World, ask, user};

crate::postgres::on_postgres_too! {
    an_owner_has_so_many_of_a_blueprint_and_others_pass,
    of_one_colour_there_is_one_lease_at_a_time,
    no_more_are_built_at_once_than_is_said,
    a_limit_that_is_lowered_drains_and_ends_nothing,
    who_wants_a_resource_alone_gets_it_and_nobody_passes_it_for_ever,
    who_keeps_apart_is_kept_apart_from_both_sides,
}

async fn waits(bench: &Bench, lease: &LeaseId) -> Lease {
    bench.idle().await;
    let lease = bench.lease(lease).await;
    assert_eq!(lease.state, LeaseState::Pending, "{lease:?}");
    lease
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_has_so_many_of_a_blueprint_and_others_pass() {
    let world = Arc::new(World::default());
    let kind = lasting(&world, "box", 9, 1).limits(|limits| limits.leases_per_owner = Some(2));
    let bench = Bench::start(2, Arc::clone(&world), vec![kind]).await;
    let mut leases = Vec::new();
    for _ in 0..3 {
        leases.push(bench.queue_as(&user("ann"), ask("box")).await.unwrap());
    }
    let third = waits(&bench, &leases[2]).await;
    let waiting = third.waiting.unwrap();
    assert_eq!(waiting.reason, "QUOTA_REACHED");
    assert!(waiting.message.contains("2 of 2 leases of ann on box"), "{}", waiting.message);
    leases.push(bench.queue_as(&user("ben"), ask("box")).await.unwrap());
    bench.reaches(&leases[3], LeaseState::Active).await;
    bench.release(&leases[0]).await;
    bench.reaches(&leases[2], LeaseState::Active).await;
    end(&bench, &leases, &["box"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_one_colour_there_is_one_lease_at_a_time() {
    let world = Arc::new(World::default());
    let kind = TestKind::new(&world, "box").limits(|limits| limits.exclusive_by = vec!["colour".to_owned()]);
    let bench = Bench::start(2, Arc::clone(&world), vec![kind]).await;
    let coloured = |colour: &str| Acquire {
        attributes: StringMap::from([("colour".to_owned(), colour.to_owned())]),
        ..ask("box")
    };
    let red = bench.queue(coloured("red")).await;
    bench.reaches(&red, LeaseState::Active).await;
    let also_red = bench.queue(coloured("red")).await;
    let waiting = waits(&bench, &also_red).await.waiting.unwrap();
    assert_eq!((waiting.reason.as_str(), waiting.blocked_by), ("LIMIT_REACHED", vec![red.to_string()]));
    let blue = bench.queue(coloured("blue")).await;
    bench.reaches(&blue, LeaseState::Active).await;
    bench.release(&red).await;
    bench.reaches(&also_red, LeaseState::Active).await;
    end(&bench, &[also_red, blue], &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_are_built_at_once_than_is_said() {
    let world = Arc::new(World::default());
    let gate = Gate::new();
    world.will("box", Phase::Build, std::iter::repeat_n(Fate::Block(Arc::clone(&gate)), 3));
    let kind = TestKind::new(&world, "box").limits(|limits| limits.max_builds = Some(1));
    let bench = Bench::start(4, Arc::clone(&world), vec![kind]).await;
    let mut leases = Vec::new();
    for _ in 0..3 {
        leases.push(bench.queue(ask("box")).await);
    }
    for (number, lease) in leases.iter().enumerate() {
        gate.begun().await;
        bench.idle_but_one().await;
        assert_eq!(world.calls(Phase::Build, "box").len(), number + 1, "the others wait");
        if number == 0 {
            let waiting = bench.lease(&leases[1]).await.waiting.unwrap();
            assert_eq!(waiting.reason, "LIMIT_REACHED");
        }
        gate.open();
        bench.reaches(lease, LeaseState::Active).await;
    }
    end(&bench, &leases, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_is_lowered_drains_and_ends_nothing() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![TestKind::new(&world, "box").limit(3)]).await;
    let mut leases = Vec::new();
    for _ in 0..4 {
        leases.push(bench.queue(ask("box")).await);
    }
    for lease in &leases[..3] {
        bench.reaches(lease, LeaseState::Active).await;
    }
    bench.limit("box", |limits| limits.max_resources = Some(1)).await;
    for lease in &leases[..2] {
        waits(&bench, &leases[3]).await;
        assert_eq!(bench.state(lease).await, LeaseState::Active);
        bench.release(lease).await;
        bench.reaches(lease, LeaseState::Destroyed).await;
    }
    waits(&bench, &leases[3]).await;
    bench.release(&leases[2]).await;
    bench.reaches(&leases[3], LeaseState::Active).await;
    end(&bench, &leases, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wants_a_resource_alone_gets_it_and_nobody_passes_it_for_ever() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![lasting(&world, "box", 1, 3)]).await;
    let before = bench.queue(ask("box")).await;
    bench.reaches(&before, LeaseState::Active).await;
    let alone = bench.queue(Acquire { exclusive: true, ..ask("box") }).await;
    let waiting = waits(&bench, &alone).await.waiting.unwrap();
    assert!(waiting.blocked_by.contains(&before.to_string()), "{waiting:?}");
    let later = bench.queue(ask("box")).await;
    waits(&bench, &later).await;
    bench.release(&before).await;
    bench.reaches(&alone, LeaseState::Active).await;
    let slots = bench.engine().store().slots().await.unwrap();
    assert_eq!(slots.iter().filter(|(_, holder)| *holder == alone.to_string()).count(), 3, "{slots:?}");
    waits(&bench, &later).await;
    bench.release(&alone).await;
    bench.reaches(&later, LeaseState::Active).await;
    end(&bench, &[later], &["box"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_keeps_apart_is_kept_apart_from_both_sides() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![lasting(&world, "box", 2, 3)]).await;
    let labels = StringMap::from([("job".to_owned(), "load".to_owned())]);
    let noisy = bench.queue(Acquire { labels: labels.clone(), ..ask("box") }).await;
    let noisy = bench.reaches(&noisy, LeaseState::Active).await;
    let quiet = bench.queue(Acquire { apart_from: labels.clone(), ..ask("box") }).await;
    let quiet = bench.reaches(&quiet, LeaseState::Active).await;
    assert_ne!(noisy.resource_id, quiet.resource_id, "a new one is built for it");
    bench.release(&noisy.id).await;
    bench.reaches(&noisy.id, LeaseState::Destroyed).await;
    // The other box is empty now; the one with the quiet lease is fuller, and would be taken first.
    let noisy_again = bench.queue(Acquire { labels, ..ask("box") }).await;
    let noisy_again = bench.reaches(&noisy_again, LeaseState::Active).await;
    assert_ne!(noisy_again.resource_id, quiet.resource_id);
    let neither = bench.queue(ask("box")).await;
    bench.reaches(&neither, LeaseState::Active).await;
    end(&bench, &[quiet.id, noisy_again.id, neither], &["box"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_built_ahead_of_demand_keeps_to_the_limit_of_builds() {
    let world = Arc::new(World::default());
    let gate = Gate::new();
    world.will("box", Phase::Build, std::iter::repeat_n(Fate::Block(Arc::clone(&gate)), 3));
    let kind = TestKind::new(&world, "box").limits(|limits| {
        (limits.max_builds, limits.upkeep.min_ready) = (Some(1), 3);
        limits.upkeep.idle_ttl = Some(3_600_000_000);
    });
    let bench = Bench::start(4, Arc::clone(&world), vec![kind]).await;
    for number in 1..=3 {
        gate.begun().await;
        bench.idle_but_one().await;
        assert_eq!(world.calls(Phase::Build, "box").len(), number, "one after the other");
        gate.open();
    }
    bench.idle().await;
    assert_eq!(bench.resources("box").await.len(), 3);
    bench.limit("box", |limits| limits.upkeep = drydock::model::Upkeep::default()).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_the_end_of_a_build_is_woken_by_it() {
    let world = Arc::new(World::default());
    let gate = Gate::new();
    world.will("box", Phase::Build, [Fate::Slow(Arc::clone(&gate))]);
    let kind = TestKind::new(&world, "box").limits(|limits| {
        (limits.max_builds, limits.upkeep.min_ready) = (Some(1), 1);
        limits.upkeep.idle_ttl = Some(3_600_000_000);
    });
    let bench = Bench::start(2, Arc::clone(&world), vec![kind]).await;
    gate.begun().await;
    // What is built for nobody is no use to him, and nobody else will take it.
    let red = StringMap::from([("colour".to_owned(), "red".to_owned())]);
    let lease = bench.queue(Acquire { attributes: red, ..ask("box") }).await;
    bench.idle_but_one().await;
    assert_eq!(bench.lease(&lease).await.waiting.unwrap().reason, "LIMIT_REACHED");
    gate.open();
    bench.reaches(&lease, LeaseState::Active).await;
    bench.limit("box", |limits| limits.upkeep = drydock::model::Upkeep::default()).await;
    bench.release(&lease).await;
    bench.assert_nothing_left().await;
}
