//! Watches: the present state, then every change, resumable without loss.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::present::Pulse;
use super::{Caller, Engine, LeaseView, waiting};
use crate::error::{Error, Reason, Result};
use crate::model::filter::Filter;
use crate::model::id::LeaseId;
use crate::model::{Event, LeaseState};
use crate::store::{ListQuery, News};

/// What has changed.
#[derive(Debug, Clone, PartialEq)]
pub struct LeaseUpdate {
    /// In the first update, and whenever it changed.
    pub lease: Option<LeaseView>,
    /// New events of the whole tree, oldest first.
    pub events: Vec<Event>,
    /// Give it back to resume.
    pub cursor: String,
}

/// A watch over one lease and its tree.
pub struct LeaseWatch {
    engine: Arc<Engine>,
    id: LeaseId,
    root: LeaseId,
    until: LeaseState,
    news: Receiver<Arc<News>>,
    /// Newest event that was passed on, or was there before the watch.
    seq: i64,
    /// The first update, with what came since the caller's cursor.
    first: Option<LeaseUpdate>,
    version: i64,
    /// Events that are not passed on yet: a caller may drop [`LeaseWatch::next`] half-way.
    pending: Vec<Event>,
    /// News were missed: the store is asked.
    missed: bool,
    over: bool,
    pulse: Pulse,
}

/// The text of a cursor.
#[must_use]
pub fn event_cursor(seq: i64) -> String {
    format!("c1.{seq}")
}

/// Reads a cursor.
///
/// # Errors
/// `INVALID_ARGUMENT` for what is none.
pub fn parse_event_cursor(cursor: &str) -> Result<i64> {
    cursor.strip_prefix("c1.").and_then(|seq| seq.parse().ok()).filter(|seq| *seq >= 0).ok_or_else(|| {
        Error::invalid(format!("{cursor:?} is not a cursor of this service; send one from an earlier answer, or none"))
    })
}

impl Engine {
    /// Watches a lease of the caller until it reaches `until` (DESTROYED when not given).
    ///
    /// # Errors
    /// `LEASE_NOT_FOUND`; `CURSOR_EXPIRED` when events after the cursor are no longer kept.
    pub async fn watch_lease(
        self: &Arc<Self>,
        caller: &Caller,
        id: &str,
        until: Option<LeaseState>,
        cursor: &str,
    ) -> Result<LeaseWatch> {
        // Subscribed before the first look: what is committed in between is seen by one or the other.
        let news = self.store.news();
        let since = self.resume(cursor).await?;
        let (_, newest) = self.store.event_span().await?;
        let lease = self.find_own_lease(caller, id).await?;
        let root = lease.root_id.clone();
        let mut events = Vec::new();
        if let Some(since) = since {
            let mut at = since;
            loop {
                let page = self.store.tree_events_after(&root, at).await?;
                let Some(last) = page.last() else { break };
                at = last.seq;
                events.extend(page);
            }
        }
        let seq = events.last().map_or(newest, |event| event.seq.max(newest));
        // Looked at again: it is at least as new as the events.
        let lease = self.find_own_lease(caller, id).await?;
        let version = lease.version;
        let until = until.unwrap_or(LeaseState::Destroyed);
        let view = self.view(lease).await?;
        let over = waiting::reached(view.lease.state, until);
        let id = view.lease.id.clone();
        let pulse = Pulse::of(&view, self.clock.now());
        let first = Some(LeaseUpdate { lease: Some(view), events, cursor: event_cursor(seq) });
        Ok(LeaseWatch {
            engine: Arc::clone(self),
            id,
            root,
            until,
            news,
            seq,
            first,
            version,
            pending: Vec::new(),
            missed: false,
            over,
            pulse,
        })
    }

    /// Watches events that match, and that the caller may see.
    ///
    /// # Errors
    /// `CURSOR_EXPIRED` when events after the cursor are no longer kept.
    pub async fn watch_events(
        self: &Arc<Self>,
        caller: &Caller,
        filter: Option<Filter>,
        cursor: &str,
    ) -> Result<EventWatch> {
        let news = self.store.news();
        let (_, newest) = self.store.event_span().await?;
        let seq = self.resume(cursor).await?.unwrap_or(newest);
        let query = ListQuery { filter, owner: caller.narrowed_to(), after: None, limit: 499 };
        Ok(EventWatch { engine: Arc::clone(self), query, news, seq, pending: VecDeque::new(), look: true })
    }

    /// Events the caller may see, oldest first.
    pub async fn list_events(&self, caller: &Caller, query: ListQuery) -> Result<Vec<Event>> {
        self.store.list_events(&ListQuery { owner: caller.narrowed_to(), ..query }).await
    }

    /// Sequence number of the newest event; 0 when there is none.
    pub async fn newest_event(&self) -> Result<i64> {
        Ok(self.store.event_span().await?.1)
    }

