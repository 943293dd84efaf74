//! Durable state: the only place with SQL.
//!
//! One [`Store`], two engines behind it: `SQLite` (one daemon per file, one writer that groups commits) and, later,
//! `PostgreSQL`. Every change goes through [`Store::write`]: a closure over a [`Tx`] that runs in one transaction, may be
//! run again when the transaction has to be repeated, and therefore touches nothing but the transaction. What the
//! transaction woke and told is announced after its commit, never before.
//!
//! Statements are literal and written once where both databases understand them: `$1` parameters, TEXT and BIGINT columns,
//! JSON in TEXT, `ON CONFLICT`, `RETURNING`.

mod blueprints;
mod effects;
mod events;
mod leases;
mod list;
mod open;
mod pool;
mod queue;
mod records;
mod registered;
mod resources;
mod retention;
mod row;
mod step;
mod tx;
mod writer;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::BoxFuture;
use sqlx::AnyPool;
use tokio::sync::{broadcast, mpsc};

use crate::clock::{Micros, SharedClock};
use crate::error::{Error, Reason, Result};
use crate::model::Event;
use crate::model::id::LeaseId;

pub use list::{ListQuery, PageOf};
pub use queue::{CLAIM_LENGTH, Claim, Reaped};
pub use records::{Daemon, Request};
pub use retention::Purged;
pub use step::{Baton, Committed, Next, Scope, Wait, pool_of};
pub use tx::Tx;

/// Where a store is opened.
#[derive(Debug, Clone)]
pub struct Location {
    /// The `SQLite` file; its folder must exist.
    pub path: PathBuf,
}

/// What a commit set in motion; told to whoever subscribed, after it is durable.
#[derive(Debug, Clone, Default)]
pub struct News {
    /// Events in the order of commit.
    pub events: Vec<Event>,
    /// Tasks that became ready.
    pub ready: u32,
    /// Roots that have a task that became ready.
    pub ready_roots: HashSet<LeaseId>,
    /// The earliest timer that was set.
    pub timer: Option<Micros>,
}

/// Durable state.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    readers: AnyPool,
    writer: mpsc::Sender<Box<dyn writer::Operation>>,
    news: broadcast::Sender<Arc<News>>,
    clock: SharedClock,
    statements: AtomicU64,
    /// Held as long as the store is: one daemon per file.
    _lock: std::fs::File,
}

impl Store {
    /// Runs `work` in one transaction and answers when it is durable. `work` may run more than once; it returns `Err` to
    /// leave no trace.
    ///
    /// # Errors
    /// What `work` says; `STORE_UNAVAILABLE` or `NO_SPACE` when nothing could be written.
    pub async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T>> + Send + 'static,
    {
        let (operation, answer) = writer::operation(work);
        let gone = || Error::new(Reason::StoreUnavailable, "the database's writer has stopped; restart the daemon");
        self.inner.writer.send(operation).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// What commits set in motion, from now on.
    #[must_use]
    pub fn news(&self) -> broadcast::Receiver<Arc<News>> {
        self.inner.news.subscribe()
    }

    /// The clock by which times are written.
    #[must_use]
    pub fn clock(&self) -> &SharedClock {
        &self.inner.clock
    }

    /// SQL statements run so far, for the benchmarks.
    #[must_use]
    pub fn statements(&self) -> u64 {
        self.inner.statements.load(Ordering::Relaxed) + writer::STATEMENTS.load(Ordering::Relaxed)
    }

    fn readers(&self) -> &AnyPool {
        self.inner.statements.fetch_add(1, Ordering::Relaxed);
        &self.inner.readers
    }
}

/// The database said no.
pub(crate) fn failed(error: sqlx::Error) -> Error {
    let full = error
        .as_database_error()
        .is_some_and(|e| e.message().contains("disk is full") || e.code().as_deref() == Some("13"));
    if full {
        Error::new(
            Reason::NoSpace,
            "the disk of the database is full; nothing was written; free some space and try again",
        )
        .because(error)
    } else {
        Error::new(Reason::StoreUnavailable, "the database does not answer; nothing was written; try again")
            .because(error)
    }
}
