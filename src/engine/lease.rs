//! The steps of a lease: allocate (decided in `allocate`), set up, expire, clean up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

use super::Engine;
use super::allocate::Allocation;
use super::idle::{Stay, after_lease};
use super::narrate::Told;
use super::slots::give_back_slots;
use super::steps::{KindRules, later, retry};
use crate::blueprint::{Context, Failure, Step};
use crate::clock::micros;
use crate::error::{Error, Reason, Result};
use crate::model::id::{LeaseId, ResourceId, Subject};
use crate::model::task::{MAX_FAILURES, MAX_REACQUIRES};
use crate::model::{Lease, LeaseState, Resource, ResourceState, StringMap};
use crate::store::{Baton, Claim, Committed, Next, Scope, Tx, Wait, pool_of};

impl Engine {
    pub(super) async fn step_lease(
        &self,
        claim: &Claim,
        id: &LeaseId,
        next: Option<Scope>,
        lost: CancellationToken,
    ) -> Result<Committed> {
        let Some(lease) = self.store.find_lease(id).await? else {
            return self.store.commit_step(claim, next, |_| Box::pin(async { Ok((Next::Done, Baton::Pass)) })).await;
        };
        match lease.state {
            LeaseState::Pending => self.allocate(claim, id, next).await,
            LeaseState::Acquired => self.set_up(claim, lease, next, lost).await,
            LeaseState::Active => self.guard(claim, id, next).await,
            LeaseState::Released | LeaseState::Broken => self.clean_up(claim, lease, next, lost).await,
            LeaseState::Destroyed => {
                self.store.commit_step(claim, next, |_| Box::pin(async { Ok((Next::Done, Baton::Pass)) })).await
            }
        }
    }

    /// PENDING: decided and written in one transaction, on what is true in it.
    async fn allocate(&self, claim: &Claim, id: &LeaseId, next: Option<Scope>) -> Result<Committed> {
        let allocation = Arc::new(Allocation { rules: self.rules(), worker: claim.worker.clone() });
        let id = id.clone();
        self.store
            .commit_step(claim, next, move |tx| {
                let (allocation, id) = (Arc::clone(&allocation), id.clone());
                Box::pin(async move { allocation.step(tx, &id).await })
            })
            .await
    }

