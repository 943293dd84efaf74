//! What is done now and then: last uses written down, a sign of life, what is old taken away.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::Engine;
use crate::clock::{Micros, micros};
use crate::error::{Result, report};
use crate::model::id::LeaseId;
use crate::store::Purged;

/// Between two rounds.
const ROUND: Duration = Duration::from_secs(30);
/// Rounds between two takings away of what is old.
const ROUNDS_PER_PURGE: u32 = 120;

/// Keeps house until the engine stops.
pub(super) async fn keep(engine: Arc<Engine>, retention: Duration) {
    let mut round = 0_u32;
    loop {
        tokio::select! {
            () = engine.clock.sleep_until(engine.clock.now() + micros(ROUND)) => {}
            () = engine.stop.cancelled() => return,
        }
        round = round.wrapping_add(1);
        if let Err(error) = engine.keep_house(round.is_multiple_of(ROUNDS_PER_PURGE), retention).await {
            tracing::warn!(error = %report(&error), "housekeeping failed; trying again");
        }
    }
}

impl Engine {
    async fn keep_house(&self, purge: bool, retention: Duration) -> Result<()> {
        self.flush_uses().await?;
        let mut daemon = self.daemon.clone();
        daemon.draining = self.is_draining();
        self.store.daemon_lives(&daemon).await?;
        if let Some(door) = self.door.get() {
            // Whoever was not seen for long is off the record, and comes back without it.
            self.store.open_to_peers(&daemon.id, Some(door.clone())).await?;
        }
        if purge {
            let gone = self.purge(retention).await?;
            if gone != Purged::default() {
                tracing::info!(
                    leases = gone.leases,
                    resources = gone.resources,
                    events = gone.events,
                    "took away what is old"
                );
            }
        }
        Ok(())
    }

    /// Takes away what ended longer ago than `retention`.
    pub async fn purge(&self, retention: Duration) -> Result<Purged> {
        let before = self.clock.now().saturating_sub(micros(retention));
        let mut all = Purged::default();
        loop {
            let round = self.store.purge(before).await?;
            all.leases += round.leases;
            all.resources += round.resources;
            all.events += round.events;
            all.requests += round.requests;
            if round.leases + round.resources + round.events == 0 {
                return Ok(all);
            }
        }
    }

    pub(super) fn last_use(&self, id: &LeaseId) -> Option<Micros> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied()
    }

    pub(super) async fn flush_uses(&self) -> Result<()> {
        let used: HashMap<LeaseId, Micros> =
            std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        if used.is_empty() {
            return Ok(());
        }
        self.store
            .write(move |tx| {
                let used = used.clone();
                Box::pin(async move {
                    for (id, at) in &used {
                        tx.touch_lease(id, *at).await?;
                    }
                    Ok(())
                })
            })
            .await
    }
}
