//! Deadlines that hold to the end of a stream.
//!
//! tonic watches `grpc-timeout` only until the response headers are out, and then answers CANCELLED. This layer holds the
//! whole call to it and answers `DEADLINE_EXCEEDED`. tonic's own timer, which cannot be switched off, starts after ours
//! and is polled after it, so it never wins.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::Answer;
use super::status::{response, to_status};
use crate::error::{Error, Reason};

const HEADER: &str = "grpc-timeout";
/// Stands for "too far away to reckon with": thirty years.
const FAR: Duration = Duration::from_hours(30 * 365 * 24);

/// When the caller stops listening; in the request's extensions if the call has a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline(pub Instant);

impl Deadline {
    /// Time left, zero when it passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    fn after(timeout: Duration) -> Self {
        let now = Instant::now();
        Self(now.checked_add(timeout).unwrap_or(now + FAR))
    }
}

/// Reads `grpc-timeout`: at most eight digits and one of H, M, S, m, u, n.
fn parse(headers: &HeaderMap) -> Result<Option<Duration>, Error> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    let wrong = || Error::invalid("the header grpc-timeout must be 1 to 8 digits and a unit (H, M, S, m, u or n)");
    let text = value.to_str().map_err(|_| wrong())?;
    let (digits, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    Ok(Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return Err(wrong()),
    }))
}

fn passed() -> Error {
    Error::new(Reason::DeadlineExceeded, "the deadline of the call passed; what it started stays as it is")
}

/// Holds calls to their `grpc-timeout`, streams included.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeadlineLayer;

impl<S> Layer<S> for DeadlineLayer {
    type Service = DeadlineService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        DeadlineService { inner }
    }
}

/// The service of [`DeadlineLayer`].
#[derive(Debug, Clone)]
pub struct DeadlineService<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for DeadlineService<S>
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
        let deadline = match parse(request.headers()) {
            Ok(None) => return Box::pin(self.inner.call(request)),
            // Not inside the future: it must be reckoned before tonic's.
            Ok(Some(timeout)) => Deadline::after(timeout),
            Err(error) => return Box::pin(async move { Ok(response(&error)) }),
        };
        request.headers_mut().remove(HEADER);
        request.extensions_mut().insert(deadline);
        let answer = self.inner.call(request);
        Box::pin(async move {
            match tokio::time::timeout_at(deadline.0, answer).await {
                Ok(answer) => Ok(answer?.map(|inner| Body::new(TimedBody::new(inner, deadline)))),
                Err(_) => Ok(response(&passed())),
            }
        })
    }
}

/// The rest of a call that has a deadline.
struct TimedBody {
    /// Taken when the deadline passes. Shared with a task, because a body is not polled while its reader does not read,
    /// and what the stream holds must be let go even then.
    inner: Arc<Mutex<Option<Body>>>,
    sleep: Pin<Box<Sleep>>,
    over: bool,
    /// Ends the task.
    _watch: DropGuard,
}

impl TimedBody {
    fn new(inner: Body, deadline: Deadline) -> Self {
        let inner = Arc::new(Mutex::new(Some(inner)));
        let gone = CancellationToken::new();
        tokio::spawn({
            let (inner, gone) = (Arc::clone(&inner), gone.clone());
            async move {
                tokio::select! {
                    () = gone.cancelled() => {}
                    () = sleep_until(deadline.0) => drop(take(&inner)),
                }
            }
        });
        Self { inner, sleep: Box::pin(sleep_until(deadline.0)), over: false, _watch: gone.drop_guard() }
    }
}

