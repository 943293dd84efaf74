//! How long a resource stays that nobody leases, how old it gets, and how many it serves.

use std::sync::Arc;
use std::time::Duration;

use drydock::model::ResourceState;

use super::{MINUTE, active, give_back, hold, kept, pass};
use crate::queue::kit::{Bench, Phase, TestKind, World, admin, ask, eventually, user};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unused_resource_waits_for_its_owner_and_goes_after_its_time() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![kept(&world, "box", 10 * MINUTE)]).await;
    let first = hold(&bench, &user("ann"), ask("box")).await;
    give_back(&bench, &first).await;
    pass(&bench, Duration::from_mins(9)).await;
    let second = hold(&bench, &user("ann"), ask("box")).await;
    let other = hold(&bench, &user("ben"), ask("box")).await;
    assert_eq!(world.calls(Phase::Build, "box").len(), 2, "one for each owner");
    assert_eq!(bench.lease(&first).await.resource_id, bench.lease(&second).await.resource_id);
    give_back(&bench, &other).await;
    // The time of the one that is in use does not run.
    pass(&bench, Duration::from_mins(11)).await;
    let left = active(&bench, "box").await;
    assert_eq!(left.iter().map(|of| of.owner.as_str()).collect::<Vec<_>>(), ["ann"]);
    give_back(&bench, &second).await;
    pass(&bench, Duration::from_secs(599)).await;
    assert_eq!(active(&bench, "box").await.len(), 1);
    pass(&bench, Duration::from_secs(1)).await;
    eventually("it is gone", async || bench.resources("box").await.is_empty().then_some(())).await;
    let gone = bench.engine().store().find_resource(&left[0].id).await.unwrap().unwrap();
    assert_eq!((gone.state, gone.state_reason.as_str()), (ResourceState::Destroyed, "IDLE"));
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shorter_time_reaches_those_that_are_there() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![TestKind::new(&world, "host").with(|kind| kind.stays = true)]);
    let bench = bench.await;
    let lease = hold(&bench, &admin(), ask("host")).await;
    give_back(&bench, &lease).await;
    assert_eq!(bench.engine().store().next_timer().await.unwrap(), None, "it stays for ever");
    bench.limit("host", |limits| limits.upkeep.idle_ttl = Some(MINUTE)).await;
    pass(&bench, Duration::from_mins(1)).await;
    eventually("it is gone", async || bench.resources("host").await.is_empty().then_some(())).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_old_takes_no_new_leases_and_goes_when_it_is_unused() {
    let world = Arc::new(World::default());
    let kind = kept(&world, "box", 60 * MINUTE).limits(|limits| limits.upkeep.max_age = Some(10 * MINUTE));
    let bench = Bench::start(2, Arc::clone(&world), vec![kind]).await;
    let lease = hold(&bench, &admin(), ask("box")).await;
    let old = bench.lease(&lease).await.resource_id.unwrap();
    pass(&bench, Duration::from_mins(10)).await;
    let drained = active(&bench, "box").await.remove(0);
    assert!(drained.is_retiring(), "{:?}", drained.drain);
    // Who has it keeps it; who comes gets another.
    let next = hold(&bench, &admin(), ask("box")).await;
    assert_ne!(bench.lease(&next).await.resource_id, Some(old.clone()));
    bench.release(&lease).await;
    eventually("the old one is gone", async || {
        let left = bench.resources("box").await;
        left.iter().all(|resource| resource.id != old).then_some(())
    })
    .await;
    give_back(&bench, &next).await;
    // The other is unused when its time has come.
    pass(&bench, Duration::from_mins(10)).await;
    eventually("it is gone", async || bench.resources("box").await.is_empty().then_some(())).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_serves_a_single_lease_is_built_for_each() {
    let world = Arc::new(World::default());
    let kind = kept(&world, "box", 60 * MINUTE).limit(1).limits(|limits| limits.upkeep.max_uses = Some(1));
    let bench = Bench::start(2, Arc::clone(&world), vec![kind]).await;
    for turn in 1..=3 {
        let lease = hold(&bench, &admin(), ask("box")).await;
        let next = bench.queue(ask("box")).await;
        bench.idle().await;
        let waiting = bench.lease(&next).await.waiting.unwrap();
        assert_eq!(waiting.reason, "LIMIT_REACHED", "{waiting:?}");
        bench.release(&next).await;
        give_back(&bench, &lease).await;
        eventually("it is gone", async || bench.resources("box").await.is_empty().then_some(())).await;
        assert_eq!(world.calls(Phase::Build, "box").len(), turn);
    }
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_for_several_at_once_serves_no_more_than_it_may_in_its_life() {
    let world = Arc::new(World::default());
    let kind = kept(&world, "box", 60 * MINUTE)
        .with(|kind| kind.leases_per_resource = 2)
        .limits(|limits| limits.upkeep.max_uses = Some(3));
    let bench = Bench::start(2, Arc::clone(&world), vec![kind]).await;
    let first = hold(&bench, &admin(), ask("box")).await;
    let second = hold(&bench, &admin(), ask("box")).await;
    give_back(&bench, &first).await;
    let third = hold(&bench, &admin(), ask("box")).await;
    give_back(&bench, &second).await;
    assert_eq!(world.calls(Phase::Build, "box").len(), 1);
    let fourth = hold(&bench, &admin(), ask("box")).await;
    assert_eq!(world.calls(Phase::Build, "box").len(), 2);
    give_back(&bench, &third).await;
    eventually("the first is gone", async || (bench.resources("box").await.len() == 1).then_some(())).await;
    give_back(&bench, &fourth).await;
    bench.clock.advance(Duration::from_hours(1));
    bench.assert_nothing_left().await;
}
