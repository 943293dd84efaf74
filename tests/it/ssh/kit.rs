//! Links to machines, and what is asked over them.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use drydock::error::{Error, Result};
use drydock::host::ssh::link::{Channel, Link, Purpose};
use drydock::host::ssh::links::{Links, Patience};
use drydock::host::ssh::masters::Masters;
use drydock::host::ssh::target::Target;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, interval, timeout};

use super::sshd::Sshd;

/// Nothing in here takes longer, even on a busy machine.
pub(crate) const LONG: Duration = Duration::from_mins(1);

/// A daemon's links in a folder of their own.
pub(crate) struct Quay {
    pub(crate) folder: TempDir,
    pub(crate) links: Links,
}

impl Quay {
    pub(crate) async fn new() -> Self {
        // A machine that builds and tests at once may take long for a login.
        Self::patient(Patience { dial: LONG, ..Patience::default() }).await
    }

    pub(crate) async fn patient(patience: Patience) -> Self {
        let folder = tempfile::Builder::new().prefix("quay").tempdir().unwrap();
        let links = Links::patient(folder.path(), patience).await.unwrap();
        Self { folder, links }
    }

    pub(crate) fn link(&self, target: &Target) -> Arc<Masters> {
        self.links.of(target).unwrap()
    }

    /// Processes of ssh that were started for these links.
    pub(crate) fn sshs(&self) -> Vec<Pid> {
        sshs(self.folder.path())
    }
}

/// A link to a machine, and what it lies in.
pub(crate) async fn linked(machine: &Sshd) -> (Quay, Arc<Masters>) {
    let quay = Quay::new().await;
    let link = quay.link(&machine.target());
    (quay, link)
}

/// Processes whose command line names a file below `folder`.
pub(crate) fn sshs(folder: &Path) -> Vec<Pid> {
    let needle = format!("{}/", folder.display());
    let pid = |entry: fs::DirEntry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?);
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| pid(entry.ok()?));
    let line = |pid: Pid| fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_pid())).unwrap_or_default();
    all.filter(|pid| line(*pid).contains(&needle)).collect()
}

/// The masters that a link has now.
pub(crate) fn masters(link: &Masters) -> Vec<Pid> {
    let shown = link.diagnostics();
    let pid = |master: &serde_json::Value| Pid::from_raw(master["pid"].as_i64().unwrap().try_into().unwrap()).unwrap();
    shown["masters"].as_array().unwrap().iter().map(pid).collect()
}

pub(crate) fn strike(pids: &[Pid], signal: Signal) {
    for pid in pids {
        kill_process(*pid, signal).unwrap();
    }
}

/// Standard output and standard error, to their ends, without input.
pub(crate) async fn drain(channel: Channel) -> (String, String) {
    let Channel { stdin, mut stdout, mut stderr, hold } = channel;
    drop(stdin);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let both = async { tokio::join!(stdout.read_to_end(&mut out), stderr.read_to_end(&mut err)) };
    let (first, second) = timeout(LONG, both).await.unwrap();
    first.unwrap();
    second.unwrap();
    drop(hold);
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// What a command prints.
pub(crate) async fn say(link: &Masters, command: &str) -> Result<String> {
    let channel = timeout(LONG, link.open(command, Purpose::Command)).await.unwrap()?;
    Ok(drain(channel).await.0)
}

/// The error of a call that must fail.
pub(crate) async fn fails(link: &Masters) -> Error {
    say(link, "echo reached").await.expect_err("the machine must not be reached")
}

/// Waits until `look` says so.
pub(crate) async fn until(what: &str, mut look: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    let mut ticks = interval(Duration::from_millis(5));
    while !look() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        ticks.tick().await;
    }
}

/// Calls until the machine answers again; each call that does not reach it must say so.
pub(crate) async fn comes_back(link: &Masters) {
    let deadline = Instant::now() + LONG;
    let mut ticks = interval(Duration::from_millis(20));
    loop {
        match say(link, "echo back").await {
            Ok(text) => break assert_eq!(text, "back\n"),
            Err(error) => assert_eq!(error.reason, drydock::error::Reason::HostUnreachable, "{error}"),
        }
        assert!(Instant::now() < deadline, "it does not come back: {}", link.diagnostics());
        ticks.tick().await;
    }
}
