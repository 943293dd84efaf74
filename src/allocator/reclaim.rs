//! Reclaim: which resource that nobody uses is taken down so that a lease gets room. Only one whose end helps, only one
//! that nobody ahead could use, and none that is fresh: two types that alternate on one place would else build all day.

use super::{Rules, breaker, is_registered, limit_of, verdict, warm};
use crate::clock::Micros;
use crate::model::pool::{Candidate, PoolView};
use crate::model::{Lease, Resource, ResourceState};

/// A resource is safe for so long after it was built, or for as long as building it took, whichever is longer.
pub const PROTECTED: Micros = 180_000_000;
/// What building costs at least, for weighing.
const CHEAPEST: Micros = 1_000_000;

/// What taking down could do for a lease.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outlook {
    /// May be taken down, the best first.
    pub now: Vec<Resource>,
    /// Still too fresh, the first to be free of that first, with the time.
    pub later: Vec<(Micros, Resource)>,
}

impl Outlook {
    /// What is left for a lease with so many ahead of it that may take one first.
    #[must_use]
    pub fn behind(mut self, ahead: usize) -> Self {
        let spent = ahead.min(self.now.len());
        self.now.drain(..spent);
        self.later.drain(..(ahead - spent).min(self.later.len()));
        self
    }
}

/// Until when a resource is too fresh to be taken down for others.
#[must_use]
pub fn protected_until(resource: &Resource) -> Micros {
    let active = resource.active_time.unwrap_or(Micros::MAX);
    active.saturating_add(PROTECTED.max(cost(resource)))
}

fn cost(resource: &Resource) -> Micros {
    resource.active_time.map_or(0, |active| active - resource.create_time)
}

/// Longest unused first, but what is dear to build later.
fn weight(resource: &Resource, now: Micros) -> Micros {
    let since = resource.idle_since.or(resource.active_time).unwrap_or(now);
    (now - since).saturating_mul(1_000) / cost(resource).max(CHEAPEST)
}

/// Orders victims. The same one may be there twice: then it counts once.
#[must_use]
pub fn outlook(victims: Vec<Resource>, now: Micros) -> Outlook {
    let mut outlook = Outlook::default();
    for victim in victims {
        let known = |of: &Resource| of.id == victim.id;
        if outlook.now.iter().any(known) || outlook.later.iter().any(|(_, of)| known(of)) {
            continue;
        }
        match protected_until(&victim) {
            until if until <= now => outlook.now.push(victim),
            until => outlook.later.push((until, victim)),
        }
    }
    outlook.now.sort_by(|a, b| weight(b, now).cmp(&weight(a, now)).then_with(|| a.id.cmp(&b.id)));
    outlook.later.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.id.cmp(&b.1.id)));
    outlook
}

/// Whether a resource could be taken down for others at all: nobody has it, or is about to get it.
#[must_use]
pub fn is_idle(resource: &Resource) -> bool {
    let awaited = resource.made_for.is_some() && resource.idle_since.is_none();
    resource.state == ResourceState::Active && !resource.is_registered() && !awaited && resource.drain.is_none()
}

/// Whether somebody in the queue of the view could use a resource as it is.
#[must_use]
pub fn wanted(resource: &Resource, view: &PoolView, rules: &dyn Rules) -> bool {
    let candidate = Candidate { resource: resource.clone(), taken: Vec::new() };
    view.ahead.iter().any(|ahead| verdict::reject_resource(ahead, &candidate, view, rules).is_none())
}

/// How many ahead may take one down first: those that have not yet.
#[must_use]
pub fn before(lease: &Lease, view: &PoolView, rules: &dyn Rules) -> usize {
    let same = |ahead: &&Lease| {
        ahead.reclaimed.is_none()
            && view.blueprints.iter().any(|blueprint| {
                [*ahead, lease].iter().all(|of| verdict::reject_blueprint(of, blueprint, rules).is_none())
            })
    };
    view.ahead.iter().filter(same).count()
}

/// Idle resources that hold places of the very limit that keeps a new one from being built for the lease.
#[must_use]
pub fn under_the_same_limit(lease: &Lease, view: &PoolView, rules: &dyn Rules) -> Vec<Resource> {
    let mut victims = Vec::new();
    for blueprint in view.blueprints.iter().filter(|of| verdict::reject_blueprint(lease, of, rules).is_none()) {
        let Some(limit) = limit_of(blueprint, rules) else { continue };
        let built = view.built.get(&blueprint.id).map_or(0, Vec::len);
        let full = i64::try_from(built).unwrap_or(i64::MAX) == limit;
        // Below the limit there is room for those ahead; above it, the end of one frees nothing.
        if !full || is_registered(blueprint, rules) || breaker::pause_of(blueprint, view.now).is_some() {
            continue;
        }
        let of = view.candidates.iter().filter(|candidate| candidate.resource.blueprint_id == blueprint.id);
        // What ends already frees its place without anybody's help.
        if built.saturating_sub(of.clone().count()) > view.ahead.len() {
            continue;
        }
        let free = of.filter(|candidate| candidate.taken.is_empty() && is_idle(&candidate.resource));
        let unwanted = free.filter(|candidate| {
            verdict::reject_resource(lease, candidate, view, rules).is_some()
                && !wanted(&candidate.resource, view, rules)
        });
        victims.extend(unwanted.map(|candidate| candidate.resource.clone()));
    }
    victims
}

/// Full resources on which the lease would fit, or whose end makes room for it: who holds their places may hold them for something idle.
#[must_use]
pub fn full_ones<'v>(lease: &Lease, view: &'v PoolView, rules: &dyn Rules) -> Vec<&'v Candidate> {
    let goes = |candidate: &Candidate| {
        let blueprint = view.blueprints.iter().find(|of| of.id == candidate.resource.blueprint_id);
        blueprint.is_some_and(|of| {
            let goes = rules.kind(&of.kind).is_some_and(|kind| !warm::stays(of, kind) && !kind.is_registered());
            goes && verdict::reject_blueprint(lease, of, rules).is_none()
        })
    };
    let fits = |candidate: &&Candidate| {
        candidate.resource.state == ResourceState::Active
            && candidate.free() <= 0
            && (verdict::reject_resource(lease, candidate, view, rules).is_none() || goes(candidate))
    };
    view.candidates.iter().filter(fits).collect()
}
