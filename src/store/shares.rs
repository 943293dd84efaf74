//! Virtual time of owners and of the queue, see `model::share`.

use super::Tx;
use super::row::Columns;
use super::statement::sql;
use crate::clock::Micros;
use crate::error::Result;
use crate::model::share::{Turn, turn};

/// The row of the queue itself; no owner has no name.
const QUEUE: &str = "";

impl Tx {
    /// Whether any lease waits for anything.
    pub async fn is_queueing(&mut self) -> Result<bool> {
        let found = self.fetch_one(sql("SELECT 1 AS queued FROM lease WHERE state = 'PENDING' LIMIT 1")).await?;
        Ok(found.is_some())
    }

    /// When the turn of a new lease of this owner comes, should it have to queue.
    pub async fn turn(&mut self, owner: &str, weight: i64) -> Result<Turn> {
        let queue = self.queue_time().await?;
        Ok(turn(queue, self.virtual_time(owner).await?, weight))
    }

    /// A lease queues: its turn is charged to its owner.
    pub async fn charge(&mut self, owner: &str, turn: Turn) -> Result<()> {
        self.put_virtual_time(owner, turn.finish).await
    }

    /// A lease with this tag, its head start aside, is served.
    pub async fn served(&mut self, start: Micros) -> Result<()> {
        // Among several daemons it is left out when another one is at it: nobody waits for it who holds a pool.
        let statement = sql("UPDATE share SET vtime = $1 WHERE owner = $2 AND vtime < $1").on_postgres(
            "UPDATE share SET vtime = $1 WHERE owner IN \
             (SELECT owner FROM share WHERE owner = $2 AND vtime < $1 FOR UPDATE SKIP LOCKED)",
        );
        let statement = statement.bind(start).bind(QUEUE);
        self.execute(statement).await.map(|_| ())
    }

    /// The queue's virtual time. While nobody queues it goes with the clock, so that a head start means the same after a
    /// quiet night.
    async fn queue_time(&mut self) -> Result<Micros> {
        let known = self.virtual_time(QUEUE).await?;
        let queued = self.is_queueing().await?;
        if let Some(known) = known.filter(|known| queued || *known >= self.now()) {
            return Ok(known);
        }
        self.put_virtual_time(QUEUE, self.now()).await?;
        Ok(self.now())
    }

    async fn virtual_time(&mut self, owner: &str) -> Result<Option<Micros>> {
        let statement = sql("SELECT vtime FROM share WHERE owner = $1").bind(owner.to_owned());
        self.fetch_one(statement).await?.map(|row| Columns::of(&row).integer("vtime")).transpose()
    }

    async fn put_virtual_time(&mut self, owner: &str, at: Micros) -> Result<()> {
        let statement = sql(
            "INSERT INTO share (owner, vtime) VALUES ($1, $2) ON CONFLICT (owner) DO UPDATE SET vtime = excluded.vtime",
        )
        .bind(owner.to_owned())
        .bind(at);
        self.execute(statement).await.map(|_| ())
    }

    /// Forgets owners whose turn would come at once anyway.
    pub(super) async fn forget_shares(&mut self) -> Result<u64> {
        let statement =
            sql("DELETE FROM share WHERE owner <> $1 AND vtime <= (SELECT vtime FROM share WHERE owner = $1)")
                .bind(QUEUE);
        self.execute(statement).await
    }
}
