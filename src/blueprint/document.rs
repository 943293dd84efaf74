//! Blueprint documents: YAML (so JSON too), `---` between several. Every complaint has its line and column.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};
use serde_saphyr::Spanned;

use super::complaint::{Complaints, join};
use super::{KINDS, composite};
use crate::error::{Error, Result};
use crate::model::labels::{check_labels, is_name};
use crate::model::{Field, Placement, StringMap};

/// A blueprint as written down.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Unique among blueprints.
    pub name: String,
    /// For example `composite`.
    pub kind: String,
    /// Copied to its resources.
    pub labels: StringMap,
    /// How many, how long, in which order.
    pub limits: Limits,
    /// Per the kind's schema; an object.
    pub config: Value,
}

/// `BlueprintLimits` of the API; what is not given is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// Live resources at most.
    pub max_resources: Option<i64>,
    /// Leases on one resource at once.
    pub leases_per_resource: Option<i64>,
    /// Kept ready, unleased.
    pub min_ready: Option<i64>,
    /// How long an unused resource is kept.
    pub idle_ttl: Option<Duration>,
    /// Default life of a lease.
    pub default_ttl: Option<Duration>,
    /// Longest that one renewal reaches from now.
    pub max_ttl: Option<Duration>,
    /// Pack or spread.
    pub placement: Option<Placement>,
    /// Higher is tried first.
    pub rank: Option<i64>,
    /// Its resources may serve one owner after another.
    pub shared: Option<bool>,
    /// Resources being built at once, at most.
    pub max_builds: Option<i64>,
    /// Leases of one owner at once.
    pub leases_per_owner: Option<i64>,
    /// Attributes whose values, taken together, one lease has at a time.
    pub exclusive_by: Vec<String>,
}

const KEYS: [&str; 5] = ["name", "kind", "labels", "limits", "config"];
const LIMIT_KEYS: [&str; 12] = [
    "max_builds",
    "leases_per_owner",
    "exclusive_by",
    "max_resources",
    "leases_per_resource",
    "min_ready",
    "idle_ttl",
    "default_ttl",
    "max_ttl",
    "placement",
    "rank",
    "shared",
];

/// Reads all documents of a text. `origin`, a file name, stands before each complaint.
///
/// # Errors
/// `INVALID_ARGUMENT`: a line `origin:line:column: what` per complaint.
pub fn parse(origin: &str, text: &str) -> Result<Vec<Document>> {
    let nodes: Vec<Spanned<Node>> = serde_saphyr::from_multiple(text).map_err(|error| {
        let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
        let words = error.without_snippet().to_string();
        // The place is said once, in front.
        let words = words.split(" at line ").next().unwrap_or(&words).to_owned();
        Error::invalid(format!("{origin}:{line}:{column}: {words}"))
    })?;
    if nodes.is_empty() {
        return Err(Error::invalid(format!("{origin}:1:1: there is no document in it")));
    }
    let mut lines = Vec::new();
    let mut documents = Vec::new();
    for node in &nodes {
        let mut places = Places::default();
        let value = places.flatten("", node);
        let mut complaints = Complaints::default();
        let document = read(&value, &mut complaints);
        let mut found = complaints.into_list();
        if found.is_empty() {
            documents.extend(document);
        }
        found.sort_by_key(|complaint| places.of(&complaint.path));
        lines.extend(found.into_iter().map(|complaint| {
            let (line, column) = places.of(&complaint.path);
            let colon = if complaint.path.is_empty() { "" } else { ": " };
            format!("{origin}:{line}:{column}: {}{colon}{}", complaint.path, complaint.message)
        }));
    }
    if lines.is_empty() { Ok(documents) } else { Err(Error::invalid(lines.join("\n"))) }
}

/// Writes a document as YAML that [`parse`] reads back.
///
/// # Errors
/// `INTERNAL` when it cannot be written.
pub fn render(document: &Document) -> Result<String> {
    let span = |span: Duration| {
        let millis = span.as_millis();
        let whole = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
        let (unit, letters) =
            whole.into_iter().find(|(unit, _)| millis > 0 && millis.is_multiple_of(*unit)).unwrap_or((1, "ms"));
        format!("{}{letters}", millis / unit)
    };
    let limits = &document.limits;
    let placement = limits.placement.map(|placement| json!(placement));
    let given = [
        ("max_resources", limits.max_resources.map(Value::from)),
        ("leases_per_resource", limits.leases_per_resource.map(Value::from)),
        ("min_ready", limits.min_ready.map(Value::from)),
        ("idle_ttl", limits.idle_ttl.map(span).map(Value::from)),
        ("default_ttl", limits.default_ttl.map(span).map(Value::from)),
        ("max_ttl", limits.max_ttl.map(span).map(Value::from)),
        ("placement", placement),
        ("rank", limits.rank.map(Value::from)),
        ("shared", limits.shared.map(Value::from)),
        ("max_builds", limits.max_builds.map(Value::from)),
        ("leases_per_owner", limits.leases_per_owner.map(Value::from)),
        ("exclusive_by", (!limits.exclusive_by.is_empty()).then(|| json!(limits.exclusive_by))),
    ];
    let limits: Map<String, Value> =
        given.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
    let whole = json!({
        "name": document.name, "kind": document.kind, "labels": document.labels, "limits": limits, "config": document.config,
    });
    serde_saphyr::to_string(&whole).map_err(|error| Error::internal("cannot write the document", error))
}

