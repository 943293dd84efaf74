//! Allocation: one decision about a PENDING lease, taken and written in one transaction, on what is true in it.

use super::lease::{activate, end, time_out};
use super::narrate::Told;
use super::steps::KindRules;
use super::warm;
use crate::allocator::{self, Plan};
use crate::blueprint::HOST_ATTRIBUTE;
use crate::error::Result;
use crate::model::id::{LeaseId, ResourceId, Subject};
use crate::model::slot::Slot;
use crate::model::task::MAX_REACQUIRES;
use crate::model::{Blueprint, Lease, LeaseState, Resource, ResourceState, StringMap, Waiting};
use crate::store::{Baton, Next, Tx, Wait, pool_of};

/// What an allocation needs beside the transaction.
pub(super) struct Allocation {
    pub(super) rules: KindRules,
    pub(super) worker: String,
}

impl Allocation {
    pub(super) async fn step(&self, tx: &mut Tx, id: &LeaseId) -> Result<(Next, Baton)> {
        let lease = tx.get_lease(id).await?;
        if lease.state != LeaseState::Pending {
            return Ok((Next::Again, Baton::Pass));
        }
        if let Some((parent, _)) = &lease.parent
            && !tx.find_resource(parent).await?.is_some_and(|parent| parent.state.is_live())
        {
            let message = format!("{parent}, which needed it, has ended");
            end(tx, &lease, LeaseState::Released, "PARENT_ENDED", &message, "drydock").await?;
            return Ok((Next::Again, Baton::Pass));
        }
        if lease.queue_expire_time.is_some_and(|at| at <= tx.now()) {
            time_out(tx, &lease).await?;
            return Ok((Next::Again, Baton::Pass));
        }
        let Some(current) = self.lose_broken(tx, &lease).await? else { return Ok((Next::Again, Baton::Pass)) };
        self.decide(tx, &lease, current).await
    }

    /// The resource that was being built may have failed: counts it, or breaks the lease (`None`).
    async fn lose_broken(&self, tx: &mut Tx, lease: &Lease) -> Result<Option<Lease>> {
        let mut current = lease.clone();
        let Some(own) = &lease.allocating else { return Ok(Some(current)) };
        let own = tx.find_resource(own).await?;
        if own.as_ref().is_some_and(|own| own.state.is_live()) {
            return Ok(Some(current));
        }
        let (permanent, why) = own.map_or((false, "it is gone".to_owned()), |own| (own.permanent, own.state_message));
        current.reacquires += 1;
        current.allocating = None;
        if permanent || current.reacquires >= MAX_REACQUIRES {
            let message = if permanent {
                why
            } else {
                format!("{MAX_REACQUIRES} resources could not be built for it; the last: {why}")
            };
            end(tx, lease, LeaseState::Broken, "BUILD_FAILED", &message, "drydock").await?;
            return Ok(None);
        }
        Ok(Some(current))
    }

