//! What nobody uses makes room for who waits: where that helps, once for each lease, and never what is fresh.

use std::sync::Arc;
use std::time::Duration;

use drydock::engine::ExplainSubject;
use drydock::model::LeaseState;
use drydock::model::id::LeaseId;
use drydock::store::Scope;

use super::{MINUTE, active, coloured, give_back, hold, kept, most_at_once, pass, settled};
use crate::queue::invariants;
use crate::queue::kit::{Bench, Fate, Gate, PATIENCE, Phase, TestKind, World, admin, ask, eventually, user};

const HOUR: i64 = 60 * MINUTE;

async fn waits(bench: &Bench, lease: &LeaseId) -> String {
    settled(bench).await;
    bench.lease(lease).await.waiting.map(|waiting| waiting.reason).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_one_of_another_colour_makes_room_when_it_is_not_fresh() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![kept(&world, "box", HOUR).limit(1)]).await;
    let red = hold(&bench, &admin(), coloured("box", "red")).await;
    give_back(&bench, &red).await;
    let idle = active(&bench, "box").await.remove(0);
    let blue = bench.queue(coloured("box", "blue")).await;
    assert_eq!(waits(&bench, &blue).await, "LIMIT_REACHED");
    let told = bench.engine().explain_lease(&admin(), ExplainSubject::Lease(blue.to_string())).await.unwrap();
    let message = told.waiting.unwrap().message;
    assert!(message.contains("is fresh; from 2023-11-14T22:1"), "{message}");
    // Three minutes after it was built, and not a moment sooner.
    let built = idle.active_time.unwrap();
    let left = built + 3 * MINUTE - drydock::clock::Clock::now(&*bench.clock);
    let gate = Gate::new();
    world.will("box", Phase::Destroy, [Fate::Slow(Arc::clone(&gate))]);
    pass(&bench, Duration::from_micros(u64::try_from(left).unwrap() - 1)).await;
    assert_eq!(active(&bench, "box").await.len(), 1);
    bench.clock.advance(Duration::from_micros(1));
    gate.begun().await;
    bench.idle_but_one().await;
    let waiting = bench.lease(&blue).await.waiting.unwrap();
    assert_eq!((waiting.reason.as_str(), waiting.blocked_by), ("RECLAIMING", vec![idle.id.to_string()]));
    let told = bench.engine().explain_lease(&admin(), ExplainSubject::Lease(blue.to_string())).await.unwrap();
    assert_eq!(told.waiting.unwrap().reason, "RECLAIMING");
    gate.open();
    bench.reaches(&blue, LeaseState::Active).await;
    assert_eq!(bench.lease(&blue).await.reclaimed.as_ref(), Some(&idle.id));
    let gone = bench.engine().store().find_resource(&idle.id).await.unwrap().unwrap();
    assert_eq!(gone.state_reason, "RECLAIMED");
    assert_eq!(most_at_once(&bench, "box").await, 1);
    bench.release(&blue).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_types_that_alternate_on_one_place_build_no_more_often_than_every_three_minutes() {
    let world = Arc::new(World::default());
    let kinds = vec![
        kept(&world, "left", HOUR).needing(&["host"]),
        kept(&world, "right", HOUR).needing(&["host"]),
        TestKind::new(&world, "host").limit(1).with(|kind| kind.stays = true),
    ];
    let bench = Bench::start(2, Arc::clone(&world), kinds).await;
    // Each wants its turn every twenty seconds, for 20 minutes; who waits for more than a minute gives up.
    let (mut served, mut waiting) = (0, Vec::new());
    for turn in 0..60 {
        let of = if turn % 2 == 0 { "left" } else { "right" };
        let patience = Some(Duration::from_mins(1));
        let lease = bench.queue(drydock::engine::Acquire { queue_timeout: patience, ..ask(of) }).await;
        waiting.push(lease);
        settled(&bench).await;
        // Whoever has his turn gives it back at once.
        let mut left = Vec::new();
        for lease in waiting {
            match bench.state(&lease).await {
                LeaseState::Active => {
                    served += 1;
                    give_back(&bench, &lease).await;
                }
                LeaseState::Pending => left.push(lease),
                _ => {}
            }
        }
        waiting = left;
        pass(&bench, Duration::from_secs(20)).await;
    }
    let mut reader = invariants::reader(&bench.database()).await;
    let row = sqlx::query("SELECT count(*) AS n FROM resource WHERE state_reason = 'RECLAIMED'");
    let reclaimed: i64 = sqlx::Row::get(&row.fetch_one(&mut reader).await.unwrap(), "n");
    assert!((4..=6).contains(&reclaimed), "{reclaimed} were taken down in 20 minutes");
    assert!(served >= 25, "{served} of 60 were served at once");
    assert_eq!(world.calls(Phase::Build, "host").len(), 1);
    invariants::assert_hold(&bench.database()).await;
    for lease in waiting {
        bench.release(&lease).await;
    }
    for of in ["left", "right", "host"] {
        settled(&bench).await;
        crate::queue::capacity::take_down(&bench, of).await;
    }
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_holds_the_missing_place_is_taken_down() {
    let world = Arc::new(World::default());
    let kinds = vec![
        kept(&world, "box", HOUR).limit(1),
        kept(&world, "crate", HOUR).limit(1),
        kept(&world, "bin", HOUR).needing(&["crate"]),
    ];
    let bench = Bench::start(2, Arc::clone(&world), kinds).await;
    // An idle box and an idle bin, whose crate is in use by it.
    for of in ["box", "bin"] {
        let lease = hold(&bench, &user("ann"), ask(of)).await;
        give_back(&bench, &lease).await;
    }
    let used = active(&bench, "box").await.remove(0);
    pass(&bench, Duration::from_mins(4)).await;
    // A crate of any owner helps ben only when the bin goes, and then the crate, which stays for ann.
    let ben = bench.queue_as(&user("ben"), ask("crate")).await.unwrap();
    settled(&bench).await;
    assert_eq!(active(&bench, "box").await.len(), 1, "a box is no crate: {:?}", used.id);
    assert_eq!(bench.lease(&ben).await.reclaimed, None, "the crate would still be ann's");
    // Ann has room for one more of her own, and so takes the bin's place.
    let ann = bench.queue_as(&user("ann"), ask("crate")).await.unwrap();
    settled(&bench).await;
    assert_eq!(bench.lease(&ann).await.reclaimed, None, "ben is first");
    bench.release(&ben).await;
    bench.reaches(&ann, LeaseState::Active).await;
    assert!(active(&bench, "bin").await.is_empty());
    assert_eq!(active(&bench, "box").await.len(), 1);
    bench.release(&ann).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_lease_has_one_taken_down_and_the_first_in_the_queue_is_the_first_to() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![kept(&world, "box", HOUR).limit(3)]).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(hold(&bench, &user("ann"), ask("box")).await);
    }
    pass(&bench, Duration::from_mins(10)).await;
    let mut waiters = Vec::new();
    for _ in 0..2 {
        waiters.push(bench.queue_as(&user("ben"), ask("box")).await.unwrap());
    }
    settled(&bench).await;
    // The first that becomes idle is for the first who waits. Its clean-up hangs: nothing else is taken down for him.
    let gate = Gate::new();
    world.will("box", Phase::Destroy, [Fate::Slow(Arc::clone(&gate))]);
    bench.release(&held[0]).await;
    gate.begun().await;
    bench.idle_but_one().await;
    assert!(bench.lease(&waiters[0]).await.reclaimed.is_some());
    assert_eq!(bench.lease(&waiters[1]).await.reclaimed, None);
    bench.release(&held[1]).await;
    eventually("the second is served first, as it happens", async || {
        (bench.state(&waiters[0]).await == LeaseState::Active || bench.state(&waiters[1]).await == LeaseState::Active)
            .then_some(())
    })
    .await;
    bench.idle_but_one().await;
    gate.open();
    for waiter in &waiters {
        bench.reaches(waiter, LeaseState::Active).await;
    }
    let reclaimed = [bench.lease(&waiters[0]).await.reclaimed, bench.lease(&waiters[1]).await.reclaimed];
    assert!(reclaimed[0].is_some() && reclaimed[1].is_some() && reclaimed[0] != reclaimed[1], "{reclaimed:?}");
    assert_eq!(world.calls(Phase::Destroy, "box").len(), 2, "the third is in use");
    assert_eq!(most_at_once(&bench, "box").await, 3);
    for lease in [&waiters[0], &waiters[1], &held[2]] {
        bench.release(lease).await;
    }
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_ahead_could_use_is_left_for_him() {
    let world = Arc::new(World::default());
    let mut bench = Bench::start(1, Arc::clone(&world), vec![kept(&world, "box", HOUR).limit(1)]).await;
    let red = hold(&bench, &admin(), coloured("box", "red")).await;
    pass(&bench, Duration::from_mins(10)).await;
    let again = bench.queue(coloured("box", "red")).await;
    let blue = bench.queue(coloured("box", "blue")).await;
    settled(&bench).await;
    // The one ahead is about to go when it becomes free, and the one behind looks first.
    bench.restart(0).await;
    let engine = Arc::clone(bench.engine());
    let (first, second) = (bench.task_of(again.as_str()).await.unwrap(), bench.task_of(blue.as_str()).await.unwrap());
    engine.retry_task(&admin(), first.id.as_str(), None).await.unwrap();
    let claim = engine.store().claim(&Scope::Root(again.clone()), "elsewhere/1").await.unwrap().unwrap();
    bench.release(&red).await;
    engine.wait_lease(&admin(), red.as_str(), LeaseState::Destroyed, PATIENCE).await.unwrap();
    engine.retry_task(&admin(), second.id.as_str(), None).await.unwrap();
    let call = tokio::spawn({
        let (engine, blue) = (Arc::clone(&engine), blue.to_string());
        async move { engine.wait_lease(&admin(), &blue, LeaseState::Active, PATIENCE).await.map(drop) }
    });
    eventually("the one behind has looked", async || {
        bench.task_of(blue.as_str()).await.filter(|task| task.attempt > second.attempt && task.claimed_by.is_none())
    })
    .await;
    assert_eq!(active(&bench, "box").await.len(), 1);
    call.abort();
    let _ = call.await;
    engine.store().hand_back(&claim).await.unwrap();
    drop(engine);
    bench.restart(1).await;
    bench.reaches(&again, LeaseState::Active).await;
    settled(&bench).await;
    assert_eq!(world.calls(Phase::Build, "box").len(), 1);
    assert_eq!(bench.lease(&blue).await.reclaimed, None);
    bench.release(&again).await;
    bench.reaches(&blue, LeaseState::Active).await;
    assert!(bench.lease(&blue).await.reclaimed.is_some());
    bench.release(&blue).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_whose_room_went_to_another_has_nothing_else_taken_down() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![kept(&world, "box", HOUR).limit(1)]).await;
    let red = hold(&bench, &admin(), coloured("box", "red")).await;
    pass(&bench, Duration::from_mins(5)).await;
    let gate = Gate::new();
    world.will("box", Phase::Destroy, [Fate::Slow(Arc::clone(&gate))]);
    give_back(&bench, &red).await;
    let blue = bench.queue(coloured("box", "blue")).await;
    gate.begun().await;
    // Somebody comes who is ahead of it.
    let green = bench.queue(drydock::engine::Acquire { priority: 100, ..coloured("box", "green") }).await;
    bench.idle_but_one().await;
    gate.open();
    bench.reaches(&green, LeaseState::Active).await;
    give_back(&bench, &green).await;
    pass(&bench, Duration::from_mins(30)).await;
    assert_eq!(bench.state(&blue).await, LeaseState::Pending, "it had its one");
    assert_eq!(active(&bench, "box").await[0].attributes["colour"], "green");
    pass(&bench, Duration::from_mins(30)).await;
    bench.reaches(&blue, LeaseState::Active).await;
    bench.release(&blue).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_used_again_is_not_taken_down() {
    let world = Arc::new(World::default());
    let bench = Bench::start(1, Arc::clone(&world), vec![kept(&world, "box", HOUR).limit(1)]).await;
    let red = hold(&bench, &admin(), coloured("box", "red")).await;
    give_back(&bench, &red).await;
    // It was nobody's for a while, and is no longer.
    pass(&bench, Duration::from_mins(10)).await;
    let again = hold(&bench, &admin(), coloured("box", "red")).await;
    let blue = bench.queue(coloured("box", "blue")).await;
    assert_eq!(waits(&bench, &blue).await, "LIMIT_REACHED");
    assert_eq!((bench.state(&again).await, bench.lease(&blue).await.reclaimed), (LeaseState::Active, None));
    bench.release(&again).await;
    bench.reaches(&blue, LeaseState::Active).await;
    bench.release(&blue).await;
    bench.assert_nothing_left().await;
}
