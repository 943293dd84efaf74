//! Boxes that are reached by OpenSSH.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::boxes::{Boxes, OnFault};
use crate::error::{Error, Reason, Result};
use crate::host::Host;
use crate::host::ssh::host::SshHost;
use crate::host::ssh::keys::{self, HostKey};
use crate::host::ssh::link::{Channel, Link, Purpose};
use crate::host::ssh::links::Links;
use crate::host::ssh::sftp;
use crate::host::ssh::target::Target;

/// A look at the host keys.
const SCAN: Duration = Duration::from_secs(10);
/// Few words of a shell, on a slow machine with long start files.
const WORDS: Duration = Duration::from_secs(20);
/// A box that is connected opens a session sooner than this, unless all that it has are taken.
const OPENS: Duration = Duration::from_secs(3);
/// More than this is not read of what a start file prints.
const MOST: u64 = 64 * 1024;
/// Fewer sessions on one connection than this make everything slow.
const FEW_SESSIONS: u64 = 4;
/// Where the home folder stands in the answer.
const MARK: &str = "drydock-home:";
/// The login shell may be any; what it is asked is for a POSIX one.
const GREETING: &str = r#"exec sh -c 'printf "\n%s%s\n" drydock-home: "$HOME"'"#;
/// Printed when nothing hinders any more; without quotes, as it stands in quotes.
const LEAVE: &str = r#"if cd "$1" 2>/dev/null; then
rmdir leases resources 2>/dev/null
n=0
while [ -e run ] && [ "$n" -lt 50 ]; do n=$((n + 1)); sleep 0.1 2>/dev/null || sleep 1; done
if ! [ -e run ] && ! [ -e leases ] && ! [ -e resources ]; then cd / && rm -rf -- "$1" || exit 1; fi
fi
echo drydock-left"#;
const LEFT: &str = "drydock-left";

/// Boxes over the links of a daemon.
pub struct OverSsh {
    links: Arc<Links>,
    fenced: bool,
}

impl OverSsh {
    /// Over these links.
    #[must_use]
    pub fn new(links: Arc<Links>) -> Self {
        Self { links, fenced: false }
    }

    /// Whether other daemons go to the same boxes, so that who comes late is kept out.
    #[must_use]
    pub fn fenced(self, fenced: bool) -> Self {
        Self { fenced, ..self }
    }

    /// What a command prints, on stdout and on stderr; nothing tells its exit code.
    async fn hear(&self, target: &Target, command: &str) -> Result<(String, String)> {
        let link = self.links.of(target)?;
        let mut channel = link.open(command, Purpose::Command).await?;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let read = async {
            let Channel { stdout, stderr, .. } = &mut channel;
            let (mut stdout, mut stderr) = (stdout.take(MOST), stderr.take(MOST));
            tokio::join!(stdout.read_to_end(&mut out), stderr.read_to_end(&mut err))
        };
        if timeout(WORDS, read).await.is_err() {
            let message = format!("{} takes longer than {} s to run a shell", target.address, WORDS.as_secs());
            return Err(Error::new(Reason::HostUnreachable, message));
        }
        Ok((String::from_utf8_lossy(&out).into_owned(), String::from_utf8_lossy(&err).into_owned()))
    }

    /// The home folder, and what was printed before it.
    async fn ask(&self, target: &Target) -> Result<(PathBuf, String)> {
        let (out, err) = self.hear(target, GREETING).await?;
        let home = out.rsplit_once(MARK).and_then(|(before, home)| {
            let home = PathBuf::from(home.lines().next()?);
            home.is_absolute().then(|| (home, before.trim().to_owned()))
        });
        home.ok_or_else(|| {
            let said: String = format!("{out} {err}").trim().chars().take(200).collect();
            let (address, user) = (&target.address, &target.user);
            let message = format!("{address} has no POSIX shell and home folder for {user}; it says {said:?}");
            Error::new(Reason::Internal, message)
        })
    }

    /// Whether it is connected, and yet gives no session.
    async fn is_crowded(&self, target: &Target) -> bool {
        let is_up = || self.links.diagnostics(&target.id).is_some_and(|shown| shown["state"] == "up");
        let Some(link) = self.links.of(target).ok().filter(|_| is_up()) else { return false };
        timeout(OPENS, link.open("exit 0", Purpose::Command)).await.is_err() && is_up()
    }

