//! One step of a task, committed: its fence, its changes, its parking, the baton, and the claim of the next task, all in
//! one transaction. When the next step needs nothing but the transaction, it is taken along: a place that is given back and
//! its grant to the next in the queue are one commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures::future::BoxFuture;

use super::claiming::Level;
use super::statement::{Dialect, Statement, sql};
use super::trial::{Rule, without};
use super::tx::Opening;
use super::{Claim, Store, Tx};
use crate::clock::Micros;
use crate::error::{Error, Reason, Result};
use crate::model::id::{LeaseId, Subject};
use crate::model::{LeaseState, ResourceState};

/// Which tasks a worker may claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Any: a worker.
    Any,
    /// Those of one tree and what it waits for: a caller that waits for its lease.
    Root(LeaseId),
}

/// Something a task waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// A lease, seen in this state: any other ends the wait.
    Lease(LeaseId, LeaseState),
    /// A resource, seen in this state.
    Resource(crate::model::id::ResourceId, ResourceState),
    /// Capacity for this resource type.
    Pool(String),
}

/// The name of the pool of a resource type, in wake edges and batons.
#[must_use]
pub fn pool_of(resource_type: &str) -> String {
    format!("pool:{resource_type}")
}

impl Wait {
    fn on(&self) -> String {
        match self {
            Self::Lease(id, _) => id.to_string(),
            Self::Resource(id, _) => id.to_string(),
            Self::Pool(resource_type) => pool_of(resource_type),
        }
    }
}

/// What becomes of the task after its step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing is left to do for this subject, ever.
    Done,
    /// Go on at once, in turn.
    Again,
    /// Go on when one of these changes, or at that time.
    Park {
        /// Any of these.
        waits: Vec<Wait>,
        /// Or then.
        until: Option<Micros>,
    },
    /// It did not work: go on at that time, or when woken. Counts as a failure.
    Retry {
        /// Any of these cut it short.
        waits: Vec<Wait>,
        /// When.
        until: Micros,
        /// For the operator.
        error: String,
    },
}

/// How the commit of a step went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// Durable; the next task, when one was wanted and is ready.
    Done(Option<Claim>),
    /// The claim was lost before: nothing of the step was written.
    FenceLost,
}

/// Steps taken along at most, so that a transaction stays short.
const ALONG: usize = 8;

/// Knows the steps that need nothing but a transaction.
#[async_trait]
pub trait Along: Send + Sync + 'static {
    /// Whether the next step of this subject is one of them.
    async fn takes(&self, tx: &mut Tx, subject: &Subject) -> Result<bool>;

    /// Takes the step of a task that was claimed in this transaction.
    ///
    /// # Errors
    /// Whatever kept the step from being taken; a worker takes it again by itself.
    async fn step(&self, tx: &mut Tx, claim: &Claim) -> Result<(Next, Baton)>;
}

impl Store {
    /// From now on steps are taken along; told once.
    pub fn take_along(&self, steps: Arc<dyn Along>) {
        let _ = self.inner.along.set(steps);
    }

    /// Commits a step. `work` makes its changes and says what is next; when the claim is lost nothing of it stays. With
    /// `claim_next` the same transaction claims the next task for this worker. A baton that the task carried is passed
    /// on unless `work` kept it by taking the last of the capacity (see [`Baton`]).
    ///
    /// # Errors
    /// What `work` says; then nothing was written, and the claim is still held.
    pub async fn commit_step<F>(&self, claim: &Claim, claim_next: Option<Scope>, work: F) -> Result<Committed>
    where
        F: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<(Next, Baton)>> + Send + Sync + 'static,
    {
        let work = Arc::new(work);
        let along = self.inner.along.get();
        let tried = Arc::new(AtomicBool::new(false));
        let outcome = self.commit_steps(claim, claim_next.clone(), Arc::clone(&work), along.cloned(), &tried).await;
        if outcome.is_err() && tried.load(Ordering::Relaxed) {
            // Perhaps for what was taken along: this step shall not suffer for it.
            return self.commit_steps(claim, claim_next, work, None, &tried).await;
        }
        outcome
    }

