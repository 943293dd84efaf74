//! How each object of the API is shown.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use prost_types::{Struct, Timestamp, Value, value::Kind};

use super::output::{List, Object};
use super::words;
use crate::clock::{self, Micros};
use crate::proto::v1;

macro_rules! lists {
    ($($response:ident { $field:ident: $item:ident }),+ $(,)?) => {
        $(impl List for v1::$response {
            const MESSAGE: &'static str = stringify!($response);
            type Item = v1::$item;

            fn items(&self) -> &[Self::Item] {
                &self.$field
            }
        })+
    };
}

lists! {
    ListLeasesResponse { leases: Lease },
    ListResourcesResponse { resources: Resource },
    ListBlueprintsResponse { blueprints: Blueprint },
    ListBlueprintKindsResponse { kinds: BlueprintKind },
    ListEventsResponse { events: Event },
    ListTasksResponse { tasks: Task },
    ListDaemonsResponse { daemons: Daemon },
    ListDirectoryResponse { entries: FileEntry },
}

/// `STATE_ACTIVE` is shown as `ACTIVE`.
#[must_use]
pub fn state(name: &'static str) -> String {
    name.strip_prefix("STATE_").unwrap_or(name).to_owned()
}

/// Microseconds since the epoch.
#[must_use]
pub fn micros(time: &Timestamp) -> Micros {
    time.seconds.saturating_mul(1_000_000).saturating_add(i64::from(time.nanos) / 1000)
}

/// How long ago, or until then when it lies ahead.
fn distance(time: Option<&Timestamp>, now: Micros) -> String {
    // Tenths of seconds say nothing in a list.
    let seconds = time.map(|time| clock::span((now - micros(time)).abs()).as_secs());
    seconds
        .map(|seconds| if seconds == 0 { "0s".to_owned() } else { words::spell(Duration::from_secs(seconds)) })
        .unwrap_or_default()
}

/// RFC 3339.
#[must_use]
pub fn time(time: Option<&Timestamp>) -> String {
    time.map(ToString::to_string).unwrap_or_default()
}

fn span(span: Option<&prost_types::Duration>) -> String {
    span.map(|span| words::spell(words::span(span))).unwrap_or_default()
}

fn pairs(map: &BTreeMap<String, String>, between: &str) -> String {
    map.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(between)
}

fn reason(reason: &str, message: &str) -> String {
    [reason, message].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
}

/// What a lease waits for, in one line.
#[must_use]
pub fn waiting(waiting: &v1::Waiting) -> String {
    let mut text = reason(&waiting.reason, &waiting.message);
    if let Some(position) = waiting.queue_position {
        let _ = write!(text, ", position {position}");
    }
    if let Some(eta) = &waiting.eta {
        let _ = write!(text, ", about {}", words::spell(words::span(eta)));
    }
    if !waiting.blocked_by.is_empty() {
        let _ = write!(text, ", blocked by {}", waiting.blocked_by.join(", "));
    }
    text
}

impl Object for v1::Lease {
    const MESSAGE: &'static str = "Lease";
    const HEADS: &'static [&'static str] =
        &["LEASE", "TYPE", "STATE", "REASON", "RESOURCE", "AGE", "EXPIRES", "LABELS"];

    fn name(&self) -> String {
        self.id.clone()
    }

    fn cells(&self, now: Micros) -> Vec<String> {
        let why = self.waiting.as_ref().map_or(&self.state_reason, |waiting| &waiting.reason);
        let ended = self.end_time.is_some();
        vec![
            self.id.clone(),
            self.resource_type.clone(),
            state(self.state().as_str_name()),
            why.clone(),
            self.resource_id.clone(),
            distance(self.create_time.as_ref(), now),
            if ended { String::new() } else { distance(self.expire_time.as_ref(), now) },
            pairs(&self.labels, ","),
        ]
    }

    fn fields(&self, _now: Micros) -> Vec<(&'static str, String)> {
        let receipt = self.receipt.as_ref().map(|receipt| {
            format!(
                "waited {}, built {}, used {}",
                span(receipt.waited.as_ref()),
                span(receipt.built.as_ref()),
                span(receipt.used.as_ref())
            )
        });
        vec![
            ("lease", self.id.clone()),
            ("type", self.resource_type.clone()),
            ("state", state(self.state().as_str_name())),
            ("reason", reason(&self.state_reason, &self.state_message)),
            ("waiting", self.waiting.as_ref().map(waiting).unwrap_or_default()),
            ("attributes", pairs(&self.attributes, "\n")),
            ("facts", pairs(&self.facts, "\n")),
            ("labels", pairs(&self.labels, "\n")),
            ("owner", self.owner.clone()),
            ("resource", self.resource_id.clone()),
            ("blueprint", self.blueprint_id.clone()),
            ("parent", self.parent_resource_id.clone()),
            ("root", if self.root_lease_id == self.id { String::new() } else { self.root_lease_id.clone() }),
            ("interfaces", self.interfaces.join(", ")),
            ("priority", if self.priority == 0 { String::new() } else { self.priority.to_string() }),
            ("ttl", span(self.ttl.as_ref())),
            ("created", time(self.create_time.as_ref())),
            (
                "gives up",
                if self.active_time.is_some() { String::new() } else { time(self.queue_expire_time.as_ref()) },
            ),
            ("active", time(self.active_time.as_ref())),
            ("expires", time(self.expire_time.as_ref())),
            ("ended", time(self.end_time.as_ref())),
            ("destroyed", time(self.destroy_time.as_ref())),
            ("receipt", receipt.unwrap_or_default()),
        ]
    }
}

