//! What the metrics page reads: a handful of statements on indexes of what is alive, each with a bound, on a thread of their own.

use super::Store;
use super::row::{Columns, Row};
use super::statement::{Statement, sql};
use crate::clock::span;
use crate::error::Result;
use crate::metrics::{Gauges, Leaked, Queued, Tally, Tasks};

/// When there are more, what is above is not counted.
pub(super) const LEASES: &str = "SELECT '' AS blueprint, resource_type, state, count(*) AS n FROM \
     (SELECT resource_type, state FROM lease WHERE state <> 'DESTROYED' LIMIT 200000) AS alive GROUP BY resource_type, state";
pub(super) const RESOURCES: &str = "SELECT b.name AS blueprint, b.resource_type AS resource_type, r.state AS state, count(*) AS n \
     FROM blueprint b JOIN resource r ON r.blueprint_id = b.id AND r.state <> 'DESTROYED' GROUP BY b.name, b.resource_type, r.state";
pub(super) const QUEUES: &str = "SELECT resource_type, count(*) AS n, min(create_time) AS oldest FROM \
     (SELECT resource_type, create_time FROM lease WHERE state = 'PENDING' AND allocating IS NULL ORDER BY resource_type, ord, id LIMIT 200000) \
     AS queue GROUP BY resource_type";
pub(super) const TASKS: &str = "SELECT (SELECT count(*) FROM task WHERE state = 'READY') AS ready, \
     (SELECT count(*) FROM task WHERE state = 'RUNNING' AND claim_until IS NOT NULL) AS running, (SELECT count(*) FROM task WHERE state = 'DEAD') AS dead";
/// One that is ACTIVE leaks the place of a lease that has ended, one that has ended leaks itself.
pub(super) const LEAKED: &str = "SELECT count(*) AS n, CAST(coalesce(sum(CAST($1 AS BIGINT) - coalesce(r.end_time, \
     (SELECT min(l.end_time) FROM lease l WHERE l.resource_id = r.id AND l.state IN ('ACQUIRED', 'ACTIVE', 'RELEASED', 'BROKEN')), \
     CAST($1 AS BIGINT))), 0) AS BIGINT) AS leaked FROM resource r WHERE r.cleanup_failures > 0 AND r.state <> 'DESTROYED'";

fn tally(row: &Row) -> Result<Tally> {
    let c = Columns::of(row);
    let (blueprint, resource_type, state) = (c.text("blueprint")?, c.text("resource_type")?, c.text("state")?);
    Ok(Tally { blueprint, resource_type, state, count: c.integer("n")? })
}

impl Store {
    /// Reads what the metrics page shows of the store; what else it shows is left as it is.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn gauges(&self) -> Result<Gauges> {
        let now = self.clock().now();
        let mut gauges = Gauges { store_up: true, ..Gauges::default() };
        let all = async |statement: Statement| statement.search(self.readers()).await;
        gauges.leases = all(sql(LEASES)).await?.iter().map(tally).collect::<Result<_>>()?;
        gauges.resources = all(sql(RESOURCES)).await?.iter().map(tally).collect::<Result<_>>()?;
        for row in &all(sql(QUEUES)).await? {
            let c = Columns::of(row);
            let oldest = span(now - c.integer("oldest")?);
            gauges.queues.push(Queued { resource_type: c.text("resource_type")?, depth: c.integer("n")?, oldest });
        }
        for row in &all(sql(TASKS)).await? {
            let c = Columns::of(row);
            gauges.tasks =
                Tasks { ready: c.integer("ready")?, running: c.integer("running")?, dead: c.integer("dead")? };
        }
        for row in &all(sql(LEAKED).bind(now)).await? {
            let c = Columns::of(row);
            gauges.leaked = Leaked { resources: c.integer("n")?, time: span(c.integer("leaked")?) };
        }
        Ok(gauges)
    }
}
