//! How a command ends: its exit code, and the last line on stderr when it failed.

use std::fmt;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::error::{Error, Reason, report};

/// Did what it was asked.
pub const OK: u8 = 0;
/// Failed for a reason that has no code of its own.
pub const FAILURE: u8 = 1;
/// Wrong words on the command line, or input that the daemon refuses as invalid.
pub const USAGE: u8 = 64;
/// No daemon, or something that it needs is away.
pub const UNAVAILABLE: u8 = 69;
/// No capacity in time: try again.
pub const TRY_AGAIN: u8 = 75;
/// Not allowed.
pub const PERMISSION: u8 = 77;
/// Bad configuration.
pub const CONFIGURATION: u8 = 78;
/// Drydock's own failure where the exit code otherwise is the command's.
pub const DRYDOCK: u8 = 125;

/// Result with the command line's failure.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a command failed: what to exit with and what to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code outside of `run` and `exec`.
    pub code: u8,
    /// `UPPER_SNAKE`, as the API says it, or one of the command line's own: `USAGE`, `NO_DAEMON`, `CONFIGURATION`, `IO`.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The tail of the failing command's output, if the daemon sent one.
    pub tail: String,
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    /// `REASON message`, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line: Vec<_> = self.message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        write!(f, "{} {}", self.reason, line.join("; "))
    }
}

impl Failure {
    /// A failure with a reason and exit code of choice.
    pub fn new(code: u8, reason: &str, message: impl Into<String>) -> Self {
        Self { code, reason: reason.to_owned(), message: message.into(), tail: String::new() }
    }

    /// Wrong words on the command line (64).
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, "USAGE", message)
    }

    /// Bad settings (78).
    pub fn configuration(message: impl Into<String>) -> Self {
        Self::new(CONFIGURATION, "CONFIGURATION", message)
    }

    /// A file or stream of this machine failed (1).
    pub fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::new(128 + 13, BROKEN_PIPE, "the reader of our output has gone");
        }
        Self::new(FAILURE, "IO", format!("{what}: {error}"))
    }

    /// Interrupted by a signal, given by its number.
    #[must_use]
    pub fn interrupted(signal: u8) -> Self {
        Self::new(128 + signal, "CANCELLED", "interrupted")
    }

    /// What to exit with. A wrapper's exit codes belong to the command it runs, so all of Drydock's own failures are one
    /// there; only the ends that the caller's side itself has caused keep theirs.
    #[must_use]
    pub fn exit_code(&self, wrapper: bool) -> u8 {
        if wrapper && self.code < 128 { DRYDOCK } else { self.code }
    }

    /// Whether nothing needs to be said: who reads has gone away.
    #[must_use]
    pub fn is_broken_pipe(&self) -> bool {
        self.reason == BROKEN_PIPE
    }

    /// Whether the daemon gave this reason.
    #[must_use]
    pub fn is(&self, reason: Reason) -> bool {
        self.reason == reason.as_str()
    }
}

const BROKEN_PIPE: &str = "BROKEN_PIPE";

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let mut metadata = status.get_details_error_info().map(|info| (info.reason, info.metadata));
        let tail = metadata.as_mut().and_then(|(_, more)| more.remove("stderr_tail")).unwrap_or_default();
        match metadata {
            Some((reason, _)) => Self {
                code: code(&reason).unwrap_or_else(|| code_of_status(status.code())),
                reason,
                message: status.message().to_owned(),
                tail,
            },
            // Not from a handler: the link itself broke, or someone else answers at this address.
            None => Self {
                code: code_of_status(status.code()),
                reason: reason_of_status(status.code()).to_owned(),
                message: describe(&status),
                tail,
            },
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let reason = error.reason.as_str();
        Self {
            code: code(reason).unwrap_or(FAILURE),
            reason: reason.to_owned(),
            message: report(&error),
            tail: String::new(),
        }
    }
}

/// The exit code of a reason; `None` for one that this version does not know.
#[must_use]
pub fn code(reason: &str) -> Option<u8> {
    let known = Reason::ALL.iter().find(|known| known.as_str() == reason)?;
    Some(match known {
        Reason::InvalidArgument
        | Reason::InvalidAttribute
        | Reason::InvalidFilter
        | Reason::InvalidPageToken
        | Reason::PathOutsideRoot => USAGE,
        Reason::HostUnreachable | Reason::ServerDraining | Reason::StoreUnavailable | Reason::ProviderUnavailable => {
            UNAVAILABLE
        }
        Reason::SessionsExhausted | Reason::QuotaExceeded | Reason::RateLimited | Reason::DeadlineExceeded => TRY_AGAIN,
        Reason::PermissionDenied | Reason::Unauthenticated => PERMISSION,
        _ => FAILURE,
    })
}

