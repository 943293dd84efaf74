//! Where other daemons come in: a port of its own, TLS with certificates on both sides, and behind it the interfaces of leases
//! and nothing else.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use http::{Request, Response, header};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::body::Body;
use tonic::transport::server::{TcpConnectInfo, TcpIncoming, TlsConnectInfo};
use tower::{Layer, Service};

use super::super::Answer;
use super::super::doors::Principal;
use super::super::interface::is_of_an_interface;
use super::super::status::response;
use super::identity::Identity;
use super::{Peers, passed};
use crate::clock::SharedClock;
use crate::error::{Error, Reason, Result};
use crate::store::{PeerDoor, Store};

/// Where a daemon listens that is not told to: only daemons on its own machine get there.
const BY_ITSELF: &str = "127.0.0.1:0";
/// For a stranger to show a certificate.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Strangers at once; more wait.
const HANDSHAKES: usize = 256;

/// The door, open but not yet answered.
pub(in super::super) struct Entrance {
    listener: TcpListener,
    address: SocketAddr,
    identity: Arc<Identity>,
    acceptor: TlsAcceptor,
}

impl Entrance {
    /// Listens where the setting `peer_listen` says.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for an address that is none, that nobody can be told, or that is taken.
    pub(in super::super) async fn open(wanted: Option<&str>) -> Result<Self> {
        let address = address(wanted.unwrap_or(BY_ITSELF))?;
        let taken = |error: io::Error| {
            Error::invalid(format!("cannot listen on {address}: {error}; choose another --peer-listen")).because(error)
        };
        let listener = TcpListener::bind(address).await.map_err(taken)?;
        let address = listener.local_addr().map_err(taken)?;
        let identity = Arc::new(Identity::make()?);
        let acceptor = TlsAcceptor::from(identity.of_server()?);
        Ok(Self { listener, address, identity, acceptor })
    }

    /// What other daemons must know to come in.
    pub(in super::super) fn told(&self) -> PeerDoor {
        PeerDoor { address: self.address.to_string(), certificate: self.identity.certificate().to_owned() }
    }

    /// Whom this daemon goes to, and who may come, by the daemons on record in this store.
    pub(in super::super) fn peers(&self, store: &Store, clock: &SharedClock, machine: String) -> Arc<Peers> {
        Arc::new(Peers::new(store.clone(), Arc::clone(clock), machine, Arc::clone(&self.identity)))
    }

    /// Who has come in as far as having a certificate. Who has none is turned away, and costs the others nothing.
    pub(in super::super) fn incoming(self) -> impl Stream<Item = io::Result<TlsStream<TcpStream>>> {
        let Self { listener, acceptor, .. } = self;
        TcpIncoming::from(listener)
            .with_nodelay(Some(true))
            .map(move |accepted| {
                let acceptor = acceptor.clone();
                async move {
                    let stream = match accepted {
                        Ok(stream) => stream,
                        Err(error) => return Some(Err(error)),
                    };
                    match timeout(HANDSHAKE, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => Some(Ok(stream)),
                        Ok(Err(error)) => {
                            tracing::debug!(%error, "who came to the door for daemons is none");
                            None
                        }
                        Err(_) => None,
                    }
                }
            })
            .buffer_unordered(HANDSHAKES)
            .filter_map(std::future::ready)
    }
}

/// One that others can be told.
fn address(text: &str) -> Result<SocketAddr> {
    let wrong = |why: &str| {
        Error::invalid(format!(
            "cannot listen for other daemons on {text:?}: {why}; say the address of this machine at which they reach it, and a \
             port, as in --peer-listen 10.0.0.7:7421"
        ))
    };
    let address: SocketAddr = text.parse().map_err(|_| wrong("that is not an address and a port"))?;
    match address.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => Err(wrong("that is no address to come to")),
        IpAddr::V6(ip) if ip.is_unspecified() => Err(wrong("that is no address to come to")),
        _ => Ok(address),
    }
}

/// Lets daemons on record in, on behalf of the principals that they name.
#[derive(Clone)]
pub(in super::super) struct Admission {
    peers: Arc<Peers>,
}

impl Admission {
    /// Those that `peers` knows.
    pub(in super::super) fn new(peers: &Arc<Peers>) -> Self {
        Self { peers: Arc::clone(peers) }
    }
}

impl<S> Layer<S> for Admission {
    type Service = AdmissionService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AdmissionService { inner, peers: Arc::clone(&self.peers) }
    }
}

/// The service of [`Admission`].
#[derive(Clone)]
pub(in super::super) struct AdmissionService<S> {
    inner: S,
    peers: Arc<Peers>,
}

/// Who asks, if the one at the other end is a daemon and may ask this.
async fn admit(peers: &Peers, request: &mut Request<Body>) -> Result<Principal> {
    let refused = |why: &str| Error::new(Reason::Unauthenticated, why);
    let shown = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>().and_then(TlsConnectInfo::peer_certs);
    let shown = shown.as_ref().and_then(|all| all.first()).ok_or_else(|| refused("this address is for daemons"))?;
    if !peers.roll.has(shown).await? {
        return Err(refused(
            "this address is for daemons on the same database, and this certificate is of none of them",
        ));
    }
    if !is_of_an_interface(request.uri().path()) {
        let what = "daemons ask each other for the interfaces of leases and for nothing else";
        return Err(Error::new(Reason::PermissionDenied, what));
    }
    passed::take(request.headers_mut())
}

impl<S> Service<Request<Body>> for AdmissionService<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let peers = Arc::clone(&self.peers);
        // The one that was asked whether it is ready.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        Box::pin(async move {
            match admit(&peers, &mut request).await {
                Ok(principal) => request.extensions_mut().insert(principal),
                Err(error) => return Ok(response(&error)),
            };
            request.headers_mut().remove(header::AUTHORIZATION);
            inner.call(request).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_that_others_can_be_told_will_do() {
        for good in ["127.0.0.1:0", "10.0.0.7:7421", "[::1]:7421"] {
            assert!(address(good).is_ok(), "{good}");
        }
        for bad in ["0.0.0.0:7421", "[::]:7421", "[::ffff:0.0.0.0]:1", "7421", "build-7:7421", ""] {
            let error = address(bad).unwrap_err();
            assert!(error.reason == Reason::InvalidArgument && error.message.contains("--peer-listen"), "{error}");
        }
    }
}
