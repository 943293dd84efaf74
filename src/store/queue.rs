//! The queue: claims with a fence, wakes with an eventcount, and timers.
//!
//! Order is `(band, ord, depth DESC, id)`, with `ord` inherited from the root lease: the next task is normally the child
//! that was just made, so a tree is walked depth first and the oldest tree is finished first.

use super::claiming::Level;
use super::row::{Columns, Row};
use super::statement::{Statement, sql};
use super::trial::{Rule, claim_length, without};
use super::{Scope, Store, Tx};
use crate::clock::Micros;
use crate::error::{Error, Reason, Result};
use crate::metrics::Wake;
use crate::model::id::{LeaseId, Subject, TaskId};
use crate::model::{Task, TaskState};

/// A claimed task: the right to take its next step until `until`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The task.
    pub task: TaskId,
    /// What it is about.
    pub subject: Subject,
    /// Root of its tree.
    pub root: Option<LeaseId>,
    /// The fence: every write of the step must find this number.
    pub attempt: i64,
    /// The eventcount as of the claim: parking finds it unchanged, or does not park.
    pub signal: i64,
    /// Failures in a row so far.
    pub failures: i64,
    /// Whether the claim before ran out: whoever had it may still go on with its step.
    pub lapsed: bool,
    /// `daemon/worker`.
    pub worker: String,
    /// By when it must be renewed.
    pub until: Micros,
}

pub(super) struct NewTask {
    pub(super) id: TaskId,
    pub(super) subject: Subject,
    pub(super) root_id: Option<LeaseId>,
    pub(super) band: i64,
    pub(super) ord: i64,
    pub(super) depth: i64,
    pub(super) timer: Option<Micros>,
    pub(super) ready: bool,
}

pub(super) fn subject(text: &str) -> Result<Subject> {
    Subject::parse(text)
        .ok_or_else(|| Error::new(Reason::Internal, format!("the database holds a task about {text:?}")))
}

pub(super) fn claim(row: &Row, worker: &str) -> Result<Claim> {
    let c = Columns::of(row);
    Ok(Claim {
        task: TaskId::from_stored(c.text("id")?),
        subject: subject(&c.text("subject")?)?,
        root: c.maybe_text("root_id")?.map(LeaseId::from_stored),
        attempt: c.integer("attempt")?,
        signal: c.integer("signal")?,
        failures: c.integer("failures")?,
        lapsed: c.maybe_integer("lapsed_attempt")?.is_some(),
        worker: worker.to_owned(),
        until: c.integer("claim_until")?,
    })
}

pub(super) fn task(row: &Row) -> Result<Task> {
    let c = Columns::of(row);
    let waits: Option<String> = c.maybe_text("waits")?;
    Ok(Task {
        id: TaskId::from_stored(c.text("id")?),
        subject: subject(&c.text("subject")?)?,
        root_id: c.maybe_text("root_id")?.map(LeaseId::from_stored),
        state: c.state("state", TaskState::parse)?,
        waits_for: waits.map(|text| text.split(' ').map(str::to_owned).collect()).unwrap_or_default(),
        attempt: c.integer("attempt")?,
        signal: c.integer("signal")?,
        failures: c.integer("failures")?,
        crashes: c.integer("crashes")?,
        company: c.integer("company")?,
        last_error: c.text("last_error")?,
        run_at: c.maybe_integer("run_at")?,
        claimed_by: c.maybe_text("claimed_by")?,
        baton: c.maybe_text("baton")?,
    })
}

/// Wakes the best waiter of a pool; `$behind` narrows whom. The index of the waiters has the order of the queue.
macro_rules! wake_best {
    ($behind:literal) => {
        concat!(
            "UPDATE task SET signal = signal + 1, baton = $1, state = CASE WHEN state = 'PARKED' THEN 'READY' ELSE state END, \
             run_at = CASE WHEN state = 'PARKED' THEN NULL ELSE run_at END WHERE id = \
             (SELECT t.id FROM wait w JOIN task t ON t.id = w.task_id WHERE w.on_id = $1",
            $behind,
            " AND t.state IN ('PARKED', 'READY', 'RUNNING') AND t.baton IS NULL \
             ORDER BY w.band, w.ord, w.depth DESC, w.task_id LIMIT 1) RETURNING state, root_id, band, ord"
        )
    };
}

