//! `SystemService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::caller;
use super::convert::task::daemon;
use super::convert::time::timestamp;
use super::doors::Principal;
use crate::engine::Engine;
use crate::error::Result;
use crate::proto::v1::system_service_server::SystemService;
use crate::proto::v1::{Caller, GetServerInfoRequest, GetServerInfoResponse, ListDaemonsRequest, ListDaemonsResponse};

/// `drydock.v1.SystemService`.
pub(crate) struct SystemRpc {
    engine: Arc<Engine>,
}

impl SystemRpc {
    pub(crate) fn new(engine: &Arc<Engine>) -> Self {
        Self { engine: Arc::clone(engine) }
    }
}

#[tonic::async_trait]
impl SystemService for SystemRpc {
    async fn get_server_info(
        &self,
        request: Request<GetServerInfoRequest>,
    ) -> Result<Response<GetServerInfoResponse>, Status> {
        let principal = Principal::of(&request)?;
        let mut permissions = vec!["user".to_owned()];
        if principal.admin {
            permissions.push("admin".to_owned());
        }
        let caller =
            Caller { principal: principal.name.clone(), door: principal.door.as_str().to_owned(), permissions };
        Ok(Response::new(GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api_versions: vec!["drydock.v1".to_owned()],
            features: vec!["sqlite".to_owned(), "postgres".to_owned()],
            server_time: Some(timestamp(self.engine.now())),
            daemon_id: self.engine.daemon_id().to_owned(),
            caller: Some(caller),
        }))
    }

    async fn list_daemons(
        &self,
        request: Request<ListDaemonsRequest>,
    ) -> Result<Response<ListDaemonsResponse>, Status> {
        let daemons = self.engine.daemons(&caller(&request)?).await?;
        Ok(Response::new(ListDaemonsResponse { daemons: daemons.into_iter().map(daemon).collect() }))
    }
}
