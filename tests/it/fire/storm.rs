//! A storm: everything at once, and then the reckoning.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::interval;

use super::clients::{Crowd, caller};
use super::fleet::Fleet;
use super::journal::judge;
use super::nemesis::{ALL, Fault, Nemesis};
use crate::postgres::is_installed;

/// Unless `DRYDOCK_FIRE_CALLERS` says so, as `make soak` does.
const CALLERS: usize = 30;
const BOXES: usize = 5;

/// How a storm went.
pub(super) struct Report {
    seed: u64,
    nemesis: Nemesis,
    crowd: Arc<Crowd>,
    journal: usize,
    inversions: Vec<String>,
    claims_per_lease: f64,
    suspected: usize,
    pub(super) violations: Vec<String>,
    left: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "DRYDOCK_FIRE_SEED={}", self.seed)?;
        writeln!(f, "faults injected: {:?}", self.nemesis.counts)?;
        writeln!(f, "daemons that ended by themselves: {:?}", self.nemesis.ended)?;
        let (done, uses) = (self.crowd.done.load(Ordering::Relaxed), self.crowd.uses.load(Ordering::Relaxed));
        writeln!(f, "leases done: {done}, calls through them: {uses}, lines of the journal: {}", self.journal)?;
        writeln!(f, "claims for each lease of a machine: {:.1}", self.claims_per_lease)?;
        writeln!(f, "calls that failed, by reason: {:?}", self.crowd.failures.lock().unwrap())?;
        writeln!(f, "leases that broke: {:#?}", self.crowd.broken.lock().unwrap())?;
        writeln!(f, "tasks suspected of deaths: {}", self.suspected)?;
        writeln!(f, "order inversions: {} {:#?}", self.inversions.len(), self.inversions)?;
        writeln!(f, "violations: {} {:#?}", self.violations.len(), self.violations)?;
        writeln!(f, "left-overs: {} {:#?}", self.left.len(), self.left)
    }
}

impl Report {
    pub(super) fn assert_clean(&self) {
        let clean = self.violations.is_empty() && self.left.is_empty() && self.inversions.is_empty();
        assert!(clean && self.crowd.done.load(Ordering::Relaxed) > 0, "{self}");
    }
}

/// Lets it rage for so long; `more` is environment of all daemons.
async fn storm(seed: u64, span: Duration, people: usize, only: &[Fault], more: &[(&str, &str)]) -> Report {
    let mut fleet = Fleet::start(BOXES, more).await;
    let crowd = Crowd::new(fleet.apis());
    let mut callers = JoinSet::new();
    for number in 0..people {
        callers.spawn(caller(Arc::clone(&crowd), number));
    }
    let mut nemesis = Nemesis::new(seed, only);
    nemesis.rage(&mut fleet, span).await;
    crowd.stop.store(true, Ordering::Relaxed);
    // A daemon whose database was away when it started has ended, and is started again.
    let mut ticks = interval(Duration::from_millis(100));
    while !callers.is_empty() {
        tokio::select! {
            ended = callers.join_next() => ended.into_iter().for_each(|ended| ended.expect("a caller is served")),
            _ = ticks.tick() => nemesis.watch_over(&mut fleet),
        }
    }
    let (left, suspected) = fleet.left_over().await;
    let lines = fleet.journal.lines().await;
    let violations = judge(&lines);
    if let Some(to) = std::env::var_os("DRYDOCK_FIRE_KEEP") {
        keep(&fleet, std::path::Path::new(&to));
    }
    Report {
        seed,
        journal: lines.len(),
        inversions: fleet.inversions().await,
        claims_per_lease: fleet.claims_per_lease().await,
        suspected,
        nemesis,
        crowd,
        violations,
        left,
    }
}

/// What a storm left behind is kept for who wants to know why.
fn keep(fleet: &Fleet, to: &std::path::Path) {
    let _ = std::fs::create_dir_all(to);
    let _ = std::fs::copy(fleet.folder.path().join("journal"), to.join("journal"));
    for (log, daemon) in fleet.logs().iter().zip(&fleet.daemons) {
        let _ = std::fs::copy(log, to.join(&daemon.name));
    }
}

/// A number that the environment says.
fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// Faults that `DRYDOCK_FIRE_FAULTS` names, all without it.
fn chosen() -> Vec<Fault> {
    let names = std::env::var("DRYDOCK_FIRE_FAULTS").unwrap_or_default();
    ALL.iter()
        .map(|(fault, _)| *fault)
        .filter(|fault| names.is_empty() || names.contains(&format!("{fault:?}")))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_place_is_held_twice_and_nothing_is_lost_or_left() {
    if !is_installed() {
        return;
    }
    let seed = number("DRYDOCK_FIRE_SEED").unwrap_or_else(|| fastrand::u64(..));
    // Not long in CI; `make soak` says how long.
    let span = Duration::from_secs(number("DRYDOCK_FIRE_SECONDS").unwrap_or(15));
    println!("DRYDOCK_FIRE_SEED={seed}");
    let callers = number("DRYDOCK_FIRE_CALLERS").unwrap_or(CALLERS);
    let report = storm(seed, span, callers, &chosen(), &[]).await;
    println!("{report}");
    report.assert_clean();
}

/// Nobody tells anybody: then daemons find each other's work by their sweeps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_notify_it_is_slower_and_no_worse() {
    if !is_installed() {
        return;
    }
    let report = storm(1, Duration::from_secs(5), 12, &[], &[("DRYDOCK_NOTIFY", "off")]).await;
    println!("{report}");
    report.assert_clean();
}