impl Object for v1::Resource {
    const MESSAGE: &'static str = "Resource";
    const HEADS: &'static [&'static str] =
        &["RESOURCE", "NAME", "TYPE", "STATE", "BLUEPRINT", "LEASES", "AGE", "PROBLEM"];

    fn name(&self) -> String {
        self.id.clone()
    }

    fn cells(&self, now: Micros) -> Vec<String> {
        let draining = if self.drain.is_some() { "draining" } else { "" };
        // The problem may say it already, and more.
        let stuck = if self.cleanup_failures > 0 && !self.problem.contains("clean-up failed") {
            format!("clean-up failed {} times", self.cleanup_failures)
        } else {
            String::new()
        };
        let problems = [draining, &stuck, &self.problem, &self.state_reason];
        vec![
            self.id.clone(),
            self.name.clone(),
            self.resource_type.clone(),
            state(self.state().as_str_name()),
            self.blueprint_id.clone(),
            format!("{}/{}", self.lease_count, self.lease_limit),
            distance(self.create_time.as_ref(), now),
            problems.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", "),
        ]
    }

    fn fields(&self, _now: Micros) -> Vec<(&'static str, String)> {
        let diagnostics =
            self.diagnostics.as_ref().map(json).filter(|it| it.as_object().is_some_and(|it| !it.is_empty()));
        let drain = self.drain.as_ref().map(|drain| format!("by {} {}", drain.actor, drain.comment).trim().to_owned());
        vec![
            ("resource", self.id.clone()),
            ("name", self.name.clone()),
            ("type", self.resource_type.clone()),
            ("state", state(self.state().as_str_name())),
            ("reason", reason(&self.state_reason, &self.state_message)),
            ("blueprint", self.blueprint_id.clone()),
            ("leases", format!("{} of {}", self.lease_count, self.lease_limit)),
            ("facts", pairs(&self.facts, "\n")),
            ("labels", pairs(&self.labels, "\n")),
            ("attributes", pairs(&self.attributes, "\n")),
            ("drained", drain.unwrap_or_default()),
            ("problem", self.problem.clone()),
            (
                "clean-up failures",
                if self.cleanup_failures == 0 { String::new() } else { self.cleanup_failures.to_string() },
            ),
            ("diagnostics", diagnostics.map(|it| format!("{it:#}")).unwrap_or_default()),
            ("etag", self.etag.clone()),
            ("created", time(self.create_time.as_ref())),
            ("checked", time(self.check_time.as_ref())),
        ]
    }
}

