//! Fair shares: whose turn it is when many owners want more than there is.
//!
//! Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996). Each lease that has to queue costs its owner [`COST`]
//! of virtual time, less when the owner's weight is greater. It is tagged with the time at which its owner's turn begins:
//! the owner's own virtual time, or that of the queue when the owner has asked for nothing lately. The queue's virtual
//! time is the tag that was served last. So whoever has asked for a hundred leases waits with the hundredth, not everybody
//! else with their first; and who comes back after a while has saved nothing up.

use std::collections::BTreeMap;

use crate::clock::Micros;

/// What a lease costs an owner of weight 1, in microseconds of virtual time. Priorities are a head start in the same time
/// (`task::head_start`, 6 s a point), so that one point passes one lease of such an owner, and 100 pass 120.
pub const COST: Micros = 5_000_000;
/// All owners together, in a line.
const TOGETHER: &str = "**";
/// A weight at most.
pub const MAX_WEIGHT: i64 = 1000;

/// When the turn of a lease begins, and when the next of the same owner does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// The tag of the lease, its head start aside.
    pub start: Micros,
    /// The owner's virtual time from now on.
    pub finish: Micros,
}

/// The turn of a new lease. `queue` is the virtual time of the queue, `owner` that of the owner, if there is one.
#[must_use]
pub fn turn(queue: Micros, owner: Option<Micros>, weight: i64) -> Turn {
    let start = owner.map_or(queue, |owner| owner.max(queue));
    Turn { start, finish: start + COST / weight.clamp(1, MAX_WEIGHT) }
}

/// Leases of one other owner that may be served before a lease although they came later, at most: what their head start
/// is worth in leases, and one that is being served. `behind` is how much less head start the waiting lease has, in
/// microseconds. The sum over the other owners with anything queued bounds how long a lease can be starved.
#[must_use]
pub fn may_pass(behind: Micros, weight: i64) -> i64 {
    let cost = COST / weight.clamp(1, MAX_WEIGHT);
    behind.max(0) / cost + 2
}

/// What an owner may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Of what is contended: an owner of weight 3 gets three leases where one of weight 1 gets one.
    pub weight: i64,
    /// Leases asked for by calls that hold or build something at once; the others queue. `None` is no limit.
    pub max_leases: Option<i64>,
    /// Leases asked for by calls that queue at once; one more is refused. `None` is no limit.
    pub max_queued: Option<i64>,
}

impl Default for Share {
    fn default() -> Self {
        Self { weight: 1, max_leases: None, max_queued: None }
    }
}

/// What each owner may have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shares {
    /// Leases asked for by calls that hold or build something at once, of all owners together. `None` is no limit.
    pub together: Option<i64>,
    others: Share,
    by_owner: BTreeMap<String, Share>,
}

impl Shares {
    /// Of this owner.
    #[must_use]
    pub fn of(&self, owner: &str) -> Share {
        self.by_owner.get(owner).copied().unwrap_or(self.others)
    }

    /// Reads lines of `OWNER [weight=N] [max_leases=N] [max_queued=N]`; the owner `*` is everybody who has no line. What a
    /// line does not say is as for everybody. `** max_leases=N` is for all owners together.
    ///
    /// # Errors
    /// Which line cannot be, and why.
    pub fn parse(lines: &[impl AsRef<str>]) -> Result<Self, String> {
        let mut shares = Self::default();
        for everybody in [true, false] {
            for line in lines {
                let line = line.as_ref();
                let mut words = line.split_whitespace();
                let owner = words.next().ok_or("an empty line; write OWNER weight=N max_leases=N max_queued=N")?;
                if owner == TOGETHER {
                    if everybody {
                        shares.together = Some(together(words).map_err(|why| format!("{line:?}: {why}"))?);
                    }
                    continue;
                }
                if (owner == "*") != everybody {
                    continue;
                }
                let mut share = shares.others;
                for word in words {
                    set(&mut share, word).map_err(|why| format!("{line:?}: {why}"))?;
                }
                if everybody {
                    shares.others = share;
                } else if shares.by_owner.insert(owner.to_owned(), share).is_some() {
                    return Err(format!("{owner:?} has two lines; write one"));
                }
            }
        }
        Ok(shares)
    }
}

fn together<'w>(words: impl Iterator<Item = &'w str>) -> Result<i64, String> {
    let mut share = Share::default();
    for word in words {
        set(&mut share, word)?;
    }
    match share {
        Share { weight: 1, max_leases: Some(limit), max_queued: None } => Ok(limit),
        _ => Err(format!("for {TOGETHER}, all owners together, there is max_leases=N and nothing else")),
    }
}

