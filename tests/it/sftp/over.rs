//! A link to this machine that needs no ssh: each subsystem is a child process. And a host whose files go over it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use drydock::error::{Error, Reason, Result};
use drydock::host::fence::Fence;
use drydock::host::files::Files;
use drydock::host::local::LocalHost;
use drydock::host::ssh::link::{Channel, Link, Purpose};
use drydock::host::ssh::sftp::Sftp;
use drydock::host::{Command, Host, Process, Ran, Run};
use tokio::process;

/// OpenSSH's server, as Debian, Fedora and Alpine have it.
const SERVERS: [&str; 3] =
    ["/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server"];

/// The command line of OpenSSH's sftp server.
pub(crate) fn server() -> Vec<String> {
    let found = SERVERS.into_iter().find(|path| Path::new(path).exists());
    vec![
        found
            .expect("OpenSSH's sftp-server is not installed: it comes with the package openssh-sftp-server")
            .to_owned(),
    ]
}

/// A link whose channels are child processes.
pub(crate) struct Pipes {
    /// What runs as the subsystem.
    pub(crate) server: Mutex<Vec<String>>,
    /// Pids of the servers that were started.
    pub(crate) pids: Mutex<Vec<i32>>,
    /// For each purpose: control, command, bulk.
    pub(crate) opened: [AtomicUsize; 3],
    /// Set when the machine cannot be reached.
    pub(crate) cut: Mutex<bool>,
}

impl Pipes {
    pub(crate) fn new(server: Vec<String>) -> Arc<Self> {
        Arc::new(Self {
            server: Mutex::new(server),
            pids: Mutex::default(),
            opened: Default::default(),
            cut: Mutex::default(),
        })
    }

    fn start(&self, words: &[String]) -> Result<Channel> {
        if *self.cut.lock().unwrap() {
            return Err(Error::new(Reason::HostUnreachable, "the machine does not answer"));
        }
        let mut child = process::Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.pids.lock().unwrap().push(i32::try_from(child.id().unwrap()).unwrap());
        Ok(Channel {
            stdin: Box::new(child.stdin.take().unwrap()),
            stdout: Box::new(child.stdout.take().unwrap()),
            stderr: Box::new(child.stderr.take().unwrap()),
            hold: Box::new(child),
        })
    }
}

#[async_trait]
impl Link for Pipes {
    async fn open(&self, command: &str, _: Purpose) -> Result<Channel> {
        self.start(&["sh".to_owned(), "-c".to_owned(), command.to_owned()])
    }

    async fn subsystem(&self, name: &str, purpose: Purpose) -> Result<Channel> {
        assert_eq!(name, "sftp");
        self.opened[purpose as usize].fetch_add(1, Ordering::Relaxed);
        let server = self.server.lock().unwrap().clone();
        self.start(&server)
    }

    async fn reset(&self) {}
}

/// This machine, but its files go over sftp.
pub(crate) struct OverSftp {
    pub(crate) local: Arc<LocalHost>,
    pub(crate) sftp: Arc<Sftp>,
}

#[async_trait]
impl Host for OverSftp {
    fn behind(self: Arc<Self>, _: Fence) -> Arc<dyn Host> {
        self
    }
    fn data_dir(&self) -> &Path {
        self.local.data_dir()
    }
    fn address(&self) -> &str {
        self.local.address()
    }
    async fn spawn(&self, command: Command) -> Result<Process> {
        self.local.spawn(command).await
    }
    async fn run(&self, run: Run) -> Result<Ran> {
        self.local.run(run).await
    }
    async fn launch(&self, command: Command, log: &Path) -> Result<i64> {
        self.local.launch(command, log).await
    }
    async fn stop(&self, pid: i64, lease_id: &str, grace: Duration) -> Result<()> {
        self.local.stop(pid, lease_id, grace).await
    }
    async fn is_running(&self, pid: i64, lease_id: &str) -> bool {
        self.local.is_running(pid, lease_id).await
    }
    async fn end_strays(&self, lease_id: &str) -> Result<()> {
        self.local.end_strays(lease_id).await
    }
    async fn make_folder(&self, path: &Path) -> Result<()> {
        self.local.make_folder(path).await
    }
    async fn remove_folder(&self, path: &Path) -> Result<()> {
        self.local.remove_folder(path).await
    }
    async fn read_text(&self, path: &Path) -> Result<Option<String>> {
        self.local.read_text(path).await
    }
    async fn write_text(&self, path: &Path, text: &str) -> Result<()> {
        self.local.write_text(path, text).await
    }
    async fn free_bytes(&self, path: &Path) -> Result<u64> {
        self.local.free_bytes(path).await
    }
    async fn used_bytes(&self, path: &Path) -> Result<u64> {
        self.local.used_bytes(path).await
    }
    async fn port_is_free(&self, port: u16) -> bool {
        self.local.port_is_free(port).await
    }
    async fn answers(&self, address: &str, port: u16) -> bool {
        self.local.answers(address, port).await
    }
    async fn files(&self, root: &Path) -> Result<Arc<dyn Files>> {
        self.sftp.files(root).await
    }
}

/// Files of a temporary folder over sftp, and what lies below them.
pub(crate) struct Remote {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) link: Arc<Pipes>,
    pub(crate) sftp: Arc<Sftp>,
    pub(crate) files: Arc<dyn Files>,
}

impl Remote {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let link = Pipes::new(server());
        let sftp = Sftp::new(Arc::clone(&link) as Arc<dyn Link>, "box-1");
        let files = sftp.files(folder.path()).await.unwrap();
        Self { folder, link, sftp, files }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}
