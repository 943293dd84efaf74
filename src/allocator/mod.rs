//! Which resource a lease gets, or what has to happen first. Pure: a snapshot in, a plan out.
//!
//! Order of choice: a resource with room (pack: the fullest; spread: an unused one), wait for the one that is being
//! built for this lease, take over what is built ahead of demand, build when a limit allows, share (spread: the emptiest), park. What the leases ahead in the
//! queue will take is not there for this one: room is dealt out in the order of the queue, on paper, before this lease is looked at.
//! [`plan`] decides and explains at once: the verdicts are those the decision was made with.

mod breaker;
mod capacity;
pub mod eta;
mod gang;
pub mod gates;
pub mod reclaim;
mod verdict;
mod warm;

use std::collections::BTreeMap;
use std::sync::LazyLock;

pub use breaker::pause_of;
pub use capacity::{NeverFits, Suppliers, can_ever_fit, circle};
pub use gang::{Together, plan_together};
pub use verdict::Verdict;
pub(crate) use verdict::missing_label;
pub use warm::{Survey, idle_ttl_of, is_ready, is_used_up, stays, survey};

use crate::model::id::{BlueprintId, LeaseId, ResourceId};
use crate::model::pool::{Candidate, PoolView};
use crate::model::slot::{Slot, free_place};
use crate::model::{Blueprint, Kind, Lease, LeaseSpec, Placement, Resource, ResourceState, Shares, Waiting};
use gates::Passes;

/// What the allocator must know of kinds; data and pure checks.
pub trait Rules: Send + Sync {
    /// A kind by its name; `None` when this binary does not have it.
    fn kind(&self, name: &str) -> Option<&'static Kind>;

    /// Whether the blueprint takes these attributes.
    ///
    /// # Errors
    /// Why not, in one line.
    fn admits(&self, blueprint: &Blueprint, spec: &LeaseSpec) -> Result<(), String>;

    /// What each owner may have; nobody is limited by default.
    fn shares(&self) -> &Shares {
        static EQUAL: LazyLock<Shares> = LazyLock::new(Shares::default);
        &EQUAL
    }
}

/// What happens to a lease next.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// It gets this place.
    Take {
        /// Of this resource.
        resource: Box<Resource>,
        /// The places on it: one, or all for a lease that wants it for itself.
        places: Vec<i64>,
        /// And these slots of limits.
        limits: Vec<Slot>,
    },
    /// It takes over what is being built for nobody in particular.
    Adopt {
        /// This one.
        resource: Box<Resource>,
        /// The lease takes these slots of limits.
        limits: Vec<Slot>,
    },
    /// A resource is built for it.
    Build {
        /// By this blueprint.
        blueprint: Box<Blueprint>,
        /// In this place of its limit; one without a limit has places too, so that a limit that comes later counts them.
        place: i64,
        /// The lease takes these slots of limits.
        limits: Vec<Slot>,
        /// And the resource these, while it is built.
        builds: Vec<Slot>,
    },
    /// It waits for the resource that is being built for it.
    Await(ResourceId),
    /// It waits until capacity is free.
    Park,
    /// Nothing that could ever serve it is left.
    Gone,
}

/// A plan and its reasons.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What happens.
    pub plan: Plan,
    /// There is room for more after this: a baton goes on.
    pub more: bool,
    /// Why it waits, when it does.
    pub waiting: Option<Waiting>,
    /// All candidates in the order tried.
    pub verdicts: Vec<Verdict>,
    /// Limits that hold it up whose slots may be given back in other pools too.
    pub limits: Vec<String>,
    /// Leases whose turn began earlier and for which something is kept that they have not taken yet.
    pub kept_for: Vec<LeaseId>,
}

/// Room as it is dealt out, on paper.
struct Room<'v> {
    view: &'v PoolView,
    /// Free places by candidate.
    places: Vec<i64>,
    /// Places for new resources by blueprint; `None` is no limit.
    builds: BTreeMap<BlueprintId, Option<i64>>,
    /// Slots of limits beside.
    passes: Passes<'v>,
    /// What is built for nobody in particular.
    warm: warm::Builds<'v>,
}