    /// ACQUIRED: the blueprint sets the lease up on its resource.
    async fn set_up(
        &self,
        claim: &Claim,
        lease: Lease,
        next: Option<Scope>,
        lost: CancellationToken,
    ) -> Result<Committed> {
        let mut undo = None;
        let step = match self.resource_of(&lease).await? {
            Some(resource) if resource.state == ResourceState::Active => {
                let (record, kind) = self.blueprint_of(&resource).await?;
                let running = self.running.begin(claim, &lost);
                let ctx =
                    self.context(&resource, record, Some(lease.clone()), Some(claim), running.cancel.clone()).await?;
                let facts = kind.lease_facts(&resource, &lease);
                let step = match kind.prepare(&ctx).await {
                    Step::Ready(more) => Step::Ready(facts.into_iter().chain(more).collect()),
                    step => step,
                };
                if running.cancel.is_cancelled() && self.is_draining() {
                    return self.leave_to_others(claim).await;
                }
                undo = Some((kind, ctx));
                step
            }
            _ => Step::done(),
        };
        let (failures, worker) = (claim.failures, claim.worker.clone());
        let step = Arc::new(step);
        let in_vain = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&in_vain);
        let outcome = self
            .store
            .commit_step(claim, next, move |tx| {
                let (lease, step, worker) = (lease.clone(), Arc::clone(&step), worker.clone());
                let in_vain = Arc::clone(&noted);
                Box::pin(async move {
                    let next = finish_set_up(tx, &lease, &step, failures, &worker).await?;
                    let now = tx.get_lease(&lease.id).await?;
                    in_vain.store(now.resource_id != lease.resource_id, Ordering::Relaxed);
                    Ok((next, Baton::Pass))
                })
            })
            .await;
        if let Some((kind, ctx)) = undo.filter(|_| in_vain.load(Ordering::Relaxed)) {
            // It was sent back to the queue while it was set up: nobody else will know of what was made on that resource.
            let ctx = Context { guard: self.guard_of(Some(claim)), ..ctx };
            if let Step::Failed(failure) = kind.clean(&ctx).await {
                tracing::warn!(error = %words(&failure), "what was set up on a resource that has ended cannot be cleaned up");
            }
        }
        outcome
    }

    /// ACTIVE: it only waits for its end.
    async fn guard(&self, claim: &Claim, id: &LeaseId, next: Option<Scope>) -> Result<Committed> {
        let id = id.clone();
        self.store
            .commit_step(claim, next, move |tx| {
                let id = id.clone();
                Box::pin(async move {
                    let lease = tx.get_lease(&id).await?;
                    if lease.state != LeaseState::Active {
                        return Ok((Next::Again, Baton::Pass));
                    }
                    if lease.expire_time.is_some_and(|at| at <= tx.now()) {
                        let message =
                            format!("the lease {id} has reached its expire_time; renew leases that are still in use");
                        end(tx, &lease, LeaseState::Released, "EXPIRED", &message, "drydock").await?;
                        return Ok((Next::Again, Baton::Pass));
                    }
                    Ok((Next::Park { waits: Vec::new(), until: lease.expire_time }, Baton::Pass))
                })
            })
            .await
    }

    /// RELEASED or BROKEN: what is placed on it goes first, then what the lease left, then its place.
    async fn clean_up(
        &self,
        claim: &Claim,
        lease: Lease,
        next: Option<Scope>,
        lost: CancellationToken,
    ) -> Result<Committed> {
        let placed = self.resources_placed_on(&lease.id).await?;
        if !placed.is_empty() {
            return self.release_placed(claim, lease.id, next).await;
        }
        let mut step = Step::done();
        let mut stay = Stay::FOR_EVER;
        if let Some(resource) = self.resource_that_goes_with(&lease).await? {
            let (record, kind) = self.blueprint_of(&resource).await?;
            stay = Stay::of(&record, kind.describe());
            if lease.resource_id.is_some() && !lease.cleaned {
                let ctx = self.context(&resource, record, Some(lease.clone()), Some(claim), lost).await?;
                step = kind.clean(&ctx).await;
            }
        }
        let failures = claim.failures;
        let step = Arc::new(step);
        self.store
            .commit_step(claim, next, move |tx| {
                let (id, step) = (lease.id.clone(), Arc::clone(&step));
                Box::pin(async move { Ok((finish_clean_up(tx, &id, &step, failures, stay).await?, Baton::Pass)) })
            })
            .await
    }

    async fn release_placed(&self, claim: &Claim, id: LeaseId, next: Option<Scope>) -> Result<Committed> {
        self.store
            .commit_step(claim, next, move |tx| {
                let id = id.clone();
                Box::pin(async move {
                    let mut waits = Vec::new();
                    for resource in tx.placed_on(&id).await? {
                        let resource = if resource.state.is_live() {
                            let message = format!("the host lease {id} that it was placed on has ended");
                            super::resource::end(
                                tx,
                                &resource,
                                ResourceState::Released,
                                "RESOURCE_RELEASED",
                                &message,
                                false,
                            )
                            .await?
                        } else {
                            resource
                        };
                        waits.push(Wait::Resource(resource.id, resource.state));
                    }
                    let next = if waits.is_empty() { Next::Again } else { Next::Park { waits, until: None } };
                    Ok((next, Baton::Pass))
                })
            })
            .await
    }

    async fn resource_of(&self, lease: &Lease) -> Result<Option<Resource>> {
        match &lease.resource_id {
            Some(id) => self.store.find_resource(id).await,
            None => Ok(None),
        }
    }

    /// The resource it has, or the one that was being built for it alone.
    async fn resource_that_goes_with(&self, lease: &Lease) -> Result<Option<Resource>> {
        match lease.resource_id.as_ref().or(lease.allocating.as_ref()) {
            Some(id) => self.store.find_resource(id).await,
            None => Ok(None),
        }
    }

    pub(super) async fn resources_placed_on(&self, lease: &LeaseId) -> Result<Vec<Resource>> {
        self.store.placed_on(lease).await
    }

    pub(super) fn rules(&self) -> KindRules {
        KindRules::new(self.registry.clone(), Arc::clone(&self.shares), Arc::clone(&self.courtesy))
    }
}

