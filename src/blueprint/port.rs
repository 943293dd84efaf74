//! `port`: a TCP port, exclusive among Drydock's leases and seen free when granted.
//!
//! Strangers are not kept out: who finds the port taken asks again and gets another.

use async_trait::async_trait;
use serde_json::Value;

use super::{Blueprint, Context, Endpoint, HOST_ATTRIBUTE, Step, settle};
use crate::error::{Error, Result};
use crate::model::slot::Slot;
use crate::model::{Field, FieldType, Kind, StringMap, kind};
use std::time::Duration;

const PORT: FieldType = FieldType::Integer { min: 1024, max: 65535 };

/// What it is.
pub static KIND: Kind = Kind {
    kind: "port",
    resource_type: "port",
    interfaces: &[],
    needs: &["host"],
    config: &[
        Field::optional("first", PORT, "The lowest port to hand out; 20000 unless given."),
        Field::optional("last", PORT, "The highest port to hand out; 29999 unless given."),
    ],
    attributes: &[HOST_ATTRIBUTE],
    leases_per_resource: 1,
    max_resources: None,
    rank: 0,
    stays: false,
    reused_by_attributes: true,
    instant: true,
    registration: None,
};

/// The facts it promises.
pub const FACTS: &[&str] = &["address", "port"];

/// Candidates of one round: enough that two who ask at once hardly meet.
const CANDIDATES: usize = 32;
/// How long to wait while strangers have the whole range.
const ALL_TAKEN: Duration = Duration::from_secs(5);

/// Hands out ports.
pub struct Port;

#[async_trait]
impl Blueprint for Port {
    fn describe(&self) -> &'static Kind {
        &KIND
    }

    fn check_config(&self, config: &Value) -> Result<()> {
        kind::check_config(KIND.config, config)?;
        let (first, last) = range(config);
        if first > last {
            return Err(Error::invalid(format!("config \"first\" is {first}, above \"last\", which is {last}")));
        }
        Ok(())
    }

    async fn build(&self, ctx: &Context) -> Step {
        settle(grant(ctx).await)
    }

    async fn destroy(&self, _ctx: &Context) -> Step {
        Step::done()
    }

    fn endpoint(&self, _ctx: &Context, _interface: &str) -> Option<Endpoint> {
        None
    }
}

/// Ports may be written as numbers or as texts.
fn range(config: &Value) -> (u16, u16) {
    let bound = |key: &str, default: u16| match &config[key] {
        Value::Number(number) => number.as_u64().and_then(|number| u16::try_from(number).ok()).unwrap_or(default),
        Value::String(text) => text.parse().unwrap_or(default),
        _ => default,
    };
    (bound("first", 20000), bound("last", 29999))
}

async fn grant(ctx: &Context) -> Result<Step, Step> {
    let met = ctx.host()?;
    let host = &ctx.place_of("host")?.host;
    // The machine, not the lease on it, is what ports are scarce on.
    let machine = met.lease.resource_id.as_ref().map_or_else(|| host.address().to_owned(), ToString::to_string);
    let scope = format!("port:{machine}");

    if let Some(held) = ctx.slots.iter().find(|slot| slot.scope == scope)
        && let Ok(port) = u16::try_from(held.place)
        && host.port_is_free(port).await
    {
        return Ok(Step::Ready(StringMap::from([
            ("address".to_owned(), host.address().to_owned()),
            ("port".to_owned(), port.to_string()),
        ])));
    }

    let (first, last) = range(&ctx.blueprint.config);
    let mut candidates = Vec::new();
    for port in rotation(first, last) {
        if host.port_is_free(port).await {
            candidates.push(Slot { scope: scope.clone(), place: i64::from(port) });
        }
        if candidates.len() == CANDIDATES {
            break;
        }
    }
    if candidates.is_empty() {
        let why = format!("every port from {first} to {last} is in use on {}", host.address());
        return Ok(Step::Later { after: ALL_TAKEN, why });
    }
    Ok(Step::Exclusive(candidates))
}

/// The range from a random port on, and round again.
fn rotation(first: u16, last: u16) -> impl Iterator<Item = u16> {
    let start = fastrand::u16(first..=last);
    (start..=last).chain(first..start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_rotation_has_every_port_once() {
        let mut ports: Vec<u16> = rotation(20000, 20009).collect();
        ports.sort_unstable();
        assert_eq!(ports, (20000..=20009).collect::<Vec<_>>());
        assert_eq!(rotation(65535, 65535).collect::<Vec<_>>(), [65535]);
    }

    #[test]
    fn a_range_upside_down_is_refused() {
        assert!(Port.check_config(&json!({"first": 30000})).is_err());
        assert!(Port.check_config(&json!({"first": "21000", "last": 21000})).is_ok());
        assert!(Port.check_config(&json!({"first": 80})).is_err());
    }
}
