//! Events in the store: the source of watches.

use super::Store;
use super::row::{Columns, Row};
use super::statement::sql;
use crate::error::Result;
use crate::model::Event;
use crate::model::id::LeaseId;

pub(super) fn event(row: &Row) -> Result<Event> {
    let c = Columns(row);
    Ok(Event {
        seq: c.integer("seq")?,
        id: c.text("id")?,
        time: c.integer("time")?,
        kind: c.text("kind")?,
        reason: c.text("reason")?,
        message: c.text("message")?,
        actor: c.text("actor")?,
        subjects: c.json("subjects")?,
        root_id: c.maybe_text("root_id")?.map(LeaseId::from_stored),
        owner: c.text("owner")?,
        details: c.json("details")?,
    })
}

/// Each end by itself: both in one would go through all that is between.
pub(super) const SPAN: &str =
    "SELECT coalesce((SELECT min(seq) FROM event), 0) AS first, coalesce((SELECT max(seq) FROM event), 0) AS last";

impl Store {
    /// Sequence numbers of the oldest and the newest event that are kept; `(0, 0)` when there is none.
    pub async fn event_span(&self) -> Result<(i64, i64)> {
        let row = sql(SPAN).fetch_one(self.readers()).await?;
        let columns = Columns(&row);
        Ok((columns.integer("first")?, columns.integer("last")?))
    }

    /// Events of one tree after `seq`, oldest first, at most 500.
    pub async fn tree_events_after(&self, root: &LeaseId, seq: i64) -> Result<Vec<Event>> {
        sql("SELECT * FROM event WHERE root_id = $1 AND seq > $2 ORDER BY seq LIMIT 500")
            .bind(root.to_string())
            .bind(seq)
            .fetch_all(self.readers())
            .await?
            .iter()
            .map(event)
            .collect()
    }
}
