//! The real engine, scheduler, allocator and store over virtual time, seed by seed: the same seed is the same story, to the
//! last event.
//!
//! Nothing in here waits: the runtime has one thread, on which the store writes too, and its clock moves to what is due next
//! when nothing else can be done. What is asked for is in `workload`, what must hold in `judge`, what goes on in `life`.
//!
//! A failing seed is named; `DRYDOCK_SIM_SEED=n cargo test --test it simulation -- --nocapture` tells its story.

mod ground;
mod judge;
mod life;
mod mutants;
mod stage;
mod workload;

use ground::Ground;
use life::{Outcome, play};
use workload::{Plan, Workload};

/// As many as two processors play in some two minutes; `DRYDOCK_SIM_SEEDS` says another number.
const SEEDS: u64 = 2_400;
/// In CI, where nobody waits for it: some ten minutes.
const SEEDS_IN_CI: u64 = 10_000;
/// So that they run side by side.
const PARTS: u64 = 4;

fn workload(seed: u64) -> Workload {
    let all = Workload::ALL;
    all[usize::try_from(seed).unwrap() % all.len()]
}

/// Whether it is one of those that are asked for: all, or with `DRYDOCK_SIM_AMONG` those in whose story that comes.
fn is_among(seed: u64) -> bool {
    let Ok(word) = std::env::var("DRYDOCK_SIM_AMONG") else { return true };
    let plan = Plan::new(workload(seed), &mut life::dice(seed));
    match word.as_str() {
        "standstills" => !plan.standstills.is_empty(),
        "hasty" => plan.hasty,
        of => format!("{:?}", workload(seed)) == of,
    }
}

/// Says the seed when one panics.
struct Said(u64);

impl Drop for Said {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let workload = workload(self.0);
            eprintln!("DRYDOCK_SIM_SEED={} failed; {workload:?}: {}", self.0, workload.about());
        }
    }
}

/// Plays one; panics with all that must not be.
fn hold(seed: u64, ground: &Ground, told: bool) -> Outcome {
    let _said = Said(seed);
    let outcome = play(workload(seed), seed, ground, told);
    if !outcome.found.is_empty() {
        let told = outcome.events.join("\n  ");
        panic!("seed {seed}:\n{}\nafter:\n  {told}", outcome.found.join("\n"));
    }
    outcome
}

/// Every so many seeds one of this part; or the one that is asked for, in the first part.
fn hold_all(part: u64) {
    let ground = Ground::new();
    if let Ok(seed) = std::env::var("DRYDOCK_SIM_SEED") {
        if part == 0 {
            let seed: u64 = seed.parse().unwrap();
            eprintln!("{:?}: {}", workload(seed), workload(seed).about());
            eprintln!("  {}", hold(seed, &ground, true).events.join("\n  "));
        }
        return;
    }
    let usual = if std::env::var_os("CI").is_some() { SEEDS_IN_CI } else { SEEDS };
    let seeds = std::env::var("DRYDOCK_SIM_SEEDS").map_or(usual, |seeds| seeds.parse().unwrap());
    for seed in (part..seeds).step_by(usize::try_from(PARTS).unwrap()).filter(|seed| is_among(*seed)) {
        hold(seed, &ground, false);
    }
}

#[test]
fn thousands_of_seeds_hold_first_quarter() {
    hold_all(0);
}

#[test]
fn thousands_of_seeds_hold_second_quarter() {
    hold_all(1);
}

#[test]
fn thousands_of_seeds_hold_third_quarter() {
    hold_all(2);
}

#[test]
fn thousands_of_seeds_hold_fourth_quarter() {
    hold_all(3);
}

#[test]
fn the_same_seed_is_the_same_story() {
    let ground = Ground::new();
    for seed in 0..27 {
        let (first, second) = (hold(seed, &ground, true), hold(seed, &ground, true));
        assert!(!first.events.is_empty());
        let differs = first.events.iter().zip(&second.events).find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed} of {:?}", workload(seed));
        assert_eq!(first.events.len(), second.events.len());
    }
}
