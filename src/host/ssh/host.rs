//! A machine that is reached over a [`Link`].

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::clerk::{Clerk, Launch};
use super::crew::Crew;
use super::keeper::{launched, strays};
use super::link::Link;
use super::reason::explain;
use super::sftp::Sftp;
use super::words::spec;
use crate::error::{Error, Reason, Result};
use crate::host::fence::{self, Fence, STEP_VARIABLE};
use crate::host::files::Files;
use crate::host::{Command, Exit, Host, Process, Ran, Run};

/// What survives KILL this long hangs in the kernel.
const SURVIVES: Duration = Duration::from_secs(5);
/// A longer text goes through a pipe: the clerk's shell reads its requests byte by byte.
const SHORT: usize = 8 * 1024;
/// Work on many files.
const LONG_WORK: Duration = Duration::from_mins(10);
/// A machine that answers later than this is busy, if it lives.
const BUSY: Duration = Duration::from_secs(8);
/// From the start of a launched program until it can be known by its environment.
const KNOWN: u32 = 1000;

/// A machine that is reached over ssh.
#[derive(Clone)]
pub struct SshHost {
    crew: Arc<Crew>,
    sftp: Arc<Sftp>,
    data_dir: PathBuf,
    address: String,
    /// Whether other daemons may come here, and late.
    fenced: bool,
    /// In whose names it is used.
    behind: Vec<Fence>,
}

impl SshHost {
    /// `data_dir` is absolute, on the machine; `address` is where its ports are reached. Nothing is connected before it is
    /// needed.
    #[must_use]
    pub fn new(link: Arc<dyn Link>, data_dir: PathBuf, address: String) -> Self {
        let sftp = Sftp::new(Arc::clone(&link), address.clone());
        Self { crew: Crew::new(link, data_dir.clone()), sftp, data_dir, address, fenced: false, behind: Vec::new() }
    }

    /// Keeps out what comes late in the name of a lease that has ended; see [`Host::fence_off`].
    #[must_use]
    pub fn fenced(self, fenced: bool) -> Self {
        Self { fenced, ..self }
    }

    async fn clerk(&self) -> Result<Arc<Clerk>> {
        self.crew.clerk().await
    }

    /// How many processes a line finds and strikes. In a name the clerk does it, who can look and strike at once.
    async fn strike(&self, line: String) -> Result<u64> {
        if self.behind.is_empty() {
            return self.crew.keeper().await?.count(line).await;
        }
        self.clerk().await?.count(&line, &self.data_dir, &self.behind).await
    }

