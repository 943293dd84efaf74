//! Who is told when a commit has made something ready.
//!
//! Workers subscribe before they scan, so that what becomes ready in between is not missed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, futures::Notified};
use tokio_util::sync::CancellationToken;

use crate::clock::Micros;
use crate::model::id::LeaseId;
use crate::store::News;

/// Rung after commits.
#[derive(Debug, Default)]
pub struct Bell {
    workers: Notify,
    timer: Notify,
    earliest: Mutex<Option<Micros>>,
    roots: Mutex<HashMap<LeaseId, (usize, Arc<Notify>)>>,
}

/// A tree that somebody waits for, as long as this lives.
pub(super) struct Watched<'b> {
    bell: &'b Bell,
    root: LeaseId,
    notify: Arc<Notify>,
}

impl Bell {
    /// The next ring for any worker.
    pub(super) fn ready(&self) -> Notified<'_> {
        self.workers.notified()
    }

    /// The next ring for the timer pump.
    pub(super) fn timer(&self) -> Notified<'_> {
        self.timer.notified()
    }

    /// The earliest timer set since it was last asked.
    pub(super) fn take_earliest(&self) -> Option<Micros> {
        self.earliest.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn watch(&self, root: LeaseId) -> Watched<'_> {
        let mut roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = roots.entry(root.clone()).or_default();
        entry.0 += 1;
        let notify = Arc::clone(&entry.1);
        Watched { bell: self, root, notify }
    }

    /// Rings for one worker.
    pub(super) fn ring_one(&self) {
        self.workers.notify_one();
    }

    fn told(&self, news: &News) {
        for _ in 0..news.ready {
            self.workers.notify_one();
        }
        if let Some(at) = news.timer {
            let mut earliest = self.earliest.lock().unwrap_or_else(PoisonError::into_inner);
            *earliest = Some(earliest.map_or(at, |before| before.min(at)));
            self.timer.notify_one();
        }
        let roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        if roots.is_empty() {
            return;
        }
        let changed = news.events.iter().filter_map(|event| event.root_id.as_ref());
        for root in news.ready_roots.iter().chain(changed) {
            if let Some((_, notify)) = roots.get(root) {
                notify.notify_waiters();
            }
        }
    }

    /// Rings for everyone: news were missed.
    fn alarm(&self) {
        self.workers.notify_waiters();
        self.workers.notify_one();
        // A timer may have been set in what was missed: the pump looks now.
        *self.earliest.lock().unwrap_or_else(PoisonError::into_inner) = Some(0);
        self.timer.notify_one();
        for (_, notify) in self.roots.lock().unwrap_or_else(PoisonError::into_inner).values() {
            notify.notify_waiters();
        }
    }
}

impl Watched<'_> {
    pub(super) fn changed(&self) -> Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let mut roots = self.bell.roots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = roots.get_mut(&self.root) {
            entry.0 -= 1;
            if entry.0 == 0 {
                roots.remove(&self.root);
            }
        }
    }
}

/// Rings the bell for what the store's commits tell, until the scheduler stops.
pub(super) async fn ring(bell: Arc<Bell>, mut news: Receiver<Arc<News>>, stop: CancellationToken) {
    loop {
        let told = tokio::select! {
            told = news.recv() => told,
            () = stop.cancelled() => return,
        };
        match told {
            Ok(told) => bell.told(&told),
            Err(RecvError::Lagged(_)) => bell.alarm(),
            Err(RecvError::Closed) => return,
        }
    }
}
