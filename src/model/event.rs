//! Events: what happened, append-only; watches and the audit trail are made of them.

use super::id::LeaseId;
use super::labels::StringMap;
use crate::clock::Micros;

/// Something that happened, not yet written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// Dotted, for example `lease.activated`.
    pub kind: &'static str,
    /// `UPPER_SNAKE` or empty.
    pub reason: String,
    /// One line.
    pub message: String,
    /// A principal, or `drydock`.
    pub actor: String,
    /// The subject first, then all it concerns.
    pub subjects: Vec<String>,
    /// Root lease, when there is one.
    pub root_id: Option<LeaseId>,
    /// Who may see it beside admins.
    pub owner: String,
    /// More.
    pub details: StringMap,
}

/// A written event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Order of commit; what cursors are made of.
    pub seq: i64,
    /// `event_…`.
    pub id: String,
    /// When.
    pub time: Micros,
    /// As in [`NewEvent`].
    pub kind: String,
    /// `UPPER_SNAKE` or empty.
    pub reason: String,
    /// One line.
    pub message: String,
    /// A principal, or `drydock`.
    pub actor: String,
    /// The subject first, then all it concerns.
    pub subjects: Vec<String>,
    /// Root lease, when there is one.
    pub root_id: Option<LeaseId>,
    /// Who may see it beside admins.
    pub owner: String,
    /// More.
    pub details: StringMap,
}
