//! The circuit breaker of a blueprint: builds that fail in a row pause it, and after the pause one is tried alone.

use super::Engine;
use super::narrate::Told;
use crate::allocator::pause_of;
use crate::clock::Micros;
use crate::error::Result;
use crate::model::id::{ResourceId, Subject};
use crate::model::{Blueprint, Breaker, Resource, ResourceState};
use crate::store::{Next, Tx, Wait, pool_of};

/// What a build that is about to begin has to wait for.
#[derive(Debug)]
pub(super) enum Gate {
    /// Nothing.
    Open,
    /// The end of the pause, or the one that is tried.
    Shut(Next),
}

impl Engine {
    /// Whether a build may begin now. Only a blueprint in trouble is asked about twice.
    pub(super) async fn gate(&self, resource: &Resource, record: &Blueprint) -> Result<Gate> {
        if !record.breaker.is_open() || resource.is_registered() {
            return Ok(Gate::Open);
        }
        let id = resource.id.clone();
        self.store
            .write(move |tx| {
                let id = id.clone();
                Box::pin(async move { gate(tx, &id).await })
            })
            .await
    }
}

async fn gate(tx: &mut Tx, id: &ResourceId) -> Result<Gate> {
    let resource = tx.get_resource(id).await?;
    let Some(blueprint) = tx.find_blueprint(resource.blueprint_id.as_str()).await? else { return Ok(Gate::Open) };
    let breaker = &blueprint.breaker;
    if !breaker.is_open() {
        return Ok(Gate::Open);
    }
    if breaker.pauses(tx.now()) {
        return Ok(Gate::Shut(Next::Park { waits: Vec::new(), until: breaker.until }));
    }
    if let Some(probe) = breaker.probe.as_deref().filter(|probe| *probe != id.as_str())
        && let Some(probe) = tx.find_resource(&ResourceId::from_stored(probe.to_owned())).await?
        && probe.state == ResourceState::Pending
    {
        let waits = vec![Wait::Resource(probe.id, ResourceState::Pending)];
        return Ok(Gate::Shut(Next::Park { waits, until: None }));
    }
    if breaker.probe.as_deref() != Some(id.as_str()) {
        let tried = Breaker { probe: Some(id.to_string()), ..breaker.clone() };
        tx.put_breaker(&blueprint.id, &tried).await?;
    }
    Ok(Gate::Open)
}

/// A build has failed: counts it. Until when nothing is built, when the blueprint pauses from now on.
pub(super) async fn failed(tx: &mut Tx, resource: &Resource, error: &str) -> Result<Option<Micros>> {
    let Some(before) = tx.find_blueprint(resource.blueprint_id.as_str()).await? else { return Ok(None) };
    let mut breaker = before.breaker.clone();
    let pauses = breaker.fail(resource.id.as_str(), error, tx.now(), fastrand::f64());
    tx.put_breaker(&before.id, &breaker).await?;
    if !pauses {
        return Ok(breaker.until);
    }
    let after = Blueprint { breaker, ..before };
    let message = pause_of(&after, tx.now()).unwrap_or_default();
    tx.event(Told::by_drydock("blueprint.paused", message).because("BUILD_FAILED").of_blueprint(&after)).await?;
    tx.rouse(&after.id).await?;
    tell(tx, &after).await?;
    Ok(after.breaker.until)
}

/// A build has worked: all is well again.
pub(super) async fn worked(tx: &mut Tx, resource: &Resource) -> Result<()> {
    if resource.is_registered() {
        return Ok(());
    }
    let Some(blueprint) = tx.find_blueprint(resource.blueprint_id.as_str()).await? else { return Ok(()) };
    if blueprint.breaker == Breaker::default() {
        return Ok(());
    }
    reset(tx, &blueprint, "a build has worked", "drydock").await
}

/// Ends a pause, and forgets the failures before it.
pub(super) async fn reset(tx: &mut Tx, blueprint: &Blueprint, why: &str, actor: &str) -> Result<()> {
    tx.put_breaker(&blueprint.id, &Breaker::default()).await?;
    if !blueprint.breaker.is_open() {
        return Ok(());
    }
    let after = Blueprint { breaker: Breaker::default(), ..blueprint.clone() };
    tx.event(Told::by_drydock("blueprint.resumed", why).by(actor).of_blueprint(&after)).await?;
    tx.wake_task(&Subject::from(after.id.clone())).await?;
    // Builds that stood still go on.
    for build in tx.builds_of(&after.id).await? {
        tx.nudge(build.id).await?;
    }
    tell(tx, &after).await
}

/// Those who wait look again, and are told why they wait.
async fn tell(tx: &mut Tx, blueprint: &Blueprint) -> Result<()> {
    for build in tx.builds_of(&blueprint.id).await? {
        if let Some(lease) = build.made_for {
            tx.nudge(lease).await?;
        }
    }
    tx.wake_pool(&pool_of(&blueprint.resource_type), None).await
}
