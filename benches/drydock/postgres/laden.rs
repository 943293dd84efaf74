//! A database that has seen much, and one that is kept from cleaning up behind itself.

use std::time::Duration;

use anyhow::{Context as _, Result};
use drydock::store::{Scope, Store};

use super::queue::{self, Work};
use super::server;
use super::server::{Server, connect, run};
use crate::figures::{median, ms, p50, timed};
use crate::table::Table;

const CLAIM: (&str, &str) = ("claim, 1,000,000 ended, 100,000 parked, 10,000 ready", "<= 1.5 x on an empty database");
const HELD: (&str, &str) = ("steps/s while a transaction is held open elsewhere", ">= 0.8 x without it");
const ENDED: usize = 1_000_000;
const PARKED: usize = 100_000;
const READY: usize = 10_000;
const CLAIMS: usize = 300;
const WARM_UP: usize = 30;
const MOST: f64 = 1.5;
/// Steps that were taken while it was open: in bulk, since it is what they leave behind that costs.
const STEPS: usize = 200_000;
/// More than can be done in a round.
const LEFT: usize = 30_000;
const ROUNDS: usize = 2;
const ROUND: Duration = Duration::from_secs(2);
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
    for text in ["VACUUM ANALYZE", "CHECKPOINT"] {
        run(&mut connection, text.to_owned()).await?;
    }
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
    let (mut free, mut hindered) = (Vec::new(), Vec::new());
    // The first round warms up.
    for round in 0..=ROUNDS {
        let (without, with) = (after_many(&url, &store, false).await?, after_many(&url, &store, true).await?);
        if round > 0 {
            free.push(without);
            hindered.push(with);
        }
    }
    let (free, hindered) = (median(free), median(hindered));
    table.line(
        HELD.0,
        HELD.1,
        &format!("{hindered:.0}/s; without {free:.0}/s: {:.2} x", hindered / free),
        hindered >= LEAST * free,
    );
    table.note(&format!("measured after {STEPS} steps, which were taken in bulk on either side"));
    Ok(())
}

/// Steps a second when many were taken before, with a transaction that has been open all the time or without.
async fn after_many(url: &str, store: &Store, open: bool) -> Result<f64> {
    queue::fill(url, STEPS + LEFT, "READY").await?;
    let (mut holder, mut connection) = (connect(url).await?, connect(url).await?);
    if open {
        // It has seen what was there, and has a number of its own: nothing that was there may be taken away, and no event shown.
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id(); SELECT count(*) FROM task WHERE ord = 1";
        run(&mut holder, begin.to_owned()).await?;
    }
    let claimed =
        "UPDATE task SET state = 'RUNNING', claimed_by = 'daemon_bulk/w0', claim_until = 0, attempt = 1 WHERE ord <= ";
    let done = "UPDATE task SET state = 'DONE', claimed_by = NULL, claim_until = NULL WHERE ord <= ";
    for text in [claimed, done] {
        run(&mut connection, format!("{text}{STEPS}")).await?;
    }
    run(&mut connection, "ANALYZE task".to_owned()).await?;
    run(&mut connection, "CHECKPOINT".to_owned()).await?;
    queue::steps_a_second(store, Work::Nothing, ROUND).await
}
