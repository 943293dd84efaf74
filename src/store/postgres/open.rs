//! Opening a database on a server: its version, migrations, connections, and the tasks beside them.

use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use tokio::sync::broadcast;
use tokio_rustls::rustls::{self, CertificateError};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::failure::failed;
use super::session::Session;
use super::tidings::{Tidings, Watch};
use super::{Readers, Remote, Writer};
use crate::clock::{Micros, SharedClock};
use crate::error::{Error, Reason, Result};
use crate::store::idle::Idle;
use crate::store::open::{migrator, not_migrated};
use crate::store::statement::Dialect;
use crate::store::{self, News, events, tx};

/// More than there are literal statements, so that each is prepared once on a connection.
const PREPARED: usize = 512;
/// What this release knows how to use.
const OLDEST: i32 = 150_000;
/// Of each session: a statement that takes longer is of no use to anybody, and a transaction that stands still holds up others.
const SETTINGS: &str = "SET statement_timeout = '30s'; SET idle_in_transaction_session_timeout = '15s'; SET lock_timeout = '200ms'; \
                        SET timezone = 'UTC'";
/// Of those that tell, listen and renew claims: nothing is lost with a NOTIFY that a sweep would not find, nor with a heartbeat that the next
/// one does not make good, so they need not wait for the disk.
const ASIDE: &str = "SET statement_timeout = '30s'; SET timezone = 'UTC'; SET synchronous_commit = off";
/// How long an operation waits for a connection.
const FREE_CONNECTION: Duration = Duration::from_secs(15);

/// What the store and its engine have in common.
pub(in crate::store) struct Shared {
    pub(in crate::store) clock: SharedClock,
    pub(in crate::store) news: broadcast::Sender<Arc<News>>,
    pub(in crate::store) idle: Arc<Idle>,
    pub(in crate::store) count: Arc<AtomicU64>,
    pub(in crate::store) metrics: Arc<crate::metrics::Metrics>,
}

/// Opens the database and brings it to this version.
pub(in crate::store) async fn open(remote: &Remote, shared: Shared) -> Result<(Readers, Arc<Writer>, DropGuard)> {
    let options = options(&remote.url)?;
    let told = bring_up(&options).await?;
    shared.clock.hear(told);
    let pool = pool(&options, remote.connections.max(2), SETTINGS);
    let readers = Readers { pool: pool.clone(), count: Arc::clone(&shared.count), looks: Arc::default() };
    let stop = CancellationToken::new();
    let tidings = Arc::new(Tidings::new(remote.notify));
    // One listens, one tells, and heartbeats go past those who stand in line.
    let aside = self::pool(&options, 4, ASIDE);
    let watch = Watch {
        tidings: Arc::clone(&tidings),
        readers: Arc::new(store::readers::Readers::Postgres(readers.clone())),
        aside: aside.clone(),
        news: shared.news.clone(),
        stop: stop.clone(),
    };
    watch.start().await?;
    let aside = Readers { pool: aside, ..readers.clone() };
    let home = remote.home.as_str().into();
    let Shared { clock, news, idle, count, metrics } = shared;
    Ok((readers, Arc::new(Writer { pool, aside, clock, news, idle, count, metrics, tidings, home }), stop.drop_guard()))
}

/// Brings the database to this version.
pub(in crate::store) async fn migrate(remote: &Remote) -> Result<()> {
    bring_up(&options(&remote.url)?).await.map(drop)
}

/// One connection, for a transaction that nobody is to meet.
pub(in crate::store) async fn session(remote: &Remote) -> Result<Box<dyn tx::Session>> {
    let connection = pool(&options(&remote.url)?, 1, SETTINGS).acquire().await.map_err(failed)?;
    Ok(Box::new(Session::new(connection, Arc::default(), remote.home.as_str().into(), Duration::from_secs(10))))
}

