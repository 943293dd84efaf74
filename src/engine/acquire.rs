//! Asking for a lease: the checks at the door, the lease with its task in one commit, and the wait in which the caller
//! works for it.

use std::sync::Arc;
use std::time::Duration;

use super::allocate::{Allocation, Seat};
use super::narrate::Told;
use super::picture::picture;
use super::{Caller, Engine, LeaseView, RequestKey, caller};
use crate::allocator::{self, Plan, Rules as _, gates};
use crate::blueprint::HOST_ATTRIBUTE;
use crate::clock::{Micros, micros};
use crate::error::{Error, Reason, Result};
use crate::model::blueprint::{DEFAULT_MAX_TTL, DEFAULT_TTL};
use crate::model::id::{LeaseId, Subject};
use crate::model::share::Turn;
use crate::model::slot::{Slot, free_place};
use crate::model::task::head_start;
use crate::model::{Blueprint, Lease, LeaseSpec, LeaseState, Resource, Share, StringMap, Waiting};
use crate::store::{Request, Tx};

/// What a caller asks for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Acquire {
    /// Required.
    pub resource_type: String,
    /// Checked against every allowed blueprint.
    pub attributes: StringMap,
    /// Ids or names; empty is all.
    pub blueprints: Vec<String>,
    /// Labels that the resource must carry.
    pub resource_labels: StringMap,
    /// Life from ACTIVE on; `None` is the blueprint's.
    pub ttl: Option<Duration>,
    /// Patience of the lease.
    pub queue_timeout: Option<Duration>,
    /// −100..100.
    pub priority: i64,
    /// The caller's own words.
    pub labels: StringMap,
    /// No other lease on its resource.
    pub exclusive: bool,
    /// No lease with one of these labels on its resource.
    pub apart_from: StringMap,
}

/// What came through the door.
pub(super) struct Admitted {
    pub(super) lease: Lease,
}

impl Engine {
    /// Queues a lease and, with `wait`, works for it until it is ACTIVE, has ended, or the wait is over. A warm lease is
    /// ACTIVE in the commit that makes it.
    ///
    /// # Errors
    /// Door errors write nothing: `INVALID_ARGUMENT`, `INVALID_ATTRIBUTE`, `BLUEPRINT_NOT_FOUND`, `NO_BLUEPRINT`,
    /// `CAPACITY_NEVER`, `REQUEST_ID_REUSED`, `SERVER_DRAINING`.
    pub async fn acquire(
        self: &Arc<Self>,
        caller: &Caller,
        ask: Acquire,
        key: Option<RequestKey>,
        wait: Duration,
    ) -> Result<LeaseView> {
        let patience = self.after(wait);
        self.in_time(wait, Box::pin(self.acquire_and_wait(caller, ask, key, patience))).await
    }

    async fn acquire_and_wait(
        self: &Arc<Self>,
        caller: &Caller,
        ask: Acquire,
        key: Option<RequestKey>,
        patience: Micros,
    ) -> Result<LeaseView> {
        self.refuse_while_draining()?;
        let request = key.map(|key| key.of(caller));
        // A retry gets its lease even when the same request could not be made any more.
        let seen = match &request {
            Some(request) => self.store.seen(request).await?,
            None => None,
        };
        let lease = match seen.and_then(|id| LeaseId::parse(&id)) {
            Some(id) => self.store.find_lease(&id).await?.ok_or_else(|| caller::lease_not_found(id.as_str()))?,
            None => self.write_lease(self.admit(caller, &ask).await?, request).await?,
        };
        self.wait_for(lease, LeaseState::Active, patience).await
    }

