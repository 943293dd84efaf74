//! The statements of a step by hand, in a loop that knows nothing else; and commits of one row, in another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};
use tokio::task::JoinSet;

use super::queue::{self, WORKERS, Work, Workers};
use super::server::{Server, connect, run};
use crate::daemon::PATIENCE;
use crate::figures::{number, pause};

const BEGIN: &str = "BEGIN; SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now";
const HOLD: &str = "SELECT baton FROM task, pg_advisory_xact_lock(1, hashtext($3)) WHERE id = $1 AND state = 'RUNNING' AND attempt = $2";
const DONE: &str = "WITH gone AS (DELETE FROM wait WHERE task_id = $1), \
                    held AS MATERIALIZED (SELECT id, baton FROM task WHERE id = $1 AND state = 'RUNNING' AND attempt = $2 FOR UPDATE) \
                    UPDATE task SET state = 'DONE', run_at = NULL, claimed_by = NULL, claim_until = NULL, baton = NULL FROM held \
                    WHERE task.id = held.id RETURNING held.baton";
const CLAIM: &str = "WITH best AS MATERIALIZED (SELECT id FROM task WHERE state = 'READY' AND (home IS NULL OR home = $3) AND (band, ord) >= ($4, $5) \
                     ORDER BY band, ord, depth DESC, id LIMIT 1 FOR UPDATE SKIP LOCKED) \
                     UPDATE task SET state = 'RUNNING', claimed_by = $1, claim_until = $2, attempt = attempt + 1 \
                     FROM best WHERE task.id = best.id RETURNING task.*";
const COMMIT: &str = "COMMIT";
/// A step, as the store takes it.
const STEP: [&str; 5] = [BEGIN, HOLD, DONE, CLAIM, COMMIT];

