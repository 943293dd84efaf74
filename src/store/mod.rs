//! Durable state: the only place with SQL.
//!
//! One [`Store`], two engines behind it: `SQLite` (one daemon per file, one writer that groups commits) and `PostgreSQL` (any
//! number of daemons on one database, each with some connections that write at the same time). Every change goes through [`Store::write`]: a closure over a [`Tx`] that runs in one transaction, may be
//! run again when the transaction has to be repeated, and therefore touches nothing but the transaction. What the
//! transaction woke and told is announced after its commit, never before.
//!
//! Statements are literal and written once where both databases understand them: `$1` parameters, TEXT and BIGINT columns,
//! JSON in TEXT, `ON CONFLICT`, `RETURNING`. An engine is what runs a `statement::Statement`: a `tx::Session` for
//! writing, and readers. `sqlite` is one: writes run on the writer's own thread and short reads on the caller's, so that a
//! statement costs what it does, not two hops between threads. `postgres` is the other; what its transactions must hold against
//! each other is in `locks`.

mod blueprints;
mod checkpoint;
mod claiming;
mod copy;
mod count;
mod effects;
mod events;
mod gauges;
mod idle;
mod lapse;
mod leases;
mod list;
mod locks;
mod open;
mod peers;
mod pool;
mod postgres;
mod queue;
mod readers;
mod records;
mod registered;
mod resources;
mod retention;
mod row;
mod served;
mod shares;
mod sqlite;
mod statement;
mod step;
mod trial;
mod tx;
mod waits_for;
mod warm;
mod writer;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use futures::future::BoxFuture;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::DropGuard;

use self::tx::Opening;
use crate::clock::{Micros, SharedClock};
use crate::error::{Error, Reason, Result};
use crate::metrics::Metrics;
use crate::model::Event;
use crate::model::id::LeaseId;

pub use idle::IdleWorker;
pub use lapse::Reaped;
pub use list::{ListQuery, PageOf};
pub use peers::{Peer, PeerDoor};
pub use postgres::Remote;
pub use queue::Claim;
pub use records::{Daemon, Request};
pub use retention::Purged;
pub use served::PoolHistory;
pub use step::{Along, Baton, Committed, Next, Scope, Wait, pool_of};
pub use trial::{CLAIM_LENGTH, claim_length};
pub use tx::Tx;
pub use waits_for::Held;

/// Where a store is opened.
#[derive(Debug, Clone)]
pub enum Location {
    /// A file of one daemon.
    Sqlite {
        /// Its folder must exist.
        path: PathBuf,
    },
    /// As `Sqlite`, for a simulation: all is done in turns by the runtime that opens it, which has one thread, so that the
    /// same calls come to the same commits. The file is there already, and of this version.
    InTurns {
        /// The file.
        path: PathBuf,
    },
    /// A database that several daemons share.
    Postgres(postgres::Remote),
}

/// What a commit set in motion; told to whoever subscribed, after it is durable.
#[derive(Debug, Clone, Default)]
pub struct News {
    /// Events in the order of commit.
    pub events: Vec<Event>,
    /// Tasks that became ready.
    pub ready: u32,
    /// Roots that have a task that became ready.
    pub ready_roots: BTreeSet<LeaseId>,
    /// The earliest timer that was set.
    pub timer: Option<Micros>,
    /// The lowest place of those that became ready.
    level: Option<claiming::Level>,
    /// For the metrics of the daemon that made the commit.
    counts: count::Counts,
}

/// Durable state.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    readers: readers::Readers,
    writer: Writer,
    news: broadcast::Sender<Arc<News>>,
    idle: Arc<idle::Idle>,
    /// One thread does it all.
    in_turns: bool,
    along: OnceLock<Arc<dyn Along>>,
    clock: SharedClock,
    /// Statements run so far, of the writer and of readers.
    statements: Arc<AtomicU64>,
    /// Operations handed to the writer so far.
    operations: AtomicU64,
    metrics: Arc<Metrics>,
}

/// Who runs what writes.
enum Writer {
    /// The way to the one that writes, and the lock on the file, held as long as the store is.
    Sqlite { queue: mpsc::Sender<Box<dyn writer::Operation>>, _lock: std::fs::File },
    /// Tasks beside it end with the store.
    Postgres { writer: Arc<postgres::Writer>, home: Arc<str>, _tasks: DropGuard },
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
        self.transact(Opening::Plain, work).await
    }

    /// Runs `work`, which writes nothing. On `PostgreSQL` it sees the database of one moment, and takes none of the locks of
    /// [`Store::write`]: what it sees may change before it answers. On `SQLite` it is one more operation of the one writer.
    ///
    /// # Errors
    /// What `work` says; `STORE_UNAVAILABLE`; `INTERNAL` when it writes.
    pub async fn look<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T>> + Send + 'static,
    {
        self.transact(Opening::Look, work).await
    }

    /// As [`Store::write`], for work that begins like this.
    pub(crate) async fn transact<T, F>(&self, opening: Opening, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T>> + Send + 'static,
    {
        let (operation, answer) = writer::operation(opening, work);
        let gone = || Error::new(Reason::StoreUnavailable, "the database's writer has stopped; restart the daemon");
        self.inner.operations.fetch_add(1, Ordering::Relaxed);
        match &self.inner.writer {
            Writer::Sqlite { queue, .. } => queue.send(operation).await.map_err(|_| gone())?,
            Writer::Postgres { writer, .. } => writer.begin(operation),
        }
        let answer = answer.await.map_err(|_| gone())?;
        if answer.as_ref().is_err_and(|error| matches!(error.reason, Reason::StoreUnavailable | Reason::NoSpace)) {
            self.metrics().not_committed();
        }
        answer
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
        self.inner.statements.load(Ordering::Relaxed)
    }

    /// Calls so far, for the benchmarks: a write is one, however many statements it makes, and so is a look.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.inner.operations.load(Ordering::Relaxed) + self.inner.readers.looks()
    }

    /// What this daemon counts.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.inner.metrics
    }

    /// Whether there may be other daemons on this database.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self.inner.writer, Writer::Postgres { .. })
    }

    /// This daemon's machine and data folder, when there may be other daemons.
    #[must_use]
    pub fn home(&self) -> Option<&str> {
        match &self.inner.writer {
            Writer::Sqlite { .. } => None,
            Writer::Postgres { home, .. } => Some(home),
        }
    }

    /// Runs what takes a processor a while where it holds up nobody.
    ///
    /// # Errors
    /// When it panicked, or the runtime ends.
    pub async fn aside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        if self.inner.in_turns {
            return Ok(work());
        }
        let cut_off = |error| Error::internal("work that was put aside was cut off", error);
        tokio::task::spawn_blocking(work).await.map_err(cut_off)
    }

    /// Looks what other daemons have done that we were not told: for the sweep.
    pub fn look_around(&self) {
        if let Writer::Postgres { writer, .. } = &self.inner.writer {
            writer.look_around();
        }
    }

    /// Connections for what cannot wait until it is the turn of a transaction, where there are several daemons.
    fn out_of_line(&self) -> Option<&postgres::Readers> {
        match &self.inner.writer {
            Writer::Sqlite { .. } => None,
            Writer::Postgres { writer, .. } => Some(writer.aside()),
        }
    }

    fn readers(&self) -> &readers::Readers {
        &self.inner.readers
    }
}
