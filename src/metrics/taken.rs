//! Steps of tasks, counted and told to who exports traces.

use std::sync::OnceLock;

use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::labels::{Of, Step};
use super::{Metrics, Outcome};
use crate::clock::{Micros, span};
use crate::model::id::{LeaseId, Subject, TaskId};

/// So many steps may wait for the exporter.
const WAITING: usize = 4096;

/// A step that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepTaken {
    /// Its task.
    pub task: TaskId,
    /// The lease or resource.
    pub subject: Subject,
    /// Root of its tree.
    pub root: Option<LeaseId>,
    /// `daemon/worker`.
    pub worker: String,
    /// The claim's number.
    pub attempt: i64,
    /// When.
    pub begun: Micros,
    /// Until when.
    pub ended: Micros,
    /// How it came out.
    pub outcome: Outcome,
    /// What went wrong; empty when nothing did.
    pub error: String,
}

/// Steps as they are taken.
pub type StepsTaken = Receiver<StepTaken>;

#[derive(Default)]
pub(super) struct Follower(OnceLock<Sender<StepTaken>>);

impl Metrics {
    /// Steps from now on; `None` when someone follows them already.
    #[must_use]
    pub fn follow_steps(&self) -> Option<StepsTaken> {
        let (sender, receiver) = channel(WAITING);
        self.follower.0.set(sender).ok().map(|()| receiver)
    }

    /// A step was taken.
    pub fn stepped(&self, taken: impl FnOnce() -> StepTaken, lease: bool, outcome: Outcome, took: Micros) {
        let of = if lease { Of::LEASE } else { Of::RESOURCE };
        self.steps.get_or_create(&Step::new(of.of, outcome)).inc();
        self.step_time.get_or_create(&of).observe(span(took).as_secs_f64());
        if outcome == Outcome::FenceLost {
            self.fence_losses.inc();
        }
        if let Some(follower) = self.follower.0.get()
            && follower.try_send(taken()).is_err()
        {
            self.span_dropped();
        }
    }
}
