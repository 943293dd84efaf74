//! Why a candidate would serve a lease or would not: the words of `ExplainLease` and of `Lease.waiting`.

use super::{NOBODY, Plan, Room, Rules, breaker, gates, in_rank, is_registered, leases_of, limit_of, warm};
use crate::model::pool::{Candidate, PoolView};
use crate::model::{Blueprint, Lease, ResourceState, StringMap, Waiting};

/// What the allocator thinks of one candidate: a resource, or a new build by a blueprint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Would serve the lease now.
    pub eligible: bool,
    /// The blueprint.
    pub blueprint_id: String,
    /// Its name.
    pub blueprint_name: String,
    /// The resource; empty for a new build.
    pub resource_id: String,
    /// `UPPER_SNAKE` predicate that rejected it; empty when eligible.
    pub reason: &'static str,
    /// With numbers.
    pub message: String,
    /// Ids that hold what is missing.
    pub blocked_by: Vec<String>,
}

/// Why a candidate does not fit.
pub(super) struct Rejection {
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// It may fit later without anybody changing the lease.
    pub(super) passes: bool,
}

fn no(reason: &'static str, message: String, passes: bool) -> Option<Rejection> {
    Some(Rejection { reason, message, passes })
}

/// Whether a blueprint may serve a lease at all.
pub(super) fn reject_blueprint(lease: &Lease, blueprint: &Blueprint, rules: &dyn Rules) -> Option<Rejection> {
    if rules.kind(&blueprint.kind).is_none() {
        return no("KIND_UNKNOWN", format!("this daemon has no kind {:?}", blueprint.kind), false);
    }
    if !lease.spec.blueprints.is_empty() && !lease.spec.blueprints.contains(&blueprint.id) {
        return no("NOT_ALLOWED", "the lease names other blueprints".to_owned(), false);
    }
    if let Err(why) = rules.admits(blueprint, &lease.spec) {
        return no("ATTRIBUTE_MISMATCH", why, false);
    }
    // What is registered by hand has labels of its own.
    if !is_registered(blueprint, rules)
        && let Some((key, value)) = missing_label(&lease.spec.resource_labels, &blueprint.labels)
    {
        return no("LABEL_MISMATCH", format!("its resources do not carry {key}={value}"), false);
    }
    if !blueprint.enabled {
        return no("DISABLED", format!("the blueprint {} is disabled", blueprint.name), true);
    }
    None
}

/// Whether a resource may serve a lease, its room aside.
pub(super) fn reject_resource(
    lease: &Lease,
    candidate: &Candidate,
    view: &PoolView,
    rules: &dyn Rules,
) -> Option<Rejection> {
    let resource = &candidate.resource;
    let blueprint = view.blueprints.iter().find(|blueprint| blueprint.id == resource.blueprint_id);
    let Some(blueprint) = blueprint else {
        return no("BLUEPRINT_GONE", "its blueprint is gone".to_owned(), false);
    };
    if let Some(rejection) = reject_blueprint(lease, blueprint, rules) {
        return Some(rejection);
    }
    let sick = || no("UNHEALTHY", resource.problem.clone(), true);
    if resource.state == ResourceState::Pending {
        let troubled = resource.is_registered() && resource.condition().is_some();
        return if troubled { sick() } else { no("BUILDING", "it is being built".to_owned(), true) };
    }
    if let Some((key, value)) = missing_label(&lease.spec.resource_labels, &resource.labels) {
        return no("LABEL_MISMATCH", format!("it does not carry {key}={value}"), false);
    }
    if resource.is_retiring() || warm::is_used_up(resource, blueprint) {
        let why = resource.drain.as_ref().map_or("it has served as many leases as it may", |drain| &drain.comment);
        return no("RETIRING", format!("{why}; it goes when it is unused"), true);
    }
    if resource.drain.is_some() {
        return no("DRAINING", "it is draining".to_owned(), true);
    }
    // A lease whose clean-up failed keeps its own place; the others are none the worse, unless the resource is sick.
    if resource.condition().is_some() || (!resource.problem.is_empty() && resource.cleanup_failures == 0) {
        return sick();
    }
    if resource.owner != lease.owner && !blueprint.limits.shared && !resource.is_nobodys() {
        return no("OTHER_OWNER", "it was made for another owner, and its blueprint is not shared".to_owned(), false);
    }
    let kind = rules.kind(&blueprint.kind)?;
    if kind.reused_by_attributes && resource.attributes != lease.spec.attributes {
        return no("ATTRIBUTE_MISMATCH", "it was made with other attributes".to_owned(), false);
    }
    if let Some(rejection) = reject_neighbours(lease, candidate, view) {
        return Some(rejection);
    }
    // What dies with its last lease is not handed on once that lease has gone.
    let own = lease.allocating.as_ref() == Some(&resource.id) || resource.made_for.as_ref() == Some(&lease.id);
    if !warm::stays(blueprint, kind) && candidate.taken.is_empty() && !own && !resource.is_nobodys() {
        return no("ENDING", "it is kept for the lease it was made for, or is about to go".to_owned(), false);
    }
    None
}

