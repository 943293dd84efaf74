//! Several stores, and several engines, on one database: nothing is done twice, nobody is forgotten, all is heard in order.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use drydock::clock::ManualClock;
use drydock::error::Reason;
use drydock::model::id::LeaseId;
use drydock::model::{Event, Lease, LeaseSpec, LeaseState, NewEvent, StringMap, TaskState};
use drydock::store::{Baton, ListQuery, Location, Next, Remote, Request, Scope, Store, Wait};
use futures::future::join_all;
use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::sync::watch;

use super::{Database, database, is_installed};
use crate::queue::kit::{NOON, eventually};
use crate::store::ground::lease;

/// Two daemons' stores.
struct Two {
    one: Store,
    other: Store,
    database: Database,
}

impl Two {
    async fn open() -> Option<Self> {
        if !is_installed() {
            return None;
        }
        let database = database().await;
        Some(Self { one: open(&database).await, other: open(&database).await, database })
    }
}

async fn open(database: &Database) -> Store {
    Store::open(&Location::Postgres(Remote::at(&database.url)), ManualClock::at(NOON)).await.unwrap()
}

async fn insert(store: &Store, lease: &Lease) {
    let lease = lease.clone();
    store
        .write(move |tx| {
            let lease = lease.clone();
            Box::pin(async move { tx.insert_lease(&lease).await })
        })
        .await
        .unwrap();
}

async fn release(store: &Store, id: &LeaseId) {
    let id = id.clone();
    store
        .write(move |tx| {
            let id = id.clone();
            Box::pin(async move {
                let before = tx.get_lease(&id).await?;
                tx.put_lease(&before, &Lease { state: LeaseState::Released, ..before.clone() }).await
            })
        })
        .await
        .unwrap();
}

