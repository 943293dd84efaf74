//! Rows to model and back: JSON columns, ids, states.

use sqlx::any::AnyRow;
use sqlx::{ColumnIndex, Row};

use super::failed;
use crate::error::{Error, Reason, Result};
use crate::model::StringMap;

/// Reads columns by name.
pub(super) struct Columns<'r>(pub(super) &'r AnyRow);

impl Columns<'_> {
    pub(super) fn text(&self, name: &'static str) -> Result<String> {
        self.get(name)
    }

    pub(super) fn maybe_text(&self, name: &'static str) -> Result<Option<String>> {
        self.get(name)
    }

    pub(super) fn integer(&self, name: &'static str) -> Result<i64> {
        self.get(name)
    }

    pub(super) fn maybe_integer(&self, name: &'static str) -> Result<Option<i64>> {
        self.get(name)
    }

    pub(super) fn flag(&self, name: &'static str) -> Result<bool> {
        Ok(self.integer(name)? != 0)
    }

    pub(super) fn json<T: serde::de::DeserializeOwned>(&self, name: &'static str) -> Result<T> {
        from_json(name, &self.text(name)?)
    }

    pub(super) fn state<T>(&self, name: &'static str, parse: impl Fn(&str) -> Option<T>) -> Result<T> {
        let text = self.text(name)?;
        parse(&text).ok_or_else(|| garbled(name, &text))
    }

    fn get<'r, T>(&'r self, name: &'static str) -> Result<T>
    where
        T: sqlx::Decode<'r, sqlx::Any> + sqlx::Type<sqlx::Any>,
        &'static str: ColumnIndex<AnyRow>,
    {
        self.0.try_get(name).map_err(failed)
    }
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
