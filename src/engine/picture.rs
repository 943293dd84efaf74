//! What a decision about a lease is made on: the store's view of its type, and the slots of the limits it must pass.

use super::steps::KindRules;
use crate::allocator::{Rules as _, gates};
use crate::error::Result;
use crate::model::Lease;
use crate::model::id::{LeaseId, Subject};
use crate::model::pool::PoolView;
use crate::store::{Tx, pool_of};

/// All that could serve this lease, as of now.
pub(super) async fn picture(tx: &mut Tx, lease: &Lease, rules: &KindRules) -> Result<PoolView> {
    let mut view = tx.pool_view(lease).await?;
    let scopes = gates::scopes(lease, &view, rules.shares());
    if !scopes.is_empty() {
        view.held = tx.held_slots(&scopes).await?;
    }
    let keeps_apart = |lease: &Lease| !lease.spec.apart_from.is_empty();
    let of = &lease.spec.resource_type;
    if keeps_apart(lease) || view.ahead.iter().any(keeps_apart) || tx.anybody_keeps_apart(of).await? {
        view.neighbours = tx.neighbours(of).await?;
    }
    Ok(view)
}

/// Gives back what a lease or resource holds of limits and places, and wakes who waits for one of its owner's anywhere.
/// Answers whether it held any: then its own pool is to be woken too.
pub(super) async fn give_back_slots(tx: &mut Tx, holder: &Subject) -> Result<bool> {
    let scopes = tx.free_slots(holder, None).await?;
    for scope in scopes.iter().filter(|scope| gates::is_waited_for_everywhere(scope)) {
        tx.wake_pool(&pool_of(scope), None).await?;
    }
    Ok(!scopes.is_empty())
}

/// The lease has left the queue: another of its owner may come in.
pub(super) async fn leave_queue(tx: &mut Tx, lease: &Lease, rules: &KindRules) -> Result<()> {
    let holder = Subject::from(LeaseId::clone(&lease.id));
    if rules.shares().of(&lease.owner).max_queued.is_some() {
        tx.free_slots(&holder, Some(&gates::queued(&lease.owner))).await?;
    }
    tx.served(lease.ord + crate::model::task::head_start(lease.priority)).await
}
