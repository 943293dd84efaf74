//! Times and durations: microseconds inside, seconds and nanoseconds outside.

use std::time::Duration;

use crate::clock::Micros;
use crate::error::{Error, Result};

/// Longest span that is taken: ten years. What is longer is a slip.
const LONGEST: Duration = Duration::from_hours(10 * 365 * 24);

/// A time as the API shows it.
pub(crate) fn timestamp(micros: Micros) -> prost_types::Timestamp {
    let nanos = i32::try_from(micros.rem_euclid(1_000_000) * 1000).unwrap_or(0);
    prost_types::Timestamp { seconds: micros.div_euclid(1_000_000), nanos }
}

/// A span as the API shows it; what is negative is zero.
pub(crate) fn duration(micros: Micros) -> prost_types::Duration {
    let micros = micros.max(0);
    let nanos = i32::try_from(micros % 1_000_000 * 1000).unwrap_or(0);
    prost_types::Duration { seconds: micros / 1_000_000, nanos }
}

/// A span that a caller sent, zero or longer, whole microseconds; what is finer is cut off.
///
/// # Errors
/// `INVALID_ARGUMENT` that names the field.
pub(crate) fn span(field: &str, sent: Option<&prost_types::Duration>) -> Result<Option<Duration>> {
    let Some(sent) = sent else { return Ok(None) };
    let wrong = |what: &str| Error::invalid(format!("{field} {what}")).with("field", field);
    if sent.seconds < 0 || sent.nanos < 0 {
        return Err(wrong("is negative; it must be 0s or longer"));
    }
    let nanos = u32::try_from(sent.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    let nanos = nanos.ok_or_else(|| wrong("is malformed: nanos must be below 1000000000"))?;
    let span = Duration::new(sent.seconds.unsigned_abs(), nanos / 1000 * 1000);
    if span > LONGEST {
        return Err(wrong("is longer than ten years; durations are seconds, as in \"3600s\""));
    }
    Ok(Some(span))
}

/// A span that a caller sent, longer than zero.
///
/// # Errors
/// `INVALID_ARGUMENT` that names the field.
pub(crate) fn positive(field: &str, sent: Option<&prost_types::Duration>) -> Result<Option<Duration>> {
    match span(field, sent)? {
        Some(Duration::ZERO) => {
            Err(Error::invalid(format!("{field} is 0; it must be longer, as in \"3600s\"")).with("field", field))
        }
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn sent(seconds: i64, nanos: i32) -> prost_types::Duration {
        prost_types::Duration { seconds, nanos }
    }

    #[test]
    fn times_keep_their_microseconds() {
        assert_eq!(timestamp(1_500_000), prost_types::Timestamp { seconds: 1, nanos: 500_000_000 });
        assert_eq!(timestamp(-1), prost_types::Timestamp { seconds: -1, nanos: 999_999_000 });
        assert_eq!(duration(90_000_001), sent(90, 1000));
        assert_eq!(duration(-5), sent(0, 0));
        let back = span("ttl", Some(&duration(90_000_001))).unwrap().unwrap();
        assert_eq!(clock::micros(back), 90_000_001);
    }

    #[test]
    fn spans_that_cannot_be_are_refused_by_name() {
        assert_eq!(span("ttl", None).unwrap(), None);
        assert_eq!(span("ttl", Some(&sent(0, 0))).unwrap(), Some(Duration::ZERO));
        for wrong in [sent(-1, 0), sent(0, -1), sent(1, 1_000_000_000), sent(i64::MAX, 0), sent(i64::MIN, i32::MIN)] {
            assert!(span("ttl", Some(&wrong)).unwrap_err().message.starts_with("ttl "), "{wrong:?}");
        }
        for wrong in [sent(0, 0), sent(0, 999)] {
            assert!(positive("ttl", Some(&wrong)).is_err(), "{wrong:?}");
        }
    }
}
