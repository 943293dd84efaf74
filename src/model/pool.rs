//! The snapshot that an allocation is decided on.

use std::collections::BTreeMap;

use super::id::{BlueprintId, LeaseId};
use super::{Blueprint, Lease, Resource, StringMap};

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
