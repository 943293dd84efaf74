//! Domain errors become gRPC statuses here and nowhere else, and no status leaves without its `ErrorInfo`.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use tower::{Layer, Service};

use crate::error::{Error, Reason, report};

/// `ErrorInfo.domain` of every status that this server sends.
pub const DOMAIN: &str = "drydock";

/// When to try again, where the error does not say: long enough for a restart to get somewhere.
const DEFAULT_RETRY: Duration = Duration::from_secs(1);
/// Clients refuse header blocks above 8 KiB or 16 KiB by default; intermediaries add their own.
const TRAILERS_LIMIT: usize = 4096;
const MESSAGE_LIMIT: usize = 1024;
const VALUE_LIMIT: usize = 512;
const TAIL_LIMIT: usize = 2048;
/// The one metadata value of which the end matters.
const TAIL: &str = "stderr_tail";

/// What each reason is in gRPC; the contract's table.
const TABLE: &[(Reason, Code)] = &[
    (Reason::LeaseNotFound, Code::NotFound),
    (Reason::ResourceNotFound, Code::NotFound),
    (Reason::BlueprintNotFound, Code::NotFound),
    (Reason::ProcessNotFound, Code::NotFound),
    (Reason::TaskNotFound, Code::NotFound),
    (Reason::FileNotFound, Code::NotFound),
    (Reason::UploadNotFound, Code::NotFound),
    (Reason::LeaseNotActive, Code::FailedPrecondition),
    (Reason::LeaseExpired, Code::FailedPrecondition),
    (Reason::LeaseInUse, Code::FailedPrecondition),
    (Reason::ResourceInUse, Code::FailedPrecondition),
    (Reason::BlueprintInUse, Code::FailedPrecondition),
    (Reason::ProcessRunning, Code::FailedPrecondition),
    (Reason::NotADirectory, Code::FailedPrecondition),
    (Reason::IsADirectory, Code::FailedPrecondition),
    (Reason::DirectoryNotEmpty, Code::FailedPrecondition),
    (Reason::NotRegistrable, Code::FailedPrecondition),
    (Reason::HttpdConfigInvalid, Code::FailedPrecondition),
    (Reason::CommandFailed, Code::FailedPrecondition),
    (Reason::HostAuthFailed, Code::FailedPrecondition),
    (Reason::HostKeyMismatch, Code::FailedPrecondition),
    (Reason::NoBlueprint, Code::FailedPrecondition),
    (Reason::CapacityNever, Code::FailedPrecondition),
    (Reason::InvalidArgument, Code::InvalidArgument),
    (Reason::InvalidAttribute, Code::InvalidArgument),
    (Reason::InvalidFilter, Code::InvalidArgument),
    (Reason::InvalidPageToken, Code::InvalidArgument),
    (Reason::PathOutsideRoot, Code::InvalidArgument),
    (Reason::BlueprintExists, Code::AlreadyExists),
    (Reason::ResourceExists, Code::AlreadyExists),
    (Reason::ProcessExists, Code::AlreadyExists),
    (Reason::FileExists, Code::AlreadyExists),
    (Reason::RequestIdReused, Code::AlreadyExists),
    (Reason::EtagMismatch, Code::Aborted),
    (Reason::OutcomeUnknown, Code::Unknown),
    (Reason::OffsetUnavailable, Code::OutOfRange),
    (Reason::CursorExpired, Code::OutOfRange),
    (Reason::InterfaceNotSupported, Code::Unimplemented),
    (Reason::MethodNotFound, Code::Unimplemented),
    (Reason::HostUnreachable, Code::Unavailable),
    (Reason::ServerDraining, Code::Unavailable),
    (Reason::StoreUnavailable, Code::Unavailable),
    (Reason::ProviderUnavailable, Code::Unavailable),
    (Reason::SessionsExhausted, Code::ResourceExhausted),
    (Reason::QuotaExceeded, Code::ResourceExhausted),
    (Reason::RateLimited, Code::ResourceExhausted),
    (Reason::NoSpace, Code::ResourceExhausted),
    (Reason::ChecksumMismatch, Code::DataLoss),
    (Reason::DeadlineExceeded, Code::DeadlineExceeded),
    (Reason::Cancelled, Code::Cancelled),
    (Reason::PermissionDenied, Code::PermissionDenied),
    (Reason::Unauthenticated, Code::Unauthenticated),
    (Reason::Internal, Code::Internal),
];

