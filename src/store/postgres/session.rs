//! Statements on a connection, and transactions.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Column as _, Either, Executor as _, Postgres, Row as _, TypeInfo as _, ValueRef as _};

use super::failure::{failed, trouble};
use crate::clock::Micros;
use crate::error::{Error, Reason, Result};
use crate::store::claiming::LowWater;
use crate::store::row::{Cell, Row};
use crate::store::statement::{Answer, Dialect, Statement, Value};
use crate::store::tx::{self, Trouble};

/// Runs a statement on a connection.
pub(super) async fn answer(
    connection: &mut PgConnection,
    statement: &Statement,
    count: &AtomicU64,
) -> Result<Answer, sqlx::Error> {
    count.fetch_add(1, Ordering::Relaxed);
    let mut query = match statement.for_postgres() {
        Cow::Borrowed(text) => sqlx::query(text),
        Cow::Owned(text) => sqlx::query(AssertSqlSafe(text)).persistent(false),
    };
    for value in &statement.values {
        query = match value {
            Value::Integer(number) => query.bind(*number),
            Value::Text(text) => query.bind(text.as_deref().map(storable)),
        };
    }
    let mut answer = Answer::default();
    let mut names = None;
    let mut results = connection.fetch_many(query);
    while let Some(result) = results.try_next().await? {
        match result {
            Either::Left(done) => answer.changed += done.rows_affected(),
            Either::Right(row) => {
                let names = names.get_or_insert_with(|| {
                    let names: Vec<&str> = row.columns().iter().map(sqlx::postgres::PgColumn::name).collect();
                    Row::names(&names)
                });
                answer.rows.push(Row::new(Arc::clone(names), cells(&row)?));
            }
        }
    }
    Ok(answer)
}

/// A TEXT of `PostgreSQL` holds no NUL, neither as it is nor written in JSON: such things come in the output of programs, for
/// people to read.
fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') || text.contains("\\u0000") {
        return Cow::Owned(text.replace('\0', "\u{fffd}").replace("\\u0000", "\\ufffd"));
    }
    Cow::Borrowed(text)
}

fn cells(row: &PgRow) -> Result<Vec<Cell>, sqlx::Error> {
    (0..row.len())
        .map(|index| {
            let value = row.try_get_raw(index)?;
            if value.is_null() {
                return Ok(Cell::Null);
            }
            Ok(match value.type_info().name() {
                "INT8" => Cell::Integer(row.try_get(index)?),
                "INT4" => Cell::Integer(i64::from(row.try_get::<i32, _>(index)?)),
                "TEXT" | "VARCHAR" | "NAME" => Cell::Text(row.try_get(index)?),
                _ => Cell::Odd,
            })
        })
        .collect()
}

/// How long a transaction waits for a lock at first.
pub(super) const PATIENCE: Duration = Duration::from_millis(200);

/// A connection on which a transaction runs.
pub(super) struct Session {
    connection: PoolConnection<Postgres>,
    count: Arc<AtomicU64>,
    home: Arc<str>,
    low_water: Option<Arc<LowWater>>,
    /// How long it waits for a lock: not long, since two may wait for each other.
    patience: Duration,
    /// A transaction has begun and not ended.
    open: bool,
    /// A statement failed: the server takes no other one, and would take a COMMIT for a ROLLBACK.
    failed: bool,
    trouble: Option<Trouble>,
}

impl Session {
    pub(super) fn new(
        connection: PoolConnection<Postgres>,
        count: Arc<AtomicU64>,
        home: Arc<str>,
        patience: Duration,
    ) -> Self {
        Self { connection, count, home, low_water: None, patience, open: false, failed: false, trouble: None }
    }

    /// It is one of a daemon, which knows where the queue begins.
    pub(super) fn knowing(mut self, low_water: Arc<LowWater>) -> Self {
        self.low_water = Some(low_water);
        self
    }

    fn fails(&mut self, error: sqlx::Error) -> Error {
        self.failed = true;
        self.trouble = self.trouble.or(trouble(&error));
        failed(error)
    }
}

#[async_trait]
impl tx::Session for Session {
    async fn begin(&mut self) -> Result<Option<Micros>> {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.open = true;
        let patience = match self.patience {
            // As it is said to each connection.
            PATIENCE => String::new(),
            longer => format!(" SET LOCAL lock_timeout = {};", longer.as_millis()),
        };
        let text = format!("BEGIN;{patience} SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now");
        match sqlx::raw_sql(AssertSqlSafe(text)).fetch_one(&mut *self.connection).await.and_then(|row| row.try_get(0)) {
            Ok(now) => Ok(Some(now)),
            Err(error) => Err(self.fails(error)),
        }
    }

    async fn run(&mut self, statement: Statement) -> Result<Answer> {
        match answer(&mut self.connection, &statement, &self.count).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                let text = statement.for_postgres();
                tracing::debug!(statement = %text, %error, "a statement failed");
                Err(self.fails(error))
            }
        }
    }

    async fn commit(&mut self) -> Result<()> {
        if self.failed {
            let why = "a statement of this transaction failed, and its work went on regardless";
            return Err(Error::new(Reason::Internal, why));
        }
        match sqlx::raw_sql("COMMIT").execute(&mut *self.connection).await {
            Ok(_) => {
                self.open = false;
                Ok(())
            }
            Err(error) => {
                self.failed = true;
                // Nobody knows how a commit came out whose answer was lost: it must not be run again.
                self.trouble = trouble(&error).filter(|trouble| *trouble == Trouble::Met);
                let error = failed(error);
                if error.reason == Reason::StoreUnavailable && self.trouble.is_none() {
                    let why = "the database was lost during a commit: it was written or not; look before you try again";
                    return Err(Error { message: why.to_owned(), ..error });
                }
                Err(error)
            }
        }
    }

    async fn rollback(&mut self) {
        if self.open && self.trouble != Some(Trouble::Lost) {
            self.open = sqlx::raw_sql("ROLLBACK").execute(&mut *self.connection).await.is_err();
        }
    }

    fn dialect(&self) -> Dialect {
        Dialect::Postgres
    }

    fn home(&self) -> String {
        self.home.to_string()
    }

    fn low_water(&self) -> Option<&LowWater> {
        self.low_water.as_deref()
    }

    fn trouble(&self) -> Option<Trouble> {
        self.trouble
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.open {
            // Nobody shall go on in what was left open here.
            self.connection.close_on_drop();
        }
    }
}
