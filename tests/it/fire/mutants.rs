//! Each rule of the queue, taken away in a process of its own: the test that watches over it must fail there.

use std::process::{Command, Stdio};
use std::sync::Arc;

use drydock::model::LeaseState;
use sqlx::Row as _;

use crate::postgres::is_installed;
use crate::queue::invariants;
use crate::queue::kit::{Bench, TestKind, World, ask, eventually};

/// Leases that want one place, one after the other.
const WAITERS: usize = 30;
/// Claims that one of them may cost: to be queued and to wait, to get the place and to be set up, to be cleaned up.
const CLAIMS: i64 = 8;

/// What becomes free wakes one of those who wait for it: what a lease costs does not grow with those who wait beside it.
#[test]
fn a_place_that_becomes_free_wakes_one() {
    crate::postgres::with_it(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        // Where it keeps its things is said of this thread.
        runtime.block_on(wakes_one());
    });
}

async fn wakes_one() {
    let world = Arc::new(World::default());
    let kind = TestKind::new(&world, "box").limit(1).with(|kind| kind.stays = true);
    let bench = Bench::start(2, world, vec![kind]).await;
    let mut waiting = Vec::new();
    for _ in 0..WAITERS {
        waiting.push(bench.queue(ask("box")).await);
    }
    while !waiting.is_empty() {
        let at = eventually("somebody gets the place", async || {
            for (at, id) in waiting.iter().enumerate() {
                if bench.state(id).await == LeaseState::Active {
                    return Some(at);
                }
            }
            None
        })
        .await;
        bench.release(&waiting.remove(at)).await;
    }
    bench.idle().await;
    let mut reader = invariants::reader(&bench.database()).await;
    let row = sqlx::query("SELECT CAST(sum(attempt) AS BIGINT) AS n FROM task WHERE subject LIKE 'lease_%'");
    let claims: i64 = row.fetch_one(&mut reader).await.unwrap().get("n");
    println!("{claims} claims for {WAITERS} leases");
    assert!(claims <= CLAIMS * i64::try_from(WAITERS).unwrap(), "{claims} claims for {WAITERS} leases");
}

/// Runs one test of this program without a rule; it must fail, and for this reason.
fn assert_red(mutant: &str, test: &str, why: &str) {
    if !is_installed() {
        return;
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([test, "--exact", "--nocapture"]).env("DRYDOCK_MUTANT", mutant).env("RUST_BACKTRACE", "0");
    let ran = child.stdin(Stdio::null()).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(!ran.status.success() && said.contains("1 failed"), "{test} does not see {mutant}: {said}");
    assert!(said.contains(why), "{test} fails with {mutant} for another reason: {said}");
}

#[test]
fn without_the_fence_a_late_daemon_writes() {
    assert_red("no-fence", "fire::races::a_daemon_that_wakes_up_late_writes_nothing", "it was not its task any more");
}

#[test]
fn without_the_signal_a_wake_is_lost() {
    assert_red("no-signal", "fire::races::a_signal_of_another_daemon_keeps_from_parking", "nobody will wake it");
}

#[test]
fn without_the_row_lock_an_end_is_missed() {
    assert_red("no-row-lock", "fire::races::an_end_between_look_and_park_is_seen", "nobody will wake it");
}

#[test]
fn waking_all_costs_claims() {
    assert_red("wake-all", "fire::mutants::a_place_that_becomes_free_wakes_one", "claims for 30 leases");
}

#[test]
fn without_its_return_a_daemon_is_taken_for_dead() {
    let test = "store::on_postgres::a_daemon_that_lives_takes_back_what_was_made_of_its_claims";
    assert_red("no-return", test, "its daemon has not died");
}
