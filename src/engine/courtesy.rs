//! Letting those ahead go first. A place that is free is kept on paper for whoever is ahead in the queue, and the one behind takes the
//! next; but the one ahead, just woken, may be an instant later with its commit. Who comes behind gives it that instant, and no
//! more: one that does not get on (its daemon is dead or stopped) holds nobody up.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::clock::Micros;
use crate::model::id::LeaseId;

/// How long one lets another go first, microseconds: some commits of a busy daemon on a slow disk.
const INSTANT: Micros = 200_000;
/// So many are remembered before those that are over are forgotten.
const MANY: usize = 1024;

/// Who lets others go first, and since when.
#[derive(Debug, Default)]
pub(super) struct Courtesy(Mutex<HashMap<LeaseId, Micros>>);

impl Courtesy {
    /// Until when this lease waits for those ahead; `None` when it has done so for long enough.
    pub(super) fn until(&self, lease: &LeaseId, now: Micros) -> Option<Micros> {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if since.len() >= MANY {
            since.retain(|_, since| (0..INSTANT).contains(&(now - *since)));
        }
        let begun = *since.entry(lease.clone()).or_insert(now);
        if (0..INSTANT).contains(&(now - begun)) {
            return Some(begun + INSTANT);
        }
        since.remove(lease);
        None
    }

    /// This one has what it wanted.
    pub(super) fn forget(&self, lease: &LeaseId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(lease);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_waits_for_those_ahead_for_an_instant_each_time_it_could_go() {
        let (courtesy, lease) = (Courtesy::default(), LeaseId::new(1));
        assert_eq!(courtesy.until(&lease, 100), Some(100 + INSTANT));
        assert_eq!(courtesy.until(&lease, 99 + INSTANT), Some(100 + INSTANT));
        assert_eq!(courtesy.until(&lease, 100 + INSTANT), None);
        assert_eq!(courtesy.until(&lease, 101 + INSTANT), Some(101 + 2 * INSTANT), "another time is another instant");
        courtesy.forget(&lease);
        assert!(courtesy.0.lock().unwrap().is_empty());
    }
}
