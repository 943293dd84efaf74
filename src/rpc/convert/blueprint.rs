//! Blueprints, their limits, and the kinds.

use serde_json::Value;

use super::count;
use super::json::{from_struct, to_struct};
use super::time::{duration, positive, span, timestamp};
use crate::clock::micros;
use crate::engine::{Applied, BlueprintDraft, KindView};
use crate::error::{Error, Result};
use crate::model::kind::json_schema;
use crate::model::labels::check_labels;
use crate::model::{Blueprint, Kind, Limits, Placement};
use crate::proto::v1;
use crate::proto::v1::apply_blueprint_response::Outcome;
use crate::rpc::check;

/// Most leases on one resource, and most resources of one blueprint, that can be meant.
const MOST: i32 = 1_000_000;
/// Largest configuration, in bytes as sent.
const MAX_CONFIG: usize = 256 * 1024;

/// What a blueprint is to be, checked as far as the request itself tells. `kind` is what this daemon knows of the kind;
/// an unknown one is the engine's to refuse.
///
/// # Errors
/// `INVALID_ARGUMENT` that names the field.
pub(crate) fn draft(sent: v1::Blueprint, kind: Option<&Kind>) -> Result<BlueprintDraft> {
    check::required("blueprint.name", &sent.name)?;
    check::required("blueprint.kind", &sent.kind)?;
    check_labels("blueprint.labels", &sent.labels)?;
    let config = sent.config.unwrap_or_default();
    let size = prost::Message::encoded_len(&config);
    if size > MAX_CONFIG {
        let message = format!("blueprint.config is {size} bytes large; at most {MAX_CONFIG} are allowed");
        return Err(Error::invalid(message).with("field", "blueprint.config"));
    }
    Ok(BlueprintDraft {
        config: from_struct("blueprint.config", &config)?,
        limits: limits(sent.limits.unwrap_or_default(), kind)?,
        name: sent.name,
        kind: sent.kind,
        labels: sent.labels,
    })
}

fn limits(sent: v1::BlueprintLimits, kind: Option<&Kind>) -> Result<Limits> {
    let field = |name: &str| format!("blueprint.limits.{name}");
    if sent.min_ready != 0 {
        let message = "blueprint.limits.min_ready other than 0 comes in a later release; leave it out";
        return Err(Error::invalid(message).with("field", field("min_ready")));
    }
    if let Some(idle) = span(&field("idle_ttl"), sent.idle_ttl.as_ref())? {
        // The default of kinds that go with their last lease is 0; that of hosts, for ever, has no value.
        let is_default = idle.is_zero() && kind.is_none_or(|kind| !kind.stays);
        if !is_default {
            let message =
                "blueprint.limits.idle_ttl other than the kind's default comes in a later release; leave it out";
            return Err(Error::invalid(message).with("field", field("idle_ttl")));
        }
    }
    let number =
        |name: &str, value: Option<i32>| value.map(|value| check::within(&field(name), value, 1, MOST)).transpose();
    let default_ttl = positive(&field("default_ttl"), sent.default_ttl.as_ref())?;
    let max_ttl = positive(&field("max_ttl"), sent.max_ttl.as_ref())?;
    if let (Some(default), Some(max)) = (default_ttl, max_ttl)
        && default > max
    {
        let message = "blueprint.limits.default_ttl is longer than max_ttl; lower the one or raise the other";
        return Err(Error::invalid(message).with("field", field("default_ttl")));
    }
    Ok(Limits {
        max_resources: number("max_resources", sent.max_resources)?,
        leases_per_resource: number("leases_per_resource", sent.leases_per_resource)?,
        default_ttl: default_ttl.map(micros),
        max_ttl: max_ttl.map(micros),
        placement: placement(sent.placement)?,
        rank: (sent.rank != 0).then_some(i64::from(sent.rank)),
        shared: sent.shared,
        max_builds: number("max_builds", sent.max_builds)?,
        leases_per_owner: number("leases_per_owner", sent.leases_per_owner)?,
        exclusive_by: sent.exclusive_by,
    })
}

fn placement(sent: i32) -> Result<Placement> {
    use v1::blueprint_limits::Placement as Sent;
    let wrong = || {
        let message = format!("blueprint.limits.placement is {sent}, which is no placement");
        Error::invalid(message).with("field", "blueprint.limits.placement")
    };
    Ok(match Sent::try_from(sent).map_err(|_| wrong())? {
        Sent::Unspecified | Sent::Pack => Placement::Pack,
        Sent::Spread => Placement::Spread,
    })
}

