//! Limits of the server as a whole: connections, streams, messages, and how long a farewell takes.
//!
//! tonic leaves most of them open. What it cannot do at all, a `Connection` does underneath it: close what sends
//! nothing, bound the number, and end what a drain has waited for long enough.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tower::{Layer, Service, ServiceBuilder};

use super::Answer;
use super::deadline::DeadlineLayer;
use super::status::{ErrorInfoLayer, response};
use crate::error::{Error, Reason, Result};

/// Largest message taken, in bytes: `.max_decoding_message_size(MAX_DECODE)` on every service.
pub const MAX_DECODE: usize = 4 * 1024 * 1024;
/// Largest message sent, in bytes; what clients take by default: `.max_encoding_message_size(MAX_ENCODE)`.
pub const MAX_ENCODE: usize = 4 * 1024 * 1024;

/// Largest HTTP/2 frame taken, in bytes: a chunk of a file or of output goes in one, not in 16 of the default size.
pub const MAX_FRAME: u32 = 256 * 1024;

/// Between daemons a connection carries the calls of many clients, and none may wait because others do not read: the windows
/// of all its streams fit into that of the connection.
pub(super) const PEER_STREAMS: u32 = 4095;
/// Bytes that may be under way to one who does not read, on a stream between daemons.
pub(super) const PEER_STREAM_WINDOW: u32 = 512 * 1024;
/// The same for a connection: the most that HTTP/2 knows.
pub(super) const PEER_CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// Bytes of headers between daemons: those of a client, and who that is.
pub(super) const PEER_HEADERS: u32 = 24 * 1024;

/// The preface that every HTTP/2 client starts with.
const PREFACE: usize = 24;
/// Between two tries to accept, when the system is out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// For connections to notice that they were cut off.
const ABORT_TIME: Duration = Duration::from_secs(1);

/// The knobs that tests turn; the others are constants in [`server`].
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once, per listener; one more is closed at once.
    pub connections: usize,
    /// Calls at once, over all connections, watches included; one more is `RATE_LIMITED`.
    pub calls: usize,
    /// Until the HTTP/2 preface must be here.
    pub preface: Duration,
    /// What running calls have left when the server goes down.
    pub grace: Duration,
    /// Calls at once on one connection; more wait.
    pub streams: u32,
    /// Bytes under way to a call that does not read, and to all calls of a connection.
    pub windows: (u32, u32),
    /// Bytes of headers.
    pub headers: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            calls: 16_384,
            preface: Duration::from_secs(10),
            grace: Duration::from_secs(30),
            streams: 200,
            // 64 KiB, the default of a stream, is a round trip for every chunk of output.
            windows: (1024 * 1024, 8 * 1024 * 1024),
            headers: 16 * 1024,
        }
    }
}

impl Limits {
    /// Those of the door for other daemons.
    #[must_use]
    pub fn of_peers() -> Self {
        Self {
            streams: PEER_STREAMS,
            windows: (PEER_STREAM_WINDOW, PEER_CONNECTION_WINDOW),
            headers: PEER_HEADERS,
            ..Self::default()
        }
    }
}

/// A tonic server with every limit set that it leaves open by default.
///
/// Not tonic's limit of calls per connection: it would answer without `ErrorInfo`, and the streams of a connection, which
/// HTTP/2 itself bounds, are fewer anyway. [`CallsLayer`] bounds their sum.
#[must_use]
pub fn server(limits: &Limits) -> Server {
    Server::builder()
        .max_concurrent_streams(limits.streams)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .initial_stream_window_size(limits.windows.0)
        .initial_connection_window_size(limits.windows.1)
        .max_frame_size(MAX_FRAME)
        .http2_max_header_list_size(limits.headers)
        .http2_max_pending_accept_reset_streams(Some(20))
        .http2_max_local_error_reset_streams(Some(1024))
}

/// The layers of the edge around the services, in the order in which a request meets them: error details, the bound on
/// calls, the deadline, the doors.
pub fn edge<D, S>(
    limits: &Limits,
    doors: D,
    services: S,
) -> impl Service<
    Request<Body>,
    Response = Response<Body>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Body>, Infallible>> + Send + use<D, S>,
> + Clone
+ Send
+ use<D, S>
where
    D: Layer<S>,
    D::Service: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    <D::Service as Service<Request<Body>>>::Future: Send + 'static,
{
    ServiceBuilder::new()
        .layer(ErrorInfoLayer)
        .layer(CallsLayer::new(limits.calls))
        .layer(DeadlineLayer)
        .layer(doors)
        .service(services)
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// All calls came to their end.
    Done,
    /// Some did not in time; this many connections were cut.
    Cut(usize),
}

