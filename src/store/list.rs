//! Listings: filters turned into conditions over whitelisted columns, pages by key.

use super::Store;
use super::row::{Columns, Row};
use super::statement::{Dialect, Statement, Value as Bound, composed, sql};
use crate::error::{Error, Reason, Result};
use crate::model::filter::{Compare, Filter, Op, Value};
use crate::model::{Blueprint, Event, Lease, Resource, Task};

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// All of its comparisons must hold.
    pub filter: Option<Filter>,
    /// Only what this principal may see; `None` is everything.
    pub owner: Option<String>,
    /// Key of the last entry of the page before.
    pub after: Option<String>,
    /// Entries at most; one more is read, so that the caller sees whether there is a next page.
    pub limit: u32,
}

/// Entries of one page and, when there are more, one beyond it.
pub type PageOf<T> = Vec<T>;

/// Where a filter's field is found.
enum Column {
    /// In this column.
    Plain(&'static str),
    /// In a JSON object in this column.
    Json(&'static str),
}

struct Listing<T> {
    table: &'static str,
    /// How `PostgreSQL` says it, where it says it differently.
    on_postgres: Option<&'static str>,
    columns: &'static [(&'static str, Column)],
    /// What pages are made of; unique.
    key: &'static str,
    newest_first: bool,
    decode: fn(&Row) -> Result<T>,
}

const LEASES: Listing<Lease> = Listing {
    table: "lease",
    on_postgres: None,
    columns: &[
        ("id", Column::Plain("id")),
        ("resource_type", Column::Plain("resource_type")),
        ("state", Column::Plain("state")),
        ("state_reason", Column::Plain("state_reason")),
        ("owner", Column::Plain("owner")),
        ("resource_id", Column::Plain("coalesce(resource_id, '')")),
        ("parent_resource_id", Column::Plain("coalesce(parent_id, '')")),
        ("root_lease_id", Column::Plain("root_id")),
        ("priority", Column::Plain("priority")),
        ("create_time", Column::Plain("create_time")),
        ("active_time", Column::Plain("active_time")),
        ("expire_time", Column::Plain("expire_time")),
        ("use_time", Column::Plain("use_time")),
        ("end_time", Column::Plain("end_time")),
        ("labels", Column::Json("labels")),
        ("attributes", Column::Json("attributes")),
        ("facts", Column::Json("facts")),
    ],
    key: "id",
    newest_first: true,
    decode: super::leases::lease,
};

const RESOURCES: Listing<Resource> = Listing {
    table: "resource",
    on_postgres: None,
    columns: &[
        ("id", Column::Plain("id")),
        ("name", Column::Plain("name")),
        ("resource_type", Column::Plain("resource_type")),
        ("blueprint_id", Column::Plain("blueprint_id")),
        ("state", Column::Plain("state")),
        ("state_reason", Column::Plain("state_reason")),
        ("problem", Column::Plain("problem")),
        ("cleanup_failures", Column::Plain("cleanup_failures")),
        ("create_time", Column::Plain("create_time")),
        ("labels", Column::Json("labels")),
        ("facts", Column::Json("facts")),
        ("attributes", Column::Json("attributes")),
    ],
    key: "id",
    newest_first: true,
    decode: super::resources::resource,
};

const BLUEPRINTS: Listing<Blueprint> = Listing {
    table: "blueprint",
    on_postgres: None,
    columns: &[
        ("id", Column::Plain("id")),
        ("name", Column::Plain("name")),
        ("kind", Column::Plain("kind")),
        ("resource_type", Column::Plain("resource_type")),
        ("enabled", Column::Plain("enabled")),
        ("create_time", Column::Plain("create_time")),
        ("update_time", Column::Plain("update_time")),
        ("labels", Column::Json("labels")),
    ],
    key: "name",
    newest_first: false,
    decode: super::blueprints::blueprint,
};

const TASKS: Listing<Task> = Listing {
    table: "(SELECT *, (SELECT group_concat(on_id, ' ') FROM wait WHERE task_id = task.id) AS waits FROM task) AS task",
    on_postgres: Some(
        "(SELECT *, (SELECT string_agg(on_id, ' ') FROM wait WHERE task_id = task.id) AS waits FROM task) AS task",
    ),
    columns: &[
        ("id", Column::Plain("id")),
        ("subject_id", Column::Plain("subject")),
        ("state", Column::Plain("state")),
        ("attempts", Column::Plain("attempt")),
        ("last_error", Column::Plain("last_error")),
        ("due_time", Column::Plain("run_at")),
        ("claimed_by", Column::Plain("coalesce(claimed_by, '')")),
    ],
    key: "id",
    newest_first: false,
    decode: super::queue::task,
};

