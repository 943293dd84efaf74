//! Trees that hold what others want and want what others hold.
//!
//! Gangs and the order of the queue leave one way into this: needs that come one after the other. Whoever parks looks
//! whether it closes a circle. Then the youngest tree in it gives back what the others wait for, and starts again from its
//! old place in the queue: an older one never has to, so that everyone is served in the end (wound-wait: Rosenkrantz,
//! Stearns and Lewis, ACM TODS 1978).

use std::collections::BTreeSet;

use super::narrate::Told;
use crate::error::Result;
use crate::model::id::LeaseId;
use crate::model::{Lease, ResourceState};
use crate::store::{Held, Tx};

/// Why the resource of a tree that gave way has ended.
pub(super) const YIELDED: &str = "RECLAIMED";
/// Trees looked at, at most; a circle of more is found when one of them parks anew.
const MOST: usize = 64;

/// Ends the circle that is closed by `lease`, if there is one: it is about to park for capacity.
pub(super) async fn untangle(tx: &mut Tx, lease: &Lease) -> Result<()> {
    if lease.parent.is_none() {
        // A root that queues holds nothing.
        return Ok(());
    }
    let Some(circle) = find_circle(tx, lease).await? else { return Ok(()) };
    let mut youngest: Option<(Lease, &Held)> = None;
    for held in &circle {
        let root = tx.get_lease(&held.root).await?;
        if youngest.as_ref().is_none_or(|(other, _)| (root.ord, &root.id) > (other.ord, &other.id)) {
            youngest = Some((root, held));
        }
    }
    let Some((root, held)) = youngest else { return Ok(()) };
    let trees: Vec<String> = circle.iter().map(|held| held.root.to_string()).collect();
    tracing::warn!(circle = %trees.join(" "), gives_way = %root.id, "trees wait for each other");
    give_way(tx, &root, held, &trees).await
}

/// The way from tree to tree back to that of `lease`: for each tree what the one before it waits for.
async fn find_circle(tx: &mut Tx, lease: &Lease) -> Result<Option<Vec<Held>>> {
    let start = &lease.root_id;
    let mut seen = BTreeSet::from([start.clone()]);
    let mut ways: Vec<Vec<Held>> = vec![Vec::new()];
    while let Some(way) = ways.pop() {
        let tree = way.last().map_or(start, |held| &held.root).clone();
        let mut pools = tx.pools_waited_for(&tree).await?;
        if tree == *start && !pools.contains(&lease.spec.resource_type) {
            // It has not parked yet.
            pools.push(lease.spec.resource_type.clone());
        }
        for pool in pools {
            for held in tx.held_by_unfinished(&pool, &tree).await? {
                let closes = held.root == *start;
                if !closes && (seen.len() >= MOST || !seen.insert(held.root.clone())) {
                    continue;
                }
                let longer: Vec<Held> = way.iter().cloned().chain([held]).collect();
                if closes {
                    return Ok(Some(longer));
                }
                ways.push(longer);
            }
        }
    }
    Ok(None)
}

/// Takes back the least of a tree that holds `held` and is not finished.
async fn give_way(tx: &mut Tx, root: &Lease, held: &Held, trees: &[String]) -> Result<()> {
    let others: Vec<&str> = trees.iter().map(String::as_str).filter(|tree| *tree != root.id.as_str()).collect();
    let message = format!("it gives way to {}, which is older and waits for what it holds", others.join(", "));
    let mut next = held.building.clone();
    let mut lease: LeaseId = held.lease.clone();
    loop {
        let id = match next.take() {
            Some(id) => id,
            None => match tx.get_lease(&lease).await?.parent {
                Some((parent, _)) => parent,
                None => return Ok(()),
            },
        };
        let resource = tx.get_resource(&id).await?;
        if resource.state == ResourceState::Pending {
            super::resource::end(tx, &resource, ResourceState::Released, YIELDED, &message, false).await?;
            let told = Told::by_drydock("lease.gave_way", message).because(YIELDED);
            return tx.event(told.of_lease(root, &[("resource", resource.id.to_string())])).await;
        }
        // What is finished goes with the unfinished thing that needs it.
        match resource.made_for {
            Some(made_for) => lease = made_for,
            None => return Ok(()),
        }
    }
}
