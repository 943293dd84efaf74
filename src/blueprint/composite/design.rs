//! A composite's configuration, read and checked: what it is made of, in which order, and what it shows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::parameter::Parameter;
use super::template::{PARAMETERS, Template};
use crate::blueprint::complaint::{Complaints, join};
use crate::blueprint::registry::{FACTS, KINDS};
use crate::model::StringMap;
use crate::model::labels::is_name;

/// Steps may take this long unless they say.
const STEP_TIMEOUT: Duration = Duration::from_mins(10);

/// What a composite is.
#[derive(Debug, Default)]
pub(super) struct Design {
    /// The type it makes.
    pub(super) resource_type: String,
    /// What may be asked for.
    pub(super) parameters: BTreeMap<String, Parameter>,
    /// What it is made of.
    pub(super) parts: BTreeMap<String, Part>,
    /// What is run, in this order on each part.
    pub(super) steps: Vec<StepDesign>,
    /// Which part each interface comes from.
    pub(super) exports: StringMap,
    /// What it tells.
    pub(super) facts: BTreeMap<String, Template>,
}

/// A lease that it needs.
#[derive(Debug)]
pub(super) struct Part {
    /// For example `host`.
    pub(super) resource_type: String,
    /// Of the lease.
    pub(super) attributes: BTreeMap<String, Template>,
    /// Labels that its resource must carry.
    pub(super) resource_labels: StringMap,
    /// Steps that must be done before.
    pub(super) after: Vec<String>,
}

/// A command that is run on a part.
#[derive(Debug)]
pub(super) struct StepDesign {
    /// Unique.
    pub(super) name: String,
    /// Where.
    pub(super) part: String,
    /// Exact words.
    pub(super) run: Vec<String>,
    /// Its tree is killed then.
    pub(super) timeout: Duration,
    /// Run when the composite is taken down, if the step was begun; may be empty.
    pub(super) undo: Vec<String>,
    /// Added to the environment.
    pub(super) env: BTreeMap<String, Template>,
}

impl Part {
    /// The parts that it refers to.
    pub(super) fn references(&self) -> impl Iterator<Item = &str> {
        self.attributes.values().flat_map(Template::parts)
    }
}

impl StepDesign {
    /// The parts that must be there before it runs.
    pub(super) fn references(&self) -> impl Iterator<Item = &str> {
        self.env.values().flat_map(Template::parts).chain([self.part.as_str()])
    }
}

impl Design {
    /// Reads and checks; what is returned is complete only when nothing was complained of.
    pub(super) fn read(path: &str, value: &Value, complaints: &mut Complaints) -> Self {
        let mut design = Self::default();
        let known = ["type", "parameters", "needs", "steps", "exports", "facts"];
        let Some(object) = complaints.object(path, value, &known) else { return design };
        let at = |key: &str| join(path, key);

        match object.get("type") {
            None => complaints.add(path, "\"type\" is missing: the resource type it makes"),
            Some(value) => {
                design.resource_type = complaints.text(&at("type"), value).unwrap_or_default();
                if value.is_string() && !is_name(&design.resource_type) {
                    complaints.add(&at("type"), format!("{value} is no type name ([a-z0-9][a-z0-9-]{{0,62}})"));
                }
            }
        }
        for (name, value) in entries(&at("parameters"), object.get("parameters"), complaints) {
            let path = join(&at("parameters"), name);
            check_name(&path, name, &["host"], complaints);
            design
                .parameters
                .extend(Parameter::read(&path, value, complaints).map(|parameter| (name.clone(), parameter)));
        }
        let parts = entries(&at("needs"), object.get("needs"), complaints);
        if parts.is_empty() {
            complaints.add(&at("needs"), "a composite needs at least one part");
        }
        for (name, value) in parts {
            let path = join(&at("needs"), name);
            check_name(&path, name, &[PARAMETERS], complaints);
            design.parts.extend(read_part(&path, value, complaints).map(|part| (name.clone(), part)));
        }
        match object.get("steps") {
            None => {}
            Some(Value::Array(steps)) => {
                for (nth, value) in steps.iter().enumerate() {
                    design.steps.extend(read_step(&format!("{}[{nth}]", at("steps")), value, complaints));
                }
            }
            Some(_) => complaints.add(&at("steps"), "must be a list"),
        }
        if let Some(value) = object.get("exports") {
            design.exports = complaints.string_map(&at("exports"), value);
        }
        design.facts = read_templates(&at("facts"), object.get("facts"), complaints);
        design.check(path, complaints);
        design
    }