/// Decides for `lease`.
#[must_use]
pub fn plan(lease: &Lease, view: &PoolView, rules: &dyn Rules) -> Decision {
    let mut room = Room::new(view, rules);
    let (dealt, kept_for) = room.deal_to_those_ahead(lease, rules);
    let verdicts = verdict::all(lease, view, rules, &room);
    let chosen = choose(lease, view, rules, &room);
    room.spend(&chosen);
    let more = room.is_left();
    let waiting = verdict::waiting(&chosen, lease, view, rules, dealt, &verdicts);
    let limits = if chosen == Plan::Park { closed_everywhere(lease, view, rules, &room.passes) } else { Vec::new() };
    Decision { plan: chosen, more, waiting, verdicts, limits, kept_for }
}

fn closed_everywhere(lease: &Lease, view: &PoolView, rules: &dyn Rules, passes: &Passes<'_>) -> Vec<String> {
    let mut scopes: Vec<String> = Vec::new();
    for blueprint in &view.blueprints {
        let gates = gates::of_lease(lease, blueprint, rules.shares());
        let closed = passes.closed(&gates, lease.id.as_str()).filter(|(gate, ..)| gate.is_everywhere());
        scopes.extend(closed.map(|(gate, ..)| gate.scope));
    }
    scopes.sort_unstable();
    scopes.dedup();
    scopes
}

/// Takes places for a lease: one, or all.
fn places(lease: &Lease, candidate: &Candidate) -> Option<Vec<i64>> {
    if !lease.spec.exclusive {
        return candidate.free_place().map(|place| vec![place]);
    }
    candidate.taken.is_empty().then(|| (0..candidate.resource.lease_limit).collect())
}

/// The holder of slots that a resource takes which is not made yet.
const NOBODY: &str = "";

fn choose(lease: &Lease, view: &PoolView, rules: &dyn Rules, room: &Room<'_>) -> Plan {
    if let Some(own) = own_resource(lease, view) {
        match (own.resource.state, places(lease, own)) {
            (ResourceState::Active, Some(places)) if verdict::reject_resource(lease, own, view, rules).is_none() => {
                // What it must pass it passed when the building began.
                return Plan::Take { resource: Box::new(own.resource.clone()), places, limits: Vec::new() };
            }
            _ => {}
        }
    }
    let take = |candidate: &Candidate, places: Vec<i64>, gates: &[gates::Gate]| Plan::Take {
        resource: Box::new(candidate.resource.clone()),
        places,
        limits: room.passes.slots(gates, lease.id.as_str()),
    };
    let mut spread_later: Option<Plan> = None;
    for blueprint in in_rank(view, rules) {
        let gates = gates::of_lease(lease, blueprint, rules.shares());
        if room.passes.closed(&gates, lease.id.as_str()).is_some() {
            continue;
        }
        let with_room: Vec<(&Candidate, Vec<i64>)> = view
            .candidates
            .iter()
            .zip(&room.places)
            .filter(|(candidate, free)| {
                **free > 0
                    && candidate.resource.blueprint_id == blueprint.id
                    && verdict::reject_resource(lease, candidate, view, rules).is_none()
            })
            .filter_map(|(candidate, _)| places(lease, candidate).map(|places| (candidate, places)))
            .collect();
        let best = match blueprint.limits.placement {
            Placement::Pack => with_room.into_iter().max_by(|a, b| {
                a.0.taken.len().cmp(&b.0.taken.len()).then_with(|| b.0.resource.id.cmp(&a.0.resource.id))
            }),
            Placement::Spread => {
                let emptiest = with_room.into_iter().min_by_key(|(candidate, _)| candidate.taken.len());
                match emptiest {
                    Some((candidate, places)) if !candidate.taken.is_empty() => {
                        spread_later = spread_later.or_else(|| Some(take(candidate, places, &gates)));
                        None
                    }
                    other => other,
                }
            }
        };
        if let Some((candidate, places)) = best {
            return take(candidate, places, &gates);
        }
    }
    if let Some(own) = own_resource(lease, view)
        && own.resource.state == ResourceState::Pending
    {
        return Plan::Await(own.resource.id.clone());
    }
    for blueprint in in_rank(view, rules) {
        if verdict::reject_blueprint(lease, blueprint, rules).is_some() {
            continue;
        }
        let gates = gates::of_lease(lease, blueprint, rules.shares());
        if room.passes.closed(&gates, lease.id.as_str()).is_some() {
            continue;
        }
        if let Some(resource) = room.warm.for_lease(lease, Some(blueprint), rules) {
            let limits = room.passes.slots(&gates, lease.id.as_str());
            return Plan::Adopt { resource: Box::new(resource.clone()), limits };
        }
        let build: Vec<gates::Gate> = gates::builds(blueprint).into_iter().collect();
        if room.passes.closed(&build, NOBODY).is_some() {
            continue;
        }
        match room.builds.get(&blueprint.id) {
            Some(left) if left.is_none_or(|left| left > 0) => {
                let taken = view.built.get(&blueprint.id).cloned().unwrap_or_default();
                let limit = limit_of(blueprint, rules).unwrap_or(i64::MAX);
                if let Some(place) = free_place(limit, &taken) {
                    let limits = room.passes.slots(&gates, lease.id.as_str());
                    let builds = room.passes.slots(&build, NOBODY);
                    return Plan::Build { blueprint: Box::new(blueprint.clone()), place, limits, builds };
                }
            }
            _ => {}
        }
    }
    if let Some(shared) = spread_later {
        return shared;
    }
    let possible = view
        .blueprints
        .iter()
        .any(|blueprint| verdict::reject_blueprint(lease, blueprint, rules).is_none_or(|reason| reason.passes));
    if possible { Plan::Park } else { Plan::Gone }
}