fn take(inner: &Mutex<Option<Body>>) -> Option<Body> {
    inner.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl HttpBody for TimedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        // First, so that a stream that always has something to say cannot outrun its deadline.
        let late = this.sleep.as_mut().poll(cx).is_ready();
        let mut inner = this.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match inner.as_mut() {
            Some(body) if !late => {
                let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
                if frame.as_ref().is_none_or(|frame| frame.as_ref().map_or(true, Frame::is_trailers)) {
                    this.over = true;
                }
                Poll::Ready(frame)
            }
            _ => {
                drop(inner.take());
                this.over = true;
                let mut trailers = HeaderMap::new();
                to_status(&passed()).add_header(&mut trailers)?;
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        self.over || inner.as_ref().is_some_and(HttpBody::is_end_stream)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::pending;

    use futures::StreamExt as _;
    use http_body_util::{BodyExt as _, StreamBody};
    use tonic_types::StatusExt as _;
    use tower::ServiceExt as _;

    use super::*;

    fn request(timeout: &str) -> Request<Body> {
        Request::builder().uri("/x/Y").header(HEADER, timeout).body(Body::empty()).unwrap()
    }

    fn assert_deadline(headers: &HeaderMap) {
        let status = Status::from_header_map(headers).unwrap();
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        assert_eq!(status.get_details_error_info().unwrap().reason, "DEADLINE_EXCEEDED");
    }

    /// Tells by its token when it is dropped.
    fn endless(alive: DropGuard) -> Body {
        let first = futures::stream::iter([Ok::<_, Status>(Frame::data(Bytes::from_static(b"one")))]);
        let rest = futures::stream::once(async move {
            let _alive = alive;
            pending::<Result<Frame<Bytes>, Status>>().await
        });
        Body::new(StreamBody::new(Box::pin(first.chain(rest))))
    }

    #[test]
    fn timeouts_are_read() {
        let read = |text: &'static str| {
            parse(&HeaderMap::from_iter([(
                http::HeaderName::from_static(HEADER),
                http::HeaderValue::from_static(text),
            )]))
        };
        assert_eq!(read("2H").unwrap(), Some(Duration::from_hours(2)));
        assert_eq!(read("3M").unwrap(), Some(Duration::from_mins(3)));
        assert_eq!(read("99999999S").unwrap(), Some(Duration::from_secs(99_999_999)));
        assert_eq!(read("20m").unwrap(), Some(Duration::from_millis(20)));
        assert_eq!(read("20u").unwrap(), Some(Duration::from_micros(20)));
        assert_eq!(read("20n").unwrap(), Some(Duration::from_nanos(20)));
        for wrong in ["", "S", "1", "-1S", "1.5S", "123456789S", "1d", "+1S"] {
            assert_eq!(read(wrong).unwrap_err().reason, Reason::InvalidArgument, "{wrong}");
        }
        assert_eq!(parse(&HeaderMap::new()).unwrap(), None);
    }

    #[tokio::test]
    async fn a_slow_handler_is_dropped() {
        let dropped = CancellationToken::new();
        let guard = Arc::new(Mutex::new(Some(dropped.clone().drop_guard())));
        let service = DeadlineLayer.layer(tower::service_fn(move |request: Request<Body>| {
            let guard = guard.lock().unwrap().take();
            async move {
                let _guard = guard;
                assert!(!request.headers().contains_key(HEADER));
                assert!(request.extensions().get::<Deadline>().unwrap().remaining() <= Duration::from_millis(50));
                pending::<Result<Response<Body>, Infallible>>().await
            }
        }));
        let answer = service.oneshot(request("50m")).await.unwrap();
        assert_deadline(answer.headers());
        assert!(dropped.is_cancelled());
    }

    #[tokio::test]
    async fn a_running_stream_ends_with_its_deadline() {
        let dropped = CancellationToken::new();
        let guard = Arc::new(Mutex::new(Some(dropped.clone().drop_guard())));
        let service = DeadlineLayer.layer(tower::service_fn(move |_: Request<Body>| {
            let body = endless(guard.lock().unwrap().take().unwrap());
            async move { Ok::<_, Infallible>(Response::new(body)) }
        }));
        let started = Instant::now();
        let answer = service.oneshot(request("40m")).await.unwrap();
        let collected = answer.into_body().collect().await.unwrap();
        assert_deadline(collected.trailers().unwrap());
        assert!(dropped.is_cancelled());
        assert!(started.elapsed() >= Duration::from_millis(40));
    }

    #[tokio::test]
    async fn a_stream_nobody_reads_is_let_go_too() {
        let dropped = CancellationToken::new();
        let guard = Arc::new(Mutex::new(Some(dropped.clone().drop_guard())));
        let service = DeadlineLayer.layer(tower::service_fn(move |_: Request<Body>| {
            let body = endless(guard.lock().unwrap().take().unwrap());
            async move { Ok::<_, Infallible>(Response::new(body)) }
        }));
        let answer = service.oneshot(request("40m")).await.unwrap();
        dropped.cancelled().await;
        let collected = answer.into_body().collect().await.unwrap();
        assert_deadline(collected.trailers().unwrap());
    }

    #[tokio::test]
    async fn without_a_deadline_nothing_is_watched() {
        let service = DeadlineLayer.layer(tower::service_fn(|request: Request<Body>| async move {
            assert!(request.extensions().get::<Deadline>().is_none());
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }));
        let answer = service.oneshot(Request::new(Body::empty())).await.unwrap();
        assert!(answer.headers().is_empty());
    }

    #[tokio::test]
    async fn nonsense_is_refused() {
        let service = DeadlineLayer
            .layer(tower::service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::empty())) }));
        let answer = service.oneshot(request("soon")).await.unwrap();
        assert_eq!(Status::from_header_map(answer.headers()).unwrap().code(), tonic::Code::InvalidArgument);
    }
}