/// The gRPC code of a reason.
#[must_use]
pub fn code(reason: Reason) -> Code {
    TABLE.iter().find(|(known, _)| *known == reason).map_or(Code::Internal, |(_, code)| *code)
}

/// The status that a caller sees: message, `ErrorInfo`, and `RetryInfo` where trying again may help. Its headers stay
/// below 4 KiB: long texts are shortened. What lies below the error goes to the log only.
#[must_use]
pub fn to_status(error: &Error) -> Status {
    if error.reason == Reason::Internal {
        tracing::error!(error = %report(error), "internal error");
    }
    let mut message = shortened(&error.message, MESSAGE_LIMIT);
    let mut metadata: BTreeMap<String, String> = error
        .metadata
        .iter()
        .map(|(key, value)| {
            (key.clone(), if key == TAIL { tail(value, TAIL_LIMIT) } else { shortened(value, VALUE_LIMIT) })
        })
        .collect();
    loop {
        let status = build(error, &message, &metadata);
        if size(&status) <= TRAILERS_LIMIT {
            return status;
        }
        // The longest text gives way first, so a short id never does.
        match metadata.iter_mut().max_by_key(|(_, value)| value.len()) {
            Some((key, value)) if value.len() >= message.len() && value.len() > 32 => {
                *value = if key == TAIL { tail(value, value.len() / 2) } else { shortened(value, value.len() / 2) };
            }
            Some(_) if message.len() <= 32 => {
                metadata.pop_last();
            }
            _ => message = shortened(&message, message.len() / 2),
        }
    }
}

fn build(error: &Error, message: &str, metadata: &BTreeMap<String, String>) -> Status {
    let metadata: HashMap<String, String> = metadata.clone().into_iter().collect();
    let mut details = ErrorDetails::with_error_info(error.reason.as_str(), DOMAIN, metadata);
    let code = code(error.reason);
    let retry = error.retry_after.or((code == Code::Unavailable).then_some(DEFAULT_RETRY));
    if retry.is_some() {
        details.set_retry_info(retry);
    }
    Status::with_error_details(code, message, details)
}

/// Bytes that the status takes as headers, as HTTP/2 counts them but for its fixed 32 a line.
fn size(status: &Status) -> usize {
    let mut headers = HeaderMap::new();
    match status.add_header(&mut headers) {
        Ok(()) => headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum(),
        Err(_) => usize::MAX,
    }
}

/// The beginning of a text, at most `limit` bytes, with a mark where something is missing.
fn shortened(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(limit.saturating_sub(3));
    format!("{}...", &text[..end])
}

/// The end of a text, at most `limit` bytes.
fn tail(text: &str, limit: usize) -> String {
    text[text.ceil_char_boundary(text.len().saturating_sub(limit))..].to_owned()
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        to_status(&error)
    }
}

/// A whole response that is only this error.
#[must_use]
pub fn response(error: &Error) -> Response<Body> {
    to_status(error).into_http()
}

