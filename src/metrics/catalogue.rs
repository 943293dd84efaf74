//! The registry, and what is in it.

use prometheus_client::encoding::text;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Metric, Registry};

/// A metric, for whoever looks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// As a query names it: of a counter with `_total`, of a histogram without `_bucket`, `_sum` and `_count`.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// What it means.
    pub help: &'static str,
}

/// Metrics with their descriptions.
#[derive(Default)]
pub(super) struct Catalogue {
    registry: Registry,
    described: Vec<Described>,
}

impl Catalogue {
    /// Takes a metric in; a counter's name goes without `_total`, which the page adds.
    pub(super) fn add<M: Metric + Clone>(&mut self, name: &'static str, help: &'static str, metric: M) -> M {
        let (kind, end) = match metric.metric_type() {
            MetricType::Counter => ("counter", "_total"),
            MetricType::Histogram => ("histogram", ""),
            _ => ("gauge", ""),
        };
        self.described.push(Described { name: format!("{name}{end}"), kind, help });
        self.registry.register(name, help, metric.clone());
        metric
    }

    pub(super) fn described(&self) -> &[Described] {
        &self.described
    }

    pub(super) fn page(&self) -> String {
        let mut page = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut page, &self.registry);
        page
    }
}
