//! The story of a lease: folded from events, shown line by line and as a tree.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use crate::cli::objects;
use crate::cli::output::Paint;
use crate::clock::{self, Micros};
use crate::proto::v1;

/// Width of the time line beside the tree.
const LINE: usize = 24;

/// A lease of the tree, or a resource that it is on.
#[derive(Debug, Default)]
struct Node {
    /// What it is called in its parent, else its type.
    title: String,
    resource_type: String,
    blueprint: String,
    /// Of a lease: the resource that needs it. Of a resource: the lease it is made for.
    above: String,
    /// Of a lease: what it is on.
    resource: String,
    worker: String,
    created: Option<Micros>,
    /// Building began, or the lease got its resource.
    begun: Option<Micros>,
    /// ACTIVE.
    ready: Option<Micros>,
    state: &'static str,
}

/// All that happened to a lease and what was made for it.
#[derive(Debug)]
pub struct Story {
    root: String,
    nodes: BTreeMap<String, Node>,
    /// Ids in the order in which they appeared.
    order: Vec<String>,
    seen: HashSet<String>,
    start: Option<Micros>,
    latest: Option<Micros>,
}

/// A line of the live trace.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    after: Duration,
    worker: String,
    title: String,
    words: String,
    mood: Mood,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Plain,
    Good,
    Slow,
    Bad,
}

impl Line {
    /// One line for a terminal.
    #[must_use]
    pub fn render(&self, paint: Paint) -> String {
        let words = match self.mood {
            Mood::Plain => self.words.clone(),
            Mood::Good => paint.good(&self.words),
            Mood::Slow => paint.slow(&self.words),
            Mood::Bad => paint.bad(&self.words),
        };
        let time = paint.dim(&format!("{:>8.3}s {:<4}", self.after.as_secs_f64(), self.worker));
        format!("{time} {:<24} {words}", self.title)
    }
}

/// `w2` of `daemon_…/w2`: within one trace the daemon is nearly always the same.
fn worker_of(event: &v1::Event) -> String {
    let worker = event.details.get("worker").map_or("", String::as_str);
    worker.rsplit('/').next().unwrap_or(worker).to_owned()
}

impl Story {
    /// The story of this lease.
    #[must_use]
    pub fn new(lease: &v1::Lease) -> Self {
        let root = Node {
            title: lease.resource_type.clone(),
            resource_type: lease.resource_type.clone(),
            state: "PENDING",
            ..Node::default()
        };
        Self {
            root: lease.id.clone(),
            nodes: [(lease.id.clone(), root)].into(),
            order: vec![lease.id.clone()],
            seen: HashSet::new(),
            start: lease.create_time.as_ref().map(objects::micros),
            latest: None,
        }
    }

    /// Its root lease.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Takes an event in; `None` when it was told before or says nothing about the tree.
    pub fn take(&mut self, event: &v1::Event) -> Option<Line> {
        if !self.seen.insert(event.id.clone()) {
            return None;
        }
        let subject = event.subject_ids.first()?.clone();
        let (noun, verb) = event.r#type.split_once('.')?;
        if !matches!(noun, "lease" | "resource") {
            return None;
        }
        let time = event.time.as_ref().map(objects::micros);
        self.start = self.start.or(time);
        self.latest = self.latest.max(time);
        let detail = |name: &str| event.details.get(name).cloned().unwrap_or_default();

        if !self.nodes.contains_key(&subject) {
            self.order.push(subject.clone());
        }
        let node = self.nodes.entry(subject.clone()).or_default();
        let fill = |field: &mut String, value: String| {
            if !value.is_empty() {
                *field = value;
            }
        };
        fill(&mut node.resource_type, detail("resource_type"));
        fill(&mut node.blueprint, detail("blueprint"));
        fill(&mut node.worker, worker_of(event));
        if noun == "lease" {
            fill(&mut node.title, detail("name"));
            fill(&mut node.above, detail("parent"));
            fill(&mut node.resource, detail("resource"));
            if node.title.is_empty() {
                node.title.clone_from(&node.resource_type);
            }
        } else {
            fill(&mut node.above, detail("made_for"));
        }
        match verb {
            "created" => {
                node.created = node.created.or(time);
                node.state = "PENDING";
            }
            "building" => {
                node.begun = node.begun.or(time);
                node.state = "BUILDING";
            }
            "acquired" => {
                node.begun = time;
                node.state = "ACQUIRED";
            }
            "activated" => {
                node.ready = time;
                node.state = "ACTIVE";
            }
            "released" => node.state = "RELEASED",
            "broken" => node.state = "BROKEN",
            "destroyed" => node.state = "DESTROYED",
            _ => {}
        }
        self.line(event, &subject, verb, noun == "resource", time)
    }

