//! Real daemons on the common database, each behind a wire of its own, to be killed, stopped and started again.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use drydock::proto::v1::command_service_client::CommandServiceClient;
use drydock::proto::v1::lease_service_client::LeaseServiceClient;
use drydock::proto::v1::resource_service_client::ResourceServiceClient;
use drydock::proto::v1::task_service_client::TaskServiceClient;
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::proxy::Proxy;
use super::server::Server;

/// How long a claim holds in these daemons, seconds.
pub(super) const CLAIM: u64 = 3;
const WORKERS: &str = "4";

/// What is tried: `DRYDOCK_FIRE_DAEMON` says which build, with debug assertions.
fn program() -> OsString {
    std::env::var_os("DRYDOCK_FIRE_DAEMON").unwrap_or_else(|| env!("CARGO_BIN_EXE_drydock").into())
}

/// A daemon's data folder, its wire, and the process when one runs.
pub(super) struct Daemon {
    pub(super) name: String,
    pub(super) folder: PathBuf,
    pub(super) wire: Proxy,
    /// Seconds by which its machine's clock is set wrong.
    offset: i64,
    /// Environment beside the usual.
    more: Vec<(String, String)>,
    child: Option<Child>,
    channel: Channel,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Daemon {
    pub(super) async fn new(name: &str, folder: &Path, server: &Server, more: &[(&str, &str)]) -> Self {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("drydock.sock");
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        let wire = Proxy::start(&server.socket()).await;
        let more = more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Self { name: name.to_owned(), folder, wire, offset: 0, more, child: None, channel }
    }

    /// From its next start on its machine's clock is wrong by so many seconds.
    pub(super) fn set_clock(&mut self, offset: i64) {
        self.offset = offset;
    }

    pub(super) fn start(&mut self) {
        let log = OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        let child = Command::new(program())
            .args(["serve", "--workers", WORKERS, "--database", &Server::url_through(self.wire.port), "--data-dir"])
            .arg(&self.folder)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.folder)
            .env("DRYDOCK_LOG", "warn")
            .env("DRYDOCK_CLAIM_SECONDS", CLAIM.to_string())
            .env("DRYDOCK_CLOCK_OFFSET", self.offset.to_string())
            .envs(self.more.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// What it says on stderr, over all its lives.
    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    pub(super) fn address(&self) -> String {
        format!("unix:{}", self.folder.join("drydock.sock").display())
    }

    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// How it ended, when it did so by itself.
    pub(super) fn has_ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().unwrap()?;
        self.child = None;
        Some(status)
    }

    /// `STOP` or `CONT`.
    pub(super) fn signal(&self, what: Signal) {
        let Some(child) = &self.child else { return };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).unwrap();
        let _ = kill_process(pid, what);
    }

    /// One command of the command line.
    pub(super) fn drydock(&self, words: &[&str]) -> std::process::Output {
        let mut command = Command::new(program());
        command.env_clear().env("HOME", &self.folder).args(["--addr", &self.address()]).args(words);
        command.stdin(Stdio::null()).output().unwrap()
    }

    pub(super) fn api(&self) -> Api {
        Api { channel: self.channel.clone() }
    }
}

/// The way to a daemon, whichever of its lives it is in.
#[derive(Clone)]
pub(super) struct Api {
    channel: Channel,
}

impl Api {
    pub(super) fn leases(&self) -> LeaseServiceClient<Channel> {
        LeaseServiceClient::new(self.channel.clone())
    }

    pub(super) fn commands(&self) -> CommandServiceClient<Channel> {
        CommandServiceClient::new(self.channel.clone())
    }

    pub(super) fn resources(&self) -> ResourceServiceClient<Channel> {
        ResourceServiceClient::new(self.channel.clone())
    }

    pub(super) fn tasks(&self) -> TaskServiceClient<Channel> {
        TaskServiceClient::new(self.channel.clone())
    }
}
