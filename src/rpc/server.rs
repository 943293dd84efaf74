//! The daemon: doors, services, drain.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::Layer as _;

use super::doors::{DoorsLayer, is_loopback, listen_address};
use super::limits::{Farewell, Limits, edge, serve};
use super::meter::MeterLayer;
use super::peers::{Admission, Entrance, ForwardLayer};
use super::scrape;
use super::services::services;
use super::socket::{self, Name};
use super::tls::{Identity, Secured, TlsError};
use super::tokens::{Tokens, TokensError};
use super::traces::Traces;
use crate::blueprint::Registry;
use crate::blueprint::remote_host::{OverSsh, RemoteHost};
use crate::clock::{Clock as _, HeardClock, Micros, SharedClock, SystemClock};
use crate::config::Settings;
use crate::engine::{self, Engine};
use crate::error::{Error, Reason, Result, report};
use crate::host::Host;
use crate::host::local::LocalHost;
use crate::host::ssh::links::Links;
use crate::store::{Location, Remote};

/// The principal of the generated token.
const LOCAL: &str = "local";

/// What a started daemon tells its starter.
#[derive(Debug, Clone)]
pub struct Ready {
    /// The unix socket.
    pub socket: PathBuf,
    /// `127.0.0.1:7420` and the like, with the port really taken.
    pub listen: Vec<String>,
    /// Whether these addresses speak TLS.
    pub tls: bool,
    /// The metrics page's address, when there is one.
    pub metrics: Option<String>,
    /// The generated token's file, when there is one.
    pub token_file: Option<PathBuf>,
}

/// The words that a daemon listens to.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Drain: no new leases, running calls go on for at most 30 s, claims are handed back.
    pub drain: CancellationToken,
    /// Stop at once.
    pub stop: CancellationToken,
    /// Read the token file and the certificate again (SIGHUP); `notify_one` is not lost while another reading goes on.
    pub reload: Arc<Notify>,
}

/// Runs a daemon until `shutdown` says so; `ready` is told when all doors are open.
///
/// # Errors
/// `INVALID_ARGUMENT` for settings that cannot be (exit code 78): a listen address that is not allowed or taken, a token
/// file or a key that others can read, a certificate that is none, a database that is newer than this binary, a data folder or socket that another daemon uses.
pub async fn run(settings: Settings, ready: oneshot::Sender<Ready>, shutdown: Shutdown) -> Result<()> {
    let stop = shutdown.stop.clone();
    tokio::select! {
        biased;
        // What is dropped here ends at once: connections, calls, the socket's name.
        () = stop.cancelled() => Ok(()),
        result = live(settings, ready, shutdown) => result,
    }
}

async fn live(settings: Settings, ready: oneshot::Sender<Ready>, shutdown: Shutdown) -> Result<()> {
    socket::private_folder(&settings.data_dir)?;
    let doors = Doors::open(&settings).await?;
    let host = LocalHost::new(settings.data_dir.clone(), settings.executable.clone());
    let host = Arc::new(if is_alone(&settings) { host } else { host.fenced() });
    let links = Arc::new(Links::open(&settings.data_dir.join("ssh")).await?);
    // Several daemons go by the clock of the database that they share.
    let clock: SharedClock =
        if is_alone(&settings) { Arc::new(SystemClock) } else { HeardClock::at(SystemClock.now()) };
    let boxes =
        RemoteHost::new(Arc::new(OverSsh::new(Arc::clone(&links)).fenced(!is_alone(&settings))), Arc::clone(&clock));
    let mut kinds = crate::blueprint::all(Arc::clone(&host) as Arc<dyn Host>);
    kinds.push(Arc::new(boxes));
    let engine = Engine::start(&of_engine(&settings), Registry::new(kinds), clock).await?;
    host.inherits_up_to(engine.newest_inherited());
    let traces = Traces::start(&settings, &engine)?;
    if let Some(entrance) = &doors.entrance {
        engine.open_to_peers(entrance.told()).await?;
    }
    let result = doors.serve(&engine, &links, ready, &shutdown).await;
    engine.stop().await;
    if let Some(traces) = traces {
        traces.close().await;
    }
    links.close().await;
    result
}

/// Where a daemon with these settings keeps everything.
#[must_use]
pub fn location(settings: &Settings) -> Location {
    if let Some(path) = settings.database.strip_prefix("sqlite:") {
        return Location::Sqlite { path: PathBuf::from(path) };
    }
    // A worker holds a connection while it commits; calls share the others.
    let connections = u32::try_from(settings.workers).unwrap_or(u32::MAX).saturating_add(8);
    let home = format!("{}:{}", machine(), settings.data_dir.display());
    Location::Postgres(Remote { connections, home, ..Remote::at(&*settings.database) })
}

/// Whether the database is of one daemon.
fn is_alone(settings: &Settings) -> bool {
    settings.database.starts_with("sqlite:")
}

