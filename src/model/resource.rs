//! Resources: things put somewhere.

use super::blueprint::Blueprint;
use super::id::{BlueprintId, LeaseId, ResourceId};
use super::labels::StringMap;
use crate::clock::Micros;

/// Where a resource is in its life. The only allowed changes are those of [`ResourceState::may_become`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceState {
    /// Being built.
    Pending,
    /// Can be leased unless draining.
    Active,
    /// Being taken down.
    Released,
    /// Failed; being taken down.
    Broken,
    /// Gone.
    Destroyed,
}

impl ResourceState {
    /// All states, in the order of a life.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Active, Self::Released, Self::Broken, Self::Destroyed];

    /// The name in the store and, after `STATE_`, in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
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
        use ResourceState::{Active, Broken, Destroyed, Pending, Released};
        matches!(
            (self, next),
            (Pending, Active | Released | Broken) | (Active, Released | Broken) | (Released | Broken, Destroyed)
        )
    }

    /// PENDING or ACTIVE.
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Pending | Self::Active)
    }
}

/// Who drained it, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// Free text.
    pub comment: String,
    /// Principal.
    pub actor: String,
    /// Since.
    pub time: Micros,
}

/// A resource.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "a row of the store: what is so is so")]
pub struct Resource {
    /// `res_…`.
    pub id: ResourceId,
    /// Unique among live resources of the blueprint.
    pub name: String,
    /// For example `host`.
    pub resource_type: String,
    /// Who makes it.
    pub blueprint_id: BlueprintId,
    /// Where it is.
    pub state: ResourceState,
    /// Why it is there.
    pub state_reason: String,
    /// For people.
    pub state_message: String,
    /// What is: address, path, port, uri. Never secret.
    pub facts: StringMap,
    /// What it was made with: the attributes of the lease it was made for. A lease fits only when its own are equal.
    pub attributes: StringMap,
    /// Of the blueprint, for selection.
    pub labels: StringMap,
    /// Principal it was made for; it serves no other unless its blueprint is `shared`.
    pub owner: String,
    /// The lease it was made for, or the first to take it when it was built ahead; `None` when it was registered by hand.
    pub made_for: Option<LeaseId>,
    /// Root of the tree it was made in.
    pub root_id: Option<LeaseId>,
    /// The lease of the caller it is placed on (attribute `host`); it dies before that lease does.
    pub placed_on: Option<LeaseId>,
    /// How many leases fit at once.
    pub lease_limit: i64,
    /// Depth of the leases it needs, for the order of the queue.
    pub depth: i64,
    /// Place in the queue, inherited from the lease it was made for.
    pub ord: i64,
    /// Set while no new leases are wanted on it.
    pub drain: Option<Drain>,
    /// A condition in one line; empty is healthy.
    pub problem: String,
    /// Clean-up attempts that failed; above 0 it still holds its slots.
    pub cleanup_failures: i64,
    /// When made.
    pub create_time: Micros,
    /// When it became ACTIVE.
    pub active_time: Option<Micros>,
    /// Last health check.
    pub check_time: Option<Micros>,
    /// When RELEASED or BROKEN.
    pub end_time: Option<Micros>,
    /// It broke in a way that another try cannot mend: whoever waits for it breaks too. Of one that was registered and is
    /// released: it goes even when it cannot be cleaned up.
    pub permanent: bool,
    /// It is taken down outside; only its sub-leases and slots are left to give back.
    pub torn_down: bool,
    /// It was built ahead of demand.
    pub warm: bool,
    /// Leases that it has served; counted only where its blueprint has `max_uses`.
    pub uses: i64,
    /// When its last lease went; `None` before the first did.
    pub idle_since: Option<Micros>,
    /// An operator has given it up: it goes even when it cannot be cleaned up.
    pub abandoned: bool,
    /// Raised with every write; the etag.
    pub version: i64,
}

impl Resource {
    /// One of a blueprint, PENDING, named after it, with its labels and nothing else yet: no owner, room for no lease.
    #[must_use]
    pub fn fresh(blueprint: &Blueprint, now: Micros) -> Self {
        let id = ResourceId::new(now);
        let tail: String = id.as_str().chars().skip(id.as_str().len() - 6).collect();
        Self {
            id,
            name: format!("{}-{tail}", blueprint.name),
            resource_type: blueprint.resource_type.clone(),
            blueprint_id: blueprint.id.clone(),
            state: ResourceState::Pending,
            state_reason: String::new(),
            state_message: String::new(),
            facts: StringMap::new(),
            attributes: StringMap::new(),
            labels: blueprint.labels.clone(),
            owner: String::new(),
            made_for: None,
            root_id: None,
            placed_on: None,
            lease_limit: 0,
            depth: 0,
            ord: now,
            drain: None,
            problem: String::new(),
            cleanup_failures: 0,
            create_time: now,
            active_time: None,
            check_time: None,
            end_time: None,
            permanent: false,
            torn_down: false,
            warm: false,
            uses: 0,
            idle_since: None,
            abandoned: false,
            version: 1,
        }
    }

    /// Registered by hand, rather than built.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.made_for.is_none() && !self.warm
    }

    /// Built ahead of demand, and not taken by anybody yet: whoever comes first gets it.
    #[must_use]
    pub fn is_nobodys(&self) -> bool {
        self.made_for.is_none() && self.warm
    }

    /// Drained by Drydock itself: it is too old, or has served as many leases as it may. It goes when it is unused.
    #[must_use]
    pub fn is_retiring(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.actor == "drydock")
    }

    /// The reason of the condition it is in: `problem` begins with it, as in `HOST_UNREACHABLE: no answer`.
    #[must_use]
    pub fn condition(&self) -> Option<&str> {
        let (reason, _) = self.problem.split_once(": ")?;
        (!reason.is_empty() && reason.chars().all(|c| c.is_ascii_uppercase() || c == '_')).then_some(reason)
    }

    /// It has shown another host key than the pinned one: nothing is sent to it until a key is pinned again.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.condition() == Some("HOST_KEY_MISMATCH")
    }

    /// Given up, or registered and released by force: what cannot be cleaned up there is left behind.
    #[must_use]
    pub fn is_let_go(&self) -> bool {
        (self.abandoned || (self.is_registered() && self.permanent)) && !self.state.is_live()
    }
}

#[cfg(test)]
mod tests {
    use super::ResourceState::{self, *};

    #[test]
    fn every_pair_of_states_is_decided_as_the_contract_says() {
        let allowed = [
            (Pending, Active),
            (Pending, Released),
            (Pending, Broken),
            (Active, Released),
            (Active, Broken),
            (Released, Destroyed),
            (Broken, Destroyed),
        ];
        for from in ResourceState::ALL {
            for to in ResourceState::ALL {
                assert_eq!(from.may_become(to), allowed.contains(&(from, to)), "{from:?} -> {to:?}");
            }
        }
    }
}
