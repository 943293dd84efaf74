//! Who asks, for what, and where it is kept.

use std::time::Duration;

use drydock::engine::{Acquire, Caller, Settings};
use drydock::model::Shares;
use drydock::store::{Location, Remote};
use tempfile::TempDir;

use crate::postgres::{Database, database, is_chosen};

/// In memory where the machine has such a folder: these tests are about order, not about disks.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

pub(crate) fn admin() -> Caller {
    Caller { principal: "admin".to_owned(), admin: true }
}

pub(crate) fn user(name: &str) -> Caller {
    Caller { principal: name.to_owned(), admin: false }
}

/// A lease on this type, nothing more.
pub(crate) fn ask(of: &str) -> Acquire {
    Acquire { resource_type: of.to_owned(), ..Acquire::default() }
}

/// Where an engine keeps everything.
pub(crate) enum Keep {
    Folder(TempDir),
    Server(Database),
}

impl Keep {
    /// What the case that runs is for.
    pub(super) async fn new() -> Self {
        if is_chosen() { Self::Server(database().await) } else { Self::Folder(folder()) }
    }

    fn location(&self) -> Location {
        match self {
            Self::Folder(folder) => Location::Sqlite { path: folder.path().join("drydock.db") },
            // Nobody is told and nobody is heard: what one engine waits for comes without that too, as without the sweep.
            Self::Server(database) => Location::Postgres(Remote { notify: false, ..Remote::at(&database.url) }),
        }
    }

    /// As sqlx wants it.
    pub(super) fn url(&self) -> String {
        match self {
            Self::Folder(folder) => format!("sqlite://{}", folder.path().join("drydock.db").display()),
            Self::Server(database) => database.url.clone(),
        }
    }
}

/// The sweep is off.
pub(super) fn settings(keep: &Keep, workers: usize) -> Settings {
    Settings {
        database: keep.location(),
        workers,
        sweep: false,
        retention: Duration::from_hours(24 * 365),
        stock_blueprints: false,
        machine: "test".to_owned(),
        address: "none".to_owned(),
        shares: Shares::default(),
    }
}