    /// Queues several leases that are taken all at once or not at all; answers them in the order of `asks`.
    ///
    /// # Errors
    /// As [`Engine::acquire`]; then none was written.
    pub async fn acquire_all(
        self: &Arc<Self>,
        caller: &Caller,
        asks: Vec<Acquire>,
        key: Option<RequestKey>,
    ) -> Result<Vec<LeaseView>> {
        self.refuse_while_draining()?;
        let request = key.map(|key| key.of(caller));
        let seen = match &request {
            Some(request) => self.store.seen(request).await?,
            None => None,
        };
        let ids: Vec<LeaseId> = if let Some(ids) = seen {
            ids.split(' ').filter_map(LeaseId::parse).collect()
        } else {
            let mut drafts = Vec::new();
            for (at, ask) in asks.iter().enumerate() {
                let which = |error: Error| Error { message: format!("leases[{at}]: {}", error.message), ..error };
                drafts.push(self.admit(caller, ask).await.map_err(which)?.lease);
            }
            self.write_gang(drafts, request).await?
        };
        let mut views = Vec::new();
        for id in &ids {
            views.push(self.get_lease(caller, id.as_str()).await?);
        }
        Ok(views)
    }

    async fn write_gang(&self, mut drafts: Vec<Lease>, request: Option<Request>) -> Result<Vec<LeaseId>> {
        // In the order of their ids, which is that of the request.
        let mut ids: Vec<LeaseId> = drafts.iter().map(|draft| draft.id.clone()).collect();
        ids.sort();
        for (draft, id) in drafts.iter_mut().zip(&ids) {
            draft.gang = Some(ids[0].clone());
            draft.root_id = id.clone();
            draft.id = id.clone();
        }
        let allocation = Arc::new(Allocation { rules: self.rules(), worker: format!("{}/door", self.daemon.id) });
        self.store
            .write(move |tx| {
                let (request, allocation, drafts) = (request.clone(), Arc::clone(&allocation), drafts.clone());
                Box::pin(async move {
                    if let Some(request) = &request
                        && let Some(object) = tx.seen(request).await?
                    {
                        return Ok(object.split(' ').filter_map(LeaseId::parse).collect());
                    }
                    let ids: Vec<LeaseId> = drafts.iter().map(|draft| draft.id.clone()).collect();
                    allocation.queue_together(tx, drafts).await?;
                    if let Some(request) = &request {
                        let ids: Vec<&str> = ids.iter().map(LeaseId::as_str).collect();
                        tx.remember(request, &ids.join(" ")).await?;
                    }
                    Ok(ids)
                })
            })
            .await
    }

    fn refuse_while_draining(&self) -> Result<()> {
        if self.is_draining() {
            return Err(Error::new(
                Reason::ServerDraining,
                "the daemon is going down and takes no new leases; try another, or later",
            ));
        }
        Ok(())
    }

    async fn write_lease(&self, admitted: Admitted, request: Option<Request>) -> Result<Lease> {
        let allocation = Arc::new(Allocation { rules: self.rules(), worker: format!("{}/door", self.daemon.id) });
        let draft = admitted.lease;
        self.store
            .write(move |tx| {
                let (request, allocation, draft) = (request.clone(), Arc::clone(&allocation), draft.clone());
                Box::pin(async move {
                    if let Some(request) = &request
                        && let Some(object) = tx.seen(request).await?
                    {
                        return tx.get_lease(&LeaseId::from_stored(object)).await;
                    }
                    let lease = allocation.first_commit(tx, draft).await?;
                    if let Some(request) = &request {
                        tx.remember(request, lease.id.as_str()).await?;
                    }
                    Ok(lease)
                })
            })
            .await
    }