    async fn commit_steps<F>(
        &self,
        claim: &Claim,
        claim_next: Option<Scope>,
        work: Arc<F>,
        along: Option<Arc<dyn Along>>,
        tried: &Arc<AtomicBool>,
    ) -> Result<Committed>
    where
        F: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<(Next, Baton)>> + Send + Sync + 'static,
    {
        let (claim, tried) = (claim.clone(), Arc::clone(tried));
        let fence_lost = Arc::new(AtomicBool::new(false));
        let was_lost = Arc::clone(&fence_lost);
        let outcome = self.transact(Opening::Hold(claim.clone()), move |tx| {
            let (claim, claim_next, work) = (claim.clone(), claim_next.clone(), Arc::clone(&work));
            let (along, tried, fence_lost) = (along.clone(), Arc::clone(&tried), Arc::clone(&fence_lost));
            Box::pin(async move {
                let Some(carried) = tx.hold(&claim).await? else {
                    return Ok(Committed::FenceLost);
                };
                let (next, baton) = (*work)(tx).await?;
                let plain = next == Next::Done && carried.is_none() && !matches!(baton, Baton::On(_));
                if plain && claim_next == Some(Scope::Any) && tx.is_shared() && !tx.has_ready() {
                    let Some((handed, claimed)) = tx.end_and_claim(&claim).await? else {
                        fence_lost.store(true, Ordering::Relaxed);
                        return Err(lost(&claim));
                    };
                    if let Some(pool) = handed {
                        tx.wake_pool(&pool, Some(&claim.task)).await?;
                    }
                    return Ok(Committed::Done(claimed));
                }
                if !tx.settle(&claim, &next, carried, baton).await? {
                    fence_lost.store(true, Ordering::Relaxed);
                    return Err(lost(&claim));
                }
                if let Some(along) = along.filter(|_| tx.has_ready()) {
                    tried.store(true, Ordering::Relaxed);
                    tx.take_steps_along(along.as_ref(), &claim.worker).await?;
                }
                match claim_next {
                    Some(scope) => Ok(Committed::Done(tx.take(&scope, &claim.worker).await?)),
                    None => Ok(Committed::Done(None)),
                }
            })
        });
        let outcome = outcome.await;
        if was_lost.load(Ordering::Relaxed) { Ok(Committed::FenceLost) } else { outcome }
    }
}

/// What becomes of a pool's baton that the task may carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Baton {
    /// To the next in the queue: this one did not use the capacity.
    Pass,
    /// To the next in the queue of this pool, carried or not: this one took some, and there is more.
    On(String),
    /// This one took the last of it.
    Keep,
}

const LEASE: &str = "SELECT state FROM lease WHERE id = $1";
const LEASE_SHARED: &str = "SELECT state FROM lease WHERE id = $1 FOR SHARE SKIP LOCKED";
const RESOURCE: &str = "SELECT state FROM resource WHERE id = $1";
const RESOURCE_SHARED: &str = "SELECT state FROM resource WHERE id = $1 FOR SHARE SKIP LOCKED";

/// A look at a row that others may be about to change, where there are others.
fn shared(alone: &'static str, among_others: &'static str) -> Statement {
    if without(Rule::RowLock) { sql(alone) } else { sql(alone).on_postgres(among_others) }
}

/// The claim was lost between the look and the last write: all of the step must go.
fn lost(claim: &Claim) -> Error {
    Error::new(Reason::EtagMismatch, format!("the claim of {} was lost while its step was written", claim.task))
}

impl Tx {
    /// The fence: `None` when this claim is no longer the task's. Else the baton that the task carries by now, which may
    /// have been handed to it after the claim.
    async fn hold(&mut self, claim: &Claim) -> Result<Option<Option<String>>> {
        if let Some(held) = self.opened.take() {
            return Ok(held);
        }
        if let Some(root) = &claim.root {
            self.lock_tree(root).await?;
        }
        if let Subject::Resource(id) = &claim.subject {
            self.lock_resource(id).await?;
        }
        if without(Rule::Fence) {
            let mine = sql("UPDATE task SET state = 'RUNNING', attempt = $1 WHERE id = $2").bind(claim.attempt);
            self.execute(mine.bind(claim.task.to_string())).await?;
        }
        let statement = sql("SELECT baton FROM task WHERE id = $1 AND state = 'RUNNING' AND attempt = $2")
            .bind(claim.task.to_string())
            .bind(claim.attempt);
        self.fetch_one(statement).await?.map(|row| super::row::Columns::of(&row).maybe_text("baton")).transpose()
    }

