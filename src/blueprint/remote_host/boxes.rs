//! How registered boxes are reached; `over_ssh` is the real one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::error::Result;
use crate::host::Host;
use crate::host::ssh::keys::HostKey;
use crate::host::ssh::target::Target;

/// A way to reach the boxes that are registered.
#[async_trait]
pub trait Boxes: Send + Sync {
    /// The host keys that a box shows, without logging in.
    ///
    /// # Errors
    /// `HOST_UNREACHABLE`.
    async fn scan(&self, target: &Target) -> Result<Vec<HostKey>>;

    /// Logs in and asks for the home folder, absolute.
    ///
    /// # Errors
    /// `HOST_UNREACHABLE`, `HOST_AUTH_FAILED`, `HOST_KEY_MISMATCH`; `INTERNAL` when there is no POSIX shell.
    async fn greet(&self, target: &Target) -> Result<PathBuf>;

    /// The box as a host, with Drydock's folders under `data_dir`; `reached_at` is where others reach its ports. Equal targets are the same host. Costs nothing:
    /// connections are made when they are needed. `on_fault` is called when a connection cannot be made or is given up.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a target that ssh may not be given.
    fn host(&self, target: &Target, data_dir: &Path, reached_at: &str, on_fault: OnFault) -> Result<Arc<dyn Host>>;

    /// What stands in the way of good work there, one line each with what to do: no sftp subsystem, few sessions, a
    /// start file of the shell that prints.
    ///
    /// # Errors
    /// As [`Boxes::greet`].
    async fn inspect(&self, target: &Target) -> Result<Vec<String>>;

    /// The connections, for operators.
    fn diagnostics(&self, target: &Target) -> Option<Value>;

    /// Removes Drydock's folder from a box, unless something of a lease, of another registration or of another daemon is in
    /// it. To be called when nothing is open to the box any more: what is needed for it is opened and closed again.
    ///
    /// # Errors
    /// As [`Boxes::greet`]; `INTERNAL` when it cannot be removed.
    async fn leave(&self, target: &Target, data_dir: &Path) -> Result<()>;

    /// Lets a box that was down be tried at once; what is open to it stays open.
    fn retry(&self, target: &Target);

    /// Closes what is open to a box.
    async fn forget(&self, target: &Target);
}

/// Told when a box gives reason to be examined.
pub type OnFault = Arc<dyn Fn() + Send + Sync>;