    fn line(
        &self,
        event: &v1::Event,
        subject: &str,
        verb: &str,
        is_resource: bool,
        time: Option<Micros>,
    ) -> Option<Line> {
        let node = self.nodes.get(subject)?;
        let detail = |name: &str| event.details.get(name).map_or("", String::as_str);
        let why = match (event.reason.as_str(), event.message.as_str()) {
            ("", message) => message.to_owned(),
            (reason, "") => reason.to_owned(),
            (reason, message) => format!("{reason}: {message}"),
        };
        let (words, mood) = match (is_resource, verb) {
            (false, "created") if node.above.is_empty() => (format!("queued ({})", node.resource_type), Mood::Plain),
            (false, "created") => {
                (format!("queued ({}), {} waits for it", node.resource_type, self.path(&node.above)), Mood::Plain)
            }
            (_, "waiting") => {
                let what = self.name_all(detail("waits_for"));
                let what = if what.is_empty() { what } else { format!(" for {what}") };
                (format!("waits{what} ({why})"), Mood::Slow)
            }
            (false, "acquired") => (self.seat("has its resource", node, subject), Mood::Plain),
            (false, "activated") => (self.seat("active", node, subject), Mood::Good),
            (true, "created") => (format!("being built by {}", node.blueprint), Mood::Plain),
            (true, "building") => (format!("building, {why}"), Mood::Slow),
            (true, "activated") => ("built".to_owned(), Mood::Good),
            (_, "released") => (format!("released {why}"), Mood::Plain),
            (_, "broken" | "failed" | "cleanup_failed") => (format!("{} {why}", verb.replace('_', " ")), Mood::Bad),
            (_, "destroyed") => ("gone".to_owned(), Mood::Plain),
            _ => (format!("{verb} {why}"), Mood::Plain),
        };
        let after = time.zip(self.start).map(|(time, start)| clock::span(time - start)).unwrap_or_default();
        Some(Line {
            after,
            worker: worker_of(event),
            title: self.path(subject),
            words: words.trim_end().to_owned(),
            mood,
        })
    }

    /// On its own resource, or on one that was there.
    fn seat(&self, word: &str, node: &Node, lease: &str) -> String {
        let own = self.nodes.get(&node.resource).is_some_and(|resource| resource.above == lease);
        if own || node.resource.is_empty() { word.to_owned() } else { format!("{word}, on {}", node.resource) }
    }

    /// `sandcastle/site`: what the lease, or the lease that the resource is for, is called.
    fn path(&self, id: &str) -> String {
        let mut titles = Vec::new();
        let mut at = id;
        // Ids come from outside: a ring must not hang us.
        for _ in 0..64 {
            let Some(node) = self.nodes.get(at) else { break };
            if at.starts_with("lease_") {
                titles.push(node.title.as_str());
            }
            if node.above.is_empty() {
                break;
            }
            at = &node.above;
        }
        if titles.is_empty() {
            return self.nodes.get(id).map_or(id, |node| &node.resource_type).to_owned();
        }
        titles.reverse();
        titles.join("/")
    }

    /// Ids that the tree knows by their titles.
    fn name_all(&self, ids: &str) -> String {
        let words = ids.split([',', ' ']).filter(|id| !id.is_empty());
        let titles = words.map(|id| match self.nodes.get(id) {
            Some(node) if !node.title.is_empty() => node.title.clone(),
            Some(_) => self.path(id),
            None => id.to_owned(),
        });
        titles.collect::<Vec<_>>().join(", ")
    }