    /// Goes on with a write in the course of a step, as long as its claim is still the task's; without a claim there is nothing to lose.
    ///
    /// # Errors
    /// `ETAG_MISMATCH` when it is not.
    pub(super) async fn keep(&mut self, claim: Option<&Claim>) -> Result<()> {
        let Some(claim) = claim else { return Ok(()) };
        let statement = sql("SELECT id FROM task WHERE id = $1 AND state = 'RUNNING' AND attempt = $2")
            .on_postgres("SELECT id FROM task WHERE id = $1 AND state = 'RUNNING' AND attempt = $2 FOR SHARE")
            .bind(claim.task.to_string())
            .bind(claim.attempt);
        if without(Rule::Fence) || self.fetch_one(statement).await?.is_some() { Ok(()) } else { Err(lost(claim)) }
    }

    /// Takes the steps along that need nothing but this transaction, the best first and whosever they are.
    async fn take_steps_along(&mut self, along: &dyn Along, worker: &str) -> Result<()> {
        for _ in 0..ALONG {
            let Some(subject) = self.first_ready().await? else { break };
            if !along.takes(self, &subject).await? {
                break;
            }
            let Some(claim) = self.take(&Scope::Any, worker).await? else { break };
            // Among several daemons it may be another task than the one that was looked at, or of a tree that is being changed.
            let free = match &claim.root {
                Some(root) => self.try_tree(root).await?,
                None => true,
            };
            if claim.subject != subject || !free {
                self.hand_back(&claim).await?;
                break;
            }
            let (next, baton) = along.step(self, &claim).await?;
            let carried = self.hold(&claim).await?.flatten();
            if !self.settle(&claim, &next, carried, baton).await? {
                return Err(lost(&claim));
            }
            if !self.has_ready() {
                break;
            }
        }
        Ok(())
    }

    /// Claims the next task, so that nobody else need be told of it.
    pub async fn take(&mut self, scope: &Scope, worker: &str) -> Result<Option<Claim>> {
        let claim = self.claim(scope, worker).await?;
        if claim.is_some() {
            self.tell_taken();
        }
        Ok(claim)
    }

    /// Ends a step: the task is parked, ready again or done, and the baton goes on. `false`, and all of the step must go, when
    /// the claim was lost since the look at it.
    async fn settle(&mut self, claim: &Claim, next: &Next, carried: Option<String>, baton: Baton) -> Result<bool> {
        if *next == Next::Done {
            let Some(handed) = self.finish(claim).await? else { return Ok(false) };
            // One that another daemon handed over since the look has nobody else to go to.
            if let Some(pool) = handed.filter(|handed| carried.as_ref() != Some(handed)) {
                self.wake_pool(&pool, Some(&claim.task)).await?;
            }
            self.hand_on(claim, carried, baton).await?;
            return Ok(true);
        }
        let held = self.settle_task(claim, next, carried.is_some()).await?;
        self.hand_on(claim, carried, baton).await?;
        Ok(held)
    }

    async fn hand_on(&mut self, claim: &Claim, carried: Option<String>, baton: Baton) -> Result<()> {
        match (&carried, baton) {
            (Some(_), Baton::Pass) if without(Rule::PassOn) => {}
            (Some(pool), Baton::Pass) => self.wake_pool(pool, Some(&claim.task)).await?,
            (_, Baton::On(pool)) => self.wake_pool(&pool, Some(&claim.task)).await?,
            _ => {}
        }
        Ok(())
    }

