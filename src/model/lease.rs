//! Leases: something to hold while resources are being allocated.

use super::id::{BlueprintId, LeaseId, ResourceId};
use super::labels::StringMap;
use crate::clock::Micros;

/// Where a lease is in its life. The only allowed changes are those of [`LeaseState::may_become`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LeaseState {
    /// Queued, or its resource is being built.
    Pending,
    /// Has an ACTIVE resource and is being set up on it.
    Acquired,
    /// Usable.
    Active,
    /// Given back, expired, cancelled or timed out; clean-up runs.
    Released,
    /// Failed for good; clean-up runs.
    Broken,
    /// All gone; history only.
    Destroyed,
}

impl LeaseState {
    /// All states, in the order of a life.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Acquired, Self::Active, Self::Released, Self::Broken, Self::Destroyed];

    /// The name in the store and, after `STATE_`, in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Acquired => "ACQUIRED",
            Self::Active => "ACTIVE",
            Self::Released => "RELEASED",
            Self::Broken => "BROKEN",
            Self::Destroyed => "DESTROYED",
        }
    }

    /// Reads a stored name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// The state table: everything that is not here is refused.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        use LeaseState::{Acquired, Active, Broken, Destroyed, Pending, Released};
        matches!(
            (self, next),
            (Pending, Acquired | Released | Broken)
                | (Acquired, Active | Pending | Released | Broken)
                | (Active, Released | Broken)
                | (Released | Broken, Destroyed)
        )
    }

    /// As [`LeaseState::may_become`], or through several states in one commit, as a warm lease does.
    #[must_use]
    pub const fn reaches(self, next: Self) -> bool {
        self.may_become(next) || matches!((self, next), (Self::Pending, Self::Active))
    }

    /// PENDING, ACQUIRED or ACTIVE: it still holds or wants something.
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Pending | Self::Acquired | Self::Active)
    }

    /// RELEASED, BROKEN or DESTROYED.
    #[must_use]
    pub const fn has_ended(self) -> bool {
        !self.is_live()
    }
}

/// What a caller, or a resource that is being built, asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeaseSpec {
    /// For example `host`.
    pub resource_type: String,
    /// Checked at the door; immutable.
    pub attributes: StringMap,
    /// Allowed blueprints; empty is all enabled ones.
    pub blueprints: Vec<BlueprintId>,
    /// Labels the resource must carry, all of them.
    pub resource_labels: StringMap,
    /// No other lease on its resource, however many the resource takes.
    pub exclusive: bool,
    /// No lease with any of these labels on its resource.
    pub apart_from: StringMap,
}

/// A lease.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// `lease_…`.
    pub id: LeaseId,
    /// What was asked for.
    pub spec: LeaseSpec,
    /// Where it is.
    pub state: LeaseState,
    /// Why it is there; empty while nothing special happened.
    pub state_reason: String,
    /// For people.
    pub state_message: String,
    /// Facts of the resource; empty before ACTIVE.
    pub facts: StringMap,
    /// The caller's own words.
    pub labels: StringMap,
    /// Principal.
    pub owner: String,
    /// Set from ACQUIRED on.
    pub resource_id: Option<ResourceId>,
    /// Blueprint of that resource.
    pub blueprint_id: Option<BlueprintId>,
    /// The resource that needs this lease, and under which name; `None` on a root.
    pub parent: Option<(ResourceId, String)>,
    /// The root of its tree; its own id on a root.
    pub root_id: LeaseId,
    /// 0 on a root.
    pub depth: i64,
    /// −100..100.
    pub priority: i64,
    /// Place in the queue, inherited from the root: when its owner's turn begins, see `model::share`, less the head start
    /// of the priority.
    pub ord: i64,
    /// The first of the leases that are taken all at once or not at all.
    pub gang: Option<LeaseId>,
    /// The fence: raised at each acquisition.
    pub epoch: i64,
    /// Granted life after ACTIVE, microseconds; `None` on a sub-lease, which lives as long as its parent.
    pub ttl: Option<Micros>,
    /// Longest that one renewal reaches from now, microseconds.
    pub max_ttl: Micros,
    /// When accepted.
    pub create_time: Micros,
    /// When a pending lease gives up.
    pub queue_expire_time: Option<Micros>,
    /// When a resource began to be built for it, the last time.
    pub build_time: Option<Micros>,
    /// When it got its resource last.
    pub acquire_time: Option<Micros>,
    /// When it became ACTIVE.
    pub active_time: Option<Micros>,
    /// When it ends unless renewed.
    pub expire_time: Option<Micros>,
    /// Last renewal.
    pub renew_time: Option<Micros>,
    /// Last interface call.
    pub use_time: Option<Micros>,
    /// When RELEASED or BROKEN.
    pub end_time: Option<Micros>,
    /// When DESTROYED.
    pub destroy_time: Option<Micros>,
    /// The resource that is being built for it; at most one.
    pub allocating: Option<ResourceId>,
    /// Resources that broke or could not be built for it so far.
    pub reacquires: i64,
    /// Its own clean-up is done; it is DESTROYED when the resource that goes with it is.
    pub cleaned: bool,
    /// Why it waits, as of its last step.
    pub waiting: Option<Waiting>,
    /// Raised with every write; the compare-and-set of writers that hold no claim.
    pub version: i64,
}

impl Lease {
    /// A root that has just been asked for; whoever makes another kind of lease changes what is different.
    #[must_use]
    pub fn pending(id: LeaseId, spec: LeaseSpec, owner: String, now: Micros) -> Self {
        Self {
            root_id: id.clone(),
            id,
            spec,
            state: LeaseState::Pending,
            state_reason: String::new(),
            state_message: String::new(),
            facts: StringMap::new(),
            labels: StringMap::new(),
            owner,
            resource_id: None,
            blueprint_id: None,
            parent: None,
            depth: 0,
            priority: 0,
            ord: now,
            gang: None,
            epoch: 0,
            ttl: None,
            max_ttl: super::blueprint::DEFAULT_MAX_TTL,
            create_time: now,
            queue_expire_time: None,
            build_time: None,
            acquire_time: None,
            active_time: None,
            expire_time: None,
            renew_time: None,
            use_time: None,
            end_time: None,
            destroy_time: None,
            allocating: None,
            reacquires: 0,
            cleaned: false,
            waiting: None,
            version: 1,
        }
    }
}

/// Why a lease waits. `reason` is one of the contract's closed list.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Waiting {
    /// QUEUED, BUILDING, ACTIVATING, RECLAIMING, `LIMIT_REACHED`, `QUOTA_REACHED`, `BLUEPRINT_PAUSED`, `NO_HEALTHY_RESOURCE`.
    pub reason: String,
    /// One line for people.
    pub message: String,
    /// Ids it is blocked on.
    pub blocked_by: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::LeaseState::{self, *};

    #[test]
    fn every_pair_of_states_is_decided_as_the_contract_says() {
        let allowed = [
            (Pending, Acquired),
            (Pending, Released),
            (Pending, Broken),
            (Acquired, Active),
            (Acquired, Pending),
            (Acquired, Released),
            (Acquired, Broken),
            (Active, Released),
            (Active, Broken),
            (Released, Destroyed),
            (Broken, Destroyed),
        ];
        for from in LeaseState::ALL {
            for to in LeaseState::ALL {
                assert_eq!(from.may_become(to), allowed.contains(&(from, to)), "{from:?} -> {to:?}");
            }
        }
    }
}
