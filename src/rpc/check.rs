//! What every request has to stand before the engine sees it: required fields, sizes, patience, request ids.

use std::time::Duration;

use prost::Message;
use sha2::{Digest as _, Sha256};

use super::convert::time;
use super::deadline::Deadline;
use crate::engine::RequestKey;
use crate::error::{Error, Reason, Result};
use crate::model::StringMap;

/// Longest that one call waits.
pub(crate) const MAX_WAIT: Duration = Duration::from_mins(10);
/// Longest request id, in characters.
const MAX_REQUEST_ID: usize = 128;
/// Longest id, name or type that a caller can mean, in bytes.
const MAX_WORD: usize = 256;
/// Longest comment, in bytes.
const MAX_COMMENT: usize = 1024;
/// Most attributes of one lease, and the longest key and value, in bytes.
const MAX_ATTRIBUTES: usize = 256;
const MAX_ATTRIBUTE_KEY: usize = 256;
const MAX_ATTRIBUTE: usize = 8192;

/// An id, a name or a type that must be there.
pub(crate) fn required<'a>(field: &str, value: &'a str) -> Result<&'a str> {
    if value.is_empty() {
        return Err(Error::invalid(format!("{field} is required")).with("field", field));
    }
    text(field, value, MAX_WORD)
}

/// A message that must be there.
pub(crate) fn present<T>(field: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Error::invalid(format!("{field} is required")).with("field", field))
}

/// A comment for the event log.
pub(crate) fn comment(value: &str) -> Result<&str> {
    text("comment", value, MAX_COMMENT)
}

/// A text without NUL, of at most `limit` bytes.
pub(crate) fn text<'a>(field: &str, value: &'a str, limit: usize) -> Result<&'a str> {
    if value.len() > limit {
        let message = format!("{field} is {} bytes long; at most {limit} are allowed", value.len());
        return Err(Error::invalid(message).with("field", field));
    }
    if value.contains('\0') {
        return Err(Error::invalid(format!("{field} has a NUL byte")).with("field", field));
    }
    Ok(value)
}

/// A field that only the server fills in, or that does nothing here: what has no effect is refused, not ignored.
pub(crate) fn unset(field: &str, is_set: bool, why: &str) -> Result<()> {
    if is_set { Err(Error::invalid(format!("{field} {why}; leave it out")).with("field", field)) } else { Ok(()) }
}

/// A whole number within bounds.
pub(crate) fn within(field: &str, value: i32, least: i32, most: i32) -> Result<i64> {
    if (least..=most).contains(&value) {
        return Ok(i64::from(value));
    }
    Err(Error::invalid(format!("{field} is {value}; it must be {least} to {most}")).with("field", field))
}

/// Sizes of lease attributes; their meaning is the blueprints' to check.
pub(crate) fn attributes(attributes: &StringMap) -> Result<()> {
    let wrong = |message: String| Err(Error::new(Reason::InvalidAttribute, message));
    if attributes.len() > MAX_ATTRIBUTES {
        return wrong(format!("attributes has {} entries; at most {MAX_ATTRIBUTES} are allowed", attributes.len()));
    }
    for (key, value) in attributes {
        if key.is_empty() || key.len() > MAX_ATTRIBUTE_KEY || key.contains('\0') {
            let message = "attributes has a key that is empty, has a NUL byte, or is longer than";
            return wrong(format!("{message} {MAX_ATTRIBUTE_KEY} bytes"));
        }
        if value.len() > MAX_ATTRIBUTE || value.contains('\0') {
            let message = format!("attributes[{key:?}] has a NUL byte or is longer than {MAX_ATTRIBUTE} bytes");
            return wrong(message);
        }
    }
    Ok(())
}

/// How long this call may wait: what it asks for (`default` when it does not say), at most 600 s, cut to the call's
/// deadline less a margin, so that the answer with the id still arrives.
pub(crate) fn patience(
    field: &str,
    asked: Option<&prost_types::Duration>,
    default: Duration,
    deadline: Option<&Deadline>,
) -> Result<Duration> {
    let wait = time::span(field, asked)?.unwrap_or(default);
    if wait > MAX_WAIT {
        let most = MAX_WAIT.as_secs();
        let message =
            format!("{field} is {} s; it must be 0 s to {most} s; wait again when it is over", wait.as_secs());
        return Err(Error::invalid(message).with("field", field));
    }
    Ok(deadline.map_or(wait, |deadline| wait.min(before(deadline.remaining()))))
}

