//! A database that says nothing, not even no: calls end in time all the same, connections that fell silent are replaced, and a daemon that was
//! taken for dead is innocent of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use drydock::blueprint::{self, Registry};
use drydock::clock::{Clock as _, HeardClock, ManualClock, SystemClock};
use drydock::engine::{Acquire, Engine};
use drydock::error::{Reason, Result};
use drydock::host::Host;
use drydock::host::local::LocalHost;
use drydock::model::{Lease, LeaseState, Shares};
use drydock::scheduler::{Scheduler, Settings, Steps};
use drydock::store::{Location, Remote, Store};
use tokio::time::{Instant, timeout};

use super::proxy::Proxy;
use super::races::Stuck;
use crate::postgres::{Database, database, is_installed};
use crate::queue::kit::{NOON, PATIENCE, admin, eventually, folder};
use crate::store::ground::lease;

/// A database, the wire to it, and its address at the near end of the wire.
pub(super) async fn wired() -> (Database, Proxy, String) {
    let database = database().await;
    let (server, name) = database.url.strip_prefix("postgres://postgres@").unwrap().rsplit_once('/').unwrap();
    let wire = Proxy::start(&Path::new(&server.replace("%2F", "/")).join(".s.PGSQL.5432")).await;
    let url = format!("postgres://postgres@127.0.0.1:{}/{name}?sslmode=disable", wire.port);
    (database, wire, url)
}

async fn insert(store: &Store, lease: &Lease) -> Result<()> {
    let lease = lease.clone();
    let insert = store.write(move |tx| {
        let lease = lease.clone();
        Box::pin(async move { tx.insert_lease(&lease).await })
    });
    insert.await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_fell_silent_are_replaced() {
    if !is_installed() {
        return;
    }
    let (_database, wire, url) = wired().await;
    let store = Store::open(&Location::Postgres(Remote::at(url)), ManualClock::at(NOON)).await.unwrap();
    let (before, after) = (lease(), lease());
    insert(&store, &before).await.unwrap();
    wire.stall();
    // Both find the silent connections first.
    let (looked, inserted) =
        tokio::join!(timeout(PATIENCE, store.find_lease(&before.id)), timeout(PATIENCE, insert(&store, &after)));
    assert_eq!(looked.unwrap().unwrap().map(|lease| lease.id), Some(before.id));
    inserted.unwrap().unwrap();
    let begun = Instant::now();
    assert!(store.find_lease(&after.id).await.unwrap().is_some());
    assert!(begun.elapsed() < Duration::from_secs(2), "on one that is new: {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_ends_in_time_though_the_database_hangs() {
    if !is_installed() {
        return;
    }
    let (_database, wire, url) = wired().await;
    let folder = folder();
    let host = LocalHost::new(folder.path().to_owned(), PathBuf::from(env!("CARGO_BIN_EXE_drydock"))).fenced();
    let settings = drydock::engine::Settings {
        database: Location::Postgres(Remote { home: "here".to_owned(), ..Remote::at(url) }),
        workers: 2,
        sweep: true,
        retention: Duration::from_hours(24),
        stock_blueprints: true,
        machine: "here".to_owned(),
        address: String::new(),
        shares: Shares::default(),
    };
    let registry = Registry::new(blueprint::all(Arc::new(host) as Arc<dyn Host>));
    let engine = Engine::start(&settings, registry, HeardClock::at(SystemClock.now())).await.unwrap();
    let ask = || Acquire { resource_type: "host".to_owned(), ..Acquire::default() };
    let lease = engine.acquire(&admin(), ask(), None, PATIENCE).await.unwrap().lease;
    assert_eq!(lease.state, LeaseState::Active);
    wire.hold();
    let begun = Instant::now();
    let wait = Duration::from_secs(1);
    let who = admin();
    let (asked, released, waited) = tokio::join!(
        engine.acquire(&who, ask(), None, wait),
        engine.release_lease(&who, lease.id.as_str(), "", false, None, wait),
        engine.wait_lease(&who, lease.id.as_str(), LeaseState::Destroyed, wait),
    );
    // The shortest wait that is taken for haste, what is left to a call beyond it, and a machine that has other things to do.
    assert!(begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
    for error in [asked.err(), released.err(), waited.err()] {
        let error = error.expect("nobody can know");
        assert_eq!(error.reason, Reason::StoreUnavailable, "{error:?}");
        assert!(error.message.contains("the database"), "{error:?}");
    }
    wire.clear();
    // Whether that was done or not: it is done now.
    let done = eventually("it answers again", async || {
        engine.release_lease(&who, lease.id.as_str(), "", false, None, PATIENCE).await.ok()
    });
    assert_eq!(done.await.lease.state, LeaseState::Destroyed);
    engine.stop().await;
}

/// A daemon whose database goes silent again and again loses its claim each time; others make a crash of it, which it takes back.
#[test]
fn a_daemon_that_was_only_cut_off_has_not_crashed() {
    if !is_installed() {
        return;
    }
    if std::env::var_os("DRYDOCK_CLAIM_SECONDS").is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        return runtime.block_on(cut_off());
    }
    // In a process of its own, in which claims are short.
    let test = "fire::silence::a_daemon_that_was_only_cut_off_has_not_crashed";
    let mut child = Command::new(std::env::current_exe().unwrap());
    let ran = child.args([test, "--exact", "--nocapture"]).env("DRYDOCK_CLAIM_SECONDS", "1").output().unwrap();
    assert!(ran.status.success(), "{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
}

async fn cut_off() {
    let (database, wire, url) = wired().await;
    let clock = ManualClock::at(NOON);
    let store = Store::open(&Location::Postgres(Remote::at(url)), clock.clone()).await.unwrap();
    let other = Store::open(&Location::Postgres(Remote::at(&database.url)), clock.clone()).await.unwrap();
    let steps = Arc::new(Stuck::default());
    let settings = Settings { workers: 1, sweep: true, daemon: "one".to_owned() };
    let scheduler = Scheduler::start(store.clone(), Arc::clone(&steps) as Arc<dyn Steps>, &settings).await.unwrap();
    let made = lease();
    insert(&other, &made).await.unwrap();
    for _ in 0..2 {
        timeout(PATIENCE, steps.begun.notified()).await.expect("it is claimed");
        wire.hold();
        timeout(PATIENCE, steps.given_up.notified()).await.expect("it is given up in time");
        clock.advance(Duration::from_secs(2));
        let reaped = other.sweep("other").await.unwrap();
        assert_eq!(reaped.returned, 1);
        let crashes = async || {
            let scope = drydock::store::ListQuery { limit: 10, ..Default::default() };
            other.list_tasks(&scope).await.unwrap().first().map(|task| task.crashes)
        };
        assert_eq!(crashes().await, Some(1));
        wire.clear();
        eventually("it says that it lives", async || {
            clock.advance(Duration::from_millis(10));
            (crashes().await == Some(0)).then_some(())
        })
        .await;
    }
    scheduler.stop();
}
