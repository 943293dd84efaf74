//! Races of a single point, which random load hardly ever meets: brought about with two daemons' stores on one database.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use drydock::clock::ManualClock;
use drydock::error::{Error, Reason, Result};
use drydock::model::id::{LeaseId, Subject};
use drydock::model::slot::Slot;
use drydock::model::{Lease, LeaseState, TaskState};
use drydock::scheduler::{Scheduler, Settings, Steps};
use drydock::store::{Baton, Claim, Committed, Location, Next, Remote, Scope, Store, Tx, Wait};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::silence::wired;
use crate::postgres::{Database, database, is_installed};
use crate::queue::kit::{NOON, PATIENCE};
use crate::store::ground::lease;

/// Two daemons' stores, on one database and by one clock.
struct Two {
    one: Store,
    other: Store,
    clock: Arc<ManualClock>,
    _database: Database,
}

async fn two() -> Option<Two> {
    if !is_installed() {
        return None;
    }
    let (database, clock) = (database().await, ManualClock::at(NOON));
    let open = async || Store::open(&Location::Postgres(Remote::at(&database.url)), clock.clone()).await.unwrap();
    Some(Two { one: open().await, other: open().await, clock, _database: database })
}

impl Two {
    async fn insert(&self, lease: &Lease) {
        let lease = lease.clone();
        let insert = self.one.write(move |tx| {
            let lease = lease.clone();
            Box::pin(async move { tx.insert_lease(&lease).await })
        });
        insert.await.unwrap();
    }

    /// A lease whose task the one has claimed.
    async fn claimed(&self) -> (Lease, Claim) {
        self.claimed_at(NOON).await
    }

    /// The same, with this place in the queue.
    async fn claimed_at(&self, ord: i64) -> (Lease, Claim) {
        let lease = Lease { ord, ..lease() };
        self.insert(&lease).await;
        let claim = self.one.claim(&Scope::Root(lease.id.clone()), "one/w0").await.unwrap().unwrap();
        (lease, claim)
    }

    async fn state(&self, claim: &Claim) -> TaskState {
        self.other.find_task(&claim.task).await.unwrap().unwrap().state
    }
}

/// A step that parks on these.
async fn park(store: &Store, claim: &Claim, waits: Vec<Wait>) -> Committed {
    let step = store.commit_step(claim, None, move |_| {
        let waits = waits.clone();
        Box::pin(async move { Ok((Next::Park { waits, until: None }, Baton::Pass)) })
    });
    step.await.unwrap()
}

/// Who looked, found an awaited lease unfinished, and parks while another daemon is finishing it: the wake-up is not lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_between_look_and_park_is_seen() {
    let Some(two) = two().await else { return };
    let (_, claim) = two.claimed().await;
    let awaited = lease();
    two.insert(&awaited).await;
    let (begun, mut has_begun) = watch::channel(false);
    let (go_on, going) = watch::channel(false);
    let (other, id) = (two.other.clone(), awaited.id.clone());
    // It has looked for who waits, and found nobody; it is not committed yet.
    let end = tokio::spawn(async move {
        let end = other.write(move |tx| {
            let (id, begun, mut going) = (id.clone(), begun.clone(), going.clone());
            Box::pin(async move {
                let before = tx.get_lease(&id).await?;
                tx.put_lease(&before, &Lease { state: LeaseState::Released, ..before.clone() }).await?;
                begun.send_replace(true);
                let _ = going.wait_for(|go| *go).await;
                Ok(())
            })
        });
        end.await
    });
    has_begun.wait_for(|begun| *begun).await.unwrap();
    park(&two.one, &claim, vec![Wait::Lease(awaited.id.clone(), LeaseState::Pending)]).await;
    go_on.send_replace(true);
    end.await.unwrap().unwrap();
    assert_eq!(two.state(&claim).await, TaskState::Ready, "nobody will wake it");
}