/// What can be waited when the caller listens for `left`.
fn before(left: Duration) -> Duration {
    left.saturating_sub(Duration::from_secs(1).min(left / 10))
}

/// The deadline of a call, if it has one.
pub(crate) fn deadline<T>(request: &tonic::Request<T>) -> Option<Deadline> {
    request.extensions().get::<Deadline>().copied()
}

/// The key under which the answer to a request is kept, `None` when it has no id. `body` is the request with all fields
/// cleared that are not compared: `request_id`, and `wait` where there is one.
pub(crate) fn request_key(method: &'static str, request_id: &str, body: &impl Message) -> Result<Option<RequestKey>> {
    if request_id.is_empty() {
        return Ok(None);
    }
    let length = request_id.chars().count();
    if length > MAX_REQUEST_ID || request_id.chars().any(char::is_control) {
        let message = format!(
            "request_id has {length} characters, perhaps control characters; at most {MAX_REQUEST_ID} printable ones are allowed"
        );
        return Err(Error::invalid(message).with("field", "request_id"));
    }
    // Maps are ordered in these messages, so equal requests have equal bytes.
    let digest = Sha256::digest(body.encode_to_vec());
    let body = digest.iter().fold(String::with_capacity(64), |text, byte| text + &format!("{byte:02x}"));
    Ok(Some(RequestKey { method, request_id: request_id.to_owned(), body }))
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::proto::v1::AcquireLeaseRequest;

    fn seconds(seconds: i64) -> prost_types::Duration {
        prost_types::Duration { seconds, nanos: 0 }
    }

    fn wait(asked: i64, deadline: Option<Duration>) -> Result<Duration> {
        let deadline = deadline.map(|left| Deadline(Instant::now() + left));
        patience("wait", Some(&seconds(asked)), Duration::ZERO, deadline.as_ref())
    }

    #[test]
    fn patience_ends_before_the_caller_stops_listening() {
        assert_eq!(wait(600, None).unwrap(), MAX_WAIT);
        assert_eq!(wait(601, None).unwrap_err().reason, Reason::InvalidArgument);
        assert_eq!(wait(-1, None).unwrap_err().reason, Reason::InvalidArgument);
        assert_eq!(patience("wait", None, Duration::from_secs(9), None).unwrap(), Duration::from_secs(9));
        let long = wait(60, Some(Duration::from_secs(30))).unwrap();
        assert!(long > Duration::from_secs(28) && long <= Duration::from_secs(29), "{long:?}");
        assert_eq!(wait(60, Some(Duration::from_mins(20))).unwrap(), Duration::from_mins(1));
        assert_eq!(wait(60, Some(Duration::ZERO)).unwrap(), Duration::ZERO);
        assert_eq!(before(Duration::from_secs(2)), Duration::from_millis(1800));
    }

    #[test]
    fn equal_bodies_have_equal_keys_and_others_do_not() {
        let ask = |kind: &str| AcquireLeaseRequest { resource_type: kind.to_owned(), ..AcquireLeaseRequest::default() };
        let key = |id: &str, kind: &str| request_key("AcquireLease", id, &ask(kind)).unwrap();
        assert_eq!(key("", "host"), None);
        assert_eq!(key("a", "host"), key("a", "host"));
        assert_ne!(key("a", "host").unwrap().body, key("a", "port").unwrap().body);
        assert_eq!(key("a", "host").unwrap().body.len(), 64);
        for wrong in ["ä".repeat(129), "a\0".to_owned(), "a\n".to_owned()] {
            let error = request_key("AcquireLease", &wrong, &ask("host")).unwrap_err();
            assert_eq!(error.reason, Reason::InvalidArgument);
        }
        assert!(request_key("AcquireLease", &"ä".repeat(128), &ask("host")).is_ok());
    }

    #[test]
    fn what_is_missing_or_absurd_is_named() {
        for value in ["", "a\0b", &"x".repeat(257)] {
            let error = required("lease_id", value).unwrap_err();
            assert!(error.message.contains("lease_id") && error.reason == Reason::InvalidArgument, "{error}");
        }
        let big = StringMap::from([("k".to_owned(), "v".repeat(8193))]);
        let nul = StringMap::from([("k".to_owned(), "\0".to_owned())]);
        let many = (0..257).map(|number| (number.to_string(), String::new())).collect();
        for wrong in [big, nul, many, StringMap::from([(String::new(), String::new())])] {
            assert_eq!(attributes(&wrong).unwrap_err().reason, Reason::InvalidAttribute);
        }
    }
}
