//! Blueprints: how resources come to be. One file per kind.
//!
//! To add a kind: a file with a [`Kind`] as data and an implementation of [`Blueprint`], and its two lines in
//! [`registry`].
//!
//! A blueprint's methods are re-entrant and idempotent (they run again after a crash, from the start), never wait for
//! other leases or other tasks (they say [`Step::Needs`] instead), and touch neither the database nor the queue. Work
//! of their own, a clone or a `make`, they do in place.

pub mod complaint;
pub mod composite;
pub mod document;
mod git;
pub mod local_host;
pub mod port;
pub mod registered;
pub mod registry;
pub mod remote_host;
mod repository;
pub mod storage;
pub mod webroot;
pub mod working_copy;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Reason, Result};
use crate::host::Place;
use crate::host::fence::Fence;
use crate::host::guard::Guard;
use crate::model::id::LeaseId;
use crate::model::pool::Demand;
use crate::model::slot::Slot;
use crate::model::{Blueprint as Record, Field, Kind, Lease, LeaseSpec, Resource, StringMap, kind};

pub use registered::{Alarms, Condition, Examination, Registered, Urgency};
pub use registry::{KINDS, Registry, all};

/// What one step of building, setting up or taking down came to.
#[derive(Debug)]
pub enum Step {
    /// Done; the facts of the resource (from `prepare`: further facts of this lease).
    Ready(StringMap),
    /// Goes on when these leases are ACTIVE; all of one round are made together. Names that exist already are kept.
    /// Going on earlier, each time that one of them becomes ACTIVE, is welcome: a composite then runs the steps of its
    /// early parts while the late ones are still being made.
    Needs(Vec<Need>),
    /// Goes on when it holds the first free one of these slots; those it held of the same scope are freed.
    Exclusive(Vec<Slot>),
    /// Goes on after a while, for example while a machine boots.
    Later {
        /// How long.
        after: Duration,
        /// One line for people.
        why: String,
    },
    /// Did not work.
    Failed(Failure),
}

/// Why a step did not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Trying again cannot help: the lease breaks at once instead of after some tries.
    pub permanent: bool,
    /// Of the error that it comes from, if it comes from one.
    pub reason: Option<Reason>,
    /// What happened and what to do.
    pub message: String,
    /// The end of the failing command's output, at most 2 KiB.
    pub tail: String,
}

impl Step {
    /// Nothing to say.
    #[must_use]
    pub fn done() -> Self {
        Self::Ready(StringMap::new())
    }

    /// Trying again cannot help.
    pub fn refuse(message: impl Into<String>, tail: impl Into<String>) -> Self {
        Self::Failed(Failure { permanent: true, reason: None, message: message.into(), tail: tail.into() })
    }

    /// Trying again may help.
    pub fn stumble(message: impl Into<String>, tail: impl Into<String>) -> Self {
        Self::Failed(Failure { permanent: false, reason: None, message: message.into(), tail: tail.into() })
    }
}

impl From<Error> for Step {
    /// What the caller got wrong is permanent; the rest may go away.
    fn from(error: Error) -> Self {
        let permanent = matches!(
            error.reason,
            Reason::InvalidArgument
                | Reason::InvalidAttribute
                | Reason::PathOutsideRoot
                | Reason::NoSpace
                | Reason::PermissionDenied
        );
        let message = crate::error::report(&error);
        Self::Failed(Failure { permanent, reason: Some(error.reason), message, tail: String::new() })
    }
}

/// A lease that a resource needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Its name within the resource, for example `host`.
    pub name: String,
    /// What.
    pub spec: LeaseSpec,
}

/// A needed lease that is ACTIVE.
#[derive(Clone)]
pub struct Met {
    /// The lease, with its facts.
    pub lease: Lease,
    /// Where its commands and files go; `None` when it offers neither.
    pub place: Option<Place>,
}

/// What is known of an external effect.
#[derive(Debug, Clone, PartialEq)]
pub enum EffectState {
    /// Never begun before now; the intent is written.
    Fresh,
    /// Begun before, and nobody knows how it ended: look it up by its name, adopt or undo it.
    Begun,
    /// Done; what was written down.
    Done(Value),
}

/// The log of external effects: the intent is durable before the effect happens.
#[async_trait]
pub trait Effects: Send + Sync {
    /// Writes the intent, unless it is there. `name` is deterministic and unique within the resource.
    async fn begin(&self, name: &str, request: Value) -> Result<EffectState>;
    /// Writes the outcome.
    async fn done(&self, name: &str, outcome: Value) -> Result<()>;
    /// Forgets it: undone.
    async fn undone(&self, name: &str) -> Result<()>;
    /// All that are begun or done, for `destroy`.
    async fn all(&self) -> Result<Vec<(String, EffectState)>>;
}

