//! Eight workers, one task at a time: what the scheduler and the store cost beside the very statements, and beside bare commits.

use std::time::Duration;

use anyhow::Result;
use sqlx::postgres::PgListener;

use super::queue::{self, Work};
use super::{bare, server};
use crate::figures::median;
use crate::table::Table;

const BY_HAND: (&str, &str) = ("PostgreSQL, 8 workers, steps/s", ">= 0.8 x its statements by hand");
const COMMITS: (&str, &str) = ("the same beside commits of one row", ">= 0.3 x commits/s");
const TOLD: (&str, &str) = ("steps/s that tell other daemons, coalesced", ">= 0.95 x without NOTIFY");
const ROUNDS: usize = 4;
const ROUND: Duration = Duration::from_millis(1500);
/// More than can be done in a round.
const TASKS: usize = 30_000;

pub(crate) async fn measure(table: &mut Table) -> Result<()> {
    let Some(server) = server(table, &[BY_HAND, COMMITS, TOLD])? else { return Ok(()) };
    let statements = bare::is_a_fair_copy(&server).await?;
    let url = server.database("steps").await?;
    let (telling, silent) = (queue::open(&url, true).await?, queue::open(&url, false).await?);
    let (mut steps, mut by_hand, mut commits, mut told, mut untold) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        queue::fill(&url, TASKS, "READY").await?;
        let step = queue::steps_a_second(&telling, Work::Nothing, ROUND).await?;
        queue::fill(&url, TASKS, "READY").await?;
        let hand = bare::steps_a_second(&url, ROUND).await?;
        let commit = bare::commits_a_second(&url, ROUND).await?;
        // Somebody must listen, else a NOTIFY comes cheap.
        let mut listener = PgListener::connect(&url).await?;
        listener.listen("drydock").await?;
        let listening = tokio::spawn(async move { while listener.recv().await.is_ok() {} });
        queue::fill(&url, TASKS, "READY").await?;
        let loud = queue::steps_a_second(&telling, Work::Tells, ROUND).await?;
        queue::fill(&url, TASKS, "READY").await?;
        let quiet = queue::steps_a_second(&silent, Work::Tells, ROUND).await?;
        listening.abort();
        // The first round warms up.
        if round > 0 {
            steps.push(step);
            by_hand.push(hand);
            commits.push(commit);
            told.push(loud);
            untold.push(quiet);
        }
    }
    let (steps, by_hand, commits) = (median(steps), median(by_hand), median(commits));
    let (told, untold) = (median(told), median(untold));
    table.line(
        BY_HAND.0,
        BY_HAND.1,
        &format!("{steps:.0}/s; by hand {by_hand:.0}/s: {:.2} x", steps / by_hand),
        steps >= 0.8 * by_hand,
    );
    table.note(&format!("{statements} statements a step, the claim of the next one, BEGIN and COMMIT included"));
    table.line(
        COMMITS.0,
        COMMITS.1,
        &format!("{steps:.0}/s; commits {commits:.0}/s: {:.2} x", steps / commits),
        steps >= 0.3 * commits,
    );
    table.line(
        TOLD.0,
        TOLD.1,
        &format!("{told:.0}/s; without {untold:.0}/s: {:.2} x", told / untold),
        told >= 0.95 * untold,
    );
    table.note("each of these steps writes an event too, as real ones do; a connection listens");
    Ok(())
}
