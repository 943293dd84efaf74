//! Opening: the file's lock, migrations, the writer and the readers.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{AnyConnection, ConnectOptions, Connection, SqlSafeStr};
use tokio::sync::broadcast;

use super::{Inner, Location, Store, failed, writer};
use crate::clock::SharedClock;
use crate::error::{Error, Reason, Result};

/// In the order of their numbers; one that was released is never changed.
const MIGRATIONS: &[(i64, &str, &str)] = &[(1, "keel", include_str!("migrations/0001_keel.sql"))];

const WRITER: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 10000; PRAGMA foreign_keys = ON; \
                      PRAGMA temp_store = MEMORY; PRAGMA cache_size = -8000";
const READER: &str =
    "PRAGMA query_only = ON; PRAGMA busy_timeout = 10000; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -4000";

impl Store {
    /// Opens the database, made when missing, and brings it to this version.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when another daemon has the file or when it is newer than this binary; `STORE_UNAVAILABLE`.
    pub async fn open(location: &Location, clock: SharedClock) -> Result<Self> {
        sqlx::any::install_default_drivers();
        let lock = lock(location)?;
        let path = location.path.to_str().ok_or_else(|| {
            Error::invalid(format!("the database's path {} is not UTF-8; choose another", location.path.display()))
        })?;
        let escaped = path.replace('%', "%25").replace('?', "%3F").replace('#', "%23");
        let options = AnyConnectOptions::from_str(&format!("sqlite://{escaped}?mode=rwc")).map_err(failed)?;
        let mut connection = options.connect().await.map_err(failed)?;
        sqlx::raw_sql(WRITER).execute(&mut connection).await.map_err(|error| damaged(path, error))?;
        migrate(&mut connection, path).await?;

        let readers = AnyPoolOptions::new()
            .max_connections(2)
            .min_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .after_connect(|connection, _| {
                Box::pin(async move { sqlx::raw_sql(READER).execute(&mut *connection).await.map(|_| ()) })
            })
            .connect_with(options.disable_statement_logging())
            .await
            .map_err(failed)?;
        let (news, _) = broadcast::channel(4096);
        let writer = writer::start(connection, clock.clone(), news.clone());
        Ok(Self { inner: Arc::new(Inner { readers, writer, news, clock, statements: AtomicU64::new(0), _lock: lock }) })
    }
}

/// The first look into the file: what is no database, or a broken one, does not get better by trying again.
fn damaged(path: &str, error: sqlx::Error) -> Error {
    // SQLITE_CORRUPT and SQLITE_NOTADB.
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    if matches!(code.as_deref(), Some("11" | "26")) {
        let why = format!("{path} is damaged or no database; move it away, or choose another data folder");
        return Error::invalid(why).because(error);
    }
    failed(error)
}

/// One daemon per file: the lock goes with the process, however it dies.
fn lock(location: &Location) -> Result<std::fs::File> {
    let path = location.path.with_extension("lock");
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(|error| {
        Error::new(Reason::StoreUnavailable, format!("cannot open the lock file {}", path.display())).because(error)
    })?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|error| {
        Error::invalid(format!(
            "another daemon has the database {}; stop it, or choose another data folder with --data-dir",
            location.path.display()
        ))
        .because(error)
    })?;
    Ok(file)
}

async fn migrate(connection: &mut AnyConnection, path: &str) -> Result<()> {
    let migrations = MIGRATIONS
        .iter()
        .map(|(version, name, sql)| {
            Migration::new(
                *version,
                (*name).into(),
                MigrationType::Simple,
                sqlx::AssertSqlSafe(*sql).into_sql_str(),
                false,
            )
        })
        .collect();
    match Migrator::with_migrations(migrations).run_direct(None, connection, false).await {
        Ok(()) => Ok(()),
        Err(MigrateError::VersionMissing(version)) => Err(Error::invalid(format!(
            "the database {path} is newer than this binary (it has migration {version}); use a newer drydock, or another data folder"
        ))),
        Err(MigrateError::VersionMismatch(version)) => Err(Error::invalid(format!(
            "the database {path} was made by another line of drydock (migration {version} differs); use that one, or another data folder"
        ))),
        Err(error) => {
            let _ = connection.ping().await;
            Err(Error::new(Reason::StoreUnavailable, format!("cannot bring the database {path} to this version"))
                .because(error))
        }
    }
}
