//! ACTIVE resources between leases: how long they stay, how old they get, and whether they are still well.

use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::narrate::Told;
use super::reclaim::tell_below;
use super::resource::{end, need_name};
use super::steps::KindRules;
use super::warm::{keeps, since};
use crate::allocator::{self, Rules as _};
use crate::blueprint::{Blueprint as Code, Health};
use crate::clock::{Micros, micros};
use crate::error::Result;
use crate::model::id::{ResourceId, Subject};
use crate::model::{Blueprint, Kind, LeaseState, Resource, ResourceState};
use crate::store::{Baton, Claim, Committed, Next, Scope, Tx, Wait};

/// One that was found sick while unused is looked at again after this; sick again, it goes.
const AGAIN: Duration = Duration::from_secs(10);

/// What the end of a lease means for its resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stay {
    /// How long it is kept without a lease, microseconds; `None` is for ever.
    ttl: Option<Micros>,
    /// Its blueprint keeps some ready.
    pooled: bool,
    /// When it became unused matters.
    noted: bool,
}

impl Stay {
    /// Nothing is known of it: it is none of the lease's business.
    pub(super) const FOR_EVER: Self = Self { ttl: None, pooled: false, noted: false };

    pub(super) fn of(blueprint: &Blueprint, kind: &Kind) -> Self {
        let ttl = allocator::idle_ttl_of(blueprint, kind);
        let pooled = blueprint.limits.upkeep.is_pooled();
        // One that serves everybody for ever makes room for nobody.
        let noted = !kind.is_registered() && (ttl.is_some() || pooled || !blueprint.limits.shared);
        Self { ttl, pooled, noted }
    }

    /// It outlives its last lease.
    pub(super) fn stays(self) -> bool {
        self.ttl != Some(0)
    }
}

/// A lease has gone from a resource that stays and is well.
pub(super) async fn after_lease(tx: &mut Tx, resource: &Resource, stay: Stay) -> Result<()> {
    if !stay.noted {
        return Ok(());
    }
    tx.note_idle(&resource.id).await?;
    if stay.ttl.is_some() || resource.is_retiring() {
        tx.nudge(resource.id.clone()).await?;
    }
    if stay.pooled {
        tx.wake_task(&Subject::from(resource.blueprint_id.clone())).await?;
    }
    tell_below(tx, &resource.id).await
}

impl Engine {
    /// ACTIVE: goes when nobody has it and its time is up, breaks when what it stands on breaks.
    pub(super) async fn watch_over(&self, claim: &Claim, resource: Resource, next: Option<Scope>) -> Result<Committed> {
        let (record, code) = self.blueprint_of(&resource).await?;
        let health = self.health_while_idle(&resource, record, code.as_ref()).await?;
        let every = if resource.is_registered() { None } else { code.check_interval() };
        let watch = Arc::new(Watch { rules: self.rules(), every: every.map(micros), health });
        self.store
            .commit_step(claim, next, move |tx| {
                let (id, watch) = (resource.id.clone(), Arc::clone(&watch));
                Box::pin(async move { Ok((watch.step(tx, &id).await?, Baton::Pass)) })
            })
            .await
    }

    /// What a look at an unused resource found, when one is due.
    async fn health_while_idle(
        &self,
        resource: &Resource,
        record: Blueprint,
        code: &dyn Code,
    ) -> Result<Option<Health>> {
        let Some(every) = code.check_interval().filter(|_| !resource.is_registered()) else { return Ok(None) };
        if check_due(resource, micros(every)) > self.now() || self.store.lease_count(&resource.id).await? > 0 {
            return Ok(None);
        }
        let ctx = self.context(resource, record, None, None, self.stop.child_token()).await?;
        Ok(Some(code.check(&ctx).await))
    }
}

/// When an unused resource is to be looked at.
fn check_due(resource: &Resource, every: Micros) -> Micros {
    let every = if resource.problem.is_empty() { every } else { every.min(micros(AGAIN)) };
    resource.check_time.or(resource.active_time).unwrap_or(resource.create_time).saturating_add(every)
}

struct Watch {
    rules: KindRules,
    /// How often it is looked at while it is unused.
    every: Option<Micros>,
    health: Option<Health>,
}

