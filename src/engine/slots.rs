//! Slots that go back: of what has ended, and of who leaves the queue.

use super::steps::KindRules;
use crate::allocator::{Rules as _, gates};
use crate::error::Result;
use crate::model::Lease;
use crate::model::id::Subject;
use crate::model::task::head_start;
use crate::store::{Tx, pool_of};

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
    if rules.shares().of(&lease.owner).max_queued.is_some() {
        tx.free_slots(&Subject::from(lease.id.clone()), Some(&gates::queued(&lease.owner))).await?;
    }
    tx.served(lease.ord + head_start(lease.priority)).await
}
