//! What a transaction has to say to the metrics, kept until it is durable: one that is rolled back, or run again, counts nothing.

use std::sync::Arc;

use tokio::time::Instant;

use super::News;
use crate::clock::Micros;
use crate::metrics::{Metrics, Served, Wake};
use crate::model::id::BlueprintId;
use crate::model::{Lease, LeaseState, Resource, ResourceState};

/// Counts of one transaction.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    /// It has written, and was committed.
    pub(super) durable: bool,
    /// Claims given back to the queue.
    pub(super) took_over: u64,
    cause: Wake,
    wakes: [u32; 4],
    served: Vec<(BlueprintId, Served)>,
    built: Vec<(BlueprintId, Micros)>,
}

impl Counts {
    /// What becomes ready from now on does so for this cause.
    pub(super) fn wakes_are(&mut self, cause: Wake) {
        self.cause = cause;
    }

    pub(super) fn woken(&mut self) {
        self.wakes[self.cause as usize] += 1;
    }

    /// A lease came into a state.
    pub(super) fn served(&mut self, lease: &Lease) {
        if lease.state == LeaseState::Active
            && let (Some(active_time), Some(blueprint)) = (lease.active_time, &lease.blueprint_id)
        {
            let (create_time, build_time, acquire_time) = (lease.create_time, lease.build_time, lease.acquire_time);
            self.served.push((blueprint.clone(), Served { create_time, build_time, acquire_time, active_time }));
        }
    }

    /// A resource came into a state.
    pub(super) fn built(&mut self, resource: &Resource) {
        if resource.state == ResourceState::Active
            && let Some(active_time) = resource.active_time
        {
            self.built.push((resource.blueprint_id.clone(), active_time - resource.create_time));
        }
    }

    fn tell(&self, metrics: &Metrics) {
        for cause in [Wake::Event, Wake::Timer, Wake::Sweep, Wake::Start] {
            metrics.woken(cause, self.wakes[cause as usize]);
        }
        for (blueprint, served) in &self.served {
            metrics.served(blueprint.as_str(), served);
        }
        for (blueprint, took) in &self.built {
            metrics.built(blueprint.as_str(), *took);
        }
        metrics.took_over(self.took_over);
    }
}

/// Measures one transaction.
pub(super) struct Meter {
    metrics: Arc<Metrics>,
    operations: usize,
    begun: Instant,
}

impl Meter {
    /// A transaction of so many operations begins.
    pub(super) fn start(metrics: &Arc<Metrics>, operations: usize) -> Self {
        Self { metrics: Arc::clone(metrics), operations, begun: Instant::now() }
    }

    /// It has ended, with these news when it was committed.
    pub(super) fn stop(self, told: Option<&News>) {
        let Some(told) = told.filter(|told| told.counts.durable) else { return };
        self.metrics.committed(self.operations, self.begun.elapsed());
        for event in &told.events {
            if event.kind.starts_with("blueprint.")
                && let (Some(id), Some(name)) = (event.subjects.first(), event.details.get("name"))
            {
                self.metrics.name(id, name);
            }
            self.metrics.event(&event.kind, &event.reason);
        }
        told.counts.tell(&self.metrics);
    }
}
