//! `PostgreSQL`: a database that any number of daemons share.
//!
//! `session` runs statements on a connection, `writer` runs operations in transactions of their own, several at a time, and
//! again when they met others; `wire` has the connections, each of which may fall silent; `open` brings a database to this version; `tidings` hears what other daemons commit, tells them
//! what is committed here, and follows the events.

mod failure;
mod open;
mod session;
mod tidings;
mod wire;
mod writer;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::statement::{Answer, Statement};
use super::trial::notifies;
use crate::error::Result;

use wire::{SILENCE, THOROUGH, Wires};

pub(super) use open::{Shared, migrate, open, session};
pub(super) use writer::Writer;

/// A database on a server.
#[derive(Clone)]
pub struct Remote {
    /// `postgres://…`, with everything that libpq's URLs have; it may hold a password, and is never shown.
    pub url: String,
    /// Connections that this daemon keeps at most, those to listen, to tell and to keep claims not counted; at least 2.
    pub connections: u32,
    /// The machine and data folder of this daemon: what is on a local host belongs to the daemon whose machine it is.
    pub home: String,
    /// Whether others are told at once what is committed here, and are heard; only tests switch it off.
    pub notify: bool,
}

impl Remote {
    /// As many connections as suit a few workers.
    #[must_use]
    pub fn at(url: impl Into<String>) -> Self {
        Self { url: url.into(), connections: 12, home: String::new(), notify: notifies() }
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("connections", &self.connections).finish_non_exhaustive()
    }
}

/// Readers on connections of the pool.
#[derive(Clone)]
pub(super) struct Readers {
    wires: Wires,
    /// Statements run on all connections.
    count: Arc<AtomicU64>,
    /// Looks so far.
    looks: Arc<AtomicU64>,
}

/// A look is taken so often when connections are lost under it, as they all are when the server starts anew.
const LOOKS: u32 = 4;

impl Readers {
    pub(super) fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }

    pub(super) async fn look(&self, statement: &Statement) -> Result<Answer> {
        self.ask(statement, SILENCE).await
    }

    /// As [`Readers::look`], for what may go through many rows.
    pub(super) async fn search(&self, statement: &Statement) -> Result<Answer> {
        self.ask(statement, THOROUGH).await
    }

    async fn ask(&self, statement: &Statement, patience: Duration) -> Result<Answer> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match self.wires.take().await {
                Ok(mut wire) => match session::answer(&mut wire, statement, &self.count, patience).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            // One silent connection may be the only one; two are a silent database.
            let is_enough = tries == LOOKS || begun.elapsed() > SILENCE * 3 / 2;
            if failure::trouble(&error).is_none() || is_enough {
                return Err(failure::failed(error));
            }
            pause(Duration::from_millis(20 << tries)).await;
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "it waits for a server, whatever the clock of leases shows")]
async fn pause(span: Duration) {
    tokio::time::sleep(span).await;
}