    /// The part that an interface comes from: as exported, or the only one known to offer it.
    pub(super) fn exporter(&self, interface: &str) -> Option<&str> {
        if let Some(part) = self.exports.get(interface) {
            return Some(part);
        }
        match self.offering(interface)[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    /// All interfaces it offers.
    pub(super) fn interfaces(&self) -> Vec<String> {
        let known = self.parts.values().flat_map(|part| interfaces_of(&part.resource_type).unwrap_or_default());
        let all: BTreeSet<&str> = self.exports.keys().map(String::as_str).chain(known).collect();
        all.into_iter().filter(|interface| self.exporter(interface).is_some()).map(str::to_owned).collect()
    }

    /// The parts that are known to offer it.
    fn offering(&self, interface: &str) -> Vec<&str> {
        let offers = |part: &Part| interfaces_of(&part.resource_type).is_some_and(|all| all.contains(interface));
        self.parts.iter().filter(|(_, part)| offers(part)).map(|(name, _)| name.as_str()).collect()
    }

    /// What only shows when all is read.
    fn check(&self, path: &str, complaints: &mut Complaints) {
        let at = |key: &str| join(path, key);
        for (name, part) in &self.parts {
            let here = join(&at("needs"), name);
            if part.resource_type == self.resource_type {
                complaints.add(
                    &join(&here, "type"),
                    format!("a {:?} made of a {:?} would never end", part.resource_type, self.resource_type),
                );
            }
            for (key, template) in &part.attributes {
                self.check_template(&join(&join(&here, "attributes"), key), template, complaints);
            }
            for step in part.after.iter().filter(|step| !self.steps.iter().any(|known| known.name == **step)) {
                complaints.add(&join(&here, "after"), format!("there is no step {step:?}"));
            }
        }
        let mut names = BTreeSet::new();
        for (nth, step) in self.steps.iter().enumerate() {
            let here = format!("{}[{nth}]", at("steps"));
            if !names.insert(&step.name) {
                complaints.add(&join(&here, "name"), format!("there are two steps {:?}", step.name));
            }
            match self.parts.get(&step.part) {
                None => complaints.add(&join(&here, "part"), format!("there is no part {:?}", step.part)),
                Some(part) if interfaces_of(&part.resource_type).is_some_and(|all| !all.contains("command")) => {
                    complaints.add(&join(&here, "part"), format!("a {} runs no commands", part.resource_type));
                }
                Some(_) => {}
            }
            for (key, template) in &step.env {
                self.check_template(&join(&join(&here, "env"), key), template, complaints);
            }
        }
        for (interface, part) in &self.exports {
            let here = join(&at("exports"), interface);
            match self.parts.get(part) {
                None => complaints.add(&here, format!("there is no part {part:?}")),
                Some(part)
                    if interfaces_of(&part.resource_type).is_some_and(|all| !all.contains(interface.as_str())) =>
                {
                    complaints.add(&here, format!("a {} does not offer {interface}", part.resource_type));
                }
                Some(_) => {}
            }
        }
        for (name, template) in &self.facts {
            self.check_template(&join(&at("facts"), name), template, complaints);
        }
        for interface in ["command", "database", "filesystem", "forward", "httpd"] {
            let parts = self.offering(interface);
            if parts.len() > 1 && !self.exports.contains_key(interface) {
                complaints.add(
                    &at("exports"),
                    format!("{} all offer {interface}: say which it is, as \"{interface}: PART\"", parts.join(", ")),
                );
            }
        }
        if let Some(cycle) = self.cycle() {
            complaints.add(&at("needs"), format!("a cycle, none of it can come first: {}", cycle.join(" -> ")));
        }
    }

    fn check_template(&self, path: &str, template: &Template, complaints: &mut Complaints) {
        for reference in template.references() {
            if reference.of == PARAMETERS {
                if !self.parameters.contains_key(&reference.key) {
                    complaints.add(path, format!("there is no parameter {:?}", reference.key));
                }
                continue;
            }
            let Some(part) = self.parts.get(&reference.of) else {
                complaints.add(path, format!("there is no part {:?}", reference.of));
                continue;
            };
            let Some((_, facts)) = FACTS.iter().find(|(of, _)| *of == part.resource_type) else { continue };
            let is_fact = |fact: &&str| match fact.strip_suffix('*') {
                Some(stem) => reference.key.starts_with(stem),
                None => *fact == reference.key,
            };
            if reference.key != LEASE_ID && !facts.iter().any(is_fact) {
                complaints.add(
                    path,
                    format!(
                        "a {} has no fact {:?}; there are {LEASE_ID}, {}",
                        part.resource_type,
                        reference.key,
                        facts.join(", ")
                    ),
                );
            }
        }
    }

    /// Names round a cycle, the first again at the end.
    fn cycle(&self) -> Option<Vec<String>> {
        let step_node = |name: &str| format!("step {name}");
        let mut before: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, part) in &self.parts {
            let steps = part.after.iter().map(|step| step_node(step));
            before.insert(name.clone(), part.references().map(str::to_owned).chain(steps).collect());
        }
        for (nth, step) in self.steps.iter().enumerate() {
            let earlier = self.steps[..nth].iter().filter(|other| other.part == step.part);
            let nodes = step.references().map(str::to_owned).chain(earlier.map(|other| step_node(&other.name)));
            before.insert(step_node(&step.name), nodes.collect());
        }
        let mut cleared = BTreeSet::new();
        before.keys().find_map(|start| descend(start, &before, &mut Vec::new(), &mut cleared))
    }
}

/// The key of every lease beside its facts.
pub(super) const LEASE_ID: &str = "lease_id";

fn descend(
    node: &str,
    before: &BTreeMap<String, Vec<String>>,
    trail: &mut Vec<String>,
    cleared: &mut BTreeSet<String>,
) -> Option<Vec<String>> {
    if let Some(start) = trail.iter().position(|seen| seen == node) {
        return Some(trail[start..].iter().cloned().chain([node.to_owned()]).collect());
    }
    if cleared.contains(node) {
        return None;
    }
    trail.push(node.to_owned());
    let found = before.get(node).into_iter().flatten().find_map(|next| descend(next, before, trail, cleared));
    trail.pop();
    cleared.insert(node.to_owned());
    found
}

/// What the built-in kinds of that type offer; `None` when no built-in kind makes it.
fn interfaces_of(resource_type: &str) -> Option<BTreeSet<&'static str>> {
    let kinds = KINDS.iter().filter(|kind| kind.resource_type == resource_type);
    let all: Vec<_> = kinds.map(|kind| kind.interfaces).collect();
    (!all.is_empty()).then(|| all.into_iter().flatten().copied().collect())
}

