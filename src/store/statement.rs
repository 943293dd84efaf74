//! A statement with its parameters, and what it comes to: the same for every engine.

use std::borrow::Cow;

use super::readers::Readers;
use super::row::Row;
use crate::error::{Error, Reason, Result};

/// What is bound to a parameter; `None` is NULL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Integer(Option<i64>),
    Text(Option<Cow<'static, str>>),
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(Some(number))
    }
}

impl From<Option<i64>> for Value {
    fn from(number: Option<i64>) -> Self {
        Self::Integer(number)
    }
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(Some(Cow::Borrowed(text)))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Some(Cow::Owned(text)))
    }
}

impl From<Option<String>> for Value {
    fn from(text: Option<String>) -> Self {
        Self::Text(text.map(Cow::Owned))
    }
}

/// A text with parameters `$1`, `$2`, … and what is bound to them.
#[derive(Debug, Clone)]
pub(super) struct Statement {
    /// Borrowed when it is written out in the source: then an engine keeps it prepared.
    pub(super) text: Cow<'static, str>,
    /// How `PostgreSQL` says it, where it says it differently.
    on_postgres: Option<&'static str>,
    pub(super) values: Vec<Value>,
}

/// A statement that is written out in the source.
pub(super) fn sql(text: &'static str) -> Statement {
    Statement { text: Cow::Borrowed(text), on_postgres: None, values: Vec::new() }
}

/// A statement that is put together, from names in the source alone: whatever a caller said is bound.
pub(super) fn composed(text: String, values: Vec<Value>) -> Statement {
    Statement { text: Cow::Owned(text), on_postgres: None, values }
}

/// `$1, $2, …`, as many as there are values.
pub(super) fn numbered(values: usize) -> String {
    (1..=values).map(|number| format!("${number}")).collect::<Vec<_>>().join(", ")
}

/// The two ways to say what they do not say alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

impl Statement {
    /// Says it differently to `PostgreSQL`; the parameters are the same.
    pub(super) fn on_postgres(mut self, text: &'static str) -> Self {
        self.on_postgres = Some(text);
        self
    }

    /// The text for `PostgreSQL`.
    pub(super) fn for_postgres(&self) -> Cow<'static, str> {
        self.on_postgres.map_or_else(|| self.text.clone(), Cow::Borrowed)
    }

    /// Binds the next parameter.
    pub(super) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Reads the rows that it answers; few, and found by an index.
    pub(super) async fn fetch_all(self, readers: &Readers) -> Result<Vec<Row>> {
        Ok(readers.look(&self).await?.rows)
    }

    /// As [`Statement::fetch_all`], for a statement that answers one row or none.
    pub(super) async fn fetch_optional(self, readers: &Readers) -> Result<Option<Row>> {
        Ok(readers.look(&self).await?.rows.pop())
    }

    /// As [`Statement::fetch_all`], for a statement that always answers one row.
    pub(super) async fn fetch_one(self, readers: &Readers) -> Result<Row> {
        self.fetch_optional(readers).await?.ok_or_else(|| Error::new(Reason::Internal, "a statement answered no row"))
    }

    /// Reads what may take going through many rows.
    pub(super) async fn search(self, readers: &Readers) -> Result<Vec<Row>> {
        Ok(readers.search(self).await?.rows)
    }
}

/// What a statement came to.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// Rows that it changed; nothing sensible for one that only reads.
    pub(super) changed: u64,
    /// Rows that it answered.
    pub(super) rows: Vec<Row>,
}
