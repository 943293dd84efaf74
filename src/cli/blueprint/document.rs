//! Between documents and messages.

use crate::blueprint::document::{Document, Limits};
use crate::cli::exit::{Failure, Result};
use crate::cli::{objects, words};
use crate::model::{Placement, ScaleAhead};
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
        max_age: limits.max_age.map(words::proto),
        max_uses: whole("limits.max_uses", limits.max_uses)?.unwrap_or(0),
        scale_ahead: limits.scale_ahead.map(|ahead| ahead.to_string()).unwrap_or_default(),
        scale_ahead_max: whole("limits.scale_ahead_max", limits.scale_ahead_max)?.unwrap_or(0),
        shrink_delay: limits.shrink_delay.map(words::proto),
        max_growth: whole("limits.max_growth", limits.max_growth)?.unwrap_or(0),
        ready_attributes: limits.ready_attributes,
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
    let some = |number: i32| (number != 0).then(|| i64::from(number));
    let limits = Limits {
        max_resources: limits.max_resources.map(i64::from),
        leases_per_resource: limits.leases_per_resource.map(i64::from),
        min_ready: some(limits.min_ready),
        idle_ttl: limits.idle_ttl.as_ref().map(words::span),
        default_ttl: limits.default_ttl.as_ref().map(words::span),
        max_ttl: limits.max_ttl.as_ref().map(words::span),
        placement,
        rank: (limits.rank != 0).then(|| i64::from(limits.rank)),
        shared: limits.shared.then_some(true),
        max_builds: limits.max_builds.map(i64::from),
        leases_per_owner: limits.leases_per_owner.map(i64::from),
        exclusive_by: limits.exclusive_by,
        max_age: limits.max_age.as_ref().map(words::span),
        max_uses: some(limits.max_uses),
        scale_ahead: ScaleAhead::parse(&limits.scale_ahead),
        scale_ahead_max: some(limits.scale_ahead_max),
        shrink_delay: limits.shrink_delay.as_ref().map(words::span),
        max_growth: some(limits.max_growth),
        ready_attributes: limits.ready_attributes,
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
        let text = "name: a\nkind: storage\nlimits: {idle_ttl: 10m, min_ready: 2, scale_ahead: 3, scale_ahead_max: 4, max_age: 1d, \
                    max_uses: 7, shrink_delay: 1m, max_growth: 3, ready_attributes: {quota: 1GiB}}\n";
        let before = document::parse("kept.yaml", text).unwrap().remove(0);
        assert_eq!(from_message(to_message(before.clone()).unwrap()), before);
    }
}
