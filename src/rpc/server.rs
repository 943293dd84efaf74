//! The daemon: doors, services, drain.

use std::future::Future;
use std::path::PathBuf;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::error::{Error, Reason, Result};

/// What a started daemon tells its starter.
#[derive(Debug, Clone)]
pub struct Ready {
    /// The unix socket.
    pub socket: PathBuf,
    /// `127.0.0.1:7420` and the like, with the port really taken.
    pub listen: Vec<String>,
    /// The generated token's file, when there is one.
    pub token_file: Option<PathBuf>,
}

/// The two words that stop a daemon.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Drain: no new leases, running calls go on for at most 30 s, claims are handed back.
    pub drain: CancellationToken,
    /// Stop at once.
    pub stop: CancellationToken,
}

/// Runs a daemon until `shutdown` says so; `ready` is told when all doors are open.
///
/// # Errors
/// `INVALID_ARGUMENT` for settings that cannot be (exit code 78): a listen address that is not allowed, a database that
/// is newer than this binary, a data folder in use by another daemon.
pub fn run(
    _settings: Settings,
    _ready: oneshot::Sender<Ready>,
    _shutdown: Shutdown,
) -> impl Future<Output = Result<()>> + Send {
    async { Err(Error::new(Reason::Internal, "not built yet")) }
}
