//! A machine that is registered with a daemon, and the stock client's way to it.

#[path = "../../../tests/it/ssh/sshd.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "it is the tests', which use more of it and may panic")]
mod sshd;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use drydock::cli::connect::{Daemon, within};
use drydock::proto::v1::lease::State;
use tokio::process::Command;

use crate::daemon::{self, PATIENCE, Up};

pub(crate) use sshd::{Options, Shell, Sshd};

/// Room for all callers on one machine.
const ROOMY: &str = "{name: remote-host, kind: remote-host, limits: {leases_per_resource: 64}}";

/// A daemon, a machine that it leases out, and a warm master of the stock client.
pub(crate) struct Remote {
    pub(crate) up: Up,
    pub(crate) stock: Stock,
    // Last: what ends the machine ends the connections of the others.
    pub(crate) machine: Sshd,
}

impl Remote {
    pub(crate) async fn start(options: Options) -> Result<Self> {
        let machine = Sshd::with(options);
        let up = Up::start(4, &[ROOMY]).await?;
        let target = machine.target();
        let key = target.identity_file.context("the machine has no key")?;
        let key = key.to_str().context("an odd folder")?;
        let port = target.port.to_string();
        let words = ["host", "add", "box", "--blueprint", "remote-host", "--address", &target.address, "--port", &port];
        let more = ["--user", &target.user, "--identity-file", key, "--host-key", &target.host_keys[0]];
        up.run(&[&words[..], &more].concat())?;
        let stock = Stock::start(&machine).await?;
        Ok(Self { up, stock, machine })
    }

    /// A lease on the machine.
    pub(crate) async fn lease(&self) -> Result<String> {
        lease(&self.up.client).await
    }
}

/// A lease on the machine.
pub(crate) async fn lease(client: &Daemon) -> Result<String> {
    let mut request = daemon::ask("host", &[], PATIENCE);
    request.blueprints = vec!["remote-host".to_owned()];
    let lease = client.leases().acquire_lease(within(PATIENCE, request)).await?.into_inner().lease;
    let lease = lease.context("no lease in the answer")?;
    ensure!(lease.state() == State::Active, "{} is {:?}: {}", lease.id, lease.state(), lease.state_message);
    Ok(lease.id)
}

/// The stock client with a master that is connected already.
pub(crate) struct Stock {
    socket: PathBuf,
}

impl Stock {
    async fn start(machine: &Sshd) -> Result<Self> {
        let target = machine.target();
        let socket = machine.folder().join("m");
        let known = machine.folder().join("known");
        std::fs::write(&known, format!("box {}\n", target.host_keys[0]))?;
        let status = Command::new("ssh")
            .args(["-F", "none", "-o", "BatchMode=yes", "-o", "HostKeyAlias=box", "-o"])
            .arg(format!("UserKnownHostsFile={}", known.display()))
            // The cipher that Drydock's own connections have.
            .args(["-o", "Ciphers=^aes128-gcm@openssh.com", "-i"])
            .arg(target.identity_file.context("the machine has no key")?)
            .args(["-l", &target.user, "-p", &target.port.to_string(), "-M", "-N", "-f", "-S"])
            .arg(&socket)
            .arg(&target.address)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await?;
        ensure!(status.success(), "ssh -M: {status}");
        Ok(Self { socket })
    }

    /// `ssh -S master box COMMAND`.
    pub(crate) fn ssh(&self, command: &str) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-S"]).arg(&self.socket).args(["box", command]);
        ssh.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        ssh
    }

    /// Runs it to its end.
    pub(crate) async fn run(&self, command: &str) -> Result<()> {
        let status = self.ssh(command).status().await?;
        ensure!(status.success(), "ssh -S box {command}: {status}");
        Ok(())
    }

    /// `scp FILE box:NAME` over the same master.
    pub(crate) async fn copy(&self, file: &Path, name: &str) -> Result<()> {
        let mut scp = Command::new("scp");
        scp.args(["-q", "-F", "none", "-o"]).arg(format!("ControlPath={}", self.socket.display()));
        let status = scp.arg(file).arg(format!("box:{name}")).stdin(Stdio::null()).status().await?;
        ensure!(status.success(), "scp: {status}");
        Ok(())
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        let mut ssh = std::process::Command::new("ssh");
        ssh.args(["-F", "none", "-O", "exit", "-S"]).arg(&self.socket).arg("box");
        let _ = ssh.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}
