//! Opening: the file's lock, migrations, the writer and the readers.

use std::borrow::Cow;
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use sqlx::any::AnyConnectOptions;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{ConnectOptions, Connection as _, SqlSafeStr};
use tokio::sync::broadcast;

use super::idle::Idle;
use super::readers::Readers;
use super::sqlite::Connection;
use super::statement::Dialect;
use super::{Inner, Location, Store, Writer, postgres, sqlite, writer};
use crate::clock::SharedClock;
use crate::error::{Error, Reason, Result};

/// In the order of their numbers; one that was released is never changed.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "keel", include_str!("migrations/0001_keel.sql")),
    (2, "found", include_str!("migrations/0002_found.sql")),
    (3, "shares", include_str!("migrations/0003_shares.sql")),
    (4, "pools", include_str!("migrations/0004_pools.sql")),
    (5, "outlook", include_str!("migrations/0005_outlook.sql")),
    (6, "peers", include_str!("migrations/0006_peers.sql")),
    (7, "waiters", include_str!("migrations/0007_waiters.sql")),
    (8, "lapses", include_str!("migrations/0008_lapses.sql")),
];

/// What `PostgreSQL` alone has, after those.
const ON_POSTGRES: &[(i64, &str, &str)] = &[
    (1001, "many daemons", include_str!("migrations/postgres/1001_many_daemons.sql")),
    (1002, "claims aside", include_str!("migrations/postgres/1002_claims_aside.sql")),
];

impl Store {
    /// Opens the database, a file being made when missing, and brings it to this version.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when another daemon has the file, when the database is newer than this binary, or when a server lets
    /// us in nowhere; `STORE_UNAVAILABLE`.
    pub async fn open(location: &Location, clock: SharedClock) -> Result<Self> {
        let statements = Arc::new(AtomicU64::new(0));
        let (news, _) = broadcast::channel(4096);
        let idle = Arc::new(Idle::default());
        let metrics = Arc::new(crate::metrics::Metrics::new());
        let (readers, writer) = match location {
            Location::Sqlite { path } => {
                let lock = lock(path)?;
                migrate(path).await?;
                let readers = Arc::new(sqlite::Readers::new(path.clone(), Arc::clone(&statements)));
                let connection = Connection::writer(path, Arc::clone(&statements))?.with_checkpoints_beside(&readers);
                let counted = Arc::clone(&metrics);
                let writer = writer::Writer::new(connection, clock.clone(), news.clone(), Arc::clone(&idle), counted);
                (Readers::Sqlite(readers), Writer::Sqlite { queue: writer.on_a_thread()?, _lock: lock })
            }
            Location::InTurns { path } => {
                let lock = lock(path)?;
                let connection = Connection::writer(path, Arc::clone(&statements))?;
                let readers = sqlite::Readers::in_turns(path.clone(), Arc::clone(&statements));
                let counted = Arc::clone(&metrics);
                let writer = writer::Writer::new(connection, clock.clone(), news.clone(), Arc::clone(&idle), counted);
                (Readers::Sqlite(Arc::new(readers)), Writer::Sqlite { queue: writer.in_turns(), _lock: lock })
            }
            Location::Postgres(remote) => {
                let home: Arc<str> = remote.home.as_str().into();
                let shared = postgres::Shared {
                    clock: clock.clone(),
                    news: news.clone(),
                    idle: Arc::clone(&idle),
                    count: Arc::clone(&statements),
                    metrics: Arc::clone(&metrics),
                };
                let (readers, writer, tasks) = postgres::open(remote, shared).await?;
                (Readers::Postgres(readers), Writer::Postgres { writer, home: Arc::clone(&home), _tasks: tasks })
            }
        };
        let operations = AtomicU64::new(0);
        let along = OnceLock::new();
        let in_turns = matches!(location, Location::InTurns { .. });
        let inner = Inner { readers, writer, news, idle, in_turns, along, clock, statements, operations, metrics };
        Ok(Self { inner: Arc::new(inner) })
    }
}