fn blueprint_of<'v>(candidate: &Candidate, view: &'v PoolView) -> Option<&'v Blueprint> {
    view.blueprints.iter().find(|blueprint| blueprint.id == candidate.resource.blueprint_id)
}

fn own_resource<'v>(lease: &Lease, view: &'v PoolView) -> Option<&'v Candidate> {
    let own = lease.allocating.as_ref()?;
    view.candidates.iter().find(|candidate| candidate.resource.id == *own)
}

/// Blueprints in the order tried: rank, then name.
fn in_rank<'v>(view: &'v PoolView, rules: &dyn Rules) -> Vec<&'v Blueprint> {
    let rank = |blueprint: &Blueprint| {
        blueprint.limits.rank.or_else(|| rules.kind(&blueprint.kind).map(|kind| kind.rank)).unwrap_or(0)
    };
    let mut blueprints: Vec<&Blueprint> = view.blueprints.iter().collect();
    blueprints.sort_by(|a, b| rank(b).cmp(&rank(a)).then_with(|| a.name.cmp(&b.name)));
    blueprints
}

/// How many resources a blueprint may have; `None` is no limit.
#[must_use]
pub fn limit_of(blueprint: &Blueprint, rules: &dyn Rules) -> Option<i64> {
    blueprint.limits.max_resources.or_else(|| rules.kind(&blueprint.kind).and_then(|kind| kind.max_resources))
}

/// Whether a blueprint's resources are registered by hand: none is ever built for a lease.
#[must_use]
pub fn is_registered(blueprint: &Blueprint, rules: &dyn Rules) -> bool {
    rules.kind(&blueprint.kind).is_some_and(Kind::is_registered)
}

/// How many leases a resource of a blueprint takes at once.
#[must_use]
pub fn leases_of(blueprint: &Blueprint, rules: &dyn Rules) -> i64 {
    blueprint
        .limits
        .leases_per_resource
        .or_else(|| rules.kind(&blueprint.kind).map(|kind| kind.leases_per_resource))
        .unwrap_or(1)
}