fn read(value: &Value, complaints: &mut Complaints) -> Option<Document> {
    let object = complaints.object("", value, &KEYS)?;
    let name = complaints.required("", object, "name");
    let kind = complaints.required("", object, "kind");
    if let Some(name) = name.as_ref().filter(|name| !is_name(name)) {
        complaints.add("name", format!("{name:?} is no name ([a-z0-9][a-z0-9-]{{0,62}})"));
    }
    let labels = object.get("labels").map(|value| complaints.string_map("labels", value)).unwrap_or_default();
    if let Err(error) = check_labels("labels", &labels) {
        complaints.add("labels", error.message);
    }
    let limits = object.get("limits").and_then(|value| read_limits(value, complaints)).unwrap_or_default();
    let config = object.get("config").cloned().unwrap_or_else(|| json!({}));
    check_config(kind.as_deref()?, &config, complaints);
    Some(Document { name: name?, kind: kind?, labels, limits, config })
}

fn read_limits(value: &Value, complaints: &mut Complaints) -> Option<Limits> {
    let object = complaints.object("limits", value, &LIMIT_KEYS)?;
    let path = |key: &str| join("limits", key);
    let mut whole = |key: &str, least| object.get(key).and_then(|value| complaints.whole(&path(key), value, least));
    let max_resources = whole("max_resources", 0);
    let leases_per_resource = whole("leases_per_resource", 1);
    let min_ready = whole("min_ready", 0);
    let rank = whole("rank", i64::from(i32::MIN));
    let max_builds = whole("max_builds", 1);
    let leases_per_owner = whole("leases_per_owner", 1);
    let mut span = |key: &str| object.get(key).and_then(|value| complaints.span(&path(key), value));
    let (idle_ttl, default_ttl, max_ttl) = (span("idle_ttl"), span("default_ttl"), span("max_ttl"));
    let placement = object.get("placement").and_then(|value| {
        let placement = serde_json::from_value(value.clone()).ok();
        if placement.is_none() {
            complaints.add("limits.placement", "must be pack or spread");
        }
        placement
    });
    let shared = object.get("shared").and_then(|value| complaints.truth("limits.shared", value));
    let exclusive_by = object.get("exclusive_by").map(|value| names("limits.exclusive_by", value, complaints));
    Some(Limits {
        max_builds,
        leases_per_owner,
        exclusive_by: exclusive_by.unwrap_or_default(),
        max_resources,
        leases_per_resource,
        min_ready,
        idle_ttl,
        default_ttl,
        max_ttl,
        placement,
        rank,
        shared,
    })
}

fn names(path: &str, value: &Value, complaints: &mut Complaints) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap_or_else(|_| {
        complaints.add(path, "must be a list of names of attributes");
        Vec::new()
    })
}

/// What can be said without the daemon: kinds of providers are checked there.
fn check_config(kind: &str, config: &Value, complaints: &mut Complaints) {
    let Some(known) = KINDS.iter().find(|known| known.kind == kind) else { return };
    if kind == composite::KIND.kind {
        composite::check("config", config, complaints);
        return;
    }
    let Some(object) = complaints.map("config", config) else { return };
    let is_known = |key: &str| known.config.iter().any(|field: &Field| field.matches(key));
    let mut clean = true;
    for key in object.keys().filter(|key| !is_known(key)) {
        clean = false;
        let names: Vec<&str> = known.config.iter().map(|field| field.name).collect();
        let hint = if names.is_empty() {
            "this kind takes none".to_owned()
        } else {
            format!("known are {}", names.join(", "))
        };
        complaints.add(&join("config", key), format!("unknown key, {hint}"));
    }
    if clean && let Err(error) = crate::model::kind::check_config(known.config, config) {
        complaints.add("config", error.message);
    }
}

/// A YAML value that remembers where it was.
enum Node {
    Scalar(Value),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Scalar(Value::Null))
            }

            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Scalar(Value::Null))
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
                Node::deserialize(deserializer)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = access.next_element()? {
                    list.push(item);
                }
                Ok(Node::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
                let mut map = Vec::new();
                while let Some(entry) = access.next_entry()? {
                    map.push(entry);
                }
                Ok(Node::Map(map))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

/// Line and column of each path.
#[derive(Default)]
struct Places {
    at: BTreeMap<String, (u64, u64)>,
}

impl Places {
    /// The plain value; keys are where they begin, items of lists too.
    fn flatten(&mut self, path: &str, node: &Spanned<Node>) -> Value {
        self.at.entry(path.to_owned()).or_insert((node.referenced.line(), node.referenced.column()));
        match &node.value {
            Node::Scalar(value) => value.clone(),
            Node::List(items) => {
                let flat = |(at, item)| self.flatten(&format!("{path}[{at}]"), item);
                Value::Array(items.iter().enumerate().map(flat).collect())
            }
            Node::Map(entries) => {
                let mut map = Map::new();
                for (key, value) in entries {
                    let below = join(path, &key.value);
                    self.at.insert(below.clone(), (key.referenced.line(), key.referenced.column()));
                    map.insert(key.value.clone(), self.flatten(&below, value));
                }
                Value::Object(map)
            }
        }
    }

    /// Of the path, or of the nearest above it.
    fn of(&self, path: &str) -> (u64, u64) {
        let mut path = path;
        loop {
            if let Some(at) = self.at.get(path) {
                return *at;
            }
            if path.is_empty() {
                return (1, 1);
            }
            path = &path[..path.rfind(['.', '[']).unwrap_or(0)];
        }
    }
}