fn of_engine(settings: &Settings) -> engine::Settings {
    engine::Settings {
        database: location(settings),
        workers: settings.workers,
        sweep: settings.sweep,
        retention: settings.retention,
        stock_blueprints: settings.stock_blueprints,
        machine: machine(),
        address: format!("unix:{}", settings.socket.display()),
        shares: settings.owners.clone(),
    }
}

fn machine() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// All ways in, open but not yet answered.
struct Doors {
    socket: UnixListener,
    name: Name,
    tcp: Vec<TcpListener>,
    identity: Option<(Arc<Identity>, TlsAcceptor)>,
    metrics: Option<TcpListener>,
    /// For the other daemons, where there may be some.
    entrance: Option<Entrance>,
    tokens: Tokens,
    ready: Ready,
}

/// What can be said of these settings without opening anything: what callers will see of the doors, and what is worth a warning
/// at the time `now`.
///
/// # Errors
/// `INVALID_ARGUMENT` for what a daemon would refuse: an address without TLS that others can reach, a file of tokens, a
/// certificate or a key that cannot be used.
pub fn inspect(settings: &Settings, now: Micros) -> Result<(Vec<String>, Vec<String>)> {
    addresses(settings)?;
    if settings.tokens.is_some() {
        tokens(settings)?;
    }
    let Some(identity) = identity(settings)? else { return Ok((Vec::new(), Vec::new())) };
    Ok((vec![identity.describe()], identity.concerns(now)))
}

/// Where to listen on TCP.
fn addresses(settings: &Settings) -> Result<Vec<SocketAddr>> {
    let addresses = settings.listen.iter().map(|text| listen_address(text)).collect::<Result<Vec<_>>>()?;
    match addresses.iter().find(|address| settings.tls.is_none() && !is_loopback(address)) {
        None => Ok(addresses),
        Some(address) => Err(Error::invalid(format!(
            "cannot listen on {address}: others can reach it, so it needs TLS; give --tls-cert and --tls-key, or listen on \
             127.0.0.1 and put an ssh tunnel or a TLS proxy in front of it"
        ))),
    }
}

/// The certificate that callers over TCP are shown.
fn identity(settings: &Settings) -> Result<Option<Arc<Identity>>> {
    let Some(files) = &settings.tls else { return Ok(None) };
    let identity = Identity::open(&files.cert, &files.key).map_err(unusable)?;
    Ok(Some(Arc::new(identity)))
}

fn unusable(error: TlsError) -> Error {
    Error::invalid(report(&error)).because(error)
}

impl Doors {
    async fn open(settings: &Settings) -> Result<Self> {
        let addresses = addresses(settings)?;
        let identity = match identity(settings)? {
            None => None,
            Some(identity) => {
                warn_of(&identity);
                let acceptor = identity.acceptor().map_err(unusable)?;
                Some((identity, acceptor))
            }
        };
        let (tokens, token_file) = tokens(settings)?;
        let (socket, name) = socket::listen(&settings.socket)?;
        let socket = UnixListener::from_std(socket).map_err(|error| Error::internal("cannot use the socket", error))?;
        let mut tcp = Vec::new();
        for address in addresses {
            tcp.push(TcpListener::bind(address).await.map_err(|error| taken(address, error))?);
        }
        let listen = tcp
            .iter()
            .map(|listener| listener.local_addr().map(|address| address.to_string()))
            .collect::<Result<_, _>>()
            .map_err(|error| Error::internal("cannot tell where the server listens", error))?;
        let metrics = scrape::listen(settings).await?;
        let (metrics, page) = metrics.map(|(listener, address)| (listener, address.to_string())).unzip();
        let tls = identity.is_some();
        let entrance = match &settings.peer_listen {
            Some(_) if is_alone(settings) => {
                let why = "peer_listen is for daemons that share a database, and one in a file is of one daemon; leave it out, or say --database postgres://…";
                return Err(Error::invalid(why));
            }
            None if is_alone(settings) => None,
            wanted => Some(Entrance::open(wanted.as_deref()).await?),
        };
        let ready = Ready { socket: settings.socket.clone(), listen, tls, metrics: page, token_file };
        Ok(Self { socket, name, tcp, identity, metrics, entrance, tokens, ready })
    }

