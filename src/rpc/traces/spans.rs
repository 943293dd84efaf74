//! Leases, resources and steps as spans.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{
    Event as SpanEvent, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use crate::clock::{Micros, span as duration};
use crate::metrics::{Outcome, StepTaken};
use crate::model::id::{LeaseId, Subject};
use crate::model::{Event, Lease, LeaseState, Resource, ResourceState};

/// Mixed into the id of a lease for the span of its clean-up.
const CLEAN_UP: u64 = 0x00C1_EA4D;

/// The 128 bits behind an id's prefix; `None` for what is no id of ours.
fn bits(id: &str) -> Option<u128> {
    let (_, text) = id.split_once('_')?;
    ulid::Ulid::from_string(&text.to_ascii_uppercase()).ok().map(|id| id.0)
}

fn trace_id(root: &LeaseId) -> Option<TraceId> {
    bits(root.as_str()).map(|bits| TraceId::from_bytes(bits.to_be_bytes()))
}

/// The random half of an id, which is never all zero but by a miracle.
fn span_number(id: &str) -> Option<u64> {
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
    bits(id).map(|bits| (bits as u64).max(1))
}

fn time(micros: Micros) -> SystemTime {
    UNIX_EPOCH + duration(micros)
}

fn word(key: &'static str, value: &(impl ToString + ?Sized)) -> KeyValue {
    KeyValue::new(key, value.to_string())
}

/// A span's frame.
struct Frame {
    trace: TraceId,
    id: u64,
    above: Option<u64>,
    name: Cow<'static, str>,
    from: Micros,
    to: Micros,
}

impl Frame {
    fn span(self, attributes: Vec<KeyValue>, said: Vec<SpanEvent>, status: Status) -> SpanData {
        let id = |number: u64| SpanId::from_bytes(number.to_be_bytes());
        let mut events = SpanEvents::default();
        events.events = said;
        SpanData {
            span_context: SpanContext::new(self.trace, id(self.id), TraceFlags::SAMPLED, false, TraceState::default()),
            parent_span_id: self.above.map_or(SpanId::INVALID, id),
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: self.name,
            start_time: time(self.from),
            end_time: time(self.to.max(self.from)),
            attributes,
            dropped_attributes_count: 0,
            events,
            links: SpanLinks::default(),
            status,
            instrumentation_scope: InstrumentationScope::builder("drydock").build(),
        }
    }
}

/// What an event says, in the span of what it is about.
pub(super) fn event(event: &Event) -> SpanEvent {
    let mut attributes = vec![word("message", &event.message)];
    if !event.reason.is_empty() {
        attributes.push(word("reason", &event.reason));
    }
    SpanEvent::new(event.kind.clone(), time(event.time), attributes, 0)
}

/// A lease from its acceptance until it was ACTIVE, or ended without.
pub(super) fn lease(lease: &Lease, said: Vec<SpanEvent>) -> Option<SpanData> {
    let frame = Frame {
        trace: trace_id(&lease.root_id)?,
        id: span_number(lease.id.as_str())?,
        above: lease.parent.as_ref().and_then(|(resource, _)| span_number(resource.as_str())),
        name: Cow::Owned(format!("lease {}", lease.spec.resource_type)),
        from: lease.create_time,
        to: lease.active_time.or(lease.end_time)?,
    };
    let mut attributes = vec![
        word("drydock.lease", &lease.id),
        word("drydock.root_lease", &lease.root_id),
        word("drydock.resource_type", &lease.spec.resource_type),
    ];
    attributes.extend(lease.resource_id.as_ref().map(|resource| word("drydock.resource", resource)));
    attributes.extend(lease.blueprint_id.as_ref().map(|blueprint| word("drydock.blueprint", blueprint)));
    attributes.extend(lease.parent.as_ref().map(|(_, name)| word("drydock.need", name)));
    let status = match lease.state {
        LeaseState::Broken => Status::error(lease.state_reason.clone()),
        _ if lease.active_time.is_some() => Status::Ok,
        _ => Status::Unset,
    };
    Some(frame.span(attributes, said, status))
}