/// Whether the lease or one that is there keeps apart from the other.
fn reject_neighbours(lease: &Lease, candidate: &Candidate, view: &PoolView) -> Option<Rejection> {
    let carries = |labels: &StringMap, unwanted: &StringMap| {
        unwanted
            .iter()
            .find(|(key, value)| labels.get(*key) == Some(value))
            .map(|(key, value)| format!("{key}={value}"))
    };
    candidate.taken.iter().filter_map(|(_, holder)| view.neighbours.get(holder)).find_map(|neighbour| {
        if let Some(label) = carries(&neighbour.labels, &lease.spec.apart_from) {
            return no("KEPT_APART", format!("a lease with {label} is on it"), true);
        }
        let label = carries(&lease.labels, &neighbour.apart_from)?;
        no("KEPT_APART", format!("a lease on it keeps apart from {label}"), true)
    })
}

/// The first label that is wanted and not there.
pub(crate) fn missing_label<'l>(wanted: &'l StringMap, has: &StringMap) -> Option<(&'l String, &'l String)> {
    wanted.iter().find(|(key, value)| has.get(*key) != Some(value))
}

/// All candidates in the order tried: by blueprint, its resources, then a new build.
pub(super) fn all(lease: &Lease, view: &PoolView, rules: &dyn Rules, room: &Room<'_>) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for blueprint in in_rank(view, rules) {
        let of = view.candidates.iter().zip(&room.places);
        for (candidate, free) in of.filter(|(candidate, _)| candidate.resource.blueprint_id == blueprint.id) {
            verdicts.push(of_resource(lease, blueprint, candidate, *free, rules, room));
        }
        verdicts.push(of_build(lease, blueprint, view, rules, room));
    }
    verdicts
}

fn of_resource(
    lease: &Lease,
    blueprint: &Blueprint,
    candidate: &Candidate,
    free: i64,
    rules: &dyn Rules,
    room: &Room<'_>,
) -> Verdict {
    let (resource, view) = (&candidate.resource, room.view);
    let holders = || candidate.taken.iter().map(|(_, lease)| lease.to_string()).collect();
    let gates = gates::of_lease(lease, blueprint, rules.shares());
    let closed = room.passes.closed(&gates, lease.id.as_str());
    let (reason, message, blocked_by) = match (reject_resource(lease, candidate, view, rules), closed) {
        (Some(rejection), _) => (rejection.reason, rejection.message, Vec::new()),
        (None, Some((gate, numbers, holders))) => (gate.reason, numbers, holders),
        (None, None) if candidate.free() <= 0 || (lease.spec.exclusive && !candidate.taken.is_empty()) => {
            let alone = if lease.spec.exclusive { ", and the lease wants it for itself" } else { "" };
            let message = format!("{} of {} leases{alone}", candidate.taken.len(), resource.lease_limit);
            ("LIMIT_REACHED", message, holders())
        }
        (None, None) if free <= 0 => {
            let ids = view.ahead.iter().take(8).map(|ahead| ahead.id.to_string()).collect();
            ("QUEUED", format!("its {} free places go to leases ahead in the queue", candidate.free()), ids)
        }
        (None, None) => ("", format!("{} of {} leases", candidate.taken.len(), resource.lease_limit), Vec::new()),
    };
    Verdict {
        eligible: reason.is_empty(),
        blueprint_id: blueprint.id.to_string(),
        blueprint_name: blueprint.name.clone(),
        resource_id: resource.id.to_string(),
        reason,
        message,
        blocked_by,
    }
}

