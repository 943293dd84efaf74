//! Allocation: one decision about a PENDING lease, taken and written in one transaction, on what is true in it.

use super::deadlock;
use super::lease::{activate, end, time_out};
use super::narrate::Told;
use super::picture::{picture, pictures, together};
use super::slots::leave_queue;
use super::steps::KindRules;
use super::warm;
use crate::allocator::{self, Decision, Plan, Together, plan_together};
use crate::blueprint::HOST_ATTRIBUTE;
use crate::error::Result;
use crate::model::id::{LeaseId, ResourceId, Subject};
use crate::model::pool::PoolView;
use crate::model::slot::Slot;
use crate::model::task::MAX_REACQUIRES;
use crate::model::{Blueprint, Lease, LeaseState, Resource, ResourceState, Waiting};
use crate::store::{Baton, Next, Tx, Wait, pool_of};

/// What an allocation needs beside the transaction.
pub(super) struct Allocation {
    pub(super) rules: KindRules,
    pub(super) worker: String,
}

/// Where a lease comes to sit.
pub(super) struct Seat<'s> {
    pub(super) resource: &'s Resource,
    pub(super) places: &'s [i64],
    /// Slots of limits that it takes beside.
    pub(super) limits: Vec<Slot>,
    pub(super) blueprint: Option<&'s Blueprint>,
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
        Box::pin(self.decide(tx, &lease, current)).await
    }

    /// The resource that was being built may have failed: counts it, or breaks the lease (`None`).
    async fn lose_broken(&self, tx: &mut Tx, lease: &Lease) -> Result<Option<Lease>> {
        let mut current = lease.clone();
        let Some(own) = &lease.allocating else { return Ok(Some(current)) };
        let own = tx.find_resource(own).await?;
        if own.as_ref().is_some_and(|own| own.state.is_live()) {
            return Ok(Some(current));
        }
        current.allocating = None;
        if own.as_ref().is_some_and(|own| own.state_reason == deadlock::YIELDED) {
            // Its own work was fine: it goes on from its old place in the queue.
            return Ok(Some(current));
        }
        let (permanent, why) = own.map_or((false, "it is gone".to_owned()), |own| (own.permanent, own.state_message));
        current.reacquires += 1;
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

    async fn decide(&self, tx: &mut Tx, before: &Lease, lease: Lease) -> Result<(Next, Baton)> {
        if let Some(gang) = &lease.gang {
            let others = tx.gang(gang).await?.into_iter();
            let others: Vec<_> =
                others.filter(|other| other.id != lease.id && other.state == LeaseState::Pending).collect();
            if !others.is_empty() {
                return self.decide_together(tx, before, lease, others).await;
            }
        }
        let view = picture(tx, &lease, &self.rules).await?;
        let decision = allocator::plan(&lease, &view, &self.rules);
        if self.is_overtaking(tx, &lease, &decision).await? {
            if let Some(instant) = self.rules.courtesy.until(&lease.id, tx.now()) {
                let until = lease.queue_expire_time.map_or(instant, |until| until.min(instant));
                let pool = Wait::Pool(lease.spec.resource_type.clone());
                self.note_waiting(tx, before, lease, before.waiting.clone()).await?;
                // Whoever is ahead hands the baton on; this one comes back by itself in any case.
                return Ok((Next::Park { waits: vec![pool], until: Some(until) }, Baton::Keep));
            }
        } else {
            self.rules.courtesy.forget(&lease.id);
        }
        self.apply(tx, before, lease, decision, &view).await
    }

    /// Whether it would get something now while somebody ahead, for whom something is kept, is about to take that.
    pub(super) async fn is_overtaking(&self, tx: &mut Tx, lease: &Lease, decision: &Decision) -> Result<bool> {
        let gets = matches!(decision.plan, Plan::Take { .. } | Plan::Adopt { .. } | Plan::Build { .. });
        if !gets || decision.kept_for.is_empty() || lease.allocating.is_some() {
            return Ok(false);
        }
        tx.let_go_first(&decision.kept_for, &pool_of(&lease.spec.resource_type)).await
    }

    /// Each of the gang gets its place in this commit, or none of them does.
    async fn decide_together(
        &self,
        tx: &mut Tx,
        before: &Lease,
        lease: Lease,
        others: Vec<Lease>,
    ) -> Result<(Next, Baton)> {
        let mut members = vec![(before.clone(), lease)];
        for other in others {
            // What was built for another may have failed: it is counted there, whoever's step this is.
            match self.lose_broken(tx, &other).await? {
                Some(now) => members.push((other, now)),
                None => return Ok((Next::Again, Baton::Pass)),
            }
        }
        members.sort_by(|a, b| a.0.id.cmp(&b.0.id));
        let mut views = pictures(tx, members.iter().map(|(_, member)| member), &self.rules).await?;
        let pools: Vec<Wait> = views.keys().cloned().map(Wait::Pool).collect();
        let planned: Vec<Lease> = members.iter().map(|(_, member)| member.clone()).collect();
        let decisions = match plan_together(&planned, &mut views, &self.rules) {
            Together::Go(decisions) => decisions,
            Together::Wait(index, decision) => {
                let (id, count) = (members[index].0.id.clone(), members.len());
                let mut own = before.clone();
                for (was, now) in members {
                    if was.id == before.id {
                        own = now;
                    } else if was != now {
                        tx.put_lease(&was, &now).await?;
                    }
                }
                let view = &views[&own.spec.resource_type];
                return self.wait_together(tx, before, own, (&id, count), (*decision, pools), view).await;
            }
        };
        let is_built =
            |decision: &Decision| matches!(decision.plan, Plan::Build { .. } | Plan::Adopt { .. } | Plan::Await(_));
        let building = decisions.iter().any(is_built);
        let until = before.queue_expire_time;
        let mut own = (Next::Park { waits: pools, until }, Baton::Pass);
        let mut built = Vec::new();
        for ((was, member), decision) in members.into_iter().zip(decisions) {
            let is_own = member.id == before.id;
            let is_to_be = is_built(&decision);
            // What has room already is not taken before there is room for all.
            let begins = matches!(decision.plan, Plan::Build { .. } | Plan::Adopt { .. });
            let outcome = if building && !begins {
                let waiting = Waiting {
                    reason: "BUILDING".to_owned(),
                    message: "what was asked for together with it is being built".to_owned(),
                    blocked_by: Vec::new(),
                };
                self.note_waiting(tx, &was, member.clone(), Some(waiting)).await?;
                None
            } else {
                let view = &views[&member.spec.resource_type];
                Some(self.apply(tx, &was, member.clone(), decision, view).await?)
            };
            if is_to_be && let Some(resource) = tx.get_lease(&member.id).await?.allocating {
                built.push(resource);
            }
            match outcome {
                Some(outcome) if is_own => own = outcome,
                Some(_) => tx.wake_task(&Subject::from(member.id)).await?,
                None => {}
            }
        }
        if building {
            let waits = built.into_iter().map(|resource| Wait::Resource(resource, ResourceState::Pending)).collect();
            own = (Next::Park { waits, until }, own.1);
        }
        Ok(own)
    }

    async fn wait_together(
        &self,
        tx: &mut Tx,
        before: &Lease,
        lease: Lease,
        (first, count): (&LeaseId, usize),
        (decision, mut waits): (Decision, Vec<Wait>),
        view: &PoolView,
    ) -> Result<(Next, Baton)> {
        if decision.plan == Plan::Gone && *first == lease.id {
            return self.apply(tx, before, lease, decision, view).await;
        }
        waits.extend(decision.limits.into_iter().map(Wait::Pool));
        warm::count_waiter(tx, view).await?;
        let reclaim = self.reclaim(tx, &lease, view).await?;
        waits.extend(reclaim.waits);
        let waiting = reclaim.waiting.or(decision.waiting).map(|waiting| together(count, waiting));
        let until = [lease.queue_expire_time, reclaim.until].into_iter().flatten().min();
        self.note_waiting(tx, before, lease.clone(), waiting).await?;
        deadlock::untangle(tx, &lease).await?;
        Ok((Next::Park { waits, until }, Baton::Pass))
    }

    /// Writes what was decided for one lease.
    async fn apply(
        &self,
        tx: &mut Tx,
        before: &Lease,
        mut lease: Lease,
        decision: Decision,
        view: &PoolView,
    ) -> Result<(Next, Baton)> {
        let baton = if decision.more { Baton::On(pool_of(&lease.spec.resource_type)) } else { Baton::Keep };
        let until = lease.queue_expire_time;
        match decision.plan {
            Plan::Take { resource, places, limits } => {
                let blueprint = view.blueprints.iter().find(|blueprint| blueprint.id == resource.blueprint_id);
                leave_queue(tx, &lease, &self.rules).await?;
                self.take(tx, before, &mut lease, Seat { resource: &resource, places: &places, limits, blueprint })
                    .await?;
                if lease.state == LeaseState::Active {
                    return Ok((Next::Park { waits: Vec::new(), until: lease.expire_time }, baton));
                }
                Ok((Next::Again, baton))
            }
            Plan::Build { blueprint, place, limits, builds } => {
                leave_queue(tx, &lease, &self.rules).await?;
                tx.take_slots(&Subject::from(lease.id.clone()), lease.epoch, &limits).await?;
                let resource = self.build(tx, &lease, &blueprint, place, &builds).await?;
                lease.allocating = Some(resource.id.clone());
                lease.build_time = Some(tx.now());
                lease.waiting =
                    decision.waiting.map(|waiting| Waiting { blocked_by: vec![resource.id.to_string()], ..waiting });
                tx.put_lease(before, &lease).await?;
                Ok((Next::Park { waits: vec![Wait::Resource(resource.id, ResourceState::Pending)], until }, baton))
            }
            Plan::Adopt { resource, limits } => {
                leave_queue(tx, &lease, &self.rules).await?;
                tx.take_slots(&Subject::from(lease.id.clone()), lease.epoch, &limits).await?;
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
                warm::count_waiter(tx, view).await?;
                let reclaim = self.reclaim(tx, &lease, view).await?;
                let mut waits = vec![Wait::Pool(lease.spec.resource_type.clone())];
                waits.extend(decision.limits.into_iter().map(Wait::Pool));
                waits.extend(reclaim.waits);
                let until = [until, reclaim.until].into_iter().flatten().min();
                let hint = reclaim.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
                let plain = |waiting: Waiting| Waiting { message: format!("{}{hint}", waiting.message), ..waiting };
                let waiting = reclaim.waiting.or(decision.waiting.map(plain));
                self.note_waiting(tx, before, lease.clone(), waiting).await?;
                deadlock::untangle(tx, &lease).await?;
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

    /// The lease gets its places on a resource; with an instant kind it is ACTIVE at once.
    async fn take(&self, tx: &mut Tx, before: &Lease, lease: &mut Lease, seat: Seat<'_>) -> Result<()> {
        let resource = seat.resource;
        let message = match seat.places {
            [place] => format!("got place {} of {} on {}", place + 1, resource.lease_limit, resource.id),
            _ => format!("got {} for itself", resource.id),
        };
        self.grant(tx, lease, seat).await?;
        tx.put_lease(before, lease).await?;
        let kind = if lease.state == LeaseState::Active { "lease.activated" } else { "lease.acquired" };
        let told = Told::by_drydock(kind, message);
        tx.event(
            told.of_lease(lease, &[("worker", self.worker.clone()), ("blueprint", resource.blueprint_id.to_string())]),
        )
        .await
    }

    /// Takes the slots and fills the lease in, without writing it.
    pub(super) async fn grant(&self, tx: &mut Tx, lease: &mut Lease, seat: Seat<'_>) -> Result<()> {
        let Seat { resource, places, limits: mut slots, blueprint } = seat;
        lease.epoch += 1;
        warm::note_grant(tx, resource, lease, blueprint).await?;
        slots.extend(places.iter().map(|place| Slot::on_resource(&resource.id, *place)));
        tx.take_slots(&Subject::from(lease.id.clone()), lease.epoch, &slots).await?;
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
        let kind = blueprint.and_then(|blueprint| self.rules.registry.find(&blueprint.kind));
        if let Some(kind) = kind.filter(|kind| kind.describe().instant) {
            activate(lease, kind.lease_facts(resource, lease), tx.now());
        }
        Ok(())
    }

    /// A new resource for the lease, with its place in the blueprint's limits and its task.
    async fn build(
        &self,
        tx: &mut Tx,
        lease: &Lease,
        blueprint: &Blueprint,
        place: i64,
        builds: &[Slot],
    ) -> Result<Resource> {
        let placed_on = lease.spec.attributes.get(HOST_ATTRIBUTE.name).and_then(|host| LeaseId::parse(host));
        let resource = Resource {
            attributes: lease.spec.attributes.clone(),
            owner: lease.owner.clone(),
            made_for: Some(lease.id.clone()),
            root_id: Some(lease.root_id.clone()),
            placed_on,
            lease_limit: allocator::leases_of(blueprint, &self.rules),
            depth: lease.depth + 1,
            ord: lease.ord,
            ..Resource::fresh(blueprint, tx.now())
        };
        let slot = Slot::of_blueprint(&blueprint.id, place);
        let slots: Vec<Slot> = std::iter::once(slot).chain(builds.iter().cloned()).collect();
        tx.take_slots(&Subject::from(resource.id.clone()), 1, &slots).await?;
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
