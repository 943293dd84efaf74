//! The steps of a resource: build, watch over, take down.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Engine;
use super::breaker::{self, Gate};
use super::lease::{note_failed_cleanup, reacquire, words};
use super::narrate::Told;
use super::slots::give_back_slots;
use super::steps::{later, retry};
use crate::allocator::gates;
use crate::blueprint::{DAEMON_FACT, Need, Step};
use crate::clock::micros;
use crate::error::{Error, Reason, Result};
use crate::model::id::{LeaseId, ResourceId, Subject};
use crate::model::task::MAX_FAILURES;
use crate::model::{Lease, LeaseState, Resource, ResourceState, StringMap};
use crate::store::{Baton, Claim, Committed, Next, Scope, Tx, Wait, pool_of};

impl Engine {
    pub(super) async fn step_resource(
        &self,
        claim: &Claim,
        id: &ResourceId,
        next: Option<Scope>,
        lost: CancellationToken,
    ) -> Result<Committed> {
        let Some(resource) = self.store.find_resource(id).await? else {
            return self.store.commit_step(claim, next, |_| Box::pin(async { Ok((Next::Done, Baton::Pass)) })).await;
        };
        match resource.state {
            ResourceState::Pending => self.build(claim, resource, next, lost).await,
            ResourceState::Active => self.watch_over(claim, resource, next).await,
            ResourceState::Released | ResourceState::Broken => self.take_down(claim, resource, next, lost).await,
            ResourceState::Destroyed => {
                self.store.commit_step(claim, next, |_| Box::pin(async { Ok((Next::Done, Baton::Pass)) })).await
            }
        }
    }

    /// PENDING: the blueprint does the next thing, unless nobody wants it any more or what it needs is lost.
    async fn build(
        &self,
        claim: &Claim,
        resource: Resource,
        next: Option<Scope>,
        lost: CancellationToken,
    ) -> Result<Committed> {
        let ready = self.ready_to_build(&resource).await?;
        let mut met = Vec::new();
        let step = match ready {
            Readiness::Go => {
                let (record, kind) = self.blueprint_of(&resource).await?;
                if let Gate::Shut(until) = self.gate(&resource, &record).await? {
                    return self.stand_still(claim, resource.id, until, next).await;
                }
                let running = self.running.begin(claim, &lost);
                let ctx = self.context(&resource, record, None, Some(claim), running.cancel.clone()).await?;
                met = ctx.needs.keys().cloned().collect();
                let mut step = kind.build(&ctx).await;
                if let (Step::Ready(facts), Some(home), true) = (&mut step, self.store.home(), kind.is_of_its_daemon())
                {
                    facts.insert(DAEMON_FACT.to_owned(), home.to_owned());
                }
                if running.cancel.is_cancelled() && self.is_draining() {
                    return self.leave_to_others(claim).await;
                }
                step
            }
            // Decided again in the transaction.
            Readiness::NotNow => Step::Needs(Vec::new()),
        };
        let (step, met, worker, failures) = (Arc::new(step), Arc::new(met), claim.worker.clone(), claim.failures);
        self.store
            .commit_step(claim, next, move |tx| {
                let (id, step, met, worker) =
                    (resource.id.clone(), Arc::clone(&step), Arc::clone(&met), worker.clone());
                Box::pin(async move {
                    let next = finish_build(tx, &id, &step, &met, &worker, failures).await?;
                    Ok((next, Baton::Pass))
                })
            })
            .await
    }

    /// The daemon goes, not the wish: another one, or the next start, goes on.
    pub(super) async fn leave_to_others(&self, claim: &Claim) -> Result<Committed> {
        self.store.commit_step(claim, None, |_| Box::pin(async { Ok((Next::Again, Baton::Pass)) })).await
    }

    /// The blueprint pauses: the build waits, unless nobody wants it any more.
    async fn stand_still(&self, claim: &Claim, id: ResourceId, until: Next, next: Option<Scope>) -> Result<Committed> {
        self.store
            .commit_step(claim, next, move |tx| {
                let (id, until) = (id.clone(), until.clone());
                Box::pin(async move {
                    let pending = tx.get_resource(&id).await?.state == ResourceState::Pending;
                    Ok((if pending { until } else { Next::Again }, Baton::Pass))
                })
            })
            .await
    }

    async fn ready_to_build(&self, resource: &Resource) -> Result<Readiness> {
        for id in [&resource.made_for, &resource.root_id].into_iter().flatten() {
            if !self.store.find_lease(id).await?.is_some_and(|lease| lease.state.is_live()) {
                return Ok(Readiness::NotNow);
            }
        }
        if let Some(host) = &resource.placed_on
            && self.store.find_lease(host).await?.is_none_or(|lease| lease.state != LeaseState::Active)
        {
            return Ok(Readiness::NotNow);
        }
        let lost = self.store.needs_of(&resource.id).await?.iter().any(|need| need.state.has_ended());
        Ok(if lost { Readiness::NotNow } else { Readiness::Go })
    }