/// The last words of becoming ACTIVE.
pub(super) fn activate(lease: &mut Lease, facts: StringMap, now: crate::clock::Micros) {
    lease.state = LeaseState::Active;
    lease.facts = facts;
    lease.active_time = Some(now);
    lease.expire_time = lease.ttl.map(|ttl| now + ttl);
    lease.waiting = None;
}

async fn finish_set_up(tx: &mut Tx, seen: &Lease, step: &Step, failures: i64, worker: &str) -> Result<Next> {
    let lease = tx.get_lease(&seen.id).await?;
    if lease.state != LeaseState::Acquired || lease.epoch != seen.epoch {
        return Ok(Next::Again);
    }
    if lease.queue_expire_time.is_some_and(|at| at <= tx.now()) {
        time_out(tx, &lease).await?;
        return Ok(Next::Again);
    }
    let resource = match &lease.resource_id {
        Some(id) => tx.find_resource(id).await?,
        None => None,
    };
    if resource.as_ref().is_none_or(|resource| resource.state != ResourceState::Active) {
        reacquire(tx, &lease, "its resource broke while it was set up").await?;
        return Ok(Next::Again);
    }
    match step {
        Step::Ready(facts) => {
            let mut after = lease.clone();
            activate(&mut after, facts.clone(), tx.now());
            tx.put_lease(&lease, &after).await?;
            let told = Told::by_drydock("lease.activated", "it is set up and can be used");
            tx.event(told.of_lease(&after, &[("worker", worker.to_owned())])).await?;
            Ok(Next::Park { waits: Vec::new(), until: after.expire_time })
        }
        Step::Later { after, .. } => Ok(Next::Park { waits: Vec::new(), until: Some(tx.now() + micros(*after)) }),
        Step::Failed(failure) if failure.permanent || failures + 1 >= MAX_FAILURES => {
            end(tx, &lease, LeaseState::Broken, "BUILD_FAILED", &words(failure), "drydock").await?;
            Ok(Next::Again)
        }
        Step::Failed(failure) => Ok(retry(tx, failures, words(failure))),
        Step::Needs(_) | Step::Exclusive(_) => {
            let message =
                "its blueprint asked for leases or slots while setting a lease up, which only building may do";
            end(tx, &lease, LeaseState::Broken, "BUILD_FAILED", message, "drydock").await?;
            Ok(Next::Again)
        }
    }
}

/// Back into the queue at the old place, at most three times.
pub(super) async fn reacquire(tx: &mut Tx, lease: &Lease, why: &str) -> Result<()> {
    if lease.reacquires + 1 >= MAX_REACQUIRES {
        let message = format!("{MAX_REACQUIRES} resources were lost under it; the last time {why}");
        return end(tx, lease, LeaseState::Broken, "RESOURCE_BROKEN", &message, "drydock").await;
    }
    let mut after = lease.clone();
    after.state = LeaseState::Pending;
    after.reacquires += 1;
    after.resource_id = None;
    after.blueprint_id = None;
    after.acquire_time = None;
    after.waiting = None;
    give_back_slots(tx, &Subject::from(lease.id.clone())).await?;
    tx.put_lease(lease, &after).await?;
    tx.wake_task(&Subject::from(lease.id.clone())).await?;
    tx.event(Told::by_drydock("lease.requeued", why).of_lease(&after, &[])).await
}

