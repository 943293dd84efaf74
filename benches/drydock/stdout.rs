//! A flood of output: as fast as a bare relay, in constant memory, whoever reads slowly.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use drydock::cli::connect::Daemon;

use crate::daemon::{self, PATIENCE, ROOMY, Up};
use crate::figures::{median, mib, pause, timed};
use crate::relay;
use crate::table::Table;

const GIB: u64 = 1 << 30;
const QUARTER: u64 = GIB / 4;
const ROUNDS: usize = 5;
const LEAST_SHARE: f64 = 0.95;
const MOST_GROWTH_MIB: f64 = 16.0;
/// The issue says "unharmed"; beside a stalled reader a neighbour keeps this share of its speed, noise included.
const LEAST_BESIDE: f64 = 0.9;

pub(crate) async fn measure(table: &mut Table) -> Result<()> {
    let up = Up::start(4, &[ROOMY]).await?;
    let lease = daemon::acquire(&up.client, "host").await?;
    daemon::exec(&up.client, &lease, &["true"]).await?;
    let bare = Bare::start(up.folder()).await?;

    let before = up.resident()?;
    let watch = Watch::start(up.pid());
    let (mut served, mut relayed) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let through_daemon = flood(&up.client, &lease, GIB).await?;
        let through_relay = flood(&bare.client, "", GIB).await?;
        if round > 0 {
            served.push(through_daemon);
            relayed.push(through_relay);
        }
    }
    let growth = mib(watch.end().saturating_sub(before));
    let (served, relayed) = (median(served), median(relayed));
    table.line(
        "1 GiB of stdout",
        ">= 0.95 x bare tonic relay",
        &format!("{served:.0} MiB/s; relay {relayed:.0} MiB/s: {:.2} x", served / relayed),
        served >= LEAST_SHARE * relayed,
    );
    table.line(
        "resident memory meanwhile",
        "grows < 16 MiB",
        &format!("+ {growth:.1} MiB from {:.1} MiB", mib(before)),
        growth < MOST_GROWTH_MIB,
    );
    stalled(table, &up, &lease).await
}

/// A reader that stops reading, on the connection that its neighbours use too.
async fn stalled(table: &mut Table, up: &Up, lease: &str) -> Result<()> {
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    let before = up.resident()?;
    let watch = Watch::start(up.pid());
    for _ in 0..ROUNDS {
        alone.push(flood(&up.client, lease, QUARTER).await?);
        let request = daemon::exec_request(lease, &["head", "-c", &GIB.to_string(), "/dev/zero"]);
        let mut frames = up.client.commands().exec(request).await?.into_inner();
        // It has begun, and now nobody reads it.
        frames.message().await?.context("no first frame")?;
        pause(Duration::from_millis(200)).await;
        beside.push(flood(&up.client, lease, QUARTER).await?);
        drop(frames);
        pause(Duration::from_millis(200)).await;
    }
    let growth = mib(watch.end().saturating_sub(before));
    let (alone, beside) = (median(alone), median(beside));
    table.line(
        "resident memory with a stalled reader",
        "grows < 16 MiB",
        &format!("+ {growth:.1} MiB from {:.1} MiB", mib(before)),
        growth < MOST_GROWTH_MIB,
    );
    table.line(
        "its neighbour's stdout",
        ">= 0.9 x without it",
        &format!("{beside:.0} MiB/s; without {alone:.0} MiB/s: {:.2} x", beside / alone),
        beside >= LEAST_BESIDE * alone,
    );
    Ok(())
}

/// MiB a second.
async fn flood(client: &Daemon, lease: &str, bytes: u64) -> Result<f64> {
    let argv = ["head", "-c", &bytes.to_string(), "/dev/zero"];
    let (took, came) = timed(daemon::exec(client, lease, &argv)).await?;
    ensure!(came == bytes, "{came} bytes came of {bytes}");
    Ok(mib(bytes) / took.as_secs_f64())
}

/// The relay, in a process of its own.
struct Bare {
    child: Child,
    client: Daemon,
}

impl Bare {
    async fn start(folder: &Path) -> Result<Self> {
        let socket = folder.join("relay.sock");
        let child = Command::new(std::env::current_exe()?)
            .arg(relay::ROLE)
            .arg(&socket)
            .stdin(Stdio::null())
            .spawn()
            .context("the relay cannot be started")?;
        let mut bare = Unready(Some(child));
        let deadline = Instant::now() + PATIENCE;
        loop {
            match daemon::dial(&socket).await {
                Ok(client) => return Ok(Self { child: bare.0.take().context("no relay")?, client }),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => pause(Duration::from_millis(5)).await,
            }
        }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ends a relay that was never reached.
struct Unready(Option<Child>);

impl Drop for Unready {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Looks at a process's memory every few milliseconds.
pub(crate) struct Watch {
    most: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    pub(crate) fn start(pid: u32) -> Self {
        let most = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&most);
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(5));
            loop {
                ticks.tick().await;
                if let Ok(resident) = daemon::resident(pid) {
                    seen.fetch_max(resident, Ordering::Relaxed);
                }
            }
        });
        Self { most, task }
    }

    /// The most that was seen, in bytes.
    pub(crate) fn end(self) -> u64 {
        self.task.abort();
        self.most.load(Ordering::Relaxed)
    }
}
