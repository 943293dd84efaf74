//! What goes to stdout: tables for people, protobuf JSON, or ids alone. Talk goes to stderr and not through here.

use std::io::{IsTerminal as _, Write as _};
use std::sync::OnceLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};

use super::exit::{FAILURE, Failure, Result};
use crate::clock::{Clock as _, Micros, SystemClock};
use crate::proto::DESCRIPTORS;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns, or one line per field.
    #[default]
    Table,
    /// The protobuf JSON of the object; of a list: of the response.
    Json,
    /// One JSON object a line.
    Jsonl,
    /// The id alone.
    Name,
}

/// Something of the API that can be shown.
pub trait Object: Message + Clone {
    /// Its message in `drydock.v1`.
    const MESSAGE: &'static str;
    /// Heads of the table.
    const HEADS: &'static [&'static str];

    /// What `-o name` prints.
    fn name(&self) -> String;

    /// One cell per head.
    fn cells(&self, now: Micros) -> Vec<String>;

    /// One line per field, for a single object; what is empty is left out.
    fn fields(&self, now: Micros) -> Vec<(&'static str, String)> {
        Self::HEADS.iter().copied().zip(self.cells(now)).collect()
    }
}

/// A response that is a list of objects.
pub trait List: Message {
    /// Its message in `drydock.v1`.
    const MESSAGE: &'static str;
    /// What it lists.
    type Item: Object;

    /// The objects.
    fn items(&self) -> &[Self::Item];
}

/// Prints one object.
///
/// # Errors
/// When stdout cannot be written.
pub fn object<T: Object>(format: Format, object: &T) -> Result<()> {
    let text = match format {
        Format::Json => json(T::MESSAGE, object, true)?,
        Format::Jsonl => json(T::MESSAGE, object, false)?,
        Format::Name => object.name(),
        Format::Table => fields(&object.fields(SystemClock.now())),
    };
    print(&text)
}

/// Prints what a change has left, for programs; people see that it worked by the silence.
///
/// # Errors
/// When stdout cannot be written.
pub fn object_unless_table<T: Object>(format: Format, changed: &T) -> Result<()> {
    if format == Format::Table { Ok(()) } else { object(format, changed) }
}

/// Prints a list.
///
/// # Errors
/// When stdout cannot be written.
pub fn list<T: List>(format: Format, list: &T) -> Result<()> {
    let text = match format {
        Format::Json => json(T::MESSAGE, list, true)?,
        Format::Jsonl => {
            let lines = list.items().iter().map(|item| json(<T::Item as Object>::MESSAGE, item, false));
            lines.collect::<Result<Vec<_>>>()?.join("\n")
        }
        Format::Name => list.items().iter().map(Object::name).collect::<Vec<_>>().join("\n"),
        Format::Table => {
            let now = SystemClock.now();
            let rows: Vec<_> = list.items().iter().map(|item| item.cells(now)).collect();
            table(<T::Item as Object>::HEADS, &rows)
        }
    };
    if text.is_empty() { Ok(()) } else { print(&text) }
}

/// Whether a list is long enough or at its end. What is cut off is told on stderr; a limit of 0 is none.
pub fn enough<T>(items: &mut Vec<T>, limit: usize, next_page_token: &mut String) -> bool {
    let full = limit > 0 && items.len() >= limit;
    if full && (items.len() > limit || !next_page_token.is_empty()) {
        items.truncate(limit);
        // It would go on after the page, not after the cut.
        next_page_token.clear();
        eprintln!("drydock: the first {limit} are shown; --limit 0 shows all");
    }
    full || next_page_token.is_empty()
}

/// Prints the next object of a stream: tables without heads, JSON one a line.
///
/// # Errors
/// When stdout cannot be written.
pub fn next<T: Object>(format: Format, object: &T) -> Result<()> {
    let text = match format {
        Format::Json | Format::Jsonl => json(T::MESSAGE, object, false)?,
        Format::Name => object.name(),
        Format::Table => object.cells(SystemClock.now()).join("  ").trim_end().to_owned(),
    };
    print(&text)
}

