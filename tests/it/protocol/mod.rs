//! The queue's protocol, checked exhaustively: every interleaving of every transaction of up to three workers, with kills and
//! with claims that expire under a living owner. No database and no line of the service is used here: it shows that
//! the rules suffice (for three tasks, three workers and a few faults) and, by the mutants, that each of them is needed. The
//! service's own tests then show that it keeps them.
//!
//! One transition of the model is one transaction, or one step inside a process between two of them:
//!
//! | transition | in the service |
//! |---|---|
//! | `Subscribe` | the worker loop takes its subscription to wake notices, before it scans |
//! | `Claim` | the store's `claim`: `ready` → `running`, `attempt + 1`, a new `claim_until`; `signal` is noted |
//! | `FoundNothing` | the same with no row; the worker sleeps until a notice |
//! | `Read` | the step, `reconcile(subject)`: reads rows and does the outside work, holds no transaction; decides what to commit |
//! | `Commit` | `commit_step`: fence, progress, sub-leases with tasks and wake edges, park, wakes, next claim: one transaction |
//! | `FenceLost` | the same when `attempt` or `state` no longer match: zero rows, all rolled back, all dropped |
//! | `Notify` | the coalesced notice, after the commit and outside its transaction |
//! | `Reap` | `reap`: a claim whose `claim_until` has passed goes back to `ready`; here that of a killed worker |
//! | `ExpireAlive` | `reap` on a live worker that could not renew (stopped, cut off); its commit comes later all the same |
//! | `Cancel` | the client's cancel: a command, and a wake of its task, in one transaction |
//! | `Kill` | `kill -9` at any moment, and a restart; a notice not yet sent is lost |
//! | `LateWake` | in a mutant only: the wake in a transaction of its own |
//!
//! A wake adds one to `signal`, turns `parked` into `ready` and takes the edge away. Each worker is a daemon of its own. The slow
//! sweep is off: only `reap` runs. What is left out: which ready task is claimed (any, as order is no part of safety; see
//! [`order`] for what it is worth), a scan that passes over a row because a rival has it locked and then rolls back (that is
//! what the sweep is for), timers, and waits for capacity in a circle.
//!
//! Demanded of every state: no task finished twice, no slot held twice, always a way on that needs no further fault, the end in
//! reach from everywhere, and, until the first kill, no worker asleep beside a ready task without a notice on its way.

mod cascade;
mod explore;
mod model;
mod order;
mod pool;
mod state;

use cascade::{CHAIN, DIAMOND, GIVEN_UP, Shape, TREE};
use explore::{Report, explore};
use model::{Guard, Model, Scenario};
use pool::Pool;
use state::Broken;

fn cascade(shape: Shape, workers: usize, kills: u8, expiries: u8) -> Model {
    Model::new(Scenario::Cascade(shape), workers, kills, expiries)
}

fn pool(cancels: u8, workers: usize, kills: u8, expiries: u8) -> Model {
    Model::new(Scenario::Pool(Pool { cancels }), workers, kills, expiries)
}

#[track_caller]
fn assert_sound(model: &Model, least: usize) -> Report {
    let report = explore(model);
    assert!(report.finding.is_none(), "{model:?}: {:#?}", report.finding);
    assert!(report.states >= least, "{model:?}: only {} states, so the model has lost moves", report.states);
    println!("{model:?}: {} states", report.states);
    report
}

#[track_caller]
fn assert_broken(model: &Model, guard: Guard, expected: Broken) {
    assert!(explore(model).finding.is_none(), "{model:?} must be sound with every guard, or the mutant shows nothing");
    let report = explore(&model.without(guard));
    let finding =
        report.finding.unwrap_or_else(|| panic!("{model:?} without {guard:?}: not found in {} states", report.states));
    println!("{model:?} without {guard:?}: {:?} by {:#?}", finding.broken, finding.trace);
    assert_eq!(finding.broken, expected, "{model:?} without {guard:?}: {:#?}", finding.trace);
    assert!(!finding.trace.is_empty() && finding.trace.len() < 30, "a shortest trace is short: {:#?}", finding.trace);
}

#[test]
fn a_tree_is_sound() {
    for (workers, least) in [(1, 500), (2, 6_000), (3, 25_000)] {
        assert_sound(&cascade(TREE, workers, 2, 1), least);
    }
}

#[test]
fn a_chain_is_sound() {
    for (workers, least) in [(1, 250), (2, 2_900), (3, 13_000)] {
        assert_sound(&cascade(CHAIN, workers, 2, 1), least);
    }
}

#[test]
fn a_diamond_is_sound() {
    for (workers, least) in [(1, 450), (2, 4_500), (3, 20_000)] {
        assert_sound(&cascade(DIAMOND, workers, 2, 1), least);
    }
}

#[test]
fn a_lease_given_up_is_sound() {
    for (workers, least) in [(1, 150), (2, 800), (3, 2_300)] {
        assert_sound(&cascade(GIVEN_UP, workers, 2, 1), least);
    }
}

#[test]
fn a_pool_with_one_worker_is_sound() {
    assert_sound(&pool(1, 1, 2, 1), 15_000);
}

