//! `webroot`: a web server's site with a port of its own.

mod config;

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Blueprint, Context, EffectState, Endpoint, HOST_ATTRIBUTE, Health, Met, Need, Step, path_fact, settle};
use crate::error::{Error, Reason, Result};
use crate::host::Place;
use crate::httpd::{Seat, Site, StartError, choose, folder_of};
use crate::model::{Field, FieldType, Kind, LeaseSpec, Resource, StringMap, kind};

/// What it is.
pub static KIND: Kind = Kind {
    kind: "webroot",
    resource_type: "webroot",
    interfaces: &["command", "filesystem", "httpd"],
    needs: &["host", "port"],
    config: config::FIELDS,
    attributes: &[
        Field::optional(
            "document_root",
            FieldType::Text,
            "What is served: a folder under the own root (the default), or an absolute path in another lease of yours.",
        ),
        HOST_ATTRIBUTE,
        Field::optional("server_name", FieldType::Text, "The host name of the site; requests for others are refused."),
    ],
    leases_per_resource: 1,
    max_resources: None,
    rank: 0,
    stays: false,
    reused_by_attributes: true,
    instant: true,
    registration: None,
};

/// The facts it promises.
pub const FACTS: &[&str] = &["address", "document_root", "driver", "path", "port", "uri"];

/// After so many ports that strangers took first, something else is wrong.
const PORT_TRIES: usize = 5;

/// How often the server of one that nobody uses is looked at.
const CHECKED_EVERY: Duration = Duration::from_mins(1);

/// Makes sites.
pub struct Webroot;

#[async_trait]
impl Blueprint for Webroot {
    fn describe(&self) -> &'static Kind {
        &KIND
    }

    fn check_config(&self, config: &Value) -> Result<()> {
        config::check(config)
    }

    fn admit(&self, _config: &Value, attributes: &StringMap) -> Result<StringMap> {
        kind::check_attributes(KIND.attributes, attributes)?;
        let wrong = |key: &str, why: &str| {
            Err(Error::new(Reason::InvalidAttribute, format!("attribute {key:?} is {:?}, {why}", attributes[key])))
        };
        if attributes.get("document_root").is_some_and(|root| !is_plain(Path::new(root))) {
            return wrong("document_root", "but must be a path without \"..\"");
        }
        if attributes.get("server_name").is_some_and(|name| !is_host_name(name)) {
            return wrong("server_name", "but must be a host name");
        }
        Ok(attributes.clone())
    }

    fn wants_neighbours(&self, resource: &Resource) -> bool {
        resource.attributes.get("document_root").is_some_and(|root| Path::new(root).is_absolute())
    }

    async fn build(&self, ctx: &Context) -> Step {
        settle(make(ctx).await)
    }

    async fn clean(&self, ctx: &Context) -> Step {
        settle(ctx.end_lease_processes().await.map(|()| Step::done()))
    }

    async fn destroy(&self, ctx: &Context) -> Step {
        settle(take_down(ctx).await)
    }

    fn check_interval(&self) -> Option<Duration> {
        Some(CHECKED_EVERY)
    }

    async fn check(&self, ctx: &Context) -> Health {
        let findings = match own_place(ctx) {
            Err(_) => vec!["its host is not there".to_owned()],
            Ok(place) => match running(&place).await {
                Ok(true) => Vec::new(),
                Ok(false) => vec!["the web server does not run; restart it, or release the lease".to_owned()],
                Err(error) => vec![crate::error::report(&error)],
            },
        };
        Health { findings, dead: false }
    }

    fn endpoint(&self, ctx: &Context, interface: &str) -> Option<Endpoint> {
        KIND.interfaces.contains(&interface).then(|| ctx.on_host(None))?
    }
}

async fn make(ctx: &Context) -> Result<Step, Step> {
    let host = ctx.host()?;
    let place = own_place(ctx)?;
    let port = match port(ctx, host).await? {
        Ok(port) => port,
        Err(need) => return Ok(Step::Needs(vec![need])),
    };
    place.host.make_folder(&place.root).await?;
    let (document_root, within) = document_root(ctx, &place)?;
    let site = Site {
        driver: driver(ctx, &place).await?,
        document_root,
        within,
        port,
        server_name: ctx.resource.attributes.get("server_name").cloned(),
        owner: ctx.resource.id.to_string(),
        ..config::site(&ctx.blueprint.config)
    };
    let seat = Seat { host: Arc::clone(&place.host), folder: folder_of(&place.root), site };

    ctx.effects.begin("httpd", json!({"port": port})).await?;
    seat.write().await?;
    // Begun or done before: a server that runs is adopted by its pid file, one that does not is started again.
    match seat.start().await {
        Ok(()) => {}
        Err(error @ StartError::PortTaken(_)) => {
            ctx.effects.done(&format!("taken:{port}"), Value::Null).await?;
            return match self::port(ctx, host).await? {
                Err(need) => Ok(Step::Needs(vec![need])),
                Ok(_) => Err(Step::stumble(error.to_string(), "")),
            };
        }
        // Trying again would say the same.
        Err(StartError::Other(error)) if error.reason == Reason::HttpdConfigInvalid => {
            let tail = error.metadata.get("stderr_tail").cloned().unwrap_or_default();
            return Err(Step::refuse(error.message, tail));
        }
        Err(StartError::Other(error)) => return Err(error.into()),
    }
    ctx.effects.done("httpd", json!({"port": port})).await?;

    let fact = |key: &str, value: String| (key.to_owned(), value);
    Ok(Step::Ready(StringMap::from([
        fact("address", seat.reached_at().to_owned()),
        fact("document_root", path_fact(&seat.site.document_root)),
        fact("driver", seat.site.driver.clone()),
        fact("path", path_fact(&place.root)),
        fact("port", port.to_string()),
        fact("uri", seat.uri("/")),
    ])))
}

