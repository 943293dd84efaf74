//! What a pool looks like from its queue: who is where in it, and when they will be served. Made when somebody asks, at most
//! once a second for each type, and shared by all who ask meanwhile.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Engine;
use crate::allocator::eta::{self, Eta, Forecast};
use crate::clock::Micros;
use crate::error::Result;
use crate::model::Waiting;
use crate::model::id::LeaseId;
use crate::model::pool::Turn;

/// How long an outlook holds.
pub(super) const HOLDS: Micros = 1_000_000;
/// How long one holds that knows nothing: whoever just got a place may be what was missing.
const UNKNOWN_HOLDS: Micros = 100_000;
/// So many leases of a pool are looked at anew while an outlook holds: each costs some milliseconds.
const LOOKS: u32 = 64;

/// A pool, as of a moment.
#[derive(Debug, Default)]
pub(super) struct Outlook {
    at: Micros,
    /// Leases that were served lately.
    pub(super) turns: Vec<Turn>,
    forecast: Option<Forecast>,
    places: HashMap<LeaseId, usize>,
    looks: AtomicU32,
    /// Why leases wait, and when that was looked at.
    words: Mutex<HashMap<LeaseId, (Micros, Waiting)>>,
}

type Slot = Arc<tokio::sync::Mutex<Arc<Outlook>>>;

/// Outlooks by type.
#[derive(Default)]
pub(super) struct Outlooks(Mutex<HashMap<String, Slot>>);

impl Engine {
    /// The outlook of a type, not older than a second.
    pub(super) async fn outlook(&self, resource_type: &str) -> Result<Arc<Outlook>> {
        let slot = {
            let mut all = self.outlooks.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(resource_type.to_owned()).or_default())
        };
        // Whoever comes while it is made waits for it rather than make another.
        let mut current = slot.lock().await;
        let now = self.clock.now();
        let holds = if current.forecast.is_some() { HOLDS } else { UNKNOWN_HOLDS };
        if current.at != 0 && (0..holds).contains(&(now - current.at)) {
            return Ok(Arc::clone(&current));
        }
        let history = self.store.pool_history(resource_type).await?;
        let places: HashMap<LeaseId, usize> =
            history.waiting.into_iter().enumerate().map(|(index, id)| (id, index + 1)).collect();
        let mut words = std::mem::take(&mut *current.words.lock().unwrap_or_else(PoisonError::into_inner));
        words.retain(|id, _| places.contains_key(id));
        let (turns, held, waiting) = (history.turns, history.held, places.len());
        let played = self.store.aside(move || {
            // One more: a lease that is not there yet may be asked about.
            let forecast = eta::queue(now, &turns, &held, waiting + 1);
            (turns, forecast)
        });
        let (turns, forecast) = played.await?;
        *current = Arc::new(Outlook {
            at: now,
            turns,
            forecast,
            places,
            looks: AtomicU32::new(LOOKS),
            words: Mutex::new(words),
        });
        Ok(Arc::clone(&current))
    }
}

impl Outlook {
    /// 1 is next; `None` when it was not in the queue then.
    pub(super) fn place(&self, lease: &LeaseId) -> Option<usize> {
        self.places.get(lease).copied()
    }

    /// The estimate for a position, from `now`.
    pub(super) fn eta(&self, position: usize, now: Micros) -> Option<Eta> {
        let eta = self.forecast.as_ref()?.at(position)?;
        let since = (now - self.at).max(0);
        Some(Eta { p50: (eta.p50 - since).max(0), p90: (eta.p90 - since).max(0), ..eta })
    }

    /// Why a lease waits, when that is known and need not or cannot be looked at again now.
    pub(super) fn known(&self, lease: &LeaseId) -> Option<Waiting> {
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, waiting) = words.get(lease)?;
        (*at >= self.at || self.looks.load(Ordering::Relaxed) == 0).then(|| waiting.clone())
    }

    /// Whether one more lease may be looked at.
    pub(super) fn may_look(&self) -> bool {
        self.looks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |looks| looks.checked_sub(1)).is_ok()
    }

    pub(super) fn learn(&self, lease: &LeaseId, now: Micros, waiting: &Waiting) {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        words.insert(lease.clone(), (now, waiting.clone()));
    }
}
