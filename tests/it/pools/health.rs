//! What nobody uses is looked at now and then, where its kind knows how.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use drydock::blueprint::{Blueprint, Context, Endpoint, Health, Registry, Step};
use drydock::clock::ManualClock;
use drydock::engine::{BlueprintDraft, Engine, Settings};
use drydock::model::{Kind, LeaseState, Limits, ResourceState, StringMap, Upkeep};
use serde_json::json;

use super::MINUTE;
use crate::queue::kit::{NOON, admin, ask, eventually, folder};

static KIND: Kind = Kind {
    kind: "box",
    resource_type: "box",
    interfaces: &[],
    needs: &[],
    config: &[],
    attributes: &[],
    leases_per_resource: 1,
    max_resources: None,
    rank: 0,
    stays: true,
    reused_by_attributes: false,
    instant: true,
    registration: None,
};

/// Its resources are as well as the test says.
#[derive(Default)]
struct Patient {
    findings: Mutex<Vec<String>>,
    looks: AtomicUsize,
}

#[async_trait]
impl Blueprint for Patient {
    fn describe(&self) -> &'static Kind {
        &KIND
    }

    async fn build(&self, _ctx: &Context) -> Step {
        Step::done()
    }

    async fn destroy(&self, _ctx: &Context) -> Step {
        Step::done()
    }

    fn check_interval(&self) -> Option<Duration> {
        Some(Duration::from_mins(1))
    }

    async fn check(&self, _ctx: &Context) -> Health {
        self.looks.fetch_add(1, Ordering::SeqCst);
        Health { findings: self.findings.lock().unwrap().clone(), dead: false }
    }

    fn endpoint(&self, _ctx: &Context, _interface: &str) -> Option<Endpoint> {
        None
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_sick_while_nobody_uses_it_takes_no_lease_and_goes_unless_it_recovers() {
    let patient = Arc::new(Patient::default());
    let folder = folder();
    let settings = Settings {
        database: drydock::store::Location::Sqlite { path: folder.path().join("drydock.db") },
        workers: 1,
        sweep: false,
        retention: Duration::from_hours(24 * 365),
        stock_blueprints: false,
        machine: "test".to_owned(),
        address: "none".to_owned(),
        shares: drydock::model::Shares::default(),
    };
    let clock = ManualClock::at(NOON);
    let registry = Registry::new(vec![Arc::clone(&patient) as Arc<dyn Blueprint>]);
    let engine = Engine::start(&settings, registry, clock.clone()).await.unwrap();
    let upkeep = Upkeep { min_ready: 1, idle_ttl: Some(60 * MINUTE), ..Upkeep::default() };
    let draft = BlueprintDraft {
        name: "box".to_owned(),
        kind: "box".to_owned(),
        config: json!({}),
        labels: StringMap::new(),
        limits: Limits { upkeep, ..Limits::default() },
    };
    engine.apply_blueprint(&admin(), draft, false, None).await.unwrap();
    let one = async || {
        let all = engine.store().list_resources(&drydock::store::ListQuery::default()).await.unwrap();
        all.into_iter().find(|of| of.state == ResourceState::Active)
    };
    let looked = async |times: usize| {
        eventually("it is looked at", async || (patient.looks.load(Ordering::SeqCst) == times).then_some(())).await;
        eventually("that is written down", async || (!engine.store().is_busy().await.unwrap()).then_some(())).await;
    };
    let first = eventually("one is ready", one).await;
    clock.advance(Duration::from_mins(1));
    looked(1).await;
    // In use it is left alone.
    let lease = engine.acquire(&admin(), ask("box"), None, Duration::ZERO).await.unwrap().lease;
    assert_eq!((lease.state, lease.resource_id), (LeaseState::Active, Some(first.id.clone())));
    engine.release_lease(&admin(), lease.id.as_str(), "", false, None, Duration::ZERO).await.unwrap();
    *patient.findings.lock().unwrap() = vec!["it has a cold".to_owned()];
    let sick = eventually("it is found sick", async || {
        clock.advance(Duration::from_secs(5));
        let first = engine.store().find_resource(&first.id).await.unwrap().unwrap();
        (first.problem == "it has a cold").then_some(first)
    })
    .await;
    assert_eq!(sick.state, ResourceState::Active);
    patient.findings.lock().unwrap().clear();
    eventually("it is well again", async || {
        clock.advance(Duration::from_secs(5));
        let first = engine.store().find_resource(&first.id).await.unwrap().unwrap();
        (first.problem.is_empty() && first.state == ResourceState::Active).then_some(())
    })
    .await;
    *patient.findings.lock().unwrap() = vec!["it has a fever".to_owned()];
    eventually("it is given up", async || {
        clock.advance(Duration::from_secs(5));
        let first = engine.store().find_resource(&first.id).await.unwrap().unwrap();
        (first.state == ResourceState::Destroyed && first.state_reason == "RESOURCE_BROKEN").then_some(())
    })
    .await;
    engine.stop().await;
}
