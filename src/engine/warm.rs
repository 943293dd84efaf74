//! A blueprint's own task: it keeps resources ready ahead of demand, lets go of what is too many, and ends pauses.
//!
//! It looks at what there is and what there ought to be, and is woken in the same transaction as whatever changes either.
//! It stands in the last place of the queue, and so does what it builds: leases go first, and may take a build over.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::Engine;
use super::narrate::Told;
use super::steps::KindRules;
use crate::allocator::{self, Rules as _, Survey, gates};
use crate::clock::Micros;
use crate::error::Result;
use crate::model::id::{BlueprintId, ResourceId, Subject};
use crate::model::pool::{Candidate, PoolView};
use crate::model::slot::{Slot, free_place};
use crate::model::task::LAST;
use crate::model::upkeep::{GROWTH_SPAN, SHRINK_DELAY, Warmth};
use crate::model::{Blueprint, Lease, Resource, ResourceState};
use crate::store::{Baton, Claim, Committed, Next, Scope, Tx, pool_of};

/// Builds that one step begins, so that its transaction stays short.
const AT_ONCE: i64 = 16;

impl Engine {
    pub(super) async fn step_blueprint(
        &self,
        claim: &Claim,
        id: &BlueprintId,
        next: Option<Scope>,
    ) -> Result<Committed> {
        let pool = Arc::new(Pool { rules: self.rules(), worker: claim.worker.clone() });
        let id = id.clone();
        self.store
            .commit_step(claim, next, move |tx| {
                let (pool, id) = (Arc::clone(&pool), id.clone());
                Box::pin(async move { Ok((pool.step(tx, &id).await?, Baton::Pass)) })
            })
            .await
    }
}

struct Pool {
    rules: KindRules,
    worker: String,
}

/// The limit of builds at once, if there is one.
struct Builds {
    gate: Option<gates::Gate>,
    taken: Vec<i64>,
}

impl Builds {
    async fn of(tx: &mut Tx, blueprint: &Blueprint) -> Result<Self> {
        let gate = gates::builds(blueprint);
        let mut taken = Vec::new();
        if let Some(gate) = &gate {
            let held = tx.held_slots(std::slice::from_ref(&gate.scope)).await?;
            taken = held.into_values().flatten().map(|(place, _)| place).collect();
        }
        Ok(Self { gate, taken })
    }

    /// The slots for one more; `None` when so many are being built already.
    fn take(&mut self) -> Option<Vec<Slot>> {
        let Some(gate) = &self.gate else { return Some(Vec::new()) };
        let place = free_place(gate.limit, &self.taken).filter(|_| len(&self.taken) < gate.limit)?;
        self.taken.push(place);
        Some(vec![Slot { scope: gate.scope.clone(), place }])
    }
}

