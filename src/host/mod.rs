//! How bytes reach a machine. A [`Host`] runs commands and holds files; it knows nothing of leases but their ids.
//!
//! To add a way to reach machines: one file that implements [`Host`], and a blueprint that hands it out in its endpoint.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

use self::fence::Fence;
use crate::error::Result;

/// Where a lease's calls go: a machine, the folder that is their root, and how much may be written there.
#[derive(Clone)]
pub struct Place {
    /// The machine.
    pub host: Arc<dyn Host>,
    /// Working directory of commands and root of files; absolute. Made when first used.
    pub root: PathBuf,
    /// Bytes that may lie under the root; `None` is no limit.
    pub quota: Option<u64>,
}

/// A command to start. `argv` are exact words; a client never makes a shell string.
#[derive(Debug, Clone, Default)]
pub struct Command {
    /// At least one word; the program is looked up in PATH.
    pub argv: Vec<String>,
    /// Absolute working directory.
    pub cwd: PathBuf,
    /// Added to the scrubbed environment (PATH, HOME, USER, LANG, TMPDIR, `DRYDOCK_LEASE_ID`).
    pub env: BTreeMap<String, String>,
    /// The lease it runs for: goes into `DRYDOCK_LEASE_ID`, by which strays are found.
    pub lease_id: String,
    /// The process id of the API, `proc_…`: goes into `DRYDOCK_PROCESS_ID`.
    pub process_id: String,
    /// stderr goes where stdout goes.
    pub merge_stderr: bool,
    /// Whether stdin is a pipe; else it is empty.
    pub stdin: bool,
    /// In whose names it runs: set by a host that is [`Host::behind`] them.
    pub fences: Vec<Fence>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, 0..255.
    Code(i32),
    /// By this signal's number on the host.
    Signal(i32),
}

/// A started process. Dropping it kills the whole tree.
pub struct Process {
    /// On the host.
    pub pid: i64,
    /// `None` when the command wanted no stdin.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Standard output, or both when merged.
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// `None` when merged.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Signals, and the end.
    pub control: Box<dyn Control>,
}

/// Power over a started process.
#[async_trait]
pub trait Control: Send + Sync {
    /// Sends a signal, by its number on the host, to the whole group.
    ///
    /// # Errors
    /// `INTERNAL` when the host refuses; a process that is gone is no error.
    async fn signal(&self, number: i32) -> Result<()>;

    /// Returns when the process itself has ended; may be called again.
    ///
    /// # Errors
    /// `OUTCOME_UNKNOWN` when the link was lost.
    async fn wait(&self) -> Result<Exit>;

    /// TERM to the tree, after `grace` KILL, and whoever hides from the group is found by its environment. Returns when
    /// nothing of the tree is left.
    async fn end(&self, grace: Duration);
}

/// A command that is run to its end, for blueprints.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// What.
    pub command: Command,
    /// All of stdin.
    pub input: Vec<u8>,
    /// The tree is killed then.
    pub timeout: Duration,
}

/// What such a command left.
#[derive(Debug, Clone)]
pub struct Ran {
    /// How it ended; `None` when the time was over.
    pub exit: Option<Exit>,
    /// At most 1 MiB, the first of it.
    pub stdout: Vec<u8>,
    /// The last 2 KiB of stderr, repaired UTF-8.
    pub stderr_tail: String,
}

impl Ran {
    /// Exit code 0.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.exit == Some(Exit::Code(0))
    }
}

/// A machine.
#[async_trait]
pub trait Host: Send + Sync {
    /// Where Drydock's folders are on this machine; absolute. Below: `leases/<id>`, `resources/<id>`, `cache/`.
    fn data_dir(&self) -> &Path;

    /// The address under which the machine's ports are reached from the daemon, for example `127.0.0.1`.
    fn address(&self) -> &str;

    /// Drydock's own binary on this machine, absolute; `None` where it is not installed.
    fn executable(&self) -> Option<&Path> {
        None
    }

    /// Which machine it is: two hosts of one machine say the same, whatever their addresses are. Its address when the
    /// machine cannot be asked.
    async fn machine(&self) -> String {
        self.address().to_owned()
    }

    /// What is kept on the machine for us, for operators: a few counts. Asks nothing.
    fn diagnostics(&self) -> Option<serde_json::Value> {
        None
    }

    /// Starts a command in its own process group. A program that does not exist ends with code 127, not with an error.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for words that no program can get (NUL bytes), `FILE_NOT_FOUND` for a missing working
    /// directory, `HOST_UNREACHABLE` when nothing could be started and nothing was.
    async fn spawn(&self, command: Command) -> Result<Process>;

    /// Runs a command to its end.
    ///
    /// # Errors
    /// As [`Host::spawn`].
    async fn run(&self, run: Run) -> Result<Ran>;

