//! Blueprints: scripts for creating and deleting resources, as configured by an install.

use super::id::BlueprintId;
use super::labels::StringMap;
use crate::clock::Micros;

/// How a lease chooses among resources with room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// The fullest with room, then build.
    #[default]
    Pack,
    /// An unused one, then build, then the emptiest.
    Spread,
}

/// How many, how long, in which order. `None` is the kind's default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// Live resources at most.
    pub max_resources: Option<i64>,
    /// Leases on one resource at once.
    pub leases_per_resource: Option<i64>,
    /// Default life of a lease, microseconds.
    pub default_ttl: Option<Micros>,
    /// Longest that one renewal reaches from now, microseconds.
    pub max_ttl: Option<Micros>,
    /// Pack or spread.
    pub placement: Placement,
    /// Higher is tried first; `None` is the kind's default.
    pub rank: Option<i64>,
    /// Its resources may serve one owner after another.
    pub shared: bool,
    /// Resources being built at once, at most.
    pub max_builds: Option<i64>,
    /// Leases of one owner on its resources at once.
    pub leases_per_owner: Option<i64>,
    /// Attributes whose values, taken together, at most one lease has at a time; empty is no such limit.
    pub exclusive_by: Vec<String>,
}

/// 1 h.
pub const DEFAULT_TTL: Micros = 3_600_000_000;
/// 24 h.
pub const DEFAULT_MAX_TTL: Micros = 86_400_000_000;

/// A blueprint.
#[derive(Debug, Clone, PartialEq)]
pub struct Blueprint {
    /// `bp_…`.
    pub id: BlueprintId,
    /// Unique.
    pub name: String,
    /// For example `working-copy`.
    pub kind: String,
    /// Of what it makes.
    pub resource_type: String,
    /// Per the kind's schema; an object.
    pub config: serde_json::Value,
    /// Copied to its resources.
    pub labels: StringMap,
    /// Disabled makes nothing and takes no new leases.
    pub enabled: bool,
    /// How many, how long, in which order.
    pub limits: Limits,
    /// When made.
    pub create_time: Micros,
    /// Last write.
    pub update_time: Micros,
    /// Raised with every write; the etag.
    pub version: i64,
}