    /// RELEASED or BROKEN: its leases end first, then it is destroyed, then what it leased itself.
    async fn take_down(
        &self,
        claim: &Claim,
        resource: Resource,
        next: Option<Scope>,
        lost: CancellationToken,
    ) -> Result<Committed> {
        let mut destroyed = None;
        if !resource.torn_down && self.store.leases_left_on(&resource.id).await? == 0 {
            let (record, kind) = self.blueprint_of(&resource).await?;
            let ctx = self.context(&resource, record, None, Some(claim), lost).await?;
            destroyed = Some(kind.destroy(&ctx).await);
        }
        let (destroyed, failures) = (Arc::new(destroyed), claim.failures);
        self.store
            .commit_step(claim, next, move |tx| {
                let (id, destroyed) = (resource.id.clone(), Arc::clone(&destroyed));
                Box::pin(async move {
                    let next = take_down(tx, &id, destroyed.as_ref().as_ref(), failures).await?;
                    Ok((next, Baton::Pass))
                })
            })
            .await
    }
}

enum Readiness {
    Go,
    NotNow,
}

/// Ends a live resource.
pub(super) async fn end(
    tx: &mut Tx,
    before: &Resource,
    state: ResourceState,
    reason: &str,
    message: &str,
    permanent: bool,
) -> Result<Resource> {
    let mut after = before.clone();
    after.state = state;
    after.state_reason = reason.to_owned();
    after.state_message = message.to_owned();
    after.end_time = Some(tx.now());
    after.permanent = permanent;
    tx.put_resource(before, &after).await?;
    after.version += 1;
    if state == ResourceState::Broken && before.state == ResourceState::Pending && before.is_nobodys() {
        // Nobody's fault but the blueprint's, and nobody else would slow the next one down.
        breaker::failed(tx, before, message).await?;
    }
    let kind = if state == ResourceState::Broken { "resource.broken" } else { "resource.released" };
    tx.event(Told::by_drydock(kind, message).because(reason).of_resource(&after, &[])).await?;
    Ok(after)
}

async fn finish_build(
    tx: &mut Tx,
    id: &ResourceId,
    step: &Step,
    met: &[String],
    worker: &str,
    failures: i64,
) -> Result<Next> {
    let resource = tx.get_resource(id).await?;
    if resource.state != ResourceState::Pending {
        return Ok(Next::Again);
    }
    for lease in [resource.made_for.clone(), resource.root_id.clone()].into_iter().flatten() {
        if !tx.find_lease(&lease).await?.is_some_and(|lease| lease.state.is_live()) {
            end(
                tx,
                &resource,
                ResourceState::Released,
                "UNWANTED",
                &format!("{lease}, which wanted it, has ended"),
                false,
            )
            .await?;
            return Ok(Next::Again);
        }
    }
    if let Some(host) = &resource.placed_on {
        match tx.find_lease(host).await?.map(|lease| lease.state) {
            Some(LeaseState::Active) => {}
            Some(state) if state.is_live() => {
                return Ok(Next::Park { waits: vec![Wait::Lease(host.clone(), state)], until: None });
            }
            _ => {
                let message = format!("the host lease {host} that it was to be placed on has ended");
                end(tx, &resource, ResourceState::Broken, "BUILD_FAILED", &message, true).await?;
                return Ok(Next::Again);
            }
        }
    }
    let needs = tx.needs_of(id).await?;
    if let Some(lost) = needs.iter().find(|need| need.state.has_ended()) {
        let message = format!("its {} could not be had: {}", need_name(lost), lost.state_message);
        end(tx, &resource, ResourceState::Broken, "BUILD_FAILED", &message, true).await?;
        return Ok(Next::Again);
    }
    match step {
        Step::Ready(facts) => become_active(tx, &resource, facts.clone(), worker).await,
        Step::Needs(wanted) => lease_needs(tx, &resource, needs, Wanted { wanted, met }, worker, failures).await,
        Step::Exclusive(slots) => {
            let holder = Subject::from(id.clone());
            if let Some(scope) = slots.first().map(|slot| slot.scope.clone()) {
                tx.free_slots(&holder, Some(&scope)).await?;
            }
            for slot in slots {
                if tx.try_slot(&holder, 1, slot).await? {
                    return Ok(Next::Again);
                }
            }
            Ok(retry(tx, failures, format!("none of {} slots is free", slots.len())))
        }
        Step::Later { after, why } => {
            let told = Told::by_drydock("resource.building", why.clone());
            tx.event(told.of_resource(&resource, &[("worker", worker.to_owned())])).await?;
            Ok(Next::Park { waits: parts(&needs), until: Some(tx.now() + micros(*after)) })
        }
        Step::Failed(failure) => {
            if resource.is_registered() {
                return super::boxes::stumbled(tx, &resource, failure, failures).await;
            }
            let told = Told::by_drydock("resource.failed", words(failure));
            tx.event(told.of_resource(&resource, &[("worker", worker.to_owned())])).await?;
            // What can never work is the wish's fault, not the blueprint's.
            let until = if failure.permanent { None } else { breaker::failed(tx, &resource, &words(failure)).await? };
            if failure.permanent || failures + 1 >= MAX_FAILURES {
                end(tx, &resource, ResourceState::Broken, "BUILD_FAILED", &words(failure), failure.permanent).await?;
                return Ok(Next::Again);
            }
            let again = later(tx, failures).max(until.unwrap_or(0));
            Ok(Next::Retry { waits: Vec::new(), until: again, error: words(failure) })
        }
    }
}

