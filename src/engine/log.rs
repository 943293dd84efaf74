//! Events in the daemon's log, with the ids of what they are about.

use crate::model::Event;

/// One line: what an operator must see to is a warning, what went wrong for a caller is told, the rest is for those who look closely.
pub(super) fn event(event: &Event) {
    let subject = event.subjects.first().map_or("", String::as_str);
    let id = |prefix: &str| event.subjects.iter().map(String::as_str).find(|id| id.starts_with(prefix));
    let (lease, resource, task) = (id("lease_"), id("res_"), id("task_"));
    let root = event.root_id.as_ref().map(tracing::field::display);
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                event = event.kind,
                reason = event.reason,
                subject,
                lease,
                resource,
                task,
                root,
                "{}",
                event.message
            )
        };
    }
    match event.kind.rsplit('.').next().unwrap_or_default() {
        "cleanup_failed" => line!(warn),
        "broken" if event.reason == "POISONED" => line!(warn),
        "broken" | "failed" => line!(info),
        _ => line!(debug),
    }
}
