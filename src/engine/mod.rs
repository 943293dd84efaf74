//! Where store, scheduler, allocator and blueprints meet.

mod api_stub;

pub use api_stub::{
    Acquire, Applied, BlueprintDraft, EventWatch, ExplainSubject, Explanation, KindView, LeaseUpdate, LeaseView,
    LeaseWatch, Receipt, RequestKey, ResourceView, event_cursor,
};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Reason, Result};
use crate::host::Place;
use crate::model::Lease;

/// Who asks: what they own they see; admins see all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// For example `uid:1000@build-7`.
    pub principal: String,
    /// Sees and touches everyone's.
    pub admin: bool,
}

/// An interface of an ACTIVE lease of the caller, ready to be used.
pub struct Opened {
    /// As of now.
    pub lease: Lease,
    /// Where it goes.
    pub place: Place,
    /// Cancelled within a second of the lease's end: streams end then.
    pub ended: CancellationToken,
}

/// The engine.
pub struct Engine {}

impl Engine {
    /// Resolves an interface of a lease to where it is.
    ///
    /// # Errors
    /// `LEASE_NOT_FOUND`, `LEASE_NOT_ACTIVE`, `LEASE_EXPIRED`, `INTERFACE_NOT_SUPPORTED`.
    pub async fn open(&self, _caller: &Caller, _lease_id: &str, _interface: &str) -> Result<Opened> {
        Err(Error::new(Reason::Internal, "not built yet"))
    }
}
