//! How the leases of a type fared lately, and who holds or wants what of it now: what estimates are made of.
//!
//! All of it is in the rows of leases, so a restart forgets nothing, and each statement has an index and a bound.

use super::Store;
use super::row::{Columns, Row};
use super::statement::sql;
use crate::clock::Micros;
use crate::error::Result;
use crate::model::id::{BlueprintId, LeaseId};
use crate::model::pool::{Held, Turn};

/// So many of those that were served last are looked at.
const SERVED: i64 = 256;
/// So many holders and waiters at most.
const PRESENT: i64 = 4096;

/// Newest first.
pub(super) const LATELY: &str = "SELECT blueprint_id, build_time, acquire_time, active_time, destroy_time FROM lease \
     WHERE resource_type = $1 AND active_time IS NOT NULL ORDER BY active_time DESC LIMIT $2";
/// Those on a resource that goes on serving: what a drained or sick one frees is for nobody.
pub(super) const HOLDERS: &str = "SELECT l.build_time, l.acquire_time, l.expire_time, l.renew_time, l.create_time FROM blueprint b \
     JOIN resource r ON r.blueprint_id = b.id AND r.state <> 'DESTROYED' \
     JOIN lease l ON l.resource_id = r.id AND l.state IN ('ACQUIRED', 'ACTIVE', 'RELEASED', 'BROKEN') \
     WHERE b.resource_type = $1 AND b.enabled = 1 AND r.drain_time IS NULL AND r.problem = '' LIMIT $2";
pub(super) const BUILT_FOR: &str = "SELECT build_time, acquire_time, expire_time, renew_time, create_time FROM lease \
     WHERE resource_type = $1 AND state = 'PENDING' AND allocating IS NOT NULL LIMIT $2";
pub(super) const WAITERS: &str = "SELECT id FROM lease WHERE resource_type = $1 AND state = 'PENDING' AND allocating IS NULL ORDER BY ord, id LIMIT $2";

/// What there is to estimate with.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PoolHistory {
    /// Leases that were served lately, newest first.
    pub turns: Vec<Turn>,
    /// Leases that have a place, or one that is being built for them.
    pub held: Vec<Held>,
    /// Leases that queue, the next one first.
    pub waiting: Vec<LeaseId>,
}

fn turn(row: &Row) -> Result<Option<Turn>> {
    let c = Columns::of(row);
    let (Some(blueprint), Some(active)) = (c.maybe_text("blueprint_id")?, c.maybe_integer("active_time")?) else {
        return Ok(None);
    };
    let acquired = c.maybe_integer("acquire_time")?.unwrap_or(active);
    let built = c.maybe_integer("build_time")?.filter(|begun| *begun <= acquired);
    Ok(Some(Turn {
        blueprint: BlueprintId::from_stored(blueprint),
        built,
        acquired,
        active,
        gone: c.maybe_integer("destroy_time")?,
    }))
}

fn held(row: &Row) -> Result<Held> {
    let c = Columns::of(row);
    let since: Option<Micros> = match c.maybe_integer("build_time")? {
        Some(begun) => Some(begun),
        None => c.maybe_integer("acquire_time")?,
    };
    let renewed = c.maybe_integer("renew_time")?.is_some();
    // Who has renewed once will do it again: the end that is known is none.
    let ends = c.maybe_integer("expire_time")?.filter(|_| !renewed);
    Ok(Held { since: since.unwrap_or(c.integer("create_time")?), ends })
}

impl Store {
    /// How leases of this type fare.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn pool_history(&self, resource_type: &str) -> Result<PoolHistory> {
        let of = |text, most: i64| sql(text).bind(resource_type.to_owned()).bind(most).search(self.readers());
        let turns = of(LATELY, SERVED).await?.iter().filter_map(|row| turn(row).transpose()).collect::<Result<_>>()?;
        let mut all = of(HOLDERS, PRESENT).await?;
        all.extend(of(BUILT_FOR, PRESENT).await?);
        let waiting = of(WAITERS, PRESENT).await?;
        Ok(PoolHistory {
            turns,
            held: all.iter().map(held).collect::<Result<_>>()?,
            waiting: waiting
                .iter()
                .map(|row| Columns::of(row).text("id").map(LeaseId::from_stored))
                .collect::<Result<_>>()?,
        })
    }

    /// Who took a lease through its last steps, as `daemon/worker`; and how many steps of its tree failed and were tried again.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn lease_story(&self, id: &LeaseId, root: bool) -> Result<(Option<String>, i64)> {
        let worker = sql(WORKER).bind(id.to_string()).fetch_optional(self.readers()).await?;
        let worker = match worker {
            Some(row) => Columns::of(&row).json::<crate::model::StringMap>("details")?.remove("worker"),
            None => None,
        };
        if !root {
            return Ok((worker, 0));
        }
        let failed = sql(FAILED).bind(id.to_string()).fetch_one(self.readers()).await?;
        Ok((worker, Columns::of(&failed).integer("n")?))
    }
}

pub(super) const WORKER: &str =
    "SELECT details FROM event WHERE subject = $1 AND kind = 'lease.activated' ORDER BY seq DESC LIMIT 1";
pub(super) const FAILED: &str = "SELECT count(*) AS n FROM \
     (SELECT kind FROM event WHERE root_id = $1 ORDER BY seq LIMIT 2000) AS story WHERE kind = 'resource.failed'";

#[cfg(test)]
mod tests {
    use super::super::gauges;
    use super::*;
    use crate::clock::ManualClock;
    use crate::store::Location;

    #[tokio::test]
    async fn what_is_read_for_estimates_and_metrics_is_found_by_an_index() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("drydock.db");
        let store = Store::open(&Location::Sqlite { path: path.clone() }, ManualClock::at(7)).await.unwrap();
        let connection = rusqlite::Connection::open(&path).unwrap();
        let estimates = [LATELY, HOLDERS, BUILT_FOR, WAITERS, WORKER, FAILED];
        let metrics = [gauges::LEASES, gauges::RESOURCES, gauges::QUEUES, gauges::TASKS, gauges::LEAKED];
        for text in estimates.iter().chain(&metrics) {
            let mut prepared = connection.prepare(&format!("EXPLAIN QUERY PLAN {text}")).unwrap();
            let mut rows = prepared.raw_query();
            while let Some(row) = rows.next().unwrap() {
                let step: String = row.get("detail").unwrap();
                let table =
                    ["lease", "resource", "task", "event", "l", "r"].iter().any(|it| step == format!("SCAN {it}"));
                assert!(!table, "{step} in {text}");
            }
        }
        assert_eq!(store.pool_history("host").await.unwrap(), PoolHistory::default());
        let gauges = store.gauges().await.unwrap();
        assert!(gauges.store_up && gauges.leases.is_empty() && gauges.leaked.resources == 0, "{gauges:?}");
    }
}
