//! The caller that waits for its lease works for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use drydock::engine::{Acquire, RequestKey};
use drydock::error::Reason;
use drydock::model::LeaseState;
use futures::future::join_all;

use super::kit::{Bench, Fate, Gate, Phase, TestKind, World, admin, ask, eventually};

crate::postgres::on_postgres_too! {
    without_workers_the_caller_does_the_whole_cascade_there_and_back,
    a_call_that_is_dropped_ends_no_step_half_way,
    a_wait_that_is_over_leaves_the_lease_in_the_queue,
    a_lease_gets_on_while_all_workers_are_busy,
    a_request_made_by_many_callers_at_once_makes_one_lease,
    a_warm_lease_is_active_in_the_commit_that_makes_it,
    many_callers_share_the_work_and_all_are_served,
}

const LONG: Duration = Duration::from_mins(5);

fn tree(world: &Arc<World>) -> Vec<TestKind> {
    vec![
        TestKind::new(world, "top").needing(&["part", "part", "deep"]),
        TestKind::new(world, "deep").needing(&["part"]),
        TestKind::new(world, "part"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_workers_the_caller_does_the_whole_cascade_there_and_back() {
    let world = Arc::new(World::default());
    let bench = Bench::start(0, Arc::clone(&world), tree(&world)).await;
    let lease = bench.engine().acquire(&admin(), ask("top"), None, LONG).await.unwrap().lease;
    assert_eq!(lease.state, LeaseState::Active);
    let gone = bench.engine().release_lease(&admin(), lease.id.as_str(), "", false, None, LONG).await.unwrap();
    assert_eq!(gone.lease.state, LeaseState::Destroyed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_dropped_ends_no_step_half_way() {
    let world = Arc::new(World::default());
    let bench = Bench::start(0, Arc::clone(&world), tree(&world)).await;
    let gate = Gate::new();
    world.will("part", Phase::Build, [Fate::Slow(Arc::clone(&gate))]);
    let engine = Arc::clone(bench.engine());
    let call = tokio::spawn(async move { engine.acquire(&admin(), ask("top"), None, LONG).await });
    gate.begun().await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    gate.open();
    let begun = world.calls(Phase::Build, "part").remove(0);
    eventually("the step is finished and its outcome written", async || {
        let made = bench.resources("part").await.into_iter().find(|part| part.id.as_str() == begun)?;
        (made.state == drydock::model::ResourceState::Active).then_some(())
    })
    .await;
    // What it would have done next goes back to the queue, and someone else goes on.
    let list = drydock::store::ListQuery { limit: 10, ..Default::default() };
    let lease = bench.engine().store().list_leases(&list, false).await.unwrap().remove(0).id;
    let got = bench.engine().wait_lease(&admin(), lease.as_str(), LeaseState::Active, LONG).await.unwrap();
    assert_eq!(got.lease.state, LeaseState::Active);
    bench.engine().release_lease(&admin(), lease.as_str(), "", false, None, LONG).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_that_is_over_leaves_the_lease_in_the_queue() {
    let world = Arc::new(World::default());
    let bench = Bench::start(1, Arc::clone(&world), vec![TestKind::new(&world, "box").limit(1)]).await;
    let holder = bench.queue(ask("box")).await;
    bench.reaches(&holder, LeaseState::Active).await;
    let engine = Arc::clone(bench.engine());
    let call = tokio::spawn(async move {
        engine.acquire(&admin(), ask("box"), None, Duration::from_secs(10)).await.unwrap().lease
    });
    // The clock is turned until the call has heard of it.
    eventually("the call ends", async || {
        bench.clock.advance(Duration::from_secs(1));
        call.is_finished().then_some(())
    })
    .await;
    let lease = call.await.unwrap();
    assert_eq!(lease.state, LeaseState::Pending);
    bench.release(&holder).await;
    bench.reaches(&lease.id, LeaseState::Active).await;
    bench.release(&lease.id).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_gets_on_while_all_workers_are_busy() {
    let world = Arc::new(World::default());
    let mut kinds = tree(&world);
    kinds.push(TestKind::new(&world, "busy"));
    let gate = Gate::new();
    world.will("busy", Phase::Build, [Fate::Slow(Arc::clone(&gate))]);
    let bench = Bench::start(1, Arc::clone(&world), kinds).await;
    let busy = bench.queue(ask("busy")).await;
    gate.begun().await;
    let lease = bench.engine().acquire(&admin(), ask("top"), None, LONG).await.unwrap().lease;
    assert_eq!(lease.state, LeaseState::Active);
    gate.open();
    bench.reaches(&busy, LeaseState::Active).await;
    bench.release(&busy).await;
    bench.release(&lease.id).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_made_by_many_callers_at_once_makes_one_lease() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), tree(&world)).await;
    let key =
        |body: &str| Some(RequestKey { method: "AcquireLease", request_id: "one".to_owned(), body: body.to_owned() });
    let caller = admin();
    let calls = (0..32).map(|_| bench.engine().acquire(&caller, ask("top"), key("same"), LONG));
    let ids: std::collections::BTreeSet<_> =
        join_all(calls).await.into_iter().map(|view| view.unwrap().lease.id).collect();
    assert_eq!(ids.len(), 1);
    let reused = bench.engine().acquire(&admin(), ask("part"), key("other"), LONG).await.unwrap_err();
    assert_eq!(reused.reason, Reason::RequestIdReused);
    // The answer is the same when the request could not be made any more.
    bench.engine().set_blueprint_enabled(&admin(), "top", false, None).await.unwrap();
    let again = bench.engine().acquire(&admin(), ask("top"), key("same"), Duration::ZERO).await.unwrap();
    assert!(ids.contains(&again.lease.id));
    bench.release(&again.lease.id).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warm_lease_is_active_in_the_commit_that_makes_it() {
    let world = Arc::new(World::default());
    let kind = super::capacity::lasting(&world, "host", 1, 4).with(|kind| kind.instant = true);
    let bench = Bench::start(1, Arc::clone(&world), vec![kind]).await;
    let first = bench.queue(ask("host")).await;
    bench.reaches(&first, LeaseState::Active).await;
    bench.idle().await;
    let view = bench.engine().acquire(&admin(), ask("host"), None, Duration::ZERO).await.unwrap();
    assert_eq!(view.lease.state, LeaseState::Active);
    bench.release(&first).await;
    bench.release(&view.lease.id).await;
    bench.idle().await;
    super::capacity::take_down(&bench, "host").await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_share_the_work_and_all_are_served() {
    let world = Arc::new(World::default());
    let mut kinds = tree(&world);
    kinds.push(TestKind::new(&world, "box").limit(3));
    let bench = Bench::start(1, Arc::clone(&world), kinds).await;
    let served = AtomicUsize::new(0);
    let (bench, served) = (&bench, &served);
    let caller = admin();
    let call = async |number: usize| {
        let of = if number.is_multiple_of(2) { "box" } else { "top" };
        let ask = Acquire { priority: i64::try_from(number % 7).unwrap(), ..ask(of) };
        let lease = bench.engine().acquire(&caller, ask, None, LONG).await.unwrap().lease;
        assert_eq!(lease.state, LeaseState::Active);
        assert!(bench.resources("box").await.len() <= 3);
        bench.release(&lease.id).await;
        served.fetch_add(1, Ordering::Relaxed);
    };
    join_all((0..24).map(call)).await;
    assert_eq!(served.load(Ordering::Relaxed), 24);
    bench.assert_nothing_left().await;
}