pub(super) fn need_name(need: &Lease) -> String {
    match &need.parent {
        Some((_, name)) if *name != need.spec.resource_type => format!("{} {name:?}", need.spec.resource_type),
        _ => need.spec.resource_type.clone(),
    }
}

async fn become_active(tx: &mut Tx, resource: &Resource, facts: StringMap, worker: &str) -> Result<Next> {
    let mut after = resource.clone();
    after.state = ResourceState::Active;
    after.facts = facts;
    after.active_time = Some(tx.now());
    after.check_time = after.active_time;
    after.problem.clear();
    tx.put_resource(resource, &after).await?;
    let told = Told::by_drydock("resource.activated", format!("{} is built", resource.resource_type));
    tx.event(told.of_resource(&after, &[("worker", worker.to_owned())])).await?;
    breaker::worked(tx, resource).await?;
    if after.is_nobodys() {
        tx.note_idle(&after.id).await?;
    }
    let builds = gates::builds_of(resource.blueprint_id.as_str());
    let freed = tx.free_slots(&Subject::from(resource.id.clone()), Some(&builds)).await?;
    if after.lease_limit > 1 || after.made_for.is_none() || !freed.is_empty() {
        tx.wake_pool(&pool_of(&after.resource_type), None).await?;
    }
    Ok(Next::Again)
}

/// What a blueprint asks for, and the needs that it saw met when it asked.
struct Wanted<'n> {
    wanted: &'n [Need],
    met: &'n [String],
}

/// Makes the leases of this round, all together so that siblings are built in parallel, and waits for those not ready.
async fn lease_needs(
    tx: &mut Tx,
    resource: &Resource,
    mut needs: Vec<Lease>,
    Wanted { wanted, met }: Wanted<'_>,
    worker: &str,
    failures: i64,
) -> Result<Next> {
    let root = match &resource.root_id {
        Some(root) => tx.find_lease(root).await?,
        None => None,
    };
    let mut made = 0;
    let mut gangs: BTreeMap<&str, LeaseId> = BTreeMap::new();
    for need in wanted {
        let known = |lease: &Lease| lease.parent.as_ref().is_some_and(|(_, name)| *name == need.name);
        if needs.iter().any(known) {
            continue;
        }
        let mut lease = sub_lease(tx, resource, need, root.as_ref());
        let same_type = |other: &&Need| other.spec.resource_type == need.spec.resource_type;
        if wanted.iter().filter(same_type).count() > 1 {
            lease.gang = Some(gangs.entry(&need.spec.resource_type).or_insert_with(|| lease.id.clone()).clone());
        }
        tx.insert_lease(&lease).await?;
        let told = Told::by_drydock("lease.created", format!("{} needs a {}", resource.name, need.spec.resource_type));
        tx.event(told.of_lease(&lease, &[("worker", worker.to_owned())])).await?;
        needs.push(lease);
        made += 1;
    }
    let waits = parts(&needs);
    if waits.is_empty() && wanted.is_empty() {
        return Ok(Next::Again);
    }
    if waits.is_empty() && made == 0 {
        if wanted.iter().any(|need| !met.contains(&need.name)) {
            // They became ACTIVE after the blueprint had looked.
            return Ok(Next::Again);
        }
        let error = format!("the blueprint of {} asks for leases that it has", resource.id);
        if failures + 1 >= MAX_FAILURES {
            end(tx, resource, ResourceState::Broken, "BUILD_FAILED", &error, true).await?;
            return Ok(Next::Again);
        }
        return Ok(retry(tx, failures, error));
    }
    Ok(Next::Park { waits, until: None })
}