fn of_build(lease: &Lease, blueprint: &Blueprint, view: &PoolView, rules: &dyn Rules, room: &Room<'_>) -> Verdict {
    let limit = limit_of(blueprint, rules);
    let built = view.built.get(&blueprint.id).map_or(0, Vec::len);
    let holders = || {
        view.candidates
            .iter()
            .filter(|candidate| candidate.resource.blueprint_id == blueprint.id)
            .map(|candidate| candidate.resource.id.to_string())
            .collect()
    };
    let numbers =
        limit.map_or_else(|| "no limit of resources".to_owned(), |limit| format!("{built} of {limit} resources built"));
    let left = room.builds.get(&blueprint.id).copied().flatten();
    let gates = gates::of_lease(lease, blueprint, rules.shares());
    let builds: Vec<gates::Gate> = gates::builds(blueprint).into_iter().collect();
    let closed = room.passes.closed(&gates, lease.id.as_str()).or_else(|| room.passes.closed(&builds, NOBODY));
    let paused = breaker::pause_of(blueprint, view.now).filter(|_| left.is_some_and(|left| left <= 0));
    let (reason, message, blocked_by) = match reject_blueprint(lease, blueprint, rules) {
        Some(rejection) => (rejection.reason, rejection.message, Vec::new()),
        None if is_registered(blueprint, rules) => {
            let message = "it builds none by itself; `drydock host add` registers one".to_owned();
            ("REGISTERED_ONLY", message, Vec::new())
        }
        None if closed.is_some() => match closed {
            Some((gate, numbers, holders)) => (gate.reason, numbers, holders),
            None => ("", String::new(), Vec::new()),
        },
        None if paused.is_some() => ("PAUSED", paused.unwrap_or_default(), vec![blueprint.id.to_string()]),
        None if limit.is_some_and(|limit| i64::try_from(built).unwrap_or(i64::MAX) >= limit) => {
            ("LIMIT_REACHED", numbers, holders())
        }
        None if left.is_some_and(|left| left <= 0) => {
            let ids = view.ahead.iter().take(8).map(|ahead| ahead.id.to_string()).collect();
            ("QUEUED", format!("{numbers}, the rest goes to leases ahead in the queue"), ids)
        }
        None => ("", numbers, Vec::new()),
    };
    Verdict {
        eligible: reason.is_empty(),
        blueprint_id: blueprint.id.to_string(),
        blueprint_name: blueprint.name.clone(),
        resource_id: String::new(),
        reason,
        message,
        blocked_by,
    }
}

/// Why the lease waits under this plan; `None` when it does not.
pub(super) fn waiting(
    plan: &Plan,
    lease: &Lease,
    view: &PoolView,
    rules: &dyn Rules,
    empty_handed: usize,
    verdicts: &[Verdict],
) -> Option<Waiting> {
    match plan {
        Plan::Take { .. } | Plan::Gone => None,
        Plan::Build { blueprint, .. } => Some(Waiting {
            reason: "BUILDING".to_owned(),
            message: format!("a {} is built by {}", lease.spec.resource_type, blueprint.name),
            blocked_by: vec![blueprint.id.to_string()],
        }),
        Plan::Adopt { resource, .. } => Some(Waiting {
            reason: "BUILDING".to_owned(),
            message: format!("{} is being built already, and is for it now", resource.id),
            blocked_by: vec![resource.id.to_string()],
        }),
        Plan::Await(resource) if let Some(paused) = breaker::building(resource.as_str(), view) => Some(paused),
        Plan::Await(resource) => Some(Waiting {
            reason: "BUILDING".to_owned(),
            message: format!("{resource} is being built for it"),
            blocked_by: vec![resource.to_string()],
        }),
        Plan::Park => Some(parked(lease, view, rules, empty_handed, verdicts)),
    }
}

