//! A call for a lease that only another daemon reaches is sent on to that one, as it came; its answer comes back as it is.
//!
//! The service says whose the lease is: it refuses with the other daemon's home. So this is one place for all interfaces, and a
//! call for a lease of our own costs nothing more.

use std::error::Error as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame};
use tonic::body::Body;
use tonic::{Code, ConnectError, Status};
use tonic_types::StatusExt as _;
use tower::{Layer, Service, ServiceExt as _};

use super::super::Answer;
use super::super::deadline::Deadline;
use super::super::doors::Principal;
use super::super::interface::is_of_an_interface;
use super::super::status::{response, to_status};
use super::line::unreachable;
use super::tape::record;
use super::{Peers, passed};
use crate::engine::DAEMON_FACT;
use crate::error::{Error, Reason, Result};

/// Methods that change nothing. Of the others nobody knows what came of them when the connection is lost.
const LOOKS: [&str; 6] = ["StatFile", "ListDirectory", "ReadFile", "GetWriteStatus", "GetHttpd", "GetUri"];
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The longest time that `grpc-timeout` can say in one unit.
const MOST: u128 = 99_999_999;

/// Sends calls on to the daemons whose they are; without peers, none.
#[derive(Clone)]
pub(in super::super) struct ForwardLayer {
    peers: Option<Arc<Peers>>,
}

impl ForwardLayer {
    /// To those that `peers` knows.
    pub(in super::super) fn new(peers: Option<&Arc<Peers>>) -> Self {
        Self { peers: peers.cloned() }
    }
}

impl<S> Layer<S> for ForwardLayer {
    type Service = ForwardService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ForwardService { inner, peers: self.peers.clone() }
    }
}

/// The service of [`ForwardLayer`].
#[derive(Clone)]
pub(in super::super) struct ForwardService<S> {
    inner: S,
    peers: Option<Arc<Peers>>,
}

impl<S> Service<Request<Body>> for ForwardService<S>
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
        let (parts, body) = request.into_parts();
        let principal = parts.extensions.get::<Principal>().cloned();
        let (Some(peers), Some(principal), true) =
            (self.peers.clone(), principal, is_of_an_interface(parts.uri.path()))
        else {
            return Box::pin(self.inner.call(Request::from_parts(parts, body)));
        };
        let kept = parts.clone();
        let (body, tape) = record(body);
        let answer = self.inner.call(Request::from_parts(parts, body));
        Box::pin(async move {
            let answer = answer.await?;
            let Some(home) = elsewhere(answer.headers()) else { return Ok(answer) };
            let Some(body) = tape.rewound() else { return Ok(answer) };
            drop(answer);
            Ok(peers.forward(&home, kept, &principal, body).await.unwrap_or_else(|error| response(&error)))
        })
    }
}

/// The home of the daemon whose the lease is, when that is why a call was refused.
fn elsewhere(headers: &HeaderMap) -> Option<String> {
    let status = headers.contains_key(Status::GRPC_STATUS).then(|| Status::from_header_map(headers)).flatten()?;
    if status.code() != Code::Unavailable {
        return None;
    }
    let mut info = status.get_details_error_info()?;
    (info.reason == Reason::HostUnreachable.as_str()).then(|| info.metadata.remove(DAEMON_FACT)).flatten()
}

impl Peers {
    /// Sends a call on.
    ///
    /// # Errors
    /// `HOST_UNREACHABLE` when nothing came of it, `OUTCOME_UNKNOWN` when that is not known.
    async fn forward(&self, home: &str, parts: Parts, principal: &Principal, body: Body) -> Result<Response<Body>> {
        let line = self.lines.to(home).await?;
        let path = parts.uri.path().to_owned();
        let mut request = Request::new(body);
        *request.method_mut() = parts.method;
        *request.uri_mut() = parts.uri;
        *request.headers_mut() = parts.headers;
        let headers = request.headers_mut();
        for own in [header::HOST, header::CONTENT_LENGTH, header::AUTHORIZATION] {
            headers.remove(own);
        }
        if let Some(deadline) = parts.extensions.get::<Deadline>() {
            headers.insert(TIMEOUT, timeout(deadline));
        }
        passed::tell(headers, principal)?;
        let mut channel = line.channel;
        let channel = channel.ready().await.map_err(|error| no_answer(home, &path, error))?;
        let answer = channel.call(request).await.map_err(|error| no_answer(home, &path, error))?;
        if answer.status() != StatusCode::OK {
            return Err(lost(home, &path));
        }
        match answer.headers().get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes())) {
            // The caller has shown to us who it is; it is us that the other one does not know.
            Some(Code::Unauthenticated) => Err(unreachable(
                home,
                "and that one does not know this daemon; look whether both are on the same database",
            )),
            Some(_) => Ok(answer),
            None => Ok(answer.map(|inner| Body::new(PassedBody { inner, over: false, lost: Some(lost(home, &path)) }))),
        }
    }
}

