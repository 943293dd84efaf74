//! Trouble is counted: clean-ups that fail, poison, dead daemons, fences, timers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use drydock::model::LeaseState;
use drydock::store::Scope;

use super::{samples, whole};
use crate::queue::kit::{Bench, Fate, Phase, TestKind, World, ask, eventually};

async fn read(bench: &Bench) -> BTreeMap<String, f64> {
    let store = bench.engine().store();
    store.metrics().read(&store.gauges().await.unwrap());
    samples(&store.metrics().text(false).0)
}

fn of(read: &BTreeMap<String, f64>, series: &str) -> f64 {
    read.get(series).copied().unwrap_or(0.0)
}

async fn bench(world: &Arc<World>, workers: usize) -> Bench {
    Bench::start(workers, Arc::clone(world), vec![TestKind::new(world, "box").limit(1)]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_up_that_fails_leaks_until_it_works() {
    let world = Arc::new(World::default());
    let bench = bench(&world, 2).await;
    let lease = bench.queue(ask("box")).await;
    bench.reaches(&lease, LeaseState::Active).await;
    world.will("box", Phase::Destroy, vec![Fate::Fail; 50]);
    bench.release(&lease).await;
    let leaks = eventually("the clean-up has failed", async || {
        let read = read(&bench).await;
        // The count is told as the commit becomes visible, and what leaks is read from the database.
        let failed = of(&read, r#"drydock_cleanup_failures_total{of="resource"}"#) >= 1.0;
        (failed && of(&read, "drydock_leaked_resources") >= 1.0).then_some(read)
    })
    .await;
    assert_eq!(whole(of(&leaks, "drydock_leaked_resources")), 1, "{leaks:?}");
    let before = of(&leaks, "drydock_leaked_seconds");
    bench.clock.advance(Duration::from_secs(90));
    let later = eventually("time has passed", async || {
        let read = read(&bench).await;
        (of(&read, "drydock_leaked_seconds") >= before + 90.0).then_some(read)
    })
    .await;
    // Its retries are timers, and what fails is tried again.
    assert!(of(&later, r#"drydock_wakes_total{cause="event"}"#) >= 1.0);
    world.calm();
    eventually("nothing leaks any more", async || {
        bench.turn_when_idle().await;
        let read = read(&bench).await;
        (of(&read, "drydock_leaked_resources") < 1.0 && of(&read, "drydock_leaked_seconds") < 1.0).then_some(())
    })
    .await;
    assert!(of(&read(&bench).await, r#"drydock_wakes_total{cause="timer"}"#) >= 1.0);
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_has_a_depth_and_an_age() {
    let world = Arc::new(World::default());
    let bench = bench(&world, 2).await;
    let leases = [bench.queue(ask("box")).await, bench.queue(ask("box")).await, bench.queue(ask("box")).await];
    bench.reaches(&leases[0], LeaseState::Active).await;
    bench.idle().await;
    bench.clock.advance(Duration::from_mins(1));
    let now = read(&bench).await;
    assert_eq!(whole(of(&now, r#"drydock_queue_depth{resource_type="box"}"#)), 2, "{now:?}");
    assert_eq!(whole(of(&now, r#"drydock_queue_oldest_seconds{resource_type="box"}"#)), 60, "{now:?}");
    assert_eq!(whole(of(&now, r#"drydock_leases{resource_type="box",state="PENDING"}"#)), 2, "{now:?}");
    assert!(of(&now, "drydock_empty_claims_total") >= 1.0, "workers look before they wait: {now:?}");
    for lease in &leases {
        bench.release(lease).await;
    }
    bench.assert_nothing_left().await;
    assert_eq!(whole(of(&read(&bench).await, r#"drydock_queue_depth{resource_type="box"}"#)), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_of_the_dead_and_poison_are_counted() {
    let world = Arc::new(World::default());
    let mut bench = bench(&world, 0).await;
    let lease = bench.queue(ask("box")).await;
    for death in 1..=drydock::model::task::MAX_CRASHES {
        // It dies with the claim of the task in its hands.
        assert!(bench.engine().store().claim(&Scope::Any, "dead/w0").await.unwrap().is_some());
        bench.restart(0).await;
        let now = read(&bench).await;
        if death < drydock::model::task::MAX_CRASHES {
            assert_eq!(whole(of(&now, "drydock_claims_taken_over_total")), 1, "{now:?}");
            assert_eq!(whole(of(&now, r#"drydock_wakes_total{cause="start"}"#)), 1, "{now:?}");
        } else {
            assert_eq!(whole(of(&now, "drydock_poisoned_tasks_total")), 1, "{now:?}");
            assert_eq!(whole(of(&now, r#"drydock_tasks{state="DEAD"}"#)), 1, "{now:?}");
        }
    }
    assert_eq!(bench.state(&lease).await, LeaseState::Broken);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lapsed_claim_that_only_the_sweep_finds_is_an_alarm() {
    let world = Arc::new(World::default());
    let bench = bench(&world, 0).await;
    bench.queue(ask("box")).await;
    let store = bench.engine().store();
    let claim = store.claim(&Scope::Any, "dead/w0").await.unwrap().unwrap();
    bench.clock.advance(Duration::from_mins(1));
    store.reap(false).await.unwrap();
    let now = read(&bench).await;
    assert_eq!(whole(of(&now, r#"drydock_wakes_total{cause="sweep"}"#)), 1, "{now:?}");
    assert_eq!(whole(of(&now, r#"drydock_wakes_total{cause="start"}"#)), 0, "{now:?}");
    assert_eq!(store.renew_claim(&claim).await.unwrap(), None);
}
