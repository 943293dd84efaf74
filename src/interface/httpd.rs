//! The `httpd` interface: a webroot's server, watched while it starts, stops and restarts.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Reason, Result};
use crate::host::Place;
use crate::httpd::{Operation, Seat, Stage, Status, operate};

/// A step of an operation; the last is `done`, with what runs then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// `config-test`, `stop`, `start`, `reload`, `probe`, `done`.
    pub step: &'static str,
    /// For people.
    pub message: String,
    /// Since the operation began.
    pub elapsed: Duration,
    /// In the last one.
    pub status: Option<Status>,
}

/// An operation under way.
pub struct Running {
    begun: Instant,
    stages: mpsc::UnboundedReceiver<Stage>,
    outcome: Option<oneshot::Receiver<Result<Status>>>,
    ended: CancellationToken,
}

/// What runs.
///
/// # Errors
/// `INTERFACE_NOT_SUPPORTED` without a site.
pub async fn status(place: &Place) -> Result<Status> {
    Seat::open(place).await?.status().await
}

/// The absolute URI of a path, and whether only the leased host itself reaches it.
///
/// # Errors
/// `INTERFACE_NOT_SUPPORTED` without a site.
pub async fn uri(place: &Place, path: &str) -> Result<(String, bool)> {
    if path.contains('\0') {
        return Err(Error::invalid("path holds a NUL byte"));
    }
    let seat = Seat::open(place).await?;
    Ok((seat.uri(path), seat.is_loopback()))
}

/// Begins an operation. It goes on when nobody watches any more: a server that was stopped to be restarted must not
/// stay down because a client hung up.
#[must_use]
pub fn begin(place: Place, operation: Operation, ended: CancellationToken) -> Running {
    let (report, stages) = mpsc::unbounded_channel();
    let (tell, outcome) = oneshot::channel();
    tokio::spawn(async move {
        // Dropped before the outcome is told, so that the watcher sees all stages first.
        let status = operate(&place, operation, &report).await;
        drop(report);
        let _ = tell.send(status);
    });
    Running { begun: Instant::now(), stages, outcome: Some(outcome), ended }
}

impl Running {
    /// The next step; `None` after the last.
    ///
    /// # Errors
    /// Why the operation failed, or `LEASE_NOT_ACTIVE` when the lease ended meanwhile; the last item then.
    pub async fn next(&mut self) -> Option<Result<Progress>> {
        self.outcome.as_ref()?;
        tokio::select! {
            biased;
            () = self.ended.cancelled() => {
                self.outcome = None;
                Some(Err(Error::new(Reason::LeaseNotActive, "the lease ended while its web server was worked on")))
            }
            stage = self.stages.recv() => match stage {
                Some(Stage { step, message }) => Some(Ok(self.progress(step, message, None))),
                None => self.finish().await,
            },
        }
    }

    async fn finish(&mut self) -> Option<Result<Progress>> {
        Some(match self.outcome.take()?.await {
            Ok(Ok(status)) => {
                let message = if status.running { "runs" } else { "does not run" }.to_owned();
                Ok(self.progress("done", message, Some(status)))
            }
            Ok(Err(error)) => Err(error),
            Err(error) => Err(Error::internal("the operation ended without an outcome", error)),
        })
    }

    fn progress(&self, step: &'static str, message: String, status: Option<Status>) -> Progress {
        Progress { step, message, elapsed: self.begun.elapsed(), status }
    }
}
