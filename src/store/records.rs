//! Small records: answers to requests with an id, and the daemons.

use super::row::{Columns, Row};
use super::statement::{Statement, sql};
use super::{Store, Tx};
use crate::clock::Micros;
use crate::error::{Error, Reason, Result};

/// A mutation's request id, as its caller sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Who.
    pub principal: String,
    /// Which RPC.
    pub method: String,
    /// At most 128 characters.
    pub request_id: String,
    /// A digest of the body without what is not compared.
    pub body: String,
}

/// How long an answer is kept, microseconds: 24 h.
const KEPT: Micros = 86_400_000_000;

/// A daemon that was not seen for so long, microseconds, is taken off the record: 10 min.
const FORGOTTEN: Micros = 600_000_000;

/// A daemon on this database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// Stable while it runs.
    pub id: String,
    /// Its version.
    pub version: String,
    /// Its machine.
    pub machine: String,
    /// Where it is reached.
    pub address: String,
    /// Since.
    pub start_time: Micros,
    /// Last heartbeat.
    pub seen_time: Micros,
    /// Takes no new tasks.
    pub draining: bool,
    /// Tasks it holds.
    pub claims: i64,
}

impl Tx {
    /// The object that this request made before, if it was seen.
    ///
    /// # Errors
    /// `REQUEST_ID_REUSED` when it came with another body.
    pub async fn seen(&mut self, request: &Request) -> Result<Option<String>> {
        let statement = lookup(request, self.now());
        let row = self.fetch_one(statement).await?;
        same_body(request, row.as_ref())
    }

    /// Remembers what a request made.
    pub async fn remember(&mut self, request: &Request, object: &str) -> Result<()> {
        let statement = sql(
            "INSERT INTO request (principal, method, request_id, body, object, expire_time) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (principal, method, request_id) DO UPDATE SET body = excluded.body, object = excluded.object, expire_time = excluded.expire_time \
             WHERE request.expire_time <= $7",
        )
        .bind(request.principal.clone())
        .bind(request.method.clone())
        .bind(request.request_id.clone())
        .bind(request.body.clone())
        .bind(object.to_owned())
        .bind(self.now() + KEPT)
        .bind(self.now());
        if self.execute(statement).await? == 0 {
            // The same request is being served elsewhere: seen in the next run.
            return Err(self.overtaken(format!("the request {:?} is being served", request.request_id)));
        }
        Ok(())
    }
}

fn lookup(request: &Request, now: Micros) -> Statement {
    sql(
        "SELECT body, object FROM request WHERE principal = $1 AND method = $2 AND request_id = $3 AND expire_time > $4",
    )
    .bind(request.principal.clone())
    .bind(request.method.clone())
    .bind(request.request_id.clone())
    .bind(now)
}

fn same_body(request: &Request, row: Option<&Row>) -> Result<Option<String>> {
    let Some(row) = row else { return Ok(None) };
    let columns = Columns::of(row);
    if columns.text("body")? == request.body {
        return columns.text("object").map(Some);
    }
    Err(Error::new(
        Reason::RequestIdReused,
        format!(
            "the request_id {:?} came before with another body; use a new one for a new request",
            request.request_id
        ),
    ))
}

impl Store {
    /// The object that this request made before, if it was seen; as [`Tx::seen`].
    ///
    /// # Errors
    /// `REQUEST_ID_REUSED` when it came with another body.
    pub async fn seen(&self, request: &Request) -> Result<Option<String>> {
        let row = lookup(request, self.clock().now()).fetch_optional(self.readers()).await?;
        same_body(request, row.as_ref())
    }

    /// Writes that a daemon lives. On one file there is only one, so others are gone; among several those go that were not
    /// seen for long.
    pub async fn daemon_lives(&self, daemon: &Daemon) -> Result<()> {
        let (daemon, forgotten) = (daemon.clone(), if self.is_shared() { FORGOTTEN } else { Micros::MIN });
        self.write(move |tx| {
            let daemon = daemon.clone();
            Box::pin(async move {
                let before = tx.now().saturating_sub(forgotten);
                let others = sql("DELETE FROM daemon WHERE id <> $1 AND seen_time < $2");
                tx.execute(others.bind(daemon.id.clone()).bind(before)).await?;
                let statement = sql(
                    "INSERT INTO daemon (id, version, machine, address, start_time, seen_time, draining) VALUES ($1, $2, $3, $4, $5, $6, $7) \
                     ON CONFLICT (id) DO UPDATE SET seen_time = excluded.seen_time, draining = excluded.draining",
                )
                .bind(daemon.id.clone())
                .bind(daemon.version.clone())
                .bind(daemon.machine.clone())
                .bind(daemon.address.clone())
                .bind(daemon.start_time)
                .bind(tx.now())
                .bind(i64::from(daemon.draining));
                tx.execute(statement).await.map(|_| ())
            })
        })
        .await
    }

    /// All daemons, by start time.
    pub async fn daemons(&self) -> Result<Vec<Daemon>> {
        sql(
            "SELECT *, (SELECT count(*) FROM task WHERE state = 'RUNNING' AND claim_until IS NOT NULL AND claimed_by LIKE daemon.id || '/%') AS claims \
             FROM daemon ORDER BY start_time, id",
        )
        .fetch_all(self.readers()).await?
        .iter()
        .map(|row| {
            let c = Columns::of(row);
            Ok(Daemon {
                id: c.text("id")?,
                version: c.text("version")?,
                machine: c.text("machine")?,
                address: c.text("address")?,
                start_time: c.integer("start_time")?,
                seen_time: c.integer("seen_time")?,
                draining: c.flag("draining")?,
                claims: c.integer("claims")?,
            })
        })
        .collect()
    }
}
