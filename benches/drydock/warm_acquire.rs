//! A lease on a machine that is there: one durable commit and one call, little more.

use std::time::Duration;

use anyhow::Result;

use crate::daemon::{self, ROOMY, Up};
use crate::figures::{median, ms, number, p50, timed};
use crate::raw::Raw;
use crate::table::Table;
use crate::{daemon::noop, in_process};

const ROUNDS: usize = 300;
/// Not counted: caches fill, threads start.
const WARM_UP: usize = 30;
const MOST_CALLS: f64 = 4.0;

pub(crate) async fn measure(table: &mut Table) -> Result<()> {
    latency(table).await?;
    store_calls(table).await
}

async fn latency(table: &mut Table) -> Result<()> {
    let up = Up::start(4, &[ROOMY]).await?;
    let mut raw = Raw::open(&up.folder().join("raw.db")).await?;
    let (mut commits, mut noops, mut acquires) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS + WARM_UP {
        let commit = raw.commit().await?;
        let (noop, ()) = timed(noop(&up.client)).await?;
        let (acquire, lease) = timed(daemon::acquire(&up.client, "host")).await?;
        // To its end, so that no clean-up runs beside what is measured.
        daemon::release(&up.client, &lease, daemon::PATIENCE).await?;
        if round >= WARM_UP {
            commits.push(commit);
            noops.push(noop);
            acquires.push(acquire);
        }
    }
    let (commit, noop, acquire) = (p50(&commits), p50(&noops), p50(&acquires));
    let bound = commit + 2.5 * noop;
    table.line(
        "warm AcquireLease to ACTIVE, p50",
        "<= commit + 2.5 x no-op call",
        &format!("{}; commit {}, no-op {}, so {}", ms(acquire), ms(commit), ms(noop), ms(bound)),
        acquire <= bound,
    );
    Ok(())
}

/// A store call is a trip to the database: a write, which runs on the writer's thread whatever statements it makes, or a look.
/// What its statements cost shows in the latency above.
async fn store_calls(table: &mut Table) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let engine = in_process::start(folder.path(), ROOMY).await?;
    let (mut calls, mut statements) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let before = (engine.store().calls(), engine.store().statements());
        let lease = in_process::acquire(&engine).await?;
        calls.push(number(engine.store().calls() - before.0));
        statements.push(number(engine.store().statements() - before.1));
        in_process::release(&engine, &lease, daemon::PATIENCE).await?;
        crate::figures::pause(Duration::from_millis(5)).await;
    }
    engine.stop().await;
    let (calls, statements) = (median(calls), median(statements));
    let measured = format!("{calls}; {statements} statements, with BEGIN and COMMIT");
    table.line("warm acquire, store calls", "<= 4", &measured, calls <= MOST_CALLS);
    Ok(())
}
