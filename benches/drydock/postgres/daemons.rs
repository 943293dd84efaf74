//! Several daemons on one database: how much more they do, and how soon one begins what another has put into the queue.
//!
//! A daemon here is what a daemon is to the queue: a store, its tidings and the scheduler, in a process of its own.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use drydock::model::id::Subject;
use drydock::store::Store;
use sqlx::Row as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::queue::{self, Work, Workers};
use super::server::{Server, connect, run};
use super::{bare, server};
use crate::daemon::PATIENCE;
use crate::figures::{ms, p50, pause, timed};
use crate::table::Table;

const MORE: (&str, &str) = ("4 daemons of 4 workers, steps of 200 ms", ">= 3.6 x 1 daemon");
const SOON: (&str, &str) = ("enqueue to start on another daemon, p99", "<= 10 ms + 5 commits");
/// The word that makes this binary a daemon.
pub(crate) const ROLE: &str = "queue-daemon";
const HOLDS: Duration = Duration::from_millis(200);
const WORKERS: usize = 4;
const DAEMONS: usize = 4;
/// Ten rounds of all workers of all daemons.
const TASKS: usize = 160;
const WAKES: usize = 300;
const COALESCING_MS: f64 = 10.0;
/// What all the tasks wait for.
const GATE: &str = "bench:gate";

pub(crate) async fn measure(table: &mut Table) -> Result<()> {
    let Some(server) = server(table, &[MORE, SOON])? else { return Ok(()) };
    more(table, &server).await?;
    soon(table, &server).await
}

/// Workers on a database until stdin ends.
pub(crate) async fn serve(url: &str, name: &str) -> Result<()> {
    let store = queue::open(url, true).await?;
    let workers = Workers::start(&store, Work::Holds(HOLDS), WORKERS, name).await?;
    println!("ready");
    let mut nothing = Vec::new();
    tokio::io::stdin().read_to_end(&mut nothing).await?;
    workers.stop().await;
    Ok(())
}

async fn more(table: &mut Table, server: &Server) -> Result<()> {
    let url = server.database("daemons").await?;
    let store = queue::open(&url, true).await?;
    let one = work_through(&url, &store, 1).await?;
    let four = work_through(&url, &store, DAEMONS).await?;
    let times = one.as_secs_f64() / four.as_secs_f64();
    table.line(
        MORE.0,
        MORE.1,
        &format!("{:.2} s; 1 daemon {:.2} s: {times:.2} x", four.as_secs_f64(), one.as_secs_f64()),
        times >= 3.6,
    );
    table.note(&format!("{TASKS} tasks that become ready at once, by a commit of another daemon"));
    Ok(())
}

/// How long so many daemons take for all tasks, from the commit that makes them ready.
async fn work_through(url: &str, store: &Store, daemons: usize) -> Result<Duration> {
    queue::fill(url, TASKS, "PARKED").await?;
    let mut admin = connect(url).await?;
    run(&mut admin, format!("INSERT INTO wait (task_id, on_id) SELECT id, '{GATE}' FROM task")).await?;
    let mut running = Vec::new();
    for number in 0..daemons {
        running.push(start(url, number).await?);
    }
    store.write(|tx| Box::pin(tx.wake(GATE))).await?;
    let (started, deadline) = (Instant::now(), Instant::now() + PATIENCE);
    let left = "SELECT count(*) FROM task WHERE state <> 'DONE'";
    while sqlx::query(left).fetch_one(&mut admin).await?.try_get::<i64, _>(0)? > 0 {
        ensure!(Instant::now() < deadline, "{daemons} daemons do not get done");
        pause(Duration::from_millis(5)).await;
    }
    let took = started.elapsed();
    for mut child in running {
        drop(child.stdin.take());
        timeout(PATIENCE, child.wait()).await.context("a daemon does not end")??;
    }
    Ok(took)
}

async fn start(url: &str, number: usize) -> Result<Child> {
    let mut child = Command::new(std::env::current_exe()?)
        .args([ROLE, url, &format!("daemon_{number}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
    let line = timeout(PATIENCE, lines.next_line()).await.context("a daemon says nothing")??;
    ensure!(line.as_deref() == Some("ready"), "a daemon said {line:?}");
    Ok(child)
}

/// One store wakes a task; another, which has nothing to do, is called, claims it and would begin.
async fn soon(table: &mut Table, server: &Server) -> Result<()> {
    let url = server.database("soon").await?;
    let (asks, works) = (queue::open(&url, true).await?, queue::open(&url, true).await?);
    queue::fill(&url, WAKES, "PARKED").await?;
    let workers = Workers::start(&works, Work::Nothing, WORKERS, "daemon_works").await?;
    let mut admin = connect(&url).await?;
    run(&mut admin, "CREATE TABLE line (id BIGINT PRIMARY KEY, text TEXT NOT NULL)".to_owned()).await?;
    let (mut commits, mut waits) = (Vec::new(), Vec::new());
    for number in 1..=WAKES {
        let (commit, ()) = timed(bare::row(&mut admin, i64::try_from(number)?)).await?;
        let subject = Subject::parse(&format!("lease_01d{number:023}")).context("an odd subject")?;
        let begun = Instant::now();
        asks.write(move |tx| {
            let subject = subject.clone();
            Box::pin(async move { tx.wake_task(&subject).await })
        })
        .await?;
        waits.push(workers.began(u64::try_from(number)?).await?.duration_since(begun));
        commits.push(commit);
        // Not in step with the coalescing.
        pause(Duration::from_micros(fastrand::u64(..20_000))).await;
    }
    workers.stop().await;
    let commit = p50(&commits);
    waits.sort();
    let (half, most) = (p50(&waits), waits[waits.len() * 99 / 100].as_secs_f64() * 1000.0);
    let bound = COALESCING_MS + 5.0 * commit;
    table.line(
        SOON.0,
        SOON.1,
        &format!("{}; p50 {}; commit {}, so {}", ms(most), ms(half), ms(commit), ms(bound)),
        most <= bound,
    );
    Ok(())
}
