//! One OpenSSH master: dialled, given channels to open, and ended by its number.
//!
//! It is started here and not by the `openssh` crate, whose builder keeps no time, no environment and no number of the process;
//! the crate's native mux then speaks to its socket. A session that is resumed so does not block when it is dropped.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use openssh::{Session, Stdio as Pipe};
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, kill_process_group, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout};

use super::channel::{self, Parts};
use super::failure::{self, Failure, Log};
use super::link::Channel;
use super::pool::Place;
use super::target::Target;
use super::{config, folder};
use crate::error::{Error, Reason};

/// A master that works answers this fast whether it lives.
const ANSWERS: Duration = Duration::from_secs(1);

/// What a channel is opened for.
#[derive(Debug, Clone)]
pub(super) enum Want {
    /// A line for the login shell.
    Command(String),
    /// A subsystem by name.
    Subsystem(String),
}

/// Why no channel was opened. Nothing ran.
#[derive(Debug)]
pub(super) enum Miss {
    /// The machine takes no more sessions on this connection.
    Refused,
    /// The master is no more.
    Gone,
    /// No answer in time.
    Silent,
    /// Something else.
    Failed(Error),
}

/// A connection that others share.
pub(super) struct Master {
    pub(super) number: u32,
    pub(super) pid: Pid,
    pub(super) since: Instant,
    session: Arc<Session>,
    socket: PathBuf,
    life: AsyncFd<OwnedFd>,
}

impl Master {
    /// Connects and logs in.
    pub(super) async fn dial(target: &Target, dir: &Path, number: u32, within: Duration) -> Result<Self, Failure> {
        usable(target)?;
        let socket = dir.join(number.to_string());
        let log = Log::new(&socket.with_extension("log"), dir);
        // Of an earlier attempt; there need be none. At a socket that exists, ssh would go on without one.
        for path in [&log.jump, &log.own, &socket] {
            let _ = tokio::fs::remove_file(path).await;
        }
        let mut ssh = config::ssh(dir);
        ssh.arg("-E").arg(&log.own).arg("-S").arg(&socket).args(["-M", "-N", "-f", "--", &target.address]);
        // A group of its own: Ctrl-C in the daemon's terminal is not meant for it.
        let mut child = ssh.process_group(0).spawn().map_err(|error| failure::not_started("ssh", &error))?;
        let group = child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        match timeout(within, child.wait()).await {
            // It has logged in and goes on in the background.
            Ok(Ok(status)) if status.success() => {}
            Ok(Ok(_)) => return Err(failure::of_log(target, &log).await),
            Ok(Err(error)) => return Err(failure::not_started("ssh", &error)),
            Err(_) => {
                // Also the one that goes through the jump host.
                group.map(|group| kill_process_group(group, Signal::KILL));
                let _ = child.wait().await;
                let place = format!("{} port {}", target.address, target.port);
                let message =
                    format!("{} cannot be reached at {place}: no login within {} s", target.id, within.as_secs());
                return Err(Failure::new(Reason::HostUnreachable, message));
            }
        }
        Self::adopt(number, &socket).await.map_err(|error| {
            let message = format!("the ssh to {} ended as soon as it was started", target.id);
            tracing::debug!(host = target.id, %error, "a master cannot be asked");
            folder::kill(&socket);
            Failure { busy: true, ..Failure::new(Reason::HostUnreachable, message) }
        })
    }

    /// Finds out which process listens on the socket.
    async fn adopt(number: u32, socket: &Path) -> io::Result<Self> {
        let mut check = tokio::process::Command::new("ssh");
        check.args(["-F", "none", "-O", "check", "-S"]).arg(socket).arg("pid").env("LC_ALL", "C");
        check.stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(ANSWERS * 5, check.output()).await.map_err(|_| io::ErrorKind::TimedOut)??;
        let text = String::from_utf8_lossy(&output.stderr);
        // Master running (pid=4711)
        let pid = text.split_once("pid=").and_then(|(_, rest)| rest.split(')').next()?.parse().ok());
        let pid = pid.and_then(Pid::from_raw).ok_or_else(|| io::Error::other(text.trim().to_owned()))?;
        #[expect(deprecated, reason = "its successor is unsafe; an owned descriptor keeps its number")]
        let life = AsyncFd::with_interest(pidfd_open(pid, PidfdFlags::empty())?, Interest::READABLE)?;
        Ok(Self {
            number,
            pid,
            since: Instant::now(),
            session: Arc::new(Session::resume_mux(socket.into(), None)),
            socket: socket.to_owned(),
            life,
        })
    }

