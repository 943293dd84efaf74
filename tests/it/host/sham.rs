//! A link to this machine without ssh: each channel is a child process of a login shell, which leads a session's group as
//! it would under sshd. What runs behind it cannot tell the difference, and the tests are quick.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use drydock::error::{Error, Reason, Result};
use drydock::host::ssh::host::SshHost;
use drydock::host::ssh::link::{Channel, Link, Purpose};
use tokio::process::Command;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Which program a machine has as its `sh`, and as the login shell.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shell {
    Dash,
    Bash,
    Busybox,
}

impl Shell {
    fn program(self) -> &'static str {
        match self {
            Self::Dash => "/usr/bin/dash",
            Self::Bash => "/usr/bin/bash",
            Self::Busybox => "/usr/bin/busybox",
        }
    }
}

/// See the module.
pub(crate) struct Sham {
    home: PathBuf,
    login: PathBuf,
    path: String,
    /// What the login shell does before it does what it is asked to.
    pub(crate) rc: String,
    places: Arc<Semaphore>,
    /// Channels that were opened.
    pub(crate) opened: AtomicUsize,
    /// New channels are refused.
    pub(crate) down: AtomicBool,
}

impl Sham {
    /// A machine whose home is `home`.
    pub(crate) fn new(shell: Shell, home: &Path) -> Self {
        let bin = home.join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        let login = bin.join("sh");
        if !login.exists() {
            std::os::unix::fs::symlink(shell.program(), &login).unwrap();
        }
        let path = format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", bin.display());
        Self {
            home: home.to_owned(),
            login,
            path,
            rc: String::new(),
            places: Arc::new(Semaphore::new(24)),
            opened: AtomicUsize::new(0),
            down: AtomicBool::new(false),
        }
    }

    /// A machine that has no setsid(1): all other programs are there.
    pub(crate) fn without_setsid(mut self) -> Self {
        let bin = self.home.join("bin");
        for entry in ["/usr/bin", "/bin"].iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()) {
            let entry = entry.unwrap();
            let link = bin.join(entry.file_name());
            if entry.file_name() != "setsid" && !link.exists() {
                std::os::unix::fs::symlink(entry.path(), link).unwrap();
            }
        }
        self.path = bin.display().to_string();
        self
    }

    /// The machine over this link.
    pub(crate) fn host(self) -> (Arc<Self>, SshHost) {
        let link = Arc::new(self);
        let data = link.home.join(".drydock");
        let host = SshHost::new(Arc::clone(&link) as Arc<dyn Link>, data, "127.0.0.1".to_owned());
        (link, host)
    }
}

#[async_trait]
impl Link for Sham {
    async fn open(&self, command: &str, purpose: Purpose) -> Result<Channel> {
        if self.down.load(Ordering::SeqCst) {
            return Err(Error::new(Reason::HostUnreachable, "the machine is down"));
        }
        let hold: Option<OwnedSemaphorePermit> = match purpose {
            Purpose::Control => None,
            _ => Some(Arc::clone(&self.places).acquire_owned().await.unwrap()),
        };
        self.opened.fetch_add(1, Ordering::SeqCst);
        let mut child = Command::new(&self.login)
            .arg("-c")
            .arg(format!("{}{command}", self.rc))
            .env_clear()
            .env("HOME", &self.home)
            .env("PATH", &self.path)
            .env("USER", "sham")
            .env("LANG", "C.UTF-8")
            .env("LEFT_BY_RC", "x")
            .current_dir(&self.home)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Error::new(Reason::HostUnreachable, "no shell").because(error))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        tokio::spawn(async move { child.wait().await });
        Ok(Channel {
            stdin: Box::new(stdin.unwrap()),
            stdout: Box::new(stdout.unwrap()),
            stderr: Box::new(stderr.unwrap()),
            hold: Box::new(hold),
        })
    }

    async fn subsystem(&self, name: &str, _purpose: Purpose) -> Result<Channel> {
        Err(Error::new(Reason::InterfaceNotSupported, format!("there is no subsystem {name}")))
    }

    async fn reset(&self) {}
}
