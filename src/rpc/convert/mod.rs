//! The model in the words of the API, and back.

pub(crate) mod blueprint;
pub(crate) mod event;
pub(crate) mod json;
pub(crate) mod lease;
pub(crate) mod resource;
pub(crate) mod task;
pub(crate) mod time;

/// A count for a 32-bit field.
fn count(number: i64) -> i32 {
    i32::try_from(number).unwrap_or(if number < 0 { i32::MIN } else { i32::MAX })
}
