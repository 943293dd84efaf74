//! Maps of strings: attributes, facts and labels, and the rules for the caller's labels.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// Attributes, facts or labels, in the order of their keys.
pub type StringMap = BTreeMap<String, String>;

/// Most labels on one object.
pub const MAX_LABELS: usize = 64;
/// Longest label value in bytes.
pub const MAX_LABEL_VALUE: usize = 256;

/// Keys are `[a-z0-9][a-z0-9_-]{0,62}`, values at most 256 bytes without NUL, at most 64 of them.
///
/// # Errors
/// `INVALID_ARGUMENT` that names `field` and the label at fault.
pub fn check_labels(field: &str, labels: &StringMap) -> Result<()> {
    if labels.len() > MAX_LABELS {
        return Err(Error::invalid(format!("{field} has {} entries; at most {MAX_LABELS} are allowed", labels.len())));
    }
    for (key, value) in labels {
        if !is_label_key(key) {
            return Err(Error::invalid(format!(
                "{field} has the key {key:?}; a key is [a-z0-9][a-z0-9_-]{{0,62}}, for example \"job\""
            )));
        }
        if value.len() > MAX_LABEL_VALUE || value.contains('\0') {
            return Err(Error::invalid(format!(
                "{field}.{key} is {} bytes long or has a NUL byte; at most {MAX_LABEL_VALUE} bytes without NUL are allowed",
                value.len()
            )));
        }
    }
    Ok(())
}

fn is_label_key(key: &str) -> bool {
    key.len() <= 63
        && key.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-')
}

/// Names of blueprints and registered boxes: `[a-z0-9][a-z0-9-]{0,62}`.
#[must_use]
pub fn is_name(name: &str) -> bool {
    is_label_key(name) && !name.contains('_')
}
