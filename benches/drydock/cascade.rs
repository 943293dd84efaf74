//! Cascades: what the queue costs beside the steps themselves. All leases are asked for with `wait` 0, so that only
//! workers work.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use drydock::cli::connect::Daemon;
use drydock::proto::v1;

use crate::daemon::{self, PATIENCE, ROOMY, Up};
use crate::figures::{median, ms, p50, timed};
use crate::table::Table;

/// Each level is made of the one below it, and then holds its worker for 200 ms.
const CHAIN: &str = "
{name: level1, kind: composite, config: {type: level1, needs: {below: {type: host}}, steps: [{name: hold, part: below, run: [sleep, '0.2']}], exports: {command: below}}}
---
{name: level2, kind: composite, config: {type: level2, needs: {below: {type: level1}}, steps: [{name: hold, part: below, run: [sleep, '0.2']}], exports: {command: below}}}
---
{name: level3, kind: composite, config: {type: level3, needs: {below: {type: level2}}, steps: [{name: hold, part: below, run: [sleep, '0.2']}], exports: {command: below}}}
---
{name: level4, kind: composite, config: {type: level4, needs: {below: {type: level3}}, steps: [{name: hold, part: below, run: [sleep, '0.2']}], exports: {command: below}}}
---
{name: level5, kind: composite, config: {type: level5, needs: {below: {type: level4}}, steps: [{name: hold, part: below, run: [sleep, '0.2']}], exports: {command: below}}}
";
/// Four of the deepest, side by side, and no work of its own.
const WIDE: &str = "
name: wide
kind: composite
config:
  type: wide
  needs: {north: {type: level5}, east: {type: level5}, south: {type: level5}, west: {type: level5}}
  exports: {command: north}
";
const DEPTH: f64 = 5.0;
const BRANCHES: f64 = 4.0;
const WORKERS: f64 = 4.0;
const COPIES: usize = 8;
const ROUNDS: usize = 5;
const ONE_WORKER: f64 = 1.05;
const GREEDY: f64 = 1.1;

pub(crate) async fn measure(table: &mut Table) -> Result<()> {
    let one = Up::start(1, &[ROOMY, CHAIN]).await?;
    let four = Up::start(4, &[ROOMY, CHAIN, WIDE]).await?;
    let (mut steps, mut chain, mut wide) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let (step, ()) = timed(bare_step()).await?;
        let (deep, _) = timed(cascade(&one.client, "level5", &[])).await?;
        let (broad, _) = timed(cascade(&four.client, "wide", &[])).await?;
        for up in [&one, &four] {
            release_all(&up.client).await?;
        }
        if round > 0 {
            steps.push(step);
            chain.push(deep);
            wide.push(broad);
        }
    }
    let (step, chain, wide) = (p50(&steps), p50(&chain), p50(&wide));
    let sum = DEPTH * step;
    table.line(
        "cascade of depth 5, steps of 200 ms, one worker",
        "<= 1.05 x their sum",
        &format!("{}; 5 x {}: {:.3} x", ms(chain), ms(step), chain / sum),
        chain <= ONE_WORKER * sum,
    );
    let greedy = BRANCHES * sum / WORKERS + sum;
    table.line(
        "four such branches, four workers",
        "<= 1.1 x (T1/4 + T∞)",
        &format!("{}; T1/4 + T∞ {}: {:.3} x", ms(wide), ms(greedy), wide / greedy),
        wide <= GREEDY * greedy,
    );
    copies(table, &one, &four).await
}

/// Eight working copies of one repository, which has been seen before.
async fn copies(table: &mut Table, one: &Up, four: &Up) -> Result<()> {
    let repository = repository(one.folder())?;
    let (mut single, mut in_turn, mut at_once, mut longest) = (Vec::new(), Vec::new(), Vec::new(), Duration::ZERO);
    for round in 0..=ROUNDS {
        let (alone, ()) = timed(many(&four.client, &repository, 1)).await?;
        let (all, ()) = timed(many(&four.client, &repository, COPIES)).await?;
        let (by_one, ()) = timed(many(&one.client, &repository, COPIES)).await?;
        for up in [one, four] {
            release_all(&up.client).await?;
        }
        if round > 0 {
            single.push(alone.as_secs_f64() * 1000.0);
            at_once.push(all.as_secs_f64() * 1000.0);
            in_turn.push(by_one.as_secs_f64() * 1000.0);
            longest = longest.max(all);
        }
    }
    let (single, in_turn, at_once) = (median(single), median(in_turn), median(at_once));
    let greedy = in_turn / WORKERS + single;
    table.line(
        "eight working copies at once, four workers",
        "<= 1.1 x (T1/4 + T∞)",
        &format!("{}; T1 {}, T∞ {}: {:.3} x", ms(at_once), ms(in_turn), ms(single), at_once / greedy),
        at_once <= GREEDY * greedy,
    );
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let longest = longest.as_secs_f64() * 1000.0;
    table.line(
        "the longest of these",
        "no stall: <= T1",
        &format!("{}; T1 {}", ms(longest), ms(in_turn)),
        longest <= in_turn,
    );
    table.note(&format!("git works the processor: four workers share {processors} of them"));
    Ok(())
}

async fn many(client: &Daemon, repository: &str, count: usize) -> Result<()> {
    let attributes = [("repository", repository)];
    let copies = (0..count).map(|_| cascade(client, "working-copy", &attributes));
    futures::future::try_join_all(copies).await.map(drop)
}

async fn cascade(client: &Daemon, resource_type: &str, attributes: &[(&str, &str)]) -> Result<String> {
    daemon::acquire_by_workers(client, daemon::ask(resource_type, attributes, Duration::ZERO)).await
}

/// Gives all back, to the end.
async fn release_all(client: &Daemon) -> Result<()> {
    let request = v1::ListLeasesRequest { filter: "state = ACTIVE".to_owned(), ..v1::ListLeasesRequest::default() };
    let leases = client.leases().list_leases(request).await?.into_inner().leases;
    for lease in leases {
        daemon::release(client, &lease.id, PATIENCE).await?;
    }
    Ok(())
}

/// A step by itself: what the sums are made of.
async fn bare_step() -> Result<()> {
    let status = tokio::process::Command::new("sleep").arg("0.2").stdin(Stdio::null()).status().await?;
    ensure!(status.success(), "sleep: {status}");
    Ok(())
}

fn repository(folder: &Path) -> Result<String> {
    let path = folder.join("repository");
    std::fs::create_dir(&path)?;
    for number in 0..50 {
        std::fs::write(path.join(format!("{number}.txt")), format!("line {number}\n").repeat(100))?;
    }
    for words in [&["init", "-q"][..], &["add", "."], &["commit", "-q", "-m", "The first commit"]] {
        let identity = ["-c", "user.name=Bench", "-c", "user.email=bench@localhost"];
        let status = Command::new("git").arg("-C").arg(&path).args(identity).args(words).status()?;
        ensure!(status.success(), "git {words:?}: {status}");
    }
    Ok(path.display().to_string())
}
