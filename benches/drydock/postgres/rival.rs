//! Beside graphile-worker: as many workers, the same server, each end of a job durable by itself.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::queue::{self, WORKERS, Work};
use super::{not_measured, server};
use crate::daemon::PATIENCE;
use crate::figures::median;
use crate::table::Table;

const LINE: (&str, &str) = ("PostgreSQL, 8 workers, beside graphile-worker", ">= 1.5 x its jobs/s");
const ROUNDS: usize = 4;
const ROUND: Duration = Duration::from_secs(2);
/// More than either can do in a round.
const TASKS: usize = 30_000;

pub(crate) async fn measure(table: &mut Table) -> Result<()> {
    let Some(modules) = modules() else {
        not_measured(table, &[LINE], "graphile-worker");
        return Ok(());
    };
    let Some(server) = server(table, &[LINE])? else { return Ok(()) };
    let (ours, theirs) = (server.database("ours").await?, server.database("theirs").await?);
    let store = queue::open(&ours, true).await?;
    let mut rival = Rival::start(&modules, &theirs).await?;
    let (mut steps, mut jobs) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let job = rival.work().await?;
        queue::fill(&ours, TASKS, "READY").await?;
        let step = queue::steps_a_second(&store, Work::Nothing, ROUND).await?;
        // The first round warms up.
        if round > 0 {
            steps.push(step);
            jobs.push(job);
        }
    }
    let (steps, jobs) = (median(steps), median(jobs));
    table.line(
        LINE.0,
        LINE.1,
        &format!("{steps:.0} steps/s; graphile-worker {jobs:.0} jobs/s: {:.2} x", steps / jobs),
        steps >= 1.5 * jobs,
    );
    table.note("theirs: fetch a job, an empty function, delete it: two commits. Ours: the end of a task, with its fence, and the claim");
    table.note("of the next: one commit. Neither batches: graphile-worker could, and then loses what was fetched ahead for a while");
    Ok(())
}

/// Where its modules are, when it is set up.
fn modules() -> Option<PathBuf> {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/graphile/node_modules");
    modules.join("graphile-worker").exists().then_some(modules)
}

/// graphile-worker in a process of Node.
struct Rival {
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Rival {
    async fn start(modules: &Path, url: &str) -> Result<Self> {
        let mut child = Command::new("node")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/drydock/postgres/graphile.js"))
            .args([url, &WORKERS.to_string()])
            .env("NODE_PATH", modules)
            .env("NO_LOG_SUCCESS", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("node cannot be started")?;
        let stdin = child.stdin.take().context("no stdin")?;
        let lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let mut rival = Self { stdin, lines, _child: child };
        ensure!(rival.answer().await? == "ready", "graphile-worker is not ready");
        Ok(rival)
    }

    async fn answer(&mut self) -> Result<String> {
        let line = timeout(PATIENCE, self.lines.next_line()).await.context("graphile-worker says nothing")??;
        line.context("graphile-worker has ended")
    }

    /// A round: jobs a second.
    async fn work(&mut self) -> Result<f64> {
        self.stdin.write_all(format!("{TASKS} {}\n", ROUND.as_secs_f64()).as_bytes()).await?;
        let line = self.answer().await?;
        let (jobs, took) = line.split_once(' ').with_context(|| format!("graphile-worker said {line:?}"))?;
        Ok(jobs.parse::<f64>()? / took.parse::<f64>()?)
    }
}
