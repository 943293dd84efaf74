//! Resources between leases: kept for a while, kept ready, taken down for others, paused and given up. The real engine, with
//! scripted blueprints, a clock that is turned by hand, and the sweep switched off.

mod breaker;
mod given_up;
mod health;
mod idle;
mod plan;
mod reclaim;
mod warm;

use std::sync::Arc;
use std::time::Duration;

use drydock::engine::{Acquire, Caller};
use drydock::model::id::LeaseId;
use drydock::model::{LeaseState, Resource, ResourceState};
use sqlx::Row as _;

use crate::queue::invariants;
use crate::queue::kit::{Bench, TestKind, World, ask, eventually};

/// Spans as the model has them.
const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;

/// A kind whose resources have nothing to set up for a lease, and stay for so long when nobody has them.
fn kept(world: &Arc<World>, name: &'static str, idle_ttl: i64) -> TestKind {
    TestKind::new(world, name).with(|kind| kind.instant = true).limits(|limits| limits.upkeep.idle_ttl = Some(idle_ttl))
}

/// A lease for resources of one colour.
fn coloured(of: &str, colour: &str) -> Acquire {
    Acquire { attributes: [("colour".to_owned(), colour.to_owned())].into(), ..ask(of) }
}

/// An ACTIVE lease.
async fn hold(bench: &Bench, caller: &Caller, ask: Acquire) -> LeaseId {
    let id = bench.queue_as(caller, ask).await.unwrap();
    bench.reaches(&id, LeaseState::Active).await;
    id
}

/// Gives a lease back, and waits until nothing of it is left, without turning the clock.
async fn give_back(bench: &Bench, id: &LeaseId) {
    bench.release(id).await;
    bench.reaches(id, LeaseState::Destroyed).await;
    bench.idle().await;
}

/// Resources of a type that are ACTIVE.
async fn active(bench: &Bench, of: &str) -> Vec<Resource> {
    bench.resources(of).await.into_iter().filter(|resource| resource.state == ResourceState::Active).collect()
}

/// Turns the clock, and waits until nothing that was due is left to be done.
async fn pass(bench: &Bench, span: Duration) {
    bench.idle().await;
    bench.clock.advance(span);
    settled(bench).await;
}

/// Returns when nothing is ready, runs, or is due.
async fn settled(bench: &Bench) {
    eventually("nothing is due", async || {
        let store = bench.engine().store();
        let due = store.next_timer().await.unwrap().is_some_and(|at| at <= drydock::clock::Clock::now(&*bench.clock));
        (!due && !store.is_busy().await.unwrap()).then_some(())
    })
    .await;
}

/// How many resources of a type there were at most at any time, by the events.
async fn most_at_once(bench: &Bench, of: &str) -> i64 {
    let mut reader = invariants::reader(&bench.database()).await;
    let row = sqlx::query(
        "SELECT coalesce(max(n), 0) AS most FROM (SELECT sum(CASE kind WHEN 'resource.created' THEN 1 ELSE -1 END) OVER (ORDER BY seq) AS n \
         FROM event WHERE kind IN ('resource.created', 'resource.destroyed') AND json_extract(details, '$.resource_type') = $1)",
    );
    row.bind(of.to_owned()).fetch_one(&mut reader).await.unwrap().get("most")
}

/// Everything is let go: nothing is kept ready any more, and what is there is released by hand.
async fn let_all_go(bench: &Bench, of: &str) {
    bench.limit(of, |limits| limits.upkeep.min_ready = 0).await;
    crate::queue::capacity::take_down(bench, of).await;
    bench.assert_nothing_left().await;
}
