//! The words of the command line: durations, `key=value` pairs, the lease that `@` stands for.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::exit::{Failure, Result};
use crate::model::kind::parse_span;

/// The variable that `@` reads.
pub const LEASE_ID: &str = "DRYDOCK_LEASE_ID";

/// Reads `90s`, `5m`, `1h`, `250ms`, `30d`.
///
/// # Errors
/// What is wrong and what would be right.
pub fn duration(text: &str) -> Result<Duration, String> {
    parse_span(text).ok_or_else(|| format!("{text:?} is not a duration such as 90s, 5m or 1h"))
}

/// A span as people write it, two units at most: `1h30m`, `1m30s`, `2.5s`, `250ms`.
#[must_use]
pub fn spell(span: Duration) -> String {
    if span < Duration::from_secs(1) {
        return format!("{}ms", span.as_millis());
    }
    if span < Duration::from_mins(1) {
        let text = format!("{:.1}", span.as_secs_f64());
        return format!("{}s", text.strip_suffix(".0").unwrap_or(&text));
    }
    let mut left = u64::try_from(span.as_millis()).unwrap_or(u64::MAX) / 1000 * 1000;
    let mut text = String::new();
    let mut parts = 0;
    for (unit, factor) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if left >= factor && parts < 2 {
            let _ = write!(text, "{}{unit}", left / factor);
            left %= factor;
            parts += 1;
        } else if parts > 0 {
            break;
        }
    }
    text
}

/// An estimate to the second: more would be a promise.
#[must_use]
pub fn rounded(span: Duration) -> Duration {
    let whole = Duration::from_secs(span.as_secs() + u64::from(span.subsec_millis() >= 500));
    if whole.is_zero() { span } else { whole }
}

/// Reads `key=value`; the value may be empty and may hold further `=`.
///
/// # Errors
/// What is wrong.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not of the form key=value")),
    }
}

/// Pairs as a map; a key that is there twice is a slip.
///
/// # Errors
/// Exit code 64.
pub fn map(flag: &str, pairs: &[(String, String)]) -> Result<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    for (key, value) in pairs {
        if map.insert(key.clone(), value.clone()).is_some() {
            return Err(Failure::usage(format!("{flag} {key} is there twice")));
        }
    }
    Ok(map)
}

/// A lease id; `@` is the one in `DRYDOCK_LEASE_ID`.
///
/// # Errors
/// Exit code 64 when that is not set.
pub fn lease(word: &str) -> Result<String> {
    if word != "@" {
        return Ok(word.to_owned());
    }
    std::env::var(LEASE_ID)
        .ok()
        .filter(|id| !id.is_empty())
        .ok_or_else(|| Failure::usage(format!("@ stands for the lease in {LEASE_ID}, which is not set")))
}

/// A duration for a message.
#[must_use]
pub fn proto(span: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or(0),
    }
}

/// A message's duration; what is negative is zero.
#[must_use]
pub fn span(duration: &prost_types::Duration) -> Duration {
    Duration::new(u64::try_from(duration.seconds).unwrap_or(0), u32::try_from(duration.nanos).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!((duration("90s"), duration("5m")), (Ok(Duration::from_secs(90)), Ok(Duration::from_mins(5))));
        for text in ["", "90", "h", "5 m", "-1s", "1y", "1.5h", "99999999999999999999s", "s5"] {
            assert!(duration(text).unwrap_err().contains("90s"), "{text}");
        }
    }

    #[test]
    fn durations_are_spelled_short() {
        let cases = [
            (0, "0ms"),
            (250, "250ms"),
            (2_000, "2s"),
            (2_540, "2.5s"),
            (90_000, "1m30s"),
            (3_600_000, "1h"),
            (90_061_000, "1d1h"),
        ];
        for (millis, text) in cases {
            assert_eq!(spell(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn pairs_keep_what_follows_the_first_equals_sign() {
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(pair("a="), Ok(("a".to_owned(), String::new())));
        assert!(pair("a").is_err() && pair("=b").is_err());
        let twice = [("a".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())];
        assert_eq!(map("--attr", &twice).unwrap_err().code, 64);
    }
}
