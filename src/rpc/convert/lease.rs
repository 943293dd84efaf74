//! Leases, what they wait for, and what was asked for.

use super::count;
use super::time::{duration, positive, span, timestamp};
use crate::engine::{Acquire, Explanation, LeaseView, Receipt};
use crate::error::{Error, Result};
use crate::model::labels::check_labels;
use crate::model::{Lease, LeaseState, Waiting};
use crate::proto::v1;
use crate::proto::v1::explain_lease_response::Candidate;
use crate::proto::v1::lease::State;
use crate::rpc::check;

/// Most blueprints that one request can name.
const MAX_BLUEPRINTS: usize = 64;

/// What an `AcquireLeaseRequest` asks for, checked as far as the request itself tells.
///
/// # Errors
/// `INVALID_ARGUMENT`, `INVALID_ATTRIBUTE`, each naming the field.
pub(crate) fn ask(sent: v1::AcquireLeaseRequest) -> Result<Acquire> {
    check::required("resource_type", &sent.resource_type)?;
    check::attributes(&sent.attributes)?;
    if sent.blueprints.len() > MAX_BLUEPRINTS {
        let message = format!("blueprints has {} entries; at most {MAX_BLUEPRINTS} are allowed", sent.blueprints.len());
        return Err(Error::invalid(message).with("field", "blueprints"));
    }
    for (at, blueprint) in sent.blueprints.iter().enumerate() {
        check::required(&format!("blueprints[{at}]"), blueprint)?;
    }
    check_labels("resource_labels", &sent.resource_labels)?;
    check_labels("labels", &sent.labels)?;
    check_labels("apart_from", &sent.apart_from)?;
    Ok(Acquire {
        ttl: positive("ttl", sent.ttl.as_ref())?,
        queue_timeout: span("queue_timeout", sent.queue_timeout.as_ref())?,
        priority: check::within("priority", sent.priority, -100, 100)?,
        resource_type: sent.resource_type,
        attributes: sent.attributes,
        blueprints: sent.blueprints,
        resource_labels: sent.resource_labels,
        labels: sent.labels,
        exclusive: sent.exclusive,
        apart_from: sent.apart_from,
    })
}

/// Most leases that one request asks for together.
const MAX_TOGETHER: usize = 32;

/// What an `AcquireLeasesRequest` asks for.
///
/// # Errors
/// As [`ask`]; the message says which.
pub(crate) fn asks(sent: Vec<v1::AcquireLeaseRequest>) -> Result<Vec<Acquire>> {
    if sent.is_empty() || sent.len() > MAX_TOGETHER {
        let message = format!("leases has {} entries; 1 to {MAX_TOGETHER} are allowed", sent.len());
        return Err(Error::invalid(message).with("field", "leases"));
    }
    let one = |(at, one): (usize, v1::AcquireLeaseRequest)| {
        let field = |name: &str| format!("leases[{at}].{name}");
        for (name, is_set) in [("wait", one.wait.is_some()), ("request_id", !one.request_id.is_empty())] {
            if is_set {
                let message = format!("{} is set; set that of the whole request", field(name));
                return Err(Error::invalid(message).with("field", field(name)));
            }
        }
        ask(one).map_err(|error| Error { message: format!("leases[{at}]: {}", error.message), ..error })
    };
    sent.into_iter().enumerate().map(one).collect()
}

/// A state that a caller waits for; `None` when it names none.
///
/// # Errors
/// `INVALID_ARGUMENT` for a number that is no state.
pub(crate) fn until(sent: i32) -> Result<Option<LeaseState>> {
    let wrong = || Error::invalid(format!("until is {sent}, which is no state of a lease")).with("field", "until");
    Ok(match State::try_from(sent).map_err(|_| wrong())? {
        State::Unspecified => None,
        State::Pending => Some(LeaseState::Pending),
        State::Acquired => Some(LeaseState::Acquired),
        State::Active => Some(LeaseState::Active),
        State::Released => Some(LeaseState::Released),
        State::Broken => Some(LeaseState::Broken),
        State::Destroyed => Some(LeaseState::Destroyed),
    })
}

fn state(state: LeaseState) -> State {
    match state {
        LeaseState::Pending => State::Pending,
        LeaseState::Acquired => State::Acquired,
        LeaseState::Active => State::Active,
        LeaseState::Released => State::Released,
        LeaseState::Broken => State::Broken,
        LeaseState::Destroyed => State::Destroyed,
    }
}