    /// The checks at the door: nothing is written by them.
    pub(super) async fn admit(&self, caller: &Caller, ask: &Acquire) -> Result<Admitted> {
        caller::given("resource_type", &ask.resource_type)?;
        let all = self.store.all_blueprints().await?;
        let mut named = Vec::new();
        for key in &ask.blueprints {
            let found = all.iter().find(|blueprint| blueprint.id.as_str() == key || blueprint.name == *key);
            let found = found.ok_or_else(|| super::blueprints::not_found(key))?;
            named.push(found.id.clone());
        }
        let mut spec = LeaseSpec {
            resource_type: ask.resource_type.clone(),
            attributes: ask.attributes.clone(),
            blueprints: named,
            resource_labels: ask.resource_labels.clone(),
            exclusive: ask.exclusive,
            apart_from: ask.apart_from.clone(),
        };
        let makers: Vec<&Blueprint> =
            all.iter().filter(|blueprint| blueprint.resource_type == ask.resource_type).collect();
        if makers.is_empty() {
            let mut types: Vec<&str> = all.iter().map(|blueprint| blueprint.resource_type.as_str()).collect();
            types.sort_unstable();
            types.dedup();
            return Err(Error::new(
                Reason::NoBlueprint,
                format!("no blueprint makes a {:?}; there are blueprints for {}", ask.resource_type, types.join(", ")),
            ));
        }
        let (first, attributes) = self.first_that_takes(&makers, &spec)?;
        self.check_capacity(caller, &makers, &spec, &all).await?;
        self.check_host(caller, &spec).await?;
        spec.attributes = attributes;
        Ok(Admitted { lease: self.draft(caller, ask, spec, first) })
    }

    /// The first allowed, enabled blueprint that takes the attributes, and these with its defaults.
    fn first_that_takes<'b>(&self, makers: &[&'b Blueprint], spec: &LeaseSpec) -> Result<(&'b Blueprint, StringMap)> {
        let allowed = makers.iter().filter(|maker| spec.blueprints.is_empty() || spec.blueprints.contains(&maker.id));
        let mut rejections = Vec::new();
        let mut misfit = false;
        let mut best: Option<(&'b Blueprint, StringMap, i64)> = None;
        for maker in allowed {
            let Some(kind) = self.registry.find(&maker.kind) else {
                rejections.push(format!("{}: this daemon has no kind {:?}", maker.name, maker.kind));
                continue;
            };
            if !maker.enabled {
                rejections.push(format!("{}: it is disabled", maker.name));
                continue;
            }
            // What is registered by hand has labels of its own: they are looked at with the capacity.
            let registered = kind.describe().is_registered();
            if let Some((key, value)) =
                allocator::missing_label(&spec.resource_labels, &maker.labels).filter(|_| !registered)
            {
                rejections.push(format!("{}: its resources do not carry {key}={value}", maker.name));
                continue;
            }
            match kind.admit(&maker.config, &spec.attributes) {
                Ok(attributes) => {
                    let rank = maker.limits.rank.unwrap_or(kind.describe().rank);
                    if best.as_ref().is_none_or(|(_, _, before)| rank > *before) {
                        best = Some((maker, attributes, rank));
                    }
                }
                Err(error) => {
                    misfit = true;
                    rejections.push(format!("{}: {}", maker.name, error.message));
                }
            }
        }
        if let Some((maker, attributes, _)) = best {
            return Ok((maker, attributes));
        }
        let why = if rejections.is_empty() {
            "none of the named blueprints makes it".to_owned()
        } else {
            rejections.join("; ")
        };
        let reason = if misfit { Reason::InvalidAttribute } else { Reason::NoBlueprint };
        Err(Error::new(reason, format!("no blueprint takes this {}: {why}", spec.resource_type)))
    }

    async fn check_capacity(
        &self,
        caller: &Caller,
        makers: &[&Blueprint],
        spec: &LeaseSpec,
        all: &[Blueprint],
    ) -> Result<()> {
        let rules = self.rules();
        let needs = |blueprint: &Blueprint| {
            self.registry.find(&blueprint.kind).map(|kind| kind.demand(&blueprint.config)).unwrap_or_default()
        };
        let registered = if all.iter().any(|blueprint| allocator::is_registered(blueprint, &rules)) {
            self.store.registered_resources().await?
        } else {
            Vec::new()
        };
        let room = |blueprint: &Blueprint| {
            registered.iter().filter(|of| of.blueprint_id == blueprint.id).map(|of| of.lease_limit).sum()
        };
        let suppliers = allocator::Suppliers { blueprints: all, registered: &room };
        let placed = spec.attributes.contains_key(HOST_ATTRIBUTE.name);
        let mut never = Vec::new();
        for maker in makers.iter().filter(|maker| spec.blueprints.is_empty() || spec.blueprints.contains(&maker.id)) {
            if allocator::is_registered(maker, &rules) {
                match fits_none(caller, maker, spec, &registered) {
                    Some(why) => never.push(format!("{}: {why}", maker.name)),
                    None => return Ok(()),
                }
                continue;
            }
            if let Some((key, value)) = allocator::missing_label(&spec.resource_labels, &maker.labels) {
                never.push(format!("{}: its resources do not carry {key}={value}", maker.name));
                continue;
            }
            match allocator::can_ever_fit(maker, placed, suppliers, &rules, &needs) {
                Ok(()) => return Ok(()),
                Err(error) => never.push(format!("{}: {}", maker.name, error.message)),
            }
        }
        Err(Error::new(
            Reason::CapacityNever,
            format!("this {} can never be had: {}", spec.resource_type, never.join("; ")),
        ))
    }

    /// The attribute `host` names a live host lease of the same owner.
    async fn check_host(&self, caller: &Caller, spec: &LeaseSpec) -> Result<()> {
        let Some(host) = spec.attributes.get(HOST_ATTRIBUTE.name) else { return Ok(()) };
        let wrong =
            |why: &str| Error::new(Reason::InvalidAttribute, format!("attribute \"host\" names {host:?}, {why}"));
        let found = match LeaseId::parse(host) {
            Some(id) => self.store.find_lease(&id).await?,
            None => None,
        };
        let Some(lease) = found.filter(|lease| lease.owner == caller.principal) else {
            return Err(wrong("which is no lease of yours"));
        };
        if lease.spec.resource_type != "host" {
            return Err(wrong(&format!("a lease on a {}; it must be one on a host", lease.spec.resource_type)));
        }
        if !lease.state.is_live() {
            return Err(wrong(&format!("which is {}; it must not have ended", lease.state.as_str())));
        }
        Ok(())
    }

    fn draft(&self, caller: &Caller, ask: &Acquire, spec: LeaseSpec, blueprint: &Blueprint) -> Lease {
        let now = self.clock.now();
        let max_ttl = blueprint.limits.max_ttl.unwrap_or(DEFAULT_MAX_TTL);
        let ttl = ask.ttl.map(micros).or(blueprint.limits.default_ttl).unwrap_or(DEFAULT_TTL).min(max_ttl);
        Lease {
            labels: ask.labels.clone(),
            priority: ask.priority,
            ord: now - head_start(ask.priority),
            ttl: Some(ttl),
            max_ttl,
            queue_expire_time: ask.queue_timeout.map(|patience| now.saturating_add(micros(patience))),
            waiting: Some(Waiting {
                reason: "QUEUED".to_owned(),
                message: "it has just been queued".to_owned(),
                blocked_by: Vec::new(),
            }),
            ..Lease::pending(LeaseId::new(now), spec, caller.principal.clone(), now)
        }
    }
}

