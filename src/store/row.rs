//! Rows to model and back: JSON columns, ids, states.

use std::sync::Arc;

use rusqlite::types::ValueRef;

use crate::error::{Error, Reason, Result};
use crate::model::StringMap;

/// What stands in a column of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cell {
    Null,
    Integer(i64),
    Text(String),
    /// Of a type that no column has.
    Odd,
}

impl From<ValueRef<'_>> for Cell {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(number) => Self::Integer(number),
            ValueRef::Text(bytes) => String::from_utf8(bytes.to_vec()).map_or(Self::Odd, Self::Text),
            ValueRef::Real(_) | ValueRef::Blob(_) => Self::Odd,
        }
    }
}

/// A row that a statement answered.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// Shared by all rows of an answer.
    names: Arc<[Box<str>]>,
    cells: Vec<Cell>,
}

impl Row {
    pub(super) fn names(names: &[&str]) -> Arc<[Box<str>]> {
        names.iter().map(|name| Box::from(*name)).collect()
    }

    /// Names of columns, in their order.
    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(Box::as_ref)
    }

    pub(super) fn cells(&self) -> &[Cell] {
        &self.cells
    }

    pub(super) fn new(names: Arc<[Box<str>]>, cells: Vec<Cell>) -> Self {
        Self { names, cells }
    }
}

/// Reads columns by name.
pub(super) struct Columns<'r>(pub(super) &'r Row);

impl Columns<'_> {
    pub(super) fn text(&self, name: &'static str) -> Result<String> {
        self.str(name).map(str::to_owned)
    }

    fn str(&self, name: &'static str) -> Result<&str> {
        match self.get(name)? {
            Cell::Text(text) => Ok(text),
            other => Err(odd(name, other)),
        }
    }

    pub(super) fn maybe_text(&self, name: &'static str) -> Result<Option<String>> {
        match self.get(name)? {
            Cell::Null => Ok(None),
            Cell::Text(text) => Ok(Some(text.clone())),
            other => Err(odd(name, other)),
        }
    }

    pub(super) fn integer(&self, name: &'static str) -> Result<i64> {
        match self.get(name)? {
            Cell::Integer(number) => Ok(*number),
            other => Err(odd(name, other)),
        }
    }

    pub(super) fn maybe_integer(&self, name: &'static str) -> Result<Option<i64>> {
        match self.get(name)? {
            Cell::Null => Ok(None),
            Cell::Integer(number) => Ok(Some(*number)),
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

    fn get(&self, name: &'static str) -> Result<&Cell> {
        let place = self.0.names.iter().position(|column| **column == *name);
        place.and_then(|place| self.0.cells.get(place)).ok_or_else(|| {
            Error::new(Reason::Internal, format!("a statement of the store does not answer a column {name:?}"))
        })
    }
}

fn odd(name: &str, cell: &Cell) -> Error {
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
