//! Clean-ups that never work: counted, shown, and given up by an operator.

use std::sync::Arc;
use std::time::Duration;

use drydock::model::LeaseState;

use super::{hold, settled};
use crate::queue::capacity::{lasting, take_down};
use crate::queue::invariants;
use crate::queue::kit::{Bench, Fate, Phase, TestKind, World, admin, ask, eventually, user};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_that_cannot_be_taken_down_is_given_up_by_force() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![TestKind::new(&world, "box").limit(1)]).await;
    world.will("box", Phase::Destroy, vec![Fate::Fail; 1000]);
    let lease = hold(&bench, &admin(), ask("box")).await;
    let next = bench.queue(ask("box")).await;
    bench.release(&lease).await;
    let stuck = eventually("it is counted and shown", async || {
        settled(&bench).await;
        bench.turn_when_idle().await;
        bench.resources("box").await.into_iter().find(|stuck| stuck.cleanup_failures >= 2)
    })
    .await;
    assert!(stuck.problem.contains("keeps its slots"), "{stuck:?}");
    assert_eq!(bench.state(&next).await, LeaseState::Pending);
    let release = async |force| {
        bench.engine().release_resource(&admin(), stuck.id.as_str(), force, None).await.unwrap();
    };
    // Without force it means nothing to a resource that has ended.
    release(false).await;
    bench.idle().await;
    assert_eq!(bench.state(&next).await, LeaseState::Pending);
    release(true).await;
    bench.reaches(&next, LeaseState::Active).await;
    bench.reaches(&lease, LeaseState::Destroyed).await;
    invariants::assert_hold(&bench.database()).await;
    let mut reader = invariants::reader(&bench.database()).await;
    let events =
        sqlx::query("SELECT kind FROM event WHERE kind IN ('resource.given_up', 'resource.abandoned') ORDER BY seq");
    let kinds: Vec<String> = events
        .fetch_all(&mut reader)
        .await
        .unwrap()
        .iter()
        .map(|row| sqlx::Row::get::<String, _>(row, "kind"))
        .collect();
    assert_eq!(kinds, ["resource.given_up", "resource.abandoned"]);
    world.calm();
    bench.release(&next).await;
    bench.reaches(&next, LeaseState::Destroyed).await;
    assert_eq!(world.things().into_iter().collect::<Vec<_>>(), [stuck.id.to_string()], "what is left is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_cannot_be_cleaned_up_is_given_up_by_an_admin_alone() {
    let world = Arc::new(World::default());
    let kind = lasting(&world, "host", 1, 1).limits(|limits| limits.shared = true);
    let bench = Bench::start(2, Arc::clone(&world), vec![kind]).await;
    world.will("host", Phase::Clean, vec![Fate::Fail; 1000]);
    let lease = hold(&bench, &user("ann"), ask("host")).await;
    bench.release(&lease).await;
    settled(&bench).await;
    let next = bench.queue(ask("host")).await;
    settled(&bench).await;
    let force = async |caller| {
        bench.engine().release_lease(&caller, lease.as_str(), "", true, None, Duration::ZERO).await.unwrap();
        settled(&bench).await;
    };
    force(user("ann")).await;
    assert_eq!(bench.state(&lease).await, LeaseState::Released, "its leftovers are the next one's trouble");
    force(admin()).await;
    bench.reaches(&lease, LeaseState::Destroyed).await;
    bench.reaches(&next, LeaseState::Active).await;
    let host = eventually("it is well again", async || {
        bench.resources("host").await.into_iter().find(|host| host.problem.is_empty())
    })
    .await;
    assert_eq!(host.cleanup_failures, 0);
    world.calm();
    bench.release(&next).await;
    bench.reaches(&next, LeaseState::Destroyed).await;
    take_down(&bench, "host").await;
    invariants::assert_hold(&bench.database()).await;
}
