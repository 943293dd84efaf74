//! What a daemon counts, and how it is written down for Prometheus.
//!
//! One [`Metrics`] a daemon, made with its store; whoever has the store can count. Names follow Prometheus' rules: base units,
//! `_seconds`, `_total` of counters. Labels have few values: names of blueprints and of methods, states, causes; never an id, an
//! owner or a word of a caller. A counter for something that is told in an event is one line in `events.rs`.

mod catalogue;
mod events;
mod gauges;
mod labels;
mod taken;
mod text;

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::clock::{Micros, span};
use catalogue::Catalogue;
pub use catalogue::Described;
pub use gauges::{Gauges, Leaked, Queued, Tally, Tasks};
use labels::{Blueprint, Call, Cause, Method, Of, Phase, Step, Type};
pub use taken::{StepTaken, StepsTaken};

/// A histogram for each set of labels.
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// Why a task became ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wake {
    /// Something that it waited for happened, or it is new.
    #[default]
    Event,
    /// Its time came.
    Timer,
    /// The sweep found it: a claim that nobody renewed. None in a healthy run.
    Sweep,
    /// A daemon started and took over what the one before held.
    Start,
}

/// How a step of a task came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Committed.
    Done,
    /// Its claim was lost; it left nothing.
    FenceLost,
    /// It failed, and the task is tried again.
    Failed,
}

/// What a lease took until it was ACTIVE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// Accepted.
    pub create_time: Micros,
    /// Its resource began to be built for it, if one was.
    pub build_time: Option<Micros>,
    /// It got its resource.
    pub acquire_time: Option<Micros>,
    /// Usable.
    pub active_time: Micros,
}

/// All metrics of one daemon.
pub struct Metrics {
    catalogue: Catalogue,
    /// Names of blueprints by id, for labels.
    names: RwLock<HashMap<String, String>>,
    lease_wait: Histograms<Blueprint>,
    lease_phase: Histograms<Phase>,
    resource_build: Histograms<Blueprint>,
    events: Family<Type, Counter>,
    cleanup_failures: Family<Of, Counter>,
    poison: Counter,
    wakes: Family<Cause, Counter>,
    steps: Family<Step, Counter>,
    step_time: Histograms<Of>,
    fence_losses: Counter,
    empty_claims: Counter,
    claims_taken_over: Counter,
    commits: Counter,
    commit_time: Histogram,
    batch: Histogram,
    store_failures: Counter,
    calls: Family<Call, Counter>,
    call_time: Histograms<Method>,
    streams: Family<Method, Gauge>,
    traces_dropped: Counter,
    follower: taken::Follower,
    read: gauges::Read,
}

/// From a warm lease to one that waits for hours.
fn waits() -> Histogram {
    Histogram::new([
        0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0,
        7200.0,
    ])
}

/// What a machine does by itself: a commit, a step, a call.
fn works() -> Histogram {
    Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0])
}