    /// Kills all whose environment holds this, until there is none.
    async fn kill(&self, what: &str, line: String) -> Result<()> {
        let start = Instant::now();
        let mut pause = Duration::from_millis(2);
        while self.strike(line.clone()).await? > 0 {
            if start.elapsed() >= SURVIVES {
                return Err(Error::new(Reason::Internal, format!("{what} survive SIGKILL")));
            }
            let _ = timeout(pause, std::future::pending::<()>()).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Runs a script of ours with `words`.
    async fn work(&self, script: &str, words: &[&Path], input: Vec<u8>) -> Result<Ran> {
        let mut argv: Vec<_> = ["sh", "-c", script, "drydock"].map(str::to_owned).into();
        for word in words {
            let word = word.to_str().ok_or_else(|| Error::invalid("a path of Drydock's own is not UTF-8"))?;
            argv.push(word.to_owned());
        }
        let env = [("LC_ALL".to_owned(), "C".to_owned())].into();
        let command = Command { argv, cwd: "/".into(), env, stdin: !input.is_empty(), ..Command::default() };
        self.run(Run { command, input, timeout: LONG_WORK }).await
    }
}

fn failed(what: &str, ran: &Ran) -> Error {
    if ran.exit.is_none() {
        return Error::new(Reason::Internal, format!("{what}: it took too long"));
    }
    explain(what, ran.stderr_tail.as_bytes())
}

#[async_trait]
impl Host for SshHost {
    fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    fn address(&self) -> &str {
        &self.address
    }

    async fn machine(&self) -> String {
        let boot = match self.crew.keeper().await {
            Ok(keeper) => keeper.boot().to_owned(),
            Err(_) => String::new(),
        };
        if boot.is_empty() { self.address.clone() } else { boot }
    }

    fn diagnostics(&self) -> Option<Value> {
        let mut shown = self.crew.diagnostics();
        shown["sftp"] = self.sftp.diagnostics();
        Some(shown)
    }

    fn behind(mut self: Arc<Self>, fence: Fence) -> Arc<dyn Host> {
        Arc::make_mut(&mut self).behind.push(fence);
        self
    }

    async fn spawn(&self, mut command: Command) -> Result<Process> {
        fence::mark(&mut command, &self.behind);
        command.fences.clone_from(&self.behind);
        self.crew.spawn(command).await
    }

    async fn run(&self, run: Run) -> Result<Ran> {
        crate::host::run::run(self, run).await
    }

    async fn launch(&self, mut command: Command, log: &Path) -> Result<i64> {
        if command.process_id.is_empty() {
            command.process_id = nameless();
        }
        command.fences.clone_from(&self.behind);
        let launch = Launch {
            spec: &spec(&command, &self.data_dir)?,
            program: command.argv.first().map_or("", String::as_str),
            id: &command.process_id,
            cwd: &command.cwd,
            log,
            records: &self.data_dir.join("launches"),
        };
        let clerk = self.clerk().await?;
        let pid = clerk.launch(&launch).await?;
        // A moment passes between a program's start and its environment's being there to be read, by which it is known.
        for _ in 0..KNOWN {
            if clerk.launched(&launch, pid).await? {
                break;
            }
            let _ = timeout(Duration::from_millis(5), std::future::pending::<()>()).await;
        }
        Ok(pid)
    }

    async fn stop(&self, pid: i64, lease_id: &str, grace: Duration) -> Result<()> {
        if pid <= 1 {
            return Ok(());
        }
        let keeper = self.crew.keeper().await?;
        // The launched process leads a group; what left the group has the leader's process id.
        let id = if keeper.runs(pid, lease_id).await? { keeper.mark_of(pid).await? } else { String::new() };
        let start = Instant::now();
        let first = if grace.is_zero() { Signal::KILL } else { Signal::TERM };
        let mut left = self.strike(launched(Some(first), pid, lease_id, &id)).await?;
        let mut pause = Duration::from_millis(2);
        while left > 0 {
            if start.elapsed() >= grace + SURVIVES {
                let what = format!("process {pid} of lease {lease_id} survives SIGKILL");
                return Err(Error::new(Reason::Internal, what));
            }
            let _ = timeout(pause, std::future::pending::<()>()).await;
            pause = (pause * 2).min(Duration::from_millis(50));
            let signal = (start.elapsed() >= grace).then_some(Signal::KILL);
            left = self.strike(launched(signal, pid, lease_id, &id)).await?;
        }
        Ok(())
    }

    async fn is_running(&self, pid: i64, lease_id: &str) -> bool {
        let Ok(keeper) = self.crew.keeper().await else { return false };
        pid > 0 && keeper.runs(pid, lease_id).await.unwrap_or(false)
    }

    async fn end_strays(&self, lease_id: &str) -> Result<()> {
        let line = strays("DRYDOCK_LEASE_ID", lease_id);
        self.kill(&format!("processes of lease {lease_id}"), line).await
    }

    async fn end_step(&self, holder: &str) -> Result<()> {
        self.kill(&format!("processes of {holder}"), strays(STEP_VARIABLE, holder)).await
    }

    async fn make_folder(&self, path: &Path) -> Result<()> {
        self.clerk().await?.make_folder(path, &self.data_dir, &self.behind).await
    }

    async fn fence_off(&self, fence: &Fence) -> Result<()> {
        if !self.fenced {
            return Ok(());
        }
        self.clerk().await?.fence_off(fence, &self.data_dir).await?;
        // What was let in before has begun, or is about to.
        let keeper = self.crew.keeper().await?;
        let start = Instant::now();
        while keeper.young().await? > 0 {
            if start.elapsed() >= SURVIVES {
                return Err(Error::new(Reason::Internal, "commands of the host hang before their start"));
            }
            let _ = timeout(Duration::from_millis(5), std::future::pending::<()>()).await;
        }
        Ok(())
    }

    async fn remove_folder(&self, path: &Path) -> Result<()> {
        let below = path.strip_prefix(&self.data_dir).ok();
        let normal = |below: &&Path| {
            below.components().next().is_some() && below.components().all(|part| matches!(part, Component::Normal(_)))
        };
        let Some(below) = below.filter(normal) else {
            let (path, data_dir) = (path.display(), self.data_dir.display());
            let what = format!("folder {path} is not removed: it is not below {data_dir}");
            return Err(Error::new(Reason::Internal, what));
        };
        let ran = self.work(include_str!("sh/remove.sh"), &[&self.data_dir, below], Vec::new()).await?;
        if ran.exit == Some(Exit::Code(0)) {
            return Ok(());
        }
        let error = failed(&format!("{} cannot be removed", path.display()), &ran);
        Err(Error::new(Reason::Internal, error.message))
    }

    async fn read_text(&self, path: &Path) -> Result<Option<String>> {
        let Some(bytes) = self.clerk().await?.read(path).await? else { return Ok(None) };
        let text = String::from_utf8(bytes);
        text.map(Some).map_err(|error| Error::internal(format!("{} is not UTF-8", path.display()), error))
    }

    async fn write_text(&self, path: &Path, text: &str) -> Result<()> {
        let what = || format!("{} cannot be written", path.display());
        let mut name = path.file_name().ok_or_else(|| Error::invalid(what()))?.to_owned();
        name.push(format!(".{:016x}", fastrand::u64(..)));
        let temporary = path.with_file_name(name);
        if text.len() <= SHORT && !text.contains('\0') {
            return self.clerk().await?.write(path, &temporary, text, &self.data_dir, &self.behind).await;
        }
        if !self.behind.is_empty() {
            self.clerk().await?.pass(&self.data_dir, &self.behind).await?;
        }
        let way = fence::through(&self.behind, &self.data_dir, path);
        let ran = self.work(include_str!("sh/write.sh"), &[path, &temporary, &way], text.as_bytes().to_vec()).await?;
        if ran.exit == Some(Exit::Code(0)) {
            return Ok(());
        }
        if !self.behind.is_empty() {
            // It may have been shut in between.
            self.clerk().await?.pass(&self.data_dir, &self.behind).await?;
        }
        Err(failed(&what(), &ran))
    }

    async fn free_bytes(&self, path: &Path) -> Result<u64> {
        self.clerk().await?.free_bytes(path).await
    }

    async fn question(&self, script: &str, word: &Path) -> Result<String> {
        let keeper = self.crew.keeper().await?;
        let asked = timeout(BUSY, async {
            let clerk = self.clerk().await?;
            clerk.question(script, word).await.map_err(|error| match error.reason {
                // One that was there is lost: what that means, the next one tells.
                Reason::HostUnreachable => Error { reason: Reason::OutcomeUnknown, ..error },
                _ => error,
            })
        });
        if let Ok(answer) = asked.await {
            return answer;
        }
        keeper.ping().await?;
        let message = format!("{} lives, but all its sessions or its disk are busy", self.address);
        Err(Error::new(Reason::SessionsExhausted, message).retry_after(Duration::from_secs(1)))
    }

    async fn used_bytes(&self, path: &Path) -> Result<u64> {
        let ran = self.work(include_str!("sh/used.sh"), &[path], Vec::new()).await?;
        let used = if ran.succeeded() { std::str::from_utf8(&ran.stdout).ok() } else { None };
        used.and_then(|used| used.trim().parse().ok()).ok_or_else(|| {
            let error = failed(&format!("folder {} cannot be read", path.display()), &ran);
            Error::new(Reason::Internal, error.message)
        })
    }

    async fn port_is_free(&self, port: u16) -> bool {
        let Ok(keeper) = self.crew.keeper().await else { return false };
        !keeper.listens(port).await.unwrap_or(true)
    }

    async fn answers(&self, _address: &str, port: u16) -> bool {
        let Ok(keeper) = self.crew.keeper().await else { return false };
        keeper.listens(port).await.unwrap_or(false)
    }

    async fn files(&self, root: &Path) -> Result<Arc<dyn Files>> {
        self.sftp.files_behind(root, &self.data_dir, &self.behind).await
    }
}

/// A process that no caller will ever name still needs a mark.
pub(super) fn nameless() -> String {
    format!("run_{:016x}", fastrand::u64(..))
}
