//! What goes wrong, chosen by a seed: when, what and with whom.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use rustix::process::Signal;
use tokio::time::{Instant, interval};

use super::daemon::CLAIM;
use super::fleet::Fleet;
use super::server::Stop;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// A daemon is killed, and started again a little later.
    Kill,
    /// A daemon stands still for longer than its claims hold, and then goes on as if nothing had been.
    Freeze,
    /// Whoever listens to others is cut off by the server.
    Deafen,
    RestartFast,
    RestartImmediate,
    /// A daemon's connections end.
    Cut,
    /// A daemon's connections are slow.
    Delay,
    /// Nothing comes through a daemon's connections, and nobody tells it.
    Hold,
}

/// All, and how often each is chosen.
pub(super) const ALL: [(Fault, u32); 8] = [
    (Fault::Kill, 6),
    (Fault::Freeze, 4),
    (Fault::Deafen, 3),
    (Fault::RestartFast, 1),
    (Fault::RestartImmediate, 1),
    (Fault::Cut, 4),
    (Fault::Delay, 3),
    (Fault::Hold, 2),
];

/// How a fault ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Start,
    Continue,
    Clear,
}

/// Injects faults.
pub(super) struct Nemesis {
    rng: Rng,
    faults: Vec<(Fault, u32)>,
    /// Daemons that something is wrong with, and when that ends.
    out: Vec<(Instant, usize, End)>,
    /// How often each was injected.
    pub(super) counts: BTreeMap<Fault, u32>,
    /// How daemons ended that nobody killed.
    pub(super) ended: Vec<String>,
}

impl Nemesis {
    /// Of these faults.
    pub(super) fn new(seed: u64, only: &[Fault]) -> Self {
        let chosen = |(fault, _): &(Fault, u32)| only.contains(fault);
        let faults = ALL.into_iter().filter(chosen).collect();
        Self { rng: Rng::with_seed(seed), faults, out: Vec::new(), counts: BTreeMap::new(), ended: Vec::new() }
    }

    /// Rages for so long, then sets all right that it has done.
    pub(super) async fn rage(&mut self, fleet: &mut Fleet, span: Duration) {
        let end = Instant::now() + span;
        let mut next = Instant::now();
        let mut ticks = interval(Duration::from_millis(20));
        while Instant::now() < end {
            ticks.tick().await;
            self.mend(fleet, false);
            if Instant::now() >= next {
                self.strike(fleet).await;
                next = Instant::now() + Duration::from_millis(self.rng.u64(100..1500));
            }
        }
        self.mend(fleet, true);
    }

    /// Starts whoever has ended by itself.
    pub(super) fn watch_over(&mut self, fleet: &mut Fleet) {
        for daemon in &mut fleet.daemons {
            if let Some(status) = daemon.has_ended() {
                self.ended.push(format!("{} ({status})", daemon.name));
                daemon.start();
            }
        }
    }

    fn mend(&mut self, fleet: &mut Fleet, all: bool) {
        let now = Instant::now();
        let (over, out) = self.out.drain(..).partition(|(until, ..)| all || *until <= now);
        self.out = out;
        for (_, number, end) in over {
            let daemon = &mut fleet.daemons[number];
            match end {
                End::Start => daemon.start(),
                End::Continue => daemon.signal(Signal::CONT),
                End::Clear => daemon.wire.clear(),
            }
        }
        self.watch_over(fleet);
    }

    async fn strike(&mut self, fleet: &mut Fleet) {
        let total: u32 = self.faults.iter().map(|(_, weight)| weight).sum();
        if total == 0 {
            return;
        }
        let mut drawn = self.rng.u32(..total);
        let at = self.faults.iter().position(|(_, weight)| {
            let here = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            here
        });
        let fault = self.faults[at.unwrap_or(0)].0;
        let number = self.rng.usize(..fleet.daemons.len());
        let for_a_while =
            |rng: &mut Rng, millis: std::ops::Range<u64>| Instant::now() + Duration::from_millis(rng.u64(millis));
        let is_out = self.out.iter().any(|(_, out, _)| *out == number);
        let daemon = &mut fleet.daemons[number];
        match fault {
            Fault::Kill | Fault::Freeze | Fault::Delay | Fault::Hold if is_out => return,
            Fault::Kill => {
                daemon.kill();
                if number == 3 {
                    daemon.set_clock(if self.rng.bool() { 3600 } else { -3600 });
                }
                self.out.push((for_a_while(&mut self.rng, 0..3000), number, End::Start));
            }
            Fault::Freeze => {
                daemon.signal(Signal::STOP);
                let claim = CLAIM * 1000;
                self.out.push((for_a_while(&mut self.rng, claim + 500..claim * 2), number, End::Continue));
            }
            Fault::Cut => daemon.wire.cut(),
            Fault::Delay => {
                daemon.wire.delay(Duration::from_millis(self.rng.u64(5..300)));
                self.out.push((for_a_while(&mut self.rng, 500..3000), number, End::Clear));
            }
            Fault::Hold => {
                daemon.wire.hold();
                self.out.push((for_a_while(&mut self.rng, 500..CLAIM * 2000), number, End::Clear));
            }
            Fault::Deafen => {
                let mut admin = fleet.server.admin().await;
                let listeners =
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'LISTEN %'";
                sqlx::query(listeners).execute(&mut admin).await.unwrap();
            }
            Fault::RestartFast => fleet.server.restart(Stop::Fast).await,
            Fault::RestartImmediate => fleet.server.restart(Stop::Immediate).await,
        }
        *self.counts.entry(fault).or_default() += 1;
    }
}
