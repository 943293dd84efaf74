//! Who is calling: peers of the unix socket by their uid, callers over TCP by a token.
//!
//! Everything needs a principal, reflection too; only health is open.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response, header};
use tonic::body::Body;
use tonic::transport::server::UdsConnectInfo;
use tower::{Layer, Service};

use super::Answer;
use super::status::response;
pub use super::tokens::{Tokens, TokensError};
use crate::error::{Error, Reason, Result};

/// How a caller came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The unix socket.
    Socket,
    /// A bearer token.
    Token,
}

impl Door {
    /// The name in `Caller.door`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Token => "token",
        }
    }
}

/// Who is calling; in the extensions of every request that a handler sees, health checks excepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// For example `uid:1000@build-7` or `ci-web`. Owns leases.
    pub name: String,
    /// Sees and touches what others own, blueprints and resources.
    pub admin: bool,
    /// How it came in.
    pub door: Door,
}

impl Principal {
    /// The caller of a request.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` when it came past the doors, which only health does.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<&Self> {
        request.extensions().get().ok_or_else(|| Error::new(Reason::Unauthenticated, "the call has no principal"))
    }

    /// Lets admins pass.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` for everyone else; `what` completes "only admins may …".
    pub fn need_admin(&self, what: &str) -> Result<()> {
        if self.admin {
            return Ok(());
        }
        Err(Error::new(Reason::PermissionDenied, format!("only admins may {what}; {} is none", self.name)))
    }
}

/// The address that `--listen` names. `localhost` stands for 127.0.0.1.
///
/// # Errors
/// `INVALID_ARGUMENT`: no address and port.
pub fn listen_address(text: &str) -> Result<SocketAddr> {
    match text.strip_prefix("localhost:").map(str::parse) {
        Some(Ok(port)) => Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
        _ => text.parse().map_err(|_| {
            Error::invalid(format!("cannot listen on {text:?}: not an address and a port, as in 127.0.0.1:7420"))
        }),
    }
}

/// Whether nobody but this machine can connect to it.
#[must_use]
pub fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// The rules of the doors.
#[derive(Debug)]
struct Doors {
    uid: u32,
    machine: String,
    tokens: Tokens,
}

impl Doors {
    fn admit(&self, extensions: &http::Extensions, headers: &HeaderMap) -> Result<Principal> {
        match extensions.get::<UdsConnectInfo>() {
            Some(peer) => self.socket(peer.peer_cred.map(|peer| peer.uid())),
            None => self.token(headers),
        }
    }

    fn socket(&self, uid: Option<u32>) -> Result<Principal> {
        let refused = |who: String| {
            let hint = format!("this socket serves uid {} and root only; {who}", self.uid);
            Err(Error::new(Reason::Unauthenticated, hint))
        };
        match uid {
            Some(uid) if uid == self.uid || uid == 0 => {
                Ok(Principal { name: format!("uid:{uid}@{}", self.machine), admin: true, door: Door::Socket })
            }
            Some(uid) => refused(format!("you are uid {uid}")),
            None => refused("the system does not say who you are".to_owned()),
        }
    }

    fn token(&self, headers: &HeaderMap) -> Result<Principal> {
        let refused = |hint: &str| Error::new(Reason::Unauthenticated, hint);
        let Some(credentials) = headers.get(header::AUTHORIZATION) else {
            return Err(refused(
                "this address needs a token: set DRYDOCK_TOKEN or DRYDOCK_TOKEN_FILE, or send `authorization: Bearer TOKEN`",
            ));
        };
        let token = credentials
            .to_str()
            .ok()
            .and_then(|text| text.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| refused("the header authorization must be `Bearer TOKEN`"))?;
        self.tokens.find(token).ok_or_else(|| {
            refused("the token is not known here: look at DRYDOCK_TOKEN or DRYDOCK_TOKEN_FILE and at the daemon's token file")
        })
    }
}

/// Puts the [`Principal`] into the extensions of every request, or refuses it.
#[derive(Debug, Clone)]
pub struct DoorsLayer {
    doors: Arc<Doors>,
}

impl DoorsLayer {
    /// Doors of this process, on this machine.
    #[must_use]
    pub fn new(tokens: Tokens) -> Self {
        let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self::with(rustix::process::geteuid().as_raw(), machine, tokens)
    }

    fn with(uid: u32, machine: String, tokens: Tokens) -> Self {
        Self { doors: Arc::new(Doors { uid, machine, tokens }) }
    }
}