/// The error that a status without details stands for: those are tonic's own, not the handlers'.
fn explain(status: &Status, path: &str) -> Error {
    let message = status.message();
    let decode_failed = [
        "failed to decode Protobuf message",
        "protocol error: received message",
        "Unexpected EOF decoding",
        "Missing request message",
    ]
    .iter()
    .any(|start| message.starts_with(start));
    let (reason, instead) = match status.code() {
        Code::Unimplemented if message.is_empty() => {
            return Error::new(
                Reason::MethodNotFound,
                format!("this server has no method {}; reflection lists those it has", shortened(path, 200)),
            );
        }
        Code::Unimplemented => (Reason::MethodNotFound, ""),
        Code::Internal if decode_failed => (Reason::InvalidArgument, ""),
        // A message above the limit. What we failed to encode is our own fault.
        Code::OutOfRange if message.starts_with("Error, decoded") => (Reason::InvalidArgument, ""),
        Code::InvalidArgument => (Reason::InvalidArgument, "the request is malformed"),
        Code::Cancelled => (Reason::Cancelled, "the call was cancelled"),
        Code::DeadlineExceeded => (Reason::DeadlineExceeded, "the deadline of the call passed"),
        Code::ResourceExhausted => (Reason::RateLimited, "too many calls at once; try again later"),
        Code::Unauthenticated => (Reason::Unauthenticated, "no valid credentials"),
        Code::PermissionDenied => (Reason::PermissionDenied, "not allowed"),
        Code::Unavailable => (Reason::ServerDraining, "the server is going down; try again"),
        // Health checks of services that it does not know.
        Code::NotFound if path.starts_with("/grpc.") => (Reason::ResourceNotFound, "no such service"),
        _ => (Reason::Internal, "internal error"),
    };
    Error::new(reason, if message.is_empty() { instead } else { message })
}

/// Adds the details to an error status that has none.
fn complete(headers: &mut HeaderMap, path: &str) {
    let failed = headers.get(Status::GRPC_STATUS).is_some_and(|value| value != "0");
    if !failed || headers.contains_key(Status::GRPC_STATUS_DETAILS) {
        return;
    }
    let Some(bare) = Status::from_header_map(headers) else { return };
    // Fails only for metadata that is no header; ours has none.
    let _ = to_status(&explain(&bare, path)).add_header(headers);
}

/// Sees to it that every error status has an `ErrorInfo`, tonic's own included. The outermost layer.
#[derive(Debug, Clone, Copy, Default)]
pub struct ErrorInfoLayer;

impl<S> Layer<S> for ErrorInfoLayer {
    type Service = ErrorInfoService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ErrorInfoService { inner }
    }
}

/// The service of [`ErrorInfoLayer`].
#[derive(Debug, Clone)]
pub struct ErrorInfoService<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for ErrorInfoService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = super::Answer<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            if response.headers().contains_key(Status::GRPC_STATUS) {
                complete(response.headers_mut(), &path);
                return Ok(response);
            }
            Ok(response.map(|inner| Body::new(CompletedBody { inner, path })))
        })
    }
}

/// A body whose trailers are completed.
struct CompletedBody {
    inner: Body,
    path: String,
}

