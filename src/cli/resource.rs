//! `drydock resource`: what blueprints have made.

use std::time::Duration;

use super::Globals;
use super::acquire::present;
use super::connect::{Daemon, soon, within};
use super::exit::{FAILURE, OK, Result};
use super::output::{self, Format};
use super::words;
use crate::proto::v1;

const PAGE: i32 = 500;
/// A check may take this long.
const CHECK: Duration = Duration::from_mins(1);

/// What to do with resources.
#[derive(Debug, clap::Subcommand)]
pub enum Resource {
    /// List resources, newest first: live ones and those that cannot be cleaned up, or all.
    List {
        /// Also ended ones.
        #[arg(long)]
        all: bool,
        /// For example: blueprint = "web" AND state = ACTIVE.
        #[arg(long, value_name = "F", default_value = "", hide_default_value = true)]
        filter: String,
        /// At most so many; 0 is all.
        #[arg(long, value_name = "N", default_value_t = 500)]
        limit: usize,
    },
    /// Show a resource.
    Get {
        /// The resource.
        resource: String,
    },
    /// Look now whether it is healthy; exits 1 when something is found.
    Check {
        /// The resource.
        resource: String,
    },
    /// No new leases on it; present ones go on.
    Drain {
        /// The resource.
        resource: String,
        /// Why.
        #[arg(long, default_value = "", hide_default_value = true)]
        comment: String,
    },
    /// It takes leases again.
    Undrain {
        /// The resource.
        resource: String,
    },
    /// Destroy it.
    Release {
        /// The resource.
        resource: String,
        /// Also when it is leased: its leases end first. Of one that has ended and cannot be cleaned up: give that up.
        #[arg(long)]
        force: bool,
    },
}

/// Runs it.
///
/// # Errors
/// Those of the daemon.
pub async fn run(globals: &Globals, command: Resource) -> Result<u8> {
    let daemon = globals.connect().await?;
    let mut client = daemon.resources();
    let resource = match command {
        Resource::List { all, filter, limit } => {
            let of = |state: &str| match filter.as_str() {
                "" => state.to_owned(),
                filter => format!("{state} AND ({filter})"),
            };
            if all {
                let list = listed(&daemon, filter, limit).await?;
                output::list(globals.output, &list)?;
                return Ok(OK);
            }
            let live = of("state != RELEASED AND state != BROKEN AND state != DESTROYED");
            let mut list = listed(&daemon, live, limit).await?;
            // What cannot be cleaned up still holds its slots.
            let stuck = "state != PENDING AND state != ACTIVE AND state != DESTROYED AND cleanup_failures > 0";
            list.resources.extend(listed(&daemon, of(stuck), limit).await?.resources);
            list.resources.sort_by(|a, b| b.id.cmp(&a.id));
            output::enough(&mut list.resources, limit, &mut list.next_page_token);
            output::list(globals.output, &list)?;
            return Ok(OK);
        }
        Resource::Check { resource } => {
            let request = v1::CheckResourceRequest { resource_id: resource };
            // A box is asked thoroughly, over the network.
            let answer = client.check_resource(within(CHECK, request)).await?.into_inner();
            return check(globals, &answer);
        }
        Resource::Get { resource } => {
            let request = v1::GetResourceRequest { resource_id: resource };
            client.get_resource(soon(request)).await?.into_inner().resource
        }
        Resource::Drain { resource, comment } => {
            let request = v1::DrainResourceRequest { resource_id: resource, comment, request_id: String::new() };
            client.drain_resource(soon(request)).await?.into_inner().resource
        }
        Resource::Undrain { resource } => {
            let request = v1::UndrainResourceRequest { resource_id: resource, request_id: String::new() };
            client.undrain_resource(soon(request)).await?.into_inner().resource
        }
        Resource::Release { resource, force } => {
            let request = v1::ReleaseResourceRequest { resource_id: resource, force, request_id: String::new() };
            client.release_resource(soon(request)).await?.into_inner().resource
        }
    };
    output::object(globals.output, &present(resource)?)?;
    Ok(OK)
}

/// Resources that a filter takes, newest first, at most `limit`; 0 is all.
async fn listed(daemon: &Daemon, filter: String, limit: usize) -> Result<v1::ListResourcesResponse> {
    let mut list = v1::ListResourcesResponse::default();
    loop {
        let page_token = std::mem::take(&mut list.next_page_token);
        let request = v1::ListResourcesRequest { page_size: PAGE, page_token, filter: filter.clone() };
        let page = daemon.resources().list_resources(soon(request)).await?.into_inner();
        list.resources.extend(page.resources);
        list.next_page_token = page.next_page_token;
        if output::enough(&mut list.resources, limit, &mut list.next_page_token) {
            return Ok(list);
        }
    }
}

/// Prints what a check has found.
///
/// # Errors
/// When stdout cannot be written.
pub fn check(globals: &Globals, answer: &v1::CheckResourceResponse) -> Result<u8> {
    match globals.output {
        Format::Table | Format::Name => {
            let latency = answer.latency.as_ref().map(|latency| words::spell(words::span(latency))).unwrap_or_default();
            let findings = if answer.findings.is_empty() { "healthy".to_owned() } else { answer.findings.join("\n") };
            output::print(&findings)?;
            eprintln!("drydock: checked in {latency}");
        }
        format => output::print(&output::json("CheckResourceResponse", answer, format == Format::Json)?)?,
    }
    Ok(if answer.findings.is_empty() { OK } else { FAILURE })
}
