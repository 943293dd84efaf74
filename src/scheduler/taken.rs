//! What is told of a step: ids for all that is logged in it, a count, a span of its lease's trace.

use tracing::Span;

use super::Scheduler;
use crate::clock::Micros;
use crate::error::{Result, report};
use crate::metrics::{Outcome, StepTaken};
use crate::model::id::Subject;
use crate::store::{Claim, Committed};

/// The ids of a step, for its log lines.
pub(super) fn span(held: &Claim) -> Span {
    let (task, worker, root) = (&held.task, &held.worker, held.root.as_ref().map(tracing::field::display));
    match &held.subject {
        Subject::Lease(lease) => tracing::info_span!("step", %task, %lease, root, worker, attempt = held.attempt),
        Subject::Resource(resource) => {
            tracing::info_span!("step", %task, %resource, root, worker, attempt = held.attempt)
        }
        Subject::Blueprint(blueprint) => {
            tracing::info_span!("step", %task, %blueprint, worker, attempt = held.attempt)
        }
    }
}

/// A step has come to its end.
pub(super) fn tell(scheduler: &Scheduler, held: &Claim, begun: Micros, outcome: &Result<Committed>) {
    let ended = scheduler.store.clock().now();
    let came_out = match outcome {
        Ok(Committed::Done(_)) => Outcome::Done,
        Ok(Committed::FenceLost) => Outcome::FenceLost,
        Err(_) => Outcome::Failed,
    };
    let taken = || StepTaken {
        task: held.task.clone(),
        subject: held.subject.clone(),
        root: held.root.clone(),
        worker: held.worker.clone(),
        attempt: held.attempt,
        begun,
        ended,
        outcome: came_out,
        error: outcome.as_ref().err().map(|error| report(error)).unwrap_or_default(),
    };
    scheduler.store.metrics().stepped(taken, matches!(held.subject, Subject::Lease(_)), came_out, ended - begun);
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::model::id::{LeaseId, TaskId};

    /// What is written to it can be read.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn whatever_is_logged_in_a_step_has_its_ids() {
        let (lease, task) = (LeaseId::new(0), TaskId::new(0));
        let held = Claim {
            task: task.clone(),
            subject: Subject::Lease(lease.clone()),
            root: Some(lease.clone()),
            attempt: 7,
            signal: 0,
            failures: 0,
            lapsed: false,
            worker: "d/w0".to_owned(),
            until: 0,
        };
        let page = Page::default();
        let to = page.clone();
        let log = tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || to.clone()).finish();
        tracing::subscriber::with_default(log, || span(&held).in_scope(|| tracing::warn!("it did not work")));
        let line: serde_json::Value = serde_json::from_slice(&page.0.lock().unwrap()).unwrap();
        assert_eq!(line["span"]["lease"], lease.as_str(), "{line}");
        assert_eq!((&line["span"]["task"], &line["span"]["root"]), (&task.as_str().into(), &lease.as_str().into()));
        assert_eq!(line["span"]["worker"], "d/w0");
    }
}
