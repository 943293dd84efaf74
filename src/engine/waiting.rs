//! The wait in which a caller works for its lease, and its end in time though the database says nothing at all: across a network it may go
//! without a word; a file does not.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::{Caller, Engine, LeaseView, caller};
use crate::clock::{Micros, micros};
use crate::error::{Error, Reason, Result};
use crate::model::{Lease, LeaseState};

/// What is left to a call beyond the wait that its caller asked for.
const AFTER_A_WAIT: Duration = Duration::from_secs(2);
/// A shorter wait than this is no sign of haste.
const SHORTEST_WAIT: Duration = Duration::from_secs(3);
/// Who does not wait for a lease waits so long for the commit.
const WITHOUT_A_WAIT: Duration = Duration::from_secs(15);

impl Engine {
    /// Works for a lease until it reaches `until` or a later state, or until `patience`, a point in time; answers its
    /// present state.
    pub(super) async fn wait_for(
        self: &Arc<Self>,
        lease: Lease,
        until: LeaseState,
        patience: Micros,
    ) -> Result<LeaseView> {
        if reached(lease.state, until) || patience <= self.clock.now() {
            return self.view(lease).await;
        }
        let (engine, id) = (Arc::clone(self), lease.id.clone());
        let is_reached = move || {
            let (engine, id) = (Arc::clone(&engine), id.clone());
            async move { Ok(engine.store.find_lease(&id).await?.is_none_or(|lease| reached(lease.state, until))) }
        };
        self.scheduler()?.drive(lease.root_id.clone(), is_reached, patience).await?;
        let lease =
            self.store.find_lease(&lease.id).await?.ok_or_else(|| caller::lease_not_found(lease.id.as_str()))?;
        self.view(lease).await
    }

    /// Waits for a lease of the caller; never an error for "not yet".
    pub async fn wait_lease(
        self: &Arc<Self>,
        caller: &Caller,
        id: &str,
        until: LeaseState,
        timeout: Duration,
    ) -> Result<LeaseView> {
        let patience = self.after(timeout);
        let work = async {
            let lease = self.find_own_lease(caller, id).await?;
            self.wait_for(lease, until, patience).await
        };
        self.in_time(timeout, Box::pin(work)).await
    }

    /// When a wait of this length that begins now is over.
    pub(super) fn after(&self, wait: Duration) -> Micros {
        self.clock.now().saturating_add(micros(wait))
    }

    /// Ends a call soon after the wait that its caller asked for. What it has begun goes on.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`, with nothing known of what was done, beside those of the call.
    pub async fn in_time<T>(&self, wait: Duration, call: Pin<Box<impl Future<Output = Result<T>>>>) -> Result<T> {
        if !self.store.is_shared() {
            return call.await;
        }
        let patience =
            if wait.is_zero() { WITHOUT_A_WAIT } else { wait.max(SHORTEST_WAIT).saturating_add(AFTER_A_WAIT) };
        tokio::time::timeout(patience, call).await.unwrap_or_else(|_| Err(silent(patience)))
    }
}

/// Whether a state is `until` or comes later; RELEASED and BROKEN are equally late.
pub(super) fn reached(state: LeaseState, until: LeaseState) -> bool {
    let rank = |state| match state {
        LeaseState::Pending => 0,
        LeaseState::Acquired => 1,
        LeaseState::Active => 2,
        LeaseState::Released | LeaseState::Broken => 3,
        LeaseState::Destroyed => 4,
    };
    rank(state) >= rank(until)
}

fn silent(patience: Duration) -> Error {
    let why = format!(
        "the database has not answered within {} s; what was asked for may be done or not: ask again with the same request_id",
        patience.as_secs()
    );
    Error::new(Reason::StoreUnavailable, why)
}
