//! Who reads: connections that only look, of either engine.

use std::sync::Arc;

use super::statement::{Answer, Dialect, Statement};
use super::{postgres, sqlite};
use crate::error::Result;

/// Connections that only read. They see what was committed before they look, and wait for no writer.
pub(super) enum Readers {
    Sqlite(Arc<sqlite::Readers>),
    Postgres(postgres::Readers),
}

impl Readers {
    /// Looks so far.
    pub(super) fn looks(&self) -> u64 {
        match self {
            Self::Sqlite(readers) => readers.looks(),
            Self::Postgres(readers) => readers.looks(),
        }
    }

    pub(super) fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Runs what finds its few rows by an index.
    pub(super) async fn look(&self, statement: &Statement) -> Result<Answer> {
        match self {
            Self::Sqlite(readers) => readers.look(statement).await,
            // Boxed: a look at a file shall not carry the room for one over a network.
            Self::Postgres(readers) => Box::pin(readers.look(statement)).await,
        }
    }

    /// Runs what may go through many rows.
    pub(super) async fn search(&self, statement: Statement) -> Result<Answer> {
        match self {
            Self::Sqlite(readers) => readers.search(statement).await,
            Self::Postgres(readers) => Box::pin(readers.search(&statement)).await,
        }
    }
}
