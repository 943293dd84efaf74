//! The way to the collector. Fails without holding anybody up, and says so in the log, not for each span.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanExporter as Export, SpanProcessor as _};

use crate::error::{Error, Result};
use crate::metrics::Metrics;

/// Batches spans for a collector; connects when there is something to send.
///
/// # Errors
/// `INVALID_ARGUMENT` for an endpoint that cannot be.
pub(super) fn open(endpoint: &str, daemon: &str, metrics: &Arc<Metrics>) -> Result<BatchSpanProcessor> {
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build().map_err(|error| {
        Error::invalid(format!("OTEL_EXPORTER_OTLP_ENDPOINT {endpoint:?} is no endpoint for traces: {error}"))
    })?;
    let (metrics, failing) = (Arc::clone(metrics), AtomicBool::new(false));
    let mut processor = BatchSpanProcessor::builder(Watched { exporter, metrics, failing }).build();
    let of = [("service.version", env!("CARGO_PKG_VERSION")), ("service.instance.id", daemon)]
        .map(|(key, value)| opentelemetry::KeyValue::new(key, value.to_owned()));
    processor.set_resource(&Resource::builder().with_service_name("drydock").with_attributes(of).build());
    Ok(processor)
}

/// An exporter whose failures are seen.
#[derive(Debug)]
struct Watched {
    exporter: SpanExporter,
    metrics: Arc<Metrics>,
    failing: AtomicBool,
}

impl Export for Watched {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let outcome = self.exporter.export(batch).await;
        let failed = outcome.is_err();
        let failed_before = self.failing.swap(failed, Ordering::Relaxed);
        if let Err(error) = &outcome {
            (0..spans).for_each(|_| self.metrics.span_dropped());
            if !failed_before {
                tracing::warn!(%error, "traces cannot be exported; their spans are dropped until they can");
            }
        } else if failed_before {
            tracing::info!("traces are exported again");
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: std::time::Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
