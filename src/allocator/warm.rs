//! Warm pools: how many of a blueprint's resources are ready, how many ought to be, and who may take over what is built.

use super::{Rules, is_registered, leases_of, limit_of, verdict};
use crate::clock::Micros;
use crate::model::pool::{Candidate, PoolView};
use crate::model::{Blueprint, Kind, Lease, Resource, ResourceState};

/// How long an unused resource is kept, microseconds; `None` is for ever.
#[must_use]
pub fn idle_ttl_of(blueprint: &Blueprint, kind: &Kind) -> Option<Micros> {
    blueprint.limits.upkeep.idle_ttl.or(if kind.stays { None } else { Some(0) })
}

/// Whether a resource outlives its last lease.
#[must_use]
pub fn stays(blueprint: &Blueprint, kind: &Kind) -> bool {
    idle_ttl_of(blueprint, kind) != Some(0)
}

/// Whether a resource has served as many leases as it may.
#[must_use]
pub fn is_used_up(resource: &Resource, blueprint: &Blueprint) -> bool {
    blueprint.limits.upkeep.max_uses.is_some_and(|most| resource.uses >= most)
}

/// What a blueprint has, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Survey {
    /// ACTIVE, and anybody's for the asking.
    pub ready: i64,
    /// Being built for nobody in particular.
    pub building: i64,
    /// Leased, or being built for a lease.
    pub used: i64,
    /// Further ones that the queue will take of those that are ready.
    pub queued: i64,
    /// Leases in the queue that none that is ready would suit: they need room of their own.
    pub unfit: i64,
    /// Places of its limit that are taken.
    pub built: i64,
    /// How many ought to be ready.
    pub want: i64,
}

impl Survey {
    /// Builds that are missing, as far as there is room.
    #[must_use]
    pub fn missing(&self, limit: Option<i64>) -> i64 {
        let missing = self.want + self.queued - self.ready - self.building;
        // Who queues for something else comes first: nothing is built in the room that he needs.
        let room = limit.map_or(i64::MAX, |limit| limit - self.built - self.unfit);
        missing.min(room).max(0)
    }

    /// Of those that are ready, how many are more than `kept`, which may be more than are wanted just now.
    #[must_use]
    pub fn surplus(&self, kept: i64) -> i64 {
        (self.ready + self.building - kept - self.queued).clamp(0, self.ready)
    }
}

/// Counts what a blueprint has. The view is of its type, with the whole queue.
#[must_use]
pub fn survey(view: &PoolView, blueprint: &Blueprint, rules: &dyn Rules) -> Survey {
    let mut survey =
        Survey { built: view.built.get(&blueprint.id).map_or(0, |taken| count(taken.len())), ..Survey::default() };
    for candidate in view.candidates.iter().filter(|candidate| candidate.resource.blueprint_id == blueprint.id) {
        if is_ready(candidate, blueprint, rules) {
            survey.ready += 1;
        } else if candidate.resource.is_nobodys() && candidate.resource.state == ResourceState::Pending {
            survey.building += 1;
        } else if is_in_use(candidate) {
            survey.used += 1;
        }
    }
    let (fit, unfit): (Vec<&Lease>, Vec<&Lease>) = view
        .ahead
        .iter()
        .filter(|lease| verdict::reject_blueprint(lease, blueprint, rules).is_none())
        .partition(|lease| suits(lease, blueprint, rules));
    let each = leases_of(blueprint, rules).max(1);
    let resources = |leases: usize| count(leases).saturating_add(each - 1) / each;
    (survey.queued, survey.unfit) = (resources(fit.len()), resources(unfit.len()));
    // A disabled one serves nobody: what is ready there goes in its time.
    if blueprint.enabled && !is_registered(blueprint, rules) {
        survey.want = blueprint.limits.upkeep.wanted(survey.used + survey.queued + survey.unfit);
        if let Some(limit) = limit_of(blueprint, rules) {
            survey.want = survey.want.min(limit);
        }
    }
    survey
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Whether a resource is there for anybody who comes: healthy, without a lease, and tied to no owner.
#[must_use]
pub fn is_ready(candidate: &Candidate, blueprint: &Blueprint, rules: &dyn Rules) -> bool {
    let resource = &candidate.resource;
    let alike = rules.kind(&blueprint.kind).is_some_and(|kind| {
        !kind.reused_by_attributes || resource.attributes == blueprint.limits.upkeep.ready_attributes
    });
    resource.state == ResourceState::Active
        && candidate.taken.is_empty()
        && !is_in_use(candidate)
        && (resource.is_nobodys() || blueprint.limits.shared)
        && alike
        && resource.drain.is_none()
        && resource.problem.is_empty()
        && !is_used_up(resource, blueprint)
}

/// Leased, being built for a lease, or just built for one that has not taken it yet.
fn is_in_use(candidate: &Candidate) -> bool {
    let resource = &candidate.resource;
    let made = resource.made_for.is_some();
    !candidate.taken.is_empty()
        || (made && resource.state == ResourceState::Pending)
        || (made && resource.idle_since.is_none())
}

/// Whether those that are kept ready would do for a lease.
fn suits(lease: &Lease, blueprint: &Blueprint, rules: &dyn Rules) -> bool {
    let by_attributes = rules.kind(&blueprint.kind).is_some_and(|kind| kind.reused_by_attributes);
    !by_attributes || lease.spec.attributes == blueprint.limits.upkeep.ready_attributes
}

/// Builds for nobody in particular that leases may take over.
pub(super) struct Builds<'v> {
    view: &'v PoolView,
    free: Vec<&'v Candidate>,
}

impl<'v> Builds<'v> {
    pub(super) fn new(view: &'v PoolView) -> Self {
        let nobodys = |candidate: &&Candidate| {
            candidate.resource.is_nobodys() && candidate.resource.state == ResourceState::Pending
        };
        Self { view, free: view.candidates.iter().filter(nobodys).collect() }
    }

    /// The one that a lease may take over, of this blueprint or of any.
    pub(super) fn for_lease(
        &self,
        lease: &Lease,
        blueprint: Option<&Blueprint>,
        rules: &dyn Rules,
    ) -> Option<&'v Resource> {
        let of = |resource: &Resource| blueprint.is_none_or(|blueprint| resource.blueprint_id == blueprint.id);
        let fitting = self.free.iter().filter(|candidate| of(&candidate.resource));
        let mut fitting = fitting.filter(|candidate| fits_once_built(lease, candidate, self.view, rules));
        fitting.next().map(|candidate| &candidate.resource)
    }

    /// A lease ahead takes one over; whether there was one for it.
    pub(super) fn deal(&mut self, lease: &Lease, rules: &dyn Rules) -> bool {
        let taken = self.for_lease(lease, None, rules).map(|resource| resource.id.clone());
        taken.is_some_and(|taken| {
            self.spend(&taken);
            true
        })
    }

    pub(super) fn spend(&mut self, taken: &crate::model::id::ResourceId) {
        self.free.retain(|candidate| candidate.resource.id != *taken);
    }

    pub(super) fn is_left(&self) -> bool {
        !self.free.is_empty()
    }
}

/// Whether a resource that is being built would do for a lease once it is ACTIVE.
fn fits_once_built(lease: &Lease, candidate: &Candidate, view: &PoolView, rules: &dyn Rules) -> bool {
    let resource = Resource { state: ResourceState::Active, ..candidate.resource.clone() };
    let built = Candidate { resource, taken: candidate.taken.clone() };
    verdict::reject_resource(lease, &built, view, rules).is_none()
}
