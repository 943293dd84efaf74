//! The claim of the best ready task, and where among several daemons it begins to look.
//!
//! Whatever leaves the queue stays in its index until the oldest transaction on the whole server has ended: a back-up that takes an hour
//! would have each claim go through an hour's tasks before it comes to one that is ready. So a daemon remembers below which place
//! nothing is ready, its low-water mark. Whoever makes a task ready lowers the mark after its commit, and tells other
//! daemons how far. What was not told is found all the same: one claim a second looks at everything, and so does one that finds nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::queue::{claim, subject};
use super::row::{Columns, Row};
use super::statement::sql;
use super::trial::claim_length;
use super::{Claim, Scope, Tx};
use crate::error::Result;
use crate::model::id::Subject;

/// A claim among several daemons: what a rival is about to claim is left to it. Materialised, since the planner may else run
/// the choice more than once.
macro_rules! claim_on_postgres {
    ($with:literal, $choice:literal) => {
        concat!(
            $with,
            " best AS MATERIALIZED (",
            $choice,
            ") UPDATE task SET state = 'RUNNING', claimed_by = $1, claim_until = $2, attempt = attempt + 1 \
             FROM best WHERE task.id = best.id RETURNING task.*"
        )
    };
}
const END_AND_CLAIM: &str = "WITH gone AS (DELETE FROM wait WHERE task_id = $6), \
    held AS MATERIALIZED (SELECT id, baton FROM task WHERE id = $6 AND state = 'RUNNING' AND attempt = $7 FOR UPDATE), \
    ended AS (UPDATE task SET state = 'DONE', run_at = NULL, claimed_by = NULL, claim_until = NULL, baton = NULL FROM held \
    WHERE task.id = held.id RETURNING held.baton), \
    best AS MATERIALIZED (SELECT id FROM task WHERE state = 'READY' AND (home IS NULL OR home = $3) AND (band, ord) >= ($4, $5) \
    ORDER BY band, ord, depth DESC, id LIMIT 1 FOR UPDATE SKIP LOCKED), \
    next AS (UPDATE task SET state = 'RUNNING', claimed_by = $1, claim_until = $2, attempt = attempt + 1 FROM best \
    WHERE task.id = best.id RETURNING task.*) SELECT ended.baton AS handed, next.* FROM ended LEFT JOIN next ON true";
/// How often one claim looks at everything.
const WHOLE: Duration = Duration::from_secs(1);

/// A place in the queue, the finer order among its own kind aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Level {
    pub(super) band: i64,
    pub(super) ord: i64,
}

impl Level {
    /// Below everything.
    pub(super) const LOWEST: Self = Self { band: i64::MIN, ord: i64::MIN };

    /// The place of a task.
    pub(super) fn of(row: &Row) -> Result<Self> {
        let columns = Columns::of(row);
        Ok(Self { band: columns.integer("band")?, ord: columns.integer("ord")? })
    }
}

/// The low-water mark of a daemon.
#[derive(Debug)]
pub(super) struct LowWater {
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// Nothing below it is ready, as far as was told.
    level: Level,
    /// How often it was lowered: what was seen before that does not count.
    lowered: u64,
    /// When everything is looked at again.
    whole: Instant,
}

/// A look at the queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    from: Level,
    lowered: u64,
}

impl LowWater {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { known: Mutex::new(Known { level: Level::LOWEST, lowered: 0, whole: Instant::now() }) })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where nothing is ready below.
    pub(super) fn level(&self) -> Level {
        self.known().level
    }

    /// Begins a look.
    fn look(&self) -> Look {
        let mut known = self.known();
        let now = Instant::now();
        let from = if known.whole <= now {
            known.whole = now + WHOLE;
            Level::LOWEST
        } else {
            known.level
        };
        Look { from, lowered: known.lowered }
    }

    /// The best of what was looked at is there. What became ready meanwhile may not have been seen.
    fn found(&self, look: Look, at: Level) {
        let mut known = self.known();
        known.level = if known.lowered == look.lowered { at } else { known.level.min(at) };
    }

    /// Something is ready there.
    pub(super) fn lower(&self, to: Level) {
        let mut known = self.known();
        known.lowered += 1;
        known.level = known.level.min(to);
    }
}

