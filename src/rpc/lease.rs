//! `LeaseService`.

use std::mem::take;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::convert::{event, lease as convert, time};
use super::page::Page;
use super::watch::{HEARTBEAT, Source, Updates, updates};
use super::{caller, check, fields};
use crate::engine::{Caller, Engine, ExplainSubject, LeaseView, LeaseWatch};
use crate::error::Result;
use crate::model::LeaseState;
use crate::model::filter::Filter;
use crate::proto::v1::explain_lease_request::Subject;
use crate::proto::v1::lease_service_server::LeaseService;
use crate::proto::v1::{
    AcquireLeaseRequest, AcquireLeaseResponse, AcquireLeasesRequest, AcquireLeasesResponse, ExplainLeaseRequest,
    ExplainLeaseResponse, GetLeaseRequest, GetLeaseResponse, ListLeasesRequest, ListLeasesResponse,
    ReleaseLeaseRequest, ReleaseLeaseResponse, ReleaseLeasesRequest, ReleaseLeasesResponse, RenewLeaseRequest,
    RenewLeaseResponse, WaitLeaseRequest, WaitLeaseResponse, WatchLeaseRequest, WatchLeaseResponse,
};

/// Longest cursor that can be one of ours, in bytes.
pub(super) const MAX_CURSOR: usize = 256;
/// What `WaitLease` waits when its caller does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(1);

/// `drydock.v1.LeaseService`.
pub(crate) struct LeaseRpc {
    engine: Arc<Engine>,
    leaving: CancellationToken,
}

impl LeaseRpc {
    pub(crate) fn new(engine: &Arc<Engine>, leaving: &CancellationToken) -> Self {
        Self { engine: Arc::clone(engine), leaving: leaving.clone() }
    }

    /// The lease when it reaches `until`, when `patience` is over, or when the server goes down: then as it is, rather
    /// than a call that is cut off.
    async fn wait(&self, caller: &Caller, id: &str, until: LeaseState, patience: Duration) -> Result<LeaseView> {
        tokio::select! {
            biased;
            view = self.engine.wait_lease(caller, id, until, patience) => view,
            () = self.leaving.cancelled() => self.engine.get_lease(caller, id).await,
        }
    }
}

#[tonic::async_trait]
impl LeaseService for LeaseRpc {
    type WatchLeaseStream = Updates<WatchLeaseResponse>;

    async fn acquire_lease(
        &self,
        request: Request<AcquireLeaseRequest>,
    ) -> Result<Response<AcquireLeaseResponse>, Status> {
        let (caller, deadline) = (caller(&request)?, check::deadline(&request));
        let mut sent = request.into_inner();
        let wait = check::patience("wait", sent.wait.take().as_ref(), Duration::ZERO, deadline.as_ref())?;
        let request_id = take(&mut sent.request_id);
        let key = check::request_key("AcquireLease", &request_id, &sent)?;
        let (ask, until) = (convert::ask(sent)?, Instant::now() + wait);
        // First the id, then the wait: a server that goes down in between still tells the id.
        let call = async {
            let view = self.engine.acquire(&caller, ask, key, Duration::ZERO).await?;
            let patience = until.saturating_duration_since(Instant::now());
            let done = view.lease.state == LeaseState::Active || view.lease.state.has_ended() || patience.is_zero();
            if done { Ok(view) } else { self.wait(&caller, view.lease.id.as_str(), LeaseState::Active, patience).await }
        };
        let view = self.engine.in_time(wait, Box::pin(call)).await?;
        Ok(Response::new(AcquireLeaseResponse { lease: Some(convert::lease(view)) }))
    }

    async fn acquire_leases(
        &self,
        request: Request<AcquireLeasesRequest>,
    ) -> Result<Response<AcquireLeasesResponse>, Status> {
        let (caller, deadline) = (caller(&request)?, check::deadline(&request));
        let mut sent = request.into_inner();
        let wait = check::patience("wait", sent.wait.take().as_ref(), Duration::ZERO, deadline.as_ref())?;
        let request_id = take(&mut sent.request_id);
        let key = check::request_key("AcquireLeases", &request_id, &sent)?;
        let asks = convert::asks(sent.leases)?;
        let until = Instant::now() + wait;
        let mut leases = self.engine.acquire_all(&caller, asks, key).await?;
        for view in &mut leases {
            let patience = until.saturating_duration_since(Instant::now());
            let done = view.lease.state == LeaseState::Active || view.lease.state.has_ended() || patience.is_zero();
            if !done {
                self.wait(&caller, view.lease.id.as_str(), LeaseState::Active, patience).await?;
            }
        }
        for view in &mut leases {
            *view = self.engine.get_lease(&caller, view.lease.id.as_str()).await?;
        }
        Ok(Response::new(AcquireLeasesResponse { leases: leases.into_iter().map(convert::lease).collect() }))
    }

    async fn get_lease(&self, request: Request<GetLeaseRequest>) -> Result<Response<GetLeaseResponse>, Status> {
        let caller = caller(&request)?;
        let sent = request.into_inner();
        let view = self.engine.get_lease(&caller, check::required("lease_id", &sent.lease_id)?).await?;
        Ok(Response::new(GetLeaseResponse { lease: Some(convert::lease(view)) }))
    }

