//! What docs/operations.md tells operators to do.

use std::sync::Arc;

use drydock::clock::ManualClock;
use drydock::model::LeaseState;
use drydock::store::{Location, Store};
use sqlx::ConnectOptions as _;
use sqlx::Connection as _;

use crate::queue::kit::{Bench, NOON, TestKind, World, ask};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_running_daemons_database_is_whole() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![TestKind::new(&world, "box").limit(3)]).await;
    let held = bench.queue(ask("box")).await;
    bench.reaches(&held, LeaseState::Active).await;
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.db");
    let options: sqlx::any::AnyConnectOptions = bench.database().parse().unwrap();
    let mut connection = options.connect().await.unwrap();
    let copying = format!("VACUUM INTO '{}'", copy.display());
    sqlx::query(sqlx::AssertSqlSafe(copying)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    bench.release(&held).await;
    bench.reaches(&held, LeaseState::Destroyed).await;
    // As of when it was copied, and without anything beside it.
    let restored = Store::open(&Location::Sqlite { path: copy }, ManualClock::at(NOON)).await.unwrap();
    assert_eq!(restored.find_lease(&held).await.unwrap().unwrap().state, LeaseState::Active);
    assert!(restored.slots().await.unwrap().len() >= 2, "its places are held in the copy");
    bench.assert_nothing_left().await;
}
