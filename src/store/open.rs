//! Opening: the file's lock, migrations, the writer and the readers.

use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use sqlx::any::AnyConnectOptions;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{ConnectOptions, Connection as _, SqlSafeStr};
use tokio::sync::broadcast;

use super::idle::Idle;
use super::sqlite::{Connection, Readers};
use super::{Inner, Location, Store, writer};
use crate::clock::SharedClock;
use crate::error::{Error, Reason, Result};

/// In the order of their numbers; one that was released is never changed.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "keel", include_str!("migrations/0001_keel.sql")),
    (2, "found", include_str!("migrations/0002_found.sql")),
    (3, "shares", include_str!("migrations/0003_shares.sql")),
    (4, "pools", include_str!("migrations/0004_pools.sql")),
    (5, "outlook", include_str!("migrations/0005_outlook.sql")),
];

impl Store {
    /// Opens the database, made when missing, and brings it to this version.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when another daemon has the file or when it is newer than this binary; `STORE_UNAVAILABLE`.
    pub async fn open(location: &Location, clock: SharedClock) -> Result<Self> {
        let lock = lock(location)?;
        migrate(&location.path).await?;
        let statements = Arc::new(AtomicU64::new(0));
        let connection = Connection::writer(&location.path, Arc::clone(&statements))?;
        let readers = Arc::new(Readers::new(location.path.clone(), Arc::clone(&statements)));
        let (news, _) = broadcast::channel(4096);
        let idle = Arc::new(Idle::default());
        let metrics = Arc::new(crate::metrics::Metrics::new());
        let writer =
            writer::start(Box::new(connection), clock.clone(), news.clone(), Arc::clone(&idle), Arc::clone(&metrics))?;
        let operations = AtomicU64::new(0);
        let along = OnceLock::new();
        Ok(Self {
            inner: Arc::new(Inner {
                readers,
                writer,
                news,
                idle,
                along,
                clock,
                statements,
                operations,
                metrics,
                _lock: lock,
            }),
        })
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

/// On a connection of its own, since the migrator is the same for all databases.
async fn migrate(path: &Path) -> Result<()> {
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
    let outcome = Migrator::with_migrations(migrations).run_direct(None, &mut connection, false).await;
    let closed = connection.close().await;
    match outcome {
        Ok(()) => closed.map_err(unreadable),
        Err(MigrateError::VersionMissing(version)) => Err(Error::invalid(format!(
            "the database {path} is newer than this binary (it has migration {version}); use a newer drydock, or another data folder"
        ))),
        Err(MigrateError::VersionMismatch(version)) => Err(Error::invalid(format!(
            "the database {path} was made by another line of drydock (migration {version} differs); use that one, or another data folder"
        ))),
        Err(error) => {
            Err(Error::new(Reason::StoreUnavailable, format!("cannot bring the database {path} to this version"))
                .because(error))
        }
    }
}
