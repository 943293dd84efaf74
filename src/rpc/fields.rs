//! The fields that listings can be filtered by, and how a listing's page and filter are read. The columns behind the
//! fields are in `store/list.rs`.

use crate::error::Result;
use crate::model::filter::{Field, Filter, Kind};
use crate::store::ListQuery;

use super::page::Page;

const fn field(name: &'static str, kind: Kind) -> Field {
    Field { name, kind }
}

const LEASE_STATES: &[&str] = &["PENDING", "ACQUIRED", "ACTIVE", "RELEASED", "BROKEN", "DESTROYED"];
const RESOURCE_STATES: &[&str] = &["PENDING", "ACTIVE", "RELEASED", "BROKEN", "DESTROYED"];
const TASK_STATES: &[&str] = &["READY", "RUNNING", "PARKED", "DONE", "DEAD"];

/// Of leases.
pub(crate) const LEASE: &[Field] = &[
    field("id", Kind::Text),
    field("resource_type", Kind::Text),
    field("state", Kind::Enum(LEASE_STATES)),
    field("state_reason", Kind::Text),
    field("owner", Kind::Text),
    field("resource_id", Kind::Text),
    field("parent_resource_id", Kind::Text),
    field("root_lease_id", Kind::Text),
    field("priority", Kind::Integer),
    field("create_time", Kind::Time),
    field("active_time", Kind::Time),
    field("expire_time", Kind::Time),
    field("use_time", Kind::Time),
    field("end_time", Kind::Time),
    field("labels", Kind::Map),
    field("attributes", Kind::Map),
    field("facts", Kind::Map),
];

/// Of resources.
pub(crate) const RESOURCE: &[Field] = &[
    field("id", Kind::Text),
    field("name", Kind::Text),
    field("resource_type", Kind::Text),
    field("blueprint_id", Kind::Text),
    field("state", Kind::Enum(RESOURCE_STATES)),
    field("state_reason", Kind::Text),
    field("problem", Kind::Text),
    field("cleanup_failures", Kind::Integer),
    field("create_time", Kind::Time),
    field("labels", Kind::Map),
    field("facts", Kind::Map),
    field("attributes", Kind::Map),
];

/// Of blueprints.
pub(crate) const BLUEPRINT: &[Field] = &[
    field("id", Kind::Text),
    field("name", Kind::Text),
    field("kind", Kind::Text),
    field("resource_type", Kind::Text),
    field("enabled", Kind::Bool),
    field("create_time", Kind::Time),
    field("update_time", Kind::Time),
    field("labels", Kind::Map),
];

/// Of tasks.
pub(crate) const TASK: &[Field] = &[
    field("id", Kind::Text),
    field("subject_id", Kind::Text),
    field("state", Kind::Enum(TASK_STATES)),
    field("attempts", Kind::Integer),
    field("last_error", Kind::Text),
    field("due_time", Kind::Time),
    field("claimed_by", Kind::Text),
];

/// Of events.
pub(crate) const EVENT: &[Field] = &[
    field("id", Kind::Text),
    field("time", Kind::Time),
    field("type", Kind::Text),
    field("reason", Kind::Text),
    field("actor", Kind::Text),
    field("subject_id", Kind::Text),
    field("root_lease_id", Kind::Text),
    field("details", Kind::Map),
];

/// The question to the store; whose entries may be seen is the engine's to say.
///
/// # Errors
/// `INVALID_FILTER`.
pub(crate) fn query(page: &Page, filter: &str, fields: &[Field]) -> Result<ListQuery> {
    let filter = Filter::parse(filter, fields)?;
    Ok(ListQuery { filter, owner: None, after: page.after.clone(), limit: page.size })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::ManualClock;
    use crate::model::{LeaseState, ResourceState, TaskState};
    use crate::store::{Location, Store};

    /// A comparison that any value of the field's kind allows.
    fn comparison(field: &Field) -> String {
        let name = field.name;
        match field.kind {
            Kind::Text => format!("{name} = some*"),
            Kind::Time => format!("{name} < 2026-11-23T00:00:00Z"),
            Kind::Integer => format!("{name} >= -3"),
            Kind::Bool => format!("{name} != true"),
            Kind::Enum(words) => format!("{name} = STATE_{}", words[0]),
            Kind::Map => format!("{name}.job = \"4711\""),
        }
    }

    fn query_of(fields: &[Field]) -> ListQuery {
        let text = fields.iter().map(comparison).collect::<Vec<_>>().join(" AND ");
        let page = Page::open("Test", 0, "", &()).unwrap();
        query(&page, &text, fields).unwrap()
    }

    #[tokio::test]
    async fn every_field_has_a_column() {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::Sqlite { path: folder.path().join("drydock.db") };
        let store = Store::open(&location, Arc::clone(&ManualClock::at(1_000_000)) as _).await.unwrap();
        assert!(store.list_leases(&query_of(LEASE), true).await.unwrap().is_empty());
        assert!(store.list_resources(&query_of(RESOURCE)).await.unwrap().is_empty());
        assert!(store.list_blueprints(&query_of(BLUEPRINT)).await.unwrap().is_empty());
        assert!(store.list_tasks(&query_of(TASK)).await.unwrap().is_empty());
        assert!(store.list_events(&query_of(EVENT)).await.unwrap().is_empty());
    }

    #[test]
    fn states_are_those_of_the_model() {
        assert_eq!(LeaseState::ALL.map(LeaseState::as_str), LEASE_STATES);
        assert_eq!(ResourceState::ALL.map(ResourceState::as_str), RESOURCE_STATES);
        assert_eq!(TaskState::ALL.map(TaskState::as_str), TASK_STATES);
    }
}
