//! What callers, operators, time and bad luck do.

use std::time::Duration;

use drydock::engine::Acquire;
use drydock::error::Reason;
use drydock::model::{LeaseState, ResourceState};

use super::{LIMITED, Trace};
use crate::queue::kit::{Fate, Phase, admin, ask};

/// The highest limit that is ever set.
pub(super) const MOST: usize = 4;

const TYPES: [&str; 7] = ["top", "mid", "leaf", "host", "box", "paint", "tool"];

impl Trace {
    pub(super) async fn operation(&mut self) {
        match self.rng.u8(..100) {
            0..30 => self.acquire().await,
            30..45 => self.release().await,
            45..50 => self.renew().await,
            50..65 => self.time_goes_by(),
            65..80 => self.bad_luck(),
            80..86 => self.drain().await,
            86..89 => self.take_away().await,
            89..94 => self.change_limit().await,
            94..98 => self.pause().await,
            _ => self.restart().await,
        }
    }

    fn note(&mut self, what: String) {
        self.log.push(what);
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.rng.usize(..from.len())].clone()) }
    }

    async fn acquire(&mut self) {
        let of = TYPES[self.rng.usize(..TYPES.len())];
        let mut wanted = Acquire { priority: self.rng.i64(-100..=100), ..ask(of) };
        if of == "paint" {
            let colour = if self.rng.bool() { "red" } else { "blue" };
            wanted.attributes.insert("colour".to_owned(), colour.to_owned());
        }
        wanted.ttl = Some(Duration::from_secs(self.rng.u64(1..600)));
        wanted.queue_timeout = self.rng.bool().then(|| Duration::from_secs(self.rng.u64(1..600)));
        let wait = if self.rng.u8(..4) == 0 { Duration::from_millis(1) } else { Duration::ZERO };
        self.bench.clock.advance(Duration::from_micros(self.rng.u64(1..2000)));
        let engine = std::sync::Arc::clone(self.bench.engine());
        let said = format!("acquire {of} priority {} wait {wait:?}", wanted.priority);
        if wait.is_zero() {
            match engine.acquire(&admin(), wanted, None, wait).await {
                Ok(view) => {
                    self.note(format!("{said}: {}", view.lease.id));
                    self.leases.push(view.lease.id);
                }
                Err(error) => {
                    let expected = [Reason::NoBlueprint, Reason::CapacityNever].contains(&error.reason);
                    assert!(expected, "{error}");
                    self.note(format!("{said}: {error}"));
                }
            }
        } else {
            // A caller that works for its lease for a while, in the middle of all else.
            self.note(said);
            let clock = std::sync::Arc::clone(&self.bench.clock);
            tokio::spawn(async move {
                let _ = engine.acquire(&admin(), wanted, None, wait).await;
                drop(clock);
            });
        }
    }

    async fn release(&mut self) {
        let Some(id) = self.pick(&self.leases.clone()) else { return };
        let force = self.rng.bool();
        self.note(format!("release {id} force {force}"));
        let released = self.bench.engine().release_lease(&admin(), id.as_str(), "", force, None, Duration::ZERO).await;
        assert!(released.unwrap().lease.state.has_ended());
    }

    async fn renew(&mut self) {
        let Some(id) = self.pick(&self.leases.clone()) else { return };
        self.note(format!("renew {id}"));
        let ttl = Some(Duration::from_secs(self.rng.u64(1..600)));
        if let Err(error) = self.bench.engine().renew_lease(&admin(), id.as_str(), ttl).await {
            assert!([Reason::LeaseNotActive, Reason::LeaseExpired].contains(&error.reason), "{error}");
        }
    }

    fn time_goes_by(&mut self) {
        let by = Duration::from_millis(1 << self.rng.u32(..18));
        self.note(format!("{by:?} go by"));
        self.bench.clock.advance(by);
    }

    fn bad_luck(&mut self) {
        let of = TYPES[self.rng.usize(..TYPES.len())];
        let phase = [Phase::Build, Phase::Prepare, Phase::Clean, Phase::Destroy][self.rng.usize(..4)];
        let fate = match self.rng.u8(..10) {
            4..6 => ("later", Fate::Later(Duration::from_secs(self.rng.u64(1..100)))),
            6 if matches!(phase, Phase::Build | Phase::Prepare) => ("refuse", Fate::Refuse),
            7 => ("panic", Fate::Panic),
            _ => ("fail", Fate::Fail),
        };
        let times = self.rng.usize(1..7);
        self.note(format!("the next {times} {phase:?} of {of}: {}", fate.0));
        self.bench.world.will(of, phase, vec![fate.1; times]);
    }

    async fn drain(&mut self) {
        let of = LIMITED[self.rng.usize(..LIMITED.len())];
        let Some(resource) = self.pick(&self.bench.resources(of).await) else { return };
        let result = if resource.drain.is_some() || self.rng.u8(..3) == 0 {
            self.note(format!("undrain {} of {of}", resource.id));
            self.bench.engine().undrain_resource(&admin(), resource.id.as_str(), None).await
        } else {
            self.note(format!("drain {} of {of}", resource.id));
            self.bench.engine().drain_resource(&admin(), resource.id.as_str(), "", None).await
        };
        if let Err(error) = result {
            assert_eq!(error.reason, Reason::ResourceNotFound, "{error}");
        }
    }

    async fn take_away(&mut self) {
        let of = TYPES[self.rng.usize(..TYPES.len())];
        let Some(resource) = self.pick(&self.bench.resources(of).await) else { return };
        let force = self.rng.bool();
        self.note(format!("release {} of {of} force {force}", resource.id));
        if let Err(error) = self.bench.engine().release_resource(&admin(), resource.id.as_str(), force, None).await {
            assert_eq!(error.reason, Reason::ResourceInUse, "{error}");
        }
    }

    async fn change_limit(&mut self) {
        let of = LIMITED[self.rng.usize(..LIMITED.len())];
        let limit = i64::try_from(self.rng.usize(1..=MOST)).unwrap();
        self.note(format!("limit {of} {limit}"));
        self.bench.limit(of, |limits| limits.max_resources = Some(limit)).await;
    }

    async fn pause(&mut self) {
        let of = LIMITED[self.rng.usize(..LIMITED.len())];
        let enabled = self.rng.bool();
        self.note(format!("{of} enabled {enabled}"));
        self.bench.engine().set_blueprint_enabled(&admin(), of, enabled, None).await.unwrap();
    }

    async fn restart(&mut self) {
        let workers = self.rng.usize(1..4);
        self.note(format!("restart with {workers} workers"));
        self.bench.restart(workers).await;
        // Nothing that has ended lives again.
        for id in self.leases.clone() {
            let lease = self.bench.lease(&id).await;
            assert!(lease.state != LeaseState::Destroyed || lease.destroy_time.is_some());
        }
        assert!(self.bench.resources("top").await.iter().all(|top| top.state != ResourceState::Destroyed));
    }
}