/// As many connections as there are workers, each in this loop for a while: steps a second.
pub(crate) async fn steps_a_second(url: &str, span: Duration) -> Result<f64> {
    in_turns(url, span, |mut connection, number, until, count| async move {
        let worker = format!("daemon_bare/w{number}");
        begin(&mut connection).await?;
        let mut claim = claim(&mut connection, &worker, 0).await?;
        run_one(&mut connection, COMMIT).await?;
        while Instant::now() < until {
            let (id, root): (String, String) = (claim.try_get("id")?, claim.try_get("root_id")?);
            let (attempt, ord): (i64, i64) = (claim.try_get("attempt")?, claim.try_get("ord")?);
            begin(&mut connection).await?;
            let held = sqlx::query(HOLD).bind(&id).bind(attempt).bind(&root).fetch_optional(&mut connection).await?;
            ensure!(held.is_some(), "{id} was lost");
            sqlx::query(DONE).bind(&id).bind(attempt).execute(&mut connection).await?;
            claim = self::claim(&mut connection, &worker, ord).await?;
            run_one(&mut connection, COMMIT).await?;
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    })
    .await
}

async fn begin(connection: &mut PgConnection) -> Result<i64> {
    Ok(sqlx::raw_sql(BEGIN).fetch_one(connection).await?.try_get(0)?)
}

async fn run_one(connection: &mut PgConnection, text: &'static str) -> Result<()> {
    sqlx::raw_sql(text).execute(connection).await?;
    Ok(())
}

/// Claims the best from that place on: what is behind is done, and need not be gone through.
async fn claim(connection: &mut PgConnection, worker: &str, ord: i64) -> Result<PgRow> {
    let claim = sqlx::query(CLAIM).bind(worker).bind(i64::MAX).bind("").bind(1_i64).bind(ord);
    claim.fetch_optional(connection).await?.context("nothing is ready any more; fill more")
}

/// As many connections, each in a loop that commits one row: commits a second.
pub(crate) async fn commits_a_second(url: &str, span: Duration) -> Result<f64> {
    let mut connection = connect(url).await?;
    let table = "DROP TABLE IF EXISTS line; CREATE TABLE line (id BIGINT PRIMARY KEY, text TEXT NOT NULL)";
    run(&mut connection, table.to_owned()).await?;
    in_turns(url, span, |mut connection, number, until, count| async move {
        let mut id = i64::try_from(number)? << 40;
        while Instant::now() < until {
            id += 1;
            row(&mut connection, id).await?;
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    })
    .await
}

/// Commits one row.
pub(crate) async fn row(connection: &mut PgConnection, id: i64) -> Result<()> {
    sqlx::query("INSERT INTO line (id, text) VALUES ($1, 'a line of text')").bind(id).execute(connection).await?;
    Ok(())
}

async fn in_turns<F, Fut>(url: &str, span: Duration, work: F) -> Result<f64>
where
    F: Fn(PgConnection, usize, Instant, Arc<AtomicU64>) -> Fut,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    let mut connections = Vec::new();
    for _ in 0..WORKERS {
        let mut connection = connect(url).await?;
        // As each connection of the store.
        run(
            &mut connection,
            "SET statement_timeout = '30s'; SET lock_timeout = '200ms'; SET timezone = 'UTC'".to_owned(),
        )
        .await?;
        connections.push(connection);
    }
    let (count, started) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let mut loops = JoinSet::new();
    for (number, connection) in connections.into_iter().enumerate() {
        loops.spawn(work(connection, number, started + span, Arc::clone(&count)));
    }
    while let Some(done) = loops.join_next().await {
        done??;
    }
    Ok(number(count.load(Ordering::Relaxed)) / started.elapsed().as_secs_f64())
}

/// The loop is a fair copy only as long as it says what the store says: looked up in the server's log. Answers how many statements
/// a step has, its BEGIN and COMMIT included.
pub(crate) async fn is_a_fair_copy(server: &Server) -> Result<usize> {
    let url = server.database("traced").await?;
    let store = queue::open(&url, true).await?;
    queue::fill(&url, 40, "READY").await?;
    let mut admin = connect(&url).await?;
    run(&mut admin, "ALTER DATABASE traced SET log_statement = 'all'".to_owned()).await?;
    // Its connections are made from now on.
    let workers = Workers::start(&store, Work::Nothing, 1, "daemon_traced").await?;
    let deadline = Instant::now() + PATIENCE;
    while workers.taken() < 40 {
        ensure!(Instant::now() < deadline, "the tasks of the copy are not done");
        pause(Duration::from_millis(5)).await;
    }
    workers.stop().await;
    let log = server.log()?;
    let step = a_step_in(&log).context("the log has no step")?;
    ensure!(step == STEP, "a step of the store has other statements by now; say them in bare.rs too: {step:#?}");
    Ok(step.len())
}

/// The statements of the last but one transaction that ended a task, on whichever connection.
fn a_step_in(log: &str) -> Option<Vec<&str>> {
    let statements: Vec<(&str, &str)> = log
        .lines()
        .filter_map(|line| {
            let (process, rest) = line.split_once(" LOG:  ")?;
            let text = rest
                .strip_prefix("statement: ")
                .or_else(|| rest.strip_prefix("execute ")?.split_once(": ").map(|(_, text)| text))?;
            Some((process, text))
        })
        .collect();
    let ended: Vec<usize> =
        statements.iter().enumerate().filter(|(_, (_, text))| *text == DONE).map(|(at, _)| at).collect();
    let at = *ended.iter().rev().nth(1)?;
    let process = statements.get(at)?.0;
    let own: Vec<(usize, &str)> = statements
        .iter()
        .enumerate()
        .filter(|(_, (of, _))| *of == process)
        .map(|(at, (_, text))| (at, *text))
        .collect();
    let middle = own.iter().position(|(own, _)| *own == at)?;
    let first = own[..middle].iter().rposition(|(_, text)| text.starts_with("BEGIN"))?;
    let last = middle + own[middle..].iter().position(|(_, text)| *text == COMMIT)?;
    Some(own[first..=last].iter().map(|(_, text)| *text).collect())
}
