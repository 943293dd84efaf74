//! `drydock blueprint`: scripts for creating and deleting resources.

pub mod document;

use std::path::PathBuf;

use super::Globals;
use super::acquire::present;
use super::connect::{Daemon, soon};
use super::exit::{Failure, OK, Result};
use super::output::{self, Format};
use crate::blueprint::document::{parse, render};
use crate::proto::v1;
use crate::proto::v1::apply_blueprint_response::Outcome;

const PAGE: i32 = 500;

/// What to do with blueprints.
#[derive(Debug, clap::Subcommand)]
pub enum Blueprint {
    /// What can be made, and from which attributes.
    Kinds,
    /// Create or replace the blueprints of YAML documents, by name.
    Apply {
        /// A file of documents, - for stdin; may be repeated.
        #[arg(short, long = "file", value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// Only check them and tell what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// Print blueprints as documents that `apply` takes.
    Export {
        /// Ids or names [default: all].
        #[arg(value_name = "BLUEPRINT")]
        blueprints: Vec<String>,
    },
    /// List blueprints by name.
    List {
        /// For example: kind = "composite" AND enabled = true.
        #[arg(long, value_name = "F", default_value = "", hide_default_value = true)]
        filter: String,
    },
    /// Show a blueprint.
    Get {
        /// Its id or name.
        blueprint: String,
    },
    /// Take leases again.
    Enable {
        /// Its id or name.
        blueprint: String,
    },
    /// No new resources and no new leases; present ones go on.
    Disable {
        /// Its id or name.
        blueprint: String,
    },
    /// Delete a blueprint that has no resources.
    Delete {
        /// Its id or name.
        blueprint: String,
    },
}

/// Runs it.
///
/// # Errors
/// Those of the daemon.
pub async fn run(globals: &Globals, command: Blueprint) -> Result<u8> {
    // Before the daemon is asked for: a slip in a document needs none.
    let documents = if let Blueprint::Apply { files, .. } = &command { read_all(files)? } else { Vec::new() };
    let daemon = globals.connect().await?;
    let mut client = daemon.blueprints();
    let blueprint = match command {
        Blueprint::Kinds => {
            let mut all = v1::ListBlueprintKindsResponse::default();
            loop {
                let page_token = std::mem::take(&mut all.next_page_token);
                let request = v1::ListBlueprintKindsRequest { page_size: PAGE, page_token };
                let page = client.list_blueprint_kinds(soon(request)).await?.into_inner();
                all.kinds.extend(page.kinds);
                all.next_page_token = page.next_page_token;
                if all.next_page_token.is_empty() {
                    break;
                }
            }
            output::list(globals.output, &all)?;
            return Ok(OK);
        }
        Blueprint::List { filter } => {
            let all = list(&daemon, &filter).await?;
            output::list(globals.output, &all)?;
            return Ok(OK);
        }
        Blueprint::Apply { dry_run, .. } => {
            for document in documents {
                let (words, blueprint) = apply(&daemon, document, dry_run).await?;
                match globals.output {
                    Format::Table => output::print(&words)?,
                    format => output::next(format, &blueprint)?,
                }
            }
            return Ok(OK);
        }
        Blueprint::Export { blueprints } => {
            output::print(&export(&daemon, blueprints).await?)?;
            return Ok(OK);
        }
        Blueprint::Get { blueprint } => {
            client.get_blueprint(soon(v1::GetBlueprintRequest { blueprint })).await?.into_inner().blueprint
        }
        Blueprint::Enable { blueprint } => {
            let request = v1::EnableBlueprintRequest { blueprint, request_id: String::new() };
            client.enable_blueprint(soon(request)).await?.into_inner().blueprint
        }
        Blueprint::Disable { blueprint } => {
            let request = v1::DisableBlueprintRequest { blueprint, request_id: String::new() };
            client.disable_blueprint(soon(request)).await?.into_inner().blueprint
        }
        Blueprint::Delete { blueprint } => {
            let request = v1::DeleteBlueprintRequest { blueprint, ..Default::default() };
            client.delete_blueprint(soon(request)).await?;
            return Ok(OK);
        }
    };
    output::object(globals.output, &present(blueprint)?)?;
    Ok(OK)
}

async fn list(daemon: &Daemon, filter: &str) -> Result<v1::ListBlueprintsResponse> {
    let mut all = v1::ListBlueprintsResponse::default();
    loop {
        let page_token = std::mem::take(&mut all.next_page_token);
        let request = v1::ListBlueprintsRequest { page_size: PAGE, page_token, filter: filter.to_owned() };
        let page = daemon.blueprints().list_blueprints(soon(request)).await?.into_inner();
        all.blueprints.extend(page.blueprints);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            return Ok(all);
        }
    }
}

/// All documents of all files; nothing is applied when one of them is wrong.
fn read_all(files: &[PathBuf]) -> Result<Vec<v1::Blueprint>> {
    let mut blueprints = Vec::new();
    for file in files {
        let origin = if file.as_os_str() == "-" { "stdin".to_owned() } else { file.display().to_string() };
        let text = if file.as_os_str() == "-" {
            std::io::read_to_string(std::io::stdin())
        } else {
            std::fs::read_to_string(file)
        };
        let text = text.map_err(|error| Failure::io(&origin, &error))?;
        for document in parse(&origin, &text)? {
            blueprints.push(document::to_message(document)?);
        }
    }
    Ok(blueprints)
}

/// Applies one; answers with what became of it, in words and as it is now.
///
/// # Errors
/// Those of the daemon.
pub async fn apply(daemon: &Daemon, blueprint: v1::Blueprint, dry_run: bool) -> Result<(String, v1::Blueprint)> {
    let name = blueprint.name.clone();
    let request =
        v1::ApplyBlueprintRequest { blueprint: Some(blueprint), validate_only: dry_run, request_id: String::new() };
    let answer = daemon.blueprints().apply_blueprint(soon(request)).await.map_err(|status| {
        let failure = Failure::from(status);
        Failure { message: format!("blueprint {name}: {}", failure.message), ..failure }
    })?;
    let answer = answer.into_inner();
    let outcome = match answer.outcome() {
        Outcome::Unspecified => "applied",
        Outcome::Created => "created",
        Outcome::Updated => "updated",
        Outcome::Unchanged => "unchanged",
    };
    let words = format!("{name} {outcome}{}", if dry_run { " (dry run)" } else { "" });
    Ok((words, present(answer.blueprint)?))
}

async fn export(daemon: &Daemon, names: Vec<String>) -> Result<String> {
    let mut blueprints = Vec::new();
    for blueprint in names {
        let request = v1::GetBlueprintRequest { blueprint };
        blueprints.push(present(daemon.blueprints().get_blueprint(soon(request)).await?.into_inner().blueprint)?);
    }
    if blueprints.is_empty() {
        blueprints = list(daemon, "").await?.blueprints;
    }
    let texts = blueprints.into_iter().map(|blueprint| Ok(render(&document::from_message(blueprint))?));
    Ok(texts.collect::<Result<Vec<_>>>()?.join("---\n"))
}
