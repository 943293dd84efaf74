//! Ids: a prefix that says what it is, and 26 lower-case ULID characters, so that ids sort by time of birth.

use std::fmt;

use crate::clock::Micros;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// What every such id begins with.
            pub const PREFIX: &'static str = $prefix;

            /// A new id, born at `now`.
            #[must_use]
            pub fn new(now: Micros) -> Self {
                Self(fresh($prefix, now))
            }

            /// Takes it as it is, for ids that come from the store.
            #[must_use]
            pub fn from_stored(text: String) -> Self {
                Self(text)
            }

            /// Reads what a caller sent; `None` when it cannot be such an id.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                well_formed($prefix, text).then(|| Self(text.to_owned()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    )+};
}

ids! {
    /// A lease.
    LeaseId = "lease_",
    /// A resource.
    ResourceId = "res_",
    /// A blueprint.
    BlueprintId = "bp_",
    /// A task of the queue.
    TaskId = "task_",
    /// A process on a leased host.
    ProcessId = "proc_",
    /// An event.
    EventId = "event_",
}

fn fresh(prefix: &str, now: Micros) -> String {
    let millis = u64::try_from(now / 1000).unwrap_or(0);
    let random = u128::from(fastrand::u64(..)) | (u128::from(fastrand::u16(..)) << 64);
    format!("{prefix}{}", ulid::Ulid::from_parts(millis, random).to_string().to_ascii_lowercase())
}

fn well_formed(prefix: &str, text: &str) -> bool {
    text.strip_prefix(prefix)
        .is_some_and(|rest| rest.len() == 26 && rest.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()))
}

/// What a task, an event or a wait is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A lease.
    Lease(LeaseId),
    /// A resource.
    Resource(ResourceId),
    /// A blueprint: what it keeps ready, and its pauses.
    Blueprint(BlueprintId),
}

impl Subject {
    /// Reads a stored id; `None` when it is none of a lease, a resource or a blueprint.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let lease = LeaseId::parse(text).map(Self::Lease);
        let resource = || ResourceId::parse(text).map(Self::Resource);
        lease.or_else(resource).or_else(|| BlueprintId::parse(text).map(Self::Blueprint))
    }

    /// The id's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Lease(id) => id.as_str(),
            Self::Resource(id) => id.as_str(),
            Self::Blueprint(id) => id.as_str(),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<LeaseId> for Subject {
    fn from(id: LeaseId) -> Self {
        Self::Lease(id)
    }
}

impl From<BlueprintId> for Subject {
    fn from(id: BlueprintId) -> Self {
        Self::Blueprint(id)
    }
}

impl From<ResourceId> for Subject {
    fn from(id: ResourceId) -> Self {
        Self::Resource(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_promised_shape_and_sort_by_time() {
        let early = LeaseId::new(1_000_000_000_000_000);
        let late = LeaseId::new(1_000_000_002_000_000);
        assert_eq!(early.as_str().len(), "lease_".len() + 26);
        assert!(early < late);
        assert_eq!(LeaseId::parse(early.as_str()).as_ref(), Some(&early));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in [
            "",
            "lease_",
            "res_01j0000000000000000000000",
            "lease_01J00000000000000000000000",
            "lease_../../../../../../../etc",
        ] {
            assert_eq!(LeaseId::parse(text), None, "{text}");
        }
    }
}