impl<'v> Room<'v> {
    fn new(view: &'v PoolView, rules: &dyn Rules) -> Self {
        let places = view.candidates.iter().map(Candidate::free).collect();
        let builds = view
            .blueprints
            .iter()
            .map(|blueprint| {
                let built =
                    view.built.get(&blueprint.id).map_or(0, |places| i64::try_from(places.len()).unwrap_or(i64::MAX));
                let left = breaker::left(blueprint, view, limit_of(blueprint, rules).map(|limit| limit - built));
                // What is registered by hand is never built.
                (blueprint.id.clone(), if is_registered(blueprint, rules) { Some(0) } else { left })
            })
            .collect();
        Self { view, places, builds, passes: Passes::new(view), warm: warm::Builds::new(view) }
    }

    /// Gives each lease ahead what it would take; how many of them got nothing, and who got something. Those whose turn began at the
    /// same time, as all of one tree, are dealt to in the order of their ids, but none of them has to go first.
    fn deal_to_those_ahead(&mut self, lease: &Lease, rules: &dyn Rules) -> (usize, Vec<LeaseId>) {
        let (mut empty_handed, mut served) = (0, Vec::new());
        for ahead in &self.view.ahead {
            if self.deal_place(ahead, rules) || self.warm.deal(ahead, rules) || self.deal_build(ahead, rules) {
                served.extend((ahead.ord < lease.ord).then(|| ahead.id.clone()));
            } else {
                empty_handed += 1;
            }
        }
        (empty_handed, served)
    }

    fn deal_place(&mut self, lease: &Lease, rules: &dyn Rules) -> bool {
        let view = self.view;
        let mut fitting = view
            .candidates
            .iter()
            .zip(&mut self.places)
            .filter(|(candidate, free)| **free > 0 && verdict::reject_resource(lease, candidate, view, rules).is_none())
            .collect::<Vec<_>>();
        // What was built for it first.
        fitting.sort_by_key(|(candidate, _)| lease.allocating.as_ref() != Some(&candidate.resource.id));
        if lease.spec.exclusive {
            // When none is empty, one is kept from filling up again: else those behind would pass it for ever.
            fitting.sort_by_key(|(candidate, free)| candidate.resource.lease_limit - **free);
        }
        for (candidate, free) in fitting {
            let gates = blueprint_of(candidate, view).map(|of| gates::of_lease(lease, of, rules.shares()));
            if !self.passes.deal(&gates.unwrap_or_default(), lease.id.as_str()) {
                continue;
            }
            let whole = *free == candidate.resource.lease_limit;
            *free = if lease.spec.exclusive { 0 } else { *free - 1 };
            return whole || !lease.spec.exclusive;
        }
        false
    }

    fn deal_build(&mut self, lease: &Lease, rules: &dyn Rules) -> bool {
        for blueprint in &self.view.blueprints {
            if verdict::reject_blueprint(lease, blueprint, rules).is_some() {
                continue;
            }
            let left = self.builds.get_mut(&blueprint.id);
            if left.as_ref().is_none_or(|left| left.is_some_and(|left| left <= 0)) {
                continue;
            }
            let mut gates = gates::of_lease(lease, blueprint, rules.shares());
            gates.extend(gates::builds(blueprint));
            if !self.passes.deal(&gates, lease.id.as_str()) {
                continue;
            }
            if let Some(Some(left)) = left {
                *left -= 1;
            }
            return true;
        }
        false
    }

    fn spend(&mut self, plan: &Plan) {
        match plan {
            Plan::Take { resource, places, .. } => {
                if let Some(index) =
                    self.view.candidates.iter().position(|candidate| candidate.resource.id == resource.id)
                {
                    self.places[index] -= i64::try_from(places.len()).unwrap_or(i64::MAX);
                }
            }
            Plan::Build { blueprint, .. } => {
                if let Some(Some(left)) = self.builds.get_mut(&blueprint.id) {
                    *left -= 1;
                }
            }
            Plan::Adopt { resource, .. } => self.warm.spend(&resource.id),
            Plan::Await(_) | Plan::Park | Plan::Gone => {}
        }
    }

    fn is_left(&self) -> bool {
        self.places.iter().any(|free| *free > 0)
            || self.warm.is_left()
            || self.builds.values().any(|left| left.is_none_or(|left| left > 0))
    }
}