/// A wait for each needed lease that is not ACTIVE yet.
fn parts(needs: &[Lease]) -> Vec<Wait> {
    let waiting = needs.iter().filter(|need| need.state != LeaseState::Active);
    waiting.map(|need| Wait::Lease(need.id.clone(), need.state)).collect()
}

fn sub_lease(tx: &Tx, resource: &Resource, need: &Need, root: Option<&Lease>) -> Lease {
    let id = LeaseId::new(tx.now());
    let lease = Lease::pending(id, need.spec.clone(), resource.owner.clone(), tx.now());
    Lease {
        parent: Some((resource.id.clone(), need.name.clone())),
        root_id: resource.root_id.clone().unwrap_or_else(|| lease.id.clone()),
        depth: resource.depth + 1,
        priority: root.map_or(0, |root| root.priority),
        ord: resource.ord,
        ..lease
    }
}

async fn take_down(tx: &mut Tx, id: &ResourceId, destroyed: Option<&Step>, failures: i64) -> Result<Next> {
    let resource = tx.get_resource(id).await?;
    if resource.state.is_live() || resource.state == ResourceState::Destroyed {
        return Ok(Next::Again);
    }
    let mut left = tx.leases_on(id).await?;
    left.retain(|lease| !lease.cleaned);
    if !left.is_empty() {
        return end_leases(tx, &resource, left).await;
    }
    let mut current = resource.clone();
    if !resource.torn_down {
        match destroyed {
            // The last lease went between the look and this transaction.
            None => return Ok(Next::Again),
            Some(Step::Ready(_)) => current.torn_down = true,
            Some(Step::Later { after, .. }) => {
                return Ok(Next::Park { waits: Vec::new(), until: Some(tx.now() + micros(*after)) });
            }
            Some(Step::Failed(failure)) if super::boxes::is_let_go(tx, id).await? => {
                let told = Told::by_drydock("resource.abandoned", words(failure)).because("RESOURCE_RELEASED");
                tx.event(told.of_resource(&resource, &[])).await?;
                current.torn_down = true;
            }
            Some(Step::Failed(failure)) => {
                note_failed_cleanup(tx, Some(id), &failure.message).await?;
                tx.event(Told::by_drydock("resource.cleanup_failed", words(failure)).of_resource(&resource, &[]))
                    .await?;
                return Ok(Next::Retry { waits: Vec::new(), until: later(tx, failures), error: words(failure) });
            }
            Some(Step::Needs(_) | Step::Exclusive(_)) => {
                return Err(Error::new(Reason::Internal, "a blueprint asked for leases or slots while taking down"));
            }
        }
    }
    let mut waits = Vec::new();
    for need in tx.needs_of(id).await? {
        if need.state.is_live() {
            let message = format!("{id}, which needed it, has ended");
            super::lease::end(tx, &need, LeaseState::Released, "PARENT_ENDED", &message, "drydock").await?;
            waits.push(Wait::Lease(need.id, LeaseState::Released));
        } else if need.state != LeaseState::Destroyed {
            waits.push(Wait::Lease(need.id, need.state));
        }
    }
    if !waits.is_empty() {
        if current != resource {
            tx.put_resource(&resource, &current).await?;
        }
        return Ok(Next::Park { waits, until: None });
    }
    current.state = ResourceState::Destroyed;
    current.problem.clear();
    current.end_time = Some(tx.now());
    give_back_slots(tx, &Subject::from(id.clone())).await?;
    tx.forget_effects(id).await?;
    tx.put_resource(&resource, &current).await?;
    tx.wake_pool(&pool_of(&resource.resource_type), None).await?;
    tx.event(Told::by_drydock("resource.destroyed", "nothing of it is left").of_resource(&current, &[])).await?;
    Ok(Next::Done)
}

/// The leases of a resource that ends: those being set up go back to the queue when it broke, the others end with it.
async fn end_leases(tx: &mut Tx, resource: &Resource, leases: Vec<Lease>) -> Result<Next> {
    let mut waits = Vec::new();
    for lease in leases {
        let broken = resource.state == ResourceState::Broken;
        let state = match lease.state {
            LeaseState::Acquired => {
                reacquire(tx, &lease, &format!("its resource {} has ended", resource.id)).await?;
                continue;
            }
            LeaseState::Active if broken => LeaseState::Broken,
            LeaseState::Active => LeaseState::Released,
            other => {
                waits.push(Wait::Lease(lease.id, other));
                continue;
            }
        };
        let reason = if broken { "RESOURCE_BROKEN" } else { "RESOURCE_RELEASED" };
        let message = format!("its resource {} has ended: {}", resource.id, resource.state_message);
        super::lease::end(tx, &lease, state, reason, &message, "drydock").await?;
        waits.push(Wait::Lease(lease.id, state));
    }
    Ok(if waits.is_empty() { Next::Again } else { Next::Park { waits, until: None } })
}