/// Writes a line, or several, to stdout at once.
///
/// # Errors
/// When that cannot be written.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| if text.ends_with('\n') { Ok(()) } else { out.write_all(b"\n") })
        .and_then(|()| out.flush())
        .map_err(|error| Failure::io("stdout", &error))
}

/// The standard JSON of a message, by its name in `drydock.v1`.
///
/// # Errors
/// Never, for a message of this version.
pub fn json<T: Message>(name: &str, message: &T, pretty: bool) -> Result<String> {
    let wrong = |error: &dyn std::fmt::Display| Failure::new(FAILURE, "INTERNAL", format!("{name} as JSON: {error}"));
    let descriptor =
        pool()?.get_message_by_name(&format!("drydock.v1.{name}")).ok_or_else(|| wrong(&"no such message"))?;
    let mut dynamic = DynamicMessage::new(descriptor);
    dynamic.transcode_from(message).map_err(|error| wrong(&error))?;
    let text = if pretty { serde_json::to_string_pretty(&dynamic) } else { serde_json::to_string(&dynamic) };
    text.map_err(|error| wrong(&error))
}

fn pool() -> Result<&'static DescriptorPool> {
    static POOL: OnceLock<Result<DescriptorPool, String>> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(DESCRIPTORS).map_err(|error| error.to_string()))
        .as_ref()
        .map_err(|error| Failure::new(FAILURE, "INTERNAL", format!("the descriptors of the API: {error}")))
}

/// Columns as wide as their widest cell; the last one is not padded.
#[must_use]
pub fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heads.iter().map(|head| head.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut text = line(&mut heads.iter().copied());
    for row in rows {
        text.push('\n');
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// One line per field that says something.
fn fields(fields: &[(&'static str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let lines = fields.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| {
        let indented = value.replace('\n', &format!("\n{:width$}  ", ""));
        format!("{name:width$}  {indented}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Paints text on stderr, when that is a terminal and neither `NO_COLOR` nor `CI` is set.
#[derive(Debug, Clone, Copy)]
pub struct Paint(bool);

impl Paint {
    /// Looks at stderr and the environment.
    #[must_use]
    pub fn for_stderr() -> Self {
        Self(wants_colour(std::io::stderr().is_terminal(), &|name| std::env::var(name).ok()))
    }

    /// For stdout.
    #[must_use]
    pub fn for_stdout() -> Self {
        Self(wants_colour(std::io::stdout().is_terminal(), &|name| std::env::var(name).ok()))
    }

    /// Less important.
    #[must_use]
    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// More important.
    #[must_use]
    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// Went well.
    #[must_use]
    pub fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// Went wrong.
    #[must_use]
    pub fn bad(self, text: &str) -> String {
        self.wrap("31", text)
    }

    /// Waits.
    #[must_use]
    pub fn slow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.0 && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn wants_colour(terminal: bool, env: &dyn Fn(&str) -> Option<String>) -> bool {
    let set = |name| env(name).is_some_and(|value| !value.is_empty());
    terminal && !set("NO_COLOR") && !set("CI")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1;

    #[test]
    fn json_is_the_standard_one() {
        let lease = v1::Lease {
            id: "lease_1".to_owned(),
            resource_type: "host".to_owned(),
            state: v1::lease::State::Active.into(),
            ttl: Some(prost_types::Duration { seconds: 90, nanos: 0 }),
            create_time: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
            ..v1::Lease::default()
        };
        let expected = r#"{"id":"lease_1","resourceType":"host","state":"STATE_ACTIVE","ttl":"90s","createTime":"1970-01-01T00:00:00Z"}"#;
        assert_eq!(json("Lease", &lease, false).unwrap(), expected);
    }

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let rows = [vec!["a".to_owned(), "long cell".to_owned()], vec!["bcd".to_owned(), String::new()]];
        assert_eq!(table(&["ID", "WHAT"], &rows), "ID   WHAT\na    long cell\nbcd");
    }

    #[test]
    fn colour_only_where_it_is_welcome() {
        let none = |_: &str| None;
        assert!(wants_colour(true, &none) && !wants_colour(false, &none));
        assert!(!wants_colour(true, &|name| (name == "NO_COLOR").then(|| "1".to_owned())));
        assert!(!wants_colour(true, &|name| (name == "CI").then(|| "true".to_owned())));
    }
}