/// The migrations of an engine.
pub(super) fn migrator(dialect: Dialect) -> Migrator {
    let of_both = MIGRATIONS.iter().map(|(version, name, sql)| match dialect {
        Dialect::Sqlite => (*version, *name, Cow::Borrowed(*sql)),
        Dialect::Postgres => (*version, *name, Cow::Owned(for_postgres(sql))),
    });
    let own = ON_POSTGRES.iter().filter(|_| dialect == Dialect::Postgres);
    let all = of_both.chain(own.map(|(version, name, sql)| (*version, *name, Cow::Borrowed(*sql))));
    let migrations = all.map(|(version, name, sql)| {
        let sql = match sql {
            Cow::Borrowed(text) => text.into_sql_str(),
            Cow::Owned(text) => sqlx::AssertSqlSafe(text).into_sql_str(),
        };
        Migration::new(version, name.into(), MigrationType::Simple, sql, false)
    });
    Migrator::with_migrations(migrations.collect())
}

/// Two words differ. Text sorts by its bytes, as in `SQLite`, whatever the language of the database; numbers of events are
/// given out by what inserts them.
fn for_postgres(sql: &str) -> String {
    sql.replace("INTEGER PRIMARY KEY AUTOINCREMENT", "BIGINT PRIMARY KEY")
        .replace(" TEXT", " TEXT COLLATE \"C\"")
        .replace("JSON in TEXT COLLATE \"C\"", "JSON in TEXT")
}

/// Why a database could not be brought to this version.
pub(super) fn not_migrated(which: &str, error: MigrateError) -> Error {
    match error {
        MigrateError::VersionMissing(version) => Error::invalid(format!(
            "the database {which} is newer than this binary (it has migration {version}); use a newer drydock, or another database"
        )),
        MigrateError::VersionMismatch(version) => Error::invalid(format!(
            "the database {which} was made by another line of drydock (migration {version} differs); use that one, or another database"
        )),
        error => Error::new(Reason::StoreUnavailable, format!("cannot bring the database {which} to this version"))
            .because(error),
    }
}

/// The first look into the file: what is no database, or a broken one, does not get better by trying again.
fn unreadable(path: &str, error: sqlx::Error) -> Error {
    // SQLITE_CORRUPT and SQLITE_NOTADB; the high bits of a code tell more of the same.
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    let code = code.and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff);
    if matches!(code, Some(11 | 26)) {
        let why = format!("{path} is damaged or no database; move it away, or choose another data folder");
        return Error::invalid(why).because(error);
    }
    Error::new(Reason::StoreUnavailable, format!("cannot open the database {path}")).because(error)
}

/// One daemon per file: the lock goes with the process, however it dies.
pub(super) fn lock(database: &Path) -> Result<std::fs::File> {
    let path = database.with_extension("lock");
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(|error| {
        Error::new(Reason::StoreUnavailable, format!("cannot open the lock file {}", path.display())).because(error)
    })?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|error| {
        Error::invalid(format!(
            "another daemon has the database {}; stop it, or choose another data folder with --data-dir",
            database.display()
        ))
        .because(error)
    })?;
    Ok(file)
}

/// On a connection of its own, since the migrator is the same for all databases.
pub(super) async fn migrate(path: &Path) -> Result<()> {
    sqlx::any::install_default_drivers();
    let path = path.to_str().ok_or_else(|| {
        Error::invalid(format!("the database's path {} is not UTF-8; choose another", path.display()))
    })?;
    let escaped = path.replace('%', "%25").replace('?', "%3F").replace('#', "%23");
    let unreadable = |error| unreadable(path, error);
    let options = AnyConnectOptions::from_str(&format!("sqlite://{escaped}?mode=rwc")).map_err(unreadable)?;
    let mut connection = options.connect().await.map_err(unreadable)?;
    let durable = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 10000";
    sqlx::raw_sql(durable).execute(&mut connection).await.map_err(unreadable)?;
    let outcome = migrator(Dialect::Sqlite).run_direct(None, &mut connection, false).await;
    let closed = connection.close().await;
    match outcome {
        Ok(()) => closed.map_err(unreadable),
        Err(error) => Err(not_migrated(path, error)),
    }
}
