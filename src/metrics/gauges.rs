//! Gauges that are read from the store when the page is asked for: no bookkeeping in between, and right after a restart.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::catalogue::Catalogue;
use super::labels::{InState, Made, Pool, State, Version};

/// A gauge of seconds.
type Seconds = Gauge<f64, AtomicU64>;

/// How many there are of a type in a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Name of the blueprint; empty for leases.
    pub blueprint: String,
    /// For example `host`.
    pub resource_type: String,
    /// For example `ACTIVE`.
    pub state: String,
    /// So many.
    pub count: i64,
}

/// The queue of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// For example `host`.
    pub resource_type: String,
    /// Leases that wait for a place.
    pub depth: i64,
    /// Since when the oldest of them does.
    pub oldest: Duration,
}

/// Tasks by state; parked ones cost nothing and are not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tasks {
    /// Due now.
    pub ready: i64,
    /// Claimed.
    pub running: i64,
    /// Given up.
    pub dead: i64,
}

/// Resources whose clean-up fails: they keep their slots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leaked {
    /// So many.
    pub resources: i64,
    /// For how long they should have been gone, all together.
    pub time: Duration,
}

/// What was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gauges {
    /// The store answered; else what follows is empty.
    pub store_up: bool,
    /// Leases that are not DESTROYED.
    pub leases: Vec<Tally>,
    /// Resources that are not DESTROYED.
    pub resources: Vec<Tally>,
    /// Queues that are not empty.
    pub queues: Vec<Queued>,
    /// Of the whole queue.
    pub tasks: Tasks,
    /// What should be gone.
    pub leaked: Leaked,
    /// Links over ssh by state.
    pub ssh_links: Vec<(String, i64)>,
    /// When this daemon started, seconds since the epoch.
    pub start_time: i64,
    /// No new leases.
    pub draining: bool,
}

pub(super) struct Read {
    store_up: Gauge,
    leases: Family<InState, Gauge>,
    resources: Family<Made, Gauge>,
    depth: Family<Pool, Gauge>,
    oldest: Family<Pool, Seconds>,
    tasks: Family<State, Gauge>,
    leaked_resources: Gauge,
    leaked: Seconds,
    ssh_links: Family<State, Gauge>,
    start_time: Gauge,
    draining: Gauge,
}

impl Read {
    pub(super) fn register(c: &mut Catalogue) -> Self {
        let build: Family<Version, Gauge> = Family::default();
        build.get_or_create(&Version { version: env!("CARGO_PKG_VERSION").to_owned() }).set(1);
        c.add("drydock_build_info", "Always 1; the version is the label", build);
        Self {
            store_up: c.add(
                "drydock_store_up",
                "1 when the database answered to this reading, else 0",
                Gauge::default(),
            ),
            leases: c.add("drydock_leases", "Leases that are not DESTROYED, by type and state", Family::default()),
            resources: c.add(
                "drydock_resources",
                "Resources that are not DESTROYED, by blueprint, type and state",
                Family::default(),
            ),
            depth: c.add("drydock_queue_depth", "Leases that wait for a place, by type", Family::default()),
            oldest: c.add(
                "drydock_queue_oldest_seconds",
                "Age of the oldest lease that waits for a place, by type",
                Family::default(),
            ),
            tasks: c.add("drydock_tasks", "Tasks that are ready, running or dead", Family::default()),
            leaked_resources: c.add(
                "drydock_leaked_resources",
                "Resources whose clean-up fails and that keep their slots",
                Gauge::default(),
            ),
            leaked: c.add(
                "drydock_leaked_seconds",
                "For how long those resources should have been gone, all together",
                Seconds::default(),
            ),
            ssh_links: c.add("drydock_ssh_links", "Links to machines over ssh, by state", Family::default()),
            start_time: c.add(
                "drydock_start_time_seconds",
                "When the daemon started, since the epoch",
                Gauge::default(),
            ),
            draining: c.add("drydock_draining", "1 while the daemon takes no new leases", Gauge::default()),
        }
    }

    pub(super) fn set(&self, read: &Gauges) {
        self.store_up.set(i64::from(read.store_up));
        self.start_time.set(read.start_time);
        self.draining.set(i64::from(read.draining));
        // What is not there any more has no series, rather than one that stands still.
        self.leases.clear();
        for Tally { resource_type, state, count, .. } in &read.leases {
            let of = InState { resource_type: resource_type.clone(), state: state.clone() };
            self.leases.get_or_create(&of).set(*count);
        }
        self.resources.clear();
        for Tally { blueprint, resource_type, state, count } in &read.resources {
            let (blueprint, resource_type, state) = (blueprint.clone(), resource_type.clone(), state.clone());
            self.resources.get_or_create(&Made { blueprint, resource_type, state }).set(*count);
        }
        self.depth.clear();
        self.oldest.clear();
        for Queued { resource_type, depth, oldest } in &read.queues {
            let of = Pool { resource_type: resource_type.clone() };
            self.depth.get_or_create(&of).set(*depth);
            self.oldest.get_or_create(&of).set(oldest.as_secs_f64());
        }
        self.tasks.clear();
        if read.store_up {
            let Tasks { ready, running, dead } = read.tasks;
            for (state, count) in [("READY", ready), ("RUNNING", running), ("DEAD", dead)] {
                self.tasks.get_or_create(&State { state: state.to_owned() }).set(count);
            }
        }
        self.leaked_resources.set(read.leaked.resources);
        self.leaked.set(read.leaked.time.as_secs_f64());
        self.ssh_links.clear();
        for (state, count) in &read.ssh_links {
            self.ssh_links.get_or_create(&State { state: state.clone() }).set(*count);
        }
    }
}
