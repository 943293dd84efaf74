//! Statements on a connection to `SQLite`, on whatever thread asks: no statement costs a trip to another one.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rusqlite::config::DbConfig;
use rusqlite::types::ToSqlOutput;
use rusqlite::{ErrorCode, OpenFlags, ToSql};
use tokio::sync::Semaphore;

use super::checkpoint::{self, Checkpoints, Place};
use super::row::{Cell, Row};
use super::statement::{Answer, Dialect, Statement, Value, sql};
use super::tx::{Begun, Opening, Session};
use crate::error::{Error, Reason, Result};

const WRITER: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 10000; PRAGMA foreign_keys = ON; \
                      PRAGMA temp_store = MEMORY; PRAGMA cache_size = -8000";
const READER: &str = "PRAGMA query_only = ON; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 10000; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -4000";
/// As far as it goes without waiting for anybody.
const CHECKPOINT: &str = "PRAGMA wal_checkpoint(PASSIVE)";
/// More than there are literal statements, so that each is prepared once.
const PREPARED: usize = 256;
/// Connections for reading that are kept open.
const KEPT: usize = 4;
/// Long reads at a time.
const LONG: usize = 2;

/// A connection.
pub(super) struct Connection {
    inner: rusqlite::Connection,
    /// What is known of literal statements, by where in the program it stands and how long it is.
    known: HashMap<(usize, usize), Known>,
    /// Statements run on all connections of the store.
    count: Arc<AtomicU64>,
    /// Of the log that it writes; without, it sees to them itself.
    checkpoints: Option<Checkpoints>,
}

/// What a statement says of itself, always the same.
#[derive(Clone)]
struct Known {
    /// For each of its parameters as `SQLite` counts them, the place of its value.
    parameters: Arc<[usize]>,
    /// Of the columns that it answers.
    names: Arc<[Box<str>]>,
}

impl Known {
    fn of(prepared: &rusqlite::Statement<'_>) -> rusqlite::Result<Self> {
        let count = prepared.parameter_count();
        let parameters = (1..=count).map(|index| {
            // `$2` is a name to SQLite; the number that it has there is the one of its first use.
            let number = prepared.parameter_name(index).and_then(|name| name.strip_prefix('$')?.parse::<usize>().ok());
            number.and_then(|number| number.checked_sub(1)).ok_or(rusqlite::Error::InvalidParameterCount(index, count))
        });
        Ok(Self {
            parameters: parameters.collect::<rusqlite::Result<_>>()?,
            names: Row::names(&prepared.column_names()),
        })
    }
}

impl Connection {
    /// The one that writes.
    pub(super) fn writer(path: &Path, count: Arc<AtomicU64>) -> Result<Self> {
        Self::open(path, WRITER, count)
    }

    /// Has checkpoints done on another thread, by one of those that read. It must write on one thread alone from now on.
    pub(super) fn with_checkpoints_beside(mut self, readers: &Arc<Readers>) -> Self {
        self.checkpoints = Some(Checkpoints::of(&self.inner, Arc::clone(readers)));
        self
    }