/// Serves what comes in. When `shutdown` completes: takes no more connections or calls, lets running calls go on at most
/// [`Limits::grace`], and cuts what is left. Dropping the future cuts everything at once.
///
/// # Errors
/// `INTERNAL` when the server cannot run at all.
pub async fn serve<S, I, IO, F>(limits: &Limits, service: S, incoming: I, shutdown: F) -> Result<Farewell>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    I: Stream<Item = io::Result<IO>>,
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    F: Future<Output = ()>,
{
    let (drain, abort) = (CancellationToken::new(), CancellationToken::new());
    let _cut_when_dropped = abort.clone().drop_guard();
    let room = Arc::new(Semaphore::new(limits.connections));
    let incoming = accept(incoming, limits.preface, Arc::clone(&room), abort.clone());
    let running = server(limits).serve_with_incoming_shutdown(service, incoming, drain.clone().cancelled_owned());
    tokio::pin!(running);
    let ended = |result: Result<(), tonic::transport::Error>| match result {
        Ok(()) => Ok(Farewell::Done),
        Err(error) => Err(Error::internal("the server stopped", error)),
    };
    tokio::select! {
        result = &mut running => return ended(result),
        () = shutdown => drain.cancel(),
    }
    if let Ok(result) = timeout(limits.grace, &mut running).await {
        return ended(result);
    }
    let left = limits.connections - room.available_permits();
    abort.cancel();
    match timeout(ABORT_TIME, running).await {
        Ok(Err(error)) => ended(Err(error)),
        Ok(Ok(())) | Err(_) => Ok(Farewell::Cut(left)),
    }
}

/// Connections within the limits. Never ends for an error: an accept that fails now may succeed when a file is closed.
fn accept<I, IO>(
    incoming: I,
    preface: Duration,
    room: Arc<Semaphore>,
    abort: CancellationToken,
) -> impl Stream<Item = io::Result<Connection<IO>>>
where
    I: Stream<Item = io::Result<IO>>,
{
    incoming.filter_map(move |accepted| {
        let connection = accepted.map(|io| {
            let permit = Arc::clone(&room).try_acquire_owned().ok()?;
            Some(Connection::new(io, permit, preface, abort.clone()))
        });
        async move {
            match connection {
                Ok(Some(connection)) => Some(Ok(connection)),
                Ok(None) => {
                    tracing::warn!("too many connections; one more was closed");
                    None
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    pause().await;
                    None
                }
            }
        }
    })
}

#[expect(clippy::disallowed_methods, reason = "a system that is out of something recovers in real time")]
async fn pause() {
    sleep(ACCEPT_PAUSE).await;
}

/// A connection that counts, must say something, and can be cut.
struct Connection<IO> {
    io: IO,
    _permit: OwnedSemaphorePermit,
    /// Bytes of the preface still missing, and until when.
    missing: usize,
    patience: Option<Pin<Box<Sleep>>>,
    abort: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<IO> Connection<IO> {
    #[expect(clippy::disallowed_methods, reason = "how long a real peer may stay silent is real time")]
    fn new(io: IO, permit: OwnedSemaphorePermit, preface: Duration, abort: CancellationToken) -> Self {
        let abort = Box::pin(abort.cancelled_owned());
        Self { io, _permit: permit, missing: PREFACE, patience: Some(Box::pin(sleep(preface))), abort }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.abort.as_mut().poll(cx).is_ready() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server is going down"));
        }
        if self.patience.as_mut().is_some_and(|patience| patience.as_mut().poll(cx).is_ready()) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no HTTP/2 preface in time"));
        }
        Ok(())
    }
}

impl<IO: Connected> Connected for Connection<IO> {
    type ConnectInfo = IO::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Connection<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buffer);
        if self.patience.is_some() && result.is_ready() {
            self.missing = self.missing.saturating_sub(buffer.filled().len() - before);
            if self.missing == 0 {
                self.patience = None;
            }
        }
        result
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Connection<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Bounds the calls that run at once, to the end of their streams.
#[derive(Debug, Clone)]
pub struct CallsLayer {
    limit: usize,
    room: Arc<Semaphore>,
}

impl CallsLayer {
    /// At most `limit` calls.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, room: Arc::new(Semaphore::new(limit)) }
    }
}

impl<S> Layer<S> for CallsLayer {
    type Service = CallsService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CallsService { inner, calls: self.clone() }
    }
}

/// The service of [`CallsLayer`].
#[derive(Debug, Clone)]
pub struct CallsService<S> {
    inner: S,
    calls: CallsLayer,
}

impl<S> Service<Request<Body>> for CallsService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Ok(permit) = Arc::clone(&self.calls.room).try_acquire_owned() else {
            let message = format!("{} calls run already, as many as this server takes; try again", self.calls.limit);
            let error = Error::new(Reason::RateLimited, message).retry_after(Duration::from_secs(1));
            return Box::pin(async move { Ok(response(&error)) });
        };
        let answer = self.inner.call(request);
        Box::pin(async move { Ok(answer.await?.map(|inner| Body::new(CountedBody { inner, _permit: permit }))) })
    }
}

/// A body that counts as a running call.
struct CountedBody {
    inner: Body,
    _permit: OwnedSemaphorePermit,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests;