fn options(url: &str) -> Result<PgConnectOptions> {
    // The URL may hold a password: neither it nor what is said about it is repeated.
    let wrong = || Error::invalid("the database is not a URL of the form postgres://USER@HOST:PORT/NAME");
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(wrong());
    }
    let options = PgConnectOptions::from_str(url).map_err(|_| wrong())?;
    Ok(options.application_name("drydock").statement_cache_capacity(PREPARED).disable_statement_logging())
}

fn pool(options: &PgConnectOptions, most: u32, settings: &'static str) -> PgPool {
    PgPoolOptions::new()
        .max_connections(most)
        .acquire_timeout(FREE_CONNECTION)
        // A lost one is noticed when it is used, and the work done again: to ask each time would cost as much as a statement.
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            Box::pin(async move { sqlx::raw_sql(settings).execute(connection).await.map(drop) })
        })
        .connect_lazy_with(options.clone())
}

/// Which database, for people, without what is secret.
fn which(options: &PgConnectOptions) -> String {
    let host = options.get_socket().map_or_else(|| options.get_host().to_owned(), |path| path.display().to_string());
    format!("{} on {host}", options.get_database().unwrap_or(options.get_username()))
}

/// Brings the database to this version, one daemon at a time; answers its clock.
async fn bring_up(options: &PgConnectOptions) -> Result<Micros> {
    let which = which(options);
    let mut connection = options.connect().await.map_err(|error| unreachable(&which, error))?;
    let outcome = bring(&mut connection, &which).await;
    // The lock of the migration goes with the connection, however it ended.
    let _ = connection.close().await;
    outcome
}

async fn bring(connection: &mut PgConnection, which: &str) -> Result<Micros> {
    let failed = |error| unreachable(which, error);
    let row = sqlx::query("SELECT current_setting('server_version_num')::int4 AS version").fetch_one(&mut *connection);
    let version: i32 = row.await.and_then(|row| row.try_get(0)).map_err(failed)?;
    if version < OLDEST {
        let (major, oldest) = (version / 10_000, OLDEST / 10_000);
        return Err(Error::invalid(format!(
            "the database {which} is PostgreSQL {major}; drydock needs {oldest} or newer"
        )));
    }
    migrator(Dialect::Postgres)
        .run_direct(None, connection, false)
        .await
        .map_err(|error| not_migrated(which, error))?;
    sqlx::raw_sql(events::LIFT).execute(&mut *connection).await.map_err(failed)?;
    let now = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    sqlx::query(now).fetch_one(connection).await.and_then(|row| row.try_get(0)).map_err(failed)
}

/// What TLS makes of the server, or of our own files: the same again the next time.
fn of_tls(error: &sqlx::Error) -> Option<String> {
    let verdict = |error: &rustls::Error| match error {
        // Another CA of the same name is another CA.
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "no CA that is trusted here vouches for its certificate; name its CA by sslrootcert".to_owned()
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "its certificate is for another host; use a name that it has".to_owned(),
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "its certificate has expired, or the clock of this machine is wrong".to_owned()
        }
        other => format!("TLS: {other}"),
    };
    match error {
        sqlx::Error::Io(error) => error.get_ref()?.downcast_ref().map(verdict),
        sqlx::Error::Tls(error) => Some(match error.downcast_ref() {
            Some(error) => verdict(error),
            None if error.to_string().contains("not support TLS") => {
                "it does not speak TLS, which sslmode asks for".to_owned()
            }
            None => format!("TLS: {error}"),
        }),
        _ => None,
    }
}

/// The first look: who is not let in, or asks for what is not there, does not get further by trying again.
fn unreachable(which: &str, error: sqlx::Error) -> Error {
    if let Some(why) = of_tls(&error) {
        return Error::invalid(format!("cannot open the database {which}: {why}")).because(error);
    }
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code).unwrap_or_default().into_owned();
    let refused = code.starts_with("28") || code == "3D000" || code == "42501";
    let message = match error.as_database_error() {
        Some(refusal) => format!("cannot open the database {which}: {}", refusal.message()),
        None => format!("cannot open the database {which}"),
    };
    let reason = if refused { Reason::InvalidArgument } else { Reason::StoreUnavailable };
    Error::new(reason, message).because(error)
}
