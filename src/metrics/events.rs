//! What is counted by the events that a commit wrote. All events are in `drydock_events_total` by their type; what operators
//! watch has a counter of its own, and this is the place to add one: a field of [`Metrics`], a line here.

use super::Metrics;
use super::labels::{Of, Type};

impl Metrics {
    /// An event is durable: its kind, as `lease.released`, and its reason, empty when it has none. Told by the daemon that wrote it.
    pub fn event(&self, kind: &str, reason: &str) {
        self.events.get_or_create(&Type { r#type: kind.to_owned() }).inc();
        match (kind, reason) {
            ("lease.cleanup_failed", _) => drop(self.cleanup_failures.get_or_create(&Of::LEASE).inc()),
            ("resource.cleanup_failed", _) => drop(self.cleanup_failures.get_or_create(&Of::RESOURCE).inc()),
            ("lease.broken" | "resource.broken", "POISONED") => drop(self.poison.inc()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_operators_watch_is_counted_by_itself() {
        let metrics = Metrics::new();
        for (kind, reason) in [
            ("lease.cleanup_failed", ""),
            ("resource.cleanup_failed", ""),
            ("resource.cleanup_failed", ""),
            ("resource.broken", "POISONED"),
            ("resource.broken", "BUILD_FAILED"),
        ] {
            metrics.event(kind, reason);
        }
        let (page, _) = metrics.text(true);
        for line in [
            "drydock_cleanup_failures_total{of=\"lease\"} 1",
            "drydock_cleanup_failures_total{of=\"resource\"} 2",
            "drydock_poisoned_tasks_total 1",
            "drydock_events_total{type=\"resource.broken\"} 2",
        ] {
            assert!(page.contains(line), "{line} in\n{page}");
        }
    }
}
