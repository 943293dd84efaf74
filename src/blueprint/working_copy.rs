//! `working-copy`: one or many git repositories, checked out clean for every lease.
//!
//! A single repository is the root of the lease; several are folders in it, each by its name.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::try_join_all;
use serde_json::Value;
use tokio::time::Instant;

use super::git::{CheckedOut, Git};
use super::repository::{check_ref, check_repository};
use super::{Blueprint, Context, Endpoint, HOST_ATTRIBUTE, Step, path_fact, settle};
use crate::error::{Error, Reason, Result};
use crate::host::turns::Turns;
use crate::model::kind::{check_attributes, parse_span};
use crate::model::{Field, FieldType, Kind, StringMap};

/// What it is.
pub static KIND: Kind = Kind {
    kind: "working-copy",
    resource_type: "working-copy",
    interfaces: &["command", "filesystem"],
    needs: &["host"],
    config: &[Field::optional(
        "timeout",
        FieldType::Span,
        "How long cloning and checking out may take in all; 15m unless given.",
    )],
    attributes: &[
        HOST_ATTRIBUTE,
        Field::optional("ref", FieldType::Text, "Branch, tag or commit; the remote's HEAD unless given."),
        Field::optional("ref.*", FieldType::Text, "Branch, tag or commit of the repository of that name."),
        Field::optional("repository", FieldType::Text, "A git URL, or an absolute path on the leased host."),
        Field::optional("repository.*", FieldType::Text, "One of several repositories; its folder has that name."),
    ],
    leases_per_resource: 1,
    max_resources: None,
    rank: 0,
    stays: false,
    reused_by_attributes: true,
    // A copy that is handed on is checked out anew.
    instant: false,
    registration: None,
};

/// The facts it promises.
pub const FACTS: &[&str] = &["commit", "commit.*", "path", "ref", "ref.*"];

const TIMEOUT: Duration = Duration::from_mins(15);

/// Checks repositories out.
#[derive(Default)]
pub struct WorkingCopy {
    /// At the mirrors.
    turns: Turns,
}

#[async_trait]
impl Blueprint for WorkingCopy {
    fn describe(&self) -> &'static Kind {
        &KIND
    }

    fn admit(&self, _config: &Value, attributes: &StringMap) -> Result<StringMap> {
        check_attributes(KIND.attributes, attributes)?;
        match sources(attributes) {
            Ok(_) => Ok(attributes.clone()),
            Err(complaints) => Err(Error::new(Reason::InvalidAttribute, complaints.join("; "))),
        }
    }

    async fn build(&self, ctx: &Context) -> Step {
        settle(self.make(ctx).await)
    }

    async fn prepare(&self, ctx: &Context) -> Step {
        settle(self.hand_on(ctx).await)
    }

    async fn clean(&self, ctx: &Context) -> Step {
        settle(ctx.end_lease_processes().await.map(|()| Step::done()))
    }

    async fn destroy(&self, ctx: &Context) -> Step {
        let folders =
            ctx.place_of("host").map(|place| vec![ctx.folder(place), ctx.side_folder(place, SIDE)]).unwrap_or_default();
        settle(ctx.remove_from_host(&folders).await.map(|()| Step::done()))
    }

    fn endpoint(&self, ctx: &Context, interface: &str) -> Option<Endpoint> {
        KIND.interfaces.contains(&interface).then(|| ctx.on_host(None))?
    }
}

/// Beside the copy: who it was checked out for.
const SIDE: &str = "copy";

impl WorkingCopy {
    async fn make(&self, ctx: &Context) -> Result<Step, Step> {
        ctx.host()?;
        let place = ctx.place_of("host")?;
        let sources =
            sources(&ctx.resource.attributes).map_err(|complaints| Step::refuse(complaints.join("; "), ""))?;
        let root = ctx.folder(place);
        // What a step that was cut short left behind is not worth looking at: the mirror makes a new start cheap.
        place.host.end_strays(ctx.resource.id.as_str()).await?;
        place.host.remove_folder(&root).await?;

        let timeout = ctx.blueprint.config["timeout"].as_str().and_then(parse_span).unwrap_or(TIMEOUT);
        let git = Git {
            host: place.host.as_ref(),
            owner: ctx.resource.id.as_str(),
            until: Instant::now() + timeout,
            cancel: &ctx.cancel,
            turns: &self.turns,
        };
        place.host.make_folder(&root).await?;
        let checked_out = try_join_all(sources.iter().map(|source| {
            let folder = source.name.as_ref().map_or_else(|| root.clone(), |name| root.join(name));
            let git = &git;
            async move { git.check_out(&source.repository, source.wanted.as_deref(), &folder).await }
        }))
        .await?;

        let mut facts = StringMap::from([("path".to_owned(), path_fact(&root))]);
        for (source, CheckedOut { commit, name }) in sources.iter().zip(checked_out) {
            let ending = source.name.as_ref().map(|name| format!(".{name}")).unwrap_or_default();
            facts.insert(format!("commit{ending}"), commit);
            facts.insert(format!("ref{ending}"), name);
        }
        Ok(Step::Ready(facts))
    }

