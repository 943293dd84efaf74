//! The same operations on `SQLite` and on `PostgreSQL`, step by step, come to the same states.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use drydock::engine::Acquire;
use drydock::model::id::LeaseId;
use drydock::model::{Lease, LeaseState};
use drydock::store::ListQuery;
use fastrand::Rng;

use super::{LIMITED, kinds};
use crate::postgres::{choose, is_installed};
use crate::queue::kit::{Bench, Fate, Phase, World, admin, ask, eventually};

const TYPES: [&str; 7] = ["top", "mid", "leaf", "host", "box", "paint", "tool"];

/// What is done; leases by their number.
#[derive(Debug, Clone)]
enum Operation {
    Acquire(Acquire),
    Release(usize, bool),
    Renew(usize, Duration),
    Time(Duration),
    /// Without chance: a failure that is tried again waits for a random time.
    Refuse(&'static str, Phase),
    Later(&'static str, Phase, Duration),
    Limit(&'static str, i64),
    Enable(&'static str, bool),
}

fn operation(rng: &mut Rng) -> Operation {
    let of = TYPES[rng.usize(..TYPES.len())];
    let limited = LIMITED[rng.usize(..LIMITED.len())];
    let phase = [Phase::Build, Phase::Prepare, Phase::Clean, Phase::Destroy][rng.usize(..4)];
    match rng.u8(..100) {
        0..45 => {
            let mut wanted = Acquire { priority: rng.i64(-100..=100), ..ask(of) };
            if of == "paint" {
                let colour = if rng.bool() { "red" } else { "blue" };
                wanted.attributes.insert("colour".to_owned(), colour.to_owned());
            }
            wanted.ttl = Some(Duration::from_secs(rng.u64(1..600)));
            wanted.queue_timeout = rng.bool().then(|| Duration::from_secs(rng.u64(1..600)));
            Operation::Acquire(wanted)
        }
        45..65 => Operation::Release(rng.usize(..), rng.bool()),
        65..70 => Operation::Renew(rng.usize(..), Duration::from_secs(rng.u64(1..600))),
        70..85 => Operation::Time(Duration::from_millis(1 << rng.u32(..18))),
        85..88 => Operation::Refuse(of, if rng.bool() { Phase::Build } else { Phase::Prepare }),
        88..92 => Operation::Later(of, phase, Duration::from_secs(rng.u64(1..100))),
        92..97 => Operation::Limit(limited, rng.i64(1..=4)),
        _ => Operation::Enable(limited, rng.bool()),
    }
}

/// One of the two.
struct Side {
    bench: Bench,
    leases: Vec<LeaseId>,
}

impl Side {
    async fn start(postgres: bool) -> Self {
        choose(postgres);
        let world = Arc::new(World::default());
        let bench = Bench::start(1, Arc::clone(&world), kinds(&world)).await;
        choose(false);
        Self { bench, leases: Vec::new() }
    }

    /// Does it; what it came to, in words.
    async fn run(&mut self, operation: &Operation) -> String {
        let engine = Arc::clone(self.bench.engine());
        let of = |number: usize| self.leases.get(number % self.leases.len().max(1)).cloned();
        match operation.clone() {
            Operation::Acquire(wanted) => match self.bench.queue_as(&admin(), wanted).await {
                Ok(id) => {
                    self.leases.push(id);
                    "queued".to_owned()
                }
                Err(error) => error.reason.as_str().to_owned(),
            },
            Operation::Release(number, force) => {
                let Some(id) = of(number) else { return String::new() };
                engine.release_lease(&admin(), id.as_str(), "", force, None, Duration::ZERO).await.unwrap();
                "released".to_owned()
            }
            Operation::Renew(number, ttl) => {
                let Some(id) = of(number) else { return String::new() };
                let renewed = engine.renew_lease(&admin(), id.as_str(), Some(ttl)).await;
                renewed.map_or_else(|error| error.reason.as_str().to_owned(), |_| "renewed".to_owned())
            }
            Operation::Time(by) => {
                self.bench.clock.advance(by);
                String::new()
            }
            Operation::Refuse(kind, phase) => {
                self.bench.world.will(kind, phase, [Fate::Refuse]);
                String::new()
            }
            Operation::Later(kind, phase, after) => {
                self.bench.world.will(kind, phase, [Fate::Later(after)]);
                String::new()
            }
            Operation::Limit(kind, limit) => {
                self.bench.limit(kind, |limits| limits.max_resources = Some(limit)).await;
                String::new()
            }
            Operation::Enable(kind, enabled) => {
                engine.set_blueprint_enabled(&admin(), kind, enabled, None).await.unwrap();
                String::new()
            }
        }
    }

    /// Returns when nothing moves before the clock does.
    async fn settle(&self) {
        let store = self.bench.engine().store();
        eventually("nothing is to be done now", async || {
            let due = store
                .next_timer()
                .await
                .unwrap()
                .is_some_and(|at| at <= drydock::clock::Clock::now(&*self.bench.clock));
            (!due && !store.is_busy().await.unwrap()).then_some(())
        })
        .await;
    }

    /// All that can be seen, without names that are made up: how often each.
    async fn states(&self) -> BTreeMap<String, usize> {
        let store = self.bench.engine().store();
        let all = ListQuery { limit: 9999, ..ListQuery::default() };
        let mut seen = BTreeMap::new();
        let mut see = |what: String| *seen.entry(what).or_default() += 1;
        let number = |id: &LeaseId| self.leases.iter().position(|lease| lease == id);
        let leases = store.list_leases(&all, true).await.unwrap();
        let of_lease: BTreeMap<String, &Lease> = leases.iter().map(|lease| (lease.id.to_string(), lease)).collect();
        for lease in &leases {
            let waiting = lease.waiting.as_ref().map_or("", |waiting| waiting.reason.as_str());
            see(format!(
                "lease of tree {:?} at {} of {}: {} {} {waiting}, epoch {}, place {}, {} lost",
                number(&lease.root_id),
                lease.depth,
                lease.spec.resource_type,
                lease.state.as_str(),
                lease.state_reason,
                lease.epoch,
                lease.resource_id.is_some(),
                lease.reacquires,
            ));
        }
        let resources = store.list_resources(&all).await.unwrap();
        for resource in &resources {
            see(format!(
                "{} for {:?}: {} {}",
                resource.resource_type,
                resource.root_id.as_ref().and_then(number),
                resource.state.as_str(),
                resource.state_reason
            ));
        }
        for (slot, holder) in store.slots().await.unwrap() {
            let place = slot.rsplit_once('/').unwrap().1.to_owned();
            let holder = of_lease.get(&holder).map(|lease| (number(&lease.root_id), &lease.spec.resource_type));
            see(format!("place {place} of a {} is held by {holder:?}", slot.split('_').next().unwrap()));
        }
        for task in store.list_tasks(&all).await.unwrap() {
            let root = task.root_id.as_ref().and_then(number);
            let pools: Vec<&String> = task.waits_for.iter().filter(|on| on.starts_with("pool:")).collect();
            see(format!(
                "task of tree {root:?}: {} waits for {} of which {pools:?}, timer {:?}, baton {:?}",
                task.state.as_str(),
                task.waits_for.len(),
                task.run_at,
                task.baton
            ));
        }
        seen
    }

    async fn give_everything_back(&self) {
        for id in &self.leases {
            if self.bench.state(id).await.has_ended() || self.bench.state(id).await == LeaseState::Destroyed {
                continue;
            }
            self.bench.release(id).await;
        }
    }
}

async fn compare(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let (mut one, mut other) = (Side::start(false).await, Side::start(true).await);
    let mut log = Vec::new();
    for _ in 0..rng.usize(15..35) {
        let operation = operation(&mut rng);
        let (here, there) = (one.run(&operation).await, other.run(&operation).await);
        log.push(format!("{operation:?}: {here}"));
        assert_eq!(here, there, "seed {seed}, after:\n  {}", log.join("\n  "));
        one.settle().await;
        other.settle().await;
        let (here, there) = (one.states().await, other.states().await);
        let differs: Vec<_> = here
            .iter()
            .filter(|(what, count)| there.get(*what) != Some(count))
            .map(|of| ("SQLite", of))
            .chain(there.iter().filter(|(what, count)| here.get(*what) != Some(count)).map(|of| ("PostgreSQL", of)))
            .collect();
        assert!(differs.is_empty(), "seed {seed}: {differs:#?}\nafter:\n  {}", log.join("\n  "));
    }
    one.give_everything_back().await;
    other.give_everything_back().await;
    crate::queue::invariants::assert_hold(&one.bench.database()).await;
    crate::queue::invariants::assert_hold(&other.bench.database()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_operations_come_to_the_same_states_on_either_database() {
    if !is_installed() {
        return;
    }
    let seeds = match std::env::var("DRYDOCK_TRACE_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..4).collect(),
    };
    for seed in seeds {
        Box::pin(compare(seed)).await;
    }
}