    /// Starts a command that outlives the daemon (a web server), its output appended to `log`; answers its pid.
    ///
    /// # Errors
    /// As [`Host::spawn`].
    async fn launch(&self, command: Command, log: &Path) -> Result<i64>;

    /// Ends a launched process's tree: TERM, then KILL after `grace`. The pid is only trusted when its environment
    /// names this lease. Gone already is fine.
    ///
    /// # Errors
    /// `INTERNAL` when something of it survives.
    async fn stop(&self, pid: i64, lease_id: &str, grace: Duration) -> Result<()>;

    /// Whether a launched process still runs for this lease.
    async fn is_running(&self, pid: i64, lease_id: &str) -> bool;

    /// Kills every process whose environment names this lease, except launched ones of other leases.
    ///
    /// # Errors
    /// `INTERNAL` when something survives KILL.
    async fn end_strays(&self, lease_id: &str) -> Result<()>;

    /// Makes a folder with its parents, 0700.
    ///
    /// # Errors
    /// `NO_SPACE`, `PERMISSION_DENIED`, …
    async fn make_folder(&self, path: &Path) -> Result<()>;

    /// The same machine, for what is done in this name: whatever changes something there is refused with `LEASE_NOT_ACTIVE`
    /// once the name is fenced off. What only looks is not. A host that has no fences stays as it is.
    fn behind(self: Arc<Self>, fence: Fence) -> Arc<dyn Host>;

    /// From now on nothing is changed in this name, in this epoch or one before. What has begun is there to be found by
    /// [`Host::end_strays`]. A host that has no fences does nothing.
    ///
    /// # Errors
    /// As [`Host::write_text`].
    async fn fence_off(&self, fence: &Fence) -> Result<()> {
        let _ = fence;
        Ok(())
    }

    /// Kills what steps have begun in this name of a [`Fence::of_step`], but not what they launched.
    ///
    /// # Errors
    /// `INTERNAL` when something survives KILL.
    async fn end_step(&self, holder: &str) -> Result<()> {
        let _ = holder;
        Ok(())
    }

    /// Removes a folder that Drydock made, with all that is in it, read-only entries too; missing is fine. Refuses what is not under
    /// [`Host::data_dir`].
    ///
    /// # Errors
    /// `INTERNAL` with the entry that would not go.
    async fn remove_folder(&self, path: &Path) -> Result<()>;

    /// A small file's text; `None` when there is none.
    ///
    /// # Errors
    /// `INTERNAL` when it cannot be read.
    async fn read_text(&self, path: &Path) -> Result<Option<String>>;

    /// Writes a small file, mode 0600, by way of a temporary sibling.
    ///
    /// # Errors
    /// `NO_SPACE`, `PERMISSION_DENIED`, …
    async fn write_text(&self, path: &Path, text: &str) -> Result<()>;

    /// Bytes free for us on the file system that holds `path`.
    ///
    /// # Errors
    /// `INTERNAL` when the host does not tell.
    async fn free_bytes(&self, path: &Path) -> Result<u64>;

    /// What a short script of Drydock's own prints, `word` being its `$1`. On a machine that is reached from afar it needs no
    /// place of a command, so that a busy one answers too.
    ///
    /// # Errors
    /// `HOST_UNREACHABLE`; `SESSIONS_EXHAUSTED` when the machine lives but is too busy to answer; `OUTCOME_UNKNOWN` when the
    /// answer was lost.
    async fn question(&self, script: &str, word: &Path) -> Result<String> {
        let argv = ["sh", "-c", script, "drydock", &word.to_string_lossy()].map(str::to_owned).to_vec();
        let command = Command { argv, cwd: "/".into(), ..Command::default() };
        let ran = self.run(Run { command, input: Vec::new(), timeout: Duration::from_secs(10) }).await?;
        Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
    }

    /// Bytes used by a folder and all below it, not following links.
    ///
    /// # Errors
    /// `INTERNAL` when it cannot be read.
    async fn used_bytes(&self, path: &Path) -> Result<u64>;

    /// Whether nothing listens on this TCP port of `address` now.
    async fn port_is_free(&self, port: u16) -> bool;

    /// Whether a server on that machine answers HTTP at this address and port; where that cannot be seen from here, whether
    /// it listens.
    async fn answers(&self, address: &str, port: u16) -> bool;

    /// The files under a root, for the filesystem interface. In a name, the root was made in it before.
    ///
    /// # Errors
    /// `FILE_NOT_FOUND` when the root cannot be opened.
    async fn files(&self, root: &Path) -> Result<Arc<dyn files::Files>>;
}

pub mod fence;
pub mod files;
pub mod guard;
pub mod local;
pub mod run;
pub mod ssh;
pub mod turns;
