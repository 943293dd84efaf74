//! One transaction: what it may do, and what it tells after the commit.

use std::collections::HashSet;

use async_trait::async_trait;

use super::claiming::{Level, LowWater};
use super::count::Counts;
use super::locks::Lock;
use super::row::{Columns, Row, json, map};
use super::statement::{Answer, Dialect, Statement, sql};
use super::{Claim, News};
use crate::clock::{Micros, SharedClock};
use crate::error::{Error, Reason, Result};
use crate::model::id::{EventId, LeaseId, Subject};
use crate::model::slot::Slot;
use crate::model::{Event, NewEvent};

/// A connection on which a transaction runs: what each engine brings.
#[async_trait]
pub(super) trait Session: Send {
    /// Begins a transaction; answers what the database's own clock shows, when it has one that counts. May hold the claim at once.
    async fn begin(&mut self, opening: &Opening) -> Result<Begun>;

    async fn run(&mut self, statement: Statement) -> Result<Answer>;

    async fn commit(&mut self) -> Result<()>;

    async fn rollback(&mut self);

    fn dialect(&self) -> Dialect;

    /// The daemon's machine and data folder, where there may be others.
    fn home(&self) -> String {
        String::new()
    }

    /// Where the queue begins, where there may be other daemons.
    fn low_water(&self) -> Option<&LowWater> {
        None
    }

    /// Why the transaction may be worth another try.
    fn trouble(&self) -> Option<Trouble> {
        None
    }
}

/// How a transaction begins.
#[derive(Debug, Clone)]
pub(crate) enum Opening {
    /// It may do anything.
    Plain,
    /// First of all it looks at the fence of a claim: its begin and that look may be one.
    Hold(Claim),
    /// It writes nothing. On `PostgreSQL` all that it reads is of one moment, and it neither waits for a lock nor keeps one from others.
    Look,
}

/// What a transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intent {
    Write,
    /// It takes no locks.
    Look,
}

/// What came of a begin.
#[derive(Debug, Default)]
pub(super) struct Begun {
    /// What the database's own clock shows, when it has one that counts.
    pub(super) told: Option<Micros>,
    /// The fence of the claim, if it was looked at; see [`Tx::hold`].
    pub(super) held: Option<Held>,
}

/// The baton of a task whose claim holds; `None` when the claim was lost.
pub(super) type Held = Option<Option<String>>;

/// Why a transaction did not work out, though there is nothing wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It met another one: at once again.
    Met,
    /// The connection was lost before the commit: again on another one.
    Lost,
}

/// One transaction of the writer.
pub struct Tx {
    pub(super) session: Box<dyn Session>,
    /// What it holds beside the rows that it wrote; see `locks`.
    pub(super) locks: HashSet<Lock>,
    overtaken: bool,
    pub(super) intent: Intent,
    /// The fence that was looked at with the begin.
    pub(super) opened: Option<Held>,
    clock: SharedClock,
    /// The time of this transaction; one for all that it writes.
    now: Micros,
    news: News,
    /// The lowest place of the tasks that it claimed.
    claimed: Option<Level>,
    wrote: bool,
    wrote_at_all: bool,
}

impl Tx {
    pub(super) fn new(session: Box<dyn Session>, clock: SharedClock) -> Self {
        Self {
            session,
            locks: HashSet::new(),
            overtaken: false,
            intent: Intent::Write,
            opened: None,
            clock,
            now: 0,
            news: News::default(),
            claimed: None,
            wrote: false,
            wrote_at_all: false,
        }
    }

    /// The time of this transaction.
    #[must_use]
    pub fn now(&self) -> Micros {
        self.now
    }

    pub(super) async fn begin(&mut self, opening: &Opening) -> Result<()> {
        self.news = News::default();
        self.claimed = None;
        self.wrote_at_all = false;
        self.overtaken = false;
        self.locks.clear();
        self.intent = if matches!(opening, Opening::Look) { Intent::Look } else { Intent::Write };
        let begun = self.session.begin(opening).await?;
        self.now = match begun.told {
            Some(told) => self.clock.hear(told),
            None => self.clock.now(),
        };
        if let (Some(Some(_)), Opening::Hold(Claim { root: Some(root), .. })) = (&begun.held, opening) {
            self.has_tree(root);
        }
        self.opened = begun.held;
        Ok(())
    }

