//! For which leases and resources processes may run on this machine, so that the process table need not be read for the
//! others: most leases that end never ran anything here.
//!
//! What this daemon starts is noted. Of what it found when it began it knows nothing, and so has to look.

use std::collections::HashSet;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Length of the part of an id that is its time and its dice.
const ULID: usize = 26;

/// Ids in whose name processes were started.
#[derive(Default)]
pub(super) struct Marks {
    noted: Mutex<HashSet<String>>,
    /// All ids that existed when this daemon began sort up to here; not set, any id may be as old.
    inherited: OnceLock<String>,
}

impl Marks {
    /// Ids that sort behind this one are new since this daemon began.
    pub(super) fn inherits_up_to(&self, id: &str) {
        let _ = self.inherited.set(tail(id).unwrap_or_default().to_owned());
    }

    /// A process is started in this name. Told before it exists, and once more when it does: whoever took the mark in
    /// between has looked too early.
    pub(super) fn note(&self, id: &str) {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
    }

    /// Whether processes may run in this name. Takes the mark away: whoever asks looks, and notes it again when
    /// something is left.
    pub(super) fn take(&self, id: &str) -> bool {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        noted || !self.is_new(id)
    }

    fn is_new(&self, id: &str) -> bool {
        let behind = |(id, inherited): (&str, &String)| id > inherited.as_str();
        tail(id).zip(self.inherited.get()).is_some_and(behind)
    }
}

/// The part of an id that sorts by time, behind its prefix.
fn tail(id: &str) -> Option<&str> {
    id.rsplit('_').next().filter(|tail| tail.len() == ULID)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "lease_01k0000000000000000000000a";
    const LAST: &str = "res_01k0000000000000000000000b";
    const NEW: &str = "lease_01k0000000000000000000000c";

    #[test]
    fn what_is_not_known_is_looked_for() {
        let marks = Marks::default();
        assert!(marks.take(NEW) && marks.take(OLD));
        marks.inherits_up_to(LAST);
        assert!(marks.take(OLD) && marks.take(LAST) && marks.take("odd"));
        assert!(!marks.take(NEW));
    }

    #[test]
    fn what_was_started_is_looked_for_once() {
        let marks = Marks::default();
        marks.inherits_up_to(LAST);
        marks.note(NEW);
        assert!(marks.take(NEW));
        assert!(!marks.take(NEW));
    }

    #[test]
    fn an_empty_database_leaves_nothing_unknown() {
        let marks = Marks::default();
        marks.inherits_up_to("");
        assert!(!marks.take(OLD) && marks.take("odd"));
    }
}