    async fn decide(&self, tx: &mut Tx, before: &Lease, mut lease: Lease) -> Result<(Next, Baton)> {
        let view = tx.pool_view(&lease).await?;
        let decision = allocator::plan(&lease, &view, &self.rules);
        let baton = if decision.more { Baton::On(pool_of(&lease.spec.resource_type)) } else { Baton::Keep };
        let until = lease.queue_expire_time;
        match decision.plan {
            Plan::Take { resource, place } => {
                let blueprint = view.blueprints.iter().find(|blueprint| blueprint.id == resource.blueprint_id);
                self.take(tx, before, &mut lease, &resource, place, blueprint).await?;
                if lease.state == LeaseState::Active {
                    return Ok((Next::Park { waits: Vec::new(), until: lease.expire_time }, baton));
                }
                Ok((Next::Again, baton))
            }
            Plan::Build { blueprint, place } => {
                let resource = self.build(tx, &lease, &blueprint, place).await?;
                lease.allocating = Some(resource.id.clone());
                lease.build_time = Some(tx.now());
                lease.waiting =
                    decision.waiting.map(|waiting| Waiting { blocked_by: vec![resource.id.to_string()], ..waiting });
                tx.put_lease(before, &lease).await?;
                Ok((Next::Park { waits: vec![Wait::Resource(resource.id, ResourceState::Pending)], until }, baton))
            }
            Plan::Adopt(resource) => {
                warm::hand_over(tx, &resource, &lease).await?;
                lease.allocating = Some(resource.id.clone());
                lease.build_time = Some(tx.now());
                self.note_waiting(tx, before, lease, decision.waiting).await?;
                Ok((Next::Park { waits: vec![Wait::Resource(resource.id, ResourceState::Pending)], until }, baton))
            }
            Plan::Await(resource) => {
                self.note_waiting(tx, before, lease, decision.waiting).await?;
                Ok((Next::Park { waits: vec![Wait::Resource(resource, ResourceState::Pending)], until }, Baton::Pass))
            }
            Plan::Park => {
                // What was built for it has gone to another: it queues like everyone.
                lease.allocating = None;
                warm::count_waiter(tx, &view).await?;
                let reclaim = self.reclaim(tx, &lease, &view).await?;
                let mut waits = vec![Wait::Pool(lease.spec.resource_type.clone())];
                waits.extend(reclaim.waits);
                let until = [until, reclaim.until].into_iter().flatten().min();
                let hint = reclaim.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
                let plain = |waiting: Waiting| Waiting { message: format!("{}{hint}", waiting.message), ..waiting };
                self.note_waiting(tx, before, lease, reclaim.waiting.or(decision.waiting.map(plain))).await?;
                Ok((Next::Park { waits, until }, Baton::Pass))
            }
            Plan::Gone => {
                let message = format!("no blueprint that could make this {} is left", lease.spec.resource_type);
                end(tx, before, LeaseState::Broken, "BLUEPRINT_GONE", &message, "drydock").await?;
                Ok((Next::Again, Baton::Pass))
            }
        }
    }

    async fn note_waiting(
        &self,
        tx: &mut Tx,
        before: &Lease,
        mut lease: Lease,
        waiting: Option<Waiting>,
    ) -> Result<()> {
        if before.waiting == waiting && *before == lease {
            return Ok(());
        }
        lease.waiting = match waiting {
            Some(waiting) => Some(only_own(tx, &lease, waiting).await?),
            None => None,
        };
        tx.put_lease(before, &lease).await?;
        let why = lease.waiting.clone().unwrap_or_default();
        if before.waiting.as_ref().is_none_or(|old| old.reason != why.reason) {
            let told = Told::by_drydock("lease.waiting", why.message).because(&why.reason);
            let more = [("worker", self.worker.clone()), ("waits_for", why.blocked_by.join(" "))];
            tx.event(told.of_lease(&lease, &more)).await?;
        }
        Ok(())
    }

    /// The lease gets a place on a resource; with an instant kind it is ACTIVE at once.
    pub(super) async fn take(
        &self,
        tx: &mut Tx,
        before: &Lease,
        lease: &mut Lease,
        resource: &Resource,
        place: i64,
        blueprint: Option<&Blueprint>,
    ) -> Result<()> {
        self.grant(tx, lease, resource, place, blueprint).await?;
        tx.put_lease(before, lease).await?;
        let kind = if lease.state == LeaseState::Active { "lease.activated" } else { "lease.acquired" };
        let message = format!("got place {} of {} on {}", place + 1, resource.lease_limit, resource.id);
        let told = Told::by_drydock(kind, message);
        tx.event(
            told.of_lease(lease, &[("worker", self.worker.clone()), ("blueprint", resource.blueprint_id.to_string())]),
        )
        .await
    }