/// All that a step sees.
#[derive(Clone)]
pub struct Context {
    /// The resource.
    pub resource: Resource,
    /// Its blueprint's record.
    pub blueprint: Record,
    /// In `prepare`, `clean` and `endpoint`: the lease.
    pub lease: Option<Lease>,
    /// Needed leases that are ACTIVE, by name. `host` is also there when the resource is placed on a caller's lease.
    /// In `destroy` those that are still usable.
    pub needs: BTreeMap<String, Met>,
    /// Slots that the resource holds.
    pub slots: Vec<Slot>,
    /// In `build`: the roots of the owner's ACTIVE leases on the same host, where a document root may lie.
    pub neighbours: Vec<(LeaseId, PathBuf)>,
    /// The log of external effects.
    pub effects: Arc<dyn Effects>,
    /// In whose name the step works: what it does on a machine that is not that of a needed lease goes by way of this.
    pub guard: Guard,
    /// Cancelled when nobody wants the outcome any more: give up soon, leave what `destroy` can take down.
    pub cancel: CancellationToken,
}

impl Context {
    /// The machine that the resource is placed on; `Err` is the step that asks for one.
    ///
    /// # Errors
    /// [`Step::Needs`] a host.
    pub fn host(&self) -> Result<&Met, Step> {
        self.needs.get("host").ok_or_else(|| Step::Needs(vec![Need::host()]))
    }

    /// The place of a needed lease.
    ///
    /// # Errors
    /// A permanent failure when that lease offers no commands.
    pub fn place_of(&self, name: &str) -> Result<&Place, Step> {
        self.needs
            .get(name)
            .and_then(|met| met.place.as_ref())
            .ok_or_else(|| Step::refuse(format!("the lease {name:?} offers no commands and files"), ""))
    }

    /// The resource's own folder on that machine: `resources/<id>` under the data folder.
    #[must_use]
    pub fn folder(&self, place: &Place) -> PathBuf {
        place.host.data_dir().join("resources").join(self.resource.id.as_str())
    }

    /// A folder beside it, for what the lease's own calls must not see.
    #[must_use]
    pub fn side_folder(&self, place: &Place, ending: &str) -> PathBuf {
        place.host.data_dir().join("resources").join(format!("{}.{ending}", self.resource.id))
    }

    /// The endpoint of what lies on the machine of the lease `host`.
    #[must_use]
    pub fn on_host(&self, quota: Option<u64>) -> Option<Endpoint> {
        let host = self.needs.get("host")?;
        let root = self.folder(host.place.as_ref()?);
        Some(Endpoint::On { lease: host.lease.id.clone(), root, quota })
    }

    /// Ends the processes of the lease wherever they may run; for `clean`.
    ///
    /// # Errors
    /// A failure to be tried again.
    pub async fn end_lease_processes(&self) -> Result<(), Step> {
        let Some(lease) = &self.lease else { return Ok(()) };
        for place in self.needs.values().filter_map(|met| met.place.as_ref()) {
            place.host.fence_off(&fence_of(lease)).await?;
            place.host.end_strays(lease.id.as_str()).await?;
        }
        Ok(())
    }

    /// Ends the resource's own processes and removes these folders; for `destroy`. Without a host nothing is left.
    ///
    /// # Errors
    /// A failure to be tried again.
    pub async fn remove_from_host(&self, folders: &[PathBuf]) -> Result<(), Step> {
        let Ok(place) = self.place_of("host") else { return Ok(()) };
        place.host.end_strays(self.resource.id.as_str()).await?;
        for folder in folders {
            place.host.remove_folder(folder).await?;
        }
        Ok(())
    }
}

/// Both arms of a step that was written with `?`.
fn settle(step: Result<Step, Step>) -> Step {
    match step {
        Ok(step) | Err(step) => step,
    }
}

/// In the name of a lease, as it is.
#[must_use]
pub fn fence_of(lease: &Lease) -> Fence {
    Fence { holder: lease.id.to_string(), epoch: lease.epoch }
}