fn parked(lease: &Lease, view: &PoolView, rules: &dyn Rules, empty_handed: usize, verdicts: &[Verdict]) -> Waiting {
    let mut blocked_by: Vec<String> = Vec::new();
    for id in verdicts.iter().flat_map(|verdict| &verdict.blocked_by) {
        if !blocked_by.contains(id) && blocked_by.len() < 16 {
            blocked_by.push(id.clone());
        }
    }
    let possible: Vec<&Blueprint> = view
        .blueprints
        .iter()
        .filter(|blueprint| reject_blueprint(lease, blueprint, rules).is_none_or(|rejection| rejection.passes))
        .collect();
    if possible.iter().all(|blueprint| !blueprint.enabled) {
        let names = possible.iter().map(|blueprint| blueprint.name.as_str()).collect::<Vec<_>>().join(", ");
        return Waiting {
            reason: "BLUEPRINT_PAUSED".to_owned(),
            message: format!("every blueprint that could serve it is disabled: {names}"),
            blocked_by: possible.iter().map(|blueprint| blueprint.id.to_string()).collect(),
        };
    }
    // Whatever else is in the way, it is a limit of owners.
    let is_quota = |verdict: &&Verdict| verdict.reason == "QUOTA_REACHED";
    let others = |verdict: &Verdict| matches!(verdict.reason, "" | "LIMIT_REACHED" | "QUEUED" | "BUILDING");
    if let Some(quota) = verdicts.iter().find(is_quota).filter(|_| !verdicts.iter().any(others)) {
        return Waiting { reason: "QUOTA_REACHED".to_owned(), message: quota.message.clone(), blocked_by };
    }
    if let Some(paused) = breaker::waiting(&possible, view, verdicts) {
        return paused;
    }
    let limited = verdicts.iter().any(|verdict| matches!(verdict.reason, "LIMIT_REACHED" | "QUEUED"));
    let sick: Vec<&Verdict> = verdicts.iter().filter(|v| matches!(v.reason, "DRAINING" | "UNHEALTHY")).collect();
    let only_sick = !sick.is_empty()
        && verdicts.iter().all(|v| v.reason != "QUEUED" && (v.reason != "LIMIT_REACHED" || v.resource_id.is_empty()));
    if only_sick {
        return Waiting {
            reason: "NO_HEALTHY_RESOURCE".to_owned(),
            message: format!("a {} of {}: {}", lease.spec.resource_type, sick[0].blueprint_name, sick[0].message),
            blocked_by: sick.iter().map(|verdict| verdict.resource_id.clone()).collect(),
        };
    }
    let hopeful = |verdict: &Verdict| {
        matches!(verdict.reason, "" | "BUILDING" | "LIMIT_REACHED" | "QUEUED" | "DRAINING" | "UNHEALTHY" | "DISABLED")
    };
    if possible.iter().all(|blueprint| is_registered(blueprint, rules)) && !verdicts.iter().any(hopeful) {
        let names = possible.iter().map(|blueprint| blueprint.name.as_str()).collect::<Vec<_>>().join(", ");
        return Waiting {
            reason: "NO_HEALTHY_RESOURCE".to_owned(),
            message: format!("none that is registered with {names} fits; `drydock host add` registers one"),
            blocked_by: possible.iter().map(|blueprint| blueprint.id.to_string()).collect(),
        };
    }
    let numbers: Vec<String> = possible
        .iter()
        .filter(|blueprint| blueprint.enabled)
        .map(|blueprint| {
            if is_registered(blueprint, rules) {
                let of = view.candidates.iter().filter(|candidate| candidate.resource.blueprint_id == blueprint.id);
                let (taken, room) = of.fold((0, 0), |(taken, room), candidate| {
                    (taken + candidate.taken.len(), room + candidate.resource.lease_limit)
                });
                return format!("{}: {taken} of {room} leases on what is registered", blueprint.name);
            }
            let built = view.built.get(&blueprint.id).map_or(0, Vec::len);
            let of = limit_of(blueprint, rules).map_or_else(|| "any number".to_owned(), |limit| limit.to_string());
            format!("{}: {built} of {of} resources built, {} leases each", blueprint.name, leases_of(blueprint, rules))
        })
        .collect();
    let queue =
        if view.ahead.is_empty() { String::new() } else { format!("; {} ahead in the queue", view.ahead.len()) };
    let first = empty_handed == 0 && !verdicts.iter().any(|verdict| verdict.reason == "QUEUED");
    let reason = if limited && first { "LIMIT_REACHED" } else { "QUEUED" };
    Waiting { reason: reason.to_owned(), message: format!("{}{queue}", numbers.join("; ")), blocked_by }
}
