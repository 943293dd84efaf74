//! Between documents and messages.

use crate::blueprint::document::{Document, Limits};
use crate::cli::exit::{Failure, Result};
use crate::cli::{objects, words};
use crate::model::Placement;
use crate::proto::v1;
use crate::proto::v1::blueprint_limits::Placement as Wire;

/// The message of a document.
///
/// # Errors
/// 64 for a number that no message holds.
pub fn to_message(document: Document) -> Result<v1::Blueprint> {
    let Document { name, kind, labels, limits, config } = document;
    let whole = |what: &str, number: Option<i64>| {
        let wrong = |_| Failure::usage(format!("blueprint {name}: {what} is too large"));
        number.map(i32::try_from).transpose().map_err(wrong)
    };
    let limits = v1::BlueprintLimits {
        max_resources: whole("limits.max_resources", limits.max_resources)?,
        leases_per_resource: whole("limits.leases_per_resource", limits.leases_per_resource)?,
        min_ready: whole("limits.min_ready", limits.min_ready)?.unwrap_or(0),
        idle_ttl: limits.idle_ttl.map(words::proto),
        default_ttl: limits.default_ttl.map(words::proto),
        max_ttl: limits.max_ttl.map(words::proto),
        placement: match limits.placement {
            None => Wire::Unspecified,
            Some(Placement::Pack) => Wire::Pack,
            Some(Placement::Spread) => Wire::Spread,
        }
        .into(),
        rank: whole("limits.rank", limits.rank)?.unwrap_or(0),
        shared: limits.shared.unwrap_or(false),
        max_builds: whole("limits.max_builds", limits.max_builds)?,
        leases_per_owner: whole("limits.leases_per_owner", limits.leases_per_owner)?,
        exclusive_by: limits.exclusive_by,
    };
    Ok(v1::Blueprint {
        name,
        kind,
        labels,
        limits: Some(limits),
        config: Some(objects::proto(&config)),
        ..v1::Blueprint::default()
    })
}

/// The document of a message: what `apply` takes, and nothing else.
#[must_use]
pub fn from_message(blueprint: v1::Blueprint) -> Document {
    let limits = blueprint.limits.unwrap_or_default();
    let placement = match limits.placement() {
        Wire::Unspecified => None,
        Wire::Pack => Some(Placement::Pack),
        Wire::Spread => Some(Placement::Spread),
    };
    let limits = Limits {
        max_resources: limits.max_resources.map(i64::from),
        leases_per_resource: limits.leases_per_resource.map(i64::from),
        min_ready: (limits.min_ready != 0).then(|| i64::from(limits.min_ready)),
        idle_ttl: limits.idle_ttl.as_ref().map(words::span),
        default_ttl: limits.default_ttl.as_ref().map(words::span),
        max_ttl: limits.max_ttl.as_ref().map(words::span),
        placement,
        rank: (limits.rank != 0).then(|| i64::from(limits.rank)),
        shared: limits.shared.then_some(true),
        max_builds: limits.max_builds.map(i64::from),
        leases_per_owner: limits.leases_per_owner.map(i64::from),
        exclusive_by: limits.exclusive_by,
    };
    Document {
        name: blueprint.name,
        kind: blueprint.kind,
        labels: blueprint.labels,
        limits,
        config: blueprint.config.as_ref().map_or_else(|| serde_json::json!({}), objects::json),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blueprint::document;

    #[test]
    fn a_document_survives_the_way_over_the_api_and_back() {
        let text = include_str!("../../../examples/sandcastle.yaml");
        let before = document::parse("sandcastle.yaml", text).unwrap().remove(0);
        let message = to_message(before.clone()).unwrap();
        assert_eq!((message.name.as_str(), message.kind.as_str()), ("sandcastle", "composite"));
        let exported = document::render(&from_message(message)).unwrap();
        assert_eq!(document::parse("exported", &exported).unwrap(), [before], "{exported}");
    }
}
