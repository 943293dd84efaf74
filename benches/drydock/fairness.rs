//! Many owners in one queue: in which order they are served, how evenly, and what the length of the queue costs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use drydock::clock::Micros;
use drydock::engine::{Acquire, Caller, Engine};
use drydock::model::id::LeaseId;
use drydock::model::{Lease, LeaseState};
use drydock::store::ListQuery;
use tokio::task::JoinSet;

use crate::daemon::PATIENCE;
use crate::figures::{median, number};
use crate::in_process;
use crate::table::Table;

const OWNERS: usize = 16;
const WAITERS: usize = 128;
const PLACES: usize = 20;
const CYCLES: usize = 6;
const MANY: usize = 5000;
const GRANTS: usize = 120;

fn places(count: usize) -> String {
    format!(
        "name: local-host\nkind: local-host\nlimits: {{max_resources: 1, leases_per_resource: {count}, shared: true}}\n"
    )
}

fn owner(number: usize) -> Caller {
    Caller { principal: format!("owner-{:02}", number % OWNERS), admin: false }
}

fn host() -> Acquire {
    Acquire { resource_type: "host".to_owned(), ..Acquire::default() }
}

pub(crate) async fn measure(table: &mut Table) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let engine = in_process::start(folder.path(), &places(PLACES)).await?;
    let served = Box::pin(serve_all(&engine)).await?;
    engine.stop().await;
    let inversions = inversions(&served.leases, &served.queued);
    table.line(
        &format!("{PLACES} places, {WAITERS} waiters of {OWNERS} owners: order inversions"),
        "0",
        &format!("{inversions} in {} grants", served.leases.len()),
        inversions == 0,
    );
    let evenness = evenness(&served.leases);
    table.line("evenness between equal owners (Jain)", ">= 0.99", &format!("{evenness:.4}"), evenness >= 0.99);

    let few = Box::pin(grants(WAITERS)).await?;
    let many = Box::pin(grants(MANY)).await?;
    let mut sorted = few.clone();
    sorted.sort_by(f64::total_cmp);
    let (half, most) = (median(few), sorted[sorted.len() * 99 / 100]);
    table.line(
        &format!("release to grant with {WAITERS} waiters, p99"),
        "<= 3 x p50",
        &format!("{most:.2} ms; p50 {half:.2} ms: {:.2} x", most / half),
        most <= 3.0 * half,
    );
    let long = median(many);
    table.line(
        &format!("release to grant with {MANY} waiters"),
        "<= 1.5 x that with 128",
        &format!("{long:.2} ms: {:.2} x", long / half),
        long <= 1.5 * half,
    );
    Ok(())
}

/// Leases that were served, and when each joined the queue: the time of its commit, since one that is asked for earlier may be
/// written later.
struct Served {
    leases: Vec<Lease>,
    queued: BTreeMap<String, Micros>,
}

/// Everybody asks, gives back and asks again.
async fn serve_all(engine: &Arc<Engine>) -> Result<Served> {
    let mut callers = JoinSet::new();
    for caller in 0..PLACES + WAITERS {
        let engine = Arc::clone(engine);
        callers.spawn(async move {
            for _ in 0..CYCLES {
                let lease = engine.acquire(&owner(caller), host(), None, PATIENCE).await?.lease;
                let id = lease.id.as_str();
                engine.release_lease(&owner(caller), id, "", false, None, Duration::ZERO).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = callers.join_next().await {
        done??;
    }
    let mut served = Vec::new();
    let mut query = ListQuery { limit: 499, ..ListQuery::default() };
    loop {
        let page = engine.store().list_leases(&query, true).await?;
        let Some(last) = page.last() else { break };
        query.after = Some(last.id.to_string());
        served.extend(page);
    }
    let mut queued = BTreeMap::new();
    let mut query = ListQuery { limit: 499, ..ListQuery::default() };
    loop {
        let page = engine.store().list_events(&query).await?;
        let Some(last) = page.last() else { break };
        query.after = Some(last.seq.to_string());
        let created = page.into_iter().filter(|event| event.kind == "lease.created");
        queued.extend(created.filter_map(|event| Some((event.subjects.first()?.clone(), event.time))));
    }
    Ok(Served { leases: served, queued })
}

/// Leases that were served after one whose turn began later although they queued before that was served.
fn inversions(served: &[Lease], queued: &BTreeMap<String, Micros>) -> usize {
    let passed = |late: &Lease| {
        served.iter().any(|early| {
            late.ord < early.ord
                && late.acquire_time > early.acquire_time
                && early.acquire_time.is_some_and(|at| queued.get(late.id.as_str()).is_some_and(|since| *since < at))
        })
    };
    served.iter().filter(|lease| passed(lease)).count()
}

/// Jain's index of what each owner had got when half of all was served: 1 when all got the same.
fn evenness(served: &[Lease]) -> f64 {
    let mut order: Vec<&Lease> = served.iter().collect();
    order.sort_by_key(|lease| lease.acquire_time);
    let mut got: BTreeMap<&str, u64> = BTreeMap::new();
    for lease in &order[..order.len() / 2] {
        *got.entry(&lease.owner).or_default() += 1;
    }
    let all: Vec<f64> = got.values().map(|count| number(*count)).collect();
    let (sum, squares): (f64, f64) = (all.iter().sum(), all.iter().map(|one| one * one).sum());
    sum * sum / (number(OWNERS as u64) * squares)
}

/// One place and so many who wait for it: milliseconds from each release to the next one's grant.
async fn grants(waiters: usize) -> Result<Vec<f64>> {
    let folder = tempfile::tempdir()?;
    let engine = in_process::start(folder.path(), &places(1)).await?;
    let mut queue: Vec<(LeaseId, Caller)> = Vec::new();
    for _ in 0..=waiters {
        let caller = owner(0);
        let lease = engine.acquire(&caller, host(), None, Duration::ZERO).await?.lease;
        queue.push((lease.id, caller));
    }
    let (first, caller) = queue.first().context("nobody waits")?;
    engine.wait_lease(caller, first.as_str(), LeaseState::Active, PATIENCE).await?;
    // Until all have looked and parked.
    while engine.store().is_busy().await? {
        tokio::task::yield_now().await;
    }
    let mut taken = Vec::new();
    for pair in queue.windows(2).take(GRANTS) {
        let ((held, caller), (next, _)) = (&pair[0], &pair[1]);
        let begun = Instant::now();
        engine.release_lease(caller, held.as_str(), "", false, None, Duration::ZERO).await?;
        engine.wait_lease(caller, next.as_str(), LeaseState::Active, PATIENCE).await?;
        taken.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    engine.stop().await;
    Ok(taken)
}