/// A resource from its birth until it was ACTIVE, or ended without; `None` for one that was not made for a lease.
pub(super) fn resource(resource: &Resource, said: Vec<SpanEvent>) -> Option<SpanData> {
    let frame = Frame {
        trace: trace_id(resource.root_id.as_ref()?)?,
        id: span_number(resource.id.as_str())?,
        above: resource.made_for.as_ref().and_then(|lease| span_number(lease.as_str())),
        name: Cow::Owned(format!("build {}", resource.resource_type)),
        from: resource.create_time,
        to: resource.active_time.or(resource.end_time)?,
    };
    let attributes = vec![
        word("drydock.resource", &resource.id),
        word("drydock.resource_type", &resource.resource_type),
        word("drydock.blueprint", &resource.blueprint_id),
        word("drydock.name", &resource.name),
    ];
    let status = match resource.state {
        ResourceState::Broken => Status::error(resource.state_reason.clone()),
        _ if resource.active_time.is_some() => Status::Ok,
        _ => Status::Unset,
    };
    Some(frame.span(attributes, said, status))
}

/// What it took to take away what a lease left.
pub(super) fn clean_up(lease: &Lease, said: Vec<SpanEvent>) -> Option<SpanData> {
    let id = span_number(lease.id.as_str())?;
    let frame = Frame {
        trace: trace_id(&lease.root_id)?,
        id: id ^ CLEAN_UP,
        above: Some(id),
        name: Cow::Owned(format!("clean up {}", lease.spec.resource_type)),
        from: lease.end_time?,
        to: lease.destroy_time?,
    };
    let reason = word("drydock.reason", &lease.state_reason);
    Some(frame.span(vec![word("drydock.lease", &lease.id), reason], said, Status::Ok))
}

/// A step of a task; `None` when it belongs to no caller's lease.
pub(super) fn step(taken: &StepTaken) -> Option<SpanData> {
    let (of, name) = match &taken.subject {
        Subject::Lease(_) => ("drydock.lease", "step of a lease"),
        Subject::Resource(_) => ("drydock.resource", "step of a resource"),
        Subject::Blueprint(_) => ("drydock.blueprint", "step of a pool"),
    };
    let attempt = u64::try_from(taken.attempt).unwrap_or(0).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let frame = Frame {
        trace: trace_id(taken.root.as_ref()?)?,
        // A task has a step for each attempt.
        id: (span_number(taken.task.as_str())? ^ attempt).max(1),
        above: span_number(taken.subject.as_str()),
        name: Cow::Borrowed(name),
        from: taken.begun,
        to: taken.ended,
    };
    let attributes = vec![
        word(of, taken.subject.as_str()),
        word("drydock.task", &taken.task),
        word("drydock.worker", &taken.worker),
        KeyValue::new("drydock.attempt", taken.attempt),
    ];
    let status = match taken.outcome {
        Outcome::Done => Status::Ok,
        Outcome::FenceLost => Status::error("its claim was lost"),
        Outcome::Failed => Status::error(taken.error.clone()),
    };
    Some(frame.span(attributes, Vec::new(), status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_traces_are_those_of_leases() {
        let root = LeaseId::parse("lease_01m83b80psv0mcmrkcz4p5xnvx").unwrap();
        let trace = trace_id(&root).unwrap();
        assert_eq!(ulid::Ulid(u128::from_be_bytes(trace.to_bytes())).to_string(), "01M83B80PSV0MCMRKCZ4P5XNVX");
        let other = span_number("res_01m83b80psv0mcmrkcz4p5xnvw");
        assert!(other.is_some() && other != span_number(root.as_str()));
        assert_eq!((bits("lease_nonsense"), bits("")), (None, None));
    }
}
