//! A database that has seen much, and one that is kept from cleaning up behind itself.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use drydock::store::{Scope, Store};

use super::queue::{self, WORKERS, Work, Workers};
use super::server;
use super::server::{Server, connect, run};
use crate::daemon::PATIENCE;
use crate::figures::{ms, number, p50, pause, timed};
use crate::table::Table;

const CLAIM: (&str, &str) = ("claim, 1,000,000 ended, 100,000 parked, 10,000 ready", "<= 1.5 x on an empty database");
const HELD: (&str, &str) = ("steps/s while a transaction is held open elsewhere", ">= 0.8 x without it");
const ENDED: usize = 1_000_000;
const PARKED: usize = 100_000;
const READY: usize = 10_000;
const CLAIMS: usize = 300;
const WARM_UP: usize = 30;
const MOST: f64 = 1.5;
/// Steps on each side. The issue says 200,000; what they leave behind costs more with each, so the last ones are what is compared.
const STEPS: usize = 60_000;
const LEAST: f64 = 0.8;

pub(crate) async fn measure(table: &mut Table) -> Result<()> {
    let Some(server) = server(table, &[CLAIM, HELD])? else { return Ok(()) };
    claim(table, &server).await?;
    held(table, &server).await
}

async fn claim(table: &mut Table, server: &Server) -> Result<()> {
    let (small, large) = (server.database("small").await?, server.database("large").await?);
    let stores = [queue::open(&small, true).await?, queue::open(&large, true).await?];
    let mut connection = connect(&large).await?;
    queue::tasks(&mut connection, "a", ENDED, "DONE").await?;
    queue::tasks(&mut connection, "b", PARKED, "PARKED").await?;
    run(
        &mut connection,
        "INSERT INTO wait (task_id, on_id) SELECT id, 'pool:slip' FROM task WHERE state = 'PARKED'".to_owned(),
    )
    .await?;
    queue::tasks(&mut connection, "c", READY, "READY").await?;
    queue::tasks(&mut connect(&small).await?, "c", 1, "READY").await?;
    run(&mut connection, "VACUUM ANALYZE; CHECKPOINT".to_owned()).await?;
    let mut claims = [Vec::new(), Vec::new()];
    for round in 0..CLAIMS + WARM_UP {
        for (side, store) in stores.iter().enumerate() {
            let (took, claim) = timed(async { Ok(store.claim(&Scope::Any, "daemon_bench/w0").await?) }).await?;
            store.hand_back(&claim.context("nothing to claim")?).await?;
            if round >= WARM_UP {
                claims[side].push(took);
            }
        }
    }
    let [small, large] = claims.map(|all| p50(&all));
    table.line(
        CLAIM.0,
        CLAIM.1,
        &format!("{}; empty {}: {:.2} x", ms(large), ms(small), large / small),
        large <= MOST * small,
    );
    Ok(())
}

async fn held(table: &mut Table, server: &Server) -> Result<()> {
    let url = server.database("held").await?;
    let store = queue::open(&url, true).await?;
    let free = last_steps(&url, &store).await?;
    // It has seen what was there, and has a number of its own: nothing that was there may be taken away, and no event shown.
    let mut holder = connect(&url).await?;
    run(&mut holder, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id()".to_owned()).await?;
    let hindered = last_steps(&url, &store).await?;
    table.line(
        HELD.0,
        HELD.1,
        &format!("{hindered:.0}/s; without {free:.0}/s: {:.2} x", hindered / free),
        hindered >= LEAST * free,
    );
    table.note(&format!("steps {} to {STEPS} on either side; each ends a task and claims the next", STEPS - STEPS / 4));
    Ok(())
}

/// How many steps a second there are in the last quarter of all.
async fn last_steps(url: &str, store: &Store) -> Result<f64> {
    let mut connection = connect(url).await?;
    run(&mut connection, "TRUNCATE task, wait, event; CHECKPOINT".to_owned()).await?;
    queue::tasks(&mut connection, "d", STEPS + 1000, "READY").await?;
    run(&mut connection, "ANALYZE task".to_owned()).await?;
    let workers = Workers::start(store, Work::Nothing, WORKERS, "daemon_bench").await?;
    reach(&workers, STEPS - STEPS / 4).await?;
    let (started, before) = (Instant::now(), workers.taken());
    reach(&workers, STEPS).await?;
    let rate = number(workers.taken() - before) / started.elapsed().as_secs_f64();
    workers.stop().await;
    Ok(rate)
}

async fn reach(workers: &Workers, steps: usize) -> Result<()> {
    let (deadline, steps) = (Instant::now() + 3 * PATIENCE, u64::try_from(steps)?);
    while workers.taken() < steps {
        ensure!(Instant::now() < deadline, "only {} of {steps} steps in time", workers.taken());
        pause(Duration::from_millis(10)).await;
    }
    Ok(())
}
