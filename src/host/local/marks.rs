//! For which leases and resources processes may run on this machine, so that the process table need not be read for the
//! others: most leases that end never ran anything here.
//!
//! What this daemon starts is noted. Of what it found when it began it knows nothing, and so has to look.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Length of the part of an id that is its time and its dice.
const ULID: usize = 26;

#[derive(Default)]
struct Noted {
    /// Notes so far.
    count: u64,
    /// The number of the last note of each id.
    last: HashMap<String, u64>,
}

/// What was noted of an id when somebody began to look; see [`Marks::look`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark(Option<u64>);

/// Ids in whose name processes were started.
#[derive(Default)]
pub(super) struct Marks {
    noted: Mutex<Noted>,
    /// All ids that existed when this daemon began sort up to here; not set, any id may be as old.
    inherited: OnceLock<String>,
}

impl Marks {
    /// Ids that sort behind this one are new since this daemon began.
    pub(super) fn inherits_up_to(&self, id: &str) {
        let _ = self.inherited.set(tail(id).unwrap_or_default().to_owned());
    }

    /// A process is started in this name. Told before it exists, and once more when it does: whoever began to look in
    /// between has looked too early.
    pub(super) fn note(&self, id: &str) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.count += 1;
        let number = noted.count;
        noted.last.insert(id.to_owned(), number);
    }

    /// What to tell [`Marks::nothing_left`] after the look, or `None` when no processes can run in this name. The mark
    /// stays until then: others who ask have to look as well.
    pub(super) fn look(&self, id: &str) -> Option<Mark> {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner).last.get(id).copied();
        (noted.is_some() || !self.is_new(id)).then_some(Mark(noted))
    }

    /// Whoever began to look at this mark found none in the end. What was noted meanwhile stays.
    pub(super) fn nothing_left(&self, id: &str, mark: Mark) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if mark.0.is_some() && noted.last.get(id).copied() == mark.0 {
            noted.last.remove(id);
        }
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
        assert!(marks.look(NEW).is_some() && marks.look(OLD).is_some());
        marks.inherits_up_to(LAST);
        assert!([OLD, LAST, "odd"].iter().all(|id| marks.look(id).is_some()));
        assert_eq!(marks.look(NEW), None);
    }

    #[test]
    fn what_was_started_is_looked_for_until_nothing_is_left() {
        let marks = Marks::default();
        marks.inherits_up_to(LAST);
        marks.note(NEW);
        let (first, second) = (marks.look(NEW).unwrap(), marks.look(NEW).unwrap());
        marks.nothing_left(NEW, first);
        assert_eq!(marks.look(NEW), None);
        marks.note(NEW);
        // It looked before this one was started.
        marks.nothing_left(NEW, second);
        assert!(marks.look(NEW).is_some());
    }

    #[test]
    fn an_empty_database_leaves_nothing_unknown() {
        let marks = Marks::default();
        marks.inherits_up_to("");
        assert!(marks.look(OLD).is_none() && marks.look("odd").is_some());
    }
}
