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
    packing_takes_the_fullest_and_spreading_shares_the_emptiest,
    the_blueprint_of_higher_rank_is_tried_first,
    only_the_blueprints_that_a_lease_names_serve_it,
    what_a_disabled_blueprint_has_is_leased_to_nobody,
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

/// How many leases are on each resource of a type, the least first.
async fn on_each(bench: &Bench, of: &str) -> Vec<usize> {
    let slots = bench.engine().store().slots().await.unwrap();
    let resources = bench.resources(of).await;
    let on = |id: &ResourceId| slots.iter().filter(|(key, _)| key.starts_with(&format!("{id}/"))).count();
    let mut counts: Vec<usize> = resources.iter().map(|resource| on(&resource.id)).collect();
    counts.sort_unstable();
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packing_takes_the_fullest_and_spreading_shares_the_emptiest() {
    // The older one is the wrong one: that alone decides nothing.
    for (placement, older, then) in [(Placement::Pack, 1, [1, 3]), (Placement::Spread, 2, [2, 2])] {
        let world = Arc::new(World::default());
        let kind = lasting(&world, "host", 2, 3).limits(|limits| limits.placement = placement);
        let bench = Bench::start(2, Arc::clone(&world), vec![kind]).await;
        let mut leases = Vec::new();
        for _ in 0..6 {
            let lease = bench.queue(ask("host")).await;
            leases.push((resource_of(&bench, &lease).await, lease));
        }
        assert_eq!(on_each(&bench, "host").await, [3, 3]);
        let first = leases[0].0.clone();
        let (on_first, on_second): (Vec<_>, Vec<_>) = leases.into_iter().partition(|(on, _)| *on == first);
        for (_, lease) in on_first[older..].iter().chain(&on_second[3 - older..]) {
            bench.release(lease).await;
            bench.reaches(lease, LeaseState::Destroyed).await;
        }
        bench.idle().await;
        assert_eq!(on_each(&bench, "host").await, [1, 2]);
        let next = bench.queue(ask("host")).await;
        resource_of(&bench, &next).await;
        assert_eq!(on_each(&bench, "host").await, then);
        release_all(&bench).await;
        bench.idle().await;
        take_down(&bench, "host").await;
        bench.assert_nothing_left().await;
    }
}

async fn made_by(bench: &Bench, lease: &LeaseId) -> String {
    let blueprint = bench.reaches(lease, LeaseState::Active).await.blueprint_id.unwrap();
    bench.engine().get_blueprint(&admin(), blueprint.as_str()).await.unwrap().name
}

/// Kinds that make hosts, one each.
fn hosts(world: &Arc<World>, names: &[(&'static str, i64)]) -> Vec<TestKind> {
    let host = |(name, rank): &(&'static str, i64)| {
        lasting(world, name, 1, 1).with(|kind| {
            kind.resource_type = "host";
            kind.rank = *rank;
        })
    };
    names.iter().map(host).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_blueprint_of_higher_rank_is_tried_first() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), hosts(&world, &[("alder", 0), ("birch", 0), ("cedar", 7)])).await;
    // The kind's rank, then the name.
    for expected in ["cedar", "alder"] {
        let lease = bench.queue(ask("host")).await;
        assert_eq!(made_by(&bench, &lease).await, expected);
    }
    release_all(&bench).await;
    bench.idle().await;
    // What the blueprint says goes before what its kind does.
    bench.limit("alder", |limits| limits.rank = Some(9)).await;
    for expected in ["alder", "cedar"] {
        let lease = bench.queue(ask("host")).await;
        assert_eq!(made_by(&bench, &lease).await, expected);
    }
    release_all(&bench).await;
    bench.idle().await;
    take_down(&bench, "host").await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_blueprints_that_a_lease_names_serve_it() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), hosts(&world, &[("alder", 9), ("birch", 0)])).await;
    let naming = |name: &str| Acquire { blueprints: vec![name.to_owned()], ..ask("host") };
    let idle = bench.queue(naming("alder")).await;
    bench.reaches(&idle, LeaseState::Active).await;
    bench.release(&idle).await;
    bench.reaches(&idle, LeaseState::Destroyed).await;
    // One of the other blueprint is there, and of higher rank.
    let one = bench.queue(naming("birch")).await;
    assert_eq!(made_by(&bench, &one).await, "birch");
    let two = bench.queue(naming("birch")).await;
    bench.idle().await;
    assert_eq!(bench.state(&two).await, LeaseState::Pending, "it waits beside a free one that it does not name");
    bench.release(&one).await;
    assert_eq!(made_by(&bench, &two).await, "birch");
    release_all(&bench).await;
    bench.idle().await;
    take_down(&bench, "host").await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_disabled_blueprint_has_is_leased_to_nobody() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), hosts(&world, &[("alder", 9), ("birch", 0)])).await;
    let idle = bench.queue(ask("host")).await;
    assert_eq!(made_by(&bench, &idle).await, "alder");
    bench.release(&idle).await;
    bench.reaches(&idle, LeaseState::Destroyed).await;
    bench.engine().set_blueprint_enabled(&admin(), "alder", false, None).await.unwrap();
    let one = bench.queue(ask("host")).await;
    assert_eq!(made_by(&bench, &one).await, "birch");
    let two = bench.queue(ask("host")).await;
    bench.idle().await;
    assert_eq!(bench.state(&two).await, LeaseState::Pending);
    bench.engine().set_blueprint_enabled(&admin(), "alder", true, None).await.unwrap();
    assert_eq!(made_by(&bench, &two).await, "alder");
    release_all(&bench).await;
    bench.idle().await;
    take_down(&bench, "host").await;
    bench.assert_nothing_left().await;
}