impl Tx {
    fn look(&self) -> Look {
        let mut look = self.session.low_water().map_or(Look { from: Level::LOWEST, lowered: 0 }, LowWater::look);
        // Nobody else knows yet of what this transaction has made ready.
        if let Some(own) = self.made_ready() {
            look.from = look.from.min(own);
        }
        look
    }

    /// The subject of the task that a claim of any would get, if nobody else takes it.
    pub(super) async fn first_ready(&mut self) -> Result<Option<Subject>> {
        let mut look = self.look();
        loop {
            let first = sql("SELECT subject FROM task WHERE state = 'READY' ORDER BY band, ord, depth DESC, id LIMIT 1")
                .on_postgres(
                    "SELECT subject FROM task WHERE state = 'READY' AND (home IS NULL OR home = $1) AND (band, ord) >= ($2, $3) \
                     ORDER BY band, ord, depth DESC, id LIMIT 1",
                )
                .bind(self.session.home())
                .bind(look.from.band)
                .bind(look.from.ord);
            match self.fetch_one(first).await? {
                Some(row) => return subject(&Columns::of(&row).text("subject")?).map(Some),
                None if look.from == Level::LOWEST => return Ok(None),
                None => look.from = Level::LOWEST,
            }
        }
    }

    /// Claims the best ready task of the scope.
    pub async fn claim(&mut self, scope: &Scope, worker: &str) -> Result<Option<Claim>> {
        match scope {
            Scope::Any => self.claim_any(worker).await,
            Scope::Root(root) => {
                // The tree of this root, and whatever that tree waits for, however far away. Few tasks: no index of ready ones is of use.
                let statement = sql(
                    "UPDATE task SET state = 'RUNNING', claimed_by = $1, claim_until = $2, attempt = attempt + 1 WHERE id = \
                     (WITH RECURSIVE near (id, subject) AS (SELECT id, subject FROM task WHERE root_id = $3 AND state <> 'DONE' \
                     UNION SELECT t.id, t.subject FROM near JOIN wait w ON w.task_id = near.id JOIN task t ON t.subject = w.on_id) \
                     SELECT t.id FROM near JOIN task t ON t.id = near.id WHERE t.state = 'READY' ORDER BY t.band, t.ord, t.depth DESC, t.id LIMIT 1) \
                     RETURNING *",
                )
                .on_postgres(claim_on_postgres!(
                    "WITH RECURSIVE near (id, subject) AS (SELECT id, subject FROM task WHERE root_id = $3 AND state <> 'DONE' \
                     UNION SELECT t.id, t.subject FROM near JOIN wait w ON w.task_id = near.id JOIN task t ON t.subject = w.on_id),",
                    "SELECT t.id FROM task t WHERE t.id IN (SELECT id FROM near) AND t.state || '' = 'READY' AND (t.home IS NULL OR t.home = $4) \
                     ORDER BY t.band, t.ord, t.depth DESC, t.id LIMIT 1 FOR UPDATE OF t SKIP LOCKED"
                ))
                .bind(worker.to_owned())
                .bind(self.now() + claim_length())
                .bind(root.to_string())
                .bind(self.session.home());
                match self.execute_returning(statement).await?.first() {
                    Some(row) => self.claimed(row, worker).map(Some),
                    None => Ok(None),
                }
            }
        }
    }

