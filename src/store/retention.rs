//! What is old goes: ended leases and resources with their tasks, events, remembered requests.

use super::row::Columns;
use super::statement::{Dialect, Statement, sql};
use super::{Store, Tx};
use crate::clock::Micros;
use crate::error::Result;

/// What a round took away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Purged {
    /// DESTROYED leases.
    pub leases: u64,
    /// DESTROYED resources.
    pub resources: u64,
    /// Events.
    pub events: u64,
    /// Remembered requests.
    pub requests: u64,
}

/// Rows in one transaction at most, so that a round never holds the writer long.
const ROUND: i64 = 500;

impl Store {
    /// Takes away at most a few hundred of each that ended before `before`; call again until nothing is left.
    pub async fn purge(&self, before: Micros) -> Result<Purged> {
        self.write(move |tx| {
            Box::pin(async move {
                let now = tx.now();
                let task = "DELETE FROM task WHERE state = 'DONE' AND subject IN \
                            (SELECT id FROM lease WHERE state = 'DESTROYED' AND destroy_time < $1 ORDER BY destroy_time LIMIT $2)";
                tx.execute(sql(task).bind(before).bind(ROUND)).await?;
                let task = "DELETE FROM task WHERE state = 'DONE' AND subject IN \
                            (SELECT id FROM resource WHERE state = 'DESTROYED' AND end_time < $1 ORDER BY end_time LIMIT $2)";
                tx.execute(sql(task).bind(before).bind(ROUND)).await?;
                let leases = "DELETE FROM lease WHERE id IN \
                              (SELECT id FROM lease WHERE state = 'DESTROYED' AND destroy_time < $1 ORDER BY destroy_time LIMIT $2)";
                let resources = "DELETE FROM resource WHERE id IN \
                                 (SELECT id FROM resource WHERE state = 'DESTROYED' AND end_time < $1 ORDER BY end_time LIMIT $2)";
                let events = "DELETE FROM event WHERE seq IN (SELECT seq FROM event WHERE time < $1 ORDER BY time LIMIT $2) RETURNING seq";
                let requests = "DELETE FROM request WHERE expire_time < $1";
                tx.forget_shares().await?;
                Ok(Purged {
                    leases: tx.execute(sql(leases).bind(before).bind(ROUND)).await?,
                    resources: tx.execute(sql(resources).bind(before).bind(ROUND)).await?,
                    events: tx.purge_events(sql(events).bind(before).bind(ROUND)).await?,
                    requests: tx.execute(sql(requests).bind(now)).await?,
                })
            })
        })
        .await
    }
}

impl Tx {
    /// Takes events away, and remembers up to where: a cursor below that has lost some.
    async fn purge_events(&mut self, statement: Statement) -> Result<u64> {
        let gone = self.execute_returning(statement).await?;
        let numbers: Vec<i64> = gone.iter().map(|row| Columns::of(row).integer("seq")).collect::<Result<_>>()?;
        if let Some(last) = numbers.iter().max()
            && self.session.dialect() == Dialect::Postgres
        {
            self.execute(sql("UPDATE event_origin SET purged = greatest(purged, $1)").bind(*last)).await?;
        }
        Ok(numbers.len() as u64)
    }
}