    /// Takes the slot and fills the lease in, without writing it.
    pub(super) async fn grant(
        &self,
        tx: &mut Tx,
        lease: &mut Lease,
        resource: &Resource,
        place: i64,
        blueprint: Option<&Blueprint>,
    ) -> Result<()> {
        lease.epoch += 1;
        warm::note_grant(tx, resource, lease, blueprint).await?;
        let slot = Slot::on_resource(&resource.id, place);
        tx.take_slots(&Subject::from(lease.id.clone()), lease.epoch, &[slot]).await?;
        lease.state = LeaseState::Acquired;
        lease.resource_id = Some(resource.id.clone());
        lease.blueprint_id = Some(resource.blueprint_id.clone());
        lease.acquire_time = Some(tx.now());
        lease.allocating = None;
        lease.waiting = Some(Waiting {
            reason: "ACTIVATING".to_owned(),
            message: format!("it is being set up on {}", resource.id),
            blocked_by: vec![resource.id.to_string()],
        });
        let kind = blueprint.and_then(|blueprint| self.rules.0.find(&blueprint.kind));
        if let Some(kind) = kind.filter(|kind| kind.describe().instant) {
            activate(lease, kind.lease_facts(resource, lease), tx.now());
        }
        Ok(())
    }

    /// A new resource for the lease, with its place in the blueprint's limit and its task.
    async fn build(&self, tx: &mut Tx, lease: &Lease, blueprint: &Blueprint, place: i64) -> Result<Resource> {
        let now = tx.now();
        let id = ResourceId::new(now);
        let tail: String = id.as_str().chars().skip(id.as_str().len() - 6).collect();
        let placed_on = lease.spec.attributes.get(HOST_ATTRIBUTE.name).and_then(|host| LeaseId::parse(host));
        let resource = Resource {
            name: format!("{}-{tail}", blueprint.name),
            resource_type: blueprint.resource_type.clone(),
            blueprint_id: blueprint.id.clone(),
            state: ResourceState::Pending,
            state_reason: String::new(),
            state_message: String::new(),
            facts: StringMap::new(),
            attributes: lease.spec.attributes.clone(),
            labels: blueprint.labels.clone(),
            owner: lease.owner.clone(),
            made_for: Some(lease.id.clone()),
            root_id: Some(lease.root_id.clone()),
            placed_on,
            lease_limit: allocator::leases_of(blueprint, &self.rules),
            depth: lease.depth + 1,
            ord: lease.ord,
            drain: None,
            problem: String::new(),
            cleanup_failures: 0,
            create_time: now,
            active_time: None,
            check_time: None,
            end_time: None,
            permanent: false,
            torn_down: false,
            warm: false,
            uses: 0,
            idle_since: None,
            abandoned: false,
            version: 1,
            id,
        };
        let slot = Slot::of_blueprint(&blueprint.id, place);
        tx.take_slots(&Subject::from(resource.id.clone()), 1, &[slot]).await?;
        tx.insert_resource(&resource).await?;
        let told =
            Told::by_drydock("resource.created", format!("{} is built for {}", resource.resource_type, lease.id));
        let more = [("worker", self.worker.clone()), ("blueprint", blueprint.name.clone())];
        tx.event(told.of_resource(&resource, &more)).await?;
        Ok(resource)
    }
}

/// What others hold is none of the owner's business: of the ids it waits for, only its own leases, what is built for it,
/// and blueprints are told.
async fn only_own(tx: &mut Tx, lease: &Lease, waiting: Waiting) -> Result<Waiting> {
    let mut blocked_by = Vec::new();
    for id in waiting.blocked_by {
        let own = match LeaseId::parse(&id) {
            Some(holder) => tx.find_lease(&holder).await?.is_some_and(|holder| holder.owner == lease.owner),
            None => match ResourceId::parse(&id) {
                Some(resource) => {
                    tx.find_resource(&resource).await?.is_some_and(|resource| resource.owner == lease.owner)
                }
                None => true,
            },
        };
        if own {
            blocked_by.push(id);
        }
    }
    Ok(Waiting { blocked_by, ..waiting })
}