/// The same among several daemons. One that is locked is about to run, and looks at the pool after us.
macro_rules! wake_best_on_postgres {
    ($behind:literal) => {
        concat!(
            "WITH best AS MATERIALIZED (SELECT t.id FROM wait w JOIN task t ON t.id = w.task_id WHERE w.on_id = $1",
            $behind,
            " AND t.state IN ('PARKED', 'READY', 'RUNNING') AND t.baton IS NULL \
             ORDER BY w.band, w.ord, w.depth DESC, w.task_id LIMIT 1 FOR UPDATE OF t SKIP LOCKED) \
             UPDATE task SET signal = signal + 1, baton = $1, state = CASE WHEN state = 'PARKED' THEN 'READY' ELSE state END, \
             run_at = CASE WHEN state = 'PARKED' THEN NULL ELSE run_at END FROM best WHERE task.id = best.id \
             RETURNING task.state, task.root_id, task.band, task.ord"
        )
    };
}

/// Behind a place in the queue: the first comparison finds it in the index.
macro_rules! behind {
    ($make:ident) => {
        $make!(" AND (w.band, w.ord) >= ($2, $3) AND (w.band, w.ord, -w.depth, w.task_id) > ($2, $3, $4, $5)")
    };
}

impl Store {
    /// Claims the best ready task, if there is one.
    pub async fn claim(&self, scope: &Scope, worker: &str) -> Result<Option<Claim>> {
        let (scope, worker) = (scope.clone(), worker.to_owned());
        let claim = self
            .write(move |tx| {
                let (scope, worker) = (scope.clone(), worker.clone());
                Box::pin(async move { tx.claim(&scope, &worker).await })
            })
            .await?;
        if claim.is_none() {
            self.metrics().found_none();
        }
        Ok(claim)
    }

    /// Keeps a claim; `None` when it is lost.
    pub async fn renew_claim(&self, claim: &Claim) -> Result<Option<Micros>> {
        let claim = claim.clone();
        let renewal = move |until| {
            sql("UPDATE task SET claim_until = $1 WHERE id = $2 AND state = 'RUNNING' AND attempt = $3")
                .bind(until)
                .bind(claim.task.to_string())
                .bind(claim.attempt)
        };
        if let Some(aside) = self.out_of_line() {
            // Past the transactions that stand in line for a busy pool: they would cost all claims of this daemon.
            let until = self.clock().now() + claim_length();
            return Ok((aside.look(&renewal(until)).await?.changed == 1).then_some(until));
        }
        self.write(move |tx| {
            let until = tx.now() + claim_length();
            let renewal = renewal(until);
            Box::pin(async move { Ok((tx.execute(renewal).await? == 1).then_some(until)) })
        })
        .await
    }

    /// Moves timers that are due into the queue; answers the next one.
    pub async fn fire_timers(&self) -> Result<Option<Micros>> {
        self.write(|tx| Box::pin(async move { tx.fire_timers().await })).await
    }

    /// The next timer.
    pub async fn next_timer(&self) -> Result<Option<Micros>> {
        let row = next_timer().fetch_one(self.readers()).await?;
        Columns::of(&row).maybe_integer("at")
    }

    /// Gives a claim back that was not begun.
    pub async fn hand_back(&self, claim: &Claim) -> Result<()> {
        let claim = claim.clone();
        self.write(move |tx| {
            let claim = claim.clone();
            Box::pin(async move { tx.hand_back(&claim).await })
        })
        .await
    }

    /// Hands a claim over to the daemon of this home: from now on nobody else takes a step of its task.
    pub async fn hand_over(&self, claim: &Claim, home: &str) -> Result<()> {
        let (claim, home) = (claim.clone(), home.to_owned());
        self.write(move |tx| {
            let (claim, home) = (claim.clone(), home.clone());
            Box::pin(async move {
                let task = sql("UPDATE task SET home = $1 WHERE id = $2 AND state = 'RUNNING' AND attempt = $3")
                    .bind(home)
                    .bind(claim.task.to_string())
                    .bind(claim.attempt);
                tx.execute(task).await?;
                tx.hand_back(&claim).await
            })
        })
        .await
    }

