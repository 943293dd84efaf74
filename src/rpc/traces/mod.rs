//! Traces over OTLP, when an endpoint is configured: one for each lease that a caller asked for, a span for each step.
//!
//! Ids are derived, so that nothing has to be carried along: a trace has the id of its root lease, the span of a lease or resource
//! that of the lease or resource. What happens is followed from the outside: commits tell events, the scheduler tells steps. Whoever
//! exports is never waited for.

mod exporter;
mod spans;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::Event as SpanEvent;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanProcessor as _};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Settings;
use crate::engine::Engine;
use crate::error::{Result, report};
use crate::metrics::{Metrics, StepsTaken};
use crate::model::Event;
use crate::model::id::{LeaseId, ResourceId};
use crate::store::{News, Store};

/// How long the last spans may take when the daemon goes down.
const GOODBYE: Duration = Duration::from_secs(3);
/// Leases and resources whose events are kept for their spans; when there are more, all are let go.
const KEPT: usize = 10_000;

/// The exporter of a daemon.
pub(super) struct Traces {
    processor: Arc<BatchSpanProcessor>,
    followers: TaskTracker,
    stop: CancellationToken,
}

impl Traces {
    /// Begins to export; `None` when no endpoint is configured.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for an endpoint that cannot be.
    pub(super) fn start(settings: &Settings, engine: &Arc<Engine>) -> Result<Option<Self>> {
        let Some(endpoint) = &settings.otlp_endpoint else { return Ok(None) };
        let store = engine.store();
        let processor = Arc::new(exporter::open(endpoint, engine.daemon_id(), store.metrics())?);
        let (followers, stop) = (TaskTracker::new(), CancellationToken::new());
        let follower = Follower { store: store.clone(), processor: Arc::clone(&processor), said: HashMap::new() };
        followers.spawn(follower.follow(store.news(), stop.clone()));
        if let Some(steps) = store.metrics().follow_steps() {
            followers.spawn(follow_steps(steps, Arc::clone(&processor), stop.clone()));
        }
        Ok(Some(Self { processor, followers, stop }))
    }

    /// Exports what is left, if that works in time.
    pub(super) async fn close(self) {
        self.stop.cancel();
        self.followers.close();
        self.followers.wait().await;
        let processor = self.processor;
        // It blocks.
        let closed = tokio::task::spawn_blocking(move || processor.shutdown_with_timeout(GOODBYE)).await;
        if !matches!(closed, Ok(Ok(()))) {
            tracing::warn!("the last spans of traces were not exported in time");
        }
    }
}

async fn follow_steps(mut steps: StepsTaken, processor: Arc<BatchSpanProcessor>, stop: CancellationToken) {
    loop {
        let taken = tokio::select! {
            biased;
            taken = steps.recv() => taken,
            () = stop.cancelled() => return,
        };
        let Some(taken) = taken else { return };
        if let Some(span) = spans::step(&taken) {
            processor.on_end(span);
        }
    }
}

/// Makes spans of what commits tell.
struct Follower {
    store: Store,
    processor: Arc<BatchSpanProcessor>,
    /// What happened to leases and resources that are not ACTIVE yet.
    said: HashMap<String, Vec<SpanEvent>>,
}

impl Follower {
    async fn follow(mut self, mut news: Receiver<Arc<News>>, stop: CancellationToken) {
        loop {
            let told = tokio::select! {
                biased;
                told = news.recv() => told,
                () = stop.cancelled() => return,
            };
            match told {
                Ok(told) => {
                    for event in &told.events {
                        if let Err(error) = self.take(event).await {
                            tracing::warn!(error = %report(&error), "a span is missing in a trace");
                            self.metrics().span_dropped();
                        }
                    }
                }
                Err(RecvError::Lagged(_)) => self.metrics().span_dropped(),
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn metrics(&self) -> &Metrics {
        self.store.metrics()
    }

    fn export(&self, span: Option<SpanData>) {
        if let Some(span) = span {
            self.processor.on_end(span);
        }
    }

    async fn take(&mut self, event: &Event) -> Result<()> {
        let (Some(subject), Some((noun, verb))) = (event.subjects.first(), event.kind.split_once('.')) else {
            return Ok(());
        };
        if event.root_id.is_none() || !matches!(noun, "lease" | "resource") {
            return Ok(());
        }
        if self.said.len() > KEPT {
            self.said.clear();
        }
        self.said.entry(subject.clone()).or_default().push(spans::event(event));
        let ends = matches!(verb, "activated" | "released" | "broken");
        if ends && let Some(id) = LeaseId::parse(subject) {
            if let Some(lease) = self.store.find_lease(&id).await? {
                let said = self.said.remove(subject).unwrap_or_default();
                // What ends after it was ACTIVE has had its span.
                if verb == "activated" || lease.active_time.is_none() {
                    self.export(spans::lease(&lease, said));
                }
            }
        } else if ends && let Some(id) = ResourceId::parse(subject) {
            if let Some(resource) = self.store.find_resource(&id).await? {
                let said = self.said.remove(subject).unwrap_or_default();
                if verb == "activated" || resource.active_time.is_none() {
                    self.export(spans::resource(&resource, said));
                }
            }
        } else if verb == "destroyed" {
            let said = self.said.remove(subject).unwrap_or_default();
            if let Some(id) = LeaseId::parse(subject)
                && let Some(lease) = self.store.find_lease(&id).await?
            {
                self.export(spans::clean_up(&lease, said));
            }
        }
        Ok(())
    }
}
