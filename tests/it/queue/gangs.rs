//! What is taken all at once or not at all, and trees that want what each other holds.

use std::sync::Arc;

use drydock::engine::{Acquire, ExplainSubject};
use drydock::error::Reason;
use drydock::model::LeaseState;
use drydock::model::id::LeaseId;

use super::capacity::{end, lasting};
use super::kit::{Bench, Fate, Phase, TestKind, World, admin, ask, eventually, user};

crate::postgres::on_postgres_too! {
    siblings_of_one_type_hold_nothing_until_there_is_room_for_all,
    of_two_that_hold_one_of_the_last_two_and_want_the_other_the_older_goes_first,
    trees_that_cross_over_two_pools_are_untangled,
    what_is_asked_for_together_is_had_together,
    when_one_ends_before_it_is_active_so_do_the_others,
    a_request_that_cannot_be_writes_none_of_its_leases,
}

async fn together(bench: &Bench, asks: Vec<Acquire>) -> Vec<LeaseId> {
    let views = bench.engine().acquire_all(&admin(), asks, None).await.unwrap();
    views.into_iter().map(|view| view.lease.id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn siblings_of_one_type_hold_nothing_until_there_is_room_for_all() {
    let world = Arc::new(World::default());
    let kinds = vec![TestKind::new(&world, "top").needing(&["box", "box"]), lasting(&world, "box", 2, 1)];
    let bench = Bench::start(2, Arc::clone(&world), kinds).await;
    let one = bench.queue(ask("box")).await;
    bench.reaches(&one, LeaseState::Active).await;
    let top = bench.queue(ask("top")).await;
    bench.idle().await;
    assert_eq!(bench.resources("box").await.len(), 1, "none is built for half of it");
    let parts: Vec<_> = bench.engine().store().tree(&top).await.unwrap().into_iter().filter(|l| l.id != top).collect();
    assert!(parts.iter().all(|part| part.state == LeaseState::Pending && part.allocating.is_none()), "{parts:?}");
    let message = parts[0].waiting.clone().unwrap().message;
    assert!(message.contains("2 are taken together"), "{message}");
    bench.release(&one).await;
    bench.reaches(&top, LeaseState::Active).await;
    end(&bench, &[top], &["box"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_hold_one_of_the_last_two_and_want_the_other_the_older_goes_first() {
    let world = Arc::new(World::default());
    for workers in [1, 2, 4] {
        let kinds = vec![TestKind::new(&world, "pair").needing_in_turn(&["box", "box"]), lasting(&world, "box", 2, 1)];
        let mut bench = Bench::start(0, Arc::clone(&world), kinds).await;
        let older = bench.queue(ask("pair")).await;
        let younger = bench.queue(ask("pair")).await;
        bench.restart(workers).await;
        bench.reaches(&older, LeaseState::Active).await;
        bench.idle().await;
        assert_eq!(bench.state(&younger).await, LeaseState::Pending);
        bench.release(&older).await;
        bench.reaches(&younger, LeaseState::Active).await;
        assert_eq!(bench.lease(&younger).await.reacquires, 0, "giving way is no failure of its own");
        end(&bench, &[younger], &["box"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trees_that_cross_over_two_pools_are_untangled() {
    let world = Arc::new(World::default());
    let kinds = vec![
        TestKind::new(&world, "there").needing_in_turn(&["box", "jar"]),
        TestKind::new(&world, "back").needing_in_turn(&["jar", "box"]),
        lasting(&world, "box", 1, 1),
        lasting(&world, "jar", 1, 1),
    ];
    let mut bench = Bench::start(0, Arc::clone(&world), kinds).await;
    let mut leases = Vec::new();
    for of in ["there", "back", "there", "back"] {
        leases.push(bench.queue(ask(of)).await);
    }
    bench.restart(4).await;
    for lease in &leases {
        bench.reaches(lease, LeaseState::Active).await;
        bench.release(lease).await;
    }
    end(&bench, &[], &["box", "jar"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_for_together_is_had_together() {
    let world = Arc::new(World::default());
    let kinds = vec![lasting(&world, "box", 2, 1), lasting(&world, "jar", 1, 1)];
    let bench = Bench::start(2, Arc::clone(&world), kinds).await;
    let one = bench.queue(ask("jar")).await;
    bench.reaches(&one, LeaseState::Active).await;
    let leases = together(&bench, vec![ask("box"), ask("jar"), ask("box")]).await;
    bench.idle().await;
    assert!(bench.resources("box").await.is_empty(), "boxes are to be had, and the jar is not");
    for lease in &leases {
        assert_eq!(bench.state(lease).await, LeaseState::Pending);
    }
    // Each of them says what keeps all of them, whichever's turn it is.
    let asked = ExplainSubject::Lease(leases[0].to_string());
    let explained = bench.engine().explain_lease(&admin(), asked).await.unwrap();
    let why = explained.waiting.unwrap().message;
    assert!(why.starts_with("3 are taken together") && explained.queue_position == Some(1), "{why}");
    assert!(explained.remedies.iter().any(|remedy| remedy.contains(one.as_str())), "{:?}", explained.remedies);
    // Others are served meanwhile as far as there is room behind them.
    bench.release(&one).await;
    for lease in &leases {
        bench.reaches(lease, LeaseState::Active).await;
    }
    for (lease, of) in leases.iter().zip(["box", "jar", "box"]) {
        assert_eq!(bench.lease(lease).await.spec.resource_type, of, "in the order of the request");
    }
    end(&bench, &leases, &["box", "jar"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_one_ends_before_it_is_active_so_do_the_others() {
    let world = Arc::new(World::default());
    let kinds = vec![lasting(&world, "box", 1, 1), TestKind::new(&world, "jar")];
    let bench = Bench::start(2, Arc::clone(&world), kinds).await;
    let cancelled = together(&bench, vec![ask("box"), ask("box")]).await;
    bench.idle().await;
    bench.release(&cancelled[0]).await;
    let other = bench.reaches(&cancelled[1], LeaseState::Destroyed).await;
    assert_eq!(other.state_reason, "CANCELLED");
    assert!(other.state_message.contains(cancelled[0].as_str()), "{}", other.state_message);
    world.will("jar", Phase::Build, [Fate::Refuse]);
    let broken = together(&bench, vec![ask("box"), ask("jar")]).await;
    let box_lease = bench.reaches(&broken[0], LeaseState::Destroyed).await;
    assert_eq!(box_lease.state_reason, "CANCELLED");
    assert_eq!(bench.reaches(&broken[1], LeaseState::Destroyed).await.state_reason, "BUILD_FAILED");
    end(&bench, &[], &["box"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_cannot_be_writes_none_of_its_leases() {
    let world = Arc::new(World::default());
    let bench = Bench::start(2, Arc::clone(&world), vec![lasting(&world, "box", 1, 1)]).await;
    let asks = vec![ask("box"), ask("cup")];
    let refused = bench.engine().acquire_all(&user("ann"), asks, None).await.unwrap_err();
    assert_eq!(refused.reason, Reason::NoBlueprint);
    assert!(refused.message.starts_with("leases[1]: "), "{}", refused.message);
    eventually("nothing is written", async || bench.engine().store().slots().await.unwrap().is_empty().then_some(()))
        .await;
    bench.assert_nothing_left().await;
}