    /// The tree, a lease a line, with what it took and when.
    #[must_use]
    pub fn render(&self, paint: Paint) -> String {
        let mut rows = Vec::new();
        self.collect(&self.root, "", "", &mut rows, &mut HashSet::new());
        let start = self.start.unwrap_or_default();
        let ready = rows.iter().filter_map(|(_, id)| self.nodes[*id].ready).max();
        let end = ready.or(self.latest).unwrap_or(start).max(start + 1);
        let width = |cells: &dyn Fn(&Node, &str) -> usize| {
            rows.iter().map(|(branch, id)| cells(&self.nodes[*id], branch)).max().unwrap_or(0)
        };
        let name_width = width(&|node, branch| branch.chars().count() + node.title.chars().count());
        let made_width = width(&|node, _| self.made_by(node).chars().count());

        let mut text = String::new();
        for (branch, id) in &rows {
            let node = &self.nodes[*id];
            let name = format!("{branch}{}", node.title);
            let took = node.ready.zip(node.created.or(self.start)).map(|(ready, created)| clock::span(ready - created));
            let took = took.map_or_else(|| node.state.to_lowercase(), |took| format!("{:.3}s", took.as_secs_f64()));
            let worker = self.resource(node).map(|resource| &resource.worker).filter(|worker| !worker.is_empty());
            let line = self.time_line(node, start, end);
            let row = format!(
                "  {name:<name_width$}  {:<made_width$}  {took:>9}  {}  {}",
                self.made_by(node),
                paint.good(&line),
                paint.dim(worker.map_or("", String::as_str))
            );
            text.push_str(row.trim_end());
            text.push('\n');
        }
        text
    }

    /// Depth first, parts in the order in which they were asked for.
    fn collect<'a>(
        &'a self,
        id: &'a str,
        branch: &str,
        under: &str,
        rows: &mut Vec<(String, &'a str)>,
        done: &mut HashSet<&'a str>,
    ) {
        if !done.insert(id) {
            return;
        }
        rows.push((branch.to_owned(), id));
        let parts: Vec<&String> = self
            .order
            .iter()
            .filter(|part| part.starts_with("lease_"))
            .filter(|part| {
                let above = &self.nodes[*part].above;
                !above.is_empty() && self.nodes.get(above).is_some_and(|resource| resource.above == id)
            })
            .collect();
        for (place, part) in parts.iter().enumerate() {
            let last = place + 1 == parts.len();
            let (fork, pipe) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            self.collect(part, &format!("{under}{fork}"), &format!("{under}{pipe}"), rows, done);
        }
    }

    fn resource(&self, lease: &Node) -> Option<&Node> {
        self.nodes.get(&lease.resource)
    }

    /// By which blueprint, unless that is called like the part itself.
    fn made_by(&self, lease: &Node) -> String {
        match self.resource(lease) {
            Some(resource) if resource.blueprint != lease.title => resource.blueprint.clone(),
            Some(_) => String::new(),
            None if lease.resource.is_empty() => lease.resource_type.clone(),
            None => format!("{} (was there)", lease.resource_type),
        }
    }

    /// Dots from when it was asked for, blocks from when it was being built, until it was ready.
    fn time_line(&self, node: &Node, start: Micros, end: Micros) -> String {
        let column = |time: Micros| {
            let share = i128::from(time - start) * LINE as i128 / i128::from(end - start);
            usize::try_from(share).unwrap_or(0).min(LINE)
        };
        let from = column(node.created.unwrap_or(start)).min(LINE - 1);
        let built = self.resource(node).and_then(|resource| resource.begun.or(resource.created)).or(node.begun);
        let to = column(node.ready.unwrap_or(end)).max(from + 1);
        // What was never begun has waited to the end; what is done has at least one block.
        let begun = column(built.unwrap_or(end)).clamp(from, if node.ready.is_some() { to - 1 } else { to });
        let cell = |at: usize| match at {
            _ if at < from || at >= to => ' ',
            _ if at < begun => '·',
            _ => '█',
        };
        (0..LINE).map(cell).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u32, kind: &str, subjects: &[&str], details: &[(&str, &str)]) -> v1::Event {
        v1::Event {
            id: format!("event_{seq}"),
            time: Some(prost_types::Timestamp { seconds: i64::from(seq), nanos: 0 }),
            r#type: kind.to_owned(),
            subject_ids: subjects.iter().map(ToString::to_string).collect(),
            details: details.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            ..v1::Event::default()
        }
    }

