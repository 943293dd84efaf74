//! `drydock host`: machines of your own, registered by hand. A machine's key is shown and pinned before anything is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ulid::Ulid;

use super::Globals;
use super::acquire::present;
use super::connect::{Daemon, soon, within};
use super::exit::{FAILURE, Failure, OK, Result, TRY_AGAIN};
use super::{blueprint, output, resource, words};
use crate::error::Reason;
use crate::proto::v1;
use crate::proto::v1::resource::State;

/// The blueprint that is made when there is none.
const BLUEPRINT: &str = "remote-host";
/// What `--agent` without a value stands for.
const AGENT: &str = "$SSH_AUTH_SOCK";
/// A look at a machine, or a thorough check of it, may take this long.
const LOOK: Duration = Duration::from_mins(1);
/// Between two looks at whether a machine has become ACTIVE.
const TICK: Duration = Duration::from_millis(100);

/// What to do with machines of your own.
#[derive(Debug, clap::Subcommand)]
pub enum Host {
    /// Register a machine that is reached over ssh: shows its host key, pins it, waits until it can be leased.
    Add(Add),
    /// Change a machine, or pin another host key.
    ///
    /// What is given as "" is taken away: `--jump ""`.
    Update(Update),
    /// List registered machines.
    List,
    /// Look now whether it is healthy; exits 1 when something is found.
    Check {
        /// Its name or id.
        host: String,
    },
    /// Unregister a machine and remove what Drydock has there.
    Remove {
        /// Its name or id.
        host: String,
        /// Also when it is leased, and when it cannot be reached: what Drydock has there is left there.
        #[arg(long)]
        force: bool,
    },
}

/// `drydock host add`.
#[derive(Debug, clap::Args)]
pub struct Add {
    #[arg(help = "A name for it: [a-z0-9][a-z0-9-]*")]
    name: String,
    /// Its host name or address.
    #[arg(long, value_name = "A")]
    address: String,
    #[command(flatten)]
    way: Way,
    /// The blueprint that hands it out [default: remote-host, made when there is none].
    #[arg(long, value_name = "B")]
    blueprint: Option<String>,
    #[command(flatten)]
    trust: Trust,
    /// How long to wait until it can be leased.
    #[arg(long, value_name = "D", value_parser = words::duration, default_value = "2m")]
    wait: Duration,
}

/// `drydock host update`.
#[derive(Debug, clap::Args)]
pub struct Update {
    /// Its name or id.
    host: String,
    /// Another host name or address.
    #[arg(long, value_name = "A")]
    address: Option<String>,
    #[command(flatten)]
    way: Way,
    /// Show the host key that it has now, and pin that.
    #[arg(long)]
    repin: bool,
    #[command(flatten)]
    trust: Trust,
}

/// How a machine is reached.
#[derive(Debug, clap::Args)]
struct Way {
    /// The port of its sshd [default: 22].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Whom to be there [default: the daemon's user].
    #[arg(long, value_name = "U")]
    user: Option<String>,
    /// A private key, on the daemon's machine.
    #[arg(long, value_name = "FILE", value_parser = path_or_nothing)]
    identity_file: Option<PathBuf>,
    /// The certificate of that key.
    #[arg(long, value_name = "FILE", value_parser = path_or_nothing)]
    certificate: Option<PathBuf>,
    /// The socket of an ssh agent [without a value: that of the environment].
    #[arg(long, value_name = "SOCKET", num_args = 0..=1, default_missing_value = AGENT, value_parser = path_or_nothing)]
    agent: Option<PathBuf>,
    #[arg(long, value_name = "HOST", help = "Through which it is reached: [user@]host[:port]")]
    jump: Option<String>,
    /// An ssh configuration for names, addresses and jump hosts.
    #[arg(long, value_name = "FILE", value_parser = path_or_nothing)]
    ssh_config: Option<PathBuf>,
    /// Under which name or address others reach what listens there [default: its address].
    #[arg(long, value_name = "A")]
    reachable_address: Option<String>,
    /// A label of its own, for `--match`; may be repeated.
    #[arg(long = "label", value_name = "K=V", value_parser = words::pair)]
    labels: Vec<(String, String)>,
}

