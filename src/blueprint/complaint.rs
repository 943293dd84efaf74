//! Reading nested configuration so that every complaint names its place, and all of them come at once.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::model::StringMap;
use crate::model::kind::parse_span;

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// For example `config.steps[0].part`; empty is the whole.
    pub path: String,
    /// One line.
    pub message: String,
}

/// What was found wrong so far.
#[derive(Debug, Default)]
pub struct Complaints {
    list: Vec<Complaint>,
}

impl Complaints {
    /// One more.
    pub fn add(&mut self, path: &str, message: impl Into<String>) {
        self.list.push(Complaint { path: path.to_owned(), message: message.into() });
    }

    /// All of them.
    #[must_use]
    pub fn into_list(self) -> Vec<Complaint> {
        self.list
    }

    /// Nothing to complain of, or an error with everything.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`.
    pub fn finish(self) -> Result<()> {
        if self.list.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = self.list.iter().map(|one| format!("{}: {}", one.path, one.message)).collect();
        Err(Error::invalid(lines.join("; ")))
    }

    /// An object with any keys.
    pub fn map<'a>(&mut self, path: &str, value: &'a Value) -> Option<&'a Map<String, Value>> {
        if value.is_object() {
            return value.as_object();
        }
        self.add(path, "must be a map");
        None
    }

    /// An object with only these keys.
    pub fn object<'a>(&mut self, path: &str, value: &'a Value, known: &[&str]) -> Option<&'a Map<String, Value>> {
        let object = self.map(path, value)?;
        for key in object.keys().filter(|key| !known.contains(&key.as_str())) {
            let near =
                known.iter().max_by(|a, b| strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key)));
            let hint = match near {
                Some(near) if strsim::jaro_winkler(near, key) > 0.8 => format!("did you mean {near:?}?"),
                _ => format!("known are {}", known.join(", ")),
            };
            self.add(&join(path, key), format!("unknown key, {hint}"));
        }
        Some(object)
    }

    /// A text.
    pub fn text(&mut self, path: &str, value: &Value) -> Option<String> {
        match value {
            Value::String(text) if text.contains('\0') => self.add(path, "must not hold NUL"),
            Value::String(text) => return Some(text.clone()),
            _ => self.add(path, "must be a text"),
        }
        None
    }

    /// The text under a key that must be there.
    pub fn required(&mut self, path: &str, object: &Map<String, Value>, key: &str) -> Option<String> {
        if let Some(value) = object.get(key) {
            return self.text(&join(path, key), value);
        }
        self.add(path, format!("{key:?} is missing"));
        None
    }

    /// A text; numbers and truth values are taken as they are written.
    pub fn scalar(&mut self, path: &str, value: &Value) -> Option<String> {
        match value {
            Value::Bool(truth) => Some(truth.to_string()),
            Value::Number(number) => Some(number.to_string()),
            Value::String(_) => self.text(path, value),
            _ => {
                self.add(path, "must be a text, a number or a truth value");
                None
            }
        }
    }

    /// A list of texts.
    pub fn texts(&mut self, path: &str, value: &Value) -> Vec<String> {
        let Value::Array(items) = value else {
            self.add(path, "must be a list of texts");
            return Vec::new();
        };
        items.iter().enumerate().filter_map(|(at, item)| self.scalar(&format!("{path}[{at}]"), item)).collect()
    }

    /// A map of texts.
    pub fn string_map(&mut self, path: &str, value: &Value) -> StringMap {
        let Some(map) = self.map(path, value) else { return StringMap::new() };
        map.iter().filter_map(|(key, value)| Some((key.clone(), self.scalar(&join(path, key), value)?))).collect()
    }

    /// A span such as `90s`.
    pub fn span(&mut self, path: &str, value: &Value) -> Option<Duration> {
        let span = value.as_str().and_then(parse_span);
        if span.is_none() {
            self.add(path, "must be a span such as 90s, 5m or 1h");
        }
        span
    }

    /// A whole number of at least `least`.
    pub fn whole(&mut self, path: &str, value: &Value, least: i64) -> Option<i64> {
        let number = value.as_i64().filter(|number| (least..=i64::from(i32::MAX)).contains(number));
        if number.is_none() {
            self.add(path, format!("must be a whole number of at least {least}"));
        }
        number
    }

    /// true or false.
    pub fn truth(&mut self, path: &str, value: &Value) -> Option<bool> {
        if !value.is_boolean() {
            self.add(path, "must be true or false");
        }
        value.as_bool()
    }
}

/// The path of a key below `path`.
#[must_use]
pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
