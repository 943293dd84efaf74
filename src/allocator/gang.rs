//! Leases that are taken all at once or not at all: siblings that one resource needs of a type, and what one call asks for.
//!
//! To hold one and wait for the other is how two of them get stuck: each has what the other wants. A gang holds nothing
//! until there is room for all of it.

use std::collections::BTreeMap;

use super::{Decision, Plan, Rules, plan};
use crate::model::Lease;
use crate::model::pool::PoolView;

/// What happens to a gang next.
#[derive(Debug, Clone, PartialEq)]
pub enum Together {
    /// There is room for each: in the order of the leases. Places are given when nothing has to be built first.
    Go(Vec<Decision>),
    /// There is not: the first for which there is none, and why.
    Wait(usize, Box<Decision>),
}

/// Decides for all leases of a gang, with the view of each type; each sees what those before it would take.
#[must_use]
pub fn plan_together(leases: &[Lease], views: &mut BTreeMap<String, PoolView>, rules: &dyn Rules) -> Together {
    for view in views.values_mut() {
        view.ahead.retain(|ahead| leases.iter().all(|lease| lease.id != ahead.id));
    }
    let nothing = PoolView::default();
    let mut decisions = Vec::new();
    for (index, lease) in leases.iter().enumerate() {
        let view = views.get(&lease.spec.resource_type).unwrap_or(&nothing);
        let decision = plan(lease, view, rules);
        if matches!(decision.plan, Plan::Park | Plan::Gone) {
            return Together::Wait(index, Box::new(decision));
        }
        for (_, view) in views.iter_mut() {
            spend(view, lease, &decision.plan);
        }
        decisions.push(decision);
    }
    Together::Go(decisions)
}

/// Writes into a view what a plan takes.
fn spend(view: &mut PoolView, lease: &Lease, plan: &Plan) {
    let slots = match plan {
        Plan::Take { resource, places, limits } => {
            let taken = view.candidates.iter_mut().find(|candidate| candidate.resource.id == resource.id);
            if let Some(candidate) = taken {
                candidate.taken.extend(places.iter().map(|place| (*place, lease.id.clone())));
            }
            limits.iter().collect::<Vec<_>>()
        }
        Plan::Build { blueprint, place, limits, builds } => {
            if view.blueprints.iter().any(|known| known.id == blueprint.id) {
                view.built.entry(blueprint.id.clone()).or_default().push(*place);
            }
            limits.iter().chain(builds).collect()
        }
        Plan::Await(_) | Plan::Park | Plan::Gone => Vec::new(),
    };
    for slot in slots {
        view.held.entry(slot.scope.clone()).or_default().push((slot.place, lease.id.to_string()));
    }
}
