//! Each rule of the queue, taken away in a process of its own: some seed must fail there, among those whose story may meet it.

use std::process::{Command, Stdio};

/// Plays seeds without a rule until one fails, which must be for this reason.
fn assert_found(mutant: &str, among: &str, why: &str) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["simulation::thousands_of_seeds_hold_first_quarter", "--exact", "--nocapture"]);
    child.env_remove("DRYDOCK_SIM_SEED").env("DRYDOCK_SIM_SEEDS", "10000").env("DRYDOCK_SIM_AMONG", among);
    child.env("DRYDOCK_MUTANT", mutant).env("RUST_BACKTRACE", "0");
    let ran = child.stdin(Stdio::null()).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(!ran.status.success() && said.contains("1 failed"), "no seed finds {mutant}: {said}");
    assert!(said.contains(why), "a seed fails with {mutant} for another reason: {said}");
}

#[test]
fn without_the_fence_a_late_step_is_written() {
    assert_found("no-fence", "standstills", "was taken over, and has been written");
}

#[test]
fn without_the_eventcount_a_signal_is_not_heard() {
    assert_found("no-signal", "hasty", "was signalled while it ran, and has parked");
}

#[test]
fn without_the_baton_somebody_waits_beside_what_is_free() {
    assert_found("drop-baton", "Colours", "waits beside a free paint that suits");
}
