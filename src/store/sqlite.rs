//! Statements on a connection to `SQLite`, on whatever thread asks: no statement costs a trip to another one.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rusqlite::types::ToSqlOutput;
use rusqlite::{ErrorCode, OpenFlags, ToSql};
use tokio::sync::Semaphore;

use super::row::{Cell, Row};
use super::statement::{Answer, Dialect, Statement, Value, sql};
use super::tx::{Begun, Opening, Session};
use crate::error::{Error, Reason, Result};

const WRITER: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 10000; PRAGMA foreign_keys = ON; \
                      PRAGMA temp_store = MEMORY; PRAGMA cache_size = -8000";
const READER: &str =
    "PRAGMA query_only = ON; PRAGMA busy_timeout = 10000; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -4000";
/// More than there are literal statements, so that each is prepared once.
const PREPARED: usize = 256;
/// Connections for reading that are kept open.
const KEPT: usize = 4;
/// Long reads at a time.
const LONG: usize = 2;

/// A connection.
pub(super) struct Connection {
    inner: rusqlite::Connection,
    /// The columns that literal statements answer.
    columns: HashMap<&'static str, Arc<[Box<str>]>>,
    /// Statements run on all connections of the store.
    count: Arc<AtomicU64>,
}

impl Connection {
    /// The one that writes.
    pub(super) fn writer(path: &Path, count: Arc<AtomicU64>) -> Result<Self> {
        Self::open(path, WRITER, count)
    }

    fn open(path: &Path, settings: &str, count: Arc<AtomicU64>) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let inner = rusqlite::Connection::open_with_flags(path, flags).map_err(failed)?;
        inner.set_prepared_statement_cache_capacity(PREPARED);
        inner.execute_batch(settings).map_err(failed)?;
        Ok(Self { inner, columns: HashMap::new(), count })
    }

    fn answer(&mut self, statement: &Statement) -> rusqlite::Result<Answer> {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut prepared = self.inner.prepare_cached(&statement.text)?;
        for index in 1..=prepared.parameter_count() {
            // `$2` is a name to SQLite; the number that it has there is the one of its first use.
            let number = prepared.parameter_name(index).and_then(|name| name.strip_prefix('$')?.parse::<usize>().ok());
            let value = number.and_then(|number| statement.values.get(number.checked_sub(1)?));
            let value = value.ok_or(rusqlite::Error::InvalidParameterCount(index, statement.values.len()))?;
            prepared.raw_bind_parameter(index, value)?;
        }
        let names = || Row::names(&prepared.column_names());
        let names = match statement.text {
            Cow::Borrowed(text) => Arc::clone(self.columns.entry(text).or_insert_with(names)),
            Cow::Owned(_) => names(),
        };
        let mut answer = Answer::default();
        let mut rows = prepared.raw_query();
        while let Some(row) = rows.next()? {
            let cells = (0..names.len()).map(|index| Ok(Cell::from(row.get_ref(index)?)));
            answer.rows.push(Row::new(Arc::clone(&names), cells.collect::<rusqlite::Result<_>>()?));
        }
        drop(rows);
        if matches!(statement.text, Cow::Owned(_)) {
            prepared.discard();
        }
        answer.changed = self.inner.changes();
        Ok(answer)
    }
}

#[async_trait]
impl Session for Connection {
    async fn begin(&mut self, _opening: &Opening) -> Result<Begun> {
        self.run(sql("BEGIN IMMEDIATE")).await.map(|_| Begun::default())
    }

    async fn run(&mut self, statement: Statement) -> Result<Answer> {
        self.answer(&statement).map_err(failed)
    }

    async fn commit(&mut self) -> Result<()> {
        self.run(sql("COMMIT")).await.map(drop)
    }

    async fn rollback(&mut self) {
        // It may have rolled back by itself already (a full disk): then this fails, and that is fine.
        let _ = self.run(sql("ROLLBACK")).await;
    }

    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        match self {
            Self::Integer(number) => number.to_sql(),
            Self::Text(text) => match text {
                Some(text) => Ok(ToSqlOutput::from(text.as_ref())),
                None => Ok(ToSqlOutput::from(rusqlite::types::Null)),
            },
        }
    }
}