    fn story() -> (Story, Vec<String>) {
        let lease = v1::Lease {
            id: "lease_r".to_owned(),
            resource_type: "sandcastle".to_owned(),
            create_time: Some(prost_types::Timestamp::default()),
            ..v1::Lease::default()
        };
        let mut story = Story::new(&lease);
        let events = [
            event(0, "lease.created", &["lease_r"], &[("resource_type", "sandcastle")]),
            event(1, "resource.created", &["res_r", "lease_r"], &[("blueprint", "castle"), ("made_for", "lease_r")]),
            event(2, "resource.failed", &["res_r"], &[("worker", "daemon_x/w1")]),
            event(
                3,
                "lease.created",
                &["lease_c"],
                &[("name", "copy"), ("resource_type", "working-copy"), ("parent", "res_r")],
            ),
            event(3, "lease.created", &["lease_c"], &[("name", "told twice")]),
            event(4, "lease.waiting", &["lease_c"], &[("waits_for", "lease_r lease_other")]),
            event(
                5,
                "resource.created",
                &["res_c"],
                &[("blueprint", "working-copy"), ("made_for", "lease_c"), ("worker", "w2")],
            ),
            event(6, "resource.building", &["res_c"], &[("worker", "w2")]),
            event(8, "resource.activated", &["res_c"], &[]),
            event(9, "lease.acquired", &["lease_c", "res_c"], &[("resource", "res_c")]),
            event(9 + 1, "lease.activated", &["lease_c", "res_c"], &[("resource", "res_c")]),
            event(11, "resource.activated", &["res_r"], &[]),
            event(12, "lease.activated", &["lease_r", "res_r"], &[("resource", "res_r")]),
        ];
        let paint = Paint::for_stderr();
        let lines = events.iter().filter_map(|event| story.take(event)).map(|line| line.render(paint)).collect();
        (story, lines)
    }

    #[test]
    fn live_lines_name_the_part_the_worker_and_what_is_waited_for() {
        let (_, lines) = story();
        assert_eq!(lines.len(), 12, "{lines:#?}");
        let has = |words: [&str; 3]| lines.iter().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(has(["w2", "sandcastle/copy", "being built by working-copy"]), "{lines:#?}");
        assert!(has(["4.000s", "sandcastle", "waits for sandcastle, lease_other"]), "{lines:#?}");
        assert!(has(["3.000s", "sandcastle/copy", "sandcastle waits for it"]), "{lines:#?}");
        assert!(has(["10.000s", "sandcastle/copy", "active"]), "{lines:#?}");
    }

    #[test]
    fn the_tree_has_each_part_once_under_what_needs_it() {
        let (story, _) = story();
        let tree = story.render(Paint::for_stderr());
        let rows: Vec<_> = tree.lines().collect();
        assert_eq!(rows.len(), 2, "{tree}");
        assert!(rows[0].contains("sandcastle") && rows[0].contains("12.000s") && rows[0].contains("w1"), "{tree}");
        assert!(rows[1].contains("└─ copy") && rows[1].contains("7.000s") && rows[1].contains("w2"), "{tree}");
    }

    #[test]
    fn what_never_became_ready_is_shown_too() {
        let (mut story, _) = story();
        for (at, late) in [(13, "lease_l"), (14, "lease_m")] {
            story.take(&event(at, "lease.created", &[late], &[("parent", "res_r"), ("name", late)]));
        }
        assert!(story.render(Paint::for_stderr()).contains("└─ lease_m"));
        let waiting = v1::Lease { id: "lease_w".to_owned(), resource_type: "host".to_owned(), ..v1::Lease::default() };
        let mut story = Story::new(&waiting);
        assert!(story.render(Paint::for_stderr()).contains("pending"));
        story.take(&event(1, "lease.created", &["lease_w"], &[]));
        story.take(&event(9, "lease.waiting", &["lease_w"], &[]));
        assert!(story.render(Paint::for_stderr()).contains("·····"), "{}", story.render(Paint::for_stderr()));
    }

    #[test]
    fn a_ring_of_ids_ends() {
        let mut story = Story::new(&v1::Lease { id: "lease_a".to_owned(), ..v1::Lease::default() });
        story.take(&event(1, "lease.created", &["lease_a"], &[("parent", "res_a")]));
        story.take(&event(2, "resource.created", &["res_a"], &[("made_for", "lease_a")]));
        assert!(!story.render(Paint::for_stderr()).is_empty());
    }
}