/// A path as a fact.
fn path_fact(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

impl Need {
    /// Any host.
    #[must_use]
    pub fn host() -> Self {
        Self { name: "host".to_owned(), spec: LeaseSpec { resource_type: "host".to_owned(), ..LeaseSpec::default() } }
    }
}

/// Where an interface of a lease is to be found.
#[derive(Clone)]
pub enum Endpoint {
    /// Here.
    Here(Place),
    /// On the machine of that lease, under this root.
    On {
        /// A host lease.
        lease: LeaseId,
        /// Absolute.
        root: PathBuf,
        /// Bytes that may lie under it.
        quota: Option<u64>,
    },
    /// Wherever that lease has it: a composite's export.
    Via(LeaseId),
}

/// How alive a resource is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// One line each; empty is healthy.
    pub findings: Vec<String>,
    /// Beyond repair: the resource breaks.
    pub dead: bool,
}

/// A kind of blueprint.
#[async_trait]
pub trait Blueprint: Send + Sync {
    /// What it is, as data.
    fn describe(&self) -> &'static Kind;

    /// The type it makes under this configuration.
    fn resource_type(&self, _config: &Value) -> String {
        self.describe().resource_type.to_owned()
    }

    /// The JSON Schema of its configuration.
    fn config_schema(&self) -> Value {
        kind::json_schema(self.describe().config, false)
    }

    /// The interfaces of what it makes under this configuration.
    fn interfaces(&self, _config: &Value) -> Vec<String> {
        self.describe().interfaces.iter().map(ToString::to_string).collect()
    }

    /// The types that it leases itself under this configuration, once per lease it takes.
    fn needs(&self, _config: &Value) -> Vec<String> {
        self.describe().needs.iter().map(ToString::to_string).collect()
    }

    /// What a resource leases while it lives, for the check that demand can ever fit. What is leased beside a host is
    /// placed on that host.
    fn demand(&self, config: &Value) -> Vec<Demand> {
        let placed = |resource_type: &str| resource_type != "host";
        let needs = self.needs(config).into_iter();
        needs.map(|resource_type| Demand { placed: placed(&resource_type), resource_type }).collect()
    }

    /// Checks a configuration.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` with every complaint.
    fn check_config(&self, config: &Value) -> Result<()> {
        kind::check_config(self.describe().config, config)
    }

    /// Checks a lease's attributes at the door and fills in the defaults.
    ///
    /// # Errors
    /// `INVALID_ATTRIBUTE` with every complaint.
    fn admit(&self, _config: &Value, attributes: &StringMap) -> Result<StringMap> {
        kind::check_attributes(self.describe().attributes, attributes)?;
        Ok(attributes.clone())
    }

    /// The next step of building: [`Step::Ready`] makes the resource ACTIVE.
    async fn build(&self, ctx: &Context) -> Step;

    /// Whether [`Context::neighbours`] is wanted for building this resource: finding them takes a look at every lease of
    /// the owner.
    fn wants_neighbours(&self, _resource: &Resource) -> bool {
        false
    }

    /// Whether what it makes is the machine of the daemon that makes it, which other daemons do not reach.
    fn is_of_its_daemon(&self) -> bool {
        false
    }

    /// Facts of a lease on the resource, before [`Blueprint::prepare`] adds its own.
    fn lease_facts(&self, resource: &Resource, _lease: &Lease) -> StringMap {
        resource.facts.clone()
    }

    /// Sets a lease up on the ACTIVE resource.
    async fn prepare(&self, _ctx: &Context) -> Step {
        Step::done()
    }

    /// Cleans up after a lease: processes, folders.
    async fn clean(&self, _ctx: &Context) -> Step {
        Step::done()
    }

    /// Takes the resource down, whatever became of building it; gone already is done.
    async fn destroy(&self, ctx: &Context) -> Step;

    /// How often one that nobody uses is looked at by [`Blueprint::check`]; `None` is never.
    fn check_interval(&self) -> Option<Duration> {
        None
    }

    /// Looks whether it is alive.
    async fn check(&self, _ctx: &Context) -> Health {
        Health { findings: Vec::new(), dead: false }
    }

    /// What it adds when its resources are registered by hand (`Kind::registration`).
    fn registered(&self) -> Option<&dyn Registered> {
        None
    }

    /// Where `interface` of the lease is; `None` when it does not offer it. The lease is ACTIVE.
    fn endpoint(&self, ctx: &Context, interface: &str) -> Option<Endpoint>;
}

/// The fact, where several daemons share a database, that says by machine and data folder which of them a local host is of.
pub const DAEMON_FACT: &str = "daemon";

/// The attribute that places a resource on a host lease of the same owner.
pub const HOST_ATTRIBUTE: Field = Field::optional(
    "host",
    crate::model::FieldType::Lease,
    "A host lease of yours to be placed on; it takes no further slot there.",
);
