//! The machine that the daemon runs on. It isolates nothing from its own user.

mod fences;
mod files;
mod folder;
mod marks;
mod probe;
mod process_table;
mod program;
mod spawn;
mod supervisor;
mod sweep;
mod tree;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::Signal;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use self::fences::{Fences, Passage};
use self::files::LocalFiles;
use self::marks::Marks;
use self::process_table::{Candidate, LEASE_VARIABLE, PROCESS_VARIABLE, strike};
use self::spawn::Spawner;
use self::supervisor::Supervisor;
use super::fence::{self, Fence, STEP_VARIABLE};
use super::files::Files;
use super::{Command, Host, Process, Ran, Run};
use crate::error::{Error, Reason, Result};

pub use self::supervisor::{SUBCOMMAND, supervise};

const ADDRESS: &str = "127.0.0.1";
/// What survives KILL this long hangs in the kernel.
const SURVIVES: Duration = Duration::from_secs(5);

/// This machine.
#[derive(Clone)]
pub struct LocalHost {
    data_dir: PathBuf,
    executable: PathBuf,
    spawner: Arc<Spawner>,
    marks: Arc<Marks>,
    passage: Passage,
}

impl LocalHost {
    /// `data_dir` is absolute; `executable` is this binary, whose subcommand [`SUBCOMMAND`] runs [`supervise`].
    #[must_use]
    pub fn new(data_dir: PathBuf, executable: PathBuf) -> Self {
        let marks = Arc::new(Marks::default());
        let spawner = Arc::new(Spawner::new(Supervisor::new(executable.clone()), Arc::clone(&marks)));
        Self { data_dir, executable, spawner, marks, passage: Passage::default() }
    }

    /// Keeps out what comes late in the name of a lease that has ended. One daemon alone on its database needs it not: what it
    /// does late it finds itself.
    #[must_use]
    pub fn fenced(self) -> Self {
        let fences = Some(Arc::new(Fences::new(self.data_dir.clone())));
        Self { passage: Passage { fences, ..self.passage }, ..self }
    }

    /// Tells the newest id of a lease or resource that there was when this daemon began; empty, there was none. Until it
    /// is told, processes are looked for in the name of all that ends, after that only where there may be some.
    pub fn inherits_up_to(&self, newest: &str) {
        self.marks.inherits_up_to(newest);
    }
}

/// Runs file work on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(Error::internal("file work was broken off", error)))
}

