//! What a long life leaves in the database must not slow anybody down: 100,000 parked tasks and 1,000,000 ended leases.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use drydock::clock::SystemClock;
use drydock::engine::Engine;
use drydock::store::{Location, Scope, Store};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, SqliteConnection};

use crate::daemon::{PATIENCE, ROOMY};
use crate::figures::{ms, p50, timed};
use crate::in_process;
use crate::table::Table;

const PARKED: i64 = 100_000;
const ENDED: i64 = 1_000_000;
/// The "empty" database has them, so that both have a page to list.
const PAGE: i64 = 60;
/// The year 2100: no timer goes off, nothing is taken away as old.
const FAR: i64 = 4_102_444_800_000_000;
/// What `drydock lease list` asks for.
const LIVE: &str = "state != RELEASED AND state != BROKEN AND state != DESTROYED";
const ROUNDS: usize = 150;
const WARM_UP: usize = 20;
const MOST: f64 = 1.5;

pub(crate) async fn measure(table: &mut Table) -> Result<()> {
    let (small, large) = (tempfile::tempdir()?, tempfile::tempdir()?);
    for folder in [small.path(), large.path()] {
        // The schema.
        drop(open(folder).await?);
    }
    fill_page(small.path()).await?;
    fill(large.path()).await?;
    // Before there is an engine, which would claim for itself.
    claim(table, small.path(), large.path()).await?;
    Box::pin(acquire_and_list(table, small.path(), large.path())).await
}

async fn open(folder: &Path) -> Result<Store> {
    let location = Location::Sqlite { path: in_process::database(folder) };
    Ok(Store::open(&location, Arc::new(SystemClock)).await?)
}

async fn acquire_and_list(table: &mut Table, small: &Path, large: &Path) -> Result<()> {
    let engines = [in_process::start(small, ROOMY).await?, in_process::start(large, ROOMY).await?];
    let mut acquires = [Vec::new(), Vec::new()];
    let mut pages = [Vec::new(), Vec::new()];
    let mut live_pages = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS + WARM_UP {
        for (side, engine) in engines.iter().enumerate() {
            let (acquire, lease) = Box::pin(timed(in_process::acquire(engine))).await?;
            in_process::release(engine, &lease, PATIENCE).await?;
            let (page, listed) = timed(in_process::page(engine, None)).await?;
            ensure!(listed == 51, "a page of {listed} leases");
            let (live, listed) = timed(in_process::page(engine, Some(LIVE))).await?;
            ensure!(listed == 51, "a page of {listed} live leases");
            if round >= WARM_UP {
                acquires[side].push(acquire);
                pages[side].push(page);
                live_pages[side].push(live);
            }
        }
    }
    for engine in &engines {
        Engine::stop(engine).await;
    }
    line(table, "acquire", &acquires);
    line(table, "a page of ListLeases", &pages);
    line(table, "a page of live leases", &live_pages);
    Ok(())
}

/// Of the store alone, with one task that is ready.
async fn claim(table: &mut Table, small: &Path, large: &Path) -> Result<()> {
    let mut stores = Vec::new();
    for folder in [small, large] {
        let mut connection = connect(&in_process::database(folder)).await?;
        let ready = "INSERT INTO task (id, subject, state, band, ord, depth, attempt, signal, crashes, failures, last_error) \
                     VALUES ('task_zz', 'lease_01zzzzzzzzzzzzzzzzzzzzzzzz', 'READY', 0, 0, 0, 0, 0, 0, 0, '')";
        sqlx::query(ready).execute(&mut connection).await?;
        stores.push(open(folder).await?);
    }
    let mut claims = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS + WARM_UP {
        for (side, store) in stores.iter().enumerate() {
            let (took, claim) = timed(async { Ok(store.claim(&Scope::Any, "bench/w0").await?) }).await?;
            store.hand_back(&claim.context("nothing to claim")?).await?;
            if round >= WARM_UP {
                claims[side].push(took);
            }
        }
    }
    line(table, "claim", &claims);
    drop(stores);
    for folder in [small, large] {
        let mut connection = connect(&in_process::database(folder)).await?;
        sqlx::query("DELETE FROM task WHERE id = 'task_zz'").execute(&mut connection).await?;
    }
    Ok(())
}

fn line(table: &mut Table, what: &str, [small, large]: &[Vec<Duration>; 2]) {
    let (small, large) = (p50(small), p50(large));
    table.line(
        &format!("{what}, with 100,000 parked and 1,000,000 ended"),
        "<= 1.5 x on an empty database",
        &format!("{}; empty {}: {:.2} x", ms(large), ms(small), large / small),
        large <= MOST * small,
    );
}

