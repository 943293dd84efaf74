//! What a blueprint may say of how its resources are kept.

use crate::blueprint::{Blueprint as Code, HOST_ATTRIBUTE};
use crate::error::{Error, Result};
use crate::model::{Limits, Upkeep};

/// What can be kept, and with which attributes: those that are built ahead get the defaults that leases get.
pub(super) fn check(mut limits: Limits, code: &dyn Code, config: &serde_json::Value) -> Result<Limits> {
    let upkeep = &mut limits.upkeep;
    let kind = code.describe();
    if kind.is_registered() && *upkeep != Upkeep::default() {
        let what = "min_ready, idle_ttl, max_age, max_uses, scale_ahead and what goes with them";
        return Err(Error::invalid(format!(
            "the kind {} has what is registered with it: {what} mean nothing",
            kind.kind
        )));
    }
    if let Some(limit) = limits.max_resources.or(kind.max_resources).filter(|limit| upkeep.min_ready > *limit) {
        return Err(Error::invalid(format!("limits.min_ready is {}, above max_resources, {limit}", upkeep.min_ready)));
    }
    if !upkeep.is_pooled() && !upkeep.ready_attributes.is_empty() {
        let message = "limits.ready_attributes goes with min_ready or scale_ahead; give one of them";
        return Err(Error::invalid(message));
    }
    if upkeep.is_pooled() {
        let admitted = code.admit(config, &upkeep.ready_attributes);
        upkeep.ready_attributes = admitted.map_err(|error| {
            let message = "what is kept ready would be made with limits.ready_attributes, which do not do";
            Error::invalid(format!("{message}: {}", error.message))
        })?;
        if upkeep.ready_attributes.contains_key(HOST_ATTRIBUTE.name) {
            return Err(Error::invalid("limits.ready_attributes cannot place what is kept ready on somebody's host"));
        }
    }
    Ok(limits)
}