    async fn claim_any(&mut self, worker: &str) -> Result<Option<Claim>> {
        let mut look = self.look();
        loop {
            let statement = sql(
                "UPDATE task SET state = 'RUNNING', claimed_by = $1, claim_until = $2, attempt = attempt + 1 WHERE id = \
                 (SELECT id FROM task WHERE state = 'READY' ORDER BY band, ord, depth DESC, id LIMIT 1) RETURNING *",
            )
            .on_postgres(claim_on_postgres!(
                "WITH",
                "SELECT id FROM task WHERE state = 'READY' AND (home IS NULL OR home = $3) AND (band, ord) >= ($4, $5) \
                 ORDER BY band, ord, depth DESC, id LIMIT 1 FOR UPDATE SKIP LOCKED"
            ))
            .bind(worker.to_owned())
            .bind(self.now() + claim_length())
            .bind(self.session.home())
            .bind(look.from.band)
            .bind(look.from.ord);
            match self.execute_returning(statement).await?.first() {
                Some(row) => {
                    if let Some(low_water) = self.session.low_water() {
                        low_water.found(look, Level::of(row)?);
                    }
                    return self.claimed(row, worker).map(Some);
                }
                None if look.from == Level::LOWEST => return Ok(None),
                None => look.from = Level::LOWEST,
            }
        }
    }

    /// Ends a task that has nothing to tell anybody, and claims the best ready one, in one trip to the server: the baton that was
    /// handed to the one that ends, and the claim. `None` when the fence is lost.
    pub(super) async fn end_and_claim(&mut self, ends: &Claim) -> Result<Option<(Option<String>, Option<Claim>)>> {
        let look = self.look();
        let statement = sql(END_AND_CLAIM)
            .bind(ends.worker.clone())
            .bind(self.now() + claim_length())
            .bind(self.session.home())
            .bind(look.from.band)
            .bind(look.from.ord)
            .bind(ends.task.to_string())
            .bind(ends.attempt);
        let rows = self.execute_returning(statement).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let handed = Columns::of(row).maybe_text("handed")?;
        if Columns::of(row).maybe_text("id")?.is_none() {
            // There may be some below the mark.
            let claim = if look.from == Level::LOWEST { None } else { self.claim_any(&ends.worker).await? };
            return Ok(Some((handed, claim)));
        }
        if let Some(low_water) = self.session.low_water() {
            low_water.found(look, Level::of(row)?);
        }
        Ok(Some((handed, Some(self.claimed(row, &ends.worker)?))))
    }

    fn claimed(&mut self, row: &Row, worker: &str) -> Result<Claim> {
        self.note_claim(Level::of(row)?);
        claim(row, worker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIGH: Level = Level { band: 1, ord: 10 };
    const LOW: Level = Level { band: 1, ord: 5 };

    fn mark() -> Arc<LowWater> {
        let mark = LowWater::new();
        assert_eq!(mark.look().from, Level::LOWEST, "the first one looks at everything");
        // However slow the machine is.
        mark.known().whole += Duration::from_hours(1);
        mark
    }

    #[test]
    fn a_look_begins_where_the_last_one_found_something() {
        let mark = mark();
        mark.found(mark.look(), HIGH);
        assert_eq!(mark.look().from, HIGH);
        mark.lower(LOW);
        assert_eq!(mark.look().from, LOW);
        mark.lower(HIGH);
        assert_eq!(mark.look().from, LOW, "it is lowered, never raised");
    }

    #[test]
    fn what_became_ready_during_a_look_is_not_passed_over() {
        let mark = mark();
        mark.found(mark.look(), LOW);
        let look = mark.look();
        mark.lower(LOW);
        mark.found(look, HIGH);
        assert_eq!(mark.look().from, LOW);
        mark.found(mark.look(), HIGH);
        assert_eq!(mark.look().from, HIGH);
    }

    #[test]
    fn now_and_then_one_looks_at_everything_and_the_others_do_not() {
        let mark = mark();
        mark.found(mark.look(), HIGH);
        mark.known().whole = Instant::now();
        assert_eq!((mark.look().from, mark.look().from), (Level::LOWEST, HIGH));
    }
}
