//! The snapshot that an allocation is decided on.

use std::collections::BTreeMap;

use super::id::{BlueprintId, LeaseId};
use super::{Blueprint, Lease, Resource, StringMap};
use crate::clock::Micros;

/// A live resource of the type, and the places that are taken on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// PENDING or ACTIVE.
    pub resource: Resource,
    /// Places that leases hold, and who.
    pub taken: Vec<(i64, LeaseId)>,
}

impl Candidate {
    /// Places that are free.
    #[must_use]
    pub fn free(&self) -> i64 {
        self.resource.lease_limit - i64::try_from(self.taken.len()).unwrap_or(i64::MAX)
    }

    /// The lowest free place.
    #[must_use]
    pub fn free_place(&self) -> Option<i64> {
        (0..self.resource.lease_limit).find(|place| !self.taken.iter().any(|(taken, _)| taken == place))
    }
}

/// All that an allocation looks at.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PoolView {
    /// Blueprints that make the type, disabled ones too, by name.
    pub blueprints: Vec<Blueprint>,
    /// Live resources of the type, oldest first.
    pub candidates: Vec<Candidate>,
    /// Places of limited blueprints that resources hold.
    pub built: BTreeMap<BlueprintId, Vec<i64>>,
    /// Leases that queue before this one for the same type and have nothing being built for them, best first.
    pub ahead: Vec<Lease>,
    /// As of then.
    pub now: Micros,
    /// Slots of limits that a lease must pass (`allocator::gates`), by scope: place and holder.
    pub held: BTreeMap<String, Vec<(i64, String)>>,
    /// Labels of the leases on the candidates, and whom they keep apart from; only when somebody in the queue or on them
    /// keeps apart.
    pub neighbours: BTreeMap<LeaseId, Neighbour>,
}

/// What another lease on the same resource has to know of one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Neighbour {
    /// Its labels.
    pub labels: StringMap,
    /// It shares with nobody who carries one of these.
    pub apart_from: StringMap,
}

/// A lease that a resource needs while it lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// Of this type.
    pub resource_type: String,
    /// It is placed on a host that the resource has already: it takes no further host.
    pub placed: bool,
}

/// A lease that was served: what it took, for estimates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// By which blueprint.
    pub blueprint: BlueprintId,
    /// Its resource began to be built for it, when one was.
    pub built: Option<Micros>,
    /// It got its resource.
    pub acquired: Micros,
    /// It became ACTIVE.
    pub active: Micros,
    /// It gave its place back; `None` while it has it.
    pub gone: Option<Micros>,
}

impl Turn {
    /// Its turn came: something was built for it, or it got its place.
    #[must_use]
    pub fn began(&self) -> Micros {
        self.built.unwrap_or(self.acquired)
    }
}

/// A place that a lease has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Since when.
    pub since: Micros,
    /// When it ends at the latest, when that is known.
    pub ends: Option<Micros>,
}
