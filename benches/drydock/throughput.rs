//! Many callers at once: what gRPC costs beside the transactions, and what a cycle costs the processor.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

use crate::daemon::{self, PATIENCE, ROOMY, Up};
use crate::figures::{median, number};
use crate::in_process;
use crate::table::Table;

const CALLERS: usize = 64;
const ROUNDS: usize = 4;
const ROUND: Duration = Duration::from_secs(2);
const MOST_PROCESSOR_MS: f64 = 1.0;

pub(crate) async fn measure(table: &mut Table) -> Result<()> {
    let up = Up::start(4, &[ROOMY]).await?;
    let folder = tempfile::tempdir()?;
    let engine = in_process::start(folder.path(), ROOMY).await?;
    let mut clients = Vec::new();
    for _ in 0..CALLERS {
        clients.push(up.connect().await?);
    }
    let (mut over_grpc, mut inside, mut processor) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let before = up.processor_seconds()?;
        let (cycles, rate) = run(|caller| {
            let client = clients[caller].clone();
            async move {
                let lease = daemon::acquire(&client, "host").await?;
                daemon::release(&client, &lease, Duration::ZERO).await
            }
        })
        .await?;
        // What was given back last is cleaned up last; that belongs to the cycles too.
        let last = daemon::acquire(&up.client, "host").await?;
        daemon::release(&up.client, &last, PATIENCE).await?;
        let used = up.processor_seconds()? - before;

        let (_, rate_inside) = run(|_| {
            let engine = Arc::clone(&engine);
            async move {
                let lease = in_process::acquire(&engine).await?;
                in_process::release(&engine, &lease, Duration::ZERO).await
            }
        })
        .await?;
        let last = in_process::acquire(&engine).await?;
        in_process::release(&engine, &last, PATIENCE).await?;
        // The first round warms up.
        if round > 0 {
            over_grpc.push(rate);
            inside.push(rate_inside);
            processor.push(used * 1000.0 / number(cycles));
        }
    }
    engine.stop().await;
    let (over_grpc, inside, processor) = (median(over_grpc), median(inside), median(processor));
    table.line(
        &format!("{CALLERS} callers, acquire + release cycles/s"),
        ">= 0.5 x without gRPC",
        &format!("{over_grpc:.0}/s; without {inside:.0}/s: {:.2} x", over_grpc / inside),
        over_grpc >= 0.5 * inside,
    );
    table.line(
        "processor time of the daemon per cycle",
        "<= 1 ms",
        &format!("{processor:.3} ms"),
        processor <= MOST_PROCESSOR_MS,
    );
    Ok(())
}

/// All callers in a loop for a while: cycles, and cycles a second.
async fn run<F, Fut>(cycle: F) -> Result<(u64, f64)>
where
    F: Fn(usize) -> Fut + Send + Sync + Clone,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    let started = Instant::now();
    let cycles = Arc::new(AtomicU64::new(0));
    let mut callers = Vec::new();
    for caller in 0..CALLERS {
        let (cycle, cycles) = (cycle.clone(), Arc::clone(&cycles));
        callers.push(async move {
            while started.elapsed() < ROUND {
                // Spawned: callers run on all cores.
                let mut one = JoinSet::new();
                one.spawn(cycle(caller));
                if let Some(done) = one.join_next().await {
                    done??;
                }
                cycles.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
    }
    futures::future::try_join_all(callers).await?;
    let cycles = cycles.load(Ordering::Relaxed);
    Ok((cycles, number(cycles) / started.elapsed().as_secs_f64()))
}