async fn finish_clean_up(tx: &mut Tx, id: &LeaseId, step: &Step, failures: i64, stay: Stay) -> Result<Next> {
    let lease = tx.get_lease(id).await?;
    if !matches!(lease.state, LeaseState::Released | LeaseState::Broken) {
        return Ok(Next::Again);
    }
    match step {
        Step::Ready(_) => {}
        Step::Later { after, .. } => {
            return Ok(Next::Park { waits: Vec::new(), until: Some(tx.now() + micros(*after)) });
        }
        Step::Failed(failure) if lease.abandoned || let_go(tx, &lease).await? => {
            let told = Told::by_drydock("lease.abandoned", words(failure)).because("RESOURCE_RELEASED");
            tx.event(told.of_lease(&lease, &[])).await?;
        }
        Step::Failed(failure) => {
            note_failed_cleanup(tx, lease.resource_id.as_ref(), &failure.message).await?;
            let told = Told::by_drydock("lease.cleanup_failed", words(failure));
            tx.event(told.of_lease(&lease, &[])).await?;
            return Ok(Next::Retry { waits: Vec::new(), until: later(tx, failures), error: words(failure) });
        }
        Step::Needs(_) | Step::Exclusive(_) => {
            return Err(Error::new(Reason::Internal, "a blueprint asked for leases or slots while cleaning up"));
        }
    }
    let resource = match lease.resource_id.as_ref().or(lease.allocating.as_ref()) {
        Some(id) => tx.find_resource(id).await?,
        None => None,
    };
    let stays = stay.stays() && !resource.as_ref().is_some_and(Resource::is_retiring);
    if let Some(wait) = last_of_its_resource(tx, &lease, resource.as_ref(), stays).await? {
        if !lease.cleaned {
            let after = Lease { cleaned: true, ..lease.clone() };
            tx.put_lease(&lease, &after).await?;
        }
        return Ok(Next::Park { waits: vec![wait], until: None });
    }
    let mut after = lease.clone();
    after.state = LeaseState::Destroyed;
    after.destroy_time = Some(tx.now());
    let held = give_back_slots(tx, &Subject::from(lease.id.clone())).await?;
    tx.put_lease(&lease, &after).await?;
    if let Some(resource) = resource.filter(|_| lease.resource_id.is_some()) {
        forget_failed_cleanup(tx, &resource).await?;
        // One that stays for ever and is well has nothing to do when a lease goes.
        if !stays || resource.state != ResourceState::Active {
            tx.nudge(resource.id).await?;
        } else {
            after_lease(tx, &resource, stay).await?;
        }
    }
    if held || lease.resource_id.is_some() {
        tx.wake_pool(&pool_of(&lease.spec.resource_type), None).await?;
    }
    tx.event(Told::by_drydock("lease.destroyed", "nothing of it is left").of_lease(&after, &[])).await?;
    Ok(Next::Done)
}

/// Whether it stands on something that was let go: what is left there is left.
async fn let_go(tx: &mut Tx, lease: &Lease) -> Result<bool> {
    match &lease.resource_id {
        Some(resource) => super::boxes::is_let_go(tx, resource).await,
        None => Ok(false),
    }
}

/// DESTROYED means that nothing is left: a lease that is the last on a resource which does not stay, or whose resource
/// has ended, waits until that is gone too.
async fn last_of_its_resource(
    tx: &mut Tx,
    lease: &Lease,
    resource: Option<&Resource>,
    stays: bool,
) -> Result<Option<Wait>> {
    let Some(resource) = resource else { return Ok(None) };
    let id = &resource.id;
    match resource.state {
        ResourceState::Destroyed => Ok(None),
        ResourceState::Active if stays => Ok(None),
        ResourceState::Active if lease.resource_id.is_some() => {
            if tx.leases_on(id).await?.iter().any(|other| other.id != lease.id && !other.cleaned) {
                return Ok(None);
            }
            let message = "nobody leases it any more";
            super::resource::end(tx, resource, ResourceState::Released, "IDLE", message, false).await?;
            Ok(Some(Wait::Resource(id.clone(), ResourceState::Released)))
        }
        state => {
            // It may wait for this very clean-up.
            tx.nudge(id.clone()).await?;
            Ok(Some(Wait::Resource(id.clone(), state)))
        }
    }
}