fn told(message: String) -> NewEvent {
    NewEvent {
        kind: "lease.created",
        reason: String::new(),
        message,
        actor: "ann".to_owned(),
        subjects: vec!["s".to_owned()],
        root_id: None,
        owner: "ann".to_owned(),
        details: StringMap::new(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_claimed_by_one_daemon() {
    let Some(two) = Two::open().await else { return };
    for _ in 0..20 {
        insert(&two.one, &lease()).await;
    }
    let claims = (0..40).map(|number| {
        let store = if number % 2 == 0 { &two.one } else { &two.other };
        async move { store.claim(&Scope::Any, &format!("daemon/w{number}")).await.unwrap() }
    });
    let claimed: Vec<_> = join_all(claims).await.into_iter().flatten().map(|claim| claim.task).collect();
    assert_eq!((claimed.len(), claimed.iter().collect::<BTreeSet<_>>().len()), (20, 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_is_not_committed_yet_keeps_a_waiter_from_parking() {
    let Some(two) = Two::open().await else { return };
    let (waiter, awaited) = (lease(), lease());
    insert(&two.one, &waiter).await;
    let claim = two.one.claim(&Scope::Any, "one/w0").await.unwrap().unwrap();
    insert(&two.one, &awaited).await;
    let (begun, mut has_begun) = watch::channel(false);
    let (go_on, going) = watch::channel(false);
    let (other, id) = (two.other.clone(), awaited.id.clone());
    let change = tokio::spawn(async move {
        other
            .write(move |tx| {
                let (id, begun, mut going) = (id.clone(), begun.clone(), going.clone());
                Box::pin(async move {
                    let before = tx.get_lease(&id).await?;
                    tx.put_lease(&before, &Lease { state: LeaseState::Released, ..before.clone() }).await?;
                    begun.send_replace(true);
                    let _ = going.wait_for(|go| *go).await;
                    Ok(())
                })
            })
            .await
    });
    has_begun.wait_for(|begun| *begun).await.unwrap();
    let wait = Wait::Lease(awaited.id.clone(), LeaseState::Pending);
    two.one
        .commit_step(&claim, None, move |_| {
            let waits = vec![wait.clone()];
            Box::pin(async move { Ok((Next::Park { waits, until: None }, Baton::Pass)) })
        })
        .await
        .unwrap();
    assert_eq!(two.one.find_task(&claim.task).await.unwrap().unwrap().state, TaskState::Ready);
    go_on.send_replace(true);
    change.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_wake_is_lost_however_park_and_change_meet() {
    let Some(two) = Two::open().await else { return };
    for round in 0..60 {
        let (waiter, awaited) = (lease(), lease());
        insert(&two.one, &waiter).await;
        let scope = Scope::Root(waiter.id.clone());
        let claim = two.one.claim(&scope, "one/w0").await.unwrap().unwrap();
        insert(&two.one, &awaited).await;
        let wait = Wait::Lease(awaited.id.clone(), LeaseState::Pending);
        let park = two.one.commit_step(&claim, None, move |_| {
            let waits = vec![wait.clone()];
            Box::pin(async move { Ok((Next::Park { waits, until: None }, Baton::Pass)) })
        });
        let (parked, ()) = tokio::join!(park, release(&two.other, &awaited.id));
        parked.unwrap();
        let task = two.one.find_task(&claim.task).await.unwrap().unwrap();
        assert_eq!(task.state, TaskState::Ready, "round {round}: {task:?}");
        let again = two.one.claim(&scope, "one/w0").await.unwrap().unwrap();
        let done = two.one.commit_step(&again, None, |_| Box::pin(async { Ok((Next::Done, Baton::Pass)) }));
        done.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_request_at_two_daemons_makes_one_lease() {
    let Some(two) = Two::open().await else { return };
    let request = Request {
        principal: "ann".to_owned(),
        method: "AcquireLease".to_owned(),
        request_id: "one".to_owned(),
        body: "same".to_owned(),
    };
    let calls = (0..24).map(|number| {
        let store = if number % 2 == 0 { &two.one } else { &two.other };
        let request = request.clone();
        store.write(move |tx| {
            let request = request.clone();
            Box::pin(async move {
                if let Some(object) = tx.seen(&request).await? {
                    return Ok(object);
                }
                let lease = lease();
                tx.insert_lease(&lease).await?;
                tx.remember(&request, lease.id.as_str()).await?;
                Ok(lease.id.to_string())
            })
        })
    });
    let made: BTreeSet<String> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!(two.one.list_leases(&ListQuery { limit: 99, ..ListQuery::default() }, true).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_come_in_their_order_and_without_a_gap() {
    let Some(two) = Two::open().await else { return };
    let mut news = two.other.news();
    // One transaction is begun before all others and ends after them.
    let (begun, mut has_begun) = watch::channel(false);
    let (go_on, going) = watch::channel(false);
    let store = two.one.clone();
    let slow = tokio::spawn(async move {
        store
            .write(move |tx| {
                let (begun, mut going) = (begun.clone(), going.clone());
                Box::pin(async move {
                    tx.event(told("slow".to_owned())).await?;
                    begun.send_replace(true);
                    let _ = going.wait_for(|go| *go).await;
                    Ok(())
                })
            })
            .await
    });
    has_begun.wait_for(|begun| *begun).await.unwrap();
    let quick = (0..60).map(|number| {
        let store = if number % 2 == 0 { &two.one } else { &two.other };
        store.write(move |tx| {
            Box::pin(async move {
                tx.event(told(format!("{number}a"))).await?;
                tx.event(told(format!("{number}b"))).await
            })
        })
    });
    for done in join_all(quick).await {
        done.unwrap();
    }
    let shown = two.other.list_events(&ListQuery { limit: 999, ..ListQuery::default() }).await.unwrap();
    assert_eq!(shown, [], "what is after an open transaction is not shown yet");
    go_on.send_replace(true);
    slow.await.unwrap().unwrap();
    let mut heard: Vec<Event> = Vec::new();
    while heard.len() < 121 {
        let told = tokio::time::timeout(crate::queue::kit::PATIENCE, news.recv()).await.expect("in time").unwrap();
        heard.extend(told.events.iter().cloned());
    }
    assert_eq!(heard[0].message, "slow");
    assert!(heard.is_sorted_by_key(|event| event.seq), "{heard:?}");
    assert_eq!(two.one.list_events(&ListQuery { limit: 999, ..ListQuery::default() }).await.unwrap(), heard);
    let (first, last) = two.one.event_span().await.unwrap();
    assert_eq!((first, last), (1, heard[120].seq));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_makes_ready_the_other_hears_also_after_its_connections_were_cut() {
    let Some(two) = Two::open().await else { return };
    let mut admin = PgConnection::connect(&two.database.url).await.unwrap();
    for _ in 0..2 {
        let mut news = two.other.news();
        let made = lease();
        insert(&two.one, &made).await;
        let heard = async {
            loop {
                if news.recv().await.unwrap().ready_roots.contains(&made.id) {
                    return;
                }
            }
        };
        tokio::time::timeout(crate::queue::kit::PATIENCE, heard).await.expect("it is heard in time");
        let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        sqlx::query(cut).execute(&mut admin).await.unwrap();
        // Looks and writes get on by themselves.
        assert!(two.one.find_lease(&made.id).await.unwrap().is_some());
        insert(&two.one, &lease()).await;
        release(&two.other, &made.id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_database_is_refused() {
    let Some(two) = Two::open().await else { return };
    let mut admin = PgConnection::connect(&two.database.url).await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'later', true, '', 0)";
    sqlx::query(newer).execute(&mut admin).await.unwrap();
    let location = Location::Postgres(Remote::at(&two.database.url));
    let refused = Store::open(&location, ManualClock::at(NOON)).await.err().unwrap();
    assert_eq!(refused.reason, Reason::InvalidArgument);
    assert!(refused.message.contains("newer") && refused.message.contains("9999"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_go_on_after_the_database_was_moved_to_a_younger_server() {
    let Some(two) = Two::open().await else { return };
    two.one.write(|tx| Box::pin(async move { tx.event(told("old".to_owned())).await })).await.unwrap();
    let mut admin = PgConnection::connect(&two.database.url).await.unwrap();
    // As if a million million transactions had been made where it was before.
    sqlx::query("UPDATE event SET seq = seq + (1::bigint << 60)").execute(&mut admin).await.unwrap();
    let Two { one, other, database } = two;
    drop((one, other));
    let store = open(&database).await;
    store.write(|tx| Box::pin(async move { tx.event(told("new".to_owned())).await })).await.unwrap();
    let shown = eventually("both are shown", async || {
        let shown = store.list_events(&ListQuery { limit: 9, ..ListQuery::default() }).await.unwrap();
        (shown.len() == 2).then_some(shown)
    })
    .await;
    let messages: Vec<&str> = shown.iter().map(|event| event.message.as_str()).collect();
    assert_eq!(messages, ["old", "new"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_store_asks_nothing() {
    let Some(two) = Two::open().await else { return };
    insert(&two.one, &lease()).await;
    // What was set in motion comes to its end: then two looks at the count, with others' work in between, are alike.
    let still = eventually("it is quiet", async || {
        let before = two.other.statements();
        let mut admin = PgConnection::connect(&two.database.url).await.unwrap();
        for _ in 0..50 {
            sqlx::query("SELECT 1 AS one").fetch_one(&mut admin).await.unwrap().get::<i32, _>("one");
        }
        (two.other.statements() == before).then_some(before)
    })
    .await;
    assert!(still < 40, "{still} statements for one insert elsewhere");
}

/// A write that goes on as long as the sender lives, with the pool of the lease as its own; returns when it has it.
async fn stand_in_the_way(store: &Store, lease: &Lease) -> (watch::Sender<bool>, tokio::task::JoinHandle<()>) {
    let (begun, mut has_begun) = watch::channel(false);
    let (go_on, going) = watch::channel(false);
    let (store, lease) = (store.clone(), lease.clone());
    let write = tokio::spawn(async move {
        let written = store.write(move |tx| {
            let (lease, begun, mut going) = (lease.clone(), begun.clone(), going.clone());
            Box::pin(async move {
                tx.pool_view(&lease).await?;
                begun.send_replace(true);
                let _ = going.wait_for(|go| *go).await;
                Ok(())
            })
        });
        written.await.unwrap();
    });
    has_begun.wait_for(|begun| *begun).await.unwrap();
    (go_on, write)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_only_looks_waits_for_nobody() {
    let Some(two) = Two::open().await else { return };
    let lease = lease();
    insert(&two.one, &lease).await;
    let (go_on, write) = stand_in_the_way(&two.one, &lease).await;
    let ahead = two.other.look(move |tx| {
        let lease = lease.clone();
        Box::pin(async move { Ok(tx.pool_view(&lease).await?.ahead.len()) })
    });
    // Sooner than the server ends the other's transaction, which does nothing.
    let looked = tokio::time::timeout(Duration::from_secs(3), ahead).await.expect("it stands in the line of the pool");
    assert_eq!(looked.unwrap(), 0);
    go_on.send_replace(true);
    write.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_waits_for_any_more_is_not_begun() {
    if !is_installed() {
        return;
    }
    let database = database().await;
    let remote = Remote { connections: 2, ..Remote::at(&database.url) };
    let store = Store::open(&Location::Postgres(remote), ManualClock::at(NOON)).await.unwrap();
    let (one, other) =
        (lease(), Lease { spec: LeaseSpec { resource_type: "other".to_owned(), ..lease().spec }, ..lease() });
    let (first, second) = tokio::join!(stand_in_the_way(&store, &one), stand_in_the_way(&store, &other));
    let ran = Arc::new(AtomicBool::new(false));
    let late = {
        let ran = Arc::clone(&ran);
        store.write(move |_| {
            ran.store(true, Ordering::SeqCst);
            Box::pin(async { Ok(()) })
        })
    };
    // It stands in line for a connection when its caller leaves.
    let mut late = Box::pin(late);
    assert!(futures::poll!(&mut late).is_pending());
    tokio::task::yield_now().await;
    drop(late);
    // The one connection that comes free goes through the line.
    let (go_on, write) = first;
    go_on.send_replace(true);
    write.await.unwrap();
    store.write(|_| Box::pin(async { Ok(()) })).await.unwrap();
    assert!(!ran.load(Ordering::SeqCst));
    second.0.send_replace(true);
    second.1.await.unwrap();
}