    /// Sessions that one connection has, found out by opening some at once.
    async fn sessions(&self, target: &Target, link: &dyn Link) -> Option<u64> {
        let some = (0..FEW_SESSIONS).map(|_| link.open("exec cat >/dev/null", Purpose::Command));
        // What is refused is tried again inside; it is enough that it was refused once.
        let _ = timeout(Duration::from_secs(3), join_all(some)).await;
        self.links.diagnostics(&target.id)?.get("session_limit")?.as_u64()
    }
}

#[async_trait]
impl Boxes for OverSsh {
    async fn scan(&self, target: &Target) -> Result<Vec<HostKey>> {
        keys::scan(target, SCAN).await
    }

    async fn greet(&self, target: &Target) -> Result<PathBuf> {
        self.ask(target).await.map(|(home, _)| home)
    }

    fn host(&self, target: &Target, data_dir: &Path, reached_at: &str, on_fault: OnFault) -> Result<Arc<dyn Host>> {
        let link = Watched { link: self.links.of(target)?, on_fault };
        Ok(Arc::new(SshHost::new(Arc::new(link), data_dir.to_owned(), reached_at.to_owned()).fenced(self.fenced)))
    }

    async fn inspect(&self, target: &Target) -> Result<Vec<String>> {
        let mut findings = Vec::new();
        if self.is_crowded(target).await {
            let message = "all its sessions are busy, so not everything could be looked at: look again later, or raise \
                           MaxSessions in its sshd_config";
            return Ok(vec![message.to_owned()]);
        }
        let (_, noise) = self.ask(target).await?;
        if !noise.is_empty() {
            let shown: String = noise.chars().take(80).collect();
            findings.push(format!(
                "a start file of the shell prints ({shown:?}): let ~/.bashrc and the like print only in interactive shells"
            ));
        }
        let link = self.links.of(target)?;
        if let Err(error) = sftp::probe(link.as_ref(), &target.address).await {
            if error.reason != Reason::InterfaceNotSupported {
                return Err(error);
            }
            findings.push(format!("no sftp subsystem: {}", error.message));
        }
        if let Some(sessions) = self.sessions(target, link.as_ref()).await.filter(|sessions| *sessions < FEW_SESSIONS) {
            findings.push(format!(
                "MaxSessions too low: its sshd takes {sessions} sessions on a connection; set MaxSessions 10 or more in sshd_config"
            ));
        }
        Ok(findings)
    }

    fn diagnostics(&self, target: &Target) -> Option<Value> {
        self.links.diagnostics(&target.id)
    }

    async fn leave(&self, target: &Target, data_dir: &Path) -> Result<()> {
        let folder = data_dir.to_string_lossy().replace('\'', r"'\''");
        let heard = self.hear(target, &format!("exec sh -c '{LEAVE}' drydock '{folder}'")).await;
        self.links.forget(&target.id);
        let (out, err) = heard?;
        if out.contains(LEFT) {
            return Ok(());
        }
        let message = format!("cannot remove {} on {}: {}", data_dir.display(), target.address, err.trim());
        Err(Error::new(Reason::Internal, message))
    }

    fn retry(&self, target: &Target) {
        self.links.retry(&target.id);
    }

    async fn forget(&self, target: &Target) {
        self.links.forget(&target.id);
    }
}

/// A link that tells when something is the matter with it.
struct Watched<L> {
    link: Arc<L>,
    on_fault: OnFault,
}

impl<L> Watched<L> {
    fn heard(&self, opened: Result<Channel>) -> Result<Channel> {
        opened.inspect_err(|error| {
            if matches!(error.reason, Reason::HostUnreachable | Reason::HostAuthFailed | Reason::HostKeyMismatch) {
                (self.on_fault)();
            }
        })
    }
}

#[async_trait]
impl<L: Link> Link for Watched<L> {
    async fn open(&self, command: &str, purpose: Purpose) -> Result<Channel> {
        self.heard(self.link.open(command, purpose).await)
    }

    async fn subsystem(&self, name: &str, purpose: Purpose) -> Result<Channel> {
        self.heard(self.link.subsystem(name, purpose).await)
    }

    async fn wanted(&self) {
        self.link.wanted().await;
    }

    async fn reset(&self) {
        self.link.reset().await;
        // Who gives a connection up has a reason.
        (self.on_fault)();
    }
}
