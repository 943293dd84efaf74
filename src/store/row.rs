//! Rows to model and back: JSON columns, ids, states.

use std::sync::Arc;

use rusqlite::types::ValueRef;

use crate::error::{Error, Reason, Result};
use crate::model::StringMap;

/// What stands in a column of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cell<'r> {
    Null,
    Integer(i64),
    Text(&'r str),
    /// Of a type that no column has.
    Odd,
}

impl<'r> From<ValueRef<'r>> for Cell<'r> {
    fn from(value: ValueRef<'r>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(number) => Self::Integer(number),
            ValueRef::Text(bytes) => std::str::from_utf8(bytes).map_or(Self::Odd, Self::Text),
            ValueRef::Real(_) | ValueRef::Blob(_) => Self::Odd,
        }
    }
}

/// A row that a statement answered.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// Shared by all rows of an answer.
    names: Arc<[Box<str>]>,
    cells: Vec<Kept>,
    /// What the cells say, one behind the other: a row is two pieces of memory, however many columns it has.
    texts: String,
}

/// A cell as a row keeps it.
#[derive(Debug, Clone, Copy)]
enum Kept {
    Null,
    Integer(i64),
    /// From there to there in the row's texts.
    Text(usize, usize),
    Odd,
}

/// Bytes of texts that most rows have at the most.
const TEXTS: usize = 512;

impl Row {
    pub(super) fn names(names: &[&str]) -> Arc<[Box<str>]> {
        names.iter().map(|name| Box::from(*name)).collect()
    }

    /// Without cells yet; there must be one for each name.
    pub(super) fn new(names: Arc<[Box<str>]>) -> Self {
        let cells = Vec::with_capacity(names.len());
        Self { names, cells, texts: String::with_capacity(TEXTS) }
    }

    /// The cell of the next column.
    pub(super) fn push(&mut self, cell: Cell<'_>) {
        self.cells.push(match cell {
            Cell::Null => Kept::Null,
            Cell::Integer(number) => Kept::Integer(number),
            Cell::Text(text) => {
                let start = self.texts.len();
                self.texts.push_str(text);
                Kept::Text(start, self.texts.len())
            }
            Cell::Odd => Kept::Odd,
        });
    }

    /// Names of columns, in their order.
    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(Box::as_ref)
    }

    /// In the order of the columns.
    pub(super) fn cells(&self) -> impl Iterator<Item = Cell<'_>> {
        self.cells.iter().map(|kept| self.cell(*kept))
    }

    fn cell(&self, kept: Kept) -> Cell<'_> {
        match kept {
            Kept::Null => Cell::Null,
            Kept::Integer(number) => Cell::Integer(number),
            Kept::Text(start, end) => self.texts.get(start..end).map_or(Cell::Odd, Cell::Text),
            Kept::Odd => Cell::Odd,
        }
    }
}

/// Reads columns by name, the fastest in the order in which the statement names them.
pub(super) struct Columns<'r> {
    row: &'r Row,
    /// Behind the column that was read last.
    next: std::cell::Cell<usize>,
}

impl<'r> Columns<'r> {
    pub(super) fn of(row: &'r Row) -> Self {
        Self { row, next: std::cell::Cell::new(0) }
    }

    pub(super) fn text(&self, name: &'static str) -> Result<String> {
        self.str(name).map(str::to_owned)
    }

    fn str(&self, name: &'static str) -> Result<&'r str> {
        match self.get(name)? {
            Cell::Text(text) => Ok(text),
            other => Err(odd(name, other)),
        }
    }

    pub(super) fn maybe_text(&self, name: &'static str) -> Result<Option<String>> {
        match self.get(name)? {
            Cell::Null => Ok(None),
            Cell::Text(text) => Ok(Some(text.to_owned())),
            other => Err(odd(name, other)),
        }
    }

    pub(super) fn integer(&self, name: &'static str) -> Result<i64> {
        match self.get(name)? {
            Cell::Integer(number) => Ok(number),
            other => Err(odd(name, other)),
        }
    }

    pub(super) fn maybe_integer(&self, name: &'static str) -> Result<Option<i64>> {
        match self.get(name)? {
            Cell::Null => Ok(None),
            Cell::Integer(number) => Ok(Some(number)),
            other => Err(odd(name, other)),
        }
    }

    pub(super) fn flag(&self, name: &'static str) -> Result<bool> {
        Ok(self.integer(name)? != 0)
    }

    pub(super) fn json<T: serde::de::DeserializeOwned>(&self, name: &'static str) -> Result<T> {
        from_json(name, self.str(name)?)
    }

    pub(super) fn state<T>(&self, name: &'static str, parse: impl Fn(&str) -> Option<T>) -> Result<T> {
        let text = self.str(name)?;
        parse(text).ok_or_else(|| garbled(name, text))
    }

    fn get(&self, name: &'static str) -> Result<Cell<'r>> {
        let names = &self.row.names;
        let next = self.next.get().min(names.len());
        let (before, after) = names.split_at(next);
        let at = |names: &[Box<str>]| names.iter().position(|column| **column == *name);
        let place = at(after).map(|place| next + place).or_else(|| at(before));
        let kept = place.and_then(|place| {
            self.next.set(place + 1);
            self.row.cells.get(place)
        });
        kept.map(|kept| self.row.cell(*kept)).ok_or_else(|| {
            Error::new(Reason::Internal, format!("a statement of the store does not answer a column {name:?}"))
        })
    }
}

fn odd(name: &str, cell: Cell<'_>) -> Error {
    garbled(name, &format!("{cell:?}"))
}

pub(super) fn from_json<T: serde::de::DeserializeOwned>(name: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| garbled(name, text).because(error))
}

fn garbled(name: &str, text: &str) -> Error {
    Error::new(Reason::Internal, format!("the database holds {text:?} in {name}, which this version cannot read"))
}

pub(super) fn json<T: serde::Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

pub(super) fn map(value: &StringMap) -> String {
    if value.is_empty() { "{}".to_owned() } else { json(value) }
}