impl Allocation {
    /// The commit that makes a lease. When a place is free on a resource that needs no setting up, it is born ACTIVE.
    async fn first_commit(&self, tx: &mut Tx, mut lease: Lease) -> Result<Lease> {
        let share = self.rules.shares().of(&lease.owner);
        // While nobody queues, the order is that of arrival.
        let mut turn = None;
        if tx.is_queueing().await? {
            let own = tx.turn(&lease.owner, share.weight).await?;
            lease.ord = own.start - head_start(lease.priority);
            turn = Some(own);
        }
        let view = picture(tx, &lease, &self.rules).await?;
        let decision = allocator::plan(&lease, &view, &self.rules);
        let may_go = !self.is_overtaking(tx, &lease, &decision).await?;
        if let Plan::Take { resource, places, limits } = decision.plan
            && may_go
        {
            let blueprint = view.blueprints.iter().find(|blueprint| blueprint.id == resource.blueprint_id);
            let instant = blueprint
                .and_then(|blueprint| self.rules.registry.find(&blueprint.kind))
                .is_some_and(|kind| kind.describe().instant);
            if instant {
                let seat = Seat { resource: &resource, places: &places, limits, blueprint };
                self.grant(tx, &mut lease, seat).await?;
            }
        }
        if lease.state == LeaseState::Pending {
            let turn = match turn {
                Some(turn) => turn,
                None => tx.turn(&lease.owner, share.weight).await?,
            };
            lease.ord = turn.start - head_start(lease.priority);
            self.enter_queue(tx, &lease, turn, share).await?;
        }
        tx.insert_lease(&lease).await?;
        let born_active = lease.state == LeaseState::Active;
        let (kind, message) = if born_active {
            ("lease.activated", format!("asked for a {} and got it at once", lease.spec.resource_type))
        } else {
            ("lease.created", format!("asked for a {}", lease.spec.resource_type))
        };
        let told = Told::by_drydock(kind, message).by(&lease.owner);
        tx.event(told.of_lease(&lease, &[("worker", self.worker.clone())])).await?;
        Ok(lease)
    }
}

