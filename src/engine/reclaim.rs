//! Reclaim: a lease that waits for room may have one idle resource taken down, once, when that helps it.

use super::allocate::Allocation;
use super::narrate::Told;
use super::{Engine, steps::KindRules};
use crate::allocator::reclaim::{self, Outlook};
use crate::clock::{Micros, utc};
use crate::error::Result;
use crate::model::id::{LeaseId, ResourceId};
use crate::model::pool::PoolView;
use crate::model::{Lease, Resource, ResourceState, Waiting};
use crate::store::{Tx, Wait};

/// Holders of places that are looked at for one lease, so that a step stays short.
const LOOKED_AT: usize = 64;
/// How far up a tree an idle resource is looked for.
const HIGHEST: usize = 16;

/// What a lease waits for beside its pool.
#[derive(Debug, Default)]
pub(super) struct Reclaim {
    pub(super) waiting: Option<Waiting>,
    pub(super) waits: Vec<Wait>,
    pub(super) until: Option<Micros>,
    /// Said beside why it waits.
    pub(super) hint: Option<String>,
}

impl Allocation {
    /// Nothing is free for the lease: perhaps something idle makes room. Decided on what is true in this transaction.
    pub(super) async fn reclaim(&self, tx: &mut Tx, lease: &Lease, view: &PoolView) -> Result<Reclaim> {
        if let Some(victim) = &lease.reclaimed {
            // One per lease: if others were faster, it queues like everyone.
            return Ok(match tx.find_resource(victim).await? {
                Some(victim) if victim.state != ResourceState::Destroyed => Reclaim {
                    waits: vec![Wait::Resource(victim.id.clone(), victim.state)],
                    waiting: Some(taken_down(&victim)),
                    ..Reclaim::default()
                },
                _ => Reclaim::default(),
            });
        }
        let outlook = outlook(tx, lease, view, &self.rules).await?;
        let Some(victim) = outlook.now.into_iter().next() else {
            let Some((until, victim)) = outlook.later.into_iter().next() else { return Ok(Reclaim::default()) };
            return Ok(Reclaim { until: Some(until), hint: Some(too_fresh(&victim, until)), ..Reclaim::default() });
        };
        // As it is in this transaction, or not at all.
        let victim = tx.get_resource(&victim.id).await?;
        let message = format!("nobody leased it, and {} needs the room", lease.id);
        let victim = super::resource::end(tx, &victim, ResourceState::Released, "RECLAIMED", &message, false).await?;
        tx.note_reclaimed(&lease.id, &victim.id).await?;
        let told = Told::by_drydock("lease.reclaims", "something idle is taken down to make room for it");
        tx.event(told.because("RECLAIMING").of_lease(lease, &[("worker", self.worker.clone())])).await?;
        Ok(Reclaim {
            waits: vec![Wait::Resource(victim.id.clone(), victim.state)],
            waiting: Some(taken_down(&victim)),
            ..Reclaim::default()
        })
    }
}

fn too_fresh(victim: &Resource, until: Micros) -> String {
    format!("a {} that nobody uses is fresh; from {} on it may make room", victim.resource_type, utc(until))
}

fn taken_down(victim: &Resource) -> Waiting {
    Waiting {
        reason: "RECLAIMING".to_owned(),
        message: format!("a {} that nobody uses is taken down to make room", victim.resource_type),
        blocked_by: vec![victim.id.to_string()],
    }
}

/// What taking down could do for a lease that finds no room: behind those ahead of it.
async fn outlook(tx: &mut Tx, lease: &Lease, view: &PoolView, rules: &KindRules) -> Result<Outlook> {
    let mut victims = reclaim::under_the_same_limit(lease, view, rules);
    if victims.is_empty() && tx.is_any_idle().await? {
        victims = above_full_ones(tx, lease, view, rules).await?;
    }
    if victims.is_empty() {
        return Ok(Outlook::default());
    }
    Ok(reclaim::outlook(victims, view.now).behind(reclaim::before(lease, view, rules)))
}

/// Idle resources whose own leases hold places on what the lease would fit on.
async fn above_full_ones(tx: &mut Tx, lease: &Lease, view: &PoolView, rules: &KindRules) -> Result<Vec<Resource>> {
    let holders: Vec<LeaseId> = reclaim::full_ones(lease, view, rules)
        .into_iter()
        .flat_map(|candidate| candidate.taken.iter().map(|(_, holder)| holder.clone()))
        .take(LOOKED_AT)
        .collect();
    let mut victims = Vec::new();
    for holder in holders {
        let Some(idle) = idle_above(tx, &holder).await? else { continue };
        let queue = tx.view_of(&idle.resource_type, Micros::MAX, "").await?;
        if !reclaim::wanted(&idle, &queue, rules) {
            victims.push(idle);
        }
    }
    Ok(victims)
}

/// The resource that a sub-lease was made for in the end, when nobody uses that one.
async fn idle_above(tx: &mut Tx, holder: &LeaseId) -> Result<Option<Resource>> {
    let mut lease = tx.find_lease(holder).await?;
    for _ in 0..HIGHEST {
        let Some((parent, _)) = lease.and_then(|lease| lease.parent) else { return Ok(None) };
        let Some(resource) = tx.find_resource(&parent).await? else { return Ok(None) };
        if !reclaim::is_idle(&resource) {
            return Ok(None);
        }
        let mut on = tx.leases_on(&parent).await?;
        match (on.pop(), on.is_empty()) {
            (None, _) => return Ok(Some(resource)),
            (Some(only), true) => lease = Some(only),
            (Some(_), false) => return Ok(None),
        }
    }
    Ok(None)
}

/// A resource has become idle: those who wait for what its own leases hold look whether it should make room for them.
pub(super) async fn tell_below(tx: &mut Tx, resource: &ResourceId) -> Result<()> {
    let mut left = vec![resource.clone()];
    let mut seen = 0;
    while let Some(id) = left.pop() {
        for need in tx.needs_of(&id).await?.into_iter().filter(|need| need.state.is_live()) {
            seen += 1;
            if seen > LOOKED_AT {
                return Ok(());
            }
            tx.wake_pool(&crate::store::pool_of(&need.spec.resource_type), None).await?;
            left.extend(need.resource_id);
        }
    }
    Ok(())
}

impl Engine {
    /// What an explanation says of taking down; nothing is written.
    pub(super) async fn explain_reclaim(&self, lease: &Lease) -> Result<Option<Waiting>> {
        if lease.reclaimed.is_some() {
            return Ok(lease.waiting.clone().filter(|waiting| waiting.reason == "RECLAIMING"));
        }
        let (lease, rules) = (lease.clone(), std::sync::Arc::new(self.rules()));
        let outlook = self
            .store
            .look(move |tx| {
                let (lease, rules) = (lease.clone(), std::sync::Arc::clone(&rules));
                Box::pin(async move {
                    let view = tx.pool_view(&lease).await?;
                    outlook(tx, &lease, &view, &rules).await
                })
            })
            .await?;
        if let Some(victim) = outlook.now.first() {
            return Ok(Some(Waiting {
                reason: "RECLAIMING".to_owned(),
                message: format!("a {} that nobody uses would be taken down to make room", victim.resource_type),
                blocked_by: vec![victim.id.to_string()],
            }));
        }
        Ok(outlook.later.first().map(|(until, victim)| Waiting {
            reason: "LIMIT_REACHED".to_owned(),
            message: too_fresh(victim, *until),
            blocked_by: vec![victim.id.to_string()],
        }))
    }
}
