//! Who gets what: packing and spreading, labels, owners, priorities.

use std::collections::BTreeSet;
use std::sync::Arc;

use drydock::engine::Acquire;
use drydock::error::Reason;
use drydock::model::id::{LeaseId, ResourceId};
use drydock::model::{LeaseState, Placement};

use super::capacity::{lasting, take_down};
use super::kit::{Bench, TestKind, World, admin, ask, user};
use super::wakes::release_all;

crate::postgres::on_postgres_too! {
    packing_fills_one_and_spreading_uses_all,
    a_lease_takes_only_what_carries_its_labels,
    owners_do_not_share_unless_the_blueprint_says_so,
    priority_is_a_head_start_in_time_and_no_more,
    what_was_made_for_other_attributes_is_not_reused,
}

async fn resource_of(bench: &Bench, lease: &LeaseId) -> ResourceId {
    bench.reaches(lease, LeaseState::Active).await.resource_id.unwrap()
}

async fn four_leases(placement: Placement) -> usize {
    let world = Arc::new(World::default());
    let kind = lasting(&world, "host", 4, 4).limits(|limits| limits.placement = placement);
    let bench = Bench::start(2, Arc::clone(&world), vec![kind]).await;
    let mut used = BTreeSet::new();
    for _ in 0..4 {
        let lease = bench.queue(ask("host")).await;
        used.insert(resource_of(&bench, &lease).await);
    }
    let fifth = bench.queue(ask("host")).await;
    resource_of(&bench, &fifth).await;
    release_all(&bench).await;
    bench.idle().await;
    take_down(&bench, "host").await;
    bench.assert_nothing_left().await;
    used.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packing_fills_one_and_spreading_uses_all() {
    assert_eq!(four_leases(Placement::Pack).await, 1);
    assert_eq!(four_leases(Placement::Spread).await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_takes_only_what_carries_its_labels() {
    let world = Arc::new(World::default());
    let labelled = |name: &'static str, zone: &str| {
        let mut kind = TestKind::new(&world, name).with(|kind| kind.resource_type = "host");
        kind.labels.insert("zone".to_owned(), zone.to_owned());
        kind
    };
    let kinds = vec![labelled("north", "n"), labelled("south", "s")];
    let bench = Bench::start(2, Arc::clone(&world), kinds).await;
    let of_zone =
        |zone: &str| Acquire { resource_labels: [("zone".to_owned(), zone.to_owned())].into(), ..ask("host") };
    for (zone, expected) in [("s", "south"), ("n", "north"), ("s", "south")] {
        let lease = bench.queue(of_zone(zone)).await;
        let blueprint = bench.reaches(&lease, LeaseState::Active).await.blueprint_id.unwrap();
        let blueprint = bench.engine().get_blueprint(&admin(), blueprint.as_str()).await.unwrap();
        assert_eq!(blueprint.name, expected);
    }
    let refused = bench.queue_as(&admin(), of_zone("w")).await.unwrap_err();
    assert_eq!(refused.reason, Reason::NoBlueprint);
    release_all(&bench).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_do_not_share_unless_the_blueprint_says_so() {
    for shared in [false, true] {
        let world = Arc::new(World::default());
        let kind = lasting(&world, "host", 2, 2).limits(|limits| limits.shared = shared);
        let bench = Bench::start(2, Arc::clone(&world), vec![kind]).await;
        let hers = bench.queue_as(&user("ann"), ask("host")).await.unwrap();
        let on = resource_of(&bench, &hers).await;
        let his = bench.queue_as(&user("bob"), ask("host")).await.unwrap();
        assert_eq!(resource_of(&bench, &his).await == on, shared);
        let again = bench.queue_as(&user("ann"), ask("host")).await.unwrap();
        assert_eq!(resource_of(&bench, &again).await == on, !shared);
        let refused = bench.engine().get_lease(&user("bob"), hers.as_str()).await.unwrap_err();
        assert_eq!(refused.reason, Reason::LeaseNotFound);
        for (owner, lease) in [("ann", &hers), ("bob", &his), ("ann", &again)] {
            let wait = std::time::Duration::ZERO;
            bench.engine().release_lease(&user(owner), lease.as_str(), "", false, None, wait).await.unwrap();
        }
        bench.idle().await;
        take_down(&bench, "host").await;
        bench.assert_nothing_left().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn priority_is_a_head_start_in_time_and_no_more() {
    let world = Arc::new(World::default());
    let bench = Bench::start(1, Arc::clone(&world), vec![TestKind::new(&world, "box").limit(1)]).await;
    let of = |priority| Acquire { priority, ..ask("box") };
    let holder = bench.queue(of(0)).await;
    bench.reaches(&holder, LeaseState::Active).await;
    let old_and_low = bench.queue(of(-10)).await;
    let middle = bench.queue(of(0)).await;
    let high = bench.queue(of(10)).await;
    // 20 points are two minutes, and each lease of an owner takes five seconds of them: who comes later than that does not
    // pass the low one.
    for _ in 0..25 {
        let changed_mind = bench.queue(of(0)).await;
        bench.release(&changed_mind).await;
    }
    let late_and_high = bench.queue(of(10)).await;
    bench.idle().await;
    let mut last = holder;
    for next in [high, middle, old_and_low, late_and_high] {
        assert_eq!(bench.state(&next).await, LeaseState::Pending);
        bench.release(&last).await;
        bench.reaches(&next, LeaseState::Active).await;
        last = next;
    }
    bench.release(&last).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_made_for_other_attributes_is_not_reused() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![lasting(&world, "paint", 4, 4)]).await;
    let of_colour =
        |colour: &str| Acquire { attributes: [("colour".to_owned(), colour.to_owned())].into(), ..ask("paint") };
    let mut made = Vec::new();
    for colour in ["red", "blue", "red"] {
        let lease = bench.queue(of_colour(colour)).await;
        made.push(resource_of(&bench, &lease).await);
    }
    assert!(made[0] == made[2] && made[0] != made[1], "{made:?}");
    release_all(&bench).await;
    bench.idle().await;
    take_down(&bench, "paint").await;
    bench.assert_nothing_left().await;
}
