//! What transactions of several daemons hold against each other. `SQLite` has one writer, and all of this is nothing there.
//!
//! READ COMMITTED sees what others commit meanwhile, so whoever decides on what it has read keeps that from changing:
//!
//! - A **tree** of leases is changed by one transaction at a time: a step takes its tree before it looks.
//! - A **pool** is looked at to decide, waited for and woken by one transaction at a time: no wake-up falls between a look
//!   and the parking that follows from it, and nobody decides on places that have just been given away.
//! - A **resource** is held by whoever decides on who leases it; who takes a place on it shares it.
//!
//! They are taken in the order tree, resource, pool, the look for circles, then slots and tasks as they come. Out of order nobody waits: who holds a
//! pool does not wait for a resource, and who has written anything does not wait for a tree; it gives up and is run again. The
//! rest (rows that two steps wake crosswise) ends by `PostgreSQL`'s `lock_timeout`, and is run again too.
//!
//! Who only looks, as when a caller asks why its lease waits, takes none of them: it reads the database of one moment. In
//! the line of a busy pool there would else stand more who look than who act.
//!
//! Trees and pools are advisory locks of the transaction: there may be no row yet, and none has to be written.

use super::Tx;
use super::row::Columns;
use super::statement::{Dialect, sql};
use super::step::pool_of;
use super::tx::Intent;
use crate::error::Result;
use crate::model::id::{BlueprintId, LeaseId, ResourceId};

/// A resource's state, if nobody else is about to change it.
const MINE_AT_ONCE: &str = "SELECT state FROM resource WHERE id = $1 FOR UPDATE SKIP LOCKED";
const SHARED_AT_ONCE: &str = "SELECT state FROM resource WHERE id = $1 FOR SHARE SKIP LOCKED";

/// Waits for its turn longer than for a row: nobody who has a pool waits for a tree, a resource or another pool, so the line moves, and who left
/// it early would have done all of its work for nothing.
const POOL_IN_TURN: &str = "SELECT set_config('lock_timeout', '5s', true), pg_advisory_xact_lock(2, hashtext($1)), \
                            set_config('lock_timeout', usual.patience, true) \
                            FROM (SELECT current_setting('lock_timeout') AS patience OFFSET 0) usual";

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Lock {
    Tree(LeaseId),
    /// Who waits for whom.
    Circles,
    Pool(String),
    Resource(ResourceId),
}

impl Tx {
    /// Whether other daemons may have the same database.
    pub(super) fn is_shared(&self) -> bool {
        self.session.dialect() == Dialect::Postgres
    }

    fn takes_locks(&self) -> bool {
        self.is_shared() && self.intent == Intent::Write
    }

    fn holds_a_pool(&self) -> bool {
        self.locks.iter().any(|lock| matches!(lock, Lock::Pool(_)))
    }

    /// Whether this pool can be taken without waiting for it while others wait for one of ours.
    #[must_use]
    pub fn may_take_pool(&self, resource_type: &str) -> bool {
        !self.takes_locks() || !self.holds_a_pool() || self.locks.contains(&Lock::Pool(pool_of(resource_type)))
    }

    /// Whether a tree can be waited for, since nothing is ours yet that somebody may wait for.
    pub(super) fn may_wait_for_tree(&self) -> bool {
        self.takes_locks() && self.locks.is_empty() && !self.has_written_at_all()
    }

    /// A tree was taken.
    pub(super) fn has_tree(&mut self, root: &LeaseId) {
        self.locks.insert(Lock::Tree(root.clone()));
    }

    /// This tree is ours until the commit.
    pub(super) async fn lock_tree(&mut self, root: &LeaseId) -> Result<()> {
        if !self.takes_locks() || self.locks.contains(&Lock::Tree(root.clone())) {
            return Ok(());
        }
        if self.may_wait_for_tree() {
            self.fetch(sql("SELECT pg_advisory_xact_lock(1, hashtext($1))").bind(root.to_string())).await?;
            self.has_tree(root);
            return Ok(());
        }
        if self.try_tree(root).await? {
            return Ok(());
        }
        Err(self.overtaken(format!("the tree of {root} is being changed; try again")))
    }