    pub(super) fn begin_operation(&mut self) {
        self.wrote = false;
    }

    pub(super) fn has_written(&self) -> bool {
        self.wrote
    }

    pub(super) fn has_written_at_all(&self) -> bool {
        self.wrote_at_all
    }

    pub(super) async fn commit(&mut self) -> Result<News> {
        if let Err(error) = self.session.commit().await {
            self.rollback().await;
            return Err(error);
        }
        self.news.counts.durable = true;
        if let (Some(low_water), Some(level)) = (self.session.low_water(), self.news.level) {
            low_water.lower(level);
        }
        Ok(std::mem::take(&mut self.news))
    }

    pub(super) async fn rollback(&mut self) {
        self.session.rollback().await;
        // What it claimed is ready again.
        if let (Some(low_water), Some(level)) = (self.session.low_water(), self.claimed.take()) {
            low_water.lower(level);
        }
        self.news = News::default();
        self.wrote_at_all = false;
    }

    /// Someone else was faster: an error that is worth another run of the same work.
    pub(super) fn overtaken(&mut self, message: String) -> Error {
        self.overtaken = true;
        Error::new(Reason::EtagMismatch, message)
    }

    /// As [`Tx::overtaken`], for what was written by someone else since it was read.
    pub(super) fn stale(&mut self, id: &str) -> Error {
        self.overtaken(format!("{id} changed since it was read; read it again and decide again"))
    }