/// What is left of the caller's time.
fn timeout(deadline: &Deadline) -> HeaderValue {
    let left = deadline.remaining();
    // Rounded up: when the time is over, the caller's own daemon says so.
    let (number, unit) = match left.as_millis() + 1 {
        millis @ ..=MOST => (millis, 'm'),
        _ => (u128::from(left.as_secs()).min(MOST), 'S'),
    };
    HeaderValue::try_from(format!("{number}{unit}")).unwrap_or_else(|_| HeaderValue::from_static("0m"))
}

/// The connection failed, before the call or in its course.
fn no_answer(home: &str, path: &str, error: tonic::transport::Error) -> Error {
    let mut below = error.source();
    while let Some(cause) = below {
        if cause.is::<ConnectError>() {
            return unreachable(home, "and that one does not answer").because(error);
        }
        below = cause.source();
    }
    lost(home, path).because(error)
}

fn lost(home: &str, path: &str) -> Error {
    if LOOKS.iter().any(|method| path.ends_with(&format!("/{method}"))) {
        return unreachable(home, "and the connection to that one was lost; nothing was changed");
    }
    let message = format!("the connection to the daemon {home} was lost during the call; nobody knows what came of it");
    Error::new(Reason::OutcomeUnknown, message).with(DAEMON_FACT, home)
}

/// An answer from elsewhere, which ends as such when the connection does not last.
struct PassedBody {
    inner: Body,
    over: bool,
    lost: Option<Error>,
}

impl HttpBody for PassedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Some(Ok(frame)) = ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            self.over = frame.is_trailers();
            return Poll::Ready(Some(Ok(frame)));
        }
        self.over = true;
        let Some(lost) = self.lost.take() else { return Poll::Ready(None) };
        let mut trailers = HeaderMap::new();
        to_status(&lost).add_header(&mut trailers)?;
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt as _, StreamBody};

    #[test]
    fn only_a_lease_of_another_daemon_goes_elsewhere() {
        let headers = |error: Error| response(&error).into_parts().0.headers;
        let theirs = Error::new(Reason::HostUnreachable, "not here").with(DAEMON_FACT, "m:/d");
        assert_eq!(elsewhere(&headers(theirs)).as_deref(), Some("m:/d"));
        for other in [
            Error::new(Reason::HostUnreachable, "no route to it"),
            Error::new(Reason::ServerDraining, "going down").with(DAEMON_FACT, "m:/d"),
            Error::new(Reason::LeaseNotFound, "none").with(DAEMON_FACT, "m:/d"),
        ] {
            assert_eq!(elsewhere(&headers(other)), None);
        }
        assert_eq!(elsewhere(&HeaderMap::new()), None);
    }

    #[test]
    fn a_lost_look_may_be_tried_again_and_nothing_else() {
        assert_eq!(lost("m:/d", "/drydock.v1.FilesystemService/ReadFile").reason, Reason::HostUnreachable);
        for path in ["/drydock.v1.CommandService/Exec", "/drydock.v1.FilesystemService/RemoveFile", "/x/NewFile"] {
            assert_eq!(lost("m:/d", path).reason, Reason::OutcomeUnknown);
        }
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_ends_in_a_status() {
        let one = || Ok::<_, Status>(Frame::data(Bytes::from_static(b"one")));
        for rest in [None, Some(Err(Status::unavailable("reset")))] {
            let frames = std::iter::once(one()).chain(rest);
            let inner = Body::new(StreamBody::new(futures::stream::iter(frames.collect::<Vec<_>>())));
            let passed = PassedBody { inner, over: false, lost: Some(lost("m:/d", "/x/Exec")) };
            let all = passed.collect().await.unwrap();
            let status = Status::from_header_map(all.trailers().unwrap()).unwrap();
            assert_eq!(status.get_details_error_info().unwrap().reason, "OUTCOME_UNKNOWN");
            assert_eq!(all.to_bytes(), "one");
        }
    }
}
