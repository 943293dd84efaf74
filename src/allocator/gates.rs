//! Limits that a lease must pass beside the room there is: per owner, per key, builds at once. Each is a set of slots, as
//! all limits are; what a lease or resource holds of it is given back when it has ended.

use std::collections::BTreeMap;

use crate::model::pool::PoolView;
use crate::model::slot::{Slot, free_place};
use crate::model::{Blueprint, Lease, Shares};

/// How the names of limits begin whose slots are waited for in every pool: leases that one owner has asked for and that
/// hold or build something.
pub const EVERYWHERE: &str = "owner:";
/// As those, of all owners together: no owner has an empty name.
const ALL: &str = EVERYWHERE;
/// Leases of one owner on the resources of one blueprint.
const OWNER_OF: &str = "owner-of:";
/// Attributes of which only one lease has these values.
const KEY: &str = "key:";
/// Resources of a blueprint that are being built.
const BUILDS: &str = "builds:";

/// A limit that a lease must pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// Whose slots.
    pub scope: String,
    /// How many there are.
    pub limit: i64,
    /// `UPPER_SNAKE`, when it is closed.
    pub reason: &'static str,
    /// What is limited, for people.
    pub what: String,
}

impl Gate {
    /// Whether a lease that it holds up waits for this limit's slots wherever they are given back, not in its pool alone.
    #[must_use]
    pub fn is_everywhere(&self) -> bool {
        is_waited_for_everywhere(&self.scope)
    }
}

/// Whether leases of other pools may wait for the slots of this scope, so that giving one back must wake them.
#[must_use]
pub fn is_waited_for_everywhere(scope: &str) -> bool {
    scope.starts_with(EVERYWHERE)
}

/// The limits of an owner's leases in the queue; its slots are given back when the lease leaves it.
#[must_use]
pub fn queued(owner: &str) -> String {
    format!("queued:{owner}")
}

/// The limit of builds at once, which the resource that is built passes.
#[must_use]
pub fn builds(blueprint: &Blueprint) -> Option<Gate> {
    let limit = blueprint.limits.max_builds?;
    let (scope, what) = (builds_of(blueprint.id.as_str()), format!("builds by {} at once", blueprint.name));
    Some(Gate { scope, limit, reason: "LIMIT_REACHED", what })
}

/// The slots of a blueprint's builds.
#[must_use]
pub fn builds_of(blueprint: &str) -> String {
    format!("{BUILDS}{blueprint}")
}

/// What a lease must pass to be served by a blueprint.
#[must_use]
pub fn of_lease(lease: &Lease, blueprint: &Blueprint, shares: &Shares) -> Vec<Gate> {
    let mut gates = Vec::new();
    let owner = &lease.owner;
    if let Some(limit) = shares.together.filter(|_| lease.parent.is_none()) {
        let what = "leases of all owners at once".to_owned();
        gates.push(Gate { scope: ALL.to_owned(), limit, reason: "QUOTA_REACHED", what });
    }
    if let Some(limit) = shares.of(owner).max_leases.filter(|_| lease.parent.is_none()) {
        let (scope, what) = (format!("{EVERYWHERE}{owner}"), format!("leases of {owner} at once"));
        gates.push(Gate { scope, limit, reason: "QUOTA_REACHED", what });
    }
    if let Some(limit) = blueprint.limits.leases_per_owner {
        let scope = format!("{OWNER_OF}{}:{owner}", blueprint.id);
        let what = format!("leases of {owner} on {}", blueprint.name);
        gates.push(Gate { scope, limit, reason: "QUOTA_REACHED", what });
    }
    if !blueprint.limits.exclusive_by.is_empty() {
        let value = |key: &String| lease.spec.attributes.get(key).cloned().unwrap_or_default();
        let values: Vec<String> = blueprint.limits.exclusive_by.iter().map(value).collect();
        // Debug quotes each, so that no two lists of values make one name.
        let scope = format!("{KEY}{}:{values:?}", blueprint.id);
        let what = format!("leases with {} {}", blueprint.limits.exclusive_by.join(", "), values.join(", "));
        gates.push(Gate { scope, limit: 1, reason: "LIMIT_REACHED", what });
    }
    gates
}

/// Scopes whose slots a decision about this lease looks at.
#[must_use]
pub fn scopes(lease: &Lease, view: &PoolView, shares: &Shares) -> Vec<String> {
    let mut scopes: Vec<String> = Vec::new();
    for blueprint in &view.blueprints {
        scopes.extend(builds(blueprint).map(|gate| gate.scope));
        let leases = std::iter::once(lease).chain(&view.ahead);
        scopes.extend(leases.flat_map(|lease| of_lease(lease, blueprint, shares)).map(|gate| gate.scope));
    }
    scopes.sort_unstable();
    scopes.dedup();
    scopes
}

/// Slots of limits, as they are dealt out on paper.
pub(super) struct Passes<'v> {
    view: &'v PoolView,
    dealt: BTreeMap<String, i64>,
}

impl<'v> Passes<'v> {
    pub(super) fn new(view: &'v PoolView) -> Self {
        Self { view, dealt: BTreeMap::new() }
    }

    fn held(&self, scope: &str) -> &'v [(i64, String)] {
        self.view.held.get(scope).map_or(&[], Vec::as_slice)
    }

    /// Whether `holder` has passed it already, or may.
    fn is_open(&self, gate: &Gate, holder: &str) -> bool {
        let held = self.held(&gate.scope);
        let dealt = self.dealt.get(&gate.scope).copied().unwrap_or(0);
        let taken = i64::try_from(held.len()).unwrap_or(i64::MAX).saturating_add(dealt);
        held.iter().any(|(_, by)| by == holder) || taken < gate.limit
    }

    /// The first of these that is closed for `holder`, with its numbers and who holds it.
    pub(super) fn closed(&self, gates: &[Gate], holder: &str) -> Option<(Gate, String, Vec<String>)> {
        let gate = gates.iter().find(|gate| !self.is_open(gate, holder))?;
        let held = self.held(&gate.scope);
        let numbers = format!("{} of {} {}", held.len(), gate.limit, gate.what);
        Some((gate.clone(), numbers, held.iter().map(|(_, by)| by.clone()).collect()))
    }

    /// Deals one slot of each to a lease ahead; `false` deals none, since one is closed.
    pub(super) fn deal(&mut self, gates: &[Gate], holder: &str) -> bool {
        if self.closed(gates, holder).is_some() {
            return false;
        }
        for gate in gates {
            if !self.held(&gate.scope).iter().any(|(_, by)| by == holder) {
                *self.dealt.entry(gate.scope.clone()).or_insert(0) += 1;
            }
        }
        true
    }

    /// The slots that `holder` takes with these.
    pub(super) fn slots(&self, gates: &[Gate], holder: &str) -> Vec<Slot> {
        let mut slots = Vec::new();
        for gate in gates {
            let held = self.held(&gate.scope);
            let taken: Vec<i64> = held.iter().map(|(place, _)| *place).collect();
            if held.iter().all(|(_, by)| by != holder)
                && let Some(place) = free_place(gate.limit, &taken)
            {
                slots.push(Slot { scope: gate.scope.clone(), place });
            }
        }
        slots
    }
}
