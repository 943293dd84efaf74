//! A blueprint whose builds fail pauses: nothing new is built, and those who wait are told why and until when.

use super::Verdict;
use crate::clock::{Micros, utc};
use crate::model::pool::PoolView;
use crate::model::{Blueprint, ResourceState, Waiting};

/// What a pause leaves of the room for new builds: nothing; when it is over, one that is tried, unless one is being built.
pub(super) fn left(blueprint: &Blueprint, view: &PoolView, left: Option<i64>) -> Option<i64> {
    if !blueprint.breaker.is_open() {
        return left;
    }
    if blueprint.breaker.pauses(view.now) || is_tried(blueprint, view) {
        return Some(0);
    }
    Some(left.map_or(1, |left| left.min(1)))
}

fn is_tried(blueprint: &Blueprint, view: &PoolView) -> bool {
    let builds = |of: &crate::model::Resource| of.blueprint_id == blueprint.id && of.state == ResourceState::Pending;
    view.candidates.iter().any(|candidate| builds(&candidate.resource))
}

/// Why nothing new is built by a blueprint; `None` when it does not pause.
#[must_use]
pub fn pause_of(blueprint: &Blueprint, now: Micros) -> Option<String> {
    let breaker = &blueprint.breaker;
    let until = breaker.until?;
    let tried = if breaker.pauses(now) {
        format!("paused until {}", utc(until))
    } else {
        "one build is tried before the others".to_owned()
    };
    let error = breaker.error.lines().next().unwrap_or_default();
    Some(format!("{tried}: {} builds in a row have failed, the last: {error}", breaker.failures))
}

/// Told when nothing but pauses keeps a lease from being served.
pub(super) fn waiting(possible: &[&Blueprint], view: &PoolView, verdicts: &[Verdict]) -> Option<Waiting> {
    let paused: Vec<&Blueprint> = possible.iter().copied().filter(|of| of.enabled && of.breaker.is_open()).collect();
    let others = possible.iter().any(|of| of.enabled && !of.breaker.is_open());
    let full = |verdict: &&Verdict| {
        !verdict.resource_id.is_empty() && matches!(verdict.reason, "LIMIT_REACHED" | "QUEUED" | "UNHEALTHY")
    };
    if paused.is_empty() || others || verdicts.iter().any(|verdict| full(&verdict)) {
        return None;
    }
    let why = paused.iter().filter_map(|of| Some(format!("{}: {}", of.name, pause_of(of, view.now)?)));
    Some(Waiting {
        reason: "BLUEPRINT_PAUSED".to_owned(),
        message: why.collect::<Vec<_>>().join("; "),
        blocked_by: paused.iter().map(|of| of.id.to_string()).collect(),
    })
}

/// Told when what is built for a lease waits for the end of a pause.
pub(super) fn building(resource: &str, view: &PoolView) -> Option<Waiting> {
    let own = view.candidates.iter().find(|candidate| candidate.resource.id.as_str() == resource)?;
    let blueprint = view.blueprints.iter().find(|blueprint| blueprint.id == own.resource.blueprint_id)?;
    Some(Waiting {
        reason: "BLUEPRINT_PAUSED".to_owned(),
        message: format!("{}: {}", blueprint.name, pause_of(blueprint, view.now)?),
        blocked_by: vec![resource.to_owned(), blueprint.id.to_string()],
    })
}
