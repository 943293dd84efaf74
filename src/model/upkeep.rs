//! How resources are kept: how long without a lease, how many ready ahead of demand, and when building pauses.

use std::fmt;
use std::time::Duration;

use super::StringMap;
use crate::clock::{Micros, micros};

/// What a blueprint says of its resources beside how many there may be. `None` and 0 are the defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Upkeep {
    /// How long an unused resource is kept, microseconds; `None` is the kind's default.
    pub idle_ttl: Option<Micros>,
    /// An older one takes no new leases, and goes when it is unused; microseconds since it became ACTIVE.
    pub max_age: Option<Micros>,
    /// Leases that one serves in its life.
    pub max_uses: Option<i64>,
    /// Kept ready for anybody, built or being built.
    pub min_ready: i64,
    /// Kept ready beyond those in use.
    pub scale_ahead: Option<ScaleAhead>,
    /// At most so many by `scale_ahead`.
    pub scale_ahead_max: Option<i64>,
    /// How long fewer must be wanted before fewer are kept, microseconds; `None` is [`SHRINK_DELAY`].
    pub shrink_delay: Option<Micros>,
    /// Builds that the pool begins within a minute.
    pub max_growth: Option<i64>,
    /// Attributes that those kept ready are made with.
    pub ready_attributes: StringMap,
}

/// 5 min: a short lull takes nothing down.
pub const SHRINK_DELAY: Micros = 300_000_000;
/// The span that `max_growth` counts in.
pub const GROWTH_SPAN: Micros = 60_000_000;

/// How many are kept ready beyond those in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ScaleAhead {
    /// So many, while any is in use.
    Count(i64),
    /// Of those in use, rounded up.
    Percent(i64),
}

impl ScaleAhead {
    /// Reads `3` or `50%`; `None` for anything else, for 0, and for more than 1000000 or 1000 %.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (digits, percent) = text.strip_suffix('%').map_or((text, false), |digits| (digits, true));
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number: i64 = digits.parse().ok().filter(|number| plain && *number > 0)?;
        if percent {
            (number <= 1000).then_some(Self::Percent(number))
        } else {
            (number <= 1_000_000).then_some(Self::Count(number))
        }
    }
}

impl fmt::Display for ScaleAhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl From<ScaleAhead> for String {
    fn from(ahead: ScaleAhead) -> Self {
        ahead.to_string()
    }
}

impl TryFrom<String> for ScaleAhead {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("{text:?} must be a count such as 3 or a percentage such as 50%"))
    }
}

impl Upkeep {
    /// Whether resources are built ahead of demand.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        self.min_ready > 0 || self.scale_ahead.is_some()
    }

    /// How many are to be ready while so many are in use.
    #[must_use]
    pub fn wanted(&self, used: i64) -> i64 {
        let ahead = match self.scale_ahead {
            None => 0,
            Some(ScaleAhead::Count(count)) => count.min(used.saturating_mul(i64::MAX)),
            Some(ScaleAhead::Percent(percent)) => {
                used.saturating_mul(percent).saturating_add(99).checked_div(100).unwrap_or(0)
            }
        };
        self.min_ready.max(ahead.min(self.scale_ahead_max.unwrap_or(i64::MAX)))
    }
}

/// What was wanted lately, so that a lull takes nothing down, and when builds were begun.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Warmth {
    /// As of the last look.
    pub want: i64,
    /// More was wanted before, and until when; always less and less.
    pub past: Vec<(i64, Micros)>,
    /// When the pool began builds, within the last [`GROWTH_SPAN`].
    pub begun: Vec<Micros>,
}

impl Warmth {
    /// Notes what is wanted from `now` on; the most that was wanted within `delay`.
    pub fn note(&mut self, want: i64, now: Micros, delay: Micros) -> i64 {
        if want < self.want {
            self.past.push((self.want, now));
        }
        self.want = want;
        self.past.retain(|(past, until)| *past > want && until.saturating_add(delay) > now);
        self.begun.retain(|at| at.saturating_add(GROWTH_SPAN) > now);
        self.kept()
    }

    /// The most that was wanted, as of the last note.
    #[must_use]
    pub fn kept(&self) -> i64 {
        self.past.iter().map(|(past, _)| *past).max().unwrap_or(0).max(self.want)
    }

    /// When the most that was wanted stops counting.
    #[must_use]
    pub fn changes(&self, delay: Micros) -> Option<Micros> {
        self.past.iter().map(|(_, until)| until.saturating_add(delay)).min()
    }
}

