//! Claims that were not renewed, and whose fault that was.
//!
//! A step may kill its daemon, again and again: its task is poison, and is given up. But a daemon also dies of other things, stands still, or
//! loses its database, and then all that it was at work on lapses. So a lapse counts against the task, with two
//! reservations: a daemon that lives takes back what was made of claims that it lost, and who was not alone at work is given more deaths.

use super::claiming::Level;
use super::queue::subject;
use super::row::Columns;
use super::statement::sql;
use super::trial::{Rule, without};
use super::{Store, Tx};
use crate::clock::Micros;
use crate::error::Result;
use crate::metrics::Wake;
use crate::model::id::{LeaseId, Subject};
use crate::model::task::{MAX_CRASHES, MAX_DEATHS};

/// What was taken from dead daemons.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Claims given back to the queue.
    pub returned: u64,
    /// Poison: subjects whose task has killed its daemon too often and is dead now.
    pub poisoned: Vec<Subject>,
}

/// In company is whose daemon has, or lost before, the claim of another task. The claims of one daemon do not all lapse at the same moment.
macro_rules! reap {
    ($daemon:literal, $lock:literal) => {
        concat!(
            "WITH late AS MATERIALIZED (SELECT id AS late_id, ",
            $daemon,
            " AS daemon FROM task WHERE state = 'RUNNING' AND claim_until < $1",
            $lock,
            "), judged AS MATERIALIZED (SELECT late_id, daemon, \
             CASE WHEN EXISTS (SELECT 1 FROM task o WHERE o.claim_until IS NOT NULL AND o.state = 'RUNNING' AND o.id <> late_id \
             AND o.claimed_by LIKE daemon || '/%') \
             OR EXISTS (SELECT 1 FROM task o WHERE o.lapsed = daemon AND o.id <> late_id) THEN 1 ELSE 0 END AS together FROM late) \
             UPDATE task SET crashes = crashes + 1, company = CASE WHEN crashes = 0 THEN 0 ELSE company END + together, \
             lapsed = daemon, lapsed_attempt = attempt, lapsed_company = together, claimed_by = NULL, claim_until = NULL, \
             state = CASE WHEN crashes + 1 >= $3 OR crashes + 1 - together - CASE WHEN crashes = 0 THEN 0 ELSE company END >= $2 \
             THEN 'DEAD' ELSE 'READY' END FROM judged WHERE task.id = late_id AND state = 'RUNNING' AND claim_until < $1 \
             RETURNING state, subject, root_id, band, ord"
        )
    };
}

impl Store {
    /// Gives claims that were not renewed back to the queue; with `all`, every claim: at the start of the only daemon
    /// whoever held one is dead.
    pub async fn reap(&self, all: bool) -> Result<Reaped> {
        self.write(move |tx| Box::pin(async move { tx.reap(all).await })).await
    }

    /// Whether a claim has run out without being renewed, or one of this daemon was taken for that of a dead one.
    pub async fn has_lapses(&self, daemon: &str) -> Result<bool> {
        let look = "SELECT (SELECT count(*) FROM task WHERE state = 'RUNNING' AND claim_until < $1) \
                    + (SELECT count(*) FROM task WHERE lapsed = $2) AS n";
        let look = sql(look).bind(self.clock().now()).bind(daemon.to_owned());
        Ok(Columns::of(&look.fetch_one(self.readers()).await?).integer("n")? > 0)
    }

    /// As [`Store::reap`], for a daemon that lives: it takes back what others made of claims that it lost, and no claim that it forgot,
    /// since the commit of it seemed to have failed, counts against a task.
    pub async fn sweep(&self, daemon: &str) -> Result<Reaped> {
        let daemon = daemon.to_owned();
        self.write(move |tx| {
            let daemon = daemon.clone();
            Box::pin(async move {
                if !without(Rule::TakeBack) {
                    tx.take_back(&daemon).await?;
                }
                tx.reap(false).await
            })
        })
        .await
    }
}

impl Tx {
    /// What others made of the claims of a daemon that lives, and its own claims that ran out. A step may go on with either: that
    /// they lapsed is known until a step is finished.
    async fn take_back(&mut self, daemon: &str) -> Result<()> {
        let innocent = sql(
            "UPDATE task SET lapsed = NULL, crashes = CASE WHEN crashes > 0 AND state <> 'DEAD' THEN crashes - 1 ELSE crashes END, \
             company = CASE WHEN crashes > 0 AND state <> 'DEAD' THEN company - lapsed_company ELSE company END WHERE lapsed = $1",
        );
        self.execute(innocent.bind(daemon.to_owned())).await?;
        let forgotten = sql(
            "UPDATE task SET state = 'READY', lapsed_attempt = attempt, claimed_by = NULL, claim_until = NULL WHERE state = 'RUNNING' \
             AND claim_until < $1 AND claimed_by LIKE $2 || '/%' RETURNING root_id, band, ord",
        );
        for row in self.execute_returning(forgotten.bind(self.now()).bind(daemon.to_owned())).await? {
            let root = Columns::of(&row).maybe_text("root_id")?.map(LeaseId::from_stored);
            self.tell_ready(root.as_ref(), Level::of(&row)?);
        }
        Ok(())
    }

    async fn reap(&mut self, all: bool) -> Result<Reaped> {
        let before = if all { Micros::MAX } else { self.now() };
        let statement = sql(reap!("substr(claimed_by, 1, instr(claimed_by, '/') - 1)", ""))
            // One that is locked is being committed or given back.
            .on_postgres(reap!("split_part(claimed_by, '/', 1)", " ORDER BY id FOR UPDATE SKIP LOCKED"))
            .bind(before)
            .bind(MAX_CRASHES)
            .bind(MAX_DEATHS);
        let mut reaped = Reaped::default();
        self.counts().wakes_are(if all { Wake::Start } else { Wake::Sweep });
        for row in self.execute_returning(statement).await? {
            let columns = Columns::of(&row);
            if columns.text("state")? != "DEAD" {
                reaped.returned += 1;
                let root = columns.maybe_text("root_id")?.map(LeaseId::from_stored);
                self.tell_ready(root.as_ref(), Level::of(&row)?);
            }
        }
        self.counts().wakes_are(Wake::Event);
        self.counts().took_over += reaped.returned;
        // Told until their subjects have ended: whoever was told last time may have died before it could act.
        let dead = sql(
            "SELECT subject FROM task WHERE state = 'DEAD' AND (subject IN (SELECT id FROM lease WHERE state IN ('PENDING', 'ACQUIRED', 'ACTIVE')) \
             OR subject IN (SELECT id FROM resource WHERE state IN ('PENDING', 'ACTIVE')))",
        );
        for row in self.fetch(dead).await? {
            reaped.poisoned.push(subject(&Columns::of(&row).text("subject")?)?);
        }
        Ok(reaped)
    }
}
