//! `remote-host`: boxes that are reached over ssh. None is ever built: an admin registers each by hand.
//!
//! On the box everything of Drydock lies in `~/.drydock`, but for records of running commands in `/dev/shm/drydock.*` and,
//! with `mode: site` of a webroot, files in the web server's sites folder; nothing is installed. It isolates nothing from
//! the user that it logs in as.

mod boxes;
mod examine;
mod host_key;
mod over_ssh;
mod registration;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use self::host_key::listed;
use super::registry::lease_folder;
use super::{
    Alarms, Blueprint, Context, Endpoint, Examination, Registered, Step, Urgency, fence_of, path_fact, settle,
};
use crate::clock::SharedClock;
use crate::error::{Error, Reason, Result};
use crate::host::ssh::keys::HostKey;
use crate::host::ssh::target::Target;
use crate::host::{Command, Host, Place, Run};
use crate::model::id::ResourceId;
use crate::model::kind::parse_span;
use crate::model::{Blueprint as Record, Field, FieldType, Kind, Lease, Resource, StringMap};

pub use self::boxes::{Boxes, OnFault};
pub use self::over_ssh::OverSsh;

/// What it is.
pub static KIND: Kind = Kind {
    kind: "remote-host",
    resource_type: "host",
    interfaces: &["command", "filesystem"],
    needs: &[],
    config: CONFIG,
    attributes: &[],
    leases_per_resource: 1,
    max_resources: None,
    rank: 0,
    stays: true,
    reused_by_attributes: false,
    // `prepare` may have something to do.
    instant: false,
    registration: Some(registration::FIELDS),
};

/// The facts it promises to its leases.
pub const FACTS: &[&str] = &["address", "home", "name", "path", "port", "user"];

const CONFIG: &[Field] = &[
    Field::optional("user", FieldType::Text, "Whom to be on boxes that are registered without a user."),
    Field::optional("port", FieldType::Integer { min: 1, max: 65535 }, "The port of boxes that say none."),
    Field::optional("identity_file", FieldType::Text, "The private key for boxes that say none, an absolute path."),
    Field::optional("certificate_file", FieldType::Text, "The certificate for boxes that say none, an absolute path."),
    Field::optional("identity_agent", FieldType::Text, "The agent's socket for boxes that say none, absolute."),
    Field::optional("jump", FieldType::Text, "The jump host, [user@]host[:port], for boxes that say none."),
    Field::optional("ssh_config", FieldType::Text, "The ssh configuration for boxes that say none, absolute."),
    Field::optional("setup", FieldType::Texts, "A command that is run in the home folder once, when a box is built."),
    Field::optional(
        "prepare",
        FieldType::Texts,
        "A command that is run in the folder of each lease before it is ACTIVE.",
    ),
    Field::optional("cleanup", FieldType::Texts, "A command that is run in the folder of each lease after its end."),
    Field::optional("script_timeout", FieldType::Span, "What setup, prepare and cleanup may take each; default 10m."),
    Field::optional("check_interval", FieldType::Span, "Between two health checks of a healthy box; default 30s."),
];

/// Drydock's folder in the home folder of a box.
const FOLDER: &str = ".drydock";
const SCRIPT_TIMEOUT: Duration = Duration::from_mins(10);
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// Hands out boxes.
pub struct RemoteHost {
    boxes: Arc<dyn Boxes>,
    clock: SharedClock,
    alarms: Arc<Alarms>,
    /// Hosts by resource, as long as their target stays the same.
    hosts: Mutex<HashMap<ResourceId, Known>>,
    own_user: String,
}

struct Known {
    target: Target,
    reached_at: String,
    home: PathBuf,
    host: Arc<dyn Host>,
}

impl RemoteHost {
    /// Hands out what `boxes` reaches.
    pub fn new(boxes: Arc<dyn Boxes>, clock: SharedClock) -> Self {
        Self { boxes, clock, alarms: Arc::default(), hosts: Mutex::default(), own_user: registration::own_user() }
    }

    fn target(resource: &Resource) -> Target {
        registration::target(resource.id.as_str(), &resource.attributes)
    }

    /// The box as a host, once it was greeted.
    fn host(&self, resource: &Resource) -> Option<Arc<dyn Host>> {
        self.host_at(resource, Path::new(resource.facts.get("home")?)).ok()
    }

    fn host_at(&self, resource: &Resource, home: &Path) -> Result<Arc<dyn Host>> {
        let target = Self::target(resource);
        let reached_at = resource.attributes.get(registration::REACHED_AT).unwrap_or(&target.address).clone();
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |known: &&Known| known.target == target && known.home == home && known.reached_at == reached_at;
        if let Some(known) = hosts.get(&resource.id).filter(same) {
            return Ok(Arc::clone(&known.host));
        }
        let (alarms, id) = (Arc::clone(&self.alarms), resource.id.clone());
        let on_fault: OnFault = Arc::new(move || alarms.ring(&id, Urgency::Suspect));
        let host = self.boxes.host(&target, &home.join(FOLDER), &reached_at, on_fault)?;
        let known = Known { target, reached_at, home: home.to_owned(), host: Arc::clone(&host) };
        hosts.insert(resource.id.clone(), known);
        Ok(host)
    }

