//! What a blueprint kind says of itself, as data: from these declarations come validation, JSON Schemas and help.

use crate::error::{Error, Reason, Result};
use serde_json::{Map, Value, json};

/// The type of a field's value. Lease attributes are strings that must read as this type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldType {
    /// Any text without NUL.
    Text,
    /// A whole number within bounds.
    Integer {
        /// Least.
        min: i64,
        /// Most.
        max: i64,
    },
    /// `true` or `false`.
    Bool,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A size such as `10GiB`, `512MiB`, `1000`.
    Size,
    /// A span such as `90s`, `5m`, `1h`.
    Span,
    /// The id of a lease of the same owner.
    Lease,
    /// A list of texts (blueprint configuration only).
    Texts,
}

/// One field of a kind's configuration or of its leases' attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its key. A key that ends in `.*` stands for many, for example `repository.*`.
    pub name: &'static str,
    /// What it holds.
    pub of: FieldType,
    /// Must be given.
    pub required: bool,
    /// One sentence.
    pub about: &'static str,
}

impl Field {
    /// An optional field.
    #[must_use]
    pub const fn optional(name: &'static str, of: FieldType, about: &'static str) -> Self {
        Self { name, of, required: false, about }
    }

    /// A field that must be given.
    #[must_use]
    pub const fn required(name: &'static str, of: FieldType, about: &'static str) -> Self {
        Self { name, of, required: true, about }
    }

    /// Whether `key` is this field.
    #[must_use]
    pub fn matches(&self, key: &str) -> bool {
        match self.name.strip_suffix('*') {
            Some(stem) => key.strip_prefix(stem).is_some_and(|rest| !rest.is_empty()),
            None => self.name == key,
        }
    }
}

/// What a kind makes and takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Kind {
    /// For example `working-copy`.
    pub kind: &'static str,
    /// What it makes; a composite's depends on its document.
    pub resource_type: &'static str,
    /// Interfaces it offers.
    pub interfaces: &'static [&'static str],
    /// Resource types it leases itself.
    pub needs: &'static [&'static str],
    /// Fields of the configuration.
    pub config: &'static [Field],
    /// Fields of lease attributes.
    pub attributes: &'static [Field],
    /// Leases on one resource at once, unless the blueprint says.
    pub leases_per_resource: i64,
    /// Live resources at most, unless the blueprint says; `None` is no limit.
    pub max_resources: Option<i64>,
    /// Rank among blueprints, unless the blueprint says.
    pub rank: i64,
    /// Stays when nobody leases it; else it dies with its last lease.
    pub stays: bool,
    /// Reused only for leases with equal attributes; hosts take any.
    pub reused_by_attributes: bool,
    /// Has nothing to set up per lease: such a lease goes from the queue to ACTIVE in one commit.
    pub instant: bool,
    /// Fields of what is registered by hand. Such a kind builds nothing by itself: it has what an admin registers. `None`
    /// takes nothing by hand.
    pub registration: Option<&'static [Field]>,
}

impl Kind {
    /// Whether its resources are registered by hand.
    #[must_use]
    pub const fn is_registered(&self) -> bool {
        self.registration.is_some()
    }
}

/// Checks strings against `fields`: unknown keys, missing ones and malformed values.
///
/// # Errors
/// `INVALID_ATTRIBUTE` with every complaint, separated by `; `.
pub fn check_attributes(fields: &[Field], attributes: &super::StringMap) -> Result<()> {
    let mut complaints = Vec::new();
    for (key, value) in attributes {
        match fields.iter().find(|field| field.matches(key)) {
            None => complaints.push(format!("unknown attribute {key:?}{}", suggestion(fields, key))),
            Some(field) => complaints.extend(check_text(field, key, value).err()),
        }
    }
    for field in fields.iter().filter(|field| field.required) {
        if !attributes.keys().any(|key| field.matches(key)) {
            complaints.push(format!("attribute {:?} is missing: {}", field.name, field.about));
        }
    }
    if complaints.is_empty() { Ok(()) } else { Err(Error::new(Reason::InvalidAttribute, complaints.join("; "))) }
}

fn suggestion(fields: &[Field], key: &str) -> String {
    let best = fields
        .iter()
        .map(|field| (strsim::jaro_winkler(field.name, key), field.name))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((score, name)) if score > 0.8 => format!(", did you mean {name:?}?"),
        _ if fields.is_empty() => ", this kind takes none".to_owned(),
        _ => format!(", known are {}", fields.iter().map(|field| field.name).collect::<Vec<_>>().join(", ")),
    }
}