impl Object for v1::Blueprint {
    const MESSAGE: &'static str = "Blueprint";
    const HEADS: &'static [&'static str] = &["NAME", "KIND", "TYPE", "ENABLED", "LIMITS", "BLUEPRINT", "PROBLEM"];

    fn name(&self) -> String {
        self.id.clone()
    }

    fn cells(&self, _now: Micros) -> Vec<String> {
        vec![
            self.name.clone(),
            self.kind.clone(),
            self.resource_type.clone(),
            if self.enabled { "yes" } else { "no" }.to_owned(),
            self.limits.as_ref().map(limits).unwrap_or_default().join(" "),
            self.id.clone(),
            self.problem.clone(),
        ]
    }

    fn fields(&self, _now: Micros) -> Vec<(&'static str, String)> {
        let config =
            self.config.as_ref().map(json).filter(|config| config.as_object().is_some_and(|it| !it.is_empty()));
        vec![
            ("blueprint", self.id.clone()),
            ("name", self.name.clone()),
            ("kind", self.kind.clone()),
            ("type", self.resource_type.clone()),
            ("enabled", if self.enabled { "yes" } else { "no" }.to_owned()),
            ("labels", pairs(&self.labels, "\n")),
            ("limits", self.limits.as_ref().map(limits).unwrap_or_default().join("\n")),
            ("config", config.map(|config| format!("{config:#}")).unwrap_or_default()),
            ("problem", self.problem.clone()),
            ("etag", self.etag.clone()),
            ("created", time(self.create_time.as_ref())),
            ("updated", time(self.update_time.as_ref())),
        ]
    }
}

fn limits(limits: &v1::BlueprintLimits) -> Vec<String> {
    let mut words = Vec::new();
    let mut say = |name: &str, value: String| {
        if !value.is_empty() {
            words.push(format!("{name}={value}"));
        }
    };
    let number = |number: Option<i32>| number.map(|it| it.to_string()).unwrap_or_default();
    say("max_resources", number(limits.max_resources));
    say("leases_per_resource", number(limits.leases_per_resource));
    say("default_ttl", span(limits.default_ttl.as_ref()));
    say("max_ttl", span(limits.max_ttl.as_ref()));
    if limits.placement() == v1::blueprint_limits::Placement::Spread {
        say("placement", "spread".to_owned());
    }
    say("rank", if limits.rank == 0 { String::new() } else { limits.rank.to_string() });
    say("shared", if limits.shared { "true".to_owned() } else { String::new() });
    words
}

impl Object for v1::BlueprintKind {
    const MESSAGE: &'static str = "BlueprintKind";
    const HEADS: &'static [&'static str] = &["KIND", "MAKES", "INTERFACES", "NEEDS", "ATTRIBUTES"];

    fn name(&self) -> String {
        self.kind.clone()
    }

    fn cells(&self, _now: Micros) -> Vec<String> {
        let schema = self.attributes_schema.as_ref().map(json);
        let properties = schema.as_ref().and_then(|schema| schema.get("properties")).and_then(|it| it.as_object());
        let names = properties.map(|it| it.keys().cloned().collect::<Vec<_>>().join(",")).unwrap_or_default();
        vec![self.kind.clone(), self.resource_type.clone(), self.interfaces.join(","), self.needs.join(","), names]
    }
}

impl Object for v1::Event {
    const MESSAGE: &'static str = "Event";
    const HEADS: &'static [&'static str] = &["TIME", "TYPE", "SUBJECT", "REASON", "MESSAGE"];

    fn name(&self) -> String {
        self.id.clone()
    }

    fn cells(&self, _now: Micros) -> Vec<String> {
        vec![
            time(self.time.as_ref()),
            self.r#type.clone(),
            self.subject_ids.first().cloned().unwrap_or_default(),
            self.reason.clone(),
            self.message.clone(),
        ]
    }
}

impl Object for v1::Task {
    const MESSAGE: &'static str = "Task";
    const HEADS: &'static [&'static str] = &["TASK", "SUBJECT", "STATE", "ATTEMPTS", "WAITS FOR", "LAST ERROR"];

    fn name(&self) -> String {
        self.id.clone()
    }

    fn cells(&self, _now: Micros) -> Vec<String> {
        vec![
            self.id.clone(),
            self.subject_id.clone(),
            state(self.state().as_str_name()),
            self.attempts.to_string(),
            self.waits_for.join(","),
            self.last_error.clone(),
        ]
    }
}

