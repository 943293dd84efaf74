//! Small commands: one after the other, behind a slow login shell, and many at once.

use std::fmt::Write as _;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::future::{join_all, try_join_all};

use super::machine::{Options, Remote, Shell};
use crate::daemon;
use crate::figures::{median, ms, number, p50, timed};
use crate::table::Table;

const ROUNDS: usize = 150;
const WARM_UP: usize = 15;
const MOST_OF_STOCK: f64 = 0.5;
const MOST_OF_QUICK_SHELL: f64 = 1.1;
const CROWD: usize = 50;
const CROWD_BOUND: Duration = Duration::from_millis(6500);
const CALLERS: usize = 8;
const RATE_ROUNDS: usize = 4;
const RATE_ROUND: Duration = Duration::from_secs(2);
const LEAST_RATE: f64 = 1.2;

pub(crate) async fn measure(table: &mut Table) -> Result<()> {
    let quick = Remote::start(Options { shell: Shell::Bash, ..Options::default() }).await?;
    let slow = Remote::start(Options { shell: Shell::Bash, ..Options::default() }).await?;
    std::fs::write(slow.machine.home().join(".bashrc"), "sleep 0.3\n")?;
    one_by_one(table, &quick, &slow).await?;
    drop(slow);
    crowd(table, &quick).await?;
    rate(table, &quick).await
}

async fn one_by_one(table: &mut Table, quick: &Remote, slow: &Remote) -> Result<()> {
    let (lease, behind) = (quick.lease().await?, slow.lease().await?);
    let (mut stock, mut ours, mut slowed) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS + WARM_UP {
        let (rival, ()) = timed(quick.stock.run("true")).await?;
        let (exec, _) = timed(daemon::exec(&quick.up.client, &lease, &["true"])).await?;
        let (after, _) = timed(daemon::exec(&slow.up.client, &behind, &["true"])).await?;
        if round >= WARM_UP {
            stock.push(rival);
            ours.push(exec);
            slowed.push(after);
        }
    }
    let (stock, ours, slowed) = (p50(&stock), p50(&ours), p50(&slowed));
    table.line(
        "Exec true over ssh, p50",
        "<= 0.5 x ssh -S master true",
        &format!("{}; ssh -S {}: {:.2} x", ms(ours), ms(stock), ours / stock),
        ours <= MOST_OF_STOCK * stock,
    );
    table.line(
        "the same with a ~/.bashrc of 300 ms",
        "<= 1.1 x without it",
        &format!("{}; without {}: {:.2} x", ms(slowed), ms(ours), slowed / ours),
        slowed <= MOST_OF_QUICK_SHELL * ours,
    );
    Ok(())
}

/// More than one connection has sessions for.
async fn crowd(table: &mut Table, remote: &Remote) -> Result<()> {
    let lease = remote.lease().await?;
    let (took, results) = timed(async {
        let sleep = || daemon::exec(&remote.up.client, &lease, &["sleep", "2"]);
        Ok(join_all((0..CROWD).map(|_| sleep())).await)
    })
    .await?;
    let failed = results.iter().filter(|result| result.is_err()).count();
    let mut measured = format!("{} of {CROWD} in {:.2} s", CROWD - failed, took.as_secs_f64());
    if let Some(error) = results.into_iter().find_map(Result::err) {
        let _ = write!(measured, "; {error:#}");
    }
    table.line("50 callers x sleep 2, MaxSessions 10", "50 of 50 in <= 6.5 s", &measured, {
        failed == 0 && took <= CROWD_BOUND
    });
    Ok(())
}

async fn rate(table: &mut Table, remote: &Remote) -> Result<()> {
    let lease = remote.lease().await?;
    let (mut ours, mut stock) = (Vec::new(), Vec::new());
    for round in 0..=RATE_ROUNDS {
        let served =
            per_second(|| async { daemon::exec(&remote.up.client, &lease, &["true"]).await.map(|_| ()) }).await?;
        let rival = per_second(|| remote.stock.run("true")).await?;
        if round > 0 {
            ours.push(served);
            stock.push(rival);
        }
    }
    let (ours, stock) = (median(ours), median(stock));
    table.line(
        "execs/s over ssh, 8 callers, no refusal",
        ">= 1.2 x ssh -S with 8",
        &format!("{ours:.0}/s; ssh -S {stock:.0}/s: {:.2} x", ours / stock),
        ours >= LEAST_RATE * stock,
    );
    Ok(())
}

async fn per_second<F: Future<Output = Result<()>>>(work: impl Fn() -> F) -> Result<f64> {
    let started = Instant::now();
    let done = AtomicU64::new(0);
    let caller = || async {
        while started.elapsed() < RATE_ROUND {
            work().await?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        anyhow::Ok(())
    };
    try_join_all((0..CALLERS).map(|_| caller())).await?;
    Ok(number(done.into_inner()) / started.elapsed().as_secs_f64())
}
