//! The fences of this machine: files below the data folder, and locks under which one is looked at and what it lets in begins.
//!
//! The locks are this process's own: a data folder is that of one daemon.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{RwLock, RwLockReadGuard};

use super::folder;
use crate::error::{Error, Result};
use crate::host::fence::{FENCES, Fence};

/// No daemon is paused for so long, and then goes on: 30 days.
const KEPT: Duration = Duration::from_hours(30 * 24);
/// Fences that are made between two looks for old ones.
const ROUND: u64 = 4096;
/// One that is put up waits for what was let in, a large folder's removal perhaps; others seldom wait with it.
const LOCKS: usize = 64;

/// What is still let in, on this machine.
pub(super) struct Fences {
    data_dir: PathBuf,
    turns: Vec<RwLock<()>>,
    made: AtomicU64,
}

/// As long as this lives, nobody is fenced off in whose name it was given.
pub(super) type Passed<'f> = Vec<RwLockReadGuard<'f, ()>>;

/// In whose names something is done here.
#[derive(Clone, Default)]
pub(super) struct Passage {
    /// `None` where there are no other daemons.
    pub(super) fences: Option<Arc<Fences>>,
    pub(super) behind: Vec<Fence>,
}

impl Passage {
    /// Lets in what is done, until the answer is dropped.
    ///
    /// # Errors
    /// `LEASE_NOT_ACTIVE` when it comes late.
    pub(super) async fn enter(&self) -> Result<Passed<'_>> {
        match &self.fences {
            Some(fences) => fences.pass(&self.behind).await,
            None => Ok(Vec::new()),
        }
    }

    /// The same, on a thread that may block.
    pub(super) fn enter_blocking(&self) -> Result<Passed<'_>> {
        let Some(fences) = &self.fences else { return Ok(Vec::new()) };
        let turns = Fences::turns_of(&self.behind).into_iter().map(|turn| fences.turns[turn].blocking_read()).collect();
        fences.check(&self.behind).map(|()| turns)
    }
}

impl Fences {
    /// Below this folder.
    pub(super) fn new(data_dir: PathBuf) -> Self {
        let turns = (0..LOCKS).map(|_| RwLock::default()).collect();
        Self { data_dir, turns, made: AtomicU64::new(0) }
    }

    fn turn_of(fence: &Fence) -> usize {
        let mut hasher = DefaultHasher::new();
        fence.holder.hash(&mut hasher);
        usize::try_from(hasher.finish() % LOCKS as u64).unwrap_or(0)
    }

    /// In one order for all, each once: nobody waits for who waits for him.
    fn turns_of(fences: &[Fence]) -> Vec<usize> {
        let mut turns: Vec<_> = fences.iter().map(Self::turn_of).collect();
        turns.sort_unstable();
        turns.dedup();
        turns
    }

    fn check(&self, fences: &[Fence]) -> Result<()> {
        for fence in fences {
            if fence.epoch < self.least(fence)? {
                return Err(fence.refusal());
            }
        }
        Ok(())
    }

    /// Lets in what is done in these names, until the answer is dropped: nobody fences it off before.
    ///
    /// # Errors
    /// `LEASE_NOT_ACTIVE` when that was done already.
    pub(super) async fn pass(&self, fences: &[Fence]) -> Result<Passed<'_>> {
        let mut passed = Vec::with_capacity(fences.len());
        for turn in Self::turns_of(fences) {
            passed.push(self.turns[turn].read().await);
        }
        self.check(fences).map(|()| passed)
    }

    /// Lets in nothing more of this epoch and those before. What was let in has begun.
    ///
    /// # Errors
    /// `NO_SPACE`, …: the clean-up is tried again.
    pub(super) async fn put_up(&self, fence: &Fence) -> Result<()> {
        let _turn = self.turns[Self::turn_of(fence)].write().await;
        let least = fence.epoch.saturating_add(1);
        if least > self.least(fence)? {
            folder::make(&self.data_dir.join(FENCES))?;
            // In place and not flushed: half of it lets nothing in, and whoever might come late goes down with the machine.
            let file = fence.file(&self.data_dir);
            let failed = |error| folder::explain(&format!("{} cannot be written", file.display()), error);
            fs::write(&file, least.to_string()).map_err(failed)?;
        }
        if self.made.fetch_add(1, Ordering::Relaxed).is_multiple_of(ROUND) {
            self.forget_old_ones();
        }
        Ok(())
    }

    /// The lowest epoch that is let in.
    fn least(&self, fence: &Fence) -> Result<i64> {
        let file = fence.file(&self.data_dir);
        match fs::read_to_string(&file) {
            // One that cannot be read lets nothing in.
            Ok(text) => Ok(text.trim().parse().unwrap_or(i64::MAX)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(Error::internal(format!("{} cannot be read", file.display()), error)),
        }
    }

    fn forget_old_ones(&self) {
        let entries = fs::read_dir(self.data_dir.join(FENCES)).into_iter().flatten().flatten();
        for entry in entries {
            let age = entry.metadata().and_then(|facts| facts.modified()).ok().and_then(|made| made.elapsed().ok());
            if age.is_some_and(|age| age > KEPT) {
                // The next round finds it again.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;

    fn fence(holder: &str, epoch: i64) -> Fence {
        Fence { holder: holder.to_owned(), epoch }
    }

    #[tokio::test]
    async fn what_is_fenced_off_stays_out_and_the_others_come_in() {
        let folder = tempfile::tempdir().unwrap();
        let fences = Fences::new(folder.path().to_owned());
        drop(fences.pass(&[fence("lease_a", 1)]).await.unwrap());
        fences.put_up(&fence("lease_a", 1)).await.unwrap();
        let refused = fences.pass(&[fence("lease_b", 1), fence("lease_a", 1)]).await.unwrap_err();
        assert_eq!((refused.reason, refused.metadata["lease_id"].as_str()), (Reason::LeaseNotActive, "lease_a"));
        fences.pass(&[fence("lease_a", 2), fence("lease_b", 1)]).await.unwrap();
        // A late clean-up of an epoch before takes nothing back.
        fences.put_up(&fence("lease_a", 3)).await.unwrap();
        fences.put_up(&fence("lease_a", 1)).await.unwrap();
        assert!(fences.pass(&[fence("lease_a", 3)]).await.is_err());
        fs::write(folder.path().join("fences/lease_b"), "").unwrap();
        assert!(fences.pass(&[fence("lease_b", 9)]).await.is_err(), "half a fence is one");
    }

    #[tokio::test]
    async fn who_has_passed_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let fences = Fences::new(folder.path().to_owned());
        let passed = fences.pass(&[fence("lease_a", 1)]).await.unwrap();
        let off = fence("lease_a", 1);
        let mut closing = Box::pin(fences.put_up(&off));
        assert!(futures::poll!(&mut closing).is_pending());
        drop(passed);
        closing.await.unwrap();
    }
}
