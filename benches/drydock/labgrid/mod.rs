//! Beside labgrid's coordinator: acquire and release of a place, by as many clients, in the same run.
//!
//! Both serve gRPC on this machine, and the cost of the clients is in both figures. labgrid's clients are its own stubs: from two
//! clients on in two processes, which suits it better than one. Its places have no resources, so that it asks no exporter.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::daemon::{self, PATIENCE, ROOMY, Up};
use crate::figures::{median, number, pause};
use crate::table::Table;

/// Clients, and how many times as fast as labgrid ours must be.
const SIDES: [(usize, f64); 3] = [(1, 1.0), (8, 10.0), (16, 10.0)];
const MOST: usize = 16;
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(2);

pub(crate) async fn measure(table: &mut Table) -> Result<()> {
    let Some(programs) = programs() else {
        for (clients, least) in SIDES {
            table.line(&what(clients), &bound(least), "not measured: no labgrid; run .ci/tools bench", false);
        }
        return Ok(());
    };
    let up = Up::start(4, &[ROOMY]).await?;
    let labgrid = Coordinator::start(&programs).await?;
    let mut halves = [labgrid.clients(&programs, 0).await?, labgrid.clients(&programs, MOST / 2).await?];
    for (clients, least) in SIDES {
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        // The first round warms up.
        for round in 0..=ROUNDS {
            let (their, our) = (pairs(&mut halves, clients).await?, cycles(&up, clients).await?);
            if round > 0 {
                theirs.push(their);
                ours.push(our);
            }
        }
        let (theirs, ours) = (median(theirs), median(ours));
        table.line(
            &what(clients),
            &bound(least),
            &format!("{ours:.0}/s; labgrid {theirs:.0}/s: {:.2} x", ours / theirs),
            ours >= least * theirs,
        );
    }
    table.note("ours is durable when it answers, theirs in memory; our clients are in Rust, theirs in Python");
    Ok(())
}

fn what(clients: usize) -> String {
    format!("acquire + release, {clients} client{}, beside labgrid", if clients == 1 { "" } else { "s" })
}

fn bound(least: f64) -> String {
    format!(">= {least} x labgrid's cycles/s")
}

/// Where its programs are, when it is set up.
fn programs() -> Option<PathBuf> {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/labgrid/bin");
    programs.join("labgrid-coordinator").exists().then_some(programs)
}

/// labgrid's coordinator, in a folder of its own, into which it writes what it wants to remember.
struct Coordinator {
    folder: TempDir,
    address: String,
    _child: Child,
}

impl Coordinator {
    async fn start(programs: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        // It tells clients apart by their address, so it must be TCP. The port is free again when this ends.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let child = Command::new(programs.join("labgrid-coordinator"))
            .args(["--listen", &address])
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("log"))?)
            .kill_on_drop(true)
            .spawn()
            .context("labgrid's coordinator cannot be started")?;
        let deadline = Instant::now() + PATIENCE;
        while tokio::net::TcpStream::connect(&address).await.is_err() {
            ensure!(Instant::now() < deadline, "labgrid's coordinator does not listen");
            pause(Duration::from_millis(20)).await;
        }
        Ok(Self { folder, address, _child: child })
    }

    /// A process of clients, numbered from `first`, with a place for each.
    async fn clients(&self, programs: &Path, first: usize) -> Result<Clients> {
        let mut child = Command::new(programs.join("python"))
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/drydock/labgrid/clients.py"))
            .args([&self.address, &first.to_string(), &(MOST / 2).to_string()])
            .current_dir(&self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("labgrid's clients cannot be started")?;
        let stdin = child.stdin.take().context("no stdin")?;
        let lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let mut clients = Clients { stdin, lines, _child: child };
        ensure!(clients.answer().await? == "ready", "labgrid's clients are not ready");
        Ok(clients)
    }
}

/// Half of labgrid's clients.
struct Clients {
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Clients {
    async fn answer(&mut self) -> Result<String> {
        let line = timeout(PATIENCE, self.lines.next_line()).await.context("labgrid's clients say nothing")??;
        line.context("labgrid's clients have ended")
    }

    /// So many of them work for a round; pairs a second.
    async fn work(&mut self, clients: usize) -> Result<f64> {
        if clients == 0 {
            return Ok(0.0);
        }
        self.stdin.write_all(format!("{clients} {}\n", ROUND.as_secs_f64()).as_bytes()).await?;
        let line = self.answer().await?;
        let (pairs, took) = line.split_once(' ').with_context(|| format!("labgrid's clients said {line:?}"))?;
        Ok(pairs.parse::<f64>()? / took.parse::<f64>()?)
    }
}

/// All their clients in a loop for a while: pairs a second.
async fn pairs([one, other]: &mut [Clients; 2], clients: usize) -> Result<f64> {
    let (rate, more) = tokio::try_join!(one.work(clients.div_ceil(2)), other.work(clients / 2))?;
    Ok(rate + more)
}

/// All our clients in a loop for a while: cycles a second, with the cleaning up.
async fn cycles(up: &Up, clients: usize) -> Result<f64> {
    let mut connections = Vec::new();
    for _ in 0..clients {
        connections.push(up.connect().await?);
    }
    let started = Instant::now();
    let mut callers = JoinSet::new();
    for client in connections {
        callers.spawn(async move {
            let mut cycles = 0_u64;
            loop {
                let lease = daemon::acquire(&client, "host").await?;
                let is_last = started.elapsed() >= ROUND;
                daemon::release(&client, &lease, if is_last { PATIENCE } else { Duration::ZERO }).await?;
                cycles += 1;
                if is_last {
                    return anyhow::Ok(cycles);
                }
            }
        });
    }
    let mut cycles = 0;
    while let Some(done) = callers.join_next().await {
        cycles += done??;
    }
    Ok(number(cycles) / started.elapsed().as_secs_f64())
}
