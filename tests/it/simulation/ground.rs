//! What a simulation stands on: a runtime of one thread whose time goes by when nothing else can be done, and files for the
//! real store on it.

use std::future::pending;
use std::path::{Path, PathBuf};
use std::time::Duration;

use drydock::clock::ManualClock;
use drydock::engine::{Caller, Settings};
use drydock::model::Shares;
use drydock::store::{Location, Store};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// When simulations begin.
pub(crate) const NOON: i64 = 1_700_000_000_000_000;

/// A folder in memory, where the machine has such a thing, and an empty database to begin with.
pub(crate) struct Ground {
    folder: TempDir,
    empty: Vec<u8>,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap());
        let path = folder.path().join("empty.db");
        let made = async { drop(Store::open(&Location::Sqlite { path: path.clone() }, ManualClock::at(NOON)).await) };
        Builder::new_current_thread().enable_all().build().unwrap().block_on(made);
        // All of it in the one file.
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        drop(connection);
        let empty = std::fs::read(&path).unwrap();
        Self { folder, empty }
    }

    /// An empty database; the one before is gone.
    pub(crate) fn fresh(&self) -> PathBuf {
        let path = self.folder.path().join("drydock.db");
        for end in ["db-wal", "db-shm"] {
            // There may be none.
            let _ = std::fs::remove_file(path.with_extension(end));
        }
        std::fs::write(&path, &self.empty).unwrap();
        path
    }
}

/// One thread; the clock stands still while anything can be done, and then moves to what is due next.
pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

/// Returns so much later.
pub(crate) async fn pass(span: Duration) {
    let _ = timeout(span, pending::<()>()).await;
}

/// How a simulated daemon runs.
pub(crate) fn settings(path: &Path, workers: usize, sweep: bool, shares: Shares) -> Settings {
    Settings {
        database: Location::InTurns { path: path.to_owned() },
        workers,
        sweep,
        retention: Duration::from_hours(24 * 365),
        stock_blueprints: false,
        machine: "simulated".to_owned(),
        address: String::new(),
        shares,
    }
}

/// Whoever runs it all.
pub(crate) fn admin() -> Caller {
    Caller { principal: "admin".to_owned(), admin: true }
}