/// A blueprint as admins see it; defaults of its kind are filled in where a field cannot be unset.
pub(crate) fn blueprint(blueprint: Blueprint, kind: Option<&Kind>) -> v1::Blueprint {
    let limits = &blueprint.limits;
    let placement = match limits.placement {
        Placement::Pack => v1::blueprint_limits::Placement::Pack,
        Placement::Spread => v1::blueprint_limits::Placement::Spread,
    };
    let limits = v1::BlueprintLimits {
        max_resources: limits.max_resources.map(count),
        leases_per_resource: limits.leases_per_resource.map(count),
        min_ready: 0,
        idle_ttl: None,
        default_ttl: limits.default_ttl.map(duration),
        max_ttl: limits.max_ttl.map(duration),
        placement: placement.into(),
        rank: count(limits.rank.or(kind.map(|kind| kind.rank)).unwrap_or(0)),
        shared: limits.shared,
        max_builds: limits.max_builds.map(count),
        leases_per_owner: limits.leases_per_owner.map(count),
        exclusive_by: limits.exclusive_by.clone(),
    };
    v1::Blueprint {
        id: blueprint.id.into(),
        name: blueprint.name,
        kind: blueprint.kind,
        resource_type: blueprint.resource_type,
        config: Some(to_struct(&blueprint.config)),
        labels: blueprint.labels,
        enabled: blueprint.enabled,
        problem: String::new(),
        etag: blueprint.version.to_string(),
        create_time: Some(timestamp(blueprint.create_time)),
        update_time: Some(timestamp(blueprint.update_time)),
        limits: Some(limits),
    }
}

/// A kind as callers see it.
pub(crate) fn kind(view: &KindView) -> v1::BlueprintKind {
    let kind = view.kind;
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
    let schema = |value: &Value| Some(to_struct(value));
    v1::BlueprintKind {
        kind: kind.kind.to_owned(),
        resource_type: kind.resource_type.to_owned(),
        interfaces: words(kind.interfaces),
        needs: words(kind.needs),
        config_schema: schema(&view.config_schema),
        attributes_schema: schema(&json_schema(kind.attributes, true)),
        registration_schema: kind.registration.map(|fields| to_struct(&json_schema(fields, true))),
        provider: String::new(),
    }
}

/// What applying came to.
pub(crate) fn outcome(applied: Applied) -> Outcome {
    match applied {
        Applied::Created => Outcome::Created,
        Applied::Updated => Outcome::Updated,
        Applied::Unchanged => Outcome::Unchanged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;
    use crate::model::id::BlueprintId;

    const HOST: Kind = Kind {
        kind: "local-host",
        resource_type: "host",
        interfaces: &["command"],
        needs: &[],
        config: &[],
        attributes: &[],
        leases_per_resource: 16,
        max_resources: Some(1),
        rank: -10,
        stays: true,
        reused_by_attributes: false,
        instant: true,
        registration: None,
    };
    const STORAGE: Kind = Kind { kind: "storage", resource_type: "storage", stays: false, rank: 0, ..HOST };

    fn with(limits: v1::BlueprintLimits) -> v1::Blueprint {
        v1::Blueprint {
            name: "scratch".to_owned(),
            kind: "storage".to_owned(),
            limits: Some(limits),
            ..v1::Blueprint::default()
        }
    }

    fn seconds(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    #[test]
    fn limits_that_cannot_be_or_come_later_are_refused_by_name() {
        let none = v1::BlueprintLimits::default;
        let wrong = [
            ("min_ready", v1::BlueprintLimits { min_ready: 1, ..none() }),
            ("idle_ttl", v1::BlueprintLimits { idle_ttl: seconds(60), ..none() }),
            ("max_resources", v1::BlueprintLimits { max_resources: Some(0), ..none() }),
            ("leases_per_resource", v1::BlueprintLimits { leases_per_resource: Some(-1), ..none() }),
            ("default_ttl", v1::BlueprintLimits { default_ttl: seconds(0), ..none() }),
            ("default_ttl", v1::BlueprintLimits { default_ttl: seconds(9), max_ttl: seconds(8), ..none() }),
            ("placement", v1::BlueprintLimits { placement: 9, ..none() }),
        ];
        for (field, limits) in wrong {
            let error = draft(with(limits), Some(&STORAGE)).unwrap_err();
            assert_eq!(error.reason, Reason::InvalidArgument);
            assert!(error.message.contains(field), "{field}: {error}");
        }
        let zero = v1::BlueprintLimits { idle_ttl: seconds(0), ..none() };
        assert!(draft(with(zero.clone()), Some(&STORAGE)).is_ok());
        assert!(draft(with(zero), Some(&HOST)).unwrap_err().message.contains("later release"));
        assert!(draft(v1::Blueprint::default(), None).unwrap_err().message.contains("blueprint.name"));
    }

    #[test]
    fn a_draft_becomes_a_blueprint_that_reads_the_same() {
        let limits = v1::BlueprintLimits {
            max_resources: Some(3),
            default_ttl: seconds(60),
            placement: 2,
            rank: 7,
            ..v1::BlueprintLimits::default()
        };
        let draft = draft(with(limits.clone()), Some(&STORAGE)).unwrap();
        let now = 1_000_000;
        let made = Blueprint {
            id: BlueprintId::new(now),
            name: draft.name,
            kind: draft.kind,
            resource_type: "storage".to_owned(),
            config: draft.config,
            labels: draft.labels,
            enabled: true,
            limits: draft.limits,
            create_time: now,
            update_time: now,
            version: 1,
        };
        let shown = blueprint(made.clone(), Some(&STORAGE));
        assert_eq!(shown.limits, Some(limits));
        assert_eq!((shown.etag.as_str(), shown.enabled), ("1", true));
        let plain = Blueprint { limits: Limits::default(), ..made };
        assert_eq!(blueprint(plain, Some(&HOST)).limits.unwrap().rank, -10);
    }
}
