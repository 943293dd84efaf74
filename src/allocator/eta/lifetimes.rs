//! How long something lasts, from what ended and from what has only lasted so far: the product-limit estimate of Kaplan and
//! Meier. Beyond what was ever seen to end, ends come at the rate at which they came altogether.

use crate::clock::Micros;

/// A distribution of lifetimes.
#[derive(Debug, Default)]
pub(super) struct Lifetimes {
    /// At each end, the share that lasts longer; both fall or rise with the index.
    steps: Vec<(Micros, f64)>,
    /// Mean time from one end to the next, for a single one.
    mean: f64,
}

impl Lifetimes {
    /// Of lifetimes, the shortest first, and whether each has come to its end; each counts as often as its weight says.
    #[expect(clippy::cast_precision_loss, reason = "counts are small, and times need no more than 53 bits")]
    pub(super) fn of(lives: &[(Micros, bool)], weights: &[usize]) -> Self {
        let (mut left, mut share, mut ends, mut exposure) = (weights.iter().sum::<usize>(), 1.0, 0, 0.0);
        let mut steps = Vec::with_capacity(lives.len());
        for ((time, ended), weight) in lives.iter().zip(weights).filter(|(_, weight)| **weight > 0) {
            exposure += *time as f64 * *weight as f64;
            if *ended {
                share *= (left - weight) as f64 / left as f64;
                steps.push((*time, share));
                ends += weight;
            }
            left -= weight;
        }
        Self { steps, mean: exposure / ends.max(1) as f64 }
    }

    /// The share that lasts longer than this.
    fn lasting(&self, time: Micros) -> f64 {
        let seen = self.steps.partition_point(|(end, _)| *end <= time);
        seen.checked_sub(1).map_or(1.0, |last| self.steps[last].1)
    }

    /// A lifetime, given that it has lasted to `age`; `fraction` is drawn evenly between 0 and 1.
    #[expect(clippy::cast_possible_truncation, reason = "times of centuries still fit")]
    pub(super) fn draw(&self, age: Micros, fraction: f64) -> Micros {
        let lasting = self.lasting(age);
        let target = lasting * fraction;
        let beyond = |from: Micros, share: f64| from.saturating_add((-share.max(1e-9).ln() * self.mean) as Micros);
        if lasting <= 0.0 {
            return beyond(age, fraction);
        }
        let index = self.steps.partition_point(|(_, share)| *share > target);
        if let Some((time, _)) = self.steps.get(index) {
            return (*time).max(age);
        }
        let (last, share) = self.steps.last().copied().unwrap_or((0, 1.0));
        beyond(last.max(age), target / share.min(lasting))
    }

    /// The median; `None` when fewer than half have come to an end.
    pub(super) fn middle(&self) -> Option<Micros> {
        let index = self.steps.partition_point(|(_, share)| *share > 0.5);
        self.steps.get(index).map(|(time, _)| *time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_not_ended_counts() {
        let ended = Lifetimes::of(&[(10, true), (20, true), (30, true), (40, true)], &[1; 4]);
        assert_eq!((ended.middle(), ended.lasting(20)), (Some(20), 0.5));
        // Two have lasted 25 and more: the middle moves up.
        let lives = [(10, true), (20, true), (25, false), (30, true), (40, true), (50, false)];
        let both = Lifetimes::of(&lives, &[1; 6]);
        assert_eq!(both.middle(), Some(30));
        assert_eq!(Lifetimes::of(&lives, &[3, 0, 0, 0, 0, 1]).middle(), Some(10));
        assert_eq!(Lifetimes::of(&[(5, false), (9, false)], &[1; 2]).middle(), None);
    }

    #[test]
    fn a_drawn_lifetime_is_never_below_the_age() {
        let lives = Lifetimes::of(&[(10, true), (20, true), (30, true), (100, false)], &[1; 4]);
        for age in [0, 10, 15, 29, 30, 99, 100, 5000] {
            for fraction in [0.001, 0.3, 0.5, 0.9, 0.999] {
                assert!(lives.draw(age, fraction) >= age, "{age} {fraction}");
            }
        }
        assert_eq!((lives.draw(0, 0.99), lives.draw(0, 0.6), lives.draw(0, 0.26)), (10, 20, 30));
        assert!(lives.draw(0, 0.1) > 30);
    }
}