/// The driver that was asked for, or chosen when it was first built, or the first that the host has.
async fn driver(ctx: &Context, place: &Place) -> Result<String, Step> {
    if let Some(driver) = ctx.blueprint.config["driver"].as_str() {
        return Ok(driver.to_owned());
    }
    if let Ok(seat) = Seat::open(place).await {
        return Ok(seat.site.driver);
    }
    match choose(place.host.as_ref(), ctx.resource.id.as_str()).await {
        Ok(driver) => Ok(driver.to_owned()),
        Err(error) if error.reason == Reason::HttpdConfigInvalid => Err(Step::refuse(error.message, "")),
        Err(error) => Err(error.into()),
    }
}

/// The last port that was leased, unless a stranger took it first: then another is needed.
async fn port(ctx: &Context, host: &Met) -> Result<Result<u16, Need>, Step> {
    let taken = ctx.effects.all().await?;
    for nth in 1..=PORT_TRIES {
        let name = if nth == 1 { "port".to_owned() } else { format!("port-{nth}") };
        let Some(met) = ctx.needs.get(&name) else {
            let attributes = StringMap::from([("host".to_owned(), host.lease.id.to_string())]);
            let spec = LeaseSpec { resource_type: "port".to_owned(), attributes, ..LeaseSpec::default() };
            return Ok(Err(Need { name, spec }));
        };
        let port: u16 = met
            .lease
            .facts
            .get("port")
            .and_then(|port| port.parse().ok())
            .ok_or_else(|| Step::refuse(format!("the lease {} has no fact \"port\"", met.lease.id), ""))?;
        let is_taken = |(name, state): &(String, EffectState)| {
            matches!(state, EffectState::Done(_)) && *name == format!("taken:{port}")
        };
        if !taken.iter().any(is_taken) {
            return Ok(Ok(port));
        }
    }
    Err(Step::refuse(
        format!("strangers took {PORT_TRIES} ports in a row; choose another range for the blueprint of type port"),
        "",
    ))
}

/// The document root, and the folder that its links may not leave.
fn document_root(ctx: &Context, place: &Place) -> Result<(PathBuf, PathBuf), Step> {
    let wanted = Path::new(ctx.resource.attributes.get("document_root").map_or("", String::as_str));
    if !is_plain(wanted) {
        return Err(Step::refuse(format!("the document root {} has \"..\" in it", wanted.display()), ""));
    }
    // An absolute path replaces what it is joined to; collecting drops dots and slashes at the end.
    let root: PathBuf = place.root.join(wanted).components().collect();
    let neighbours = ctx.neighbours.iter().map(|(_, folder)| folder.as_path());
    let homes = std::iter::once(place.root.as_path()).chain(neighbours);
    // Of two that hold it, the inner one.
    let within = homes.filter(|home| root.starts_with(home)).max_by_key(|home| home.components().count());
    let Some(within) = within.map(Path::to_owned) else {
        let why = "is neither under the webroot nor under another active lease of yours on the same host";
        return Err(Step::refuse(format!("the document root {} {why}", root.display()), ""));
    };
    Ok((root, within))
}

async fn take_down(ctx: &Context) -> Result<Step, Step> {
    if let Ok(place) = own_place(ctx) {
        Seat::take_down(&place).await?;
        ctx.remove_from_host(std::slice::from_ref(&place.root)).await?;
    }
    for (name, _) in ctx.effects.all().await? {
        ctx.effects.undone(&name).await?;
    }
    Ok(Step::done())
}

async fn running(place: &Place) -> Result<bool> {
    Ok(Seat::open(place).await?.status().await?.running)
}

/// The resource's folder on its host.
fn own_place(ctx: &Context) -> Result<Place, Step> {
    let place = ctx.place_of("host")?;
    Ok(Place { host: Arc::clone(&place.host), root: ctx.folder(place), quota: None })
}

fn is_plain(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_) | Component::RootDir | Component::CurDir))
}

fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_attributes_are_refused() {
        let admit = |key: &str, value: &str| {
            Webroot.admit(&json!({}), &StringMap::from([(key.to_owned(), value.to_owned())])).is_ok()
        };
        assert!(
            admit("document_root", "public") && admit("document_root", "/srv/x") && admit("server_name", "a.example")
        );
        assert!(!admit("document_root", "../x") && !admit("document_root", "/srv/../x"));
        assert!(!admit("server_name", "-a") && !admit("server_name", "a b") && !admit("server_name", ""));
    }
}
