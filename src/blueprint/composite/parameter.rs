//! Parameters of a composite: the attributes of its leases.

use serde_json::Value;

use crate::blueprint::complaint::{Complaints, join};
use crate::model::kind::{parse_size, parse_span};

/// What may be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameter {
    of: Type,
    /// `None` when it must be given.
    pub(super) default: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Type {
    Text,
    Integer,
    Bool,
    Size,
    Span,
    Choice(Vec<String>),
}

impl Parameter {
    /// Reads `{type: string, default: main}`.
    pub(super) fn read(path: &str, value: &Value, complaints: &mut Complaints) -> Option<Self> {
        let object = complaints.object(path, value, &["type", "default", "choices", "about"])?;
        if let Some(about) = object.get("about") {
            complaints.text(&join(path, "about"), about);
        }
        let choices = object.get("choices").map(|value| complaints.texts(&join(path, "choices"), value));
        let of = match (object.get("type").map_or(Some("string"), Value::as_str), choices) {
            (Some("choice"), Some(choices)) if !choices.is_empty() => Type::Choice(choices),
            (Some("choice"), _) => {
                complaints.add(path, "a choice needs \"choices\", a list of texts");
                return None;
            }
            (Some(_), Some(_)) => {
                complaints.add(&join(path, "choices"), "only a parameter of type choice has choices");
                return None;
            }
            (Some("string"), None) => Type::Text,
            (Some("integer"), None) => Type::Integer,
            (Some("bool"), None) => Type::Bool,
            (Some("size"), None) => Type::Size,
            (Some("span"), None) => Type::Span,
            (_, None) => {
                complaints.add(&join(path, "type"), "must be string, integer, bool, choice, size or span");
                return None;
            }
            (None, Some(_)) => {
                complaints.add(&join(path, "type"), "must be a text");
                return None;
            }
        };
        let default = object.get("default").and_then(|value| complaints.scalar(&join(path, "default"), value));
        let parameter = Self { of, default };
        if let Some(Err(why)) = parameter.default.as_deref().map(|default| parameter.check(default)) {
            complaints.add(&join(path, "default"), why);
        }
        Some(parameter)
    }

    /// Checks a value.
    ///
    /// # Errors
    /// What it must be.
    pub(super) fn check(&self, value: &str) -> Result<(), String> {
        let (fits, wanted) = match &self.of {
            Type::Text => (!value.contains('\0'), "text without NUL".to_owned()),
            Type::Integer => (value.parse::<i64>().is_ok(), "a whole number".to_owned()),
            Type::Bool => (matches!(value, "true" | "false"), "true or false".to_owned()),
            Type::Size => (parse_size(value).is_some(), "a size such as 10GiB".to_owned()),
            Type::Span => (parse_span(value).is_some(), "a span such as 90s".to_owned()),
            Type::Choice(words) => (words.iter().any(|word| word == value), format!("one of {}", words.join(", "))),
        };
        if fits { Ok(()) } else { Err(format!("{value:?} must be {wanted}")) }
    }
}