    async fn resume(&self, cursor: &str) -> Result<Option<i64>> {
        if cursor.is_empty() {
            return Ok(None);
        }
        let seq = parse_event_cursor(cursor)?;
        let (oldest, newest) = self.store.event_span().await?;
        if oldest > 0 && seq + 1 < oldest || seq > newest {
            return Err(Error::new(
                Reason::CursorExpired,
                "events after this cursor are no longer kept; start again without one, and look at the present state",
            ));
        }
        Ok(Some(seq))
    }
}

fn draining() -> Error {
    Error::new(Reason::ServerDraining, "the daemon is going down; resume from the last cursor in a moment")
}

impl LeaseWatch {
    /// The next update; `None` when the watch has reached its end. Safe to drop half-way.
    ///
    /// # Errors
    /// `SERVER_DRAINING`.
    pub async fn next(&mut self) -> Result<Option<LeaseUpdate>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        while !self.over {
            while self.missed {
                let page = self.engine.store.tree_events_after(&self.root, self.newest()).await?;
                self.missed = !page.is_empty();
                self.keep(&page);
            }
            if !self.pending.is_empty() {
                return self.update().await.map(Some);
            }
            let drain = self.engine.drain.clone();
            let due = self.pulse.due;
            let told = tokio::select! {
                told = self.news.recv() => told,
                () = self.engine.clock.sleep_until(due.unwrap_or_default()), if due.is_some() => {
                    if let Some(update) = self.look_again().await? {
                        return Ok(Some(update));
                    }
                    continue;
                }
                () = drain.cancelled() => return Err(draining()),
            };
            match told {
                Ok(news) => {
                    self.pulse.hears(&news.events);
                    self.keep(&news.events);
                }
                Err(RecvError::Lagged(_)) => self.missed = true,
                Err(RecvError::Closed) => return Err(draining()),
            }
        }
        Ok(None)
    }

    /// The lease as of now, when something is new of its wait.
    async fn look_again(&mut self) -> Result<Option<LeaseUpdate>> {
        let Some(lease) = self.engine.store.find_lease(&self.id).await? else {
            self.pulse.due = None;
            return Ok(None);
        };
        let (version, view) = (lease.version, self.engine.view_at(lease, None).await?);
        if !self.pulse.tells(&view, self.engine.clock.now()) {
            return Ok(None);
        }
        self.version = version;
        Ok(Some(LeaseUpdate { lease: Some(view), events: Vec::new(), cursor: event_cursor(self.seq) }))
    }

    fn newest(&self) -> i64 {
        self.pending.last().map_or(self.seq, |event| event.seq)
    }

    fn keep(&mut self, events: &[Event]) {
        let newest = self.newest();
        let new = events.iter().filter(|event| event.seq > newest && event.root_id.as_ref() == Some(&self.root));
        let new: Vec<Event> = new.cloned().collect();
        self.pending.extend(new);
    }

    /// The update for what is pending, which stays pending until the update is complete.
    async fn update(&mut self) -> Result<LeaseUpdate> {
        let seq = self.newest();
        let lease = self.engine.store.find_lease(&self.id).await?;
        let view = match &lease {
            Some(lease) if lease.version != self.version => Some(self.engine.view(lease.clone()).await?),
            _ => None,
        };
        if let Some(view) = &view {
            self.pulse.tells(view, self.engine.clock.now());
        }
        self.seq = seq;
        self.over = lease.as_ref().is_none_or(|lease| waiting::reached(lease.state, self.until));
        self.version = lease.map_or(0, |lease| lease.version);
        Ok(LeaseUpdate { lease: view, events: std::mem::take(&mut self.pending), cursor: event_cursor(seq) })
    }
}

/// A watch over events.
pub struct EventWatch {
    engine: Arc<Engine>,
    query: ListQuery,
    news: Receiver<Arc<News>>,
    seq: i64,
    pending: VecDeque<Vec<Event>>,
    /// Something may have been written since `seq`.
    look: bool,
}

impl EventWatch {
    /// The next events, oldest first, and the cursor after them. Safe to drop half-way.
    ///
    /// # Errors
    /// `SERVER_DRAINING`.
    pub async fn next(&mut self) -> Result<Option<(Vec<Event>, String)>> {
        loop {
            if let Some(events) = self.pending.pop_front() {
                return Ok(Some((events, event_cursor(self.seq))));
            }
            if self.look {
                let query = ListQuery { after: Some(self.seq.to_string()), ..self.query.clone() };
                let events = self.engine.store.list_events(&query).await?;
                self.look = events.len() == 500;
                if let Some(last) = events.last() {
                    self.seq = last.seq;
                    self.pending.push_back(events);
                    continue;
                }
            }
            let drain = self.engine.drain.clone();
            tokio::select! {
                told = self.news.recv() => match told {
                    Ok(news) => self.look |= !news.events.is_empty(),
                    Err(RecvError::Lagged(_)) => self.look = true,
                    Err(RecvError::Closed) => return Err(draining()),
                },
                () = drain.cancelled() => return Err(draining()),
            }
        }
    }
}