/// Connections that only read. They see what was committed before they look, and do not wait for the writer.
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    long: Arc<Semaphore>,
    count: Arc<AtomicU64>,
    /// Looks so far: a statement, or several on one state.
    looks: AtomicU64,
    /// One thread does it all.
    in_turns: bool,
}

impl Readers {
    pub(super) fn new(path: PathBuf, count: Arc<AtomicU64>) -> Self {
        let long = Arc::new(Semaphore::new(LONG));
        Self { path, idle: Mutex::default(), long, count, looks: AtomicU64::new(0), in_turns: false }
    }

    /// On the one thread that there is.
    pub(super) fn in_turns(path: PathBuf, count: Arc<AtomicU64>) -> Self {
        Self { in_turns: true, ..Self::new(path, count) }
    }

    pub(super) fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }

    /// Runs what finds its few rows by an index, here: to hand it to another thread would cost more than it does.
    pub(super) async fn look(&self, statement: &Statement) -> Result<Answer> {
        // It never waits, and so would never let others of its thread get on.
        tokio::task::coop::consume_budget().await;
        self.answer(statement)
    }

    fn answer(&self, statement: &Statement) -> Result<Answer> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => Connection::open(&self.path, READER, Arc::clone(&self.count))?,
        };
        let answer = connection.answer(statement).map_err(failed);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT {
            idle.push(connection);
        }
        answer
    }

    /// Runs what may go through many rows, on a thread where it holds up nobody, a few at a time.
    pub(super) async fn search(self: &Arc<Self>, statement: Statement) -> Result<Answer> {
        if self.in_turns {
            return self.look(&statement).await;
        }
        let gone = |error| Error::internal("a search of the database was cut off", error);
        let permit = Arc::clone(&self.long).acquire_owned().await;
        let readers = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let _one_of_few = permit;
            readers.answer(&statement)
        })
        .await
        .map_err(gone)?
    }
}

/// The database said no.
fn failed(error: rusqlite::Error) -> Error {
    let message = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            let why = "the disk of the database is full; nothing was written; free some space and try again";
            return Error::new(Reason::NoSpace, why).because(error);
        }
        // Extended codes too: these are their kinds.
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            "the database is damaged; nothing was written; stop the daemon and restore it, or choose another data folder"
        }
        _ => "the database does not answer; nothing was written; try again",
    };
    Error::new(Reason::StoreUnavailable, message).because(error)
}

#[cfg(test)]
mod tests {
    use super::super::{events, leases, registered};
    use super::*;
    use crate::clock::ManualClock;
    use crate::store::{Location, Store};

    /// How `SQLite` goes about a statement, a line a step.
    fn plan(path: &Path, text: &str) -> String {
        let connection = rusqlite::Connection::open(path).unwrap();
        let mut prepared = connection.prepare(&format!("EXPLAIN QUERY PLAN {text}")).unwrap();
        let mut rows = prepared.raw_query();
        let mut plan = String::new();
        while let Some(row) = rows.next().unwrap() {
            plan += &row.get::<_, String>("detail").unwrap();
            plan.push('\n');
        }
        plan
    }

    #[tokio::test]
    async fn what_is_asked_for_often_is_found_by_an_index() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("drydock.db");
        let store = Store::open(&Location::Sqlite { path: path.clone() }, ManualClock::at(0)).await.unwrap();
        assert_eq!(plan(&path, registered::REGISTERED), "SCAN resource USING INDEX resource_registered\n");
        assert_eq!(plan(&path, leases::ACTIVE_OF), "SEARCH lease USING INDEX lease_active (owner=?)\n");
        let span = plan(&path, events::SPAN);
        assert_eq!(span.matches("SEARCH event").count(), 2, "{span}");
        assert!(!span.contains("SCAN event"), "{span}");
        assert_eq!(store.event_span().await.unwrap(), (0, 0));
    }

    #[test]
    fn a_damaged_database_is_told_by_whatever_code() {
        for code in [11, 26, 267, 779] {
            let error = failed(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None));
            assert!(error.message.contains("damaged"), "{code}: {error}");
            assert_eq!(error.reason, Reason::StoreUnavailable);
        }
        let full = failed(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(13), None));
        assert_eq!(full.reason, Reason::NoSpace);
        let busy = failed(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(5), None));
        assert!(busy.message.contains("try again"), "{busy}");
    }
}