    /// The first lease gets what `build` made; every later one a new checkout.
    async fn hand_on(&self, ctx: &Context) -> Result<Step, Step> {
        let (Some(lease), 1) = (&ctx.lease, ctx.resource.lease_limit) else {
            // Those who share a copy keep it clean themselves.
            return Ok(Step::done());
        };
        ctx.host()?;
        let place = ctx.place_of("host")?;
        let side = ctx.side_folder(place, SIDE);
        let note: PathBuf = side.join("lease");
        let step = match place.host.read_text(&note).await? {
            None => Step::done(),
            Some(holder) if holder == lease.id.as_str() => return Ok(Step::done()),
            Some(_) => match self.make(ctx).await? {
                ready @ Step::Ready(_) => ready,
                other => return Ok(other),
            },
        };
        place.host.make_folder(&side).await?;
        place.host.write_text(&note, lease.id.as_str()).await?;
        Ok(step)
    }
}

/// One repository to check out.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    /// Its folder when there are several.
    name: Option<String>,
    repository: String,
    wanted: Option<String>,
}

/// Reads the attributes; all complaints at once.
fn sources(attributes: &StringMap) -> Result<Vec<Source>, Vec<String>> {
    let mut complaints = Vec::new();
    let mut sources = Vec::new();
    for (key, value) in attributes {
        let name = match key.split_once('.') {
            None if key == "repository" => None,
            Some(("repository", name)) => Some(name.to_owned()),
            Some(("ref", name)) if !attributes.contains_key(&format!("repository.{name}")) => {
                complaints.push(format!("attribute {key:?} has no \"repository.{name}\" beside it"));
                continue;
            }
            _ => continue,
        };
        if let Some(name) = name.as_ref().filter(|name| !is_folder_name(name)) {
            complaints
                .push(format!("attribute {key:?}: {name:?} is no folder name ([A-Za-z0-9][A-Za-z0-9._-]{{0,62}})"));
        }
        let ref_key = name.as_ref().map_or_else(|| "ref".to_owned(), |name| format!("ref.{name}"));
        let wanted = attributes.get(&ref_key).cloned();
        complaints.extend(check_repository(value).err().map(|why| format!("attribute {key:?} is {value:?}: {why}")));
        if let Some(wanted) = &wanted {
            complaints.extend(check_ref(wanted).err().map(|why| format!("attribute {ref_key:?} is {wanted:?}: {why}")));
        }
        sources.push(Source { name, repository: value.clone(), wanted });
    }
    match sources.as_slice() {
        [] => complaints.push("attribute \"repository\" is missing: a git URL, or a path on the host".to_owned()),
        [_, ..] if attributes.contains_key("repository") && sources.len() > 1 => {
            complaints.push("give either \"repository\", or \"repository.NAME\" for each of several".to_owned());
        }
        _ if attributes.contains_key("ref") && !attributes.contains_key("repository") => {
            complaints.push("attribute \"ref\" has no \"repository\" beside it; give \"ref.NAME\"".to_owned());
        }
        _ => {}
    }
    if complaints.is_empty() { Ok(sources) } else { Err(complaints) }
}

fn is_folder_name(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Vec<Source>, Vec<String>> {
        sources(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn one_and_many_repositories_are_read() {
        let one = read(&[("repository", "/srv/site.git"), ("ref", "main")]).unwrap();
        assert_eq!(one[0].name, None);
        assert_eq!(one[0].wanted.as_deref(), Some("main"));
        let many = read(&[("repository.a", "/srv/a"), ("repository.b", "/srv/b"), ("ref.b", "v1")]).unwrap();
        assert_eq!(many.iter().map(|s| s.name.as_deref().unwrap()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(many[1].wanted.as_deref(), Some("v1"));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        for pairs in [
            &[][..],
            &[("ref", "main")],
            &[("repository", "/a"), ("repository.b", "/b")],
            &[("repository.a", "/a"), ("ref", "main")],
            &[("repository", "/a"), ("ref.b", "main")],
            &[("repository...", "/a")],
            &[("repository.a/b", "/a")],
            &[("repository.-x", "/a")],
            &[("repository", "/a"), ("ref", "-x")],
        ] {
            assert!(read(pairs).is_err(), "{pairs:?}");
        }
    }
}
