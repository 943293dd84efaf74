//! What a daemon does on a machine in the name of a lease carries the lease's epoch, and the machine refuses what comes late:
//! from a daemon that was paused, say, while another one ended the lease and gave its place away.
//!
//! The machine keeps a small file for each lease that has ended there, with the lowest epoch that is still let in. Whoever
//! cleans up writes it first and looks for what is left then; whoever starts something looks into it at a moment at which it
//! would be found already. So nothing comes in between.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::files::Files;
use super::{Command, Host, Place, Process, Ran, Run};
use crate::error::{Error, Reason, Result};

/// In whose name something is done, and as of when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// A lease's id.
    pub holder: String,
    /// Its epoch, from 1.
    pub epoch: i64,
}

impl Fence {
    /// Where a machine whose folder of Drydock's this is keeps what is let in.
    #[must_use]
    pub fn file(&self, data_dir: &Path) -> PathBuf {
        data_dir.join(FENCES).join(&self.holder)
    }

    /// What is told to who comes late.
    #[must_use]
    pub fn refusal(&self) -> Error {
        let message = format!("the lease {} has ended meanwhile; its host let nothing in", self.holder);
        Error::new(Reason::LeaseNotActive, message).with("lease_id", self.holder.clone())
    }
}

/// The folder of the fences, in the folder of Drydock's on a machine.
pub const FENCES: &str = "fences";

impl Place {
    /// The same place, as long as this lease is what it was.
    #[must_use]
    pub fn behind(self, fence: Fence) -> Self {
        Self { host: Arc::new(Fenced { inner: self.host, fence }), ..self }
    }
}

/// A machine, for one lease.
struct Fenced {
    inner: Arc<dyn Host>,
    fence: Fence,
}

impl Fenced {
    fn marked(&self, mut command: Command) -> Command {
        command.fences.push(self.fence.clone());
        command
    }
}

#[async_trait]
impl Host for Fenced {
    async fn spawn(&self, command: Command) -> Result<Process> {
        self.inner.spawn(self.marked(command)).await
    }

    async fn run(&self, run: Run) -> Result<Ran> {
        let command = self.marked(run.command);
        self.inner.run(Run { command, ..run }).await
    }

    async fn launch(&self, command: Command, log: &Path) -> Result<i64> {
        self.inner.launch(self.marked(command), log).await
    }

    async fn make_folder(&self, path: &Path) -> Result<()> {
        self.inner.make_folder_behind(path, std::slice::from_ref(&self.fence)).await
    }

    async fn make_folder_behind(&self, path: &Path, fences: &[Fence]) -> Result<()> {
        let fences = [fences, std::slice::from_ref(&self.fence)].concat();
        self.inner.make_folder_behind(path, &fences).await
    }

    async fn fence_off(&self, fence: &Fence) -> Result<()> {
        self.inner.fence_off(fence).await
    }

    fn data_dir(&self) -> &Path {
        self.inner.data_dir()
    }

    fn address(&self) -> &str {
        self.inner.address()
    }

    fn executable(&self) -> Option<&Path> {
        self.inner.executable()
    }

    async fn machine(&self) -> String {
        self.inner.machine().await
    }

    fn diagnostics(&self) -> Option<Value> {
        self.inner.diagnostics()
    }

    async fn stop(&self, pid: i64, lease_id: &str, grace: Duration) -> Result<()> {
        self.inner.stop(pid, lease_id, grace).await
    }

    async fn is_running(&self, pid: i64, lease_id: &str) -> bool {
        self.inner.is_running(pid, lease_id).await
    }

    async fn end_strays(&self, lease_id: &str) -> Result<()> {
        self.inner.end_strays(lease_id).await
    }

    async fn remove_folder(&self, path: &Path) -> Result<()> {
        self.inner.remove_folder(path).await
    }

    async fn read_text(&self, path: &Path) -> Result<Option<String>> {
        self.inner.read_text(path).await
    }

    async fn write_text(&self, path: &Path, text: &str) -> Result<()> {
        self.inner.write_text(path, text).await
    }

    async fn free_bytes(&self, path: &Path) -> Result<u64> {
        self.inner.free_bytes(path).await
    }

    async fn question(&self, script: &str, word: &Path) -> Result<String> {
        self.inner.question(script, word).await
    }

    async fn used_bytes(&self, path: &Path) -> Result<u64> {
        self.inner.used_bytes(path).await
    }

    async fn port_is_free(&self, port: u16) -> bool {
        self.inner.port_is_free(port).await
    }

    async fn answers(&self, address: &str, port: u16) -> bool {
        self.inner.answers(address, port).await
    }

    async fn files(&self, root: &Path) -> Result<Arc<dyn Files>> {
        self.inner.files(root).await
    }
}