impl HttpBody for CompletedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        Pin::new(&mut this.inner).poll_frame(cx).map_ok(|mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                complete(trailers, &this.path);
            }
            frame
        })
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
    use super::*;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    #[test]
    fn every_reason_is_in_the_table_once() {
        for reason in Reason::ALL {
            assert_eq!(TABLE.iter().filter(|(known, _)| known == reason).count(), 1, "{reason:?}");
        }
        assert_eq!(TABLE.len(), Reason::ALL.len());
    }

    #[test]
    fn a_status_says_what_and_hides_what_lies_below() {
        let status = to_status(
            &Error::internal("cannot read lease_1", std::io::Error::other("password=hunter2"))
                .with("lease_id", "lease_1"),
        );
        assert_eq!(status.code(), Code::Internal);
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.domain.as_str(), info.reason.as_str()), ("drydock", "INTERNAL"));
        assert_eq!(info.metadata["lease_id"], "lease_1");
        assert!(!format!("{status:?}").contains("hunter2"));
        assert!(status.get_details_retry_info().is_none());
    }

    #[test]
    fn what_may_come_back_says_when() {
        for reason in
            [Reason::HostUnreachable, Reason::ServerDraining, Reason::StoreUnavailable, Reason::ProviderUnavailable]
        {
            let retry = to_status(&Error::new(reason, "away")).get_details_retry_info().unwrap();
            assert_eq!(retry.retry_delay, Some(Duration::from_secs(1)));
        }
        let limited = Error::new(Reason::RateLimited, "slow down").retry_after(Duration::from_secs(7));
        assert_eq!(to_status(&limited).get_details_retry_info().unwrap().retry_delay, Some(Duration::from_secs(7)));
    }

    #[test]
    fn trailers_stay_small_and_keep_the_end_of_stderr() {
        let tail = format!("{}the end", "ä".repeat(5000));
        let mut error = Error::new(Reason::CommandFailed, "exit code 2\n".repeat(500))
            .with("stderr_tail", tail)
            .with("exit_code", "2");
        for number in 0..20 {
            error = error.with(&format!("more_{number}"), "x".repeat(3000));
        }
        let status = to_status(&error);
        assert!(size(&status) <= TRAILERS_LIMIT, "{}", size(&status));
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.metadata["exit_code"], "2");
        assert!(info.metadata["stderr_tail"].ends_with("the end"));
        assert!(size(&to_status(&Error::new(Reason::Internal, "\u{1f6a2}".repeat(9000)))) <= TRAILERS_LIMIT);
    }

    async fn through(bare: Status, in_trailers: bool) -> Status {
        let service = tower::service_fn(move |_: Request<Body>| {
            let bare = bare.clone();
            async move {
                if !in_trailers {
                    return Ok::<_, std::convert::Infallible>(bare.into_http::<Body>());
                }
                let mut trailers = HeaderMap::new();
                bare.add_header(&mut trailers).unwrap();
                let body =
                    http_body_util::Full::new(Bytes::from_static(b"data")).with_trailers(async { Some(Ok(trailers)) });
                Ok(Response::new(Body::new(body)))
            }
        });
        let request = Request::builder().uri("/drydock.v1.NoService/Nothing").body(Body::empty()).unwrap();
        let response = ErrorInfoLayer.layer(service).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let trailers = body.collect().await.unwrap().trailers().cloned().unwrap_or(parts.headers);
        Status::from_header_map(&trailers).unwrap()
    }

    #[tokio::test]
    async fn bare_statuses_are_completed_in_headers_and_trailers() {
        let cases = [
            (Status::unimplemented(""), "METHOD_NOT_FOUND", Code::Unimplemented),
            (
                Status::internal("failed to decode Protobuf message: buffer underflow"),
                "INVALID_ARGUMENT",
                Code::InvalidArgument,
            ),
            (
                Status::out_of_range("Error, decoded message length too large: found 9 bytes"),
                "INVALID_ARGUMENT",
                Code::InvalidArgument,
            ),
            (Status::out_of_range("Error, encoded message length too large"), "INTERNAL", Code::Internal),
            (Status::cancelled("client cancelled"), "CANCELLED", Code::Cancelled),
            (Status::deadline_exceeded(""), "DEADLINE_EXCEEDED", Code::DeadlineExceeded),
            (Status::resource_exhausted(""), "RATE_LIMITED", Code::ResourceExhausted),
            (Status::unauthenticated(""), "UNAUTHENTICATED", Code::Unauthenticated),
            (Status::unavailable(""), "SERVER_DRAINING", Code::Unavailable),
            (Status::unknown("boom"), "INTERNAL", Code::Internal),
        ];
        for (bare, reason, code) in cases {
            for in_trailers in [false, true] {
                let full = through(bare.clone(), in_trailers).await;
                assert_eq!(full.get_details_error_info().unwrap().reason, reason, "{bare:?}");
                assert_eq!(full.code(), code);
                assert!(!full.message().is_empty());
            }
        }
        let own = through(to_status(&Error::new(Reason::LeaseExpired, "lease_1 ended")), true).await;
        assert_eq!(own.get_details_error_info().unwrap().reason, "LEASE_EXPIRED");
    }
}