const EVENTS: Listing<Event> = Listing {
    table: "event",
    on_postgres: None,
    columns: &[
        ("id", Column::Plain("id")),
        ("time", Column::Plain("time")),
        ("type", Column::Plain("kind")),
        ("reason", Column::Plain("reason")),
        ("actor", Column::Plain("actor")),
        ("subject_id", Column::Plain("subject")),
        ("root_lease_id", Column::Plain("coalesce(root_id, '')")),
        ("details", Column::Json("details")),
    ],
    key: "seq",
    newest_first: false,
    decode: super::events::event,
};

impl Store {
    /// Leases, newest first; sub-leases only when asked for.
    pub async fn list_leases(&self, query: &ListQuery, sub_leases: bool) -> Result<PageOf<Lease>> {
        self.list(&LEASES, query, (!sub_leases).then_some("parent_id IS NULL")).await
    }

    /// Resources, newest first.
    pub async fn list_resources(&self, query: &ListQuery) -> Result<PageOf<Resource>> {
        self.list(&RESOURCES, query, None).await
    }

    /// Blueprints, by name.
    pub async fn list_blueprints(&self, query: &ListQuery) -> Result<PageOf<Blueprint>> {
        self.list(&BLUEPRINTS, query, None).await
    }

    /// Tasks, oldest first; those of finished subjects are not shown.
    pub async fn list_tasks(&self, query: &ListQuery) -> Result<PageOf<Task>> {
        self.list(&TASKS, query, Some("state <> 'DONE'")).await
    }

    /// Events, oldest first.
    pub async fn list_events(&self, query: &ListQuery) -> Result<PageOf<Event>> {
        self.list(&EVENTS, query, None).await
    }

