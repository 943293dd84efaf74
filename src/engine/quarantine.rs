//! Clean-ups that keep failing hold their slots. An operator may give one up: its next failure is the last, what is left
//! outside is left there, and the slot is free.

use super::narrate::Told;
use crate::error::Result;
use crate::model::id::{LeaseId, Subject};
use crate::model::{Lease, LeaseState, Resource};
use crate::store::Tx;

/// Gives up the clean-up of a resource that has ended, and of the leases that are left on it.
pub(super) async fn give_up_resource(tx: &mut Tx, resource: &Resource, actor: &str) -> Result<()> {
    if resource.state.is_live() || resource.state == crate::model::ResourceState::Destroyed || resource.abandoned {
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

/// Gives up the clean-up of a lease that has ended.
pub(super) async fn give_up_lease(tx: &mut Tx, lease: &Lease, actor: &str) -> Result<()> {
    if !matches!(lease.state, LeaseState::Released | LeaseState::Broken) || lease.cleaned || lease.abandoned {
        return Ok(());
    }
    tx.abandon(&Subject::from(lease.id.clone())).await?;
    let told = Told::by_drydock("lease.given_up", format!("{actor} gives its clean-up up")).by(actor);
    tx.event(told.of_lease(lease, &[])).await
}

/// As it is now, after [`give_up_lease`].
pub(super) async fn give_up_by_id(tx: &mut Tx, id: &LeaseId, actor: &str) -> Result<Lease> {
    let lease = tx.get_lease(id).await?;
    give_up_lease(tx, &lease, actor).await?;
    tx.get_lease(id).await
}
