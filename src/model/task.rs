//! Tasks: the queue's row for a lease or a resource that has something to do. One per subject; not a job log.

use std::time::Duration;

use super::id::{LeaseId, Subject, TaskId};
use crate::clock::Micros;

/// Where a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TaskState {
    /// Due now: can be claimed.
    Ready,
    /// Claimed.
    Running,
    /// Waits for a wake or its time.
    Parked,
    /// Finished.
    Done,
    /// Given up: it killed its daemon too often.
    Dead,
}

impl TaskState {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Ready, Self::Running, Self::Parked, Self::Done, Self::Dead];

    /// The name in the store and, after `STATE_`, in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "READY",
            Self::Running => "RUNNING",
            Self::Parked => "PARKED",
            Self::Done => "DONE",
            Self::Dead => "DEAD",
        }
    }

    /// Reads a stored name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// What frees capacity goes first: release, clean-up, destruction.
pub const BAND_FREEING: i64 = 0;
/// All else.
pub const BAND_ALLOCATING: i64 = 1;
/// The last place in the queue, behind all leases: what is built ahead of demand.
pub const LAST: Micros = Micros::MAX / 2;

/// A task that kills its daemon this often while nothing else is at work there is poison.
pub const MAX_CRASHES: i64 = 5;
/// A task whose daemon dies this often is poison, whatever else was at work.
pub const MAX_DEATHS: i64 = 15;
/// A build or a set-up is tried this often before it counts as failed.
pub const MAX_FAILURES: i64 = 5;
/// A lease loses at most this many resources before it breaks.
pub const MAX_REACQUIRES: i64 = 3;

/// A task, as the queue shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// `task_…`.
    pub id: TaskId,
    /// The lease, resource or blueprint.
    pub subject: Subject,
    /// Root of its tree.
    pub root_id: Option<LeaseId>,
    /// Where it is.
    pub state: TaskState,
    /// Ids and pools it waits for.
    pub waits_for: Vec<String>,
    /// The fence: raised with each claim.
    pub attempt: i64,
    /// The eventcount: raised with each wake.
    pub signal: i64,
    /// Failures in a row.
    pub failures: i64,
    /// Claims in a row that ended with their daemon.
    pub crashes: i64,
    /// How many of those while it was at work on other tasks too.
    pub company: i64,
    /// Last failure.
    pub last_error: String,
    /// Not before.
    pub run_at: Option<Micros>,
    /// `daemon/worker` that has it.
    pub claimed_by: Option<String>,
    /// A pool's baton: it was woken to take what was freed there, and passes it on when it does not.
    pub baton: Option<String>,
}

/// Full jitter: anything from nothing to 1 s doubled with each failure, at most 5 minutes; `dice` is 0..1.
/// Source: the retry analysis of AWS's architecture blog, "Exponential Backoff And Jitter".
#[must_use]
pub fn backoff(failures: i64, dice: f64) -> Duration {
    let exponent = u32::try_from(failures.clamp(0, 20)).unwrap_or(20);
    let ceiling = Duration::from_secs(1).saturating_mul(2_u32.saturating_pow(exponent)).min(Duration::from_mins(5));
    ceiling.mul_f64(dice.clamp(0.0, 1.0))
}

/// Head start in the queue for a priority: 6 s per point, so 100 is 10 minutes. A low one is passed only by what comes
/// later than the difference, so that nobody starves.
#[must_use]
pub fn head_start(priority: i64) -> Micros {
    priority * 6_000_000
}
