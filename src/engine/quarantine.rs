//! Clean-ups that keep failing hold their slots. An operator may give one up: its next failure is the last, what is left
//! outside is left there, and the slot is free.

use super::narrate::Told;
use crate::error::Result;
use crate::model::id::{LeaseId, Subject};
use crate::model::{Lease, LeaseState, Resource, ResourceState};
use crate::store::Tx;

/// Gives up the clean-up of a resource that has ended, and of the leases that are left on it. One whose clean-up has not
/// failed yet is not given up: whoever says force twice means nothing by it.
pub(super) async fn give_up_resource(tx: &mut Tx, resource: &Resource, actor: &str) -> Result<()> {
    let over = resource.state.is_live() || resource.state == ResourceState::Destroyed;
    if over || resource.abandoned || resource.cleanup_failures == 0 {
        return Ok(());
    }
    tx.abandon(&Subject::from(resource.id.clone())).await?;
    let message = format!("{actor} gives its clean-up up after {} failures", resource.cleanup_failures);
    tx.event(Told::by_drydock("resource.given_up", message).by(actor).of_resource(resource, &[])).await?;
    for lease in tx.leases_on(&resource.id).await? {
        give_up_lease(tx, &lease, actor).await?;
    }
    Ok(())
}

async fn give_up_lease(tx: &mut Tx, lease: &Lease, actor: &str) -> Result<()> {
    if !matches!(lease.state, LeaseState::Released | LeaseState::Broken) || lease.cleaned || lease.abandoned {
        return Ok(());
    }
    tx.abandon(&Subject::from(lease.id.clone())).await?;
    let told = Told::by_drydock("lease.given_up", format!("{actor} gives its clean-up up")).by(actor);
    tx.event(told.of_lease(lease, &[])).await
}

/// Gives up the clean-up of a lease that has ended, when one has failed on its resource; the lease as it is then.
pub(super) async fn give_up_by_id(tx: &mut Tx, id: &LeaseId, actor: &str) -> Result<Lease> {
    let lease = tx.get_lease(id).await?;
    let resource = match &lease.resource_id {
        Some(resource) => tx.find_resource(resource).await?,
        None => None,
    };
    if resource.is_some_and(|resource| resource.cleanup_failures > 0) {
        give_up_lease(tx, &lease, actor).await?;
    }
    tx.get_lease(id).await
}