impl Pool {
    async fn step(&self, tx: &mut Tx, id: &BlueprintId) -> Result<Next> {
        let Some(blueprint) = tx.find_blueprint(id.as_str()).await? else { return Ok(Next::Done) };
        let now = tx.now();
        let breaker = &blueprint.breaker;
        if breaker.is_open() && !breaker.pauses(now) {
            // The first in the queue may try.
            tx.wake_pool(&pool_of(&blueprint.resource_type), None).await?;
        }
        let mut times: Vec<Option<Micros>> = vec![breaker.until.filter(|until| *until > now)];
        let upkeep = &blueprint.limits.upkeep;
        let before = tx.warmth(id).await?;
        if !upkeep.is_pooled() && before == Warmth::default() {
            let until = times[0];
            return Ok(if until.is_some() { Next::Park { waits: Vec::new(), until } } else { Next::Done });
        }
        let view = tx.view_of(&blueprint.resource_type, Micros::MAX, "").await?;
        let survey = allocator::survey(&view, &blueprint, &self.rules);
        let delay = upkeep.shrink_delay.unwrap_or(SHRINK_DELAY);
        let mut warmth = before.clone();
        let kept = warmth.note(survey.want, now, delay);
        times.push(warmth.changes(delay));
        let missing = self.allowed(&survey, &blueprint, &view);
        let begin = missing.min(upkeep.max_growth.map_or(AT_ONCE, |most| most - len(&warmth.begun))).clamp(0, AT_ONCE);
        let mut taken = view.built.get(id).cloned().unwrap_or_default();
        let limit = allocator::limit_of(&blueprint, &self.rules).unwrap_or(i64::MAX);
        let mut builds = Builds::of(tx, &blueprint).await?;
        for _ in 0..begin {
            let Some(place) = free_place(limit, &taken) else { break };
            let Some(mut slots) = builds.take() else { break };
            slots.push(Slot::of_blueprint(&blueprint.id, place));
            self.build(tx, &blueprint, &slots).await?;
            taken.push(place);
            if upkeep.max_growth.is_some() {
                warmth.begun.push(now);
            }
        }
        if begin < missing {
            times.push(warmth.begun.first().map(|first| first.saturating_add(GROWTH_SPAN)));
        }
        self.shrink(tx, &blueprint, &view, survey.surplus(kept)).await?;
        if warmth != before {
            tx.put_warmth(id, &warmth).await?;
        }
        Ok(Next::Park { waits: Vec::new(), until: times.into_iter().flatten().min() })
    }

    /// Builds that are missing and may begin: none in a pause; after it one is tried, unless somebody tries already.
    fn allowed(&self, survey: &Survey, blueprint: &Blueprint, view: &PoolView) -> i64 {
        let missing = survey.missing(allocator::limit_of(blueprint, &self.rules));
        if !blueprint.breaker.is_open() {
            return missing;
        }
        let builds = |candidate: &Candidate| {
            candidate.resource.blueprint_id == blueprint.id && candidate.resource.state == ResourceState::Pending
        };
        let tried = blueprint.breaker.pauses(view.now) || view.candidates.iter().any(builds);
        if tried || survey.queued + survey.unfit > 0 { 0 } else { missing.min(1) }
    }

    /// Those that are too many and were unused long enough look at themselves.
    async fn shrink(&self, tx: &mut Tx, blueprint: &Blueprint, view: &PoolView, surplus: i64) -> Result<()> {
        let ttl = self.rules.kind(&blueprint.kind).and_then(|kind| allocator::idle_ttl_of(blueprint, kind));
        let (Some(ttl), Ok(surplus)) = (ttl, usize::try_from(surplus)) else { return Ok(()) };
        let mut over: Vec<&Resource> = view
            .candidates
            .iter()
            .filter(|candidate| candidate.resource.blueprint_id == blueprint.id)
            .filter(|candidate| allocator::is_ready(candidate, blueprint, &self.rules))
            .map(|candidate| &candidate.resource)
            .filter(|resource| since(resource).saturating_add(ttl) <= view.now)
            .collect();
        over.sort_by_key(|resource| since(resource));
        for resource in over.into_iter().take(surplus) {
            tx.nudge(resource.id.clone()).await?;
        }
        Ok(())
    }

    async fn build(&self, tx: &mut Tx, blueprint: &Blueprint, slots: &[Slot]) -> Result<()> {
        let fresh = Resource::fresh(blueprint, tx.now());
        let resource = Resource {
            attributes: blueprint.limits.upkeep.ready_attributes.clone(),
            // Its own until somebody takes it: what it leases meanwhile is shared with nobody.
            owner: fresh.id.to_string(),
            lease_limit: allocator::leases_of(blueprint, &self.rules),
            depth: 1,
            ord: LAST,
            warm: true,
            ..fresh
        };
        tx.take_slots(&Subject::from(resource.id.clone()), 1, slots).await?;
        tx.insert_resource(&resource).await?;
        tx.mark_warm(&resource.id).await?;
        let told = Told::by_drydock("resource.created", format!("{} is built to be ready", resource.resource_type));
        let more = [("worker", self.worker.clone()), ("blueprint", blueprint.name.clone())];
        tx.event(told.of_resource(&resource, &more)).await
    }
}

