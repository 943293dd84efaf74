//! The wire between a daemon and the database, which can be cut, held up, and let go.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What the wire does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Weather {
    /// Raised with each cut: connections that were made before it end.
    cuts: u64,
    /// Each piece arrives so much later.
    delay: Duration,
    /// Nothing goes through, and nobody is told.
    dead: bool,
    /// Raised each time that the connections there are fall silent for good, and new ones do not.
    stalls: u64,
}

/// One daemon's wire.
pub(super) struct Proxy {
    pub(super) port: u16,
    weather: Arc<watch::Sender<Weather>>,
    accepting: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Proxy {
    pub(super) async fn start(server: &Path) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let weather = Arc::new(watch::Sender::new(Weather::default()));
        let accepting = tokio::spawn(accept(listener, server.to_owned(), Arc::clone(&weather)));
        Self { port, weather, accepting }
    }

    /// All connections end.
    pub(super) fn cut(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// From now on each piece takes so much longer.
    pub(super) fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    /// From now on nothing arrives, either way.
    pub(super) fn hold(&self) {
        self.weather.send_modify(|weather| weather.dead = true);
    }

    /// From now on nothing arrives on the connections that there are: as when a wall between forgets them.
    pub(super) fn stall(&self) {
        self.weather.send_modify(|weather| weather.stalls += 1);
    }

    /// As on a fine day; what was held up arrives.
    pub(super) fn clear(&self) {
        self.weather.send_modify(|weather| *weather = Weather { dead: false, delay: Duration::ZERO, ..*weather });
    }
}

async fn accept(listener: TcpListener, server: PathBuf, weather: Arc<watch::Sender<Weather>>) {
    let mut wires = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let _ = client.set_nodelay(true);
        let (weather, server) = (weather.subscribe(), server.clone());
        wires.spawn(async move { wire(client, &server, weather).await });
        while wires.try_join_next().is_some() {}
    }
}

async fn wire(client: TcpStream, server: &Path, weather: watch::Receiver<Weather>) {
    // No server: the connection ends, as if nobody listened there.
    let Ok(server) = UnixStream::connect(server).await else { return };
    let Weather { cuts, stalls, .. } = *weather.borrow();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut cut = weather.clone();
    tokio::select! {
        () = pass(from_client, to_server, weather.clone(), stalls) => {}
        () = pass(from_server, to_client, weather, stalls) => {}
        _ = cut.wait_for(|weather| weather.cuts > cuts) => {}
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut weather: watch::Receiver<Weather>,
    stalls: u64,
) {
    let mut piece = vec![0; 16 << 10];
    while let Ok(length) = from.read(&mut piece).await {
        if length == 0 {
            return;
        }
        let delay = weather.borrow().delay;
        if !delay.is_zero() {
            // Sooner when it clears up.
            let _ = tokio::time::timeout(delay, weather.wait_for(|weather| weather.delay.is_zero())).await;
        }
        if weather.wait_for(|weather| !weather.dead && weather.stalls == stalls).await.is_err() {
            return;
        }
        if to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}