impl Object for v1::Daemon {
    const MESSAGE: &'static str = "Daemon";
    const HEADS: &'static [&'static str] = &["DAEMON", "VERSION", "MACHINE", "UP", "SEEN", "CLAIMS", "DRAINING"];

    fn name(&self) -> String {
        self.id.clone()
    }

    fn cells(&self, now: Micros) -> Vec<String> {
        vec![
            self.id.clone(),
            self.version.clone(),
            self.machine.clone(),
            distance(self.start_time.as_ref(), now),
            distance(self.seen_time.as_ref(), now),
            self.claims.to_string(),
            if self.draining { "yes" } else { "no" }.to_owned(),
        ]
    }
}

impl Object for v1::FileEntry {
    const MESSAGE: &'static str = "FileEntry";
    const HEADS: &'static [&'static str] = &["MODE", "SIZE", "MODIFIED", "PATH"];

    fn name(&self) -> String {
        self.path.clone()
    }

    fn cells(&self, _now: Micros) -> Vec<String> {
        use v1::file_entry::Type;
        let letter = match self.r#type() {
            Type::Directory => 'd',
            Type::Symlink => 'l',
            Type::File => '-',
            Type::Other | Type::Unspecified => '?',
        };
        let bits =
            (0..9_usize).map(|place| if self.mode >> (8 - place) & 1 == 1 { b"rwx"[place % 3] as char } else { '-' });
        let target =
            if self.symlink_target.is_empty() { String::new() } else { format!(" -> {}", self.symlink_target) };
        vec![
            std::iter::once(letter).chain(bits).collect(),
            self.size.to_string(),
            time(self.modify_time.as_ref().map(|it| Timestamp { nanos: 0, ..*it }).as_ref()),
            format!("{}{target}", if self.path.is_empty() { "." } else { &self.path }),
        ]
    }
}

impl Object for v1::Httpd {
    const MESSAGE: &'static str = "Httpd";
    const HEADS: &'static [&'static str] = &["driver", "running", "pid", "listens on"];

    fn name(&self) -> String {
        self.driver.clone()
    }

    fn cells(&self, _now: Micros) -> Vec<String> {
        vec![
            format!("{} {}", self.driver, self.version).trim().to_owned(),
            if self.running { "yes" } else { "no" }.to_owned(),
            if self.pid == 0 { String::new() } else { self.pid.to_string() },
            self.listen_addresses.join(", "),
        ]
    }
}

/// A `Struct` as JSON, whole numbers without a point.
#[must_use]
pub fn json(object: &Struct) -> serde_json::Value {
    serde_json::Value::Object(object.fields.iter().map(|(name, value)| (name.clone(), json_value(value))).collect())
}

fn json_value(value: &Value) -> serde_json::Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(on)) => (*on).into(),
        #[expect(clippy::cast_possible_truncation, reason = "checked to be a whole number that a double holds exactly")]
        Some(Kind::NumberValue(number)) if number.fract() == 0.0 && number.abs() < 9e15 => (*number as i64).into(),
        Some(Kind::NumberValue(number)) => (*number).into(),
        Some(Kind::StringValue(text)) => text.clone().into(),
        Some(Kind::StructValue(object)) => json(object),
        Some(Kind::ListValue(list)) => list.values.iter().map(json_value).collect(),
    }
}

/// JSON as a `Struct`; anything but an object becomes an empty one.
#[must_use]
pub fn proto(value: &serde_json::Value) -> Struct {
    let fields = value.as_object().map(|object| {
        object.iter().map(|(name, value)| (name.clone(), proto_value(value))).collect::<BTreeMap<_, _>>()
    });
    Struct { fields: fields.unwrap_or_default() }
}

fn proto_value(value: &serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(on) => Kind::BoolValue(*on),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        serde_json::Value::String(text) => Kind::StringValue(text.clone()),
        serde_json::Value::Array(list) => {
            Kind::ListValue(prost_types::ListValue { values: list.iter().map(proto_value).collect() })
        }
        serde_json::Value::Object(_) => Kind::StructValue(proto(value)),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_struct_survives_the_way_to_json_and_back() {
        let value = serde_json::json!({"a": [1, 2.5, "x", null], "b": {"c": true}});
        assert_eq!(json(&proto(&value)), value);
    }

    #[test]
    fn file_modes_are_shown_like_ls() {
        let entry = v1::FileEntry {
            path: "run.sh".to_owned(),
            mode: 0o754,
            r#type: v1::file_entry::Type::File.into(),
            ..v1::FileEntry::default()
        };
        assert_eq!(entry.cells(0)[0], "-rwxr-xr--");
    }
}