    fn host_of(&self, ctx: &Context) -> Result<Arc<dyn Host>, Step> {
        let host = self.host(&ctx.resource).map(|host| ctx.guard.host(host));
        host.ok_or_else(|| Step::refuse(format!("{} was never reached", ctx.resource.name), ""))
    }

    async fn begin(&self, ctx: &Context) -> Result<Step, Step> {
        blocked(&ctx.resource)?;
        let target = Self::target(&ctx.resource);
        let home = self.boxes.greet(&target).await?;
        let host = ctx.guard.host(self.host_at(&ctx.resource, &home)?);
        host.make_folder(&host.data_dir().join("leases")).await?;
        run_script(ctx, &host, "setup", &home, ctx.resource.id.as_str()).await?;
        let fact = |name: &str, value: String| (name.to_owned(), value);
        Ok(Step::Ready(StringMap::from([
            fact("address", target.address),
            fact("home", path_fact(&home)),
            fact("name", ctx.resource.name.clone()),
            fact("port", target.port.to_string()),
            fact("user", target.user),
        ])))
    }

    async fn set_up(&self, ctx: &Context) -> Result<Step, Step> {
        let Some(lease) = &ctx.lease else { return Ok(Step::done()) };
        if script(&ctx.blueprint, "prepare").is_some() {
            let host = self.host_of(ctx)?;
            let folder = lease_folder(host.as_ref(), lease.id.as_str());
            host.make_folder(&folder).await?;
            run_script(ctx, &host, "prepare", &folder, lease.id.as_str()).await?;
        }
        Ok(Step::done())
    }

    async fn sweep(&self, ctx: &Context) -> Result<Step, Step> {
        let Some(lease) = &ctx.lease else { return Ok(Step::done()) };
        blocked(&ctx.resource)?;
        let host = self.host_of(ctx)?;
        let folder = lease_folder(host.as_ref(), lease.id.as_str());
        // Whoever comes late finds the door closed; then what has come in.
        host.fence_off(&fence_of(lease)).await?;
        if script(&ctx.blueprint, "cleanup").is_some() {
            // First the processes: they would go on writing into the folder.
            host.end_strays(lease.id.as_str()).await?;
            host.make_folder(&folder).await?;
            run_script(ctx, &host, "cleanup", &folder, lease.id.as_str()).await?;
        }
        host.end_strays(lease.id.as_str()).await?;
        host.remove_folder(&folder).await?;
        Ok(Step::done())
    }

    async fn leave(&self, ctx: &Context) -> Result<Step, Step> {
        // A box that was never greeted has nothing of ours.
        if let Ok(host) = self.host_of(ctx) {
            blocked(&ctx.resource)?;
            host.end_strays(ctx.resource.id.as_str()).await?;
            let folder = host.data_dir().to_owned();
            drop(host);
            // What keeps the box for us goes with its connections.
            self.forget(&ctx.resource).await;
            self.boxes.leave(&Self::target(&ctx.resource), &folder).await?;
            return Ok(Step::done());
        }
        self.forget(&ctx.resource).await;
        Ok(Step::done())
    }
}

/// Nothing is sent to a box that has shown another key.
fn blocked(resource: &Resource) -> Result<(), Step> {
    if !resource.is_blocked() {
        return Ok(());
    }
    let message = resource.problem.split_once(": ").map_or("", |(_, why)| why);
    Err(Error::new(Reason::HostKeyMismatch, message).into())
}

/// The words of a command in the configuration; `None` when there are none.
fn script(blueprint: &Record, name: &str) -> Option<Vec<String>> {
    let words: Vec<String> =
        blueprint.config.get(name)?.as_array()?.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    (!words.is_empty()).then_some(words)
}

fn span(blueprint: &Record, name: &str, default: Duration) -> Duration {
    blueprint.config.get(name).and_then(Value::as_str).and_then(parse_span).unwrap_or(default)
}

