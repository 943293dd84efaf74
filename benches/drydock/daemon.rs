//! The real daemon in a process of its own, in a folder of its own.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use drydock::cli::connect::{self, Daemon, within};
use drydock::proto::v1;
use drydock::proto::v1::lease::State;
use tempfile::TempDir;
use tonic_health::pb::HealthCheckRequest;

/// No call takes longer, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// One machine with room for everyone.
pub(crate) const ROOMY: &str = "{name: local-host, kind: local-host, limits: {leases_per_resource: 256}}";
/// Of `utime` and `stime` in `/proc/PID/stat`, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
const PAGE: u64 = 4096;

/// `drydock up`, and a connection to it.
pub(crate) struct Up {
    folder: TempDir,
    child: Child,
    pub(crate) client: Daemon,
}

impl Up {
    /// Starts it and applies these documents, before anything is leased.
    pub(crate) async fn start(workers: usize, documents: &[&str]) -> Result<Self> {
        Self::start_in(tempfile::tempdir()?, workers, documents).await
    }

    /// As [`Up::start`], over a data folder that is there already.
    pub(crate) async fn start_in(folder: TempDir, workers: usize, documents: &[&str]) -> Result<Self> {
        let mut child = program(folder.path())
            .args(["up", "--workers", &workers.to_string()])
            .env("DRYDOCK_LOG", "error")
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(folder.path().join("daemon.log"))?)
            .spawn()
            .context("the daemon cannot be started")?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("no stdout")?;
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line.contains(" ready "), "the daemon said {line:?}");
        let client = dial(&folder.path().join("data/drydock.sock")).await?;
        let up = Self { folder, child, client };
        for document in documents {
            up.apply(document)?;
        }
        Ok(up)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Another connection.
    pub(crate) async fn connect(&self) -> Result<Daemon> {
        dial(&self.folder().join("data/drydock.sock")).await
    }

    fn apply(&self, document: &str) -> Result<()> {
        let path: PathBuf = self.folder().join("document.yaml");
        std::fs::write(&path, document)?;
        self.run(&["blueprint", "apply", "-f", path.to_str().context("an odd folder")?])
    }

    /// Runs the command line against it.
    pub(crate) fn run(&self, words: &[&str]) -> Result<()> {
        let output = program(self.folder()).args(words).output()?;
        ensure!(output.status.success(), "drydock {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Ends it, with no chance to say good-bye.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn proc(&self, file: &str) -> Result<String> {
        Ok(std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))?)
    }

    /// Resident bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        resident(self.child.id())
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Seconds of processor time so far.
    pub(crate) fn processor_seconds(&self) -> Result<f64> {
        let stat = self.proc("stat")?;
        let (_, fields) = stat.rsplit_once(") ").context("an odd /proc/PID/stat")?;
        let ticks = |field: &str| field.parse::<f64>().unwrap_or_default();
        // utime and stime are the fields 14 and 15; the first one after the name is the third.
        let sum: f64 = fields.split(' ').skip(11).take(2).map(ticks).sum();
        Ok(sum / TICKS_PER_SECOND)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Resident bytes of a process.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages = statm.split(' ').nth(1).context("an odd /proc/PID/statm")?;
    Ok(pages.parse::<u64>()? * PAGE)
}

/// The daemon's program, for a user of its own.
pub(crate) fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drydock"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder)
        .env("DRYDOCK_DATA_DIR", folder.join("data"))
        .current_dir(folder)
        .stdin(Stdio::null());
    command
}

/// A connection to a daemon.
pub(crate) async fn dial(socket: &Path) -> Result<Daemon> {
    connect::connect_socket(socket.to_owned()).await.map_err(|failure| anyhow!("{failure:?}"))
}

fn proto(span: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(span).ok()
}

/// A unary call that does nothing.
pub(crate) async fn noop(client: &Daemon) -> Result<()> {
    client.health().check(HealthCheckRequest { service: String::new() }).await?;
    Ok(())
}

/// A request for a lease.
pub(crate) fn ask(resource_type: &str, attributes: &[(&str, &str)], wait: Duration) -> v1::AcquireLeaseRequest {
    v1::AcquireLeaseRequest {
        resource_type: resource_type.to_owned(),
        attributes: attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        wait: proto(wait),
        ..v1::AcquireLeaseRequest::default()
    }
}

/// Acquires and waits until it is ACTIVE; its id.
pub(crate) async fn acquire(client: &Daemon, resource_type: &str) -> Result<String> {
    let request = ask(resource_type, &[], PATIENCE);
    let lease = client.leases().acquire_lease(within(PATIENCE, request)).await?.into_inner().lease;
    let lease = lease.context("no lease in the answer")?;
    ensure!(lease.state() == State::Active, "{} is {:?}: {}", lease.id, lease.state(), lease.state_message);
    Ok(lease.id)
}

/// Asks for a lease without working for it, and returns when it is ACTIVE; its id.
pub(crate) async fn acquire_by_workers(client: &Daemon, request: v1::AcquireLeaseRequest) -> Result<String> {
    let answer = client.leases().acquire_lease(within(PATIENCE, request)).await?.into_inner();
    let mut lease = answer.lease.context("no lease in the answer")?;
    let watch = v1::WatchLeaseRequest {
        lease_id: lease.id.clone(),
        until: State::Active.into(),
        ..v1::WatchLeaseRequest::default()
    };
    let mut updates = client.leases().watch_lease(within(PATIENCE, watch)).await?.into_inner();
    while let Some(update) = updates.message().await? {
        lease = update.lease.unwrap_or(lease);
    }
    if lease.state() == State::Active {
        return Ok(lease.id);
    }
    bail!("{} is {:?}: {}", lease.id, lease.state(), lease.state_message)
}

/// Gives it back; with `wait`, returns when nothing of it is left.
pub(crate) async fn release(client: &Daemon, lease_id: &str, wait: Duration) -> Result<()> {
    let request = v1::ReleaseLeaseRequest {
        lease_id: lease_id.to_owned(),
        wait: proto(wait),
        ..v1::ReleaseLeaseRequest::default()
    };
    client.leases().release_lease(within(PATIENCE, request)).await?;
    Ok(())
}

/// Runs a command and reads its output to the end; how many bytes.
pub(crate) async fn exec(client: &Daemon, lease_id: &str, argv: &[&str]) -> Result<u64> {
    let mut frames = client.commands().exec(exec_request(lease_id, argv)).await?.into_inner();
    let mut bytes = 0;
    while let Some(message) = frames.message().await? {
        match message.frame {
            Some(v1::exec_response::Frame::Output(output)) => bytes += output.data.len() as u64,
            Some(v1::exec_response::Frame::Exited(exited)) => {
                ensure!(exited.outcome == Some(v1::process_exited::Outcome::ExitCode(0)), "{argv:?}: {exited:?}");
            }
            _ => {}
        }
    }
    Ok(bytes)
}

/// A request to run a command.
pub(crate) fn exec_request(lease_id: &str, argv: &[&str]) -> v1::ExecRequest {
    let argv = argv.iter().map(ToString::to_string).collect();
    let command = v1::Command { argv, ..v1::Command::default() };
    v1::ExecRequest { lease_id: lease_id.to_owned(), command: Some(command), ..v1::ExecRequest::default() }
}
