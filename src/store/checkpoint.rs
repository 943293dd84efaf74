//! Checkpoints: what was committed is copied from `SQLite`'s log into the file beside the writer, so that hardly a commit, and nobody
//! who waits for one, stands still for it.
//!
//! One that gets to the end of the log flushes the file, and the next commit begins the log anew. While others write, the end is
//! always a little further on: then the log grows, and the file is not flushed. Where it has become [`MOST`] long the writer
//! does one itself.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::sqlite::Readers;
use crate::error::{Result, report};

/// Pages of the log from one checkpoint to the next: 4 MiB, which is `SQLite`'s own measure.
const EVERY: i32 = 1000;
/// Pages from which on the writer sees to it: 32 MiB.
const MOST: i32 = 8000;
/// Pages until it tries again: whoever still read an old state may have kept the log from beginning anew.
const AGAIN: i32 = 100;

thread_local! {
    /// Pages in the log after this thread's last commit. The hook that is told of them can keep nothing else.
    static LOGGED: Cell<i32> = const { Cell::new(0) };
}

/// Where a checkpoint is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// On the thread that writes.
    Here,
    Beside,
}

/// Checkpoints of one writer's log.
pub(super) struct Checkpoints {
    readers: Arc<Readers>,
    /// Pages in the log when the last one began.
    begun: i32,
    is_running: Arc<AtomicBool>,
}

impl Checkpoints {
    /// For a connection that writes on one thread; from now on it does none by itself.
    pub(super) fn of(connection: &rusqlite::Connection, readers: Arc<Readers>) -> Self {
        connection.wal_hook(Some(|_, pages| {
            LOGGED.set(pages);
            Ok(())
        }));
        Self { readers, begun: 0, is_running: Arc::default() }
    }

    /// After each commit: begins one beside it when one is due, or answers that it is to be done here.
    pub(super) fn after_commit(&mut self) -> Option<Place> {
        let place = self.due(LOGGED.get(), self.is_running.load(Ordering::Acquire))?;
        if place == Place::Beside {
            self.is_running.store(true, Ordering::Release);
            let (readers, running) = (Arc::clone(&self.readers), Running(Arc::clone(&self.is_running)));
            tokio::task::spawn_blocking(move || {
                let _until_the_end = running;
                tell(readers.checkpoint());
            });
        }
        Some(place)
    }

    fn due(&mut self, logged: i32, is_running: bool) -> Option<Place> {
        if logged < self.begun {
            // The log has begun anew.
            self.begun = 0;
        }
        let step = if self.begun < MOST { EVERY } else { AGAIN };
        // One beside that does not get on keeps nobody from doing one here.
        if logged - self.begun < step || (is_running && logged < MOST) {
            return None;
        }
        self.begun = logged;
        Some(if logged < MOST { Place::Beside } else { Place::Here })
    }
}

/// What was committed stays so, whatever becomes of a checkpoint: the log keeps it, and the next one is due soon.
pub(super) fn tell(outcome: Result<()>) {
    if let Err(error) = outcome {
        tracing::warn!(error = %report(&error), "a checkpoint of the database did not work out");
    }
}

/// Goes when the checkpoint has ended, however it did.
struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn checkpoints() -> Checkpoints {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        Checkpoints::of(&connection, Arc::new(Readers::new(Path::new("none").to_owned(), Arc::default())))
    }

    #[test]
    fn one_is_due_after_so_many_pages_and_beside_the_writer() {
        let mut checkpoints = checkpoints();
        assert_eq!(checkpoints.due(EVERY - 1, false), None);
        assert_eq!(checkpoints.due(EVERY, false), Some(Place::Beside));
        assert_eq!(checkpoints.due(EVERY + 1, false), None, "that one has been seen to");
        assert_eq!(checkpoints.due(2 * EVERY, true), None, "one at a time");
        assert_eq!(checkpoints.due(2 * EVERY + 1, false), Some(Place::Beside));
        assert_eq!(checkpoints.due(10, false), None, "the log has begun anew");
        assert_eq!(checkpoints.due(EVERY + 10, false), Some(Place::Beside));
    }

    #[test]
    fn the_writer_sees_to_a_log_that_never_begins_anew() {
        let mut checkpoints = checkpoints();
        let places: Vec<_> = (1..=MOST + EVERY).filter_map(|logged| checkpoints.due(logged, false)).collect();
        let beside = usize::try_from(MOST / EVERY - 1).unwrap();
        assert_eq!(places.iter().position(|place| *place == Place::Here), Some(beside));
        let here = usize::try_from(1 + EVERY / AGAIN).unwrap();
        assert_eq!(places.len(), beside + here, "again and again, but not at each commit");
    }

    #[test]
    fn one_beside_that_hangs_does_not_let_the_log_grow_for_ever() {
        let mut checkpoints = checkpoints();
        assert_eq!(checkpoints.due(MOST - 1, true), None);
        assert_eq!(checkpoints.due(MOST, true), Some(Place::Here));
    }
}
