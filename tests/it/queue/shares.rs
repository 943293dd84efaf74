//! Fair shares between owners, and how long anybody can be passed.

use std::collections::BTreeMap;
use std::sync::Arc;

use drydock::engine::Acquire;
use drydock::error::Reason;
use drydock::model::id::LeaseId;
use drydock::model::share::may_pass;
use drydock::model::task::head_start;
use drydock::model::{Lease, LeaseState};
use drydock::store::ListQuery;

use super::capacity::{lasting, take_down};
use super::kit::{Bench, TestKind, World, ask, user};

crate::postgres::on_postgres_too! {
    owners_with_weights_1_and_3_get_a_quarter_and_three_quarters,
    a_newcomer_does_not_wait_for_all_that_another_has_queued,
    a_newcomer_has_saved_nothing_up,
    the_lowest_priority_is_served_within_its_bound,
    who_has_all_that_an_owner_may_have_waits_and_nobody_else,
    all_owners_together_have_no_more_than_is_said,
    a_limit_that_was_raised_lets_those_go_on_who_wait_for_it,
    a_queue_that_is_full_refuses_at_the_door,
}

/// Everybody may have the boxes of everybody.
fn shared(world: &Arc<World>, resources: i64) -> super::kit::TestKind {
    lasting(world, "box", resources, 1).limits(|limits| limits.shared = true)
}

async fn live(bench: &Bench) -> Vec<Lease> {
    let query = ListQuery { limit: 499, ..ListQuery::default() };
    let mut all = bench.engine().store().list_leases(&query, false).await.unwrap();
    all.retain(|lease| lease.state.is_live());
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all
}

/// Gives back the oldest lease that is ACTIVE; whose it was.
async fn give_back(bench: &Bench) -> (LeaseId, String) {
    bench.idle().await;
    let active = live(bench).await.into_iter().filter(|lease| lease.state == LeaseState::Active);
    let oldest = active.min_by_key(|lease| lease.active_time).expect("somebody has something");
    bench.release(&oldest.id).await;
    (oldest.id, oldest.owner)
}

