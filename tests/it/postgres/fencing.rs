//! A call that was let in by its daemon before the lease ended, and goes on afterwards: the host refuses it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use drydock::blueprint::{self, Registry};
use drydock::clock::{Clock as _, HeardClock, SystemClock};
use drydock::engine::{Acquire, Engine, Settings};
use drydock::error::Reason;
use drydock::host::Host;
use drydock::host::local::LocalHost;
use drydock::interface::command::exec;
use drydock::interface::filesystem::files;
use drydock::model::{LeaseState, Shares};
use drydock::store::{Location, Remote};

use super::{database, is_installed};
use crate::place::argv;
use crate::queue::kit::{PATIENCE, admin, folder};

fn host_lease() -> Acquire {
    Acquire { resource_type: "host".to_owned(), ..Acquire::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_opened_before_the_end_does_nothing_after_it() {
    if !is_installed() {
        return;
    }
    let (database, folder) = (database().await, folder());
    let host = LocalHost::new(folder.path().to_owned(), PathBuf::from(env!("CARGO_BIN_EXE_drydock"))).fenced();
    let registry = Registry::new(blueprint::all(Arc::new(host) as Arc<dyn Host>));
    let home = format!("here:{}", folder.path().display());
    let settings = Settings {
        database: Location::Postgres(Remote { home, ..Remote::at(database.url.clone()) }),
        workers: 2,
        sweep: true,
        retention: Duration::from_hours(24),
        stock_blueprints: true,
        machine: "here".to_owned(),
        address: String::new(),
        shares: Shares::default(),
    };
    let engine = Engine::start(&settings, registry, HeardClock::at(SystemClock.now())).await.unwrap();

    let first = engine.acquire(&admin(), host_lease(), None, PATIENCE).await.unwrap().lease;
    assert_eq!(first.state, LeaseState::Active);
    // As a daemon that is paused right here.
    let paused = engine.open(&admin(), first.id.as_str(), "command").await.unwrap();
    let done = engine.release_lease(&admin(), first.id.as_str(), "", false, None, PATIENCE).await.unwrap();
    assert_eq!(done.lease.state, LeaseState::Destroyed);
    let second = engine.acquire(&admin(), host_lease(), None, PATIENCE).await.unwrap().lease;

    let token = paused.ended.clone();
    let ran = exec(&paused.place, first.id.as_str(), argv(&["touch", "late"]), None, token, 1_000_000).await;
    assert_eq!(ran.map(drop).unwrap_err().reason, Reason::LeaseNotActive);
    assert_eq!(files(&paused.place).await.map(drop).unwrap_err().reason, Reason::LeaseNotActive);
    assert!(!paused.place.root.exists(), "{}", paused.place.root.display());
    // The next one on the same machine comes in.
    let opened = engine.open(&admin(), second.id.as_str(), "filesystem").await.unwrap();
    files(&opened.place).await.map(drop).unwrap();
    assert!(opened.place.root.exists());
    engine.release_lease(&admin(), second.id.as_str(), "", false, None, PATIENCE).await.unwrap();
    engine.stop().await;
}
