//! Counts calls: by method and code when they end, and the streams that are open.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::Answer;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::proto::DESCRIPTORS;

/// What no method of ours is counted as: a caller can think of any number of paths.
const OTHER: Method = Method { name: "other", streams: false };

/// A method, as the metrics call it.
#[derive(Debug, Clone, Copy)]
struct Method {
    name: &'static str,
    streams: bool,
}

/// Counts the calls of a server.
#[derive(Clone)]
pub(super) struct MeterLayer {
    metrics: Arc<Metrics>,
    methods: Arc<HashMap<String, Method>>,
}

impl MeterLayer {
    /// Knows the methods of this build's descriptors, health and reflection.
    ///
    /// # Errors
    /// `INTERNAL` when the descriptors of this build cannot be read.
    pub(super) fn new(metrics: &Arc<Metrics>) -> Result<Self> {
        let set = FileDescriptorSet::decode(DESCRIPTORS)
            .map_err(|error| Error::internal("cannot read the descriptors of the API", error))?;
        let mut methods = HashMap::new();
        let mut add = |name: String, streams: bool| {
            let path = format!("/{name}");
            // Once for each method of a daemon.
            methods.insert(path, Method { name: name.leak(), streams });
        };
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let name = format!("{}.{}/{}", file.package(), service.name(), method.name());
                    add(name, method.client_streaming() || method.server_streaming());
                }
            }
        }
        add("grpc.health.v1.Health/Check".to_owned(), false);
        add("grpc.health.v1.Health/Watch".to_owned(), true);
        for version in ["v1", "v1alpha"] {
            add(format!("grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"), true);
        }
        Ok(Self { metrics: Arc::clone(metrics), methods: Arc::new(methods) })
    }
}

impl<S> Layer<S> for MeterLayer {
    type Service = MeterService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        MeterService { inner, meter: self.clone() }
    }
}

/// The service of [`MeterLayer`].
#[derive(Clone)]
pub(super) struct MeterService<S> {
    inner: S,
    meter: MeterLayer,
}

impl<S> Service<Request<Body>> for MeterService<S>
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
        let method = self.meter.methods.get(request.uri().path()).copied().unwrap_or(OTHER);
        let mut call = Call::begin(&self.meter.metrics, method);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            // An answer without a body has its status among the headers.
            call.look(answer.headers());
            Ok(answer.map(|inner| Body::new(MeteredBody { inner, call })))
        })
    }
}

/// A call that goes on as long as this lives.
struct Call {
    metrics: Arc<Metrics>,
    method: Method,
    begun: Instant,
    /// As it ended; a call that is dropped before was given up by its caller.
    code: Option<Code>,
}

impl Call {
    fn begin(metrics: &Arc<Metrics>, method: Method) -> Self {
        if method.streams {
            metrics.stream(method.name, true);
        }
        Self { metrics: Arc::clone(metrics), method, begun: Instant::now(), code: None }
    }

    fn look(&mut self, headers: &HeaderMap) {
        if let Some(status) = headers.get("grpc-status") {
            self.code = Some(Code::from_bytes(status.as_bytes()));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.method.streams {
            self.metrics.stream(self.method.name, false);
        }
        let code = name(self.code.unwrap_or(Code::Cancelled));
        self.metrics.called(self.method.name, code, self.begun.elapsed());
    }
}

/// gRPC's own names.
const fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// A body that notices the trailers.
struct MeteredBody {
    inner: Body,
    call: Call,
}

impl HttpBody for MeteredBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.call.look(trailers);
                }
            }
            Poll::Ready(Some(Err(status))) => self.call.code = Some(status.code()),
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(meter: &MeterLayer, path: &str, read: bool) {
        let service = meter.layer(tower::service_fn(|request: Request<Body>| async move {
            let path = request.uri().path().to_owned();
            let answer = if path.ends_with("GetLease") {
                Status::not_found("no").into_http()
            } else {
                Response::new(Body::new(
                    http_body_util::Full::new(Bytes::from_static(b"x")).map_err(|never| match never {}),
                ))
            };
            Ok::<_, Infallible>(answer)
        }));
        let answer = service.oneshot(Request::builder().uri(path).body(Body::empty()).unwrap()).await.unwrap();
        if read {
            let _ = answer.into_body().collect().await;
        }
    }

    #[tokio::test]
    async fn a_call_is_counted_once_whatever_its_end() {
        let metrics = Arc::new(Metrics::new());
        let meter = MeterLayer::new(&metrics).unwrap();
        ask(&meter, "/drydock.v1.LeaseService/GetLease", true).await;
        // Without trailers: whoever asked has left.
        ask(&meter, "/drydock.v1.LeaseService/WatchLease", false).await;
        for path in ["/drydock.v1.LeaseService/NoSuch", "/lease_0123", "/"] {
            ask(&meter, path, true).await;
        }
        let (page, _) = metrics.text(true);
        for line in [
            "drydock_rpcs_total{method=\"drydock.v1.LeaseService/GetLease\",code=\"NOT_FOUND\"} 1",
            "drydock_rpcs_total{method=\"drydock.v1.LeaseService/WatchLease\",code=\"CANCELLED\"} 1",
            "drydock_rpcs_total{method=\"other\",code=\"CANCELLED\"} 3",
            "drydock_streams_open{method=\"drydock.v1.LeaseService/WatchLease\"} 0",
        ] {
            assert!(page.contains(line), "{line} in\n{page}");
        }
        assert!(!page.contains("lease_0123") && !page.contains("NoSuch"), "{page}");
    }
}