    async fn settle_task(&mut self, claim: &Claim, next: &Next, carried: bool) -> Result<bool> {
        let (waits, until, error) = match next {
            Next::Done | Next::Again => (&[][..], None, None),
            Next::Park { waits, until } => (waits.as_slice(), *until, None),
            Next::Retry { waits, until, error } => (waits.as_slice(), Some(*until), Some(error)),
        };
        let mut may_park = !matches!(next, Next::Done | Next::Again);
        for wait in waits {
            if matches!(wait, Wait::Pool(_)) {
                self.lock_pool(&wait.on()).await?;
            }
            may_park &= !self.has_changed(wait).await?;
        }
        self.replace_waits(claim, if may_park { waits } else { &[] }).await?;
        if without(Rule::Signal) {
            let unheard = sql("UPDATE task SET signal = $1 WHERE id = $2").bind(claim.signal);
            self.execute(unheard.bind(claim.task.to_string())).await?;
        }
        // The eventcount: whoever signalled since the claim makes this a step that runs again instead of one that parks.
        let statement = sql(
            "UPDATE task SET state = CASE WHEN $1 = 1 AND signal = $2 THEN 'PARKED' ELSE 'READY' END, \
             run_at = CASE WHEN $1 = 1 AND signal = $2 THEN $3 ELSE NULL END, claimed_by = NULL, claim_until = NULL, crashes = 0, lapsed_attempt = NULL, \
             baton = CASE WHEN $9 = 1 THEN NULL ELSE baton END, failures = CASE WHEN $4 = 1 THEN failures + 1 ELSE $5 END, \
             last_error = CASE WHEN $4 = 1 THEN $6 ELSE last_error END \
             WHERE id = $7 AND state = 'RUNNING' AND attempt = $8 RETURNING state, root_id, band, ord",
        )
        .bind(i64::from(may_park))
        .bind(claim.signal)
        .bind(until)
        .bind(i64::from(error.is_some()))
        .bind(if matches!(next, Next::Park { .. }) { 0 } else { claim.failures })
        .bind(error.cloned().unwrap_or_default())
        .bind(claim.task.to_string())
        .bind(claim.attempt)
        // One that another daemon handed over since the look is for the next step.
        .bind(i64::from(carried));
        let rows = self.execute_returning(statement).await?;
        let held = !rows.is_empty();
        for row in rows {
            let columns = super::row::Columns::of(&row);
            if columns.text("state")? == "READY" {
                self.tell_ready(claim.root.as_ref(), Level::of(&row)?);
            } else if let Some(at) = until {
                self.tell_timer(at);
            }
        }
        Ok(held)
    }

    /// The task is done: the baton that it carried up to now; `None` when the claim was lost.
    async fn finish(&mut self, claim: &Claim) -> Result<Option<Option<String>>> {
        if self.session.dialect() == Dialect::Sqlite {
            self.replace_waits(claim, &[]).await?;
        }
        let statement = sql(
            "UPDATE task SET state = 'DONE', run_at = NULL, claimed_by = NULL, claim_until = NULL, baton = NULL WHERE id = $1 \
             AND state = 'RUNNING' AND attempt = $2 RETURNING baton",
        )
        // In one, since each statement is a trip to the server.
        .on_postgres(
            "WITH gone AS (DELETE FROM wait WHERE task_id = $1), \
             held AS MATERIALIZED (SELECT id, baton FROM task WHERE id = $1 AND state = 'RUNNING' AND attempt = $2 FOR UPDATE) \
             UPDATE task SET state = 'DONE', run_at = NULL, claimed_by = NULL, claim_until = NULL, baton = NULL FROM held \
             WHERE task.id = held.id RETURNING held.baton",
        )
        .bind(claim.task.to_string())
        .bind(claim.attempt);
        let ended = self.execute_returning(statement).await?;
        ended.first().map(|row| super::row::Columns::of(row).maybe_text("baton")).transpose()
    }

    async fn replace_waits(&mut self, claim: &Claim, waits: &[Wait]) -> Result<()> {
        let statement = sql("DELETE FROM wait WHERE task_id = $1").bind(claim.task.to_string());
        self.execute(statement).await?;
        for wait in waits {
            let statement =
                sql("INSERT INTO wait (task_id, on_id, band, ord, depth) SELECT id, $2, band, ord, depth FROM task WHERE id = $1 \
                     ON CONFLICT (task_id, on_id) DO NOTHING")
                    .bind(claim.task.to_string())
                    .bind(wait.on());
            self.execute(statement).await?;
        }
        Ok(())
    }

    /// Whether what a task wants to wait for has changed since it looked: then it must not park.
    async fn has_changed(&mut self, wait: &Wait) -> Result<bool> {
        let (statement, seen) = match wait {
            // Shared until the commit, so that its change finds this wait. When it is being changed, it has as good as changed.
            Wait::Lease(id, seen) => (shared(LEASE, LEASE_SHARED).bind(id.to_string()), seen.as_str()),
            Wait::Resource(id, seen) => (shared(RESOURCE, RESOURCE_SHARED).bind(id.to_string()), seen.as_str()),
            Wait::Pool(_) => return Ok(false),
        };
        match self.fetch_one(statement).await? {
            Some(row) => Ok(super::row::Columns::of(&row).text("state")? != seen),
            None => Ok(true),
        }
    }

    /// The task of a subject is about to be woken by nobody else: wakes it when it is not the one that runs.
    pub async fn nudge(&mut self, subject: impl Into<Subject> + Send) -> Result<()> {
        let subject = subject.into();
        self.wake_task(&subject).await
    }
}