/// TERM, then KILL after `grace`, to all that is `wanted`; whether none is left. An error when that cannot be told.
async fn end_all(grace: Duration, wanted: impl Fn(&mut Candidate) -> bool + Clone + Send + 'static) -> Result<bool> {
    let unread = |error| Error::internal("the process table cannot be read", error);
    let look = |signal: Option<Signal>| {
        let wanted = wanted.clone();
        blocking(move || strike(signal, wanted).map_err(unread))
    };
    let start = Instant::now();
    if look((!grace.is_zero()).then_some(Signal::TERM)).await? == 0 {
        return Ok(true);
    }
    let mut pause = Duration::from_millis(2);
    while start.elapsed() < grace + SURVIVES {
        let signal = (start.elapsed() >= grace).then_some(Signal::KILL);
        if look(signal).await? == 0 {
            return Ok(true);
        }
        tree::wait(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    Ok(false)
}

#[async_trait]
impl Host for LocalHost {
    fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    fn address(&self) -> &str {
        ADDRESS
    }

    async fn machine(&self) -> String {
        let boot = tokio::fs::read_to_string("/proc/sys/kernel/random/boot_id").await.unwrap_or_default();
        if boot.trim().is_empty() { ADDRESS.to_owned() } else { boot.trim().to_owned() }
    }

    fn executable(&self) -> Option<&Path> {
        Some(&self.executable)
    }

    fn behind(mut self: Arc<Self>, fence: Fence) -> Arc<dyn Host> {
        Arc::make_mut(&mut self).passage.behind.push(fence);
        self
    }

    async fn spawn(&self, mut command: Command) -> Result<Process> {
        fence::mark(&mut command, &self.passage.behind);
        let _passed = self.passage.enter().await?;
        self.spawner.spawn(command).await
    }

    async fn run(&self, run: Run) -> Result<Ran> {
        super::run::run(self, run).await
    }

    async fn launch(&self, command: Command, log: &Path) -> Result<i64> {
        let _passed = self.passage.enter().await?;
        self.spawner.launch(command, log).await
    }

    async fn stop(&self, pid: i64, lease_id: &str, grace: Duration) -> Result<()> {
        let _passed = self.passage.enter().await?;
        let Ok(group) = i32::try_from(pid) else { return Ok(()) };
        let lease = lease_id.to_owned();
        // The launched process leads a group; what left the group has the leader's process id.
        let tree = Candidate::read(group)
            .filter(|_| group > 0)
            .and_then(|mut leader| leader.variable(PROCESS_VARIABLE).map(<[u8]>::to_vec));
        let wanted = move |candidate: &mut Candidate| {
            candidate.names(LEASE_VARIABLE, &lease)
                && (candidate.group() == group
                    || tree.as_deref().is_some_and(|tree| candidate.variable(PROCESS_VARIABLE) == Some(tree)))
        };
        if end_all(grace, wanted).await? {
            return Ok(());
        }
        Err(Error::new(Reason::Internal, format!("process {pid} of lease {lease_id} survives SIGKILL")))
    }

    async fn is_running(&self, pid: i64, lease_id: &str) -> bool {
        let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0);
        pid.and_then(Candidate::read).is_some_and(|mut process| process.names(LEASE_VARIABLE, lease_id))
    }

    async fn end_strays(&self, lease_id: &str) -> Result<()> {
        let _passed = self.passage.enter().await?;
        let Some(mark) = self.marks.look(lease_id) else { return Ok(()) };
        let lease = lease_id.to_owned();
        // A process id as well: what a user runs with just the lease's name in its environment is not ours.
        let wanted = move |candidate: &mut Candidate| {
            candidate.names(LEASE_VARIABLE, &lease) && candidate.variable(PROCESS_VARIABLE).is_some()
        };
        if end_all(Duration::ZERO, wanted).await? {
            self.marks.nothing_left(lease_id, mark);
            return Ok(());
        }
        Err(Error::new(Reason::Internal, format!("processes of lease {lease_id} survive SIGKILL")))
    }

    async fn end_step(&self, holder: &str) -> Result<()> {
        let step = holder.to_owned();
        if end_all(Duration::ZERO, move |candidate: &mut Candidate| candidate.names(STEP_VARIABLE, &step)).await? {
            return Ok(());
        }
        Err(Error::new(Reason::Internal, format!("processes of {holder} survive SIGKILL")))
    }

    async fn make_folder(&self, path: &Path) -> Result<()> {
        let _passed = self.passage.enter().await?;
        if path.is_dir() {
            return Ok(());
        }
        let path = path.to_owned();
        blocking(move || folder::make(&path)).await
    }

    async fn fence_off(&self, fence: &Fence) -> Result<()> {
        match &self.passage.fences {
            Some(all) => all.put_up(fence).await,
            None => Ok(()),
        }
    }

    async fn remove_folder(&self, path: &Path) -> Result<()> {
        let absent = || path.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        folder::parts_below(&self.data_dir, path)?;
        let _passed = self.passage.enter().await?;
        if absent() {
            return Ok(());
        }
        let (data_dir, path) = (self.data_dir.clone(), path.to_owned());
        blocking(move || folder::remove(&data_dir, &path)).await
    }

    async fn read_text(&self, path: &Path) -> Result<Option<String>> {
        let path = path.to_owned();
        blocking(move || folder::read_text(&path)).await
    }

    async fn write_text(&self, path: &Path, text: &str) -> Result<()> {
        let _passed = self.passage.enter().await?;
        let (path, text) = (path.to_owned(), text.to_owned());
        blocking(move || folder::write_text(&path, &text)).await
    }

    async fn free_bytes(&self, path: &Path) -> Result<u64> {
        let path = path.to_owned();
        blocking(move || {
            let system = rustix::fs::statvfs(&path)
                .map_err(|error| Error::internal(format!("free space of {} is unknown", path.display()), error))?;
            Ok(system.f_bavail.saturating_mul(system.f_frsize))
        })
        .await
    }

    async fn used_bytes(&self, path: &Path) -> Result<u64> {
        let path = path.to_owned();
        blocking(move || folder::used_bytes(&path)).await
    }

    async fn port_is_free(&self, port: u16) -> bool {
        TcpListener::bind((ADDRESS, port)).is_ok()
    }

    async fn answers(&self, address: &str, port: u16) -> bool {
        probe::answers(address, port).await
    }

    async fn files(&self, root: &Path) -> Result<Arc<dyn Files>> {
        let (root, passage) = (root.to_owned(), self.passage.clone());
        blocking(move || Ok(Arc::new(LocalFiles::open(&root, passage)?) as Arc<dyn Files>)).await
    }
}
