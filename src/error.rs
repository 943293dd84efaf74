//! The one error that crosses module borders: what went wrong, for whom to branch on, and what to do.
//!
//! [`Reason`] is the closed list that the API promises; `rpc::status` turns it into a gRPC code, once, at the edge.
//! Nothing in here knows of gRPC.

use std::collections::BTreeMap;
use std::time::Duration;

/// Result with Drydock's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),+ $(,)?) => {
        /// Why a call failed: `UPPER_SNAKE` names that clients branch on. Closed; names never change.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($(#[$doc])* $variant),+ }

        impl Reason {
            /// All of them, for the table test and the docs.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name that goes over the wire, for example `LEASE_NOT_FOUND`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

reasons! {
    /// No such lease, or it belongs to someone else.
    LeaseNotFound = "LEASE_NOT_FOUND",
    /// No such resource, or it is not yours to see.
    ResourceNotFound = "RESOURCE_NOT_FOUND",
    /// No such blueprint.
    BlueprintNotFound = "BLUEPRINT_NOT_FOUND",
    /// No such process.
    ProcessNotFound = "PROCESS_NOT_FOUND",
    /// No such task.
    TaskNotFound = "TASK_NOT_FOUND",
    /// No such file or directory.
    FileNotFound = "FILE_NOT_FOUND",
    /// No such upload.
    UploadNotFound = "UPLOAD_NOT_FOUND",
    /// The lease is not ACTIVE (yet, or any more).
    LeaseNotActive = "LEASE_NOT_ACTIVE",
    /// The lease ended by expiry.
    LeaseExpired = "LEASE_EXPIRED",
    /// Other leases are placed on this one.
    LeaseInUse = "LEASE_IN_USE",
    /// The resource is leased.
    ResourceInUse = "RESOURCE_IN_USE",
    /// The blueprint has resources.
    BlueprintInUse = "BLUEPRINT_IN_USE",
    /// The process still runs.
    ProcessRunning = "PROCESS_RUNNING",
    /// A directory was needed.
    NotADirectory = "NOT_A_DIRECTORY",
    /// A file was needed.
    IsADirectory = "IS_A_DIRECTORY",
    /// The directory has entries.
    DirectoryNotEmpty = "DIRECTORY_NOT_EMPTY",
    /// The kind takes no boxes registered by hand.
    NotRegistrable = "NOT_REGISTRABLE",
    /// The web server refuses its configuration.
    HttpdConfigInvalid = "HTTPD_CONFIG_INVALID",
    /// A checked command did not exit with 0.
    CommandFailed = "COMMAND_FAILED",
    /// The host refused our credentials.
    HostAuthFailed = "HOST_AUTH_FAILED",
    /// The host showed another key than the pinned one.
    HostKeyMismatch = "HOST_KEY_MISMATCH",
    /// No enabled blueprint can make this.
    NoBlueprint = "NO_BLUEPRINT",
    /// The demand can never fit the limits.
    CapacityNever = "CAPACITY_NEVER",
    /// A field is missing or malformed.
    InvalidArgument = "INVALID_ARGUMENT",
    /// A lease attribute is unknown or malformed.
    InvalidAttribute = "INVALID_ATTRIBUTE",
    /// The filter does not parse or names an unknown field.
    InvalidFilter = "INVALID_FILTER",
    /// The page token is not one of ours, or for another request.
    InvalidPageToken = "INVALID_PAGE_TOKEN",
    /// The path leaves the lease's root.
    PathOutsideRoot = "PATH_OUTSIDE_ROOT",
    /// The name is taken.
    BlueprintExists = "BLUEPRINT_EXISTS",
    /// The name is taken.
    ResourceExists = "RESOURCE_EXISTS",
    /// The id is taken by another command.
    ProcessExists = "PROCESS_EXISTS",
    /// The file exists and was not to be replaced.
    FileExists = "FILE_EXISTS",
    /// The same request id came with another body.
    RequestIdReused = "REQUEST_ID_REUSED",
    /// The object changed since it was read.
    EtagMismatch = "ETAG_MISMATCH",
    /// The link was lost after the start; nobody knows how it ended.
    OutcomeUnknown = "OUTCOME_UNKNOWN",
    /// The offset is not where the upload is, or the output is gone.
    OffsetUnavailable = "OFFSET_UNAVAILABLE",
    /// The cursor is older than what is kept.
    CursorExpired = "CURSOR_EXPIRED",
    /// This lease does not offer the interface.
    InterfaceNotSupported = "INTERFACE_NOT_SUPPORTED",
    /// No such RPC.
    MethodNotFound = "METHOD_NOT_FOUND",
    /// The host does not answer.
    HostUnreachable = "HOST_UNREACHABLE",
    /// The daemon is going down.
    ServerDraining = "SERVER_DRAINING",
    /// The database does not answer.
    StoreUnavailable = "STORE_UNAVAILABLE",
    /// The external provider does not answer.
    ProviderUnavailable = "PROVIDER_UNAVAILABLE",
    /// No session of the host was free in time.
    SessionsExhausted = "SESSIONS_EXHAUSTED",
    /// A limit of the caller.
    QuotaExceeded = "QUOTA_EXCEEDED",
    /// Too many calls.
    RateLimited = "RATE_LIMITED",
    /// Disk full, or the storage's quota reached.
    NoSpace = "NO_SPACE",
    /// What arrived is not what was sent.
    ChecksumMismatch = "CHECKSUM_MISMATCH",
    /// The call's own deadline passed.
    DeadlineExceeded = "DEADLINE_EXCEEDED",
    /// The caller went away.
    Cancelled = "CANCELLED",
    /// Known, but not allowed.
    PermissionDenied = "PERMISSION_DENIED",
    /// No credentials, or bad ones.
    Unauthenticated = "UNAUTHENTICATED",
    /// A bug of ours.
    Internal = "INTERNAL",
}

/// What happened, to which id, and what to do. `Display` never repeats the source.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What to branch on.
    pub reason: Reason,
    /// For people: lower-case, no period at the end, no secret.
    pub message: String,
    /// More for programs, for example `exit_code`; at most a few hundred bytes, except `stderr_tail` (2 KiB).
    pub metadata: BTreeMap<String, String>,
    /// When trying again may help.
    pub retry_after: Option<Duration>,
    /// What lies below; for the log, never for the caller.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A new error without source.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), metadata: BTreeMap::new(), retry_after: None, source: None }
    }

    /// `INVALID_ARGUMENT`.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Reason::InvalidArgument, message)
    }

    /// `INTERNAL`, with what lies below.
    pub fn internal(message: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { source: Some(source.into()), ..Self::new(Reason::Internal, message) }
    }

    /// An error of ours that came by way of a stream, or `INTERNAL` with the stream's own below.
    pub fn from_stream(message: impl Into<String>, error: std::io::Error) -> Self {
        error.downcast().unwrap_or_else(|error| Self::internal(message, error))
    }

    /// Adds one fact for programs.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.metadata.insert(key.to_owned(), value.into());
        self
    }

    /// Adds what lies below.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Says when trying again may help.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }
}

/// The whole chain on one line, for logs: `message: cause: cause of the cause`.
#[must_use]
pub fn report(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