    /// Whether any task is ready or running; for tests and the drain.
    pub async fn is_busy(&self) -> Result<bool> {
        let row =
            sql("SELECT count(*) AS n FROM task WHERE state IN ('READY', 'RUNNING')").fetch_one(self.readers()).await?;
        Ok(Columns::of(&row).integer("n")? > 0)
    }
}

fn next_timer() -> Statement {
    sql("SELECT min(run_at) AS at FROM task WHERE state = 'PARKED' AND run_at IS NOT NULL")
}

impl Tx {
    pub(super) async fn insert_task(&mut self, task: &NewTask) -> Result<()> {
        let state = if task.ready { TaskState::Ready } else { TaskState::Parked };
        let statement = sql(
            "INSERT INTO task (id, subject, root_id, state, band, ord, depth, run_at, attempt, signal, crashes, failures, last_error) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, 0, 0, 0, '')",
        )
        .bind(task.id.to_string())
        .bind(task.subject.to_string())
        .bind(task.root_id.as_ref().map(ToString::to_string))
        .bind(state.as_str())
        .bind(task.band)
        .bind(task.ord)
        .bind(task.depth)
        .bind(task.timer);
        self.execute(statement).await?;
        if task.ready {
            self.tell_ready(task.root_id.as_ref(), Level { band: task.band, ord: task.ord });
        }
        if let Some(at) = task.timer {
            self.tell_timer(at);
        }
        Ok(())
    }

    pub(super) async fn hand_back(&mut self, claim: &Claim) -> Result<()> {
        let statement = sql(
            "UPDATE task SET state = 'READY', claimed_by = NULL, claim_until = NULL WHERE id = $1 AND state = 'RUNNING' AND attempt = $2 \
             RETURNING band, ord",
        )
        .bind(claim.task.to_string())
        .bind(claim.attempt);
        for row in self.execute_returning(statement).await? {
            self.tell_ready(claim.root.as_ref(), Level::of(&row)?);
        }
        Ok(())
    }

    /// Wakes every task that waits for `on`, and forgets that they waited. Part of the transaction that changes it.
    pub async fn wake(&mut self, on: &str) -> Result<()> {
        let edges = sql("DELETE FROM wait WHERE on_id = $1 RETURNING task_id").bind(on.to_owned());
        let woken: Vec<String> = self
            .execute_returning(edges)
            .await?
            .iter()
            .map(|row| Columns::of(row).text("task_id"))
            .collect::<Result<_>>()?;
        for task in woken {
            let statement = sql(WAKE).bind(task);
            self.signal(statement).await?;
        }
        Ok(())
    }

    /// Wakes the task of a subject.
    pub async fn wake_task(&mut self, subject: &Subject) -> Result<()> {
        let statement = sql(
            "UPDATE task SET signal = signal + 1, state = CASE WHEN state = 'PARKED' THEN 'READY' ELSE state END, \
             run_at = CASE WHEN state = 'PARKED' THEN NULL ELSE run_at END WHERE subject = $1 AND state IN ('PARKED', 'READY', 'RUNNING') \
             RETURNING state, root_id, band, ord",
        )
        .bind(subject.to_string());
        self.signal(statement).await
    }

    /// Wakes the task of a subject and puts it into another band, for what frees capacity.
    pub(super) async fn hurry(&mut self, subject: &Subject, band: i64) -> Result<()> {
        let statement = sql(
            "UPDATE task SET band = $1, signal = signal + 1, state = CASE WHEN state = 'PARKED' THEN 'READY' ELSE state END, \
             run_at = CASE WHEN state = 'PARKED' THEN NULL ELSE run_at END WHERE subject = $2 RETURNING state, root_id, band, ord",
        )
        .bind(band)
        .bind(subject.to_string());
        self.signal(statement).await?;
        // It looks anew at all there is: no baton of what it waited for need come its way.
        let waits =
            sql("DELETE FROM wait WHERE task_id IN (SELECT id FROM task WHERE subject = $1)").bind(subject.to_string());
        self.execute(waits).await.map(|_| ())
    }

