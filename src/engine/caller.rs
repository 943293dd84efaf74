//! Who asks, and what they may see: what belongs to others does not exist for them.

use super::Engine;
use crate::error::{Error, Reason, Result};
use crate::model::Lease;
use crate::model::id::LeaseId;
use crate::store::Request;

/// Who asks: what they own they see; admins see all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// For example `uid:1000@build-7`.
    pub principal: String,
    /// Sees and touches everyone's.
    pub admin: bool,
}

impl Caller {
    /// Whether something of this owner exists for the caller.
    #[must_use]
    pub fn sees(&self, owner: &str) -> bool {
        self.admin || self.principal == owner
    }

    /// The owner that listings are narrowed to; `None` for admins.
    #[must_use]
    pub fn narrowed_to(&self) -> Option<String> {
        (!self.admin).then(|| self.principal.clone())
    }

    /// Only admins do this.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn need_admin(&self, what: &str) -> Result<()> {
        if self.admin {
            return Ok(());
        }
        Err(Error::new(
            Reason::PermissionDenied,
            format!("{} may not {what}: only admins may; ask one, or use an admin's token", self.principal),
        ))
    }
}

/// A mutation's request id, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey {
    /// For example `AcquireLease`.
    pub method: &'static str,
    /// At most 128 characters.
    pub request_id: String,
    /// Hex SHA-256 of the request without `wait` and `request_id`.
    pub body: String,
}

impl RequestKey {
    pub(super) fn of(self, caller: &Caller) -> Request {
        Request {
            principal: caller.principal.clone(),
            method: self.method.to_owned(),
            request_id: self.request_id,
            body: self.body,
        }
    }
}

pub(super) fn lease_not_found(id: &str) -> Error {
    Error::new(Reason::LeaseNotFound, format!("there is no lease {id:?} of yours; `drydock lease list` shows them"))
}

pub(super) fn given(field: &str, value: &str) -> Result<()> {
    if value.is_empty() { Err(Error::invalid(format!("{field} is required"))) } else { Ok(()) }
}

impl Engine {
    /// A lease that exists for the caller.
    pub(super) async fn find_own_lease(&self, caller: &Caller, id: &str) -> Result<Lease> {
        given("lease_id", id)?;
        let Some(parsed) = LeaseId::parse(id) else { return Err(lease_not_found(id)) };
        match self.store.find_lease(&parsed).await? {
            Some(lease) if caller.sees(&lease.owner) => Ok(lease),
            _ => Err(lease_not_found(id)),
        }
    }
}
