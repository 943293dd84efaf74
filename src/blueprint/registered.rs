//! What kinds add whose resources are registered by hand: what a registration says, and how what is registered is watched.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::Notify;

use super::Context;
use crate::error::{Error, Reason, Result};
use crate::model::id::ResourceId;
use crate::model::{Blueprint, Resource, StringMap};

/// What stands against new leases on a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// For programs.
    pub reason: Reason,
    /// For people: what is the matter and what to do, in one line.
    pub message: String,
}

impl Condition {
    /// As `Resource.problem` has it: the reason first.
    #[must_use]
    pub fn problem(&self) -> String {
        let line: Vec<&str> = self.message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        format!("{}: {}", self.reason.as_str(), line.join("; "))
    }

    /// The condition that a failed call speaks of; `None` when the machine is merely busy.
    #[must_use]
    pub fn of(error: &Error) -> Option<Self> {
        let busy = matches!(error.reason, Reason::SessionsExhausted | Reason::Cancelled | Reason::DeadlineExceeded);
        (!busy).then(|| Self { reason: error.reason, message: error.message.clone() })
    }
}

/// What an examination found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Examination {
    /// One line each, with what to do; empty is healthy.
    pub findings: Vec<String>,
    /// The worst of them, when it stands against new leases.
    pub condition: Option<Condition>,
    /// What was learned of one that had to be made acquaintance with anew; to be written over its facts.
    pub facts: StringMap,
}

/// Resources that gave reason to be looked at now rather than in their turn.
#[derive(Debug, Default)]
pub struct Alarms {
    suspects: Mutex<BTreeMap<ResourceId, Urgency>>,
    rung: Notify,
}

/// How urgent a look is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Something went wrong there: looked at now, unless it is known to be sick.
    Suspect,
    /// Something was changed about it: looked at now.
    Changed,
}

impl Alarms {
    /// This one is to be looked at.
    pub fn ring(&self, suspect: &ResourceId, urgency: Urgency) {
        let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        let known = suspects.entry(suspect.clone()).or_insert(urgency);
        *known = urgency.max(*known);
        drop(suspects);
        self.rung.notify_one();
    }

    /// Waits until there are suspects, and takes them.
    pub async fn taken(&self) -> BTreeMap<ResourceId, Urgency> {
        loop {
            let suspects = std::mem::take(&mut *self.suspects.lock().unwrap_or_else(PoisonError::into_inner));
            if !suspects.is_empty() {
                return suspects;
            }
            self.rung.notified().await;
        }
    }
}

/// A kind whose resources are registered by hand. The schema of a registration is `Kind::registration`.
#[async_trait]
pub trait Registered: Send + Sync {
    /// Checks what a registration says and fills in the blueprint's defaults.
    ///
    /// # Errors
    /// `INVALID_ATTRIBUTE` with every complaint.
    fn admit(&self, config: &Value, attributes: &StringMap) -> Result<StringMap>;

    /// Looks at what is to be registered without leaving a trace: what it shows, as facts (`host_key.TYPE`,
    /// `fingerprint.TYPE`). Nothing secret is sent.
    ///
    /// # Errors
    /// `HOST_UNREACHABLE`; `HOST_KEY_MISMATCH` when it shows none of the keys that are pinned.
    async fn look(&self, attributes: &StringMap) -> Result<StringMap>;

    /// Whether a registration names what the machine proves itself by.
    fn is_pinned(&self, attributes: &StringMap) -> bool;

    /// Whether it is well and can be used; it may be blocked. One round trip, unless it is to be `thorough`.
    async fn examine(&self, ctx: &Context, thorough: bool) -> Examination;

    /// Between two examinations of a healthy one.
    fn interval(&self, blueprint: &Blueprint) -> Duration;

    /// Who gave reason to be examined at once.
    fn alarms(&self) -> &Alarms;

    /// For operators, as an object: connections and the like; `None` when there is nothing to tell.
    fn diagnostics(&self, resource: &Resource) -> Option<Value>;

    /// Its attributes have changed, or it is gone: what is held open to it as it was is closed.
    async fn forget(&self, resource: &Resource);
}
