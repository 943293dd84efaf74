//! A daemon to be killed, its callers, and what it leaves behind.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use drydock::proto::v1::blueprint_service_client::BlueprintServiceClient;
use drydock::proto::v1::lease_service_client::LeaseServiceClient;
use drydock::proto::v1::resource_service_client::ResourceServiceClient;
use drydock::proto::v1::task_service_client::TaskServiceClient;
use drydock::proto::v1::{AcquireLeaseRequest, Lease, ListResourcesRequest, ReleaseLeaseRequest, resource};
use hyper_util::rt::TokioIo;
use sqlx::Row as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::{Child, Command};
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::queue::invariants::{assert_hold, reader};
use crate::queue::kit::{PATIENCE, eventually};

/// A data folder and the daemon on it, when one runs.
pub(super) struct Daemon {
    /// As it is seen from here.
    pub(super) data: PathBuf,
    /// As it was said to the daemon.
    folder: PathBuf,
    /// Of the file system that it has for itself, when it has one.
    disk: Option<u64>,
    child: Option<Child>,
}

pub(super) fn seconds(seconds: u64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds: i64::try_from(seconds).unwrap(), nanos: 0 })
}

impl Daemon {
    pub(super) fn on(data: &Path) -> Self {
        Self { data: data.to_owned(), folder: data.to_owned(), disk: None, child: None }
    }

    /// Starts one whose data folder is a file system of its own of so many bytes, which nobody else mounts. It has one
    /// life: what is on that disk goes with it.
    pub(super) async fn on_small_disk(data: &Path, bytes: u64) -> Self {
        let mut daemon = Self { data: data.to_owned(), folder: data.to_owned(), disk: Some(bytes), child: None };
        assert!(daemon.start(None).await);
        let pid = daemon.child.as_ref().and_then(Child::id).expect("it runs");
        daemon.data = Path::new("/proc").join(pid.to_string()).join("root").join(data.strip_prefix("/").unwrap());
        daemon
    }