impl Allocation {
    /// The commit that makes a gang. Their turn comes with that of the first; the owner is charged for each.
    async fn queue_together(&self, tx: &mut Tx, drafts: Vec<Lease>) -> Result<()> {
        let mut start = None;
        for mut lease in drafts {
            let share = self.rules.shares().of(&lease.owner);
            let turn = tx.turn(&lease.owner, share.weight).await?;
            lease.ord = *start.get_or_insert(turn.start) - head_start(lease.priority);
            self.enter_queue(tx, &lease, turn, share).await?;
            tx.insert_lease(&lease).await?;
            let message = format!("asked for a {}, together with others", lease.spec.resource_type);
            let told = Told::by_drydock("lease.created", message).by(&lease.owner);
            tx.event(told.of_lease(&lease, &[("worker", self.worker.clone())])).await?;
        }
        Ok(())
    }

    /// The lease takes a place in its owner's queue, and its turn is charged.
    async fn enter_queue(&self, tx: &mut Tx, lease: &Lease, turn: Turn, share: Share) -> Result<()> {
        if let Some(limit) = share.max_queued {
            let scope = gates::queued(&lease.owner);
            let held = tx.held_slots(std::slice::from_ref(&scope)).await?.remove(&scope).unwrap_or_default();
            let taken: Vec<i64> = held.iter().map(|(place, _)| *place).collect();
            let room = i64::try_from(taken.len()).is_ok_and(|taken| taken < limit);
            let Some(place) = free_place(limit, &taken).filter(|_| room) else {
                let message = format!(
                    "{} of {limit} leases of {} queue already; wait for one of them, or cancel one",
                    taken.len(),
                    lease.owner
                );
                return Err(Error::new(Reason::QuotaExceeded, message).with("limit", limit.to_string()));
            };
            tx.take_slots(&Subject::from(lease.id.clone()), 0, &[Slot { scope, place }]).await?;
        }
        tx.charge(&lease.owner, turn).await
    }
}

/// Why none of what is registered with a blueprint could ever serve this; `None` when one could.
fn fits_none(caller: &Caller, maker: &Blueprint, spec: &LeaseSpec, registered: &[Resource]) -> Option<String> {
    let add = "`drydock host add` registers one";
    let of: Vec<&Resource> = registered.iter().filter(|of| of.blueprint_id == maker.id).collect();
    let carrying: Vec<&&Resource> =
        of.iter().filter(|of| allocator::missing_label(&spec.resource_labels, &of.labels).is_none()).collect();
    if carrying.is_empty() {
        let labels: Vec<String> = spec.resource_labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let which = if of.is_empty() || labels.is_empty() {
            "none is registered".to_owned()
        } else {
            format!("none of the {} that are registered carries {}", of.len(), labels.join(" and "))
        };
        return Some(format!("{which}; {add}"));
    }
    if !maker.limits.shared && carrying.iter().all(|of| of.owner != caller.principal) {
        return Some(
            "those that are registered serve their owner alone; set limits.shared of the blueprint".to_owned(),
        );
    }
    None
}