/// How a host key comes to be trusted.
#[derive(Debug, clap::Args)]
struct Trust {
    /// Its public host key, "ssh-ed25519 AAAA…"; several by comma.
    #[arg(long, value_name = "KEY", conflicts_with = "accept_host_key")]
    host_key: Option<String>,
    /// Pin the key that it shows if it has this fingerprint (SHA256:…).
    #[arg(long, value_name = "FINGERPRINT")]
    accept_host_key: Option<String>,
    /// Ask nothing; then --host-key or --accept-host-key is needed.
    #[arg(short = 'y', long)]
    yes: bool,
}

/// Runs it.
///
/// # Errors
/// Those of the daemon; 64 when a key is to be trusted that nobody has confirmed.
pub async fn run(globals: &Globals, command: Host) -> Result<u8> {
    match command {
        Host::Add(args) => add(globals, args).await,
        Host::Update(args) => update(globals, args).await,
        Host::List => {
            let resources = hosts(&globals.connect().await?, LIVE).await?;
            output::list(globals.output, &v1::ListResourcesResponse { resources, ..Default::default() })?;
            Ok(OK)
        }
        Host::Check { host } => {
            let daemon = globals.connect().await?;
            let resource_id = find(&daemon, &host).await?.id;
            let request = within(LOOK, v1::CheckResourceRequest { resource_id });
            resource::check(globals, &daemon.resources().check_resource(request).await?.into_inner())
        }
        Host::Remove { host, force } => {
            let daemon = globals.connect().await?;
            let resource_id = find(&daemon, &host).await?.id;
            let request = v1::ReleaseResourceRequest { resource_id, force, request_id: String::new() };
            let resource = daemon.resources().release_resource(soon(request)).await?.into_inner().resource;
            output::object_unless_table(globals.output, &present(resource)?)?;
            Ok(OK)
        }
    }
}

const LIVE: &str = "state != RELEASED AND state != BROKEN AND state != DESTROYED";

async fn add(globals: &Globals, args: Add) -> Result<u8> {
    let mut attributes = args.way.attributes()?;
    attributes.insert("address".to_owned(), args.address);
    let labels = words::map("--label", &args.way.labels)?;
    let daemon = globals.connect().await?;
    let blueprint = match args.blueprint {
        Some(blueprint) => blueprint,
        None => stock(&daemon).await?,
    };
    let mut request =
        v1::RegisterResourceRequest { blueprint, name: args.name, attributes, labels, ..Default::default() };
    let key = args.trust.settle(&daemon, &request).await?;
    request.attributes.insert("host_key".to_owned(), key);
    let registered = present(daemon.resources().register_resource(soon(request)).await?.into_inner().resource)?;
    match ready(&daemon, &registered.id, args.wait).await {
        Ok(resource) => {
            match globals.output {
                output::Format::Table => output::print(&resource.id)?,
                format => output::object(format, &resource)?,
            }
            Ok(OK)
        }
        Err(failure) => {
            output::print(&registered.id)?;
            Err(failure)
        }
    }
}

async fn update(globals: &Globals, args: Update) -> Result<u8> {
    let labels = words::map("--label", &args.way.labels)?;
    let changes = args.way.attributes()?;
    let daemon = globals.connect().await?;
    let before = find(&daemon, &args.host).await?;
    let mut attributes = before.attributes.clone();
    attributes.extend(changes);
    attributes.extend(args.address.map(|address| ("address".to_owned(), address)));
    attributes.retain(|_, value| !value.is_empty());
    let pinned = args.repin || args.trust.host_key.is_some() || args.trust.accept_host_key.is_some();
    if pinned {
        attributes.remove("host_key");
        let look = v1::RegisterResourceRequest {
            blueprint: before.blueprint_id.clone(),
            // Only a look: nothing of this name is ever there.
            name: format!("look-{}", Ulid::generate().to_string().to_lowercase()),
            attributes: attributes.clone(),
            ..Default::default()
        };
        let key = args.trust.settle(&daemon, &look).await?;
        attributes.insert("host_key".to_owned(), key);
    }
    // A key that is pinned again, though it is the same, is what unblocks it.
    if attributes == before.attributes && !pinned {
        attributes.clear();
    }
    if attributes.is_empty() && labels.is_empty() {
        return Err(Failure::usage("nothing is to be changed; see `drydock host update --help`"));
    }
    let request = v1::UpdateResourceRequest {
        resource_id: before.id,
        attributes,
        labels,
        etag: before.etag,
        request_id: String::new(),
    };
    let after = present(daemon.resources().update_resource(soon(request)).await?.into_inner().resource)?;
    output::object_unless_table(globals.output, &after)?;
    Ok(OK)
}