    /// Starts it; `false` when it was dead before it was ready.
    pub(super) async fn start(&mut self, fail_at: Option<&str>) -> bool {
        let binary = env!("CARGO_BIN_EXE_drydock");
        let mut command = Command::new(if self.disk.is_some() { "unshare" } else { binary });
        if let Some(bytes) = self.disk {
            // Who is not root may do so as the root of a user namespace.
            command.args(if rustix::process::geteuid().is_root() { &["--mount"][..] } else { &["-r", "--mount"] });
            let script = "mount -t tmpfs -o size=$1,mode=0700 drydock \"$2\" && shift 2 && exec \"$@\"";
            std::fs::create_dir_all(&self.data).unwrap();
            command.args(["sh", "-c", script, "sh", &bytes.to_string()]).arg(&self.data).arg(binary);
        }
        command.args(["up", "--workers", "2", "--data-dir"]).arg(&self.data);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", &self.data);
        command.arg("--socket").arg(self.socket()).env("DRYDOCK_LOG", "error");
        if let Some(place) = fail_at {
            command.env("DRYDOCK_FAIL_AT", place);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("it says something in time").unwrap();
        self.child = Some(child);
        line.is_some_and(|line| line.starts_with("drydock "))
    }

    fn socket(&self) -> PathBuf {
        self.data.join("s")
    }

    /// Its end by `SIGKILL`, which it gave itself or gets now.
    pub(super) async fn kill(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let _ = child.start_kill();
        child.wait().await.unwrap()
    }

    /// Its end, which it is about to bring about itself.
    pub(super) async fn death(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        tokio::time::timeout(PATIENCE, child.wait()).await.expect("it dies in time").unwrap()
    }

    fn is_dead(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    /// Hosts, when all other resources are gone.
    async fn only_hosts(&self) -> Result<Option<BTreeSet<String>>, Status> {
        let request = ListResourcesRequest { page_size: 500, ..ListResourcesRequest::default() };
        let mut client = ResourceServiceClient::new(self.channel().await?);
        let all = client.list_resources(request).await?.into_inner().resources;
        let (hosts, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|of| of.resource_type == "host");
        let gone = others.iter().all(|of| of.state() == resource::State::Destroyed);
        Ok(gone.then(|| hosts.into_iter().map(|host| host.id).collect()))
    }

    /// Returns when all resources but the host are gone, `false` when it dies before.
    pub(super) async fn takes_all_down(&mut self) -> bool {
        eventually("all resources but the host are gone, or the daemon", async || match self.only_hosts().await {
            Ok(hosts) => hosts.map(|_| true),
            Err(_) => self.is_dead().then_some(false),
        })
        .await
    }

    async fn channel(&self) -> Result<Channel, Status> {
        let socket = self.socket();
        let connector = service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost").timeout(PATIENCE * 2);
        endpoint.connect_with_connector(connector).await.map_err(|error| Status::unavailable(error.to_string()))
    }

    pub(super) async fn leases(&self) -> Result<LeaseServiceClient<Channel>, Status> {
        Ok(LeaseServiceClient::new(self.channel().await?))
    }

    pub(super) async fn blueprints(&self) -> Result<BlueprintServiceClient<Channel>, Status> {
        Ok(BlueprintServiceClient::new(self.channel().await?))
    }

    pub(super) async fn tasks(&self) -> Result<TaskServiceClient<Channel>, Status> {
        Ok(TaskServiceClient::new(self.channel().await?))
    }

    /// Acquires and waits.
    pub(super) async fn acquire(&self, wanted: &AcquireLeaseRequest) -> Result<Lease, Status> {
        let wanted = AcquireLeaseRequest { wait: seconds(60), ..wanted.clone() };
        Ok(self.leases().await?.acquire_lease(wanted).await?.into_inner().lease.unwrap())
    }

    /// Releases and waits until it is DESTROYED.
    pub(super) async fn release(&self, lease: &str) -> Result<Lease, Status> {
        let request = ReleaseLeaseRequest {
            lease_id: lease.to_owned(),
            wait: seconds(60),
            request_id: format!("release-{lease}"),
            ..ReleaseLeaseRequest::default()
        };
        Ok(self.leases().await?.release_lease(request).await?.into_inner().lease.unwrap())
    }

    /// What it has written. `SQLite` cannot open a file by way of another process's root, so there it is a copy.
    fn database(&self) -> PathBuf {
        if self.disk.is_none() {
            return self.data.join("drydock.db");
        }
        // Seen from outside, the folder that the disk is mounted on is empty.
        let copy = &self.folder;
        for name in ["drydock.db", "drydock.db-wal"] {
            std::fs::copy(self.data.join(name), copy.join(name)).unwrap();
        }
        copy.join("drydock.db")
    }

    /// Only the machine itself is left: no other resource, folder, process, port or slot.
    pub(super) async fn assert_nothing_left(&self, ports: &BTreeSet<u16>) {
        let hosts = eventually("all resources but the host are gone", async || self.only_hosts().await.unwrap()).await;
        for folder in ["leases", "resources"] {
            let entries = std::fs::read_dir(self.data.join(folder)).into_iter().flatten().flatten();
            let names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            assert!(names.is_empty(), "left in {folder}: {names:?}");
        }
        for port in ports {
            assert!(TcpStream::connect(("127.0.0.1", *port)).await.is_err(), "someone listens on {port}");
        }
        let database = format!("sqlite://{}", self.database().display());
        let mut reader = reader(&database).await;
        let slots = sqlx::query("SELECT scope, holder FROM slot").fetch_all(&mut reader).await.unwrap();
        for slot in slots {
            let (scope, holder): (String, String) = (slot.get("scope"), slot.get("holder"));
            assert!(scope.starts_with("bp_") && hosts.contains(&holder), "{scope} is held by {holder}");
        }
        assert_hold(&database).await;
        let own = self.child.as_ref().and_then(Child::id).expect("it runs");
        eventually("no process is left", async || strays(&self.data, own).is_empty().then_some(())).await;
    }
}

/// Processes that know one of the ids, or live in the folder; the daemon and its supervisor are none.
fn strays(data: &Path, daemon: u32) -> Vec<u32> {
    let folder = data.to_string_lossy().into_owned();
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    pids.filter(|pid| *pid != daemon && *pid != std::process::id())
        .filter(|pid| {
            let read = |name: &str| {
                let bytes = std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
                String::from_utf8_lossy(&bytes).into_owned()
            };
            let inside = std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(data));
            let command = read("cmdline");
            let leased = read("environ").split('\0').any(|entry| entry.starts_with("DRYDOCK_LEASE_ID="));
            let ours = command.contains(&folder) || read("environ").contains(&folder);
            let supervisor = command.split('\0').nth(1) == Some(drydock::host::local::SUBCOMMAND);
            !supervisor && (inside || command.contains(&folder) || (leased && ours))
        })
        .collect()
}