#[test]
fn a_pool_with_two_workers_is_sound() {
    assert_sound(&pool(1, 2, 1, 1), 200_000);
    assert_sound(&pool(1, 2, 2, 0), 10_000);
}

#[test]
fn a_pool_with_three_workers_is_sound() {
    assert_sound(&pool(1, 3, 0, 0), 10_000);
    assert_sound(&pool(0, 3, 2, 0), 10_000);
    assert_sound(&pool(0, 3, 0, 1), 10_000);
}

#[test]
fn without_the_signal_compare_a_wake_in_the_gap_is_lost() {
    assert_broken(&cascade(TREE, 2, 0, 0), Guard::Signal, Broken::Stuck);
    assert_broken(&cascade(GIVEN_UP, 1, 0, 0), Guard::Signal, Broken::Stuck);
}

/// The real commit looks at every awaited row. In a tree that hides a missing compare, so a random test of trees would not
/// find it; a cancel, which changes no awaited row, still does.
#[test]
fn a_look_at_every_row_hides_a_missing_signal_compare_only_in_a_tree() {
    let tree = cascade(TREE, 2, 0, 0).without(Guard::LookAtNewOnly);
    assert_sound(&tree, 400);
    assert_sound(&tree.without(Guard::Signal), 400);
    assert_broken(&tree.without(Guard::Signal), Guard::Look, Broken::Stuck);
    assert_broken(&cascade(GIVEN_UP, 1, 0, 0).without(Guard::LookAtNewOnly), Guard::Signal, Broken::Stuck);
}

#[test]
fn without_the_fence_a_step_commits_twice() {
    assert_broken(&cascade(TREE, 2, 0, 1), Guard::Fence, Broken::DoubleCommit);
    assert_broken(&cascade(DIAMOND, 2, 0, 1), Guard::Fence, Broken::DoubleCommit);
    assert_broken(&pool(0, 2, 0, 1), Guard::Fence, Broken::DoubleCommit);
}

#[test]
fn a_wake_in_its_own_transaction_dies_with_its_daemon() {
    assert_broken(&cascade(TREE, 1, 1, 0), Guard::WakeInCommit, Broken::Stuck);
    assert_broken(&cascade(CHAIN, 1, 1, 0), Guard::WakeInCommit, Broken::Stuck);
    assert_broken(&cascade(DIAMOND, 2, 1, 0), Guard::WakeInCommit, Broken::Stuck);
}

#[test]
fn who_scans_before_subscribing_sleeps_through_the_notice() {
    assert_broken(&cascade(TREE, 1, 1, 0), Guard::SubscribeFirst, Broken::Stuck);
    assert_broken(&cascade(TREE, 2, 0, 0), Guard::SubscribeFirst, Broken::Idle);
}

#[test]
fn workers_held_while_waiting_run_out() {
    assert_broken(&cascade(TREE, 1, 0, 0), Guard::Park, Broken::Stuck);
    assert_broken(&cascade(CHAIN, 2, 0, 0), Guard::Park, Broken::Stuck);
    assert_broken(&cascade(DIAMOND, 2, 0, 0), Guard::Park, Broken::Stuck);
}

/// Who commits scans again and finds the work itself, so nothing is stuck; what is lost is the second pair of hands.
#[test]
fn without_notices_workers_sleep_beside_ready_tasks() {
    assert_broken(&cascade(TREE, 2, 0, 0), Guard::Notify, Broken::Idle);
    assert_sound(&cascade(TREE, 1, 2, 1).without(Guard::Notify), 250);
}

#[test]
fn without_a_look_at_the_awaited_row_a_diamond_is_stuck() {
    assert_broken(&cascade(DIAMOND, 2, 0, 0), Guard::Look, Broken::Stuck);
    assert_broken(&pool(0, 2, 0, 0), Guard::Look, Broken::Stuck);
}

#[test]
fn without_the_baton_a_cancelled_waiter_keeps_the_slot_from_all() {
    assert_broken(&pool(1, 1, 0, 0), Guard::Baton, Broken::Stuck);
    assert_broken(&pool(1, 2, 0, 0), Guard::Baton, Broken::Stuck);
}

#[test]
fn a_limit_that_is_only_counted_is_overrun() {
    assert_broken(&pool(0, 2, 0, 0), Guard::SlotKey, Broken::SlotTwice);
}

/// Waking all needs no baton and is correct, it only makes every waiter come for nothing.
#[test]
fn waking_all_is_sound_but_takes_more_claims() {
    assert_sound(&pool(1, 2, 0, 1).without(Guard::WakeOne), 10_000);
    assert_sound(&pool(1, 1, 1, 1).without(Guard::WakeOne).without(Guard::Baton), 10_000);
    let mut one = pool(0, 1, 0, 0);
    one.counting = true;
    let (one, all) = (assert_sound(&one, 100), assert_sound(&one.without(Guard::WakeOne), 100));
    println!("most claims: waking one {}, waking all {}", one.most_claims, all.most_claims);
    assert!(all.most_claims > one.most_claims, "waking one {}, waking all {}", one.most_claims, all.most_claims);
}
