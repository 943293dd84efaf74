//! `drydock blueprint`: scripts for creating and deleting resources.

use super::Globals;
use super::acquire::present;
use super::connect::soon;
use super::exit::{OK, Result};
use super::output;
use crate::proto::v1;

const PAGE: i32 = 500;

/// What to do with blueprints.
#[derive(Debug, clap::Subcommand)]
pub enum Blueprint {
    /// What can be made, and from which attributes.
    Kinds,
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
            let mut all = v1::ListBlueprintsResponse::default();
            loop {
                let page_token = std::mem::take(&mut all.next_page_token);
                let request = v1::ListBlueprintsRequest { page_size: PAGE, page_token, filter: filter.clone() };
                let page = client.list_blueprints(soon(request)).await?.into_inner();
                all.blueprints.extend(page.blueprints);
                all.next_page_token = page.next_page_token;
                if all.next_page_token.is_empty() {
                    break;
                }
            }
            output::list(globals.output, &all)?;
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