    /// As [`Tx::lock_tree`], without waiting; whether it is ours.
    pub(super) async fn try_tree(&mut self, root: &LeaseId) -> Result<bool> {
        if !self.takes_locks() || self.locks.contains(&Lock::Tree(root.clone())) {
            return Ok(true);
        }
        let statement = sql("SELECT CASE WHEN pg_try_advisory_xact_lock(1, hashtext($1)) THEN 1 ELSE 0 END AS got");
        let row = self.fetch_one(statement.bind(root.to_string())).await?;
        let got = row.map(|row| Columns::of(&row).flag("got")).transpose()?.unwrap_or(false);
        if got {
            self.locks.insert(Lock::Tree(root.clone()));
        }
        Ok(got)
    }

    /// This pool is ours until the commit.
    pub(super) async fn lock_pool(&mut self, pool: &str) -> Result<()> {
        if !self.takes_locks() || self.locks.contains(&Lock::Pool(pool.to_owned())) {
            return Ok(());
        }
        // Two who have a pool each and want the other's must not stand there for long.
        let take = if self.holds_a_pool() { "SELECT pg_advisory_xact_lock(2, hashtext($1))" } else { POOL_IN_TURN };
        self.fetch(sql(take).bind(pool.to_owned())).await?;
        self.locks.insert(Lock::Pool(pool.to_owned()));
        Ok(())
    }

    /// Nobody else looks for circles of trees that wait for each other until the commit: of two that close one at the same time
    /// the second sees what the first waits for.
    pub(super) async fn lock_circles(&mut self) -> Result<()> {
        if self.takes_locks() && !self.locks.contains(&Lock::Circles) {
            self.fetch(sql("SELECT pg_advisory_xact_lock(3, 0)")).await?;
            self.locks.insert(Lock::Circles);
        }
        Ok(())
    }

    /// As [`Tx::lock_pool`], for what this blueprint makes.
    pub(super) async fn lock_pool_of(&mut self, blueprint: &BlueprintId) -> Result<()> {
        if !self.takes_locks() {
            return Ok(());
        }
        let statement = sql("SELECT resource_type FROM blueprint WHERE id = $1").bind(blueprint.to_string());
        match self.fetch_one(statement).await? {
            Some(row) => self.lock_pool(&pool_of(&Columns::of(&row).text("resource_type")?)).await,
            None => Ok(()),
        }
    }

    /// Nobody else takes a place on this resource, or changes it, until the commit.
    pub(super) async fn lock_resource(&mut self, id: &ResourceId) -> Result<()> {
        if !self.takes_locks() || self.locks.contains(&Lock::Resource(id.clone())) {
            return Ok(());
        }
        if self.holds_a_pool() {
            if self.fetch_one(sql(MINE_AT_ONCE).bind(id.to_string())).await?.is_none() && self.exists(id).await? {
                return Err(self.overtaken(format!("{id} is being changed; try again")));
            }
        } else {
            self.fetch(sql("SELECT state FROM resource WHERE id = $1 FOR UPDATE").bind(id.to_string())).await?;
        }
        self.locks.insert(Lock::Resource(id.clone()));
        Ok(())
    }

    /// Whether a place of this scope may be taken: one on a resource only while that lives, which it then goes on doing until
    /// the commit.
    pub(super) async fn takes_leases(&mut self, scope: &str) -> Result<bool> {
        let Some(id) = ResourceId::parse(scope).filter(|_| self.takes_locks()) else { return Ok(true) };
        match self.fetch_one(sql(SHARED_AT_ONCE).bind(id.to_string())).await? {
            Some(row) => Ok(matches!(Columns::of(&row).text("state")?.as_str(), "PENDING" | "ACTIVE")),
            None => Ok(!self.exists(&id).await?),
        }
    }

    async fn exists(&mut self, id: &ResourceId) -> Result<bool> {
        let statement = sql("SELECT 1 AS one FROM resource WHERE id = $1").bind(id.to_string());
        Ok(self.fetch_one(statement).await?.is_some())
    }
}
