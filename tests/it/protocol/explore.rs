//! The checker: breadth first through every state a [`Model`] can reach, so that the first finding has a shortest trace.
//!
//! Three things count as broken: a state that is wrong in itself (a step committed twice, a slot held twice, a worker asleep
//! beside a ready task), a state with no way on except a further fault, and a state from which the end cannot be reached
//! without one. Faults (a kill, the expiry of a live claim) lead to new states like any other transition, but progress must
//! never need them.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::model::{Model, Next};
use super::state::{Broken, State};

/// More states than this means that a bound of the model is missing, not that the protocol is large.
const CEILING: usize = 2_000_000;

/// Folds a packed state with two multiplications: the standard hasher, unoptimised, would be half of the running time.
#[derive(Default)]
struct Fold(u64);

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 29);
    }

    fn write_u128(&mut self, word: u128) {
        self.write(&word.to_le_bytes());
    }
}

/// What was found wrong first, and a shortest way to it.
#[derive(Debug)]
pub(super) struct Finding {
    /// The kind of violation.
    pub(super) broken: Broken,
    /// One line per transition from the start. States are kept with their workers sorted, so a worker's number may change
    /// from one line to the next.
    pub(super) trace: Vec<String>,
}

/// What an exploration saw.
#[derive(Debug)]
pub(super) struct Report {
    /// Distinct states, up to the renaming of workers.
    pub(super) states: usize,
    /// The first violation, or `None` if the whole space is sound.
    pub(super) finding: Option<Finding>,
    /// Most claims any run needed to reach the end.
    pub(super) most_claims: u32,
}

/// States seen so far, each with the one it was first reached from.
struct Seen {
    index: HashMap<u128, usize, BuildHasherDefault<Fold>>,
    states: Vec<u128>,
    parents: Vec<usize>,
}

impl Seen {
    /// The number of a packed state, which is `parent`'s child if it is new.
    fn number(&mut self, packed: u128, parent: usize) -> usize {
        let fresh = self.states.len();
        let at = *self.index.entry(packed).or_insert(fresh);
        if at == fresh {
            self.states.push(packed);
            self.parents.push(parent);
        }
        at
    }

    /// The transitions from the start to `end`, found again by asking each parent for the child.
    fn trace(&self, model: &Model, end: usize, last: Option<&Next>) -> Vec<String> {
        let mut lines: Vec<String> = last.iter().map(|next| next.label.to_string()).collect();
        let mut at = end;
        let mut out = Vec::new();
        while at != 0 {
            let from = self.parents[at];
            out.clear();
            model.successors(&State::unpack(self.states[from]), &mut out);
            let step = out.iter().find(|next| model.pack(&next.state) == self.states[at]);
            lines.push(step.map_or_else(|| "?".to_owned(), |next| next.label.to_string()));
            at = from;
        }
        lines.reverse();
        lines
    }
}

/// Walks the whole space of `model`, or up to the first violation.
pub(super) fn explore(model: &Model) -> Report {
    let mut seen = Seen { index: HashMap::default(), states: Vec::new(), parents: Vec::new() };
    seen.number(model.pack(&model.start()), 0);
    let mut edges: Vec<(usize, usize)> = Vec::new();
    let mut ends: Vec<usize> = Vec::new();
    let mut most_claims = 0;
    let mut out = Vec::new();
    let mut at = 0;
    while at < seen.states.len() {
        let state = State::unpack(seen.states[at]);
        let finished = model.finished(&state);
        if finished {
            ends.push(at);
            most_claims = most_claims.max(state.claims());
        }
        if model.idles(&state) {
            return found(model, &seen, at, None, Broken::Idle);
        }
        out.clear();
        model.successors(&state, &mut out);
        if !finished && out.iter().all(|next| next.fault) {
            return found(model, &seen, at, None, Broken::Stuck);
        }
        for next in &out {
            if let Some(broken) = next.state.broken {
                return found(model, &seen, at, Some(next), broken);
            }
            let to = seen.number(model.pack(&next.state), at);
            if !next.fault && to != at {
                edges.push((to, at));
            }
        }
        at += 1;
        assert!(at < CEILING, "the model has no bound: {CEILING} states and more");
    }
    match cut_off(seen.states.len(), &edges, ends) {
        Some(lost) => found(model, &seen, lost, None, Broken::NeverDone),
        None => Report { states: seen.states.len(), finding: None, most_claims },
    }
}

fn found(model: &Model, seen: &Seen, at: usize, last: Option<&Next>, broken: Broken) -> Report {
    let finding = Some(Finding { broken, trace: seen.trace(model, at, last) });
    Report { states: seen.states.len(), finding, most_claims: 0 }
}

/// The first state from which none of `ends` can be reached, given every edge as (to, from).
fn cut_off(states: usize, edges: &[(usize, usize)], ends: Vec<usize>) -> Option<usize> {
    let mut first = vec![0_usize; states + 1];
    for &(to, _) in edges {
        first[to + 1] += 1;
    }
    for i in 0..states {
        first[i + 1] += first[i];
    }
    let mut cursor = first.clone();
    let mut from = vec![0_usize; edges.len()];
    for &(to, source) in edges {
        from[cursor[to]] = source;
        cursor[to] += 1;
    }
    let mut good = vec![false; states];
    let mut open = ends;
    for &end in &open {
        good[end] = true;
    }
    while let Some(to) = open.pop() {
        for &source in &from[first[to]..first[to + 1]] {
            if !good[source] {
                good[source] = true;
                open.push(source);
            }
        }
    }
    good.iter().position(|reaches| !reaches)
}

#[test]
fn what_only_goes_in_circles_is_cut_off() {
    let edges = [(1, 0), (2, 0), (3, 2), (2, 3)];
    assert_eq!(cut_off(4, &edges, vec![1]), Some(2));
    assert_eq!(cut_off(4, &edges, vec![1, 3]), None);
}
