//! What a lease that waits is told: why, at which place and until when, as of now.

use std::sync::Arc;
use std::time::Duration;

use drydock::clock::{Clock as _, Micros};
use drydock::engine::{Eta, ExplainSubject, LeaseView};
use drydock::model::LeaseState;
use drydock::model::id::LeaseId;

use crate::queue::kit::{Bench, Fate, Phase, TestKind, World, admin, ask, eventually};

const SECOND: Micros = 1_000_000;
const MINUTE: Micros = 60 * SECOND;
const TEN_MINUTES: Duration = Duration::from_mins(10);

async fn one_box() -> (Arc<World>, Bench) {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![TestKind::new(&world, "box").limit(1)]).await;
    (world, bench)
}

/// A lease that is held for ten minutes.
async fn serve(bench: &Bench) {
    let lease = bench.queue(ask("box")).await;
    bench.reaches(&lease, LeaseState::Active).await;
    bench.clock.advance(TEN_MINUTES);
    bench.release(&lease).await;
    bench.reaches(&lease, LeaseState::Destroyed).await;
}

async fn get(bench: &Bench, id: &LeaseId) -> LeaseView {
    bench.engine().get_lease(&admin(), id.as_str()).await.unwrap()
}

fn about(eta: Option<&Eta>, micros: Micros) -> bool {
    eta.is_some_and(|eta| (eta.p50 - micros).abs() < 10 * SECOND && eta.p90 >= eta.p50)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_estimate_needs_five_and_survives_a_restart() {
    let (_world, mut bench) = one_box().await;
    for _ in 0..4 {
        serve(&bench).await;
    }
    let holder = bench.queue(ask("box")).await;
    bench.reaches(&holder, LeaseState::Active).await;
    let next = bench.queue(ask("box")).await;
    let behind = bench.queue(ask("box")).await;
    bench.idle().await;
    bench.clock.advance(Duration::from_secs(2));
    let early = get(&bench, &next).await;
    assert_eq!((early.queue_position, early.eta), (Some(1), None), "four are no basis");
    // The holder's own end is the fifth.
    bench.clock.advance(TEN_MINUTES);
    bench.release(&holder).await;
    bench.reaches(&next, LeaseState::Active).await;
    bench.clock.advance(Duration::from_mins(4));
    let view = get(&bench, &behind).await;
    assert!(about(view.eta.as_ref(), 6 * MINUTE), "{view:?}");
    bench.restart(2).await;
    bench.clock.advance(Duration::from_mins(1));
    let view = get(&bench, &behind).await;
    assert!(about(view.eta.as_ref(), 5 * MINUTE), "{view:?}");
    let query = drydock::store::ListQuery { limit: 9, ..Default::default() };
    let listed = bench
        .engine()
        .list_leases(&admin(), query, false)
        .await
        .unwrap()
        .into_iter()
        .find(|view| view.lease.id == behind)
        .unwrap();
    assert!(about(listed.eta.as_ref(), 5 * MINUTE) && listed.queue_position == Some(1), "{listed:?}");
    let explained = bench.engine().explain_lease(&admin(), ExplainSubject::Lease(behind.to_string())).await.unwrap();
    assert!(about(explained.eta.as_ref(), 5 * MINUTE), "{explained:?}");
    let basis = explained.eta.unwrap().basis;
    assert!(basis.contains("5 of 6 recent leases") && basis.contains("after 10 min"), "{basis}");
    // A request that is not made would be the second in the queue.
    let dry = bench.engine().explain_lease(&admin(), ExplainSubject::Ask(ask("box"))).await.unwrap();
    assert!(dry.queue_position == Some(2) && about(dry.eta.as_ref(), 15 * MINUTE), "{dry:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_is_estimated_by_the_builds_before() {
    let (world, bench) = one_box().await;
    world.will("box", Phase::Build, (0..6).flat_map(|_| [Fate::Later(Duration::from_secs(30)), Fate::Ready]));
    for _ in 0..5 {
        let lease = bench.queue(ask("box")).await;
        bench.reaches_in_time(&lease, LeaseState::Active).await;
        bench.release(&lease).await;
        bench.reaches_in_time(&lease, LeaseState::Destroyed).await;
    }
    let dry = bench.engine().explain_lease(&admin(), ExplainSubject::Ask(ask("box"))).await.unwrap();
    assert!(about(dry.eta.as_ref(), 30 * SECOND), "{dry:?}");
    let lease = bench.queue(ask("box")).await;
    bench.idle().await;
    bench.clock.advance(Duration::from_secs(10));
    let view = get(&bench, &lease).await;
    assert_eq!(view.lease.waiting.as_ref().unwrap().reason, "BUILDING");
    assert!(about(view.eta.as_ref(), 20 * SECOND), "{view:?}");
    let explained = bench.engine().explain_lease(&admin(), ExplainSubject::Lease(lease.to_string())).await.unwrap();
    let basis = explained.eta.unwrap().basis;
    assert!(basis.contains("5 recent builds by box took 30 s") && basis.contains("10 s so far"), "{basis}");
    let lease = bench.reaches_in_time(&lease, LeaseState::Active).await;
    let receipt = get(&bench, &lease.id).await.receipt.unwrap();
    assert_eq!((receipt.built, receipt.used), (Some(30 * SECOND), None), "{receipt:?}");
    assert!(receipt.worker.contains("/w") && receipt.retries == 0, "{receipt:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_counts_what_was_tried_again() {
    let (world, bench) = one_box().await;
    world.will("box", Phase::Build, [Fate::Fail, Fate::Fail]);
    let lease = bench.queue(ask("box")).await;
    bench.reaches_in_time(&lease, LeaseState::Active).await;
    bench.clock.advance(TEN_MINUTES);
    bench.release(&lease).await;
    bench.reaches_in_time(&lease, LeaseState::Destroyed).await;
    let receipt = get(&bench, &lease).await.receipt.unwrap();
    assert!(receipt.retries == 2 && receipt.used >= Some(10 * MINUTE), "{receipt:?}");
    assert!(receipt.build_time.is_some() && receipt.acquire_time >= receipt.build_time, "{receipt:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_when_the_queue_moves_at_most_once_a_second() {
    let (_world, bench) = one_box().await;
    let mut leases = Vec::new();
    for _ in 0..6 {
        leases.push(bench.queue(ask("box")).await);
    }
    bench.reaches(&leases[0], LeaseState::Active).await;
    bench.idle().await;
    bench.clock.advance(Duration::from_secs(2));
    let mut watch = bench.engine().watch_lease(&admin(), leases[5].as_str(), None, "").await.unwrap();
    let first = watch.next().await.unwrap().unwrap();
    assert_eq!(first.lease.unwrap().queue_position, Some(5));
    // Two who were ahead give up within the same second: that is one update.
    bench.release(&leases[1]).await;
    bench.release(&leases[2]).await;
    bench.idle().await;
    let told = tokio::spawn(async move { watch.next().await.unwrap().unwrap() });
    let update = eventually("the watch has told", async || {
        if !told.is_finished() {
            bench.clock.advance(Duration::from_millis(50));
            return None;
        }
        Some(())
    });
    let before = bench.clock.now();
    update.await;
    assert!(bench.clock.now() - before >= SECOND, "not more than once a second");
    let update = told.await.unwrap();
    let view = update.lease.unwrap();
    assert_eq!((view.queue_position, update.events.len()), (Some(3), 0), "{view:?}");
    let waiting = view.lease.waiting.unwrap();
    assert!(waiting.message.contains("; 2 ahead in the queue"), "{waiting:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_it_waits_is_that_of_now() {
    let (_world, bench) = one_box().await;
    let holder = bench.queue(ask("box")).await;
    bench.reaches(&holder, LeaseState::Active).await;
    let lease = bench.queue(ask("box")).await;
    bench.idle().await;
    let resource = bench.resources("box").await.remove(0).id;
    let why = async |bench: &Bench| get(bench, &lease).await.lease.waiting.unwrap();
    bench.clock.advance(Duration::from_secs(2));
    assert_eq!(why(&bench).await.reason, "LIMIT_REACHED");
    assert!(why(&bench).await.blocked_by.contains(&resource.to_string()));
    // Its task sleeps: nothing that concerns it has become free.
    bench.engine().set_blueprint_enabled(&admin(), "box", false, None).await.unwrap();
    bench.clock.advance(Duration::from_secs(2));
    assert_eq!(why(&bench).await.reason, "BLUEPRINT_PAUSED");
}