async fn end_all(bench: &Bench) {
    for lease in live(bench).await {
        bench.release(&lease.id).await;
    }
    bench.idle().await;
    take_down(bench, "box").await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_with_weights_1_and_3_get_a_quarter_and_three_quarters() {
    let world = Arc::new(World::default());
    let bench = Bench::sharing(&["heavy weight=3"], 2, Arc::clone(&world), vec![shared(&world, 2)]).await;
    for owner in ["light", "heavy"].repeat(8) {
        bench.queue_as(&user(owner), ask("box")).await.unwrap();
    }
    let mut served: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..100 {
        let (_, owner) = give_back(&bench).await;
        bench.queue_as(&user(&owner), ask("box")).await.unwrap();
        *served.entry(owner).or_default() += 1;
    }
    assert!((72..=78).contains(&served["heavy"]), "{served:?}");
    end_all(&bench).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_does_not_wait_for_all_that_another_has_queued() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![shared(&world, 1)]).await;
    for _ in 0..20 {
        bench.queue_as(&user("greedy"), ask("box")).await.unwrap();
    }
    for _ in 0..5 {
        give_back(&bench).await;
    }
    bench.idle().await;
    let newcomer = bench.queue_as(&user("modest"), ask("box")).await.unwrap();
    bench.idle().await;
    let mut passed = 0;
    while bench.state(&newcomer).await != LeaseState::Active {
        give_back(&bench).await;
        bench.idle().await;
        passed += 1;
    }
    assert!(passed <= 2, "{passed} went first");
    end_all(&bench).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_has_saved_nothing_up() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![shared(&world, 1)]).await;
    for _ in 0..12 {
        bench.queue_as(&user("early"), ask("box")).await.unwrap();
    }
    for _ in 0..5 {
        give_back(&bench).await;
    }
    for _ in 0..6 {
        bench.queue_as(&user("late"), ask("box")).await.unwrap();
    }
    let mut served = BTreeMap::new();
    for _ in 0..6 {
        let (_, owner) = give_back(&bench).await;
        *served.entry(owner).or_insert(0) += 1;
    }
    // From now on they take turns; what the one had before the other came is no debt.
    assert!((2..=4).contains(&served["late"]), "{served:?}");
    end_all(&bench).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lowest_priority_is_served_within_its_bound() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![shared(&world, 1)]).await;
    let asking = |priority| Acquire { priority, ..ask("box") };
    bench.queue_as(&user("urgent"), asking(10)).await.unwrap();
    let patient = bench.queue_as(&user("patient"), asking(-10)).await.unwrap();
    bench.queue_as(&user("urgent"), asking(10)).await.unwrap();
    let bound = may_pass(head_start(10) - head_start(-10), 1);
    let mut passed = 0;
    while bench.state(&patient).await != LeaseState::Active {
        let (id, _) = give_back(&bench).await;
        bench.queue_as(&user("urgent"), asking(10)).await.unwrap();
        bench.idle().await;
        passed += i64::from(id > patient);
        assert!(passed <= bound, "{passed} that came later were served, and the bound is {bound}");
    }
    assert!(passed > bound / 2, "the head start counts: {passed} of {bound}");
    end_all(&bench).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_all_that_an_owner_may_have_waits_and_nobody_else() {
    let world = Arc::new(World::default());
    let kinds = vec![lasting(&world, "box", 5, 1), lasting(&world, "jar", 5, 1)];
    let bench = Bench::sharing(&["* max_leases=1"], 2, Arc::clone(&world), kinds).await;
    let first = bench.queue_as(&user("ann"), ask("box")).await.unwrap();
    bench.reaches(&first, LeaseState::Active).await;
    let second = bench.queue_as(&user("ann"), ask("jar")).await.unwrap();
    bench.idle().await;
    let waiting = bench.lease(&second).await.waiting.unwrap();
    assert_eq!(waiting.reason, "QUOTA_REACHED");
    assert!(waiting.message.contains("1 of 1 leases of ann at once"), "{}", waiting.message);
    assert_eq!(waiting.blocked_by, [first.to_string()]);
    let other = bench.queue_as(&user("ben"), ask("jar")).await.unwrap();
    bench.reaches(&other, LeaseState::Active).await;
    // What was given back is a box, and who waits wants a jar.
    bench.release(&first).await;
    bench.reaches(&second, LeaseState::Active).await;
    for lease in [second, other] {
        bench.release(&lease).await;
    }
    for of in ["box", "jar"] {
        take_down(&bench, of).await;
    }
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_owners_together_have_no_more_than_is_said() {
    let world = Arc::new(World::default());
    let kinds = vec![
        TestKind::new(&world, "top").needing(&["part"]),
        TestKind::new(&world, "part"),
        lasting(&world, "jar", 5, 1),
    ];
    let bench = Bench::sharing(&["** max_leases=2"], 2, Arc::clone(&world), kinds).await;
    // What a lease needs itself does not count.
    let top = bench.queue_as(&user("ann"), ask("top")).await.unwrap();
    let jar = bench.queue_as(&user("ben"), ask("jar")).await.unwrap();
    for lease in [&top, &jar] {
        bench.reaches(lease, LeaseState::Active).await;
    }
    let third = bench.queue_as(&user("cid"), ask("jar")).await.unwrap();
    bench.idle().await;
    let waiting = bench.lease(&third).await.waiting.unwrap();
    assert_eq!(waiting.reason, "QUOTA_REACHED");
    assert!(waiting.message.contains("2 of 2 leases of all owners at once"), "{}", waiting.message);
    // What is given back is no jar.
    bench.release(&top).await;
    bench.reaches(&third, LeaseState::Active).await;
    for lease in [jar, third] {
        bench.release(&lease).await;
    }
    bench.idle().await;
    take_down(&bench, "jar").await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_was_raised_lets_those_go_on_who_wait_for_it() {
    let world = Arc::new(World::default());
    let kinds = vec![lasting(&world, "box", 5, 1)];
    let mut bench = Bench::sharing(&["ann max_leases=1"], 2, Arc::clone(&world), kinds).await;
    let first = bench.queue_as(&user("ann"), ask("box")).await.unwrap();
    let second = bench.queue_as(&user("ann"), ask("box")).await.unwrap();
    bench.reaches(&first, LeaseState::Active).await;
    bench.idle().await;
    assert_eq!(bench.state(&second).await, LeaseState::Pending);
    bench.restart_sharing(&["ann max_leases=2"], 2).await;
    bench.reaches(&second, LeaseState::Active).await;
    end_all(&bench).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_full_refuses_at_the_door() {
    let world = Arc::new(World::default());
    let kinds = vec![lasting(&world, "box", 1, 1)];
    let bench = Bench::sharing(&["ann max_queued=2"], 2, Arc::clone(&world), kinds).await;
    let mut leases = Vec::new();
    for _ in 0..3 {
        leases.push(bench.queue_as(&user("ann"), ask("box")).await.unwrap());
        bench.idle().await;
    }
    let refused = bench.queue_as(&user("ann"), ask("box")).await.unwrap_err();
    assert_eq!(refused.reason, Reason::QuotaExceeded);
    assert!(refused.message.contains("2 of 2 leases of ann queue already"), "{}", refused.message);
    // One leaves the queue for the box, another is cancelled.
    bench.release(&leases[0]).await;
    bench.reaches(&leases[1], LeaseState::Active).await;
    let more = bench.queue_as(&user("ann"), ask("box")).await.unwrap();
    assert!(bench.queue_as(&user("ann"), ask("box")).await.is_err());
    bench.release(&more).await;
    bench.reaches(&more, LeaseState::Destroyed).await;
    bench.queue_as(&user("ann"), ask("box")).await.unwrap();
    end_all(&bench).await;
}
