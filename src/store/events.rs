//! Events in the store: the source of watches.

use super::Store;
use super::row::{Columns, Row};
use super::statement::sql;
use crate::error::Result;
use crate::model::Event;
use crate::model::id::LeaseId;

pub(super) fn event(row: &Row) -> Result<Event> {
    let c = Columns::of(row);
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

// Among several daemons the order in which numbers are drawn is not that of commits. There an event's number is made of that
// of its transaction, and an event is shown when all transactions before its own have ended: what comes later has a higher
// number. `event_origin` lifts the numbers over those of a cluster that the database was moved from.
macro_rules! horizon {
    () => {
        "((SELECT base FROM event_origin) + (pg_snapshot_xmin(pg_current_snapshot())::text::bigint << 20))"
    };
}

/// What an event's number must be below to be shown.
pub(super) const HORIZON: &str = horizon!();
/// Numbers have gaps: what counts is what was taken away.
pub(super) const SPAN_ON_POSTGRES: &str = concat!(
    "SELECT (SELECT purged + 1 FROM event_origin) AS first, coalesce((SELECT max(seq) FROM event WHERE seq < ",
    horizon!(),
    "), 0) AS last"
);
pub(super) const INSERT: &str = "INSERT INTO event (seq, id, time, kind, reason, message, actor, subject, subjects, root_id, owner, details) \
                                 VALUES ((SELECT base FROM event_origin) + (pg_current_xact_id()::text::bigint << 20) + $12, \
                                 $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING seq";
/// The next ones that are shown.
pub(super) const AFTER: &str =
    concat!("SELECT * FROM event WHERE seq > $1 AND seq < ", horizon!(), " ORDER BY seq LIMIT 500");
macro_rules! beyond {
    ($more:literal) => {
        concat!(
            "SELECT (SELECT count(*) FROM event WHERE seq >= ",
            horizon!(),
            ") AS beyond, CASE WHEN EXISTS (SELECT 1 FROM event WHERE seq > $1 AND seq < ",
            horizon!(),
            ") THEN 1 ELSE 0 END AS next",
            $more
        )
    };
}

/// How many there are that are not shown yet, and whether there are next ones that are.
pub(super) const BEYOND: &str = beyond!("");
/// The same; whether a task is ready from a place in the queue on; and the next timer.
pub(super) const BEYOND_AND_READY: &str = beyond!(
    ", CASE WHEN EXISTS (SELECT 1 FROM task WHERE state = 'READY' AND (band, ord) >= ($2, $3)) THEN 1 ELSE 0 END AS ready, \
     (SELECT min(run_at) FROM task WHERE state = 'PARKED' AND run_at IS NOT NULL) AS timer"
);
/// After the database was moved to another cluster, whose transactions are numbered anew.
pub(super) const LIFT: &str = "UPDATE event_origin SET base = (SELECT max(seq) FROM event) + 1 - (pg_current_xact_id()::text::bigint << 20) \
                               WHERE (SELECT max(seq) FROM event) >= base + ((pg_current_xact_id()::text::bigint + 1) << 20)";

impl Store {
    /// Sequence numbers of the oldest and the newest event that are kept; `(0, 0)` when there is none.
    pub async fn event_span(&self) -> Result<(i64, i64)> {
        let row = sql(SPAN).on_postgres(SPAN_ON_POSTGRES).fetch_one(self.readers()).await?;
        let columns = Columns::of(&row);
        Ok((columns.integer("first")?, columns.integer("last")?))
    }

    /// Events of one tree after `seq`, oldest first, at most 500.
    pub async fn tree_events_after(&self, root: &LeaseId, seq: i64) -> Result<Vec<Event>> {
        sql("SELECT * FROM event WHERE root_id = $1 AND seq > $2 ORDER BY seq LIMIT 500")
            .on_postgres(concat!(
                "SELECT * FROM event WHERE root_id = $1 AND seq > $2 AND seq < ",
                horizon!(),
                " ORDER BY seq LIMIT 500"
            ))
            .bind(root.to_string())
            .bind(seq)
            .fetch_all(self.readers())
            .await?
            .iter()
            .map(event)
            .collect()
    }
}