fn batches() -> Histogram {
    Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut c = Catalogue::default();
        let waits_of = Histograms::new_with_constructor(waits as fn() -> Histogram);
        let metrics = Self {
            lease_wait: c.add("drydock_lease_wait_seconds", "From a lease's acceptance until it was ACTIVE", waits_of),
            lease_phase: c.add(
                "drydock_lease_phase_seconds",
                "What a lease took until it was ACTIVE, by phase: queue, build, set_up",
                Histograms::new_with_constructor(waits as fn() -> Histogram),
            ),
            resource_build: c.add(
                "drydock_resource_build_seconds",
                "From the birth of a resource until it was ACTIVE, with all that it waited for",
                Histograms::new_with_constructor(waits as fn() -> Histogram),
            ),
            events: c.add("drydock_events", "Events written, by type", Family::default()),
            cleanup_failures: c.add(
                "drydock_cleanup_failures",
                "Clean-ups that failed and are tried again; what they belong to keeps its slots",
                Family::default(),
            ),
            poison: c.add(
                "drydock_poisoned_tasks",
                "Tasks given up since they killed their daemon too often",
                Counter::default(),
            ),
            wakes: c.add(
                "drydock_wakes",
                "Tasks that became ready, by cause; the sweep has none in a healthy run",
                Family::default(),
            ),
            steps: c.add("drydock_steps", "Steps of tasks, by subject and outcome", Family::default()),
            step_time: c.add(
                "drydock_step_seconds",
                "A step of a task, from its begin to its commit",
                Histograms::new_with_constructor(works as fn() -> Histogram),
            ),
            fence_losses: c.add(
                "drydock_fence_losses",
                "Steps whose claim was lost before they could commit",
                Counter::default(),
            ),
            empty_claims: c.add("drydock_empty_claims", "Looks for a ready task that found none", Counter::default()),
            claims_taken_over: c.add(
                "drydock_claims_taken_over",
                "Claims of a dead daemon, or one that could not renew them, that went back to the queue",
                Counter::default(),
            ),
            commits: c.add("drydock_store_commits", "Transactions that wrote and were committed", Counter::default()),
            commit_time: c.add(
                "drydock_store_commit_seconds",
                "A transaction that wrote, from its begin until it was durable",
                works(),
            ),
            batch: c.add("drydock_store_batch_operations", "Operations that shared one commit", batches()),
            store_failures: c.add(
                "drydock_store_failures",
                "Writes that the database did not take",
                Counter::default(),
            ),
            calls: c.add("drydock_rpcs", "Calls that ended, by method and status code", Family::default()),
            call_time: c.add(
                "drydock_rpc_seconds",
                "Calls from their first header to their last trailer, streams included",
                Histograms::new_with_constructor(works as fn() -> Histogram),
            ),
            streams: c.add("drydock_streams_open", "Streaming calls that are open", Family::default()),
            traces_dropped: c.add(
                "drydock_trace_spans_dropped",
                "Spans that were not exported: the exporter fell behind",
                Counter::default(),
            ),
            read: gauges::Read::register(&mut c),
            names: RwLock::default(),
            follower: taken::Follower::default(),
            catalogue: c,
        };
        metrics.begin_at_zero();
        metrics
    }

    /// Series that alarms look at exist before anything goes wrong.
    fn begin_at_zero(&self) {
        for cause in [Wake::Event, Wake::Timer, Wake::Sweep, Wake::Start] {
            drop(self.wakes.get_or_create(&cause.into()));
        }
        for of in [Of::LEASE, Of::RESOURCE] {
            drop(self.cleanup_failures.get_or_create(&of));
        }
    }

    /// The blueprint of this id goes by this name.
    pub fn name(&self, blueprint_id: &str, name: &str) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        names.insert(blueprint_id.to_owned(), name.to_owned());
    }

    fn name_of(&self, blueprint_id: &str) -> Blueprint {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        Blueprint { blueprint: names.get(blueprint_id).cloned().unwrap_or_else(|| "unknown".to_owned()) }
    }

    /// A lease became ACTIVE on a resource of this blueprint.
    pub fn served(&self, blueprint_id: &str, took: &Served) {
        let of = self.name_of(blueprint_id);
        let acquired = took.acquire_time.unwrap_or(took.active_time);
        // What was built may have gone to another, long before this one got its own.
        let begun = took.build_time.filter(|begun| *begun <= acquired);
        let seconds = |from: Micros, to: Micros| span(to - from).as_secs_f64();
        self.lease_wait.get_or_create(&of).observe(seconds(took.create_time, took.active_time));
        let phase = |phase: &'static str, seconds: f64| {
            let labels = Phase { blueprint: of.blueprint.clone(), phase };
            self.lease_phase.get_or_create(&labels).observe(seconds);
        };
        phase("queue", seconds(took.create_time, begun.unwrap_or(acquired)));
        if let Some(begun) = begun {
            phase("build", seconds(begun, acquired));
        }
        phase("set_up", seconds(acquired, took.active_time));
    }

    /// A resource of this blueprint became ACTIVE after so long, in microseconds.
    pub fn built(&self, blueprint_id: &str, took: Micros) {
        self.resource_build.get_or_create(&self.name_of(blueprint_id)).observe(span(took).as_secs_f64());
    }

    /// Tasks became ready.
    pub fn woken(&self, cause: Wake, tasks: u32) {
        if tasks > 0 {
            self.wakes.get_or_create(&cause.into()).inc_by(u64::from(tasks));
        }
    }

    /// A look for a ready task found none.
    pub fn found_none(&self) {
        self.empty_claims.inc();
    }

    /// Claims went back to the queue since nobody renewed them.
    pub fn took_over(&self, claims: u64) {
        self.claims_taken_over.inc_by(claims);
    }

    /// A transaction that wrote is durable.
    pub fn committed(&self, operations: usize, took: Duration) {
        self.commits.inc();
        self.commit_time.observe(took.as_secs_f64());
        self.batch.observe(f64::from(u32::try_from(operations).unwrap_or(u32::MAX)));
    }

    /// A write was not taken.
    pub fn not_committed(&self) {
        self.store_failures.inc();
    }

    /// A call ended; `method` is one of this server's, `code` a name of gRPC's.
    pub fn called(&self, method: &'static str, code: &'static str, took: Duration) {
        self.calls.get_or_create(&Call { method, code }).inc();
        self.call_time.get_or_create(&Method { method }).observe(took.as_secs_f64());
    }

    /// A streaming call began, or else ended.
    pub fn stream(&self, method: &'static str, began: bool) {
        let streams = self.streams.get_or_create(&Method { method });
        if began {
            streams.inc()
        } else {
            streams.dec()
        };
    }

    /// A span could not be handed to the exporter.
    pub fn span_dropped(&self) {
        self.traces_dropped.inc();
    }

    /// Puts what was just read into the gauges. One reading at a time, up to and with [`Metrics::text`].
    pub fn read(&self, gauges: &Gauges) {
        self.read.set(gauges);
    }

    /// All metrics that there are, in the order of the page.
    #[must_use]
    pub fn described(&self) -> &[Described] {
        self.catalogue.described()
    }

    /// The page, as `OpenMetrics` or in the older format that every scraper knows, and its content type.
    #[must_use]
    pub fn text(&self, open_metrics: bool) -> (String, &'static str) {
        let page = self.catalogue.page();
        if open_metrics { (page, text::OPEN_METRICS) } else { (text::plain(&page), text::PLAIN) }
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_counted_in_its_phases() {
        let metrics = Metrics::new();
        metrics.name("bp_1", "scratch");
        let took = Served {
            create_time: 0,
            build_time: Some(2_000_000),
            acquire_time: Some(6_000_000),
            active_time: 7_000_000,
        };
        metrics.served("bp_1", &took);
        // What began to be built for it went to another, and it was given a place later: all of that is its time in the queue.
        metrics.served("bp_1", &Served { build_time: Some(6_500_000), ..took });
        let (page, _) = metrics.text(true);
        for line in [
            r#"drydock_lease_wait_seconds_sum{blueprint="scratch"} 14.0"#,
            r#"drydock_lease_phase_seconds_sum{blueprint="scratch",phase="queue"} 8.0"#,
            r#"drydock_lease_phase_seconds_sum{blueprint="scratch",phase="build"} 4.0"#,
            r#"drydock_lease_phase_seconds_count{blueprint="scratch",phase="build"} 1"#,
            r#"drydock_lease_phase_seconds_sum{blueprint="scratch",phase="set_up"} 2.0"#,
        ] {
            assert!(page.contains(line), "{line} in\n{page}");
        }
    }

    #[test]
    fn names_follow_prometheus_rules() {
        let metrics = Metrics::new();
        for Described { name, kind, help } in metrics.described() {
            assert!(name.starts_with("drydock_") && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == "counter", "{name}");
            assert!(!name.contains("milli") && !name.contains("micro") && !help.ends_with('.'), "{name}: {help}");
        }
        let (page, _) = metrics.text(true);
        assert!(page.contains("drydock_wakes_total{cause=\"sweep\"} 0"), "{page}");
        assert!(page.ends_with("# EOF\n"));
    }
}
