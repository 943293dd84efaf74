//! What is left running when nobody wants it any more, and for how long.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use drydock::proto::v1::exec_response::Frame;

use crate::daemon::{self, PATIENCE, ROOMY, Up};
use crate::figures::ms;
use crate::table::Table;

const ROUNDS: usize = 100;
const RELEASES: usize = 20;
const CANCEL_BOUND: Duration = Duration::from_millis(500);
const RELEASE_BOUND: Duration = Duration::from_secs(1);
/// A child, a grandchild, and one that leaves the group.
const TREE: &str =
    "sleep 1000 & a=$!; sh -c 'sleep 1000 & echo $!; wait' & b=$!; setsid sleep 1000 & echo $$ $a $b; wait";

pub(crate) async fn measure(table: &mut Table) -> Result<()> {
    let up = Up::start(4, &[ROOMY]).await?;
    let lease = daemon::acquire(&up.client, "host").await?;
    callers(table, &up, &lease, "a tree's end after its caller left, worst of 100").await?;

    let mut worst = Duration::ZERO;
    for _ in 0..RELEASES {
        let lease = daemon::acquire(&up.client, "host").await?;
        let (mut frames, tree) = begin(&up, &lease).await?;
        let started = Instant::now();
        daemon::release(&up.client, &lease, Duration::ZERO).await?;
        while let Ok(Some(_)) = frames.message().await {}
        let ended = started.elapsed();
        worst = worst.max(ended).max(gone(&tree, started).await?);
    }
    table.line(
        "streams and trees after their lease's release, worst of 20",
        "<= 1 s",
        &ms(worst.as_secs_f64() * 1000.0),
        worst <= RELEASE_BOUND,
    );
    Ok(())
}

/// Callers of this lease who leave in the middle of a command.
pub(crate) async fn callers(table: &mut Table, up: &Up, lease: &str, what: &str) -> Result<()> {
    let mut worst = Duration::ZERO;
    for _ in 0..ROUNDS {
        let (frames, tree) = begin(up, lease).await?;
        let started = Instant::now();
        drop(frames);
        worst = worst.max(gone(&tree, started).await?);
    }
    table.line(what, "<= 500 ms", &ms(worst.as_secs_f64() * 1000.0), worst <= CANCEL_BOUND);
    Ok(())
}

/// Starts the tree; its frames, and its processes.
async fn begin(up: &Up, lease: &str) -> Result<(tonic::Streaming<drydock::proto::v1::ExecResponse>, Vec<u32>)> {
    let request = daemon::exec_request(lease, &["sh", "-c", TREE]);
    let mut frames = up.client.commands().exec(request).await?.into_inner();
    let mut said = String::new();
    // Two lines with four processes; the one that leaves the group is found by its parent.
    while said.split_whitespace().count() < 4 {
        let message = frames.message().await?.context("the stream ended")?;
        if let Some(Frame::Output(output)) = message.frame {
            said.push_str(&String::from_utf8_lossy(&output.data));
        }
    }
    let mut tree = said.split_whitespace().map(str::parse).collect::<Result<Vec<u32>, _>>()?;
    let children: Vec<u32> = tree.iter().flat_map(|pid| children(*pid)).collect();
    tree.extend(children);
    tree.sort_unstable();
    tree.dedup();
    ensure!(tree.len() >= 5, "of the tree only {tree:?} is there");
    Ok((frames, tree))
}

fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// How long after `started` none of them runs any more.
async fn gone(tree: &[u32], started: Instant) -> Result<Duration> {
    loop {
        let left = tree.iter().filter(|pid| runs(**pid)).count();
        if left == 0 {
            return Ok(started.elapsed());
        }
        ensure!(started.elapsed() < PATIENCE, "{left} of {tree:?} run on");
        crate::figures::pause(Duration::from_millis(1)).await;
    }
}

/// A dead process that nobody has reaped yet runs no more.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
