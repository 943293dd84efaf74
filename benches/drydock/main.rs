//! Speed and memory, as ratios of two things measured in one run: `cargo bench --bench drydock [-- NAME…]`.
//!
//! Prints a line for each bound: what was measured, and whether it holds. Ends with 1, naming them, when some do not.
//! The two sides of a ratio are measured in turn, so that what else the machine does hits both.

mod cancel;
mod cascade;
mod crowd;
mod daemon;
mod exec;
mod fairness;
mod figures;
mod idle;
mod in_process;
mod labgrid;
mod pools;
mod postgres;
mod raw;
mod relay;
mod release_grant;
mod scale;
mod ssh;
mod stdout;
mod table;
mod throughput;
mod warm_acquire;

use std::process::ExitCode;

use anyhow::Result;
use futures::future::LocalBoxFuture;
use table::Table;

/// A part of the table.
type Part = for<'t> fn(&'t mut Table) -> LocalBoxFuture<'t, Result<()>>;

const PARTS: [(&str, Part); 21] = [
    ("warm_acquire", |table| Box::pin(warm_acquire::measure(table))),
    ("throughput", |table| Box::pin(throughput::measure(table))),
    ("cascade", |table| Box::pin(cascade::measure(table))),
    ("release_grant", |table| Box::pin(release_grant::measure(table))),
    ("crowd", |table| Box::pin(crowd::measure(table))),
    ("fairness", |table| Box::pin(fairness::measure(table))),
    ("exec", |table| Box::pin(exec::measure(table))),
    ("cancel", |table| Box::pin(cancel::measure(table))),
    ("stdout", |table| Box::pin(stdout::measure(table))),
    ("ssh_exec", |table| Box::pin(ssh::exec(table))),
    ("ssh_bulk", |table| Box::pin(ssh::bulk(table))),
    ("ssh_faults", |table| Box::pin(ssh::faults(table))),
    ("pools", |table| Box::pin(pools::measure(table))),
    ("labgrid", |table| Box::pin(labgrid::measure(table))),
    ("idle", |table| Box::pin(idle::measure(table))),
    ("scale", |table| Box::pin(scale::measure(table))),
    ("postgres_steps", |table| Box::pin(postgres::steps(table))),
    ("postgres_rival", |table| Box::pin(postgres::rival(table))),
    ("postgres_daemons", |table| Box::pin(postgres::daemons(table))),
    ("postgres_laden", |table| Box::pin(postgres::laden(table))),
    ("postgres_idle", |table| Box::pin(postgres::idle(table))),
];

#[tokio::main]
async fn main() -> Result<ExitCode> {
    // cargo passes flags such as --bench along.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    if let [role, socket] = words.as_slice()
        && role == relay::ROLE
    {
        relay::serve(socket).await?;
        return Ok(ExitCode::SUCCESS);
    }
    if let [role, database, name] = words.as_slice()
        && role == postgres::ROLE
    {
        postgres::serve(database, name).await?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(unknown) = words.iter().find(|word| PARTS.iter().all(|(name, _)| name != word)) {
        let names = PARTS.map(|(name, _)| name).join(", ");
        anyhow::bail!("there is no part {unknown:?}; there are {names}");
    }
    let mut table = Table::default();
    for (name, part) in PARTS {
        if words.is_empty() || words.iter().any(|word| word == name) {
            table.begin(name);
            part(&mut table).await?;
        }
    }
    Ok(table.end())
}
