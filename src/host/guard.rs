//! In whose name a step works on machines. Who takes a task over from a daemon that let its claim lapse fences that one's step
//! off, wherever it comes to, before it does anything there, and ends what that one began.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::Mutex;

use super::fence::Fence;
use super::files::Files;
use super::{Command, Host, Place, Process, Ran, Run};
use crate::error::Result;

/// See the module. The default is nobody's, for one daemon alone.
#[derive(Clone, Default)]
pub struct Guard {
    fences: Vec<Fence>,
    over: Option<Arc<Over>>,
}

/// What is still to be fenced off.
struct Over {
    before: Fence,
    /// Where that was done: by the machine and Drydock's folder there.
    done: Mutex<BTreeSet<(String, PathBuf)>>,
}

impl Guard {
    /// Of a step of this claim. `lapsed` tells that the one before did not end as it should: its daemon may still go on.
    #[must_use]
    pub fn of_step(subject: &str, attempt: i64, lapsed: bool) -> Self {
        let fence = Fence::of_step(subject, attempt);
        let before = Fence { epoch: attempt - 1, ..fence.clone() };
        let over = lapsed.then(|| Arc::new(Over { before, done: Mutex::default() }));
        Self { fences: vec![fence], over }
    }

    /// The same, as long as a lease is what it is as well.
    #[must_use]
    pub fn and(mut self, fence: Option<Fence>) -> Self {
        self.fences.extend(fence);
        self
    }

    /// The machine as the step is to use it.
    #[must_use]
    pub fn host(&self, host: Arc<dyn Host>) -> Arc<dyn Host> {
        let inner = self.fences.iter().cloned().fold(host, |host, fence| host.behind(fence));
        match &self.over {
            Some(over) => Arc::new(TakenOver { inner, over: Arc::clone(over) }),
            None => inner,
        }
    }

    /// The place as the step is to use it.
    #[must_use]
    pub fn place(&self, place: Place) -> Place {
        Place { host: self.host(place.host), ..place }
    }
}

/// A machine to which the daemon comes that held the claim before.
struct TakenOver {
    inner: Arc<dyn Host>,
    over: Arc<Over>,
}

impl TakenOver {
    /// The machine, once the step before is shut out there and nothing of it runs.
    async fn mine(&self) -> Result<&Arc<dyn Host>> {
        let mut done = self.over.done.lock().await;
        let place = (self.inner.machine().await, self.inner.data_dir().to_owned());
        if !done.contains(&place) {
            self.inner.fence_off(&self.over.before).await?;
            self.inner.end_step(&self.over.before.holder).await?;
            done.insert(place);
        }
        Ok(&self.inner)
    }
}

#[async_trait]
impl Host for TakenOver {
    fn behind(self: Arc<Self>, fence: Fence) -> Arc<dyn Host> {
        Arc::new(Self { inner: Arc::clone(&self.inner).behind(fence), over: Arc::clone(&self.over) })
    }

    async fn spawn(&self, command: Command) -> Result<Process> {
        self.mine().await?.spawn(command).await
    }

    async fn run(&self, run: Run) -> Result<Ran> {
        self.mine().await?.run(run).await
    }

    async fn launch(&self, command: Command, log: &Path) -> Result<i64> {
        self.mine().await?.launch(command, log).await
    }

    async fn make_folder(&self, path: &Path) -> Result<()> {
        self.mine().await?.make_folder(path).await
    }

    async fn fence_off(&self, fence: &Fence) -> Result<()> {
        self.mine().await?.fence_off(fence).await
    }

    async fn end_step(&self, holder: &str) -> Result<()> {
        self.mine().await?.end_step(holder).await
    }

    async fn stop(&self, pid: i64, lease_id: &str, grace: Duration) -> Result<()> {
        self.mine().await?.stop(pid, lease_id, grace).await
    }

    async fn end_strays(&self, lease_id: &str) -> Result<()> {
        self.mine().await?.end_strays(lease_id).await
    }

    async fn remove_folder(&self, path: &Path) -> Result<()> {
        self.mine().await?.remove_folder(path).await
    }

    async fn write_text(&self, path: &Path, text: &str) -> Result<()> {
        self.mine().await?.write_text(path, text).await
    }

    async fn files(&self, root: &Path) -> Result<Arc<dyn Files>> {
        self.mine().await?.files(root).await
    }

    async fn read_text(&self, path: &Path) -> Result<Option<String>> {
        // What it says is what the step goes on from: nobody else may still change it.
        self.mine().await?.read_text(path).await
    }

    async fn is_running(&self, pid: i64, lease_id: &str) -> bool {
        self.inner.is_running(pid, lease_id).await
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
}
