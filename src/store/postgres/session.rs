//! Statements on a connection, and transactions.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Column as _, Either, Executor as _, Row as _, TypeInfo as _, ValueRef as _};

use super::failure::{failed, trouble};
use super::wire::{IN_LINE, SILENCE, Wire, within};
use crate::error::{Error, Reason, Result};
use crate::model::id::Subject;
use crate::store::Claim;
use crate::store::claiming::LowWater;
use crate::store::row::{Cell, Row};
use crate::store::statement::{Answer, Dialect, Statement, Value};
use crate::store::trial::{Rule, without};
use crate::store::tx::{self, Begun, Opening, Trouble};

/// Runs a statement on a connection, and waits so long for its answer.
pub(super) async fn answer(
    wire: &mut Wire,
    statement: &Statement,
    count: &AtomicU64,
    patience: Duration,
) -> Result<Answer, sqlx::Error> {
    count.fetch_add(1, Ordering::Relaxed);
    let answer = within(patience, run(wire.ask()?, statement)).await;
    wire.heard(&answer);
    answer
}

async fn run(connection: &mut PgConnection, statement: &Statement) -> Result<Answer, sqlx::Error> {
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
                answer.rows.push(read(&row, names)?);
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

fn read(from: &PgRow, names: &Arc<[Box<str>]>) -> Result<Row, sqlx::Error> {
    let mut row = Row::new(Arc::clone(names));
    for index in 0..from.len() {
        let value = from.try_get_raw(index)?;
        row.push(match value.type_info().name() {
            _ if value.is_null() => Cell::Null,
            "INT8" => Cell::Integer(from.try_get(index)?),
            "INT4" => Cell::Integer(i64::from(from.try_get::<i32, _>(index)?)),
            "TEXT" | "VARCHAR" | "NAME" => Cell::Text(from.try_get(index)?),
            _ => Cell::Odd,
        });
    }
    Ok(row)
}

const CLOCK: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now";
/// A begin, the clock, the tree and the fence of a claim are one trip to the server. What the fence saw is as old as the wait for the
/// tree: a claim that was lost meanwhile is found when the task is written, and a baton that came meanwhile is for the next step.
pub(super) const PREPARE: &str = "PREPARE drydock_hold (text, bigint, text) AS \
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now, baton FROM task, pg_advisory_xact_lock(1, hashtext($3)) \
    WHERE id = $1 AND state = 'RUNNING' AND attempt = $2";

/// What was prepared, for this claim.
fn held(claim: &Claim) -> Option<String> {
    let root = claim.root.as_ref()?;
    // A resource is held before its task is looked at.
    if matches!(claim.subject, Subject::Resource(_)) || without(Rule::Fence) {
        return None;
    }
    let quoted = |id: &str| id.replace('\'', "''");
    let (task, root) = (quoted(claim.task.as_str()), quoted(root.as_str()));
    Some(format!("EXECUTE drydock_hold('{task}', {}, '{root}')", claim.attempt))
}

/// How long a transaction waits for a lock at first.
pub(super) const PATIENCE: Duration = Duration::from_millis(200);

/// A connection on which a transaction runs.
pub(super) struct Session {
    wire: Wire,
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
    pub(super) fn new(wire: Wire, count: Arc<AtomicU64>, home: Arc<str>, patience: Duration) -> Self {
        Self { wire, count, home, low_water: None, patience, open: false, failed: false, trouble: None }
    }

    /// It is one of a daemon, which knows where the queue begins.
    pub(super) fn knowing(mut self, low_water: Arc<LowWater>) -> Self {
        self.low_water = Some(low_water);
        self
    }

    async fn say(&mut self, word: &'static str, patience: Duration) -> Result<(), sqlx::Error> {
        let said = match self.wire.ask() {
            Ok(connection) => within(patience, sqlx::raw_sql(word).execute(connection)).await,
            Err(error) => Err(error),
        };
        self.wire.heard(&said);
        said.map(drop)
    }

    fn fails(&mut self, error: sqlx::Error) -> Error {
        self.failed = true;
        self.trouble = self.trouble.or(trouble(&error));
        failed(error)
    }
}

#[async_trait]
impl tx::Session for Session {
    async fn begin(&mut self, opening: &Opening) -> Result<Begun> {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.open = true;
        let patience = match self.patience {
            // As it is said to each connection.
            PATIENCE => String::new(),
            longer => format!(" SET LOCAL lock_timeout = {};", longer.as_millis()),
        };
        let (opens, fence) = match opening {
            Opening::Plain => ("BEGIN", None),
            Opening::Hold(claim) => ("BEGIN", held(claim)),
            Opening::Look => ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", None),
        };
        let holds = fence.is_some();
        let text = format!("{opens};{patience} {}", fence.as_deref().unwrap_or(CLOCK));
        let begun = match self.wire.ask() {
            Ok(connection) => within(IN_LINE, sqlx::raw_sql(AssertSqlSafe(text)).fetch_optional(connection)).await,
            Err(error) => Err(error),
        };
        self.wire.heard(&begun);
        let begun = begun.and_then(|row| {
            let told = row.as_ref().map(|row| row.try_get("now")).transpose()?;
            let baton = row.filter(|_| holds).map(|row| row.try_get("baton")).transpose()?;
            Ok(Begun { told, held: holds.then_some(baton) })
        });
        begun.map_err(|error| self.fails(error))
    }

    async fn run(&mut self, statement: Statement) -> Result<Answer> {
        match answer(&mut self.wire, &statement, &self.count, IN_LINE.max(self.patience * 3)).await {
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
        match self.say("COMMIT", IN_LINE).await {
            Ok(()) => {
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
            self.open = self.say("ROLLBACK", SILENCE).await.is_err();
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
            self.wire.give_up();
        }
    }
}