impl Watch {
    async fn step(&self, tx: &mut Tx, id: &ResourceId) -> Result<Next> {
        let resource = tx.get_resource(id).await?;
        if resource.state != ResourceState::Active {
            return Ok(Next::Again);
        }
        let needs = tx.needs_of(id).await?;
        if let Some(lost) = needs.iter().find(|need| need.state.has_ended()) {
            let message = format!("its {} was lost: {}", need_name(lost), lost.state_message);
            end(tx, &resource, ResourceState::Broken, "RESOURCE_BROKEN", &message, false).await?;
            return Ok(Next::Again);
        }
        let mut waits: Vec<Wait> = needs.iter().map(|need| Wait::Lease(need.id.clone(), need.state)).collect();
        if let Some(host) = &resource.placed_on {
            if let Some(LeaseState::Active) = tx.find_lease(host).await?.map(|lease| lease.state) {
                waits.push(Wait::Lease(host.clone(), LeaseState::Active));
            } else {
                let message = format!("the host lease {host} that it was placed on has ended");
                end(tx, &resource, ResourceState::Released, "RESOURCE_RELEASED", &message, false).await?;
                return Ok(Next::Again);
            }
        }
        // What is registered is there whether or not somebody leases it.
        if resource.is_registered() {
            return Ok(Next::Park { waits, until: None });
        }
        let Some(blueprint) = tx.find_blueprint(resource.blueprint_id.as_str()).await? else {
            return Ok(Next::Park { waits, until: None });
        };
        let unused = tx.leases_on(id).await?.is_empty();
        if unused && let Some(made_for) = self.awaited(tx, &resource).await? {
            waits.push(made_for);
            return Ok(Next::Park { waits, until: self.grows_old(tx, &resource, &blueprint).await? });
        }
        let old = self.grows_old(tx, &resource, &blueprint).await?;
        if !unused {
            return Ok(Next::Park { waits, until: old });
        }
        // It may have retired just now.
        let resource = tx.get_resource(id).await?;
        match self.unused(tx, resource, &blueprint).await? {
            Unused::Gone => Ok(Next::Again),
            Unused::Until(until) => Ok(Next::Park { waits, until: [old, until].into_iter().flatten().min() }),
        }
    }

    /// The lease it was made for, as long as that may still come.
    async fn awaited(&self, tx: &mut Tx, resource: &Resource) -> Result<Option<Wait>> {
        let Some(made_for) = resource.made_for.as_ref().filter(|_| resource.idle_since.is_none()) else {
            return Ok(None);
        };
        match tx.find_lease(made_for).await? {
            Some(lease) if lease.state == LeaseState::Pending => Ok(Some(Wait::Lease(lease.id, lease.state))),
            _ => {
                tx.note_idle(&resource.id).await?;
                Ok(None)
            }
        }
    }

    /// Retires what is older than its blueprint allows; when it will be, while it is not yet.
    async fn grows_old(&self, tx: &mut Tx, resource: &Resource, blueprint: &Blueprint) -> Result<Option<Micros>> {
        let Some(most) = blueprint.limits.upkeep.max_age else { return Ok(None) };
        let old = resource.active_time.unwrap_or(resource.create_time).saturating_add(most);
        if old > tx.now() {
            return Ok(Some(old));
        }
        let comment = format!("it is older than {} s, which is max_age", most / 1_000_000);
        if tx.retire(&resource.id, &comment).await? {
            tx.event(Told::by_drydock("resource.drained", comment).of_resource(resource, &[])).await?;
        }
        Ok(None)
    }

    async fn unused(&self, tx: &mut Tx, resource: Resource, blueprint: &Blueprint) -> Result<Unused> {
        let now = tx.now();
        let idle = |message: String| (ResourceState::Released, "IDLE", message);
        let gone = if resource.is_retiring() {
            Some(idle(resource.drain.as_ref().map_or_else(String::new, |drain| drain.comment.clone())))
        } else {
            self.sick(tx, &resource).await?.map(|why| (ResourceState::Broken, "RESOURCE_BROKEN", why))
        };
        if let Some((state, reason, message)) = gone {
            end(tx, &resource, state, reason, &message, false).await?;
            return Ok(Unused::Gone);
        }
        let check = match self.every {
            Some(every) => Some(check_due(&tx.get_resource(&resource.id).await?, every)),
            None => None,
        };
        let ttl = self.rules.kind(&blueprint.kind).and_then(|kind| allocator::idle_ttl_of(blueprint, kind));
        let Some(ttl) = ttl else { return Ok(Unused::Until(check)) };
        let due = since(&resource).saturating_add(ttl);
        if due > now {
            return Ok(Unused::Until([Some(due), check].into_iter().flatten().min()));
        }
        if keeps(tx, &resource, blueprint, &self.rules).await? {
            // The pool says so when it wants it no more.
            return Ok(Unused::Until(check));
        }
        let resource = tx.get_resource(&resource.id).await?;
        end(tx, &resource, ResourceState::Released, "IDLE", "nobody leases it any more", false).await?;
        Ok(Unused::Gone)
    }

    /// Writes down what the look found; why it goes, when it is beyond repair or was found sick twice.
    async fn sick(&self, tx: &mut Tx, before: &Resource) -> Result<Option<String>> {
        let Some(health) = &self.health else { return Ok(None) };
        tx.note_check(&before.id, tx.now()).await?;
        let problem = health.findings.join("; ");
        if health.dead || (!problem.is_empty() && !before.problem.is_empty()) {
            return Ok(Some(format!("found sick while nobody used it: {problem}")));
        }
        if before.problem == problem {
            return Ok(None);
        }
        let after = Resource { problem: problem.clone(), check_time: Some(tx.now()), ..before.clone() };
        tx.put_resource(before, &after).await?;
        let kind = if problem.is_empty() { "resource.healthy" } else { "resource.unhealthy" };
        let words = if problem.is_empty() { "it can be used again".to_owned() } else { problem };
        tx.event(Told::by_drydock(kind, words).of_resource(&after, &[])).await?;
        tx.wake_pool(&crate::store::pool_of(&after.resource_type), None).await?;
        tx.wake_task(&Subject::from(after.blueprint_id.clone())).await?;
        Ok(None)
    }
}

enum Unused {
    Gone,
    Until(Option<Micros>),
}