/// A lease as callers see it.
pub(crate) fn lease(view: LeaseView) -> v1::Lease {
    let waiting = why(&view.lease, view.queue_position);
    let LeaseView { lease, interfaces, receipt: took, .. } = view;
    v1::Lease {
        id: lease.id.into(),
        resource_type: lease.spec.resource_type,
        state: state(lease.state).into(),
        state_reason: lease.state_reason,
        state_message: lease.state_message,
        attributes: lease.spec.attributes,
        facts: lease.facts,
        labels: lease.labels,
        owner: lease.owner,
        resource_id: lease.resource_id.map(String::from).unwrap_or_default(),
        blueprint_id: lease.blueprint_id.map(String::from).unwrap_or_default(),
        parent_resource_id: lease.parent.map(|(resource, _)| String::from(resource)).unwrap_or_default(),
        root_lease_id: lease.root_id.into(),
        interfaces,
        priority: count(lease.priority),
        epoch: u32::try_from(lease.epoch).unwrap_or(u32::MAX),
        ttl: lease.ttl.map(duration),
        max_ttl: Some(duration(lease.max_ttl)),
        create_time: Some(timestamp(lease.create_time)),
        queue_expire_time: lease.queue_expire_time.map(timestamp),
        active_time: lease.active_time.map(timestamp),
        expire_time: lease.expire_time.map(timestamp),
        renew_time: lease.renew_time.map(timestamp),
        use_time: lease.use_time.map(timestamp),
        end_time: lease.end_time.map(timestamp),
        destroy_time: lease.destroy_time.map(timestamp),
        waiting,
        receipt: took.map(receipt),
    }
}

fn receipt(took: Receipt) -> v1::Receipt {
    v1::Receipt {
        waited: Some(duration(took.waited)),
        built: Some(duration(took.built)),
        used: Some(duration(took.used)),
    }
}

/// Why it waits, while it does. Before its first step the lease itself has nothing to say yet.
fn why(lease: &Lease, position: Option<i64>) -> Option<v1::Waiting> {
    let nothing_yet = |reason: &str, message: &str| Waiting {
        reason: reason.to_owned(),
        message: message.to_owned(),
        blocked_by: Vec::new(),
    };
    let waits = match (lease.state, &lease.waiting) {
        (LeaseState::Pending | LeaseState::Acquired, Some(known)) => known.clone(),
        (LeaseState::Pending, None) => nothing_yet("QUEUED", "about to be looked at"),
        (LeaseState::Acquired, None) => nothing_yet("ACTIVATING", "is being set up on its resource"),
        _ => return None,
    };
    Some(waiting(waits, position))
}

fn waiting(waits: Waiting, position: Option<i64>) -> v1::Waiting {
    v1::Waiting {
        reason: waits.reason,
        message: waits.message,
        queue_position: position.map(count),
        blocked_by: waits.blocked_by,
        eta: None,
        eta_p90: None,
    }
}

/// The allocator's plan, in its own words.
pub(crate) fn explanation(explanation: Explanation) -> v1::ExplainLeaseResponse {
    let position = explanation.queue_position;
    let candidates = explanation.verdicts.into_iter().map(|verdict| Candidate {
        eligible: verdict.eligible,
        blueprint_id: verdict.blueprint_id,
        blueprint_name: verdict.blueprint_name,
        resource_id: verdict.resource_id,
        reason: verdict.reason.to_owned(),
        message: verdict.message,
        blocked_by: verdict.blocked_by,
    });
    v1::ExplainLeaseResponse {
        waiting: explanation.waiting.map(|waits| waiting(waits, position)),
        candidates: candidates.collect(),
        remedies: explanation.remedies,
        eta_basis: String::new(),
        never_reason: explanation.never_reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;

    fn host() -> v1::AcquireLeaseRequest {
        v1::AcquireLeaseRequest { resource_type: "host".to_owned(), ..v1::AcquireLeaseRequest::default() }
    }

    fn seconds(seconds: i64) -> prost_types::Duration {
        prost_types::Duration { seconds, nanos: 0 }
    }

    #[test]
    fn what_is_asked_for_is_checked_and_the_field_is_named() {
        let wrong = [
            ("resource_type", v1::AcquireLeaseRequest::default()),
            ("resource_type", v1::AcquireLeaseRequest { resource_type: "h\0".to_owned(), ..host() }),
            ("ttl", v1::AcquireLeaseRequest { ttl: Some(seconds(0)), ..host() }),
            ("ttl", v1::AcquireLeaseRequest { ttl: Some(seconds(-1)), ..host() }),
            ("queue_timeout", v1::AcquireLeaseRequest { queue_timeout: Some(seconds(-1)), ..host() }),
            ("priority", v1::AcquireLeaseRequest { priority: 101, ..host() }),
            ("blueprints[0]", v1::AcquireLeaseRequest { blueprints: vec![String::new()], ..host() }),
            ("blueprints", v1::AcquireLeaseRequest { blueprints: vec!["b".to_owned(); 65], ..host() }),
            ("labels", v1::AcquireLeaseRequest { labels: [("A B".to_owned(), String::new())].into(), ..host() }),
            (
                "resource_labels",
                v1::AcquireLeaseRequest { resource_labels: [(String::new(), String::new())].into(), ..host() },
            ),
        ];
        for (field, request) in wrong {
            let error = ask(request).unwrap_err();
            assert_eq!(error.reason, Reason::InvalidArgument, "{error}");
            assert!(error.message.starts_with(field), "{field}: {error}");
        }
        let plain = ask(host()).unwrap();
        assert_eq!((plain.ttl, plain.queue_timeout, plain.priority), (None, None, 0));
    }

    #[test]
    fn states_go_both_ways() {
        for known in LeaseState::ALL {
            assert_eq!(until(state(known).into()).unwrap(), Some(known));
            assert_eq!(state(known).as_str_name(), format!("STATE_{}", known.as_str()));
        }
        assert_eq!(until(0).unwrap(), None);
        assert!(until(77).is_err());
    }
}
