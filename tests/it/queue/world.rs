//! What scripted blueprints act on, and what they are told to do next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::kit::PATIENCE;

/// Which method of a blueprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Build,
    Prepare,
    Clean,
    Destroy,
}

/// What a call of a blueprint comes to.
#[derive(Clone)]
pub(crate) enum Fate {
    Ready,
    Later(Duration),
    Fail,
    Refuse,
    Panic,
    /// Tells that it has begun, then waits until it is let go or nobody wants it any more.
    Block(Arc<Gate>),
    /// As `Block`, but with what it looked at before, and deaf to the cancelling.
    Slow(Arc<Gate>),
    /// Asks for its needs, also when it has them.
    AskAgain,
}

/// Where a scripted step stands still.
pub(crate) struct Gate {
    begun: Semaphore,
    open: Semaphore,
}

impl Gate {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { begun: Semaphore::new(0), open: Semaphore::new(0) })
    }

    /// Returns when a step stands here.
    pub(crate) async fn begun(&self) {
        let begun = tokio::time::timeout(PATIENCE, self.begun.acquire()).await;
        begun.expect("a step begins in time").unwrap().forget();
    }

    /// Lets one step go on.
    pub(crate) fn open(&self) {
        self.open.add_permits(1);
    }

    pub(super) async fn pass(&self) {
        self.begun.add_permits(1);
        self.open.acquire().await.unwrap().forget();
    }
}

/// What the blueprints act on, and what they are told to do next.
#[derive(Default)]
pub(crate) struct World {
    fates: Mutex<BTreeMap<(&'static str, Phase), VecDeque<Fate>>>,
    /// Things put somewhere and not yet taken away: resources, and leases set up on them.
    things: Mutex<BTreeSet<String>>,
    calls: Mutex<Vec<(Phase, &'static str, String)>>,
    /// Where the call of this number, from 0, stands still.
    stop_at: Mutex<Option<(usize, Arc<Gate>)>>,
}

impl World {
    /// The next calls come to these.
    pub(crate) fn will(&self, kind: &'static str, phase: Phase, fates: impl IntoIterator<Item = Fate>) {
        self.fates.lock().unwrap().entry((kind, phase)).or_default().extend(fates);
    }

    pub(super) fn next(&self, kind: &'static str, phase: Phase) -> Fate {
        self.fates.lock().unwrap().get_mut(&(kind, phase)).and_then(VecDeque::pop_front).unwrap_or(Fate::Ready)
    }

    /// What was not said to happen yet does not happen any more.
    pub(crate) fn calm(&self) {
        self.fates.lock().unwrap().clear();
    }

    pub(crate) fn things(&self) -> BTreeSet<String> {
        self.things.lock().unwrap().clone()
    }

    /// Ids that a method was called for, in order.
    pub(crate) fn calls(&self, phase: Phase, kind: &str) -> Vec<String> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|(p, k, _)| *p == phase && *k == kind).map(|(_, _, id)| id.clone()).collect()
    }

    /// The call of this number, from 0, of whatever method, stands still and is deaf to the cancelling.
    pub(crate) fn stop_at(&self, number: usize, gate: &Arc<Gate>) {
        *self.stop_at.lock().unwrap() = Some((number, Arc::clone(gate)));
    }

    pub(crate) fn count(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    /// Notes a call; the gate at which it stands still, if it does.
    pub(super) fn note(&self, phase: Phase, kind: &'static str, id: &str) -> Option<Arc<Gate>> {
        let mut calls = self.calls.lock().unwrap();
        calls.push((phase, kind, id.to_owned()));
        let stop_at = self.stop_at.lock().unwrap();
        stop_at.as_ref().filter(|(number, _)| calls.len() == *number + 1).map(|(_, gate)| Arc::clone(gate))
    }

    pub(super) fn put(&self, id: &str) {
        self.things.lock().unwrap().insert(id.to_owned());
    }

    pub(super) fn take_away(&self, id: &str) {
        self.things.lock().unwrap().remove(id);
    }
}
