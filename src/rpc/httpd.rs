//! `HttpdService`: thin.

use std::pin::Pin;
use std::sync::Arc;

use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::caller;
use crate::engine::{Engine, Opened};
use crate::error::{Error, Result};
use crate::httpd::{Operation, Status as Running};
use crate::interface::httpd;
use crate::proto::v1::httpd_service_server::HttpdService;
use crate::proto::v1::{
    GetHttpdRequest, GetHttpdResponse, GetUriRequest, GetUriResponse, Httpd, HttpdProgress, ReloadHttpdRequest,
    ReloadHttpdResponse, RestartHttpdRequest, RestartHttpdResponse, StartHttpdRequest, StartHttpdResponse,
    StopHttpdRequest, StopHttpdResponse,
};

/// The service.
#[derive(Clone)]
pub struct HttpdRpc {
    engine: Arc<Engine>,
}

impl HttpdRpc {
    /// Over this engine.
    #[must_use]
    pub fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    async fn open<T>(&self, request: &Request<T>, lease_id: &str) -> Result<Opened, Status> {
        Ok(self.engine.open(&caller(request)?, lease_id, "httpd").await?)
    }

    async fn operate<T, R: 'static>(
        &self,
        request: &Request<T>,
        lease_id: &str,
        operation: Operation,
        answer: fn(Option<HttpdProgress>) -> R,
    ) -> Result<Response<Steps<R>>, Status> {
        let opened = self.open(request, lease_id).await?;
        let running = httpd::begin(opened.place, operation, opened.ended);
        let steps = futures::stream::unfold(running, |mut running| async { Some((running.next().await?, running)) });
        Ok(Response::new(Box::pin(steps.map(move |step| match step {
            Ok(progress) => Ok(answer(Some(to_progress(progress)?))),
            Err(error) => Err(error.into()),
        }))))
    }
}

type Steps<R> = Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>;

#[tonic::async_trait]
impl HttpdService for HttpdRpc {
    type StartHttpdStream = Steps<StartHttpdResponse>;
    type StopHttpdStream = Steps<StopHttpdResponse>;
    type RestartHttpdStream = Steps<RestartHttpdResponse>;
    type ReloadHttpdStream = Steps<ReloadHttpdResponse>;

    async fn get_httpd(&self, request: Request<GetHttpdRequest>) -> Result<Response<GetHttpdResponse>, Status> {
        let opened = self.open(&request, &request.get_ref().lease_id).await?;
        let running = httpd::status(&opened.place).await?;
        Ok(Response::new(GetHttpdResponse { httpd: Some(to_httpd(running)) }))
    }

    async fn start_httpd(
        &self,
        request: Request<StartHttpdRequest>,
    ) -> Result<Response<Self::StartHttpdStream>, Status> {
        let lease_id = &request.get_ref().lease_id;
        self.operate(&request, lease_id, Operation::Start, |progress| StartHttpdResponse { progress }).await
    }

    async fn stop_httpd(&self, request: Request<StopHttpdRequest>) -> Result<Response<Self::StopHttpdStream>, Status> {
        let lease_id = &request.get_ref().lease_id;
        self.operate(&request, lease_id, Operation::Stop, |progress| StopHttpdResponse { progress }).await
    }

    async fn restart_httpd(
        &self,
        request: Request<RestartHttpdRequest>,
    ) -> Result<Response<Self::RestartHttpdStream>, Status> {
        let lease_id = &request.get_ref().lease_id;
        self.operate(&request, lease_id, Operation::Restart, |progress| RestartHttpdResponse { progress }).await
    }

    async fn reload_httpd(
        &self,
        request: Request<ReloadHttpdRequest>,
    ) -> Result<Response<Self::ReloadHttpdStream>, Status> {
        let lease_id = &request.get_ref().lease_id;
        self.operate(&request, lease_id, Operation::Reload, |progress| ReloadHttpdResponse { progress }).await
    }

    async fn get_uri(&self, request: Request<GetUriRequest>) -> Result<Response<GetUriResponse>, Status> {
        let opened = self.open(&request, &request.get_ref().lease_id).await?;
        let (uri, loopback_only) = httpd::uri(&opened.place, &request.get_ref().path).await?;
        Ok(Response::new(GetUriResponse { uri, loopback_only }))
    }
}

fn to_progress(progress: httpd::Progress) -> Result<HttpdProgress> {
    let elapsed = progress.elapsed.try_into().map_err(|error| Error::internal("a span too long", error))?;
    Ok(HttpdProgress {
        step: progress.step.to_owned(),
        message: progress.message,
        elapsed: Some(elapsed),
        httpd: progress.status.map(to_httpd),
    })
}

fn to_httpd(running: Running) -> Httpd {
    Httpd {
        driver: running.driver.to_owned(),
        version: running.version,
        running: running.running,
        pid: running.pid.unwrap_or(0),
        listen_addresses: running.listen_addresses,
    }
}
