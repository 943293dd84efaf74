//! From the call that gives a lease back to the answer of the one that waits for its place.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use drydock::cli::connect::within;
use drydock::proto::v1;

use crate::daemon::{self, PATIENCE, Up};
use crate::figures::{ms, p50, pause};
use crate::raw::Raw;
use crate::table::Table;

/// One machine, for one lease at a time.
const NARROW: &str = "{name: local-host, kind: local-host, limits: {leases_per_resource: 1}}";
const ROUNDS: usize = 60;
const WARM_UP: usize = 5;

pub(crate) async fn measure(table: &mut Table) -> Result<()> {
    let up = Up::start(4, &[NARROW]).await?;
    let mut raw = Raw::open(&up.folder().join("raw.db")).await?;
    let waiter = up.connect().await?;
    let mut holder = daemon::acquire(&up.client, "host").await?;
    let (mut commits, mut grants) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS + WARM_UP {
        let commit = raw.commit().await?;
        let client = waiter.clone();
        let next = tokio::spawn(async move {
            let lease = daemon::acquire(&client, "host").await?;
            anyhow::Ok((Instant::now(), lease))
        });
        parked(&up).await?;
        let started = Instant::now();
        daemon::release(&up.client, &holder, Duration::ZERO).await?;
        let (granted, lease) = next.await??;
        holder = lease;
        if round >= WARM_UP {
            commits.push(commit);
            grants.push(granted - started);
        }
    }
    let (commit, grant) = (p50(&commits), p50(&grants));
    let bound = 2.0 * commit + 2.0;
    table.line(
        "release to grant of the next waiter, p50",
        "<= 2 commits + 2 ms",
        &format!("{}; commit {}, so {}", ms(grant), ms(commit), ms(bound)),
        grant <= bound,
    );
    Ok(())
}

/// Returns when the waiter is in the queue and knows that it has to wait.
async fn parked(up: &Up) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let request =
            v1::ListLeasesRequest { filter: "state = PENDING".to_owned(), ..v1::ListLeasesRequest::default() };
        let answer = up.client.leases().list_leases(within(PATIENCE, request)).await?.into_inner();
        let waiting = answer.leases.first().and_then(|lease| lease.waiting.as_ref());
        if waiting.is_some_and(|waiting| waiting.reason == "LIMIT_REACHED") {
            // Its caller goes to rest, and with it the machine.
            pause(Duration::from_millis(10)).await;
            return Ok(());
        }
        (Instant::now() < deadline).then_some(()).context("the waiter does not wait")?;
    }
}