    /// Whether what went wrong here may go right in another transaction.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.session.trouble().or(self.overtaken.then_some(Trouble::Met))
    }

    async fn run(&mut self, statement: Statement) -> Result<Answer> {
        self.session.run(statement).await
    }

    /// Runs a statement that changes rows; how many.
    pub(super) async fn execute(&mut self, statement: Statement) -> Result<u64> {
        self.mark_written();
        Ok(self.run(statement).await?.changed)
    }

    /// Runs a statement that changes rows and answers them.
    pub(super) async fn execute_returning(&mut self, statement: Statement) -> Result<Vec<Row>> {
        self.mark_written();
        self.fetch(statement).await
    }

    pub(super) async fn fetch(&mut self, statement: Statement) -> Result<Vec<Row>> {
        Ok(self.run(statement).await?.rows)
    }

    pub(super) async fn fetch_one(&mut self, statement: Statement) -> Result<Option<Row>> {
        Ok(self.run(statement).await?.rows.into_iter().next())
    }

    fn mark_written(&mut self) {
        self.wrote = true;
        self.wrote_at_all = true;
    }

    pub(super) fn counts(&mut self) -> &mut Counts {
        &mut self.news.counts
    }

    /// A task became ready at that place in the queue.
    pub(super) fn tell_ready(&mut self, root: Option<&LeaseId>, level: Level) {
        self.news.ready += 1;
        self.note_level(level);
        self.news.counts.woken();
        if let Some(root) = root {
            self.news.ready_roots.insert(root.clone());
        }
    }

    /// A task that may be ready came to that place in the queue.
    pub(super) fn note_level(&mut self, level: Level) {
        self.news.level = Some(self.news.level.map_or(level, |lower| lower.min(level)));
    }

    /// The lowest place of the tasks that became ready.
    pub(super) fn made_ready(&self) -> Option<Level> {
        self.news.level
    }

    /// A task at that place was claimed.
    pub(super) fn note_claim(&mut self, level: Level) {
        self.claimed = Some(self.claimed.map_or(level, |lower| lower.min(level)));
    }

    pub(super) fn has_ready(&self) -> bool {
        self.news.ready > 0
    }

    /// Whoever commits takes one of the ready tasks along: nobody else need be told of that one.
    pub(super) fn tell_taken(&mut self) {
        self.news.ready = self.news.ready.saturating_sub(1);
    }

    pub(super) fn tell_timer(&mut self, at: Micros) {
        self.news.timer = Some(self.news.timer.map_or(at, |earlier| earlier.min(at)));
    }

    /// Takes all of these slots for `holder`, or none.
    ///
    /// # Errors
    /// `ETAG_MISMATCH` with the slot that someone else has: whoever planned on an older snapshot plans again.
    pub async fn take_slots(&mut self, holder: &Subject, epoch: i64, slots: &[Slot]) -> Result<()> {
        for slot in slots {
            if !self.try_slot(holder, epoch, slot).await? {
                return Err(self.overtaken(format!("the slot {} was taken meanwhile", slot.key())));
            }
        }
        Ok(())
    }

    /// Takes one slot when it is free; whether it did.
    pub async fn try_slot(&mut self, holder: &Subject, epoch: i64, slot: &Slot) -> Result<bool> {
        if !self.takes_leases(&slot.scope).await? {
            return Ok(false);
        }
        let statement = sql(
            "INSERT INTO slot (scope, place, holder, epoch) VALUES ($1, $2, $3, $4) ON CONFLICT (scope, place) DO NOTHING",
        )
        .bind(slot.scope.clone())
        .bind(slot.place)
        .bind(holder.to_string())
        .bind(epoch);
        Ok(self.execute(statement).await? == 1)
    }

    /// Gives back all slots of `holder`; `scope` narrows it to one source of capacity. Answers the scope of each.
    pub async fn free_slots(&mut self, holder: &Subject, scope: Option<&str>) -> Result<Vec<String>> {
        let statement = match scope {
            None => sql("DELETE FROM slot WHERE holder = $1 RETURNING scope").bind(holder.to_string()),
            Some(scope) => sql("DELETE FROM slot WHERE holder = $1 AND scope = $2 RETURNING scope")
                .bind(holder.to_string())
                .bind(scope.to_owned()),
        };
        self.execute_returning(statement).await?.iter().map(|row| Columns::of(row).text("scope")).collect()
    }

    /// Appends an event.
    pub async fn event(&mut self, event: NewEvent) -> Result<()> {
        let id = EventId::new(self.now);
        let number = i64::try_from(self.news.events.len()).unwrap_or(i64::MAX);
        let statement = sql(
            "INSERT INTO event (id, time, kind, reason, message, actor, subject, subjects, root_id, owner, details) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING seq",
        )
        .on_postgres(super::events::INSERT)
        .bind(id.to_string())
        .bind(self.now)
        .bind(event.kind)
        .bind(event.reason.clone())
        .bind(event.message.clone())
        .bind(event.actor.clone())
        .bind(event.subjects.first().cloned().unwrap_or_default())
        .bind(json(&event.subjects))
        .bind(event.root_id.as_ref().map(ToString::to_string))
        .bind(event.owner.clone())
        .bind(map(&event.details))
        .bind(number);
        let rows = self.execute_returning(statement).await?;
        let seq = rows.first().map(|row| Columns::of(row).integer("seq")).transpose()?.unwrap_or(0);
        self.news.events.push(Event {
            seq,
            id: id.into(),
            time: self.now,
            kind: event.kind.to_owned(),
            reason: event.reason,
            message: event.message,
            actor: event.actor,
            subjects: event.subjects,
            root_id: event.root_id,
            owner: event.owner,
            details: event.details,
        });
        Ok(())
    }
}

impl super::Store {
    /// Slots that `holder` has.
    pub async fn slots_of(&self, holder: &Subject) -> Result<Vec<Slot>> {
        sql("SELECT scope, place FROM slot WHERE holder = $1 ORDER BY scope, place")
            .bind(holder.to_string())
            .fetch_all(self.readers())
            .await?
            .iter()
            .map(|row| {
                let columns = Columns::of(row);
                Ok(Slot { scope: columns.text("scope")?, place: columns.integer("place")? })
            })
            .collect()
    }
}