async fn run_script(ctx: &Context, host: &Arc<dyn Host>, name: &str, cwd: &Path, lease_id: &str) -> Result<(), Step> {
    let Some(argv) = script(&ctx.blueprint, name) else { return Ok(()) };
    let command = Command { argv, cwd: cwd.to_owned(), lease_id: lease_id.to_owned(), ..Command::default() };
    let timeout = span(&ctx.blueprint, "script_timeout", SCRIPT_TIMEOUT);
    let ran = tokio::select! {
        ran = host.run(Run { command, input: Vec::new(), timeout }) => ran?,
        () = ctx.cancel.cancelled() => return Err(Step::stumble(format!("{name} was broken off"), "")),
    };
    let why = match ran.exit {
        _ if ran.succeeded() => return Ok(()),
        None => format!("took longer than {} s", timeout.as_secs()),
        Some(crate::host::Exit::Code(code)) => format!("exited with {code}"),
        Some(crate::host::Exit::Signal(signal)) => format!("was ended by signal {signal}"),
    };
    Err(Step::stumble(
        format!("{name} of the blueprint {} {why} on {}", ctx.blueprint.name, ctx.resource.name),
        ran.stderr_tail,
    ))
}

#[async_trait]
impl Blueprint for RemoteHost {
    fn describe(&self) -> &'static Kind {
        &KIND
    }

    fn check_config(&self, config: &Value) -> Result<()> {
        crate::model::kind::check_config(CONFIG, config)?;
        // The defaults must do for a box that says nothing but its address.
        registration::admit(config, &StringMap::from([("address".to_owned(), "box".to_owned())]), &self.own_user)
            .map_err(|error| Error::invalid(format!("config: {}", error.message)))?;
        let interval = config.get("check_interval").and_then(Value::as_str).and_then(parse_span);
        if interval.is_some_and(|interval| interval < Duration::from_millis(50)) {
            return Err(Error::invalid("config \"check_interval\" must be at least 50ms"));
        }
        Ok(())
    }

    async fn build(&self, ctx: &Context) -> Step {
        settle(self.begin(ctx).await)
    }

    fn lease_facts(&self, resource: &Resource, lease: &Lease) -> StringMap {
        let mut facts = resource.facts.clone();
        if let Some(reached_at) = resource.attributes.get(registration::REACHED_AT) {
            facts.insert(registration::REACHED_AT.to_owned(), reached_at.clone());
        }
        if let Some(host) = self.host(resource) {
            facts.insert("path".to_owned(), path_fact(&lease_folder(host.as_ref(), lease.id.as_str())));
        }
        facts
    }

    async fn prepare(&self, ctx: &Context) -> Step {
        settle(self.set_up(ctx).await)
    }

    async fn clean(&self, ctx: &Context) -> Step {
        settle(self.sweep(ctx).await)
    }

    async fn destroy(&self, ctx: &Context) -> Step {
        settle(self.leave(ctx).await)
    }

    fn registered(&self) -> Option<&dyn Registered> {
        Some(self)
    }

    fn endpoint(&self, ctx: &Context, interface: &str) -> Option<Endpoint> {
        if !KIND.interfaces.contains(&interface) {
            return None;
        }
        let host = self.host(&ctx.resource)?;
        let root = lease_folder(host.as_ref(), ctx.lease.as_ref()?.id.as_str());
        Some(Endpoint::Here(Place { host, root, quota: None }))
    }
}

#[async_trait]
impl Registered for RemoteHost {
    fn admit(&self, config: &Value, attributes: &StringMap) -> Result<StringMap> {
        registration::admit(config, attributes, &self.own_user)
    }

    async fn look(&self, attributes: &StringMap) -> Result<StringMap> {
        let target = registration::target("new", attributes);
        let shown = self.boxes.scan(&target).await?;
        let lines: Vec<String> = shown.iter().map(HostKey::line).collect();
        if self.is_pinned(attributes) && !target.host_keys.iter().any(|pinned| lines.contains(pinned)) {
            return Err(Error::new(
                Reason::HostKeyMismatch,
                format!("{} shows none of the keys in host_key, but {}", target.address, listed(&shown)),
            ));
        }
        Ok(host_key::facts(&shown))
    }

    fn is_pinned(&self, attributes: &StringMap) -> bool {
        attributes.contains_key("host_key")
    }

    async fn examine(&self, ctx: &Context, thorough: bool) -> Examination {
        self.examine_box(ctx, thorough).await
    }

    fn interval(&self, blueprint: &Record) -> Duration {
        span(blueprint, "check_interval", CHECK_INTERVAL)
    }

    fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    fn diagnostics(&self, resource: &Resource) -> Option<Value> {
        let mut shown = self.boxes.diagnostics(&Self::target(resource))?;
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = hosts.get(&resource.id).and_then(|known| known.host.diagnostics()) {
            // Beside the connections, which carry them.
            if let (Some(shown), Value::Object(kept)) = (shown.as_object_mut(), kept) {
                shown.extend(kept);
            }
        }
        Some(shown)
    }

    async fn forget(&self, resource: &Resource) {
        let known = self.hosts.lock().unwrap_or_else(PoisonError::into_inner).remove(&resource.id);
        self.boxes.forget(&known.map_or_else(|| Self::target(resource), |known| known.target)).await;
    }
}
