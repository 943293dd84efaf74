//! A pool that keeps some ready: what is taken from it costs little more than a place on a machine that is there.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use drydock::cli::connect::within;
use drydock::proto::v1;
use drydock::proto::v1::resource::State;

use crate::daemon::{self, PATIENCE, Up};
use crate::figures::{ms, p50, pause, timed};
use crate::table::Table;

/// What is kept ready is nobody's, and so is the place that it leases: the machine is for all.
const MACHINE: &str = "{name: local-host, kind: local-host, limits: {leases_per_resource: 256, shared: true}}";
const POOL: &str = "{name: storage, kind: storage, limits: {max_resources: 20, min_ready: 5}}";
const READY: usize = 5;
const LIMIT: usize = 20;
const LEASES: usize = 100;
/// Not counted: caches fill, threads start.
const WARM_UP: usize = 20;
const MOST: f64 = 1.5;

pub(crate) async fn measure(table: &mut Table) -> Result<()> {
    let up = Up::start(4, &[MACHINE, POOL]).await?;
    let (mut plain, mut pooled) = (Vec::new(), Vec::new());
    let mut held: VecDeque<String> = VecDeque::new();
    for round in 0..LEASES + WARM_UP {
        // As many as the limit allows are in use, most of the time, and as many as are to be are ready.
        if held.len() + READY == LIMIT
            && let Some(oldest) = held.pop_front()
        {
            daemon::release(&up.client, &oldest, PATIENCE).await?;
        }
        full(&up).await?;
        let (acquire, lease) = timed(daemon::acquire(&up.client, "host")).await?;
        daemon::release(&up.client, &lease, PATIENCE).await?;
        let (grant, lease) = timed(daemon::acquire(&up.client, "storage")).await?;
        held.push_back(lease);
        if round >= WARM_UP {
            plain.push(acquire);
            pooled.push(grant);
        }
    }
    let (plain, pooled) = (p50(&plain), p50(&pooled));
    table.line(
        &format!("warm grant of a pool, {READY} ready of {LIMIT}, p50"),
        "<= 1.5 x a warm AcquireLease",
        &format!("{}; warm acquire {}: {:.2} x", ms(pooled), ms(plain), pooled / plain),
        pooled <= MOST * plain,
    );
    Ok(())
}

/// Returns when as many are ready as are to be, and nothing is built or taken down.
async fn full(up: &Up) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let request = v1::ListResourcesRequest {
            filter: "resource_type = storage AND state != DESTROYED".to_owned(),
            ..v1::ListResourcesRequest::default()
        };
        let all = up.client.resources().list_resources(within(PATIENCE, request)).await?.into_inner().resources;
        ensure!(all.len() <= LIMIT, "{} resources, and the limit is {LIMIT}", all.len());
        let ready = all.iter().filter(|of| of.state() == State::Active && of.lease_count == 0).count();
        if ready == READY && all.iter().all(|of| of.state() == State::Active) {
            // The pool's own task goes to rest.
            pause(Duration::from_millis(5)).await;
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{ready} are ready, not {READY}");
        pause(Duration::from_millis(2)).await;
    }
}
