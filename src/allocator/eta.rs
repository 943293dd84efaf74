//! When a lease that waits will be ACTIVE: a median, a time by which 90 of 100 such leases are, and what that rests on.
//!
//! Pure: what happened lately goes in, an estimate comes out, the same for the same input. How long places are held is
//! estimated from leases that gave theirs back and from those that have not yet (the product-limit estimate: leaving the
//! latter out would make long leases look short). The queue is then played forward many times: each place is held for a drawn
//! rest of its time, the next in the queue takes the first that is free. Less than five of something is no basis: then the
//! answer is "unknown".

mod draw;
mod lifetimes;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::clock::{Micros, span};
use crate::model::id::BlueprintId;
use crate::model::pool::{Held, Turn};
use draw::Draw;
use lifetimes::Lifetimes;

/// Fewer are no basis.
pub const FEWEST: usize = 5;
/// The queue is played forward so often, less often when it is long.
const PLAYS: usize = 100;
/// Turns that are played altogether, so that an estimate takes milliseconds.
const TURNS: usize = 100_000;
/// Positions that are played; those behind are in proportion.
const POSITIONS: usize = 2048;
/// Of 100 plays, so many come to what half of the leases keep, and what 90 of 100 do. A queue forms when places are held longer
/// than they were before, so what was seen says a little less than what comes. Found by simulated days.
const PLAYED: (usize, usize) = (56, 94);

/// An estimate, from now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eta {
    /// Half of such leases are ACTIVE by then, microseconds.
    pub p50: Micros,
    /// 90 of 100 are.
    pub p90: Micros,
    /// What it rests on, one line.
    pub basis: String,
}

/// Estimates for all positions of a queue.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Forecast {
    /// By position, from the first.
    by_position: Vec<(Micros, Micros)>,
    basis: String,
}

impl Forecast {
    /// For this position, 1 is next; as of when the forecast was made.
    #[must_use]
    pub fn at(&self, position: usize) -> Option<Eta> {
        let position = position.max(1);
        let known = self.by_position.get(position - 1).copied();
        let (p50, p90) = known.or_else(|| {
            let (p50, p90) = *self.by_position.last()?;
            let times = |micros: Micros| scale(micros, position, self.by_position.len());
            Some((times(p50), times(p90)))
        })?;
        Some(Eta { p50, p90, basis: self.basis.clone() })
    }
}

fn scale(micros: Micros, of: usize, by: usize) -> Micros {
    let scaled = i128::from(micros) * of as i128 / by.max(1) as i128;
    Micros::try_from(scaled).unwrap_or(Micros::MAX)
}

/// Plays the queue of a pool forward: `turns` were served lately, `held` have a place now, `waiting` queue.
#[must_use]
pub fn queue(now: Micros, turns: &[Turn], held: &[Held], waiting: usize) -> Option<Forecast> {
    let ended = turns.iter().filter(|turn| turn.gone.is_some()).count();
    if ended < FEWEST || held.is_empty() {
        return None;
    }
    let mut lives: Vec<(Micros, bool)> = turns
        .iter()
        .map(|turn| match turn.gone {
            Some(gone) => ((gone - turn.began()).max(0), true),
            None => ((now - turn.began()).max(0), false),
        })
        .collect();
    lives.sort_unstable();
    let leads: Vec<Micros> = turns.iter().map(|turn| (turn.active - turn.began()).max(0)).collect();
    let waiting = waiting.clamp(1, POSITIONS);
    let plays = (TURNS / (waiting + held.len())).clamp(40, PLAYS);
    let mut starts: Vec<Vec<Micros>> = vec![Vec::with_capacity(plays); waiting];
    for number in 0..plays {
        let mut draw = Draw::new(number as u64);
        // Drawn anew from what was seen, since that is itself but a sample: few leases make a wide estimate.
        let mut weights = vec![0; lives.len()];
        for _ in 0..lives.len() {
            weights[draw.below(lives.len())] += 1;
        }
        let holding = Lifetimes::of(&lives, &weights);
        let mut free: BinaryHeap<Reverse<Micros>> =
            held.iter().map(|held| Reverse(rest(now, held, &holding, &mut draw))).collect();
        for at in &mut starts {
            let Some(Reverse(start)) = free.pop() else { break };
            at.push(start.saturating_add(draw.one_of(&leads)));
            free.push(Reverse(start.saturating_add(holding.draw(0, draw.fraction()))));
        }
    }
    let by_position = starts.iter_mut().map(|at| (quantile(at, PLAYED.0), quantile(at, PLAYED.1))).collect();
    let basis = format!(
        "{} of {} recent leases of this type have ended, after {} in the middle; {} {} in use now, and whoever comes later waits behind",
        ended,
        turns.len(),
        Lifetimes::of(&lives, &vec![1; lives.len()]).middle().map_or_else(|| "an unknown time".to_owned(), spell),
        held.len(),
        if held.len() == 1 { "place is" } else { "places are" },
    );
    Some(Forecast { by_position, basis })
}

/// How long a place is still held.
fn rest(now: Micros, held: &Held, holding: &Lifetimes, draw: &mut Draw) -> Micros {
    let age = (now - held.since).max(0);
    let drawn = holding.draw(age, draw.fraction()) - age;
    held.ends.map_or(drawn, |ends| drawn.min((ends - now).max(0))).max(0)
}

/// For a lease whose resource has been in the making for `elapsed`, by this blueprint.
#[must_use]
pub fn build(turns: &[Turn], blueprint: &BlueprintId, name: &str, elapsed: Micros) -> Option<Eta> {
    let took = turns
        .iter()
        .filter(|turn| turn.blueprint == *blueprint)
        .filter_map(|turn| Some(turn.active - turn.built?))
        .collect();
    remaining(took, elapsed, &format!("recent builds by {name}"))
}

/// For a lease that has its place by this blueprint, and has been set up there for `elapsed`.
#[must_use]
pub fn set_up(turns: &[Turn], blueprint: &BlueprintId, name: &str, elapsed: Micros) -> Option<Eta> {
    let took =
        turns.iter().filter(|turn| turn.blueprint == *blueprint).map(|turn| turn.active - turn.acquired).collect();
    remaining(took, elapsed, &format!("leases set up lately by {name}"))
}

/// What is left of something that took so long before, when so much has passed already.
fn remaining(mut took: Vec<Micros>, elapsed: Micros, what: &str) -> Option<Eta> {
    if took.len() < FEWEST {
        return None;
    }
    for took in &mut took {
        *took = (*took).max(0);
    }
    let count = took.len();
    let (middle, most) = (quantile(&mut took.clone(), 50), quantile(&mut took, 90));
    let mut left: Vec<Micros> = took.iter().filter(|took| **took > elapsed).map(|took| took - elapsed).collect();
    let so_far = if elapsed > 0 { format!("; this one has taken {} so far", spell(elapsed)) } else { String::new() };
    let basis =
        format!("{count} {what} took {} in the middle, 90 of 100 within {}{so_far}", spell(middle), spell(most));
    // Longer than all before: nothing is known but that it is late.
    if left.is_empty() {
        return None;
    }
    Some(Eta { p50: quantile(&mut left, 50), p90: quantile(&mut left, 90), basis })
}

/// The smallest value that so many of 100 do not exceed; 0 of nothing.
fn quantile(values: &mut [Micros], percent: usize) -> Micros {
    values.sort_unstable();
    let place = (values.len() * percent).div_ceil(100).saturating_sub(1);
    values.get(place).copied().unwrap_or(0)
}

/// As people say it.
fn spell(micros: Micros) -> String {
    let seconds = span(micros).as_secs_f64();
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests;
