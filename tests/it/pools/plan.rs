//! The pure side: what is counted as ready and missing, and who could be taken down for whom.

use drydock::allocator::{Plan, Rules, plan, reclaim, survey};
use drydock::model::id::LeaseId;
use drydock::model::pool::{Candidate, PoolView};
use drydock::model::{Blueprint, Breaker, Kind, Lease, LeaseSpec, Resource, ResourceState, StringMap, Upkeep};

use super::{MINUTE, SECOND};
use crate::queue::kit::NOON;
use crate::store::ground;

static BOX: Kind = Kind {
    kind: "box",
    resource_type: "box",
    interfaces: &[],
    needs: &[],
    config: &[],
    attributes: &[],
    leases_per_resource: 1,
    max_resources: Some(3),
    rank: 0,
    stays: false,
    reused_by_attributes: true,
    instant: true,
    registration: None,
};

struct Boxes;

impl Rules for Boxes {
    fn kind(&self, name: &str) -> Option<&'static Kind> {
        (name == BOX.kind).then_some(&BOX)
    }

    fn admits(&self, _: &Blueprint, _: &LeaseSpec) -> Result<(), String> {
        Ok(())
    }
}

fn blueprint() -> Blueprint {
    let mut blueprint = ground::blueprint("box");
    blueprint.limits.upkeep = Upkeep { idle_ttl: Some(60 * MINUTE), min_ready: 2, ..Upkeep::default() };
    blueprint
}

fn colour(colour: &str) -> StringMap {
    if colour.is_empty() { StringMap::new() } else { [("colour".to_owned(), colour.to_owned())].into() }
}

/// An idle one of this colour, built so long before noon, and so dear.
fn idle(of: &Blueprint, tint: &str, age: i64, cost: i64) -> Candidate {
    let resource = Resource {
        blueprint_id: of.id.clone(),
        state: ResourceState::Active,
        attributes: colour(tint),
        made_for: Some(LeaseId::new(1)),
        create_time: NOON - age - cost,
        active_time: Some(NOON - age),
        idle_since: Some(NOON - age),
        ..ground::resource()
    };
    Candidate { resource, taken: Vec::new() }
}

/// What is built ahead.
fn warm(of: &Blueprint, state: ResourceState) -> Candidate {
    let mut built = idle(of, "", 0, 0);
    built.resource = Resource { made_for: None, warm: true, state, owner: "res_x".to_owned(), ..built.resource };
    built
}

fn wanting(tint: &str) -> Lease {
    let mut lease = ground::lease();
    lease.spec.attributes = colour(tint);
    lease
}

fn view(of: &Blueprint, candidates: Vec<Candidate>, ahead: Vec<Lease>) -> PoolView {
    let places = (0..).take(candidates.len()).collect();
    let built = [(of.id.clone(), places)].into();
    PoolView { blueprints: vec![of.clone()], candidates, built, ahead, now: NOON, ..PoolView::default() }
}

#[test]
fn the_queue_counts_as_demand_and_builds_under_way_as_supply() {
    let of = blueprint();
    let mut used = idle(&of, "", 0, 0);
    used.taken.push((0, LeaseId::new(1)));
    let seen = survey(&view(&of, vec![used, warm(&of, ResourceState::Active)], Vec::new()), &of, &Boxes);
    assert_eq!((seen.used, seen.ready, seen.building, seen.want), (1, 1, 0, 2));
    assert_eq!((seen.missing(Some(3)), seen.missing(Some(2)), seen.missing(None)), (1, 0, 1));
    let building = view(&of, vec![warm(&of, ResourceState::Pending)], vec![wanting("")]);
    let seen = survey(&building, &of, &Boxes);
    assert_eq!((seen.building, seen.queued, seen.missing(None)), (1, 1, 2), "one for the queue, and two ready");
    // Who queues for another colour keeps his room.
    let seen = survey(&view(&of, Vec::new(), vec![wanting("red"), wanting("blue")]), &of, &Boxes);
    assert_eq!((seen.unfit, seen.missing(Some(3)), seen.missing(Some(2))), (2, 1, 0));
    // What ann has used is hers.
    let seen = survey(&view(&of, vec![idle(&of, "", 0, 0)], Vec::new()), &of, &Boxes);
    assert_eq!((seen.ready, seen.used), (0, 0));
}

