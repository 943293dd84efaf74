//! Who asks, for what, and where it is kept.

use std::time::Duration;

use drydock::engine::{Acquire, Caller, Settings};
use drydock::model::Shares;
use tempfile::TempDir;

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

/// The sweep is off.
pub(super) fn settings(folder: &TempDir, workers: usize) -> Settings {
    Settings {
        database: folder.path().join("drydock.db"),
        workers,
        sweep: false,
        retention: Duration::from_hours(24 * 365),
        stock_blueprints: false,
        machine: "test".to_owned(),
        address: "none".to_owned(),
        shares: Shares::default(),
    }
}
