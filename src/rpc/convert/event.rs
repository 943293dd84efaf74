//! Events.

use super::time::timestamp;
use crate::model::Event;
use crate::proto::v1;

/// An event as callers see it.
pub(crate) fn event(event: Event) -> v1::Event {
    v1::Event {
        id: event.id,
        time: Some(timestamp(event.time)),
        r#type: event.kind,
        reason: event.reason,
        message: event.message,
        actor: event.actor,
        subject_ids: event.subjects,
        root_lease_id: event.root_id.map(String::from).unwrap_or_default(),
        details: event.details,
    }
}
