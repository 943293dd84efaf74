//! What a decision about a lease is made on: the store's view of its type, and the slots of the limits it must pass.

use std::collections::BTreeMap;

use super::steps::KindRules;
use crate::allocator::{Rules as _, gates};
use crate::error::Result;
use crate::model::pool::PoolView;
use crate::model::{Lease, Waiting};
use crate::store::Tx;

/// All that could serve these leases, by type.
pub(super) async fn pictures(
    tx: &mut Tx,
    leases: impl Iterator<Item = &Lease> + Send,
    rules: &KindRules,
) -> Result<BTreeMap<String, PoolView>> {
    let mut views = BTreeMap::new();
    for lease in leases {
        if !views.contains_key(&lease.spec.resource_type) {
            views.insert(lease.spec.resource_type.clone(), picture(tx, lease, rules).await?);
        }
    }
    Ok(views)
}

/// Why one of so many that are taken together waits.
pub(super) fn together(count: usize, waiting: Waiting) -> Waiting {
    let message = format!("{count} are taken together, and not all can be had: {}", waiting.message);
    Waiting { message, ..waiting }
}

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
