//! The engine's side of the API, not yet written: every call answers `INTERNAL`.

use std::sync::Arc;
use std::time::Duration;

use super::{Caller, Engine};
use crate::allocator::Verdict;
use crate::clock::{Micros, SharedClock};
use crate::config::Settings;
use crate::error::{Error, Reason, Result};
use crate::model::filter::Filter;
use crate::model::id::{BlueprintId, LeaseId};
use crate::model::{Blueprint, Event, Kind, Lease, LeaseState, Limits, Resource, StringMap, Task, Waiting};
use crate::store::{Daemon, ListQuery};

/// A mutation's request id; `body` is a digest of what is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey {
    /// The RPC.
    pub method: &'static str,
    /// As sent.
    pub request_id: String,
    /// Hex.
    pub body: String,
}

/// What a caller asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acquire {
    /// For example `host`.
    pub resource_type: String,
    /// Strings.
    pub attributes: StringMap,
    /// Ids or names.
    pub blueprints: Vec<String>,
    /// That the resource must carry.
    pub resource_labels: StringMap,
    /// From ACTIVE.
    pub ttl: Option<Duration>,
    /// From acceptance.
    pub queue_timeout: Option<Duration>,
    /// −100..100.
    pub priority: i64,
    /// The caller's words.
    pub labels: StringMap,
}

/// A lease as callers see it.
#[derive(Debug, Clone)]
pub struct LeaseView {
    /// The row.
    pub lease: Lease,
    /// By name.
    pub interfaces: Vec<String>,
    /// Of its resource.
    pub blueprint_id: Option<BlueprintId>,
    /// 1 is next.
    pub queue_position: Option<i64>,
    /// What it took.
    pub receipt: Option<Receipt>,
}

/// What a lease took.
#[derive(Debug, Clone, Copy)]
pub struct Receipt {
    /// In the queue.
    pub waited: Micros,
    /// Building.
    pub built: Micros,
    /// ACTIVE.
    pub used: Micros,
}

/// A resource as callers see it.
#[derive(Debug, Clone)]
pub struct ResourceView {
    /// The row.
    pub resource: Resource,
    /// Leases on it.
    pub lease_count: i64,
}

/// A kind.
#[derive(Debug, Clone)]
pub struct KindView {
    /// What it says of itself.
    pub kind: &'static Kind,
}

/// A blueprint to be.
#[derive(Debug, Clone, PartialEq)]
pub struct BlueprintDraft {
    /// Unique.
    pub name: String,
    /// Of the list of kinds.
    pub kind: String,
    /// An object.
    pub config: serde_json::Value,
    /// Copied to its resources.
    pub labels: StringMap,
    /// How many, how long.
    pub limits: Limits,
}

/// What applying a blueprint came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// There was none.
    Created,
    /// Replaced.
    Updated,
    /// The same.
    Unchanged,
}

/// What to explain.
#[derive(Debug, Clone)]
pub enum ExplainSubject {
    /// A lease.
    Lease(String),
    /// A dry run.
    Ask(Acquire),
}

/// Why it waits.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// `None` when it would be served.
    pub waiting: Option<Waiting>,
    /// 1 is next.
    pub queue_position: Option<i64>,
    /// In the order tried.
    pub verdicts: Vec<Verdict>,
    /// Best first.
    pub remedies: Vec<String>,
    /// Empty when it can.
    pub never_reason: String,
}

/// An update of a watched lease.
#[derive(Debug, Clone)]
pub struct LeaseUpdate {
    /// When it changed.
    pub lease: Option<LeaseView>,
    /// New ones.
    pub events: Vec<Event>,
    /// To resume.
    pub cursor: String,
}

/// Updates of a lease.
#[derive(Debug)]
pub struct LeaseWatch;

impl LeaseWatch {
    /// The next update; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<LeaseUpdate>> {
        stub()
    }
}

/// Events as they come.
#[derive(Debug)]
pub struct EventWatch;

impl EventWatch {
    /// The next events and the cursor after them.
    pub async fn next(&mut self) -> Result<Option<(Vec<Event>, String)>> {
        stub()
    }
}

/// The cursor after the event `seq`.
#[must_use]
pub fn event_cursor(seq: i64) -> String {
    seq.to_string()
}

fn stub<T>() -> Result<T> {
    Err(Error::new(Reason::Internal, "not built yet"))
}

