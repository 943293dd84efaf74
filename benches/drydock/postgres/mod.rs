//! The queue on `PostgreSQL`: beside its own statements by hand, beside another queue, on several daemons, with much in it, idle.

mod bare;
mod daemons;
mod idle;
mod laden;
mod queue;
mod rival;
mod server;
mod steps;

pub(crate) use daemons::{ROLE, measure as daemons, serve};
pub(crate) use idle::measure as idle;
pub(crate) use laden::measure as laden;
pub(crate) use rival::measure as rival;
pub(crate) use steps::measure as steps;

use anyhow::Result;

use crate::table::Table;
use server::Server;

/// A server for a part; where there is none its lines say so, and do not hold.
fn server(table: &mut Table, lines: &[(&str, &str)]) -> Result<Option<Server>> {
    let server = Server::start()?;
    if server.is_none() {
        not_measured(table, lines, "PostgreSQL");
    }
    Ok(server)
}

fn not_measured(table: &mut Table, lines: &[(&str, &str)], what: &str) {
    for (line, bound) in lines {
        table.line(line, bound, &format!("not measured: no {what}; run .ci/tools bench"), false);
    }
}
