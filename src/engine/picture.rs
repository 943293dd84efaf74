//! What a decision about a lease is made on: the store's view of its type, and the slots of the limits it must pass.

use super::steps::KindRules;
use crate::allocator::{Rules as _, gates};
use crate::error::Result;
use crate::model::Lease;
use crate::model::pool::PoolView;
use crate::store::Tx;

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