#[expect(clippy::unused_async, clippy::unused_self, clippy::too_many_arguments, reason = "a stub")]
impl Engine {
    /// Starts.
    pub async fn start(_settings: &Settings, _clock: SharedClock) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {}))
    }
    /// Stops.
    pub async fn stop(&self) {}
    /// See the API.
    pub async fn acquire(
        self: &Arc<Self>,
        _caller: &Caller,
        _ask: Acquire,
        _key: Option<RequestKey>,
        _wait: Duration,
    ) -> Result<LeaseView> {
        stub()
    }
    /// See the API.
    pub async fn get_lease(&self, _caller: &Caller, _id: &str) -> Result<LeaseView> {
        stub()
    }
    /// See the API.
    pub async fn wait_lease(
        self: &Arc<Self>,
        _caller: &Caller,
        _id: &str,
        _until: LeaseState,
        _timeout: Duration,
    ) -> Result<LeaseView> {
        stub()
    }
    /// See the API.
    pub async fn list_leases(&self, _caller: &Caller, _query: ListQuery, _sub_leases: bool) -> Result<Vec<LeaseView>> {
        stub()
    }
    /// See the API.
    pub async fn renew_lease(&self, _caller: &Caller, _id: &str, _ttl: Option<Duration>) -> Result<LeaseView> {
        stub()
    }
    /// See the API.
    pub async fn release_lease(
        self: &Arc<Self>,
        _caller: &Caller,
        _id: &str,
        _comment: &str,
        _force: bool,
        _key: Option<RequestKey>,
        _wait: Duration,
    ) -> Result<LeaseView> {
        stub()
    }
    /// See the API.
    pub async fn release_leases(
        &self,
        _caller: &Caller,
        _filter: Filter,
        _comment: &str,
        _force: bool,
        _validate_only: bool,
        _key: Option<RequestKey>,
    ) -> Result<Vec<LeaseId>> {
        stub()
    }
    /// See the API.
    pub async fn explain_lease(&self, _caller: &Caller, _subject: ExplainSubject) -> Result<Explanation> {
        stub()
    }
    /// See the API.
    pub async fn watch_lease(
        self: &Arc<Self>,
        _caller: &Caller,
        _id: &str,
        _until: Option<LeaseState>,
        _cursor: &str,
    ) -> Result<LeaseWatch> {
        stub()
    }
    /// See the API.
    pub async fn get_resource(&self, _caller: &Caller, _id: &str) -> Result<ResourceView> {
        stub()
    }
    /// See the API.
    pub async fn list_resources(&self, _caller: &Caller, _query: ListQuery) -> Result<Vec<ResourceView>> {
        stub()
    }
    /// See the API.
    pub async fn check_resource(&self, _caller: &Caller, _id: &str) -> Result<(ResourceView, Vec<String>, Duration)> {
        stub()
    }
    /// See the API.
    pub async fn drain_resource(
        &self,
        _caller: &Caller,
        _id: &str,
        _comment: &str,
        _key: Option<RequestKey>,
    ) -> Result<ResourceView> {
        stub()
    }
    /// See the API.
    pub async fn undrain_resource(
        &self,
        _caller: &Caller,
        _id: &str,
        _key: Option<RequestKey>,
    ) -> Result<ResourceView> {
        stub()
    }
    /// See the API.
    pub async fn release_resource(
        &self,
        _caller: &Caller,
        _id: &str,
        _force: bool,
        _key: Option<RequestKey>,
    ) -> Result<ResourceView> {
        stub()
    }
    /// See the API.
    #[must_use]
    pub fn kinds(&self) -> Vec<KindView> {
        Vec::new()
    }
    /// See the API.
    pub async fn create_blueprint(
        &self,
        _caller: &Caller,
        _draft: BlueprintDraft,
        _validate_only: bool,
        _key: Option<RequestKey>,
    ) -> Result<Blueprint> {
        stub()
    }
    /// See the API.
    pub async fn update_blueprint(
        &self,
        _caller: &Caller,
        _key_or_name: &str,
        _draft: BlueprintDraft,
        _etag: &str,
        _validate_only: bool,
        _key: Option<RequestKey>,
    ) -> Result<Blueprint> {
        stub()
    }
    /// See the API.
    pub async fn apply_blueprint(
        &self,
        _caller: &Caller,
        _draft: BlueprintDraft,
        _validate_only: bool,
        _key: Option<RequestKey>,
    ) -> Result<(Blueprint, Applied)> {
        stub()
    }
    /// See the API.
    pub async fn get_blueprint(&self, _caller: &Caller, _key: &str) -> Result<Blueprint> {
        stub()
    }
    /// See the API.
    pub async fn list_blueprints(&self, _caller: &Caller, _query: ListQuery) -> Result<Vec<Blueprint>> {
        stub()
    }
    /// See the API.
    pub async fn delete_blueprint(
        &self,
        _caller: &Caller,
        _key: &str,
        _etag: &str,
        _request: Option<RequestKey>,
    ) -> Result<()> {
        stub()
    }
    /// See the API.
    pub async fn set_blueprint_enabled(
        &self,
        _caller: &Caller,
        _key: &str,
        _enabled: bool,
        _request: Option<RequestKey>,
    ) -> Result<Blueprint> {
        stub()
    }
    /// See the API.
    pub async fn list_events(&self, _caller: &Caller, _query: ListQuery) -> Result<Vec<Event>> {
        stub()
    }
    /// The newest event's sequence number, 0 when there is none.
    pub async fn newest_event(&self) -> Result<i64> {
        stub()
    }
    /// See the API.
    pub async fn watch_events(&self, _caller: &Caller, _filter: Option<Filter>, _cursor: &str) -> Result<EventWatch> {
        stub()
    }
    /// See the API.
    pub async fn list_tasks(&self, _caller: &Caller, _query: ListQuery) -> Result<Vec<Task>> {
        stub()
    }
    /// See the API.
    pub async fn get_task(&self, _caller: &Caller, _id: &str) -> Result<Task> {
        stub()
    }
    /// See the API.
    pub async fn retry_task(&self, _caller: &Caller, _id: &str, _key: Option<RequestKey>) -> Result<Task> {
        stub()
    }
    /// See the API.
    pub async fn daemons(&self, _caller: &Caller) -> Result<Vec<Daemon>> {
        stub()
    }
    /// See the API.
    #[must_use]
    pub fn daemon_id(&self) -> &'static str {
        "daemon"
    }
    /// See the API.
    #[must_use]
    pub fn now(&self) -> Micros {
        0
    }
    /// See the API.
    pub async fn interfaces(&self, _caller: &Caller, _lease_id: &str) -> Result<Vec<String>> {
        stub()
    }
    /// See the API.
    pub fn begin_drain(&self) {}
    /// See the API.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        false
    }
}