/// Who is signalled by another daemon between its claim and its park goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_of_another_daemon_keeps_from_parking() {
    let Some(two) = two().await else { return };
    let (waiter, claim) = two.claimed().await;
    let subject = Subject::from(waiter.id.clone());
    let wake = two.other.write(move |tx| {
        let subject = subject.clone();
        Box::pin(async move { tx.wake_task(&subject).await })
    });
    wake.await.unwrap();
    let awaited = lease();
    two.insert(&awaited).await;
    park(&two.one, &claim, vec![Wait::Lease(awaited.id, LeaseState::Pending)]).await;
    assert_eq!(two.state(&claim).await, TaskState::Ready, "nobody will wake it");
}

/// What a step does that takes a slot and makes a lease.
async fn grab(tx: &mut Tx, slot: Slot, made: Lease) -> Result<(Next, Baton)> {
    tx.take_slots(&Subject::from(made.id.clone()), 1, &[slot]).await?;
    tx.insert_lease(&made).await?;
    Ok((Next::Done, Baton::Pass))
}

/// A daemon stands still until its claim has run out and another has finished the task. What it commits then changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_wakes_up_late_writes_nothing() {
    let Some(two) = two().await else { return };
    let (waiter, stale) = two.claimed().await;
    two.clock.advance(Duration::from_secs(31));
    assert_eq!(two.other.reap(false).await.unwrap().returned, 1);
    let again = two.other.claim(&Scope::Root(waiter.id.clone()), "other/w0").await.unwrap().unwrap();
    assert_eq!(again.attempt, stale.attempt + 1);

    let slot = Slot { scope: "yard".to_owned(), place: 1 };
    let step = async |store: &Store, claim: &Claim, made: &Lease| {
        let (slot, made) = (slot.clone(), made.clone());
        let step = store.commit_step(claim, None, move |tx| Box::pin(grab(tx, slot.clone(), made.clone())));
        step.await.unwrap()
    };
    let (late, fresh) = (lease(), lease());
    assert_eq!(step(&two.one, &stale, &late).await, Committed::FenceLost, "it was not its task any more");
    assert_eq!(two.one.renew_claim(&stale).await.unwrap(), None);
    two.one.hand_back(&stale).await.unwrap();
    assert_eq!(two.state(&again).await, TaskState::Running);
    assert!(two.other.find_lease(&late.id).await.unwrap().is_none(), "what it made is there");
    assert_eq!(two.other.slots_of(&Subject::from(late.id)).await.unwrap(), [], "what it took is taken");
    assert_eq!(step(&two.other, &again, &fresh).await, Committed::Done(None));
    assert_eq!(two.one.slots_of(&Subject::from(fresh.id)).await.unwrap(), [slot]);
}

/// A scan passes over a task that a rival is about to claim; the rival gives up. The sweep tells of it, and it is found.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_rival_let_go_of_is_found() {
    let Some(two) = two().await else { return };
    let waiting = lease();
    two.insert(&waiting).await;
    let (begun, mut has_begun) = watch::channel(false);
    let (go_on, going) = watch::channel(false);
    let rival = two.one.clone();
    let rival = tokio::spawn(async move {
        let claim = rival.write(move |tx| {
            let (begun, mut going) = (begun.clone(), going.clone());
            Box::pin(async move {
                let claim = tx.claim(&Scope::Any, "one/w0").await?;
                assert!(claim.is_some());
                begun.send_replace(true);
                let _ = going.wait_for(|go| *go).await;
                Err::<(), _>(Error::new(Reason::Internal, "it thinks better of it"))
            })
        });
        claim.await
    });
    has_begun.wait_for(|begun| *begun).await.unwrap();
    assert_eq!(two.other.claim(&Scope::Any, "other/w0").await.unwrap(), None, "it is about to be claimed");
    let mut news = two.other.news();
    go_on.send_replace(true);
    assert!(rival.await.unwrap().is_err());
    two.other.look_around();
    let heard = async { while news.recv().await.unwrap().ready == 0 {} };
    tokio::time::timeout(PATIENCE, heard).await.expect("it is told in time");
    let claim = two.other.claim(&Scope::Any, "other/w0").await.unwrap().unwrap();
    assert_eq!(LeaseId::parse(claim.subject.as_str()), Some(waiting.id));
}