#[test]
fn a_build_ahead_goes_to_the_first_whom_it_suits() {
    let of = blueprint();
    let only = || vec![warm(&of, ResourceState::Pending)];
    let Plan::Adopt { resource: taken, .. } = plan(&wanting(""), &view(&of, only(), Vec::new()), &Boxes).plan else {
        panic!()
    };
    assert!(taken.is_nobodys());
    for ahead in [vec![wanting("")], Vec::new()] {
        let tint = if ahead.is_empty() { "red" } else { "" };
        let plan = plan(&wanting(tint), &view(&of, only(), ahead), &Boxes).plan;
        assert!(matches!(plan, Plan::Build { .. }), "{plan:?}");
    }
}

#[test]
fn only_what_nobody_ahead_could_use_is_taken_down_and_the_cheap_and_long_unused_first() {
    let of = blueprint();
    let full = vec![
        idle(&of, "red", 20 * MINUTE, 10 * SECOND),
        idle(&of, "green", 10 * MINUTE, SECOND),
        idle(&of, "blue", MINUTE, SECOND),
    ];
    let ids: Vec<_> = full.iter().map(|candidate| candidate.resource.id.clone()).collect();
    let lease = wanting("white");
    let victims = |full: &[Candidate], ahead| {
        let view = view(&of, full.to_vec(), ahead);
        let victims = reclaim::under_the_same_limit(&lease, &view, &Boxes);
        reclaim::outlook(victims, NOON).behind(reclaim::before(&lease, &view, &Boxes))
    };
    let of_all = victims(&full, Vec::new());
    let order: Vec<_> = of_all.now.iter().map(|victim| victim.id.clone()).collect();
    assert_eq!(order, [ids[1].clone(), ids[0].clone()], "the one that is dear to build comes later");
    assert_eq!(
        of_all.later.iter().map(|(at, of)| (*at, of.id.clone())).collect::<Vec<_>>(),
        [(NOON + 2 * MINUTE, ids[2].clone())]
    );
    // One ahead could use the green one, so it stays, and may take one down before us.
    let behind = victims(&full, vec![wanting("green")]);
    assert!(behind.now.is_empty(), "{behind:?}");
    assert_eq!(behind.later.len(), 1);
    // With room left nothing is taken down.
    assert_eq!(victims(&full[..2], Vec::new()), reclaim::Outlook::default());
}

#[test]
fn a_pause_leaves_room_for_one_when_it_is_over() {
    let mut of = blueprint();
    of.breaker = Breaker { failures: 3, trips: 1, until: Some(NOON + 1), error: "x".to_owned(), ..Breaker::default() };
    let lease = wanting("red");
    assert_eq!(plan(&lease, &view(&of, Vec::new(), Vec::new()), &Boxes).plan, Plan::Park);
    of.breaker.until = Some(NOON);
    let one = plan(&lease, &view(&of, Vec::new(), Vec::new()), &Boxes);
    assert!(matches!(one.plan, Plan::Build { .. }) && !one.more, "{one:?}");
    let mut tried = idle(&of, "red", 0, 0);
    tried.resource.state = ResourceState::Pending;
    assert_eq!(plan(&lease, &view(&of, vec![tried], Vec::new()), &Boxes).plan, Plan::Park);
}

#[test]
fn the_same_picture_is_the_same_plan() {
    let of = blueprint();
    let mut full: Vec<Candidate> = (0..6).map(|_| idle(&of, "red", MINUTE, SECOND)).collect();
    let oldest = full.iter().map(|one| one.resource.id.clone()).min();
    for _ in 0..24 {
        // In whatever order they are told, the oldest of equals is taken.
        full.rotate_left(1);
        let Plan::Take { resource, .. } = plan(&wanting("red"), &view(&of, full.clone(), Vec::new()), &Boxes).plan
        else {
            panic!()
        };
        assert_eq!(Some(resource.id), oldest);
    }
}