/// Builds that fail in a row pause a blueprint; after the pause one is tried, and the rest waits for how that goes.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Breaker {
    /// Failed builds in a row.
    pub failures: i64,
    /// Pauses in a row; each is twice as long as the one before.
    pub trips: i64,
    /// Nothing is built before; `None` while all is well.
    pub until: Option<Micros>,
    /// The one that is tried after the pause.
    pub probe: Option<String>,
    /// Of the last failure.
    pub error: String,
}

/// Builds that fail in a row before a blueprint pauses.
pub const BREAKING: i64 = 3;
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_mins(15);

impl Breaker {
    /// Whether it is paused, or about to try one.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.until.is_some()
    }

    /// Whether nothing may be built now.
    #[must_use]
    pub fn pauses(&self, now: Micros) -> bool {
        self.until.is_some_and(|until| until > now)
    }

    /// One more build of `resource` has failed; whether the blueprint pauses from now on. `dice` is 0..1.
    pub fn fail(&mut self, resource: &str, error: &str, now: Micros, dice: f64) -> bool {
        self.failures += 1;
        error.clone_into(&mut self.error);
        let probed = self.is_open() && !self.pauses(now);
        if self.probe.as_deref() == Some(resource) {
            self.probe = None;
        }
        let trips = probed || (!self.is_open() && self.failures >= BREAKING);
        if trips {
            self.until = Some(now.saturating_add(micros(pause(self.trips, dice))));
            self.trips += 1;
        }
        trips
    }
}

/// 10 s doubled with each pause before, give or take a tenth, at most 15 minutes.
#[must_use]
pub fn pause(trips: i64, dice: f64) -> Duration {
    let exponent = u32::try_from(trips.clamp(0, 20)).unwrap_or(20);
    let plain = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(exponent)).min(LONGEST_PAUSE);
    plain.mul_f64(0.9 + 0.2 * dice.clamp(0.0, 1.0)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_or_a_percentage_is_read_and_written() {
        assert_eq!(ScaleAhead::parse("3"), Some(ScaleAhead::Count(3)));
        assert_eq!(ScaleAhead::parse("50%"), Some(ScaleAhead::Percent(50)));
        for wrong in ["", "%", "0", "0%", "-1", "+1", "1.5", "1001%", "a", "3 %", "1000001"] {
            assert_eq!(ScaleAhead::parse(wrong), None, "{wrong}");
        }
        assert_eq!(ScaleAhead::Percent(50).to_string(), "50%");
    }

    #[test]
    fn what_is_wanted_grows_with_what_is_used() {
        let with = |scale_ahead, max, min_ready| Upkeep {
            scale_ahead: ScaleAhead::parse(scale_ahead),
            scale_ahead_max: max,
            min_ready,
            ..Upkeep::default()
        };
        assert_eq!(with("", None, 2).wanted(100), 2);
        assert_eq!((with("3", None, 0).wanted(0), with("3", None, 0).wanted(1)), (0, 3));
        assert_eq!((with("50%", None, 0).wanted(3), with("50%", Some(4), 1).wanted(100)), (2, 4));
        assert_eq!(with("50%", None, 1).wanted(0), 1);
    }

    #[test]
    fn fewer_are_kept_only_when_fewer_were_wanted_for_a_while() {
        let mut warmth = Warmth::default();
        assert_eq!(warmth.note(5, 0, 100), 5);
        assert_eq!(warmth.note(2, 10, 100), 5);
        assert_eq!(warmth.note(3, 50, 100), 5);
        assert_eq!(warmth.changes(100), Some(110));
        assert_eq!(warmth.note(1, 60, 100), 5);
        assert_eq!(warmth.note(1, 109, 100), 5);
        assert_eq!(warmth.note(1, 110, 100), 3);
        assert_eq!(warmth.note(1, 160, 100), 1);
        assert_eq!((warmth.changes(100), warmth.past.len()), (None, 0));
        assert_eq!(warmth.note(9, 161, 100), 9, "more at once");
    }

    #[test]
    fn pauses_double_up_to_a_quarter_of_an_hour() {
        let seconds: Vec<u64> = (0..9).map(|trips| pause(trips, 0.5).as_secs()).collect();
        assert_eq!(seconds, [10, 20, 40, 80, 160, 320, 640, 900, 900]);
        let mut breaker = Breaker::default();
        assert!(!breaker.fail("a", "x", 0, 0.5) && !breaker.fail("a", "x", 0, 0.5) && breaker.fail("a", "x", 0, 0.5));
        assert!(!breaker.fail("b", "x", 5_000_000, 0.5), "begun before the pause");
        assert_eq!(breaker.until, Some(10_000_000));
        breaker.probe = Some("c".to_owned());
        assert!(breaker.fail("c", "y", 11_000_000, 0.5), "the probe");
        assert_eq!((breaker.until, breaker.probe, breaker.error.as_str()), (Some(31_000_000), None, "y"));
    }
}