fn check_text(field: &Field, key: &str, value: &str) -> Result<(), String> {
    let wrong = |wanted: &str| Err(format!("attribute {key:?} is {value:?}, but must be {wanted}"));
    if value.contains('\0') {
        return Err(format!("attribute {key:?} has a NUL byte"));
    }
    if value.len() > 8192 {
        return Err(format!("attribute {key:?} is {} bytes long; at most 8192 are allowed", value.len()));
    }
    match field.of {
        FieldType::Text | FieldType::Texts => Ok(()),
        FieldType::Integer { min, max } => match value.parse::<i64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(()),
            _ => wrong(&format!("a whole number from {min} to {max}")),
        },
        FieldType::Bool if matches!(value, "true" | "false") => Ok(()),
        FieldType::Bool => wrong("true or false"),
        FieldType::Choice(words) if words.contains(&value) => Ok(()),
        FieldType::Choice(words) => wrong(&format!("one of {}", words.join(", "))),
        FieldType::Size => parse_size(value).map_or_else(|| wrong("a size such as 10GiB or 512MiB"), |_| Ok(())),
        FieldType::Span => parse_span(value).map_or_else(|| wrong("a span such as 90s, 5m or 1h"), |_| Ok(())),
        FieldType::Lease => {
            super::id::LeaseId::parse(value).map_or_else(|| wrong("the id of a lease (lease_…)"), |_| Ok(()))
        }
    }
}

/// Checks a blueprint's configuration, an object, against `fields`.
///
/// # Errors
/// `INVALID_ARGUMENT` with every complaint, separated by `; `.
pub fn check_config(fields: &[Field], config: &Value) -> Result<()> {
    let Some(object) = config.as_object() else {
        return Err(Error::invalid("config must be an object"));
    };
    let mut complaints = Vec::new();
    for (key, value) in object {
        let Some(field) = fields.iter().find(|field| field.matches(key)) else {
            complaints.push(format!("unknown config key {key:?}{}", suggestion(fields, key)));
            continue;
        };
        let checked = match (field.of, value) {
            (FieldType::Texts, Value::Array(items)) if items.iter().all(Value::is_string) => Ok(()),
            (FieldType::Texts, _) => Err(format!("config {key:?} must be a list of texts")),
            (_, Value::String(text)) => check_text(field, key, text),
            (FieldType::Integer { .. } | FieldType::Size, Value::Number(number)) => match number.as_f64() {
                #[expect(clippy::cast_possible_truncation, reason = "a whole number in the range of i64 was checked")]
                Some(float) if float.fract() == 0.0 && float.abs() < 9e15 => {
                    check_text(field, key, &(float as i64).to_string())
                }
                _ => Err(format!("config {key:?} must be a whole number")),
            },
            (FieldType::Bool, Value::Bool(_)) => Ok(()),
            _ => Err(format!("config {key:?} has the wrong type")),
        };
        complaints.extend(checked.err());
    }
    for field in fields.iter().filter(|field| field.required && !object.keys().any(|key| field.matches(key))) {
        complaints.push(format!("config {:?} is missing: {}", field.name, field.about));
    }
    if complaints.is_empty() { Ok(()) } else { Err(Error::invalid(complaints.join("; "))) }
}

/// The JSON Schema of an object with these fields; `strings` when all values are strings (lease attributes).
#[must_use]
pub fn json_schema(fields: &[Field], strings: bool) -> Value {
    let mut properties = Map::new();
    let mut patterns = Map::new();
    for field in fields {
        let mut schema = match field.of {
            FieldType::Integer { min, max } if !strings => json!({"type": "integer", "minimum": min, "maximum": max}),
            FieldType::Integer { .. } => json!({"type": "string", "pattern": "^-?[0-9]+$"}),
            FieldType::Bool if !strings => json!({"type": "boolean"}),
            FieldType::Bool => json!({"type": "string", "enum": ["true", "false"]}),
            FieldType::Choice(words) => json!({"type": "string", "enum": words}),
            FieldType::Size => json!({"type": "string", "pattern": "^[0-9]+([KMGT]i?B|B)?$"}),
            FieldType::Span => json!({"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$"}),
            FieldType::Lease => json!({"type": "string", "pattern": "^lease_[0-9a-z]{26}$"}),
            FieldType::Texts => json!({"type": "array", "items": {"type": "string"}}),
            FieldType::Text => json!({"type": "string"}),
        };
        schema["description"] = Value::from(field.about);
        match field.name.strip_suffix('*') {
            Some(stem) => patterns.insert(format!("^{}.+$", stem.replace('.', "\\.")), schema),
            None => properties.insert(field.name.to_owned(), schema),
        };
    }
    let required: Vec<&str> =
        fields.iter().filter(|field| field.required && !field.name.ends_with('*')).map(|field| field.name).collect();
    let mut schema = json!({"type": "object", "additionalProperties": false, "properties": properties});
    if !patterns.is_empty() {
        schema["patternProperties"] = Value::Object(patterns);
    }
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// Reads a size: digits and an optional unit (B, KB, KiB, MB, MiB, GB, GiB, TB, TiB). Bytes.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1_u64 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// Reads a span of the command line and of documents: `250ms`, `90s`, `5m`, `1h`, `7d`.
#[must_use]
pub fn parse_span(text: &str) -> Option<std::time::Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let millis = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis).map(std::time::Duration::from_millis)
}