    /// Serves until a drain has come to its end.
    async fn serve(
        self,
        engine: &Arc<Engine>,
        links: &Arc<Links>,
        ready: oneshot::Sender<Ready>,
        shutdown: &Shutdown,
    ) -> Result<()> {
        let Self { socket, name, tcp, identity, metrics, entrance, tokens, ready: facts } = self;
        let (identity, acceptor) = identity.unzip();
        // To the end: a drain is worth watching.
        let _page = metrics.map(|listener| scrape::serve(listener, engine, links));
        let (leaving, closing) = (CancellationToken::new(), CancellationToken::new());
        let (mut routes, mut names) = services(engine, &leaving)?;
        let (reporter, health) = tonic_health::server::health_reporter();
        routes.add_service(health);
        // The server as a whole.
        names.push("");
        tell(&reporter, &names, ServingStatus::Serving).await;

        let limits = Limits::default();
        let meter = MeterLayer::new(engine.store().metrics())?;
        let routes = routes.routes().prepare();
        let peers = entrance.as_ref().map(|entrance| entrance.peers(engine.store(), engine.clock(), machine()));
        let forward = ForwardLayer::new(peers.as_ref());
        let service = meter.layer(edge(&limits, DoorsLayer::new(tokens.clone()), forward.layer(routes.clone())));
        let mut servers = JoinSet::new();
        if let Some((entrance, peers)) = entrance.zip(peers) {
            let limits = Limits::of_peers();
            // What comes in here is never sent on.
            let service = meter.layer(edge(&limits, Admission::new(&peers), routes));
            let closing = closing.clone();
            let incoming = Box::pin(entrance.incoming());
            servers.spawn(async move { serve(&limits, service, incoming, closing.cancelled()).await });
        }
        servers.spawn({
            let (limits, service, closing) = (limits.clone(), service.clone(), closing.clone());
            async move { serve(&limits, service, UnixListenerStream::new(socket), closing.cancelled()).await }
        });
        for listener in tcp {
            let (limits, service, closing) = (limits.clone(), service.clone(), closing.clone());
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            if let Some(acceptor) = acceptor.clone() {
                let incoming = incoming.map(move |stream| stream.map(|stream| Secured::new(&acceptor, stream)));
                servers.spawn(async move { serve(&limits, service, incoming, closing.cancelled()).await });
            } else {
                servers.spawn(async move { serve(&limits, service, incoming, closing.cancelled()).await });
            }
        }
        // Nobody may be listening, and that is fine.
        let _ = ready.send(facts);

        loop {
            tokio::select! {
                () = shutdown.drain.cancelled() => break,
                () = shutdown.reload.notified() => reload(&tokens, identity.as_ref()).await,
                Some(ended) = servers.join_next() => {
                    farewell(ended)?;
                    return Err(Error::new(Reason::Internal, "a listener ended by itself"));
                }
            }
        }
        tell(&reporter, &names, ServingStatus::NotServing).await;
        // First: a watch must end as the end of the server, not of what it watches.
        leaving.cancel();
        engine.begin_drain();
        // Who comes now finds no daemon, rather than one that never answers.
        drop(name);
        closing.cancel();
        // Watches of health would last as long as their watchers.
        forget(reporter, &names).await;
        let mut result = Ok(());
        while let Some(ended) = servers.join_next().await {
            result = result.and(farewell(ended));
        }
        result
    }
}

fn farewell(ended: Result<Result<Farewell>, tokio::task::JoinError>) -> Result<()> {
    match ended.map_err(|error| Error::internal("a listener failed", error))?? {
        Farewell::Done => {}
        Farewell::Cut(connections) => {
            tracing::warn!(connections, "calls did not end in time; their connections were cut");
        }
    }
    Ok(())
}

/// Who may come in over TCP, and the generated token's file.
fn tokens(settings: &Settings) -> Result<(Tokens, Option<PathBuf>)> {
    let wrong = |error: TokensError| Error::invalid(report(&error)).because(error);
    match &settings.tokens {
        Some(path) => Ok((Tokens::open(path).map_err(wrong)?, None)),
        None if settings.listen.is_empty() => Ok((Tokens::none(), None)),
        None => {
            let path = settings.data_dir.join("token");
            Ok((Tokens::generate(&path, LOCAL).map_err(wrong)?, Some(path)))
        }
    }
}

/// Each by itself: a slip in one file does not keep the other from being read.
async fn reload(tokens: &Tokens, identity: Option<&Arc<Identity>>) {
    let again = tokens.clone();
    match tokio::task::spawn_blocking(move || again.reload()).await {
        Ok(Ok(())) => tracing::info!("the tokens were read again"),
        Ok(Err(error)) => tracing::error!(error = %report(&error), "the tokens stay as they were"),
        Err(error) => tracing::error!(%error, "the tokens stay as they were"),
    }
    let Some(identity) = identity.map(Arc::clone) else { return };
    match tokio::task::spawn_blocking(move || identity.reload().map(|()| identity)).await {
        Ok(Ok(identity)) => {
            tracing::info!(certificate = %identity.describe(), "the certificate was read again; new connections use it");
            warn_of(&identity);
        }
        Ok(Err(error)) => tracing::error!(error = %report(&error), "the certificate stays as it was"),
        Err(error) => tracing::error!(%error, "the certificate stays as it was"),
    }
}

fn warn_of(identity: &Identity) {
    for concern in identity.concerns(SystemClock.now()) {
        tracing::warn!("{concern}");
    }
}

fn taken(address: SocketAddr, error: std::io::Error) -> Error {
    Error::invalid(format!("cannot listen on {address}: {error}; choose another --listen")).because(error)
}

async fn tell(reporter: &HealthReporter, names: &[&str], status: ServingStatus) {
    for name in names {
        reporter.set_service_status(*name, status).await;
    }
}

async fn forget(mut reporter: HealthReporter, names: &[&str]) {
    for name in names {
        reporter.clear_service_status(name).await;
    }
}