/// The blueprint for machines that are added without one.
async fn stock(daemon: &Daemon) -> Result<String> {
    let request = v1::GetBlueprintRequest { blueprint: BLUEPRINT.to_owned() };
    match daemon.blueprints().get_blueprint(soon(request)).await.map_err(Failure::from) {
        Ok(_) => {}
        Err(failure) if failure.is(Reason::BlueprintNotFound) => {
            let made = v1::Blueprint {
                name: BLUEPRINT.to_owned(),
                kind: BLUEPRINT.to_owned(),
                limits: Some(v1::BlueprintLimits { shared: true, ..Default::default() }),
                ..Default::default()
            };
            blueprint::apply(daemon, made, false).await?;
            eprintln!("drydock: made the blueprint {BLUEPRINT}; its machines serve every owner (limits.shared)");
        }
        Err(failure) => return Err(failure),
    }
    Ok(BLUEPRINT.to_owned())
}

/// All hosts of this filter that were registered: those of blueprints of that kind, not those that a daemon has of itself.
async fn hosts(daemon: &Daemon, filter: &str) -> Result<Vec<v1::Resource>> {
    let mut blueprints = BTreeSet::new();
    let filter_kind = format!("kind = {BLUEPRINT}");
    let mut request = v1::ListBlueprintsRequest { page_size: 500, filter: filter_kind, ..Default::default() };
    loop {
        let page = daemon.blueprints().list_blueprints(soon(request.clone())).await?.into_inner();
        blueprints.extend(page.blueprints.into_iter().map(|blueprint| blueprint.id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let mut found = Vec::new();
    let filter = format!("{filter} AND resource_type = host");
    let mut request = v1::ListResourcesRequest { page_size: 500, filter, ..Default::default() };
    loop {
        let page = daemon.resources().list_resources(soon(request.clone())).await?.into_inner();
        found.extend(page.resources.into_iter().filter(|host| blueprints.contains(&host.blueprint_id)));
        if page.next_page_token.is_empty() {
            return Ok(found);
        }
        request.page_token = page.next_page_token;
    }
}

/// A live machine by its name or id.
async fn find(daemon: &Daemon, host: &str) -> Result<v1::Resource> {
    if host.starts_with("res_") {
        let request = v1::GetResourceRequest { resource_id: host.to_owned() };
        return present(daemon.resources().get_resource(soon(request)).await?.into_inner().resource);
    }
    // A name has no quotes: what has some names nothing.
    let filter = format!("{LIVE} AND name = \"{}\"", host.replace(['"', '\\', '*'], "?"));
    let mut found = hosts(daemon, &filter).await?;
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => {
            let message = format!("there is no host {host:?}; `drydock host list` shows them");
            Err(Failure::new(FAILURE, Reason::ResourceNotFound.as_str(), message))
        }
        _ => {
            let ids: Vec<&str> = found.iter().map(|host| host.id.as_str()).collect();
            Err(Failure::usage(format!("{host:?} is the name of several: {}; use an id", ids.join(", "))))
        }
    }
}

/// Waits until a machine is ACTIVE.
async fn ready(daemon: &Daemon, id: &str, patience: Duration) -> Result<v1::Resource> {
    let end = tokio::time::Instant::now() + patience;
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        let request = v1::GetResourceRequest { resource_id: id.to_owned() };
        let resource = present(daemon.resources().get_resource(soon(request)).await?.into_inner().resource)?;
        let mend = format!(
            "it stays registered and is tried again: `drydock host update {id}` changes it, `drydock host remove {id}` gives it up"
        );
        if resource.state() == State::Active {
            return Ok(resource);
        }
        if resource.state() != State::Pending {
            let message = format!("{id} has ended: {} {}", resource.state_reason, resource.state_message);
            return Err(Failure::new(FAILURE, "RESOURCE_ENDED", message));
        }
        if let Some((reason, why)) = resource.problem.split_once(": ") {
            let code = super::exit::code(reason).unwrap_or(FAILURE);
            return Err(Failure::new(code, reason, format!("{id} cannot be used: {why}; {mend}")));
        }
        if tokio::time::Instant::now() >= end {
            return Err(Failure::new(TRY_AGAIN, "NOT_ACTIVE_IN_TIME", format!("{id} is still being set up; {mend}")));
        }
    }
}

impl Way {
    fn attributes(&self) -> Result<BTreeMap<String, String>> {
        let agent = match &self.agent {
            Some(socket) if socket.as_os_str() == AGENT => {
                let socket = std::env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty());
                let socket = socket.ok_or_else(|| Failure::usage("--agent: SSH_AUTH_SOCK is not set"))?;
                Some(PathBuf::from(socket))
            }
            given => given.clone(),
        };
        let file = |path: Option<&Path>| path.map(absolute).transpose();
        let all = [
            ("port", self.port.map(|port| port.to_string())),
            ("user", self.user.clone()),
            ("identity_file", file(self.identity_file.as_deref())?),
            ("certificate_file", file(self.certificate.as_deref())?),
            ("identity_agent", file(agent.as_deref())?),
            ("jump", self.jump.clone()),
            ("ssh_config", file(self.ssh_config.as_deref())?),
            ("reachable_address", self.reachable_address.clone()),
        ];
        Ok(all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
    }
}

/// Unlike the parser that clap has: `""` takes a path away.
fn path_or_nothing(text: &str) -> std::result::Result<PathBuf, std::convert::Infallible> {
    Ok(PathBuf::from(text))
}

/// A path for the daemon, which has another working directory.
fn absolute(path: &Path) -> Result<String> {
    if path.as_os_str().is_empty() {
        return Ok(String::new());
    }
    let full = std::path::absolute(path).map_err(|error| Failure::io(path.display(), &error))?;
    full.to_str().map(str::to_owned).ok_or_else(|| Failure::usage(format!("{} is not UTF-8", full.display())))
}

/// A key that a machine has shown.
struct Shown {
    key: String,
    fingerprint: String,
}

impl Trust {
    /// The keys to pin, confirmed by a person or by what a person has said before; never unseen.
    async fn settle(&self, daemon: &Daemon, request: &v1::RegisterResourceRequest) -> Result<String> {
        if let Some(key) = &self.host_key {
            return Ok(key.clone());
        }
        let look = within(LOOK, v1::RegisterResourceRequest { validate_only: true, ..request.clone() });
        let seen = present(daemon.resources().register_resource(look).await?.into_inner().resource)?;
        let shown: Vec<Shown> = seen
            .facts
            .iter()
            .filter_map(|(name, key)| {
                let kind = name.strip_prefix("host_key.")?;
                let fingerprint = seen.facts.get(&format!("fingerprint.{kind}"))?.clone();
                Some(Shown { key: key.clone(), fingerprint })
            })
            .collect();
        let address = request.attributes.get("address").map_or("the machine", String::as_str);
        let lines: Vec<String> = shown
            .iter()
            .map(|shown| format!("  {} {}", shown.key.split(' ').next().unwrap_or_default(), shown.fingerprint))
            .collect();
        if let Some(wanted) = &self.accept_host_key {
            return shown.iter().find(|shown| shown.fingerprint == *wanted).map(|shown| shown.key.clone()).ok_or_else(
                || {
                    let message =
                        format!("{address} shows no key with the fingerprint {wanted}, but:\n{}", lines.join("\n"));
                    Failure::new(FAILURE, Reason::HostKeyMismatch.as_str(), message)
                },
            );
        }
        eprintln!("drydock: {address} shows these host keys:\n{}", lines.join("\n"));
        if self.yes || !std::io::stdin().is_terminal() {
            return Err(Failure::usage(
                "nobody has confirmed a host key; compare the fingerprints with what the machine itself says \
                 (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then use --accept-host-key FINGERPRINT or --host-key KEY",
            ));
        }
        eprint!("Are they its keys? Type yes, or one of the fingerprints: ");
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer).map_err(|error| Failure::io("stdin", &error))?;
        let answer = answer.trim();
        let pinned: Vec<String> = shown
            .into_iter()
            .filter(|shown| answer == "yes" || shown.fingerprint == answer)
            .map(|shown| shown.key)
            .collect();
        if pinned.is_empty() {
            return Err(Failure::new(FAILURE, "CANCELLED", "nothing was registered or changed"));
        }
        Ok(pinned.join(","))
    }
}
