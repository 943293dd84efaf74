//! Looks for processes that outlived their tree by leaving its group: for many trees in one look, soon after they ended.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;

use super::process_table::{Candidate, PROCESS_VARIABLE, strike};
use super::supervisor::Supervisor;
use super::tree::wait;

/// From the end of a tree to the look; trees that end meanwhile share it.
const DELAY: Duration = Duration::from_millis(300);
/// Between TERM and KILL.
const GRACE: Duration = Duration::from_millis(300);

/// The trees that ended since the last look.
pub(super) struct Sweep {
    ended: Mutex<BTreeSet<String>>,
    supervisor: Arc<Supervisor>,
}

impl Sweep {
    /// The supervisor is told when nothing of a tree is left.
    pub(super) fn new(supervisor: Arc<Supervisor>) -> Arc<Self> {
        Arc::new(Self { ended: Mutex::default(), supervisor })
    }

    /// Has this tree's strays ended soon.
    pub(super) fn later(self: &Arc<Self>, process_id: &str) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let first = ended.is_empty();
        ended.insert(process_id.to_owned());
        if first {
            tokio::spawn(Arc::clone(self).run());
        }
    }

    async fn run(self: Arc<Self>) {
        wait(DELAY).await;
        let ended = Arc::new(std::mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner)));
        let mut signal = Signal::TERM;
        for _ in 0..10 {
            let ids = Arc::clone(&ended);
            let wanted = move |candidate: &mut Candidate| {
                candidate
                    .variable(PROCESS_VARIABLE)
                    .and_then(|id| std::str::from_utf8(id).ok())
                    .is_some_and(|id| ids.contains(id))
            };
            let left = tokio::task::spawn_blocking(move || strike(Some(signal), wanted)).await;
            match left {
                Ok(Ok(0)) => break,
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "cannot read the process table; looking again"),
                Err(error) => tracing::warn!(%error, "a look at the process table was broken off; looking again"),
            }
            wait(GRACE).await;
            signal = Signal::KILL;
        }
        for id in &*ended {
            self.supervisor.forget(id);
        }
    }
}