fn code_of_status(code: Code) -> u8 {
    match code {
        Code::InvalidArgument => USAGE,
        // Without a reason of the daemon: the link broke before the answer came.
        Code::Unavailable | Code::Unknown => UNAVAILABLE,
        Code::ResourceExhausted | Code::DeadlineExceeded => TRY_AGAIN,
        Code::PermissionDenied | Code::Unauthenticated => PERMISSION,
        _ => FAILURE,
    }
}

fn reason_of_status(code: Code) -> &'static str {
    match code {
        Code::Unavailable => "UNAVAILABLE",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::Cancelled => "CANCELLED",
        Code::Unimplemented => "METHOD_NOT_FOUND",
        Code::Unauthenticated => "UNAUTHENTICATED",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::Unknown => "OUTCOME_UNKNOWN",
        _ => "INTERNAL",
    }
}

/// The status's words, or what lies below when it has none.
fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut next = std::error::Error::source(status);
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = if text.is_empty() { more } else { format!("{text}: {more}") };
        }
        next = cause.source();
    }
    if text.is_empty() { format!("the daemon answered {:?}", status.code()) } else { text }
}

/// Says a failure on stderr: the tail of what failed first, and last the line that scripts look at.
pub fn say(failure: &Failure) {
    if failure.is_broken_pipe() {
        return;
    }
    for line in failure.tail.lines() {
        eprintln!("  | {line}");
    }
    eprintln!("drydock: error: {failure}");
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    fn status(code: Code, reason: &str) -> Status {
        let details = ErrorDetails::with_error_info(reason, "drydock", HashMap::new());
        Status::with_error_details(code, "lease lease_x is not there", details)
    }

    #[test]
    fn reasons_map_to_the_exit_codes_of_the_contract() {
        let cases = [
            (Code::InvalidArgument, "INVALID_ATTRIBUTE", 64),
            (Code::InvalidArgument, "INVALID_FILTER", 64),
            (Code::Unavailable, "HOST_UNREACHABLE", 69),
            (Code::Unavailable, "SERVER_DRAINING", 69),
            (Code::ResourceExhausted, "QUOTA_EXCEEDED", 75),
            (Code::PermissionDenied, "PERMISSION_DENIED", 77),
            (Code::Unauthenticated, "UNAUTHENTICATED", 77),
            (Code::NotFound, "LEASE_NOT_FOUND", 1),
            (Code::FailedPrecondition, "CAPACITY_NEVER", 1),
            (Code::ResourceExhausted, "NO_SPACE", 1),
            // From a newer daemon: the gRPC code decides.
            (Code::Unavailable, "MOON_AWAY", 69),
        ];
        for (code, reason, expected) in cases {
            let failure = Failure::from(status(code, reason));
            assert_eq!((failure.code, failure.reason.as_str()), (expected, reason));
        }
        for reason in Reason::ALL {
            assert!(code(reason.as_str()).is_some(), "{reason:?}");
        }
    }

    #[test]
    fn a_status_without_details_still_has_a_reason_and_a_code() {
        let failure = Failure::from(Status::unavailable("connection reset"));
        assert_eq!((failure.code, failure.to_string().as_str()), (69, "UNAVAILABLE connection reset"));
        assert_eq!(Failure::from(Status::unauthenticated("")).code, 77);
        let broken = Failure::from(Status::unknown("h2 protocol error"));
        assert_eq!((broken.code, broken.reason.as_str()), (69, "OUTCOME_UNKNOWN"));
    }

    #[test]
    fn a_wrapper_has_one_code_for_all_failures_but_signals() {
        assert_eq!(Failure::usage("x").exit_code(true), 125);
        assert_eq!(Failure::usage("x").exit_code(false), 64);
        assert_eq!(Failure::interrupted(2).exit_code(true), 130);
    }

    #[test]
    fn the_last_line_is_one_line() {
        let failure = Failure::new(1, "INTERNAL", "first\n\n  second\n");
        assert_eq!(failure.to_string(), "INTERNAL first; second");
    }
}