fn set(share: &mut Share, word: &str) -> Result<(), String> {
    let known = "weight, max_leases and max_queued";
    let (key, value) = word.split_once('=').ok_or_else(|| format!("{word:?} is no KEY=NUMBER; there are {known}"))?;
    let number: i64 = value.parse().map_err(|_| format!("{word:?} is no number"))?;
    let within = |least: i64, most: i64| {
        if (least..=most).contains(&number) { Ok(number) } else { Err(format!("{word:?} must be {least} to {most}")) }
    };
    match key {
        "weight" => share.weight = within(1, MAX_WEIGHT)?,
        "max_leases" => share.max_leases = Some(within(1, 1_000_000)?),
        "max_queued" => share.max_queued = Some(within(1, 1_000_000)?),
        _ => return Err(format!("{key:?} is no key; there are {known}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::task::head_start;

    /// Serves what the owners of these weights ask for without end, each `outstanding` at a time; how often each was served.
    fn serve(weights: &[i64], outstanding: usize, times: usize) -> Vec<usize> {
        let mut queue = Vec::new();
        let (mut clock, mut owners, mut served) = (0, vec![None; weights.len()], vec![0; weights.len()]);
        let mut number = 0;
        let mut ask = |owner: usize, clock: Micros, owners: &mut Vec<Option<Micros>>, queue: &mut Vec<_>| {
            let turn = turn(clock, owners[owner], weights[owner]);
            owners[owner] = Some(turn.finish);
            number += 1;
            queue.push((turn.start, number, owner));
        };
        for owner in (0..weights.len()).flat_map(|owner| std::iter::repeat_n(owner, outstanding)) {
            ask(owner, clock, &mut owners, &mut queue);
        }
        for _ in 0..times {
            let best = queue.iter().copied().min().unwrap();
            queue.retain(|one| *one != best);
            let (start, _, owner) = best;
            clock = clock.max(start);
            served[owner] += 1;
            ask(owner, clock, &mut owners, &mut queue);
        }
        served
    }

    #[test]
    fn who_weighs_three_times_as_much_gets_three_times_as_much() {
        assert_eq!(serve(&[1, 3], 8, 400), [100, 300]);
        let served = serve(&[1, 1, 2], 5, 400);
        assert_eq!(served, [100, 100, 200]);
    }

    #[test]
    fn who_comes_later_neither_waits_for_the_others_queue_nor_has_saved_anything_up() {
        // The first has a hundred in the queue, and ten of them have been served.
        let mut owner = None;
        let tags: Vec<_> = (0..100)
            .map(|_| {
                let turn = turn(0, owner, 1);
                owner = Some(turn.finish);
                turn.start
            })
            .collect();
        let newcomer = turn(tags[9], None, 1).start;
        assert_eq!(tags.iter().filter(|tag| **tag < newcomer).count(), 9, "only what was served goes before it");
        let returning = turn(tags[9], Some(-COST * 1000), 1).start;
        assert_eq!(returning, newcomer);
    }

    #[test]
    fn no_more_than_the_bound_passes_a_lease_of_low_priority() {
        for (weight, low, high) in [(1, -100, 100), (3, -100, 100), (1000, 0, 1), (7, -50, 50)] {
            let behind = head_start(high) - head_start(low);
            let waiting = turn(0, None, 1).start - head_start(low);
            let (mut clock, mut owner, mut passed) = (0, None, 0);
            loop {
                let turn = turn(clock, owner, weight);
                owner = Some(turn.finish);
                if turn.start - head_start(high) > waiting {
                    break;
                }
                clock = clock.max(turn.start);
                passed += 1;
            }
            assert!(passed <= may_pass(behind, weight), "{passed} passed, with {weight} {low} {high}");
            assert!(passed + 3 > may_pass(behind, weight), "the bound is close: {passed}, with {weight} {low} {high}");
        }
    }

    #[test]
    fn lines_are_read_whatever_their_order() {
        let lines = ["ci weight=3", "* max_leases=20 max_queued=100", "** max_leases=200", "ops max_leases=50"];
        let shares = Shares::parse(&lines).unwrap();
        assert_eq!(shares.together, Some(200));
        assert_eq!(shares.of("ci"), Share { weight: 3, max_leases: Some(20), max_queued: Some(100) });
        assert_eq!(shares.of("ops").max_leases, Some(50));
        assert_eq!(shares.of("anybody"), Share { weight: 1, max_leases: Some(20), max_queued: Some(100) });
    }

    #[test]
    fn lines_that_cannot_be_are_named() {
        for (line, why) in [
            ("", "an empty line"),
            ("ci weight", "\"weight\" is no KEY=NUMBER"),
            ("ci weight=x", "is no number"),
            ("ci weight=0", "must be 1 to 1000"),
            ("ci size=3", "\"size\" is no key"),
            ("** weight=2", "nothing else"),
            ("** max_leases=2 max_queued=3", "nothing else"),
        ] {
            let said = Shares::parse(&[line]).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        assert!(Shares::parse(&["ci", "ci weight=2"]).unwrap_err().contains("two lines"));
    }
}