    /// Opens a channel; the place goes with it and is free again when the channel is closed on the machine. In a task: a
    /// caller that leaves cannot leave a channel behind that nobody counts.
    pub(super) async fn open(&self, want: Want, within: Duration, mut place: Place) -> Result<Channel, Miss> {
        let session = Arc::clone(&self.session);
        let opening = tokio::spawn(async move {
            let mut command = match want {
                Want::Command(line) => Session::to_raw_command(session, line),
                Want::Subsystem(name) => Session::to_subsystem(session, name),
            };
            command.stdin(Pipe::piped()).stdout(Pipe::piped()).stderr(Pipe::piped());
            let mut child = match timeout(within, command.spawn()).await {
                Err(_) => return Err(Miss::Silent),
                Ok(Err(error)) => return Err(miss(error, &mut place)),
                Ok(Ok(child)) => child,
            };
            place.opened();
            let (stdin, stdout, stderr) = (child.stdin().take(), child.stdout().take(), child.stderr().take());
            let (Some(stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
                return Err(Miss::Failed(Error::internal("a channel has no pipes", io::Error::other("no pipe"))));
            };
            Ok(channel::hold(Parts { stdin, stdout, stderr }, child, place))
        });
        opening
            .await
            .unwrap_or_else(|error| Err(Miss::Failed(Error::internal("opening a channel was broken off", error))))
    }

    /// Whether the process itself still does its work; it knows nothing of the network.
    pub(super) async fn answers(&self) -> bool {
        matches!(timeout(ANSWERS, self.session.check()).await, Ok(Ok(())))
    }

    /// Ends it, whatever it does, also when it is stopped.
    pub(super) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Asks it to end; it says goodbye to the machine.
    pub(super) fn end(&self) {
        self.signal(Signal::TERM);
    }

    fn signal(&self, signal: Signal) {
        // It may be gone already; by this descriptor no other process is hit.
        let _ = pidfd_send_signal(self.life.get_ref(), signal);
    }

    /// Returns when the process has ended.
    pub(super) async fn gone(&self) {
        // A descriptor that cannot be watched is one of a process that is gone.
        let _ = self.life.readable().await;
    }

    /// Removes its files; ssh does so itself unless it is killed.
    pub(super) fn clean(&self) {
        for path in [self.socket.clone(), self.socket.with_extension("log")] {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn miss(error: openssh::Error, place: &mut Place) -> Miss {
    use openssh::Error as Ssh;
    match error {
        Ssh::Disconnected => Miss::Gone,
        Ssh::SshMux(error) => {
            let text = error.to_string();
            if text.contains("refused by peer") {
                place.refused();
                Miss::Refused
            } else {
                tracing::debug!(error = text, "a master does not open a channel");
                Miss::Gone
            }
        }
        Ssh::InvalidCommand => Miss::Failed(Error::invalid("a command has a NUL byte")),
        error => Miss::Failed(Error::internal("a channel could not be opened", error)),
    }
}

/// What ssh would only hint at: files that are not there, or that it will not take.
fn usable(target: &Target) -> Result<(), Failure> {
    let refuse = |message: String| Err(Failure::new(Reason::HostAuthFailed, message));
    let files = [("key", &target.identity_file), ("certificate", &target.certificate_file)];
    for (what, path) in files.iter().filter_map(|(what, path)| Some((*what, path.as_deref()?))) {
        let facts = match File::open(path).and_then(|file| file.metadata()) {
            Ok(facts) => facts,
            Err(error) => {
                return refuse(format!(
                    "the {what} file {} cannot be read by the daemon's user: {error}",
                    path.display()
                ));
            }
        };
        let private = what == "key" && path.extension().is_none_or(|end| end != "pub");
        if private && facts.uid() == geteuid().as_raw() && facts.permissions().mode() & 0o077 != 0 {
            let path = path.display();
            return refuse(format!("others may read the key file {path}, so ssh does not take it: chmod 600 {path}"));
        }
    }
    match &target.identity_agent {
        Some(path) if !path.exists() => {
            refuse(format!("there is no agent at {}: start it, or give a key file", path.display()))
        }
        _ => Ok(()),
    }
}