/// Who is handed the baton of a pool while it does its last step hands it on to the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_baton_that_comes_during_the_last_step_goes_on() {
    let Some(two) = two().await else { return };
    let wait = || vec![Wait::Pool("yard".to_owned())];
    let (first, claim) = two.claimed_at(NOON).await;
    park(&two.one, &claim, wait()).await;
    let (_, next) = two.claimed_at(NOON + 1).await;
    park(&two.one, &next, wait()).await;
    let subject = Subject::from(first.id.clone());
    let wake = two.other.write(move |tx| {
        let subject = subject.clone();
        Box::pin(async move { tx.wake_task(&subject).await })
    });
    wake.await.unwrap();
    let claim = two.one.claim(&Scope::Root(first.id), "one/w0").await.unwrap().unwrap();
    let (begun, mut has_begun) = watch::channel(false);
    let (go_on, going) = watch::channel(false);
    let one = two.one.clone();
    let last = tokio::spawn(async move {
        let step = one.commit_step(&claim, None, move |_| {
            let (begun, mut going) = (begun.clone(), going.clone());
            Box::pin(async move {
                begun.send_replace(true);
                let _ = going.wait_for(|go| *go).await;
                Ok((Next::Done, Baton::Pass))
            })
        });
        step.await
    });
    has_begun.wait_for(|begun| *begun).await.unwrap();
    let free = two.other.write(|tx| Box::pin(async move { tx.wake_pool("pool:yard", None).await }));
    free.await.unwrap();
    assert_eq!(two.state(&next).await, TaskState::Parked, "the baton is the first one's");
    go_on.send_replace(true);
    assert_eq!(last.await.unwrap().unwrap(), Committed::Done(None));
    assert_eq!(two.state(&next).await, TaskState::Ready, "the baton is lost");
}

/// A step that ends when its claim is lost, and tells of both.
#[derive(Default)]
pub(super) struct Stuck {
    pub(super) begun: Notify,
    pub(super) given_up: Notify,
}

#[async_trait]
impl Steps for Stuck {
    async fn step(&self, _claim: &Claim, _next: Option<Scope>, lost: CancellationToken) -> Result<Committed> {
        self.begun.notify_one();
        lost.cancelled().await;
        self.given_up.notify_one();
        Ok(Committed::FenceLost)
    }

    async fn stumble(&self, _claim: &Claim, _error: &str, _panicked: bool) -> Result<()> {
        Ok(())
    }

    async fn poisoned(&self, _subject: &Subject) -> Result<()> {
        Ok(())
    }
}

/// A database that says nothing at all, not even no, does not keep a daemon from giving up what it cannot keep.
#[test]
fn a_claim_is_given_up_in_time_though_the_database_hangs() {
    if !is_installed() {
        return;
    }
    if std::env::var_os("DRYDOCK_CLAIM_SECONDS").is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        return runtime.block_on(hang());
    }
    // In a process of its own, in which claims are short.
    let test = "fire::races::a_claim_is_given_up_in_time_though_the_database_hangs";
    let mut child = Command::new(std::env::current_exe().unwrap());
    let ran = child.args([test, "--exact", "--nocapture"]).env("DRYDOCK_CLAIM_SECONDS", "1").output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
}

async fn hang() {
    let (_database, wire, url) = wired().await;
    let store = Store::open(&Location::Postgres(Remote::at(url)), ManualClock::at(NOON)).await.unwrap();
    let steps = Arc::new(Stuck::default());
    let settings = Settings { workers: 1, sweep: false, daemon: "one".to_owned() };
    let scheduler = Scheduler::start(store.clone(), Arc::clone(&steps) as Arc<dyn Steps>, &settings).await.unwrap();
    let made = lease();
    let insert = store.write(move |tx| {
        let made = made.clone();
        Box::pin(async move { tx.insert_lease(&made).await })
    });
    insert.await.unwrap();
    tokio::time::timeout(PATIENCE, steps.begun.notified()).await.expect("it is claimed");
    wire.hold();
    tokio::time::timeout(PATIENCE / 4, steps.given_up.notified()).await.expect("it is given up in time");
    scheduler.stop();
}