impl<S> Layer<S> for DoorsLayer {
    type Service = DoorsService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        DoorsService { inner, doors: Arc::clone(&self.doors) }
    }
}

/// The service of [`DoorsLayer`].
#[derive(Debug, Clone)]
pub struct DoorsService<S> {
    inner: S,
    doors: Arc<Doors>,
}

impl<S> Service<Request<Body>> for DoorsService<S>
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

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if !request.uri().path().starts_with("/grpc.health.v1.") {
            match self.doors.admit(request.extensions(), request.headers()) {
                Ok(principal) => request.extensions_mut().insert(principal),
                Err(error) => return Box::pin(async move { Ok(response(&error)) }),
            };
        }
        // Nobody further in needs it, so nobody can log it.
        request.headers_mut().remove(header::AUTHORIZATION);
        Box::pin(self.inner.call(request))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tonic::Status;
    use tower::ServiceExt as _;

    use super::*;

    fn doors(tokens: &str) -> DoorsLayer {
        DoorsLayer::with(1000, "build-7".to_owned(), Tokens::parse(tokens).unwrap())
    }

    async fn knock(path: &str, authorization: Option<&str>) -> Result<Option<Principal>, Status> {
        let (tell, told) = std::sync::mpsc::channel();
        let service =
            doors("ci-web s3cret\nops t0p admin\n").layer(tower::service_fn(move |request: Request<Body>| {
                assert!(!request.headers().contains_key(header::AUTHORIZATION));
                tell.send(request.extensions().get::<Principal>().cloned()).unwrap();
                async { Ok::<_, Infallible>(Response::new(Body::empty())) }
            }));
        let mut request = Request::builder().uri(path).body(Body::empty()).unwrap();
        if let Some(text) = authorization {
            request.headers_mut().insert(header::AUTHORIZATION, text.parse().unwrap());
        }
        let answer = service.oneshot(request).await.unwrap();
        match Status::from_header_map(answer.headers()) {
            Some(status) => Err(status),
            None => Ok(told.recv().unwrap()),
        }
    }

    #[tokio::test]
    async fn tokens_open_the_tcp_door() {
        let path = "/drydock.v1.LeaseService/GetLease";
        let user = knock(path, Some("Bearer s3cret")).await.unwrap().unwrap();
        assert_eq!(user, Principal { name: "ci-web".to_owned(), admin: false, door: Door::Token });
        assert_eq!(user.need_admin("drain resources").unwrap_err().reason, Reason::PermissionDenied);
        assert!(knock(path, Some("bearer t0p")).await.unwrap().unwrap().admin);
        for wrong in
            [None, Some("Bearer nope"), Some("Bearer "), Some("Basic s3cret"), Some("s3cret"), Some("Bearer s3cre")]
        {
            let status = knock(path, wrong).await.unwrap_err();
            assert_eq!(status.code(), tonic::Code::Unauthenticated, "{wrong:?}");
            assert!(!status.message().contains("nope"), "{status:?}");
        }
    }

    #[tokio::test]
    async fn health_is_open_and_reflection_is_not() {
        assert_eq!(knock("/grpc.health.v1.Health/Check", None).await.unwrap(), None);
        assert!(knock("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", None).await.is_err());
    }

    #[test]
    fn the_socket_serves_its_owner_and_root() {
        let doors = doors("").doors;
        let owner = doors.socket(Some(1000)).unwrap();
        assert_eq!((owner.name.as_str(), owner.admin, owner.door.as_str()), ("uid:1000@build-7", true, "socket"));
        assert!(doors.socket(Some(0)).unwrap().admin);
        assert_eq!(doors.socket(Some(1001)).unwrap_err().reason, Reason::Unauthenticated);
        assert!(doors.socket(None).is_err());
    }

    #[test]
    fn addresses_are_read_and_loopback_is_known() {
        for loopback in ["127.0.0.1:7420", "127.9.9.9:1", "[::1]:7420", "localhost:0", "[::ffff:127.0.0.1]:1"] {
            assert!(is_loopback(&listen_address(loopback).unwrap()), "{loopback}");
        }
        for other in ["0.0.0.0:7420", "[::]:7420", "10.0.0.7:7420"] {
            assert!(!is_loopback(&listen_address(other).unwrap()), "{other}");
        }
        for bad in ["7420", "example.org:1", "localhost:http", ""] {
            assert_eq!(listen_address(bad).unwrap_err().reason, Reason::InvalidArgument, "{bad}");
        }
    }
}