    fn open(path: &Path, settings: &str, count: Arc<AtomicU64>) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let inner = rusqlite::Connection::open_with_flags(path, flags).map_err(failed)?;
        inner.set_prepared_statement_cache_capacity(PREPARED);
        inner.execute_batch(settings).map_err(failed)?;
        // Else a statement is planned anew each time that the number of its LIMIT is bound.
        inner.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(failed)?;
        Ok(Self { inner, known: HashMap::new(), count, checkpoints: None })
    }

    fn answer(&mut self, statement: &Statement) -> rusqlite::Result<Answer> {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut prepared = self.inner.prepare_cached(&statement.text)?;
        let Known { parameters, names } = match statement.text {
            Cow::Borrowed(text) => match self.known.entry((text.as_ptr().addr(), text.len())) {
                Entry::Occupied(known) => known.get().clone(),
                Entry::Vacant(unknown) => unknown.insert(Known::of(&prepared)?).clone(),
            },
            Cow::Owned(_) => Known::of(&prepared)?,
        };
        for (index, place) in (1..).zip(parameters.iter()) {
            let value = statement.values.get(*place);
            let value = value.ok_or(rusqlite::Error::InvalidParameterCount(index, statement.values.len()))?;
            prepared.raw_bind_parameter(index, value)?;
        }
        let mut answer = Answer::default();
        let mut rows = prepared.raw_query();
        while let Some(from) = rows.next()? {
            let mut row = Row::new(Arc::clone(&names));
            for index in 0..names.len() {
                row.push(Cell::from(from.get_ref(index)?));
            }
            answer.rows.push(row);
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
        self.run(sql("COMMIT")).await?;
        if self.checkpoints.as_mut().and_then(Checkpoints::after_commit) == Some(Place::Here) {
            checkpoint::tell(self.answer(&sql(CHECKPOINT)).map_err(failed).map(drop));
        }
        Ok(())
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

    /// Brings what was committed into the file, on the thread that asks: it may wait for the disk.
    pub(super) fn checkpoint(&self) -> Result<()> {
        self.answer(&sql(CHECKPOINT)).map(drop)
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
    use rusqlite::StatementStatus;

    use super::super::row::Columns;
    use super::super::{events, leases, pool, registered};
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

    #[tokio::test]
    async fn no_statement_is_planned_anew_for_what_is_bound_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("drydock.db");
        let _store = Store::open(&Location::Sqlite { path: path.clone() }, ManualClock::at(0)).await.unwrap();
        let mut connection = Connection::writer(&path, Arc::default()).unwrap();
        for many in [1, 2, 3] {
            let queue = sql(pool::QUEUE).bind("host").bind(many).bind("lease").bind(many);
            connection.run(queue).await.unwrap();
        }
        let prepared = connection.inner.prepare_cached(pool::QUEUE).unwrap();
        assert_eq!(prepared.get_status(StatementStatus::Run), 3, "it is the one that was run");
        assert_eq!(prepared.get_status(StatementStatus::RePrepare), 0);
    }

    #[tokio::test]
    async fn values_and_columns_are_told_apart_by_number_and_name() {
        let mut connection = Connection::open(Path::new(":memory:"), WRITER, Arc::default()).unwrap();
        for _ in 0..2 {
            let answer = connection.run(
                sql("SELECT $2 AS second, NULL AS none, $1 AS first, $2 || $2 AS twice, 'ü' AS text, 1.5 AS odd UNION ALL \
                     SELECT $1, $1, '', 1, 2, 3").bind(7).bind("two"),
            );
            let rows = answer.await.unwrap().rows;
            let [one, other] = rows.as_slice() else { panic!("{rows:?}") };
            let columns = Columns::of(one);
            // Forwards, again, and back.
            assert_eq!(columns.text("second").unwrap(), "two");
            assert_eq!(columns.integer("first").unwrap(), 7);
            assert_eq!(columns.text("twice").unwrap(), "twotwo");
            assert_eq!(columns.text("twice").unwrap(), "twotwo");
            assert_eq!(columns.maybe_text("none").unwrap(), None);
            assert_eq!(columns.maybe_integer("none").unwrap(), None);
            assert_eq!(columns.text("text").unwrap(), "ü");
            assert!(columns.text("odd").unwrap_err().message.contains("Odd"));
            assert!(columns.text("third").unwrap_err().message.contains("third"));
            assert_eq!(columns.text("second").unwrap(), "two");
            let cells: Vec<Cell<'_>> = other.cells().collect();
            let expected = [7, 7].map(Cell::Integer).into_iter().chain([Cell::Text("")]);
            assert_eq!(cells, expected.chain([1, 2, 3].map(Cell::Integer)).collect::<Vec<_>>());
        }
        let missing = connection.run(sql("SELECT $1 AS first, $2 AS second").bind(7)).await.unwrap_err();
        assert!(missing.message.contains("try again"), "{missing}");
    }

    /// Writes a page or more, durably.
    async fn write(connection: &mut Connection, number: i64) {
        connection.begin(&Opening::Plain).await.unwrap();
        let text = "INSERT INTO request (principal, method, request_id, body, object, expire_time) VALUES ('p', 'm', $1, $2, 'o', 1)";
        let row = sql(text).bind(number.to_string()).bind("x".repeat(20_000));
        connection.run(row).await.unwrap();
        connection.commit().await.unwrap();
    }

    #[tokio::test]
    async fn checkpoints_are_done_beside_the_one_who_writes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("drydock.db");
        drop(Store::open(&Location::Sqlite { path: path.clone() }, ManualClock::at(0)).await.unwrap());
        let length = || std::fs::metadata(&path).unwrap().len();
        let readers = Arc::new(Readers::new(path.clone(), Arc::default()));
        let mut connection = Connection::writer(&path, Arc::default()).unwrap().with_checkpoints_beside(&readers);
        let before = length();
        let mut number = 0;
        // A log of 4 MiB, and then it is the other thread's turn.
        loop {
            let now = length();
            if readers.looks() > 0 {
                break;
            }
            assert_eq!(now, before, "a commit has done it itself");
            write(&mut connection, number).await;
            number += 1;
            assert!(number < 1000, "nobody does it");
        }
        while length() == before {
            tokio::task::yield_now().await;
        }
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