fn entries<'a>(path: &str, value: Option<&'a Value>, complaints: &mut Complaints) -> Vec<(&'a String, &'a Value)> {
    value.and_then(|value| complaints.map(path, value)).map(|map| map.iter().collect()).unwrap_or_default()
}

fn check_name(path: &str, name: &str, reserved: &[&str], complaints: &mut Complaints) {
    let well_formed = name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-');
    if !well_formed {
        complaints.add(path, format!("{name:?} is no name ([a-z][a-z0-9_-]{{0,62}})"));
    }
    if reserved.contains(&name) {
        complaints.add(path, format!("the name {name:?} is reserved"));
    }
}

fn read_part(path: &str, value: &Value, complaints: &mut Complaints) -> Option<Part> {
    let object = complaints.object(path, value, &["type", "attributes", "resource_labels", "after"])?;
    let resource_type = complaints.required(path, object, "type").unwrap_or_default();
    let attributes = read_templates(&join(path, "attributes"), object.get("attributes"), complaints);
    let labels = join(path, "resource_labels");
    let resource_labels =
        object.get("resource_labels").map(|value| complaints.string_map(&labels, value)).unwrap_or_default();
    let after = object.get("after").map(|value| complaints.texts(&join(path, "after"), value)).unwrap_or_default();
    Some(Part { resource_type, attributes, resource_labels, after })
}

fn read_step(path: &str, value: &Value, complaints: &mut Complaints) -> Option<StepDesign> {
    let object = complaints.object(path, value, &["name", "part", "run", "timeout", "undo", "env"])?;
    let name = complaints.required(path, object, "name").unwrap_or_default();
    let part = complaints.required(path, object, "part").unwrap_or_default();
    check_name(&join(path, "name"), &name, &[], complaints);
    let mut words = |key: &str| {
        let here = join(path, key);
        let words = object.get(key).map(|value| complaints.texts(&here, value)).unwrap_or_default();
        // A parameter inside `sh -c "…"` would be run; in the environment it is only a value.
        if words.iter().any(|word| Template::parse(word).is_ok_and(|template| template.references().count() > 0)) {
            complaints.add(&here, "words are taken as they are; pass references through \"env\"");
        }
        words
    };
    let (run, undo) = (words("run"), words("undo"));
    if run.is_empty() {
        complaints.add(path, "\"run\" must have at least one word");
    }
    let timeout = object.get("timeout").and_then(|value| complaints.span(&join(path, "timeout"), value));
    if timeout.is_some_and(|timeout| timeout.is_zero()) {
        complaints.add(&join(path, "timeout"), "must be above zero");
    }
    let env = read_templates(&join(path, "env"), object.get("env"), complaints);
    for key in env.keys() {
        let well_formed = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !key.starts_with("DRYDOCK_");
        if !well_formed {
            let here = join(&join(path, "env"), key);
            complaints.add(&here, "must be [A-Za-z_][A-Za-z0-9_]* and not begin with DRYDOCK_");
        }
    }
    Some(StepDesign { name, part, run, timeout: timeout.unwrap_or(STEP_TIMEOUT), undo, env })
}

fn read_templates(path: &str, value: Option<&Value>, complaints: &mut Complaints) -> BTreeMap<String, Template> {
    let texts = value.map(|value| complaints.string_map(path, value)).unwrap_or_default();
    let mut templates = BTreeMap::new();
    for (key, text) in texts {
        match Template::parse(&text) {
            Ok(template) => drop(templates.insert(key, template)),
            Err(why) => complaints.add(&join(path, &key), why),
        }
    }
    templates
}