    async fn wait_lease(&self, request: Request<WaitLeaseRequest>) -> Result<Response<WaitLeaseResponse>, Status> {
        let (caller, deadline) = (caller(&request)?, check::deadline(&request));
        let sent = request.into_inner();
        let id = check::required("lease_id", &sent.lease_id)?;
        let until = convert::until(sent.until)?.unwrap_or(LeaseState::Active);
        let timeout = check::patience("timeout", sent.timeout.as_ref(), DEFAULT_TIMEOUT, deadline.as_ref())?;
        let view = self.wait(&caller, id, until, timeout).await?;
        Ok(Response::new(WaitLeaseResponse { lease: Some(convert::lease(view)) }))
    }

    async fn list_leases(&self, request: Request<ListLeasesRequest>) -> Result<Response<ListLeasesResponse>, Status> {
        let caller = caller(&request)?;
        let mut sent = request.into_inner();
        let (size, token) = (take(&mut sent.page_size), take(&mut sent.page_token));
        let page = Page::open("ListLeases", size, &token, &sent)?;
        let query = fields::query(&page, &sent.filter, fields::LEASE)?;
        let mut views = self.engine.list_leases(&caller, query, sent.show_sub_leases).await?;
        let next_page_token = page.cut(&mut views, |view| view.lease.id.to_string());
        let leases = views.into_iter().map(convert::lease).collect();
        Ok(Response::new(ListLeasesResponse { leases, next_page_token }))
    }

    async fn watch_lease(
        &self,
        request: Request<WatchLeaseRequest>,
    ) -> Result<Response<Self::WatchLeaseStream>, Status> {
        let caller = caller(&request)?;
        let sent = request.into_inner();
        let id = check::required("lease_id", &sent.lease_id)?;
        let until = convert::until(sent.until)?;
        let cursor = check::text("cursor", &sent.cursor, MAX_CURSOR)?;
        let watch = self.engine.watch_lease(&caller, id, until, cursor).await?;
        Ok(Response::new(updates(watch, HEARTBEAT, self.leaving.clone())))
    }

    async fn renew_lease(&self, request: Request<RenewLeaseRequest>) -> Result<Response<RenewLeaseResponse>, Status> {
        let caller = caller(&request)?;
        let sent = request.into_inner();
        let id = check::required("lease_id", &sent.lease_id)?;
        let ttl = time::positive("ttl", sent.ttl.as_ref())?;
        let view = self.engine.renew_lease(&caller, id, ttl).await?;
        Ok(Response::new(RenewLeaseResponse { lease: Some(convert::lease(view)) }))
    }

    async fn release_lease(
        &self,
        request: Request<ReleaseLeaseRequest>,
    ) -> Result<Response<ReleaseLeaseResponse>, Status> {
        let (caller, deadline) = (caller(&request)?, check::deadline(&request));
        let mut sent = request.into_inner();
        let wait = check::patience("wait", sent.wait.take().as_ref(), Duration::ZERO, deadline.as_ref())?;
        let request_id = take(&mut sent.request_id);
        let key = check::request_key("ReleaseLease", &request_id, &sent)?;
        let id = check::required("lease_id", &sent.lease_id)?;
        let comment = check::comment(&sent.comment)?;
        let until = Instant::now() + wait;
        let call = async {
            let view = self.engine.release_lease(&caller, id, comment, sent.force, key, Duration::ZERO).await?;
            let patience = until.saturating_duration_since(Instant::now());
            let done = view.lease.state == LeaseState::Destroyed || patience.is_zero();
            if done { Ok(view) } else { self.wait(&caller, id, LeaseState::Destroyed, patience).await }
        };
        let view = self.engine.in_time(wait, Box::pin(call)).await?;
        Ok(Response::new(ReleaseLeaseResponse { lease: Some(convert::lease(view)) }))
    }

    async fn release_leases(
        &self,
        request: Request<ReleaseLeasesRequest>,
    ) -> Result<Response<ReleaseLeasesResponse>, Status> {
        let caller = caller(&request)?;
        let mut sent = request.into_inner();
        let request_id = take(&mut sent.request_id);
        let key = check::request_key("ReleaseLeases", &request_id, &sent)?;
        let filter = check::present("filter", Filter::parse(&sent.filter, fields::LEASE)?)?;
        let comment = check::comment(&sent.comment)?;
        let ids = self.engine.release_leases(&caller, filter, comment, sent.force, sent.validate_only, key).await?;
        let lease_ids = ids.into_iter().map(String::from).collect();
        Ok(Response::new(ReleaseLeasesResponse { lease_ids }))
    }

    async fn explain_lease(
        &self,
        request: Request<ExplainLeaseRequest>,
    ) -> Result<Response<ExplainLeaseResponse>, Status> {
        let caller = caller(&request)?;
        let subject = match check::present("lease_id or request", request.into_inner().subject)? {
            Subject::LeaseId(id) => ExplainSubject::Lease(check::required("lease_id", &id)?.to_owned()),
            Subject::Request(ask) => ExplainSubject::Ask(convert::ask(ask)?),
        };
        let explanation = self.engine.explain_lease(&caller, subject).await?;
        Ok(Response::new(convert::explanation(explanation)))
    }
}

impl Source for LeaseWatch {
    type Message = WatchLeaseResponse;

    async fn next(&mut self) -> Result<Option<WatchLeaseResponse>> {
        Ok(LeaseWatch::next(self).await?.map(|update| WatchLeaseResponse {
            lease: update.lease.map(convert::lease),
            events: update.events.into_iter().map(event::event).collect(),
            cursor: update.cursor,
            heartbeat: false,
        }))
    }

    fn heartbeat() -> WatchLeaseResponse {
        WatchLeaseResponse { heartbeat: true, ..WatchLeaseResponse::default() }
    }
}
