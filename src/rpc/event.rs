//! `EventService`.

use std::mem::take;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::convert::event::event;
use super::lease::MAX_CURSOR;
use super::page::Page;
use super::watch::{HEARTBEAT, Source, Updates, updates};
use super::{caller, check, fields};
use crate::engine::{Engine, EventWatch, event_cursor};
use crate::error::Result;
use crate::model::filter::Filter;
use crate::proto::v1::event_service_server::EventService;
use crate::proto::v1::{ListEventsRequest, ListEventsResponse, WatchEventsRequest, WatchEventsResponse};

/// `drydock.v1.EventService`.
pub(crate) struct EventRpc {
    engine: Arc<Engine>,
    leaving: CancellationToken,
}

impl EventRpc {
    pub(crate) fn new(engine: &Arc<Engine>, leaving: &CancellationToken) -> Self {
        Self { engine: Arc::clone(engine), leaving: leaving.clone() }
    }
}

#[tonic::async_trait]
impl EventService for EventRpc {
    type WatchEventsStream = Updates<WatchEventsResponse>;

    async fn list_events(&self, request: Request<ListEventsRequest>) -> Result<Response<ListEventsResponse>, Status> {
        let caller = caller(&request)?;
        let mut sent = request.into_inner();
        let (size, token) = (take(&mut sent.page_size), take(&mut sent.page_token));
        let page = Page::open("ListEvents", size, &token, &sent)?;
        let query = fields::query(&page, &sent.filter, fields::EVENT)?;
        // Before the listing, so that what is committed meanwhile comes after the cursor.
        let newest = self.engine.newest_event().await?;
        let mut found = self.engine.list_events(&caller, query).await?;
        let next_page_token = page.cut(&mut found, |event| event.seq.to_string());
        let last = found.last().map_or(0, |event| event.seq);
        // The last page has looked at everything up to the newest; others only at what they show.
        let seen = if next_page_token.is_empty() { last.max(newest) } else { last };
        let events = found.into_iter().map(event).collect();
        Ok(Response::new(ListEventsResponse { events, next_page_token, cursor: event_cursor(seen) }))
    }

    async fn watch_events(
        &self,
        request: Request<WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let caller = caller(&request)?;
        let sent = request.into_inner();
        let filter = Filter::parse(&sent.filter, fields::EVENT)?;
        let cursor = check::text("cursor", &sent.cursor, MAX_CURSOR)?;
        let watch = self.engine.watch_events(&caller, filter, cursor).await?;
        Ok(Response::new(updates(watch, HEARTBEAT, self.leaving.clone())))
    }
}

impl Source for EventWatch {
    type Message = WatchEventsResponse;

    async fn next(&mut self) -> Result<Option<WatchEventsResponse>> {
        let next = EventWatch::next(self).await?;
        Ok(next.map(|(events, cursor)| WatchEventsResponse {
            events: events.into_iter().map(event).collect(),
            cursor,
            heartbeat: false,
        }))
    }

    fn heartbeat() -> WatchEventsResponse {
        WatchEventsResponse { heartbeat: true, ..WatchEventsResponse::default() }
    }
}
