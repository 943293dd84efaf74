//! Slots: the one arbiter of exclusivity. A slot is a key that at most one lease or resource holds; limits are slots too.

use super::id::{BlueprintId, ResourceId};

/// The slots of one owner of capacity: how many leases a resource takes, how many resources a blueprint may have.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot {
    /// What gives the capacity: a resource's or blueprint's id, or a free name such as `port:res_…`.
    pub scope: String,
    /// Which of its places.
    pub place: i64,
}

impl Slot {
    /// A lease's place on a resource.
    #[must_use]
    pub fn on_resource(resource: &ResourceId, place: i64) -> Self {
        Self { scope: resource.to_string(), place }
    }

    /// A resource's place among those a blueprint may have.
    #[must_use]
    pub fn of_blueprint(blueprint: &BlueprintId, place: i64) -> Self {
        Self { scope: blueprint.to_string(), place }
    }

    /// The primary key.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.scope, self.place)
    }
}

/// The lowest of `limit` places that is not in `taken`; `None` when all are.
#[must_use]
pub fn free_place(limit: i64, taken: &[i64]) -> Option<i64> {
    let taken: std::collections::BTreeSet<i64> = taken.iter().copied().collect();
    (0..limit).find(|place| !taken.contains(place))
}
