//! A whole daemon in this process, on a temporary folder, with its socket and a loopback address open.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use drydock::config::Settings;
use drydock::error::Result;
use drydock::model::Shares;
use drydock::rpc::server::{Ready, Shutdown, run};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

/// Longer than anything that a test waits for takes.
pub(crate) const LONG: Duration = Duration::from_mins(1);

/// Principals and their tokens.
const TOKENS: &str = "root t-root admin\nalice t-alice\nbob t-bob\n";

/// A channel that shows a token, or none.
pub(crate) type Link = InterceptedService<Channel, Bearer>;

/// Adds a token to each call.
#[derive(Debug, Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// A running daemon. Dropped, it stops at once; [`Daemon::drain`] is the way to end it in order.
pub(crate) struct Daemon {
    /// As it was started.
    pub(crate) settings: Settings,
    /// What it said when its doors were open.
    pub(crate) ready: Ready,
    /// Its switches.
    pub(crate) shutdown: Shutdown,
    task: JoinHandle<Result<()>>,
    folder: Option<TempDir>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.shutdown.stop.cancel();
    }
}

/// Settings of a daemon that keeps all it has in `folder`.
pub(crate) fn settings(folder: &Path) -> Settings {
    let tokens = folder.join("tokens");
    fs::write(&tokens, TOKENS).unwrap();
    fs::set_permissions(&tokens, fs::Permissions::from_mode(0o600)).unwrap();
    let data_dir = folder.join("data");
    Settings {
        socket: folder.join("run/drydock.sock"),
        listen: vec!["127.0.0.1:0".to_owned()],
        tls: None,
        metrics_listen: Some("127.0.0.1:0".to_owned()),
        peer_listen: None,
        log_format: drydock::config::LogFormat::Auto,
        otlp_endpoint: None,
        tokens: Some(tokens),
        database: format!("sqlite:{}", data_dir.join("drydock.db").display()).into(),
        workers: 2,
        retention: Duration::from_hours(24 * 30),
        stock_blueprints: true,
        sweep: false,
        owners: Shares::default(),
        executable: PathBuf::from(env!("CARGO_BIN_EXE_drydock")),
        data_dir,
    }
}

impl Daemon {
    /// A daemon with the stock blueprints, and the principals root (an admin), alice and bob.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut daemon = Self::on(settings(folder.path())).await.unwrap();
        daemon.folder = Some(folder);
        daemon
    }

    /// A daemon with these settings; the error when it does not come up.
    pub(crate) async fn on(settings: Settings) -> Result<Self> {
        let shutdown = Shutdown::default();
        let (tell, told) = oneshot::channel();
        let task = tokio::spawn(run(settings.clone(), tell, shutdown.clone()));
        match timeout(LONG, told).await.unwrap() {
            Ok(ready) => Ok(Self { settings, ready, shutdown, task, folder: None }),
            Err(_) => Err(timeout(LONG, task).await.unwrap().unwrap().unwrap_err()),
        }
    }

    /// Drains, and gives back how the daemon ended.
    pub(crate) async fn drain(mut self) -> Result<()> {
        self.shutdown.drain.cancel();
        self.ended().await
    }

    /// How the daemon ended, once it has.
    pub(crate) async fn ended(&mut self) -> Result<()> {
        timeout(LONG, &mut self.task).await.unwrap().unwrap()
    }

    /// Through the unix socket: its owner, an admin.
    pub(crate) async fn socket(&self) -> Link {
        let path = self.ready.socket.clone();
        let connect = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(connect).await.unwrap();
        InterceptedService::new(channel, Bearer(None))
    }

    /// Through loopback TCP, as one of the principals.
    pub(crate) async fn caller(&self, who: &str) -> Link {
        self.bearer(&format!("t-{who}")).await
    }

    /// Through loopback TCP, with this token.
    pub(crate) async fn bearer(&self, token: &str) -> Link {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.ready.listen[0])).unwrap();
        let bearer = Bearer(Some(format!("Bearer {token}").parse().unwrap()));
        InterceptedService::new(endpoint.connect().await.unwrap(), bearer)
    }
}

/// The reason of a status; every status of ours has one.
pub(crate) fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "drydock", "{status:?}");
    info.reason
}