pub(super) async fn note_failed_cleanup(tx: &mut Tx, resource: Option<&ResourceId>, message: &str) -> Result<()> {
    let Some(id) = resource else { return Ok(()) };
    let Some(before) = tx.find_resource(id).await? else { return Ok(()) };
    let mut after = before.clone();
    after.cleanup_failures += 1;
    // A sick one stays sick: what is the matter with it says more.
    if before.condition().is_none() {
        after.problem = format!("clean-up failed {} times, it keeps its slots: {message}", after.cleanup_failures);
    }
    tx.put_resource(&before, &after).await
}

async fn forget_failed_cleanup(tx: &mut Tx, before: &Resource) -> Result<()> {
    if before.cleanup_failures == 0 || before.state != ResourceState::Active {
        return Ok(());
    }
    let problem = if before.condition().is_some() { before.problem.clone() } else { String::new() };
    let after = Resource { cleanup_failures: 0, problem, ..before.clone() };
    tx.put_resource(before, &after).await
}

/// It was not ACTIVE in time.
pub(super) async fn time_out(tx: &mut Tx, lease: &Lease) -> Result<()> {
    let waiting =
        lease.waiting.as_ref().map_or_else(String::new, |waiting| format!("; last it waited: {}", waiting.message));
    let message = format!("it was not ACTIVE within its queue_timeout{waiting}");
    end(tx, lease, LeaseState::Released, "QUEUE_TIMEOUT", &message, "drydock").await
}

/// Ends a live lease; what was built for it alone is told.
pub(super) async fn end(
    tx: &mut Tx,
    before: &Lease,
    state: LeaseState,
    reason: &str,
    message: &str,
    actor: &str,
) -> Result<()> {
    let mut after = before.clone();
    after.state = state;
    after.state_reason = reason.to_owned();
    after.state_message = message.to_owned();
    after.end_time = Some(tx.now());
    after.waiting = None;
    tx.put_lease(before, &after).await?;
    if let Some(building) = &before.allocating {
        tx.nudge(building.clone()).await?;
    }
    if before.state == LeaseState::Pending {
        // Room may have been left for it, on paper: whoever is next looks again.
        tx.wake_pool(&pool_of(&before.spec.resource_type), None).await?;
    }
    let kind = if state == LeaseState::Broken { "lease.broken" } else { "lease.released" };
    tx.event(Told::by_drydock(kind, message).because(reason).by(actor).of_lease(&after, &[])).await?;
    if before.active_time.is_none() && before.parent.is_none() {
        end_gang(tx, &after).await?;
    }
    Ok(())
}

/// What was asked for together is had together: when one has ended before it could be used, so do the others.
async fn end_gang(tx: &mut Tx, ended: &Lease) -> Result<()> {
    let Some(gang) = &ended.gang else { return Ok(()) };
    for other in tx.gang(gang).await?.into_iter().filter(|other| other.state.is_live()) {
        let message = format!("{}, asked for together with it, has ended before it was ACTIVE", ended.id);
        Box::pin(end(tx, &other, LeaseState::Released, "CANCELLED", &message, "drydock")).await?;
    }
    Ok(())
}

pub(super) fn words(failure: &Failure) -> String {
    if failure.tail.is_empty() {
        failure.message.clone()
    } else {
        format!("{}\n{}", failure.message, failure.tail.trim_end())
    }
}