async fn connect(path: &Path) -> Result<SqliteConnection> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Off)
        .pragma("cache_size", "-200000");
    Ok(options.connect().await?)
}

/// Tasks parked for good: half of them waiters in the queue of another type, half of them ACTIVE leases with a timer. Then
/// ended leases, younger than those, with their tasks and an event each.
async fn fill(folder: &Path) -> Result<()> {
    let mut connection = connect(&in_process::database(folder)).await?;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await?;
    leases(&mut connection, "a", PARKED / 2, "slip", "PENDING").await?;
    tasks(&mut connection, "a", PARKED / 2, "PARKED", None).await?;
    let waits = "INSERT INTO wait (task_id, on_id, band, ord, depth) SELECT id, 'pool:slip', band, ord, depth FROM task WHERE id LIKE 'task_01a%'";
    sqlx::query(waits).execute(&mut connection).await?;
    leases(&mut connection, "b", PARKED / 2, "berth", "ACTIVE").await?;
    tasks(&mut connection, "b", PARKED / 2, "PARKED", Some(FAR)).await?;
    leases(&mut connection, "c", ENDED, "host", "DESTROYED").await?;
    tasks(&mut connection, "c", ENDED, "DONE", None).await?;
    let events = "INSERT INTO event (id, time, kind, reason, message, actor, subject, subjects, root_id, owner, details) \
                  SELECT 'event' || substr(id, 6), create_time, 'lease.destroyed', '', 'nothing of it is left', 'drydock', id, \
                  '[\"' || id || '\"]', id, owner, '{}' FROM lease WHERE state = 'DESTROYED' AND id LIKE 'lease_01c%'";
    sqlx::query(events).execute(&mut connection).await?;
    sqlx::query("COMMIT").execute(&mut connection).await?;
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await?;
    Ok(())
}

/// What makes a page, and nothing more.
async fn fill_page(folder: &Path) -> Result<()> {
    let mut connection = connect(&in_process::database(folder)).await?;
    leases(&mut connection, "b", PAGE, "berth", "ACTIVE").await
}

async fn leases(
    connection: &mut SqliteConnection,
    letter: &'static str,
    count: i64,
    resource_type: &'static str,
    state: &'static str,
) -> Result<()> {
    let text = "WITH RECURSIVE n (i, id) AS (SELECT 1, $1 || printf('%023d', 1) UNION ALL SELECT i + 1, $1 || printf('%023d', i + 1) FROM n WHERE i < $2) \
                INSERT INTO lease (id, resource_type, state, state_reason, state_message, attributes, resource_labels, blueprints, facts, labels, \
                owner, resource_id, root_id, depth, priority, ord, epoch, ttl, max_ttl, create_time, acquire_time, active_time, expire_time, \
                end_time, destroy_time, reacquires, cleaned, version) \
                SELECT 'lease_01' || id, $3, $4, '', '', '{}', '{}', '[]', '{\"path\":\"/srv/leases/' || i || '\"}', '{}', 'bench', \
                CASE WHEN $4 <> 'PENDING' THEN 'res_01a' || printf('%023d', i % 1000) END, 'lease_01' || id, 0, 0, i, 1, \
                3600000000, 86400000000, i, i, i, $5, CASE WHEN $4 = 'DESTROYED' THEN $5 END, CASE WHEN $4 = 'DESTROYED' THEN $5 END, 0, $4 = 'DESTROYED', 5 FROM n";
    sqlx::query(text).bind(letter).bind(count).bind(resource_type).bind(state).bind(FAR).execute(connection).await?;
    Ok(())
}

async fn tasks(
    connection: &mut SqliteConnection,
    letter: &'static str,
    count: i64,
    state: &'static str,
    run_at: Option<i64>,
) -> Result<()> {
    let text = "WITH RECURSIVE n (i, id) AS (SELECT 1, $1 || printf('%023d', 1) UNION ALL SELECT i + 1, $1 || printf('%023d', i + 1) FROM n WHERE i < $2) \
                INSERT INTO task (id, subject, root_id, state, band, ord, depth, run_at, attempt, signal, crashes, failures, last_error) \
                SELECT 'task_01' || id, 'lease_01' || id, 'lease_01' || id, $3, 1, i, 0, $4, 2, 2, 0, 0, '' FROM n";
    sqlx::query(text).bind(letter).bind(count).bind(state).bind(run_at).execute(connection).await?;
    Ok(())
}