    /// One task.
    pub async fn find_task(&self, id: &crate::model::id::TaskId) -> Result<Option<Task>> {
        sql(
            "SELECT *, (SELECT group_concat(on_id, ' ') FROM wait WHERE task_id = task.id) AS waits FROM task WHERE id = $1",
        )
        .on_postgres("SELECT *, (SELECT string_agg(on_id, ' ') FROM wait WHERE task_id = task.id) AS waits FROM task WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(self.readers()).await?
        .as_ref()
        .map(super::queue::task)
        .transpose()
    }

    async fn list<T>(&self, listing: &Listing<T>, query: &ListQuery, extra: Option<&str>) -> Result<Vec<T>> {
        let statement = statement(listing, query, extra, self.readers().dialect())?;
        statement.search(self.readers()).await?.iter().map(listing.decode).collect()
    }
}

fn statement<T>(listing: &Listing<T>, query: &ListQuery, extra: Option<&str>, dialect: Dialect) -> Result<Statement> {
    let mut conditions: Vec<String> = extra.into_iter().map(str::to_owned).collect();
    let mut arguments = Arguments::default();
    if listing.table == "event" && dialect == Dialect::Postgres {
        conditions.push(format!("seq < {}", super::events::HORIZON));
    }
    if let Some(owner) = &query.owner {
        let place = arguments.bind(owner.clone());
        conditions.push(format!("owner = {place}"));
    }
    if let Some(after) = &query.after {
        let sign = if listing.newest_first { '<' } else { '>' };
        let place = if listing.key == "seq" {
            let number: i64 = after.parse().map_err(|_| {
                Error::new(
                    Reason::InvalidPageToken,
                    "the page token is not one of this listing; start again without it",
                )
            })?;
            arguments.bind(number)
        } else {
            arguments.bind(after.clone())
        };
        conditions.push(format!("{} {sign} {place}", listing.key));
    }
    for compare in query.filter.iter().flat_map(Filter::comparisons) {
        conditions.push(condition(listing.columns, dialect, compare, &mut arguments)?);
    }
    let filter = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
    let order = if listing.newest_first { " DESC" } else { "" };
    let limit = query.limit.saturating_add(1);
    // Only names from the tables above, states and numbers are written into the text; whatever else a caller said is bound.
    let table = listing.on_postgres.filter(|_| dialect == Dialect::Postgres).unwrap_or(listing.table);
    let text = format!("SELECT * FROM {table}{filter} ORDER BY {}{order} LIMIT {limit}", listing.key);
    Ok(composed(text, arguments.all))
}

#[derive(Default)]
struct Arguments {
    all: Vec<Bound>,
}

impl Arguments {
    /// Binds a value; the name of its parameter.
    fn bind(&mut self, value: impl Into<Bound>) -> String {
        self.all.push(value.into());
        format!("${}", self.all.len())
    }
}

fn condition(
    columns: &[(&'static str, Column)],
    dialect: Dialect,
    compare: &Compare,
    arguments: &mut Arguments,
) -> Result<String> {
    let name = compare.field.name;
    let Some((_, column)) = columns.iter().find(|(field, _)| *field == name) else {
        return Err(Error::new(Reason::Internal, format!("the field {name:?} has no column")));
    };
    let left = match (column, &compare.key) {
        (Column::Plain(column), _) => (*column).to_owned(),
        (Column::Json(column), key) if dialect == Dialect::Postgres => {
            let place = arguments.bind(key.clone().unwrap_or_default());
            format!("coalesce({column}::json ->> {place}, '')")
        }
        (Column::Json(column), key) => {
            let key = key.as_deref().unwrap_or_default().replace('\\', "\\\\").replace('"', "\\\"");
            let place = arguments.bind(format!("$.\"{key}\""));
            format!("coalesce(json_extract({column}, {place}), '')")
        }
    };
    let op = compare.op.as_str();
    Ok(match &compare.value {
        // Written out, so that indexes over some states alone are seen to fit. A filter takes no other words here.
        Value::Text(state) if name == "state" && state.bytes().all(|byte| byte.is_ascii_uppercase()) => {
            format!("{left} {op} '{state}'")
        }
        Value::Text(text) => format!("{left} {op} {}", arguments.bind(text.clone())),
        // As above: what is bound is not looked at when a statement is planned.
        Value::Integer(number) => format!("{left} {op} {number}"),
        Value::Bool(flag) => format!("{left} {op} {}", arguments.bind(i64::from(*flag))),
        Value::Prefix(prefix) => {
            let place = arguments.bind(prefix.clone());
            let not = if compare.op == Op::NotEqual { "NOT " } else { "" };
            format!("{not}substr({left}, 1, length({place})) = {place}")
        }
    })
}

impl Store {
    /// Of all leases and resources, the id that was given last; empty when there is none.
    pub async fn newest_id(&self) -> Result<String> {
        let newest = "SELECT coalesce((SELECT substr(max(id), 7) FROM lease), '') AS lease, coalesce((SELECT substr(max(id), 5) FROM resource), '') AS resource";
        let row = sql(newest).fetch_one(self.readers()).await?;
        let columns = Columns::of(&row);
        Ok(columns.text("lease")?.max(columns.text("resource")?))
    }

    /// All slots, as `scope/place` and holder.
    pub async fn slots(&self) -> Result<Vec<(String, String)>> {
        sql("SELECT scope, place, holder FROM slot ORDER BY scope, place")
            .fetch_all(self.readers())
            .await?
            .iter()
            .map(|row| {
                let columns = Columns::of(row);
                Ok((format!("{}/{}", columns.text("scope")?, columns.integer("place")?), columns.text("holder")?))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::model::filter::{Field, Kind};
    use crate::store::Location;

    #[tokio::test]
    async fn what_cannot_be_cleaned_up_is_listed_by_its_index() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("drydock.db");
        let _store = Store::open(&Location::Sqlite { path: path.clone() }, ManualClock::at(0)).await.unwrap();
        let stuck = "state != PENDING AND state != ACTIVE AND state != DESTROYED AND cleanup_failures > 0";
        let fields = [
            Field { name: "state", kind: Kind::Enum(&["PENDING", "ACTIVE", "DESTROYED"]) },
            Field { name: "cleanup_failures", kind: Kind::Integer },
        ];
        let filter = Filter::parse(stuck, &fields).unwrap();
        let query = ListQuery { filter, limit: 10, ..ListQuery::default() };
        let text = statement(&RESOURCES, &query, None, Dialect::Sqlite).unwrap().text;
        let connection = rusqlite::Connection::open(&path).unwrap();
        let mut prepared = connection.prepare(&format!("EXPLAIN QUERY PLAN {text}")).unwrap();
        let mut rows = prepared.raw_query();
        let step: String = rows.next().unwrap().unwrap().get("detail").unwrap();
        assert_eq!(step, "SCAN resource USING INDEX resource_stuck", "{text}");
    }
}
