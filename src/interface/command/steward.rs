//! The steward of a running command: sees to it that it ends when it must, with all that it started, whether or not
//! anybody reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::execution::EndReason;
use crate::error::{Error, Reason, Result};
use crate::host::{Control, Exit};

/// From TERM to KILL after a timeout.
const TIMEOUT_GRACE: Duration = Duration::from_secs(5);
/// From TERM to KILL when nobody waits for the result any more.
const CANCEL_GRACE: Duration = Duration::from_millis(300);
/// From TERM to KILL at the lease's end, at most: its streams have a second, and the last words take some of it.
const LEASE_GRACE: Duration = Duration::from_millis(700);
/// For the end of a command whose tree was killed.
const OUTCOME: Duration = Duration::from_secs(1);

/// How long a command may run, and how long from TERM to KILL, by the reason of its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Graces {
    timeout: Option<Duration>,
    after_timeout: Duration,
    after_cancel: Duration,
    after_lease: Duration,
}

impl Graces {
    /// From what the caller set.
    pub(super) fn new(timeout: Option<Duration>, kill_grace: Option<Duration>) -> Self {
        Self {
            timeout,
            after_timeout: kill_grace.unwrap_or(TIMEOUT_GRACE),
            after_cancel: kill_grace.unwrap_or(CANCEL_GRACE),
            after_lease: kill_grace.unwrap_or(CANCEL_GRACE).min(LEASE_GRACE),
        }
    }
}

/// The reader's side of a steward.
pub(super) struct Reports {
    /// How the command ended and why; once.
    pub(super) verdict: oneshot::Receiver<Result<(Exit, EndReason)>>,
    /// Tell it, or drop it, when the output of a command that ended is read: then what it left behind is ended.
    pub(super) drained: oneshot::Sender<()>,
    /// Nothing of the tree is left.
    pub(super) over: oneshot::Receiver<()>,
}

/// See the module.
pub(super) struct Steward {
    control: Arc<dyn Control>,
    graces: Graces,
    gone: CancellationToken,
    ended: CancellationToken,
    signalled: Arc<AtomicU64>,
    faults: (mpsc::Sender<Error>, mpsc::Receiver<Error>),
    verdict: oneshot::Sender<Result<(Exit, EndReason)>>,
    drained: oneshot::Receiver<()>,
    over: oneshot::Sender<()>,
}

impl Steward {
    /// `gone` is cancelled when the caller left, `ended` when the lease ended.
    pub(super) fn new(
        control: Arc<dyn Control>,
        graces: Graces,
        gone: CancellationToken,
        ended: CancellationToken,
        signalled: Arc<AtomicU64>,
    ) -> (Self, Reports) {
        let ((verdict, verdict_in), (drained_out, drained), (over, over_in)) =
            (oneshot::channel(), oneshot::channel(), oneshot::channel());
        let faults = mpsc::channel(1);
        let steward = Self { control, graces, gone, ended, signalled, faults, verdict, drained, over };
        (steward, Reports { verdict: verdict_in, drained: drained_out, over: over_in })
    }

    /// Where a caller's mistake is told; it ends the command.
    pub(super) fn fault(&self) -> mpsc::Sender<Error> {
        self.faults.0.clone()
    }

    /// Returns when nothing of the tree is left.
    pub(super) async fn run(mut self) {
        let verdict = tokio::select! {
            biased;
            () = self.ended.cancelled() => self.end(EndReason::LeaseEnded).await,
            () = self.gone.cancelled() => self.end(EndReason::Cancelled).await,
            Some(error) = self.faults.1.recv() => {
                // The answer is the mistake, not how the command ended.
                let _ = self.end(EndReason::Cancelled).await;
                Err(error)
            }
            exit = self.control.wait() => {
                let verdict = exit.map(|exit| (exit, self.reason_of(exit)));
                // Nobody reads it when the caller has left.
                let _ = self.verdict.send(verdict);
                tokio::select! {
                    _ = &mut self.drained => {}
                    () = self.gone.cancelled() => {}
                    () = self.ended.cancelled() => {}
                }
                self.control.end(self.graces.after_cancel.min(LEASE_GRACE)).await;
                let _ = self.over.send(());
                return;
            }
            () = after(self.graces.timeout) => self.end(EndReason::Timeout).await,
        };
        // In this order: a reader that has the verdict finds the tree gone.
        let _ = self.over.send(());
        let _ = self.verdict.send(verdict);
    }

    /// Ends the tree. A patient end becomes a hasty one when the caller leaves or the lease ends meanwhile.
    async fn end(&self, reason: EndReason) -> Result<(Exit, EndReason)> {
        let end = |grace| self.control.end(grace);
        let hastened_by_caller = async {
            self.gone.cancelled().await;
            end(self.graces.after_cancel).await;
        };
        let hastened_by_lease = async {
            self.ended.cancelled().await;
            end(self.graces.after_lease).await;
        };
        match reason {
            EndReason::LeaseEnded => end(self.graces.after_lease).await,
            EndReason::Cancelled => tokio::select! {
                () = end(self.graces.after_cancel) => {}
                () = hastened_by_lease => {}
            },
            _ => tokio::select! {
                () = end(self.graces.after_timeout) => {}
                () = hastened_by_caller => {}
                () = hastened_by_lease => {}
            },
        }
        let exit = timeout(OUTCOME, self.control.wait()).await.unwrap_or_else(|_| {
            Err(Error::new(Reason::OutcomeUnknown, "the command was killed, but the host does not say that it ended"))
        })?;
        Ok((exit, reason))
    }

    fn reason_of(&self, exit: Exit) -> EndReason {
        match exit {
            Exit::Code(_) => EndReason::Exited,
            Exit::Signal(number) => {
                let bit = u32::try_from(number).ok().and_then(|bit| 1_u64.checked_shl(bit)).unwrap_or(0);
                let ours = self.signalled.load(Ordering::Relaxed) & bit != 0;
                if ours { EndReason::Cancelled } else { EndReason::Signaled }
            }
        }
    }
}

async fn after(span: Option<Duration>) {
    match span {
        Some(span) => {
            let _ = timeout(span, std::future::pending::<()>()).await;
        }
        None => std::future::pending().await,
    }
}
