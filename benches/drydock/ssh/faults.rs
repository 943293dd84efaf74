//! What goes wrong: a network that is dead, a caller who leaves, a daemon that is killed.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::machine::{Options, Remote};
use crate::cancel;
use crate::daemon::{self, PATIENCE};
use crate::figures::{ms, pause};
use crate::table::Table;

const SILENCES: usize = 3;
const SILENCE_BOUND: Duration = Duration::from_secs(6);
const DEATHS: usize = 5;
const DEATH_BOUND: Duration = Duration::from_secs(2);

pub(crate) async fn measure(table: &mut Table) -> Result<()> {
    let remote = Remote::start(Options::default()).await?;
    let lease = remote.lease().await?;
    cancel::callers(table, &remote.up, &lease, "a tree's end over ssh after its caller left, worst of 100").await?;
    silence(table, &remote, &lease).await?;
    drop(remote);
    deaths(table).await
}

/// Nothing comes any more, and nothing says so: the whole machine stands still.
async fn silence(table: &mut Table, remote: &Remote, lease: &str) -> Result<()> {
    let mut worst = Duration::ZERO;
    for _ in 0..SILENCES {
        let request = daemon::exec_request(lease, &["sleep", "1000"]);
        let mut frames = remote.up.client.commands().exec(request).await?.into_inner();
        frames.message().await?.context("no first frame")?;
        remote.machine.signal(Signal::STOP);
        let started = Instant::now();
        let told = async { while let Ok(Some(_)) = frames.message().await {} };
        let refused = daemon::exec(&remote.up.client, lease, &["true"]);
        let ((), refused) = tokio::join!(told, refused);
        worst = worst.max(started.elapsed());
        ensure!(refused.is_err(), "a command ran on a machine that stands still");
        remote.machine.signal(Signal::CONT);
        let back = Instant::now();
        while let Err(error) = daemon::exec(&remote.up.client, lease, &["true"]).await {
            ensure!(back.elapsed() < PATIENCE, "it does not come back: {error:#}");
            pause(Duration::from_millis(50)).await;
        }
    }
    table.line(
        "a dead network is noticed, worst of 3",
        "<= 6 s",
        &ms(worst.as_secs_f64() * 1000.0),
        worst <= SILENCE_BOUND,
    );
    Ok(())
}

async fn deaths(table: &mut Table) -> Result<()> {
    let mut worst = Duration::ZERO;
    for _ in 0..DEATHS {
        let mut remote = Remote::start(Options::default()).await?;
        let lease = remote.lease().await?;
        let mut running = Vec::new();
        for _ in 0..4 {
            let script = "sleep 1000 & setsid sleep 1000 & wait";
            let request = daemon::exec_request(&lease, &["sh", "-c", script]);
            let mut frames = remote.up.client.commands().exec(request).await?.into_inner();
            frames.message().await?.context("no first frame")?;
            running.push(frames);
        }
        ensure!(of_lease(&lease) >= 4, "nothing runs");
        remote.up.kill();
        let started = Instant::now();
        // Those of the lease by its name, and what Drydock itself has there by the machine's.
        while of_lease(&lease) > 0 || !remote.machine.commands().is_empty() {
            ensure!(started.elapsed() < PATIENCE, "{} and {:?} run on", of_lease(&lease), remote.machine.commands());
            pause(Duration::from_millis(5)).await;
        }
        worst = worst.max(started.elapsed());
    }
    table.line(
        "remote processes after the daemon's kill -9, worst of 5",
        "none after 2 s",
        &ms(worst.as_secs_f64() * 1000.0),
        worst <= DEATH_BOUND,
    );
    Ok(())
}

/// How many processes carry the lease's name.
fn of_lease(lease: &str) -> usize {
    let entry = format!("DRYDOCK_LEASE_ID={lease}").into_bytes();
    let carries = |path: std::path::PathBuf| {
        std::fs::read(path.join("environ")).is_ok_and(|text| text.split(|byte| *byte == 0).any(|it| it == entry))
    };
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter(|process| carries(process.path())).count()
}