fn len(times: &[Micros]) -> i64 {
    i64::try_from(times.len()).unwrap_or(i64::MAX)
}

/// Since when a resource is unused.
pub(super) fn since(resource: &Resource) -> Micros {
    resource.idle_since.or(resource.active_time).unwrap_or(resource.create_time)
}

/// Whether the pool still wants a resource that was unused long enough to go.
pub(super) async fn keeps(tx: &mut Tx, resource: &Resource, blueprint: &Blueprint, rules: &KindRules) -> Result<bool> {
    if !blueprint.limits.upkeep.is_pooled() {
        return Ok(false);
    }
    let view = tx.view_of(&resource.resource_type, Micros::MAX, "").await?;
    let candidate = view.candidates.iter().find(|candidate| candidate.resource.id == resource.id);
    if !candidate.is_some_and(|candidate| allocator::is_ready(candidate, blueprint, rules)) {
        return Ok(false);
    }
    let survey = allocator::survey(&view, blueprint, rules);
    let kept = tx.warmth(&blueprint.id).await?.kept().max(survey.want);
    Ok(survey.surplus(kept) == 0)
}

/// The task of a blueprint looks again: its limits have changed, or its builds pause.
pub(super) async fn look_again(tx: &mut Tx, blueprint: &Blueprint) -> Result<()> {
    if blueprint.limits.upkeep.is_pooled() || blueprint.breaker.is_open() {
        return tx.rouse(&blueprint.id).await;
    }
    tx.wake_task(&Subject::from(blueprint.id.clone())).await
}

/// A lease joins the queue: the pools that could serve it count it.
pub(super) async fn count_waiter(tx: &mut Tx, view: &PoolView) -> Result<()> {
    for blueprint in view.blueprints.iter().filter(|blueprint| blueprint.limits.upkeep.is_pooled()) {
        tx.wake_task(&Subject::from(blueprint.id.clone())).await?;
    }
    Ok(())
}

/// A lease gets a place on a resource: it becomes his who was first, its use is counted, and its pool looks again.
pub(super) async fn note_grant(
    tx: &mut Tx,
    resource: &Resource,
    lease: &Lease,
    blueprint: Option<&Blueprint>,
) -> Result<()> {
    if resource.is_nobodys() {
        hand_over(tx, resource, lease).await?;
    }
    let Some(blueprint) = blueprint else { return Ok(()) };
    let upkeep = &blueprint.limits.upkeep;
    if let Some(most) = upkeep.max_uses
        && tx.note_use(&resource.id).await? >= most
        && tx.retire(&resource.id, &format!("it has served {most} leases, which is max_uses")).await?
    {
        let told = Told::by_drydock("resource.drained", "it has served as many leases as it may");
        tx.event(told.of_resource(resource, &[])).await?;
    }
    if upkeep.is_pooled() {
        tx.wake_task(&Subject::from(blueprint.id.clone())).await?;
    }
    Ok(())
}

/// What was built for nobody becomes the lease's, with all that it leased meanwhile, and goes on in the lease's place.
pub(super) async fn hand_over(tx: &mut Tx, resource: &Resource, lease: &Lease) -> Result<()> {
    tx.claim_resource(&resource.id, lease).await?;
    pass_on(tx, &resource.id, &lease.owner, lease.ord).await
}

fn pass_on<'t>(tx: &'t mut Tx, above: &'t ResourceId, owner: &'t str, ord: Micros) -> BoxFuture<'t, Result<()>> {
    Box::pin(async move {
        for need in tx.needs_of(above).await? {
            tx.pass_on(&Subject::from(need.id.clone()), owner, ord).await?;
            let Some(below) = need.resource_id.or(need.allocating) else { continue };
            if tx.find_resource(&below).await?.is_some_and(|below| below.made_for.as_ref() == Some(&need.id)) {
                tx.pass_on(&Subject::from(below.clone()), owner, ord).await?;
                pass_on(tx, &below, owner, ord).await?;
            }
        }
        Ok(())
    })
}
