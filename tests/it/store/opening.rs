//! Opening a file: one daemon at a time, no newer database, nothing of the name interpreted.

use drydock::clock::ManualClock;
use drydock::error::Reason;
use drydock::store::{Location, Store};
use sqlx::ConnectOptions as _;
use sqlx::any::AnyConnectOptions;

use super::ground::lease;
use crate::queue::kit::{NOON, eventually, folder};

#[tokio::test]
async fn a_second_store_on_the_same_file_is_refused_as_long_as_the_first_lives() {
    let folder = folder();
    let location = Location::Sqlite { path: folder.path().join("drydock.db") };
    let first = Store::open(&location, ManualClock::at(NOON)).await.unwrap();
    let refused = Store::open(&location, ManualClock::at(NOON)).await.err().unwrap();
    assert_eq!(refused.reason, Reason::InvalidArgument);
    assert!(refused.message.contains("another daemon"), "{refused}");
    let kept = lease();
    let (id, row) = (kept.id.clone(), kept);
    first
        .write(move |tx| {
            let row = row.clone();
            Box::pin(async move { tx.insert_lease(&row).await })
        })
        .await
        .unwrap();
    drop(first);
    let second =
        eventually("the file is free", async || Store::open(&location, ManualClock::at(NOON)).await.ok()).await;
    assert!(second.find_lease(&id).await.unwrap().is_some());
}

#[tokio::test]
async fn a_newer_database_is_refused_and_left_alone() {
    let folder = folder();
    let location = Location::Sqlite { path: folder.path().join("drydock.db") };
    drop(Store::open(&location, ManualClock::at(NOON)).await.unwrap());
    let options: AnyConnectOptions =
        format!("sqlite://{}", folder.path().join("drydock.db").display()).parse().unwrap();
    let mut connection = options.connect().await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (99, 'later', 1, x'00', 0)";
    sqlx::query(newer).execute(&mut connection).await.unwrap();
    let refused = eventually("it is opened and refused", async || {
        let refused = Store::open(&location, ManualClock::at(NOON)).await.err().unwrap();
        refused.message.contains("newer").then_some(refused)
    })
    .await;
    assert_eq!(refused.reason, Reason::InvalidArgument);
    assert!(refused.message.contains("99"), "{refused}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let folder = folder();
    let path = folder.path().join("drydock.db");
    std::fs::write(&path, "this is no database, and long enough to be seen as none. ".repeat(40)).unwrap();
    let before = std::fs::read(&path).unwrap();
    let refused = Store::open(&Location::Sqlite { path: path.clone() }, ManualClock::at(NOON)).await.err().unwrap();
    assert_eq!(refused.reason, Reason::InvalidArgument);
    assert!(refused.message.contains("no database"), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn odd_names_of_folders_are_taken_as_they_are() {
    let folder = folder();
    let odd = folder.path().join("a b%20c?mode=ro#d");
    std::fs::create_dir(&odd).unwrap();
    let location = Location::Sqlite { path: odd.join("drydock.db") };
    let store = Store::open(&location, ManualClock::at(NOON)).await.unwrap();
    assert!(odd.join("drydock.db").exists());
    assert!(!store.is_busy().await.unwrap());
}