    /// Wakes the best waiter of a pool and hands it the baton; `behind` skips all up to and including that task's place, so that a
    /// baton only ever goes down the queue and its journey ends.
    pub async fn wake_pool(&mut self, pool: &str, behind: Option<&TaskId>) -> Result<()> {
        self.lock_pool(pool).await?;
        if without(Rule::WakeOne) {
            return self.wake(pool).await;
        }
        let place = match behind {
            None => None,
            Some(task) => {
                let own = sql("SELECT band, ord, -depth AS height FROM task WHERE id = $1").bind(task.to_string());
                self.fetch_one(own).await?.map(|row| (task, row))
            }
        };
        let statement = match place {
            None => sql(wake_best!("")).on_postgres(wake_best_on_postgres!("")).bind(pool.to_owned()),
            Some((task, row)) => {
                let columns = Columns::of(&row);
                sql(behind!(wake_best))
                    .on_postgres(behind!(wake_best_on_postgres))
                    .bind(pool.to_owned())
                    .bind(columns.integer("band")?)
                    .bind(columns.integer("ord")?)
                    .bind(columns.integer("height")?)
                    .bind(task.to_string())
            }
        };
        self.signal(statement).await
    }

    /// Wakes all who wait for a pool whose name begins so: what bounds it may be another now.
    pub async fn wake_pools(&mut self, prefix: &str) -> Result<()> {
        let statement =
            sql("SELECT DISTINCT on_id FROM wait WHERE substr(on_id, 1, length($1)) = $1").bind(prefix.to_owned());
        for row in self.fetch(statement).await? {
            self.wake(&Columns::of(&row).text("on_id")?).await?;
        }
        Ok(())
    }

    async fn signal(&mut self, statement: Statement) -> Result<()> {
        for row in self.execute_returning(statement).await? {
            let columns = Columns::of(&row);
            if columns.text("state")? == "READY" {
                let root = columns.maybe_text("root_id")?.map(LeaseId::from_stored);
                self.tell_ready(root.as_ref(), Level::of(&row)?);
            }
        }
        Ok(())
    }

    async fn fire_timers(&mut self) -> Result<Option<Micros>> {
        let now = self.now();
        let statement = sql(
            "UPDATE task SET signal = signal + 1, state = 'READY', run_at = NULL WHERE state = 'PARKED' AND run_at <= $1 RETURNING state, root_id, band, ord",
        )
        .on_postgres(
            "WITH due AS MATERIALIZED (SELECT id FROM task WHERE state = 'PARKED' AND run_at <= $1 ORDER BY id FOR UPDATE SKIP LOCKED) \
             UPDATE task SET signal = signal + 1, state = 'READY', run_at = NULL FROM due WHERE task.id = due.id \
             RETURNING task.state, task.root_id, task.band, task.ord",
        )
        .bind(now);
        self.counts().wakes_are(Wake::Timer);
        self.signal(statement).await?;
        self.counts().wakes_are(Wake::Event);
        match self.fetch_one(next_timer()).await? {
            Some(row) => Columns::of(&row).maybe_integer("at"),
            None => Ok(None),
        }
    }

    /// Puts a task back into the queue now; a dead one gets a new life. `None` when there is no such task.
    pub async fn retry_task(&mut self, id: &TaskId) -> Result<Option<Subject>> {
        let statement = sql(
            "UPDATE task SET signal = signal + 1, run_at = NULL, failures = 0, \
             crashes = CASE WHEN state = 'DEAD' THEN 0 ELSE crashes END, \
             state = CASE WHEN state IN ('PARKED', 'DEAD') THEN 'READY' ELSE state END WHERE id = $1 RETURNING state, root_id, band, ord, subject",
        )
        .bind(id.to_string());
        let rows = self.execute_returning(statement).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let columns = Columns::of(row);
        let root = columns.maybe_text("root_id")?.map(LeaseId::from_stored);
        self.tell_ready(root.as_ref(), Level::of(row)?);
        subject(&columns.text("subject")?).map(Some)
    }
}

const WAKE: &str = "UPDATE task SET signal = signal + 1, state = CASE WHEN state = 'PARKED' THEN 'READY' ELSE state END, \
                    run_at = CASE WHEN state = 'PARKED' THEN NULL ELSE run_at END WHERE id = $1 AND state IN ('PARKED', 'READY', 'RUNNING') \
                    RETURNING state, root_id, band, ord";
