//! What a durable commit costs by itself: the unit of all that is durable.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, SqliteConnection};

use crate::figures::timed;

/// A database with one table, as durable as the daemon's.
pub(crate) struct Raw {
    connection: SqliteConnection,
    rows: i64,
}

impl Raw {
    pub(crate) async fn open(path: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let mut connection = options.connect().await?;
        sqlx::query("CREATE TABLE line (id INTEGER PRIMARY KEY, text TEXT NOT NULL)").execute(&mut connection).await?;
        Ok(Self { connection, rows: 0 })
    }

    /// One row, durable.
    pub(crate) async fn commit(&mut self) -> Result<Duration> {
        self.rows += 1;
        let row = sqlx::query("INSERT INTO line (id, text) VALUES ($1, 'a line of text')").bind(self.rows);
        let connection = &mut self.connection;
        let (took, ()) = timed(async move {
            sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
            row.execute(&mut *connection).await?;
            sqlx::query("COMMIT").execute(&mut *connection).await?;
            Ok(())
        })
        .await?;
        Ok(took)
    }
}
