//! `BlueprintService`.

use std::mem::take;
use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert::blueprint as convert;
use super::page::Page;
use super::{caller, check, fields};
use crate::engine::{Caller, Engine, RequestKey};
use crate::error::{Error, Reason, Result};
use crate::model::{Blueprint, Kind};
use crate::proto::v1;
use crate::proto::v1::blueprint_service_server::BlueprintService;
use crate::proto::v1::{
    ApplyBlueprintRequest, ApplyBlueprintResponse, CreateBlueprintRequest, CreateBlueprintResponse,
    DeleteBlueprintRequest, DeleteBlueprintResponse, DisableBlueprintRequest, DisableBlueprintResponse,
    EnableBlueprintRequest, EnableBlueprintResponse, GetBlueprintRequest, GetBlueprintResponse,
    ListBlueprintKindsRequest, ListBlueprintKindsResponse, ListBlueprintsRequest, ListBlueprintsResponse,
    UpdateBlueprintRequest, UpdateBlueprintResponse,
};

/// Longest etag that can be one of ours, in bytes.
const MAX_ETAG: usize = 64;

/// `drydock.v1.BlueprintService`.
pub(crate) struct BlueprintRpc {
    engine: Arc<Engine>,
}

impl BlueprintRpc {
    pub(crate) fn new(engine: &Arc<Engine>) -> Self {
        Self { engine: Arc::clone(engine) }
    }

    fn kind(&self, name: &str) -> Option<&'static Kind> {
        self.engine.kinds().into_iter().map(|view| view.kind).find(|kind| kind.kind == name)
    }

    fn shown(&self, blueprint: Blueprint) -> v1::Blueprint {
        let kind = self.kind(&blueprint.kind);
        convert::blueprint(blueprint, kind, self.engine.now())
    }

    async fn set_enabled(
        &self,
        caller: &Caller,
        key: &str,
        enabled: bool,
        request: Option<RequestKey>,
    ) -> Result<v1::Blueprint> {
        let key = check::required("blueprint", key)?;
        Ok(self.shown(self.engine.set_blueprint_enabled(caller, key, enabled, request).await?))
    }
}

/// What only the server fills in has no place in a blueprint that is made by its name.
fn only_what_can_be_said(sent: &v1::Blueprint) -> Result<()> {
    let why = "is filled in by the server";
    check::unset("blueprint.id", !sent.id.is_empty(), why)?;
    check::unset("blueprint.resource_type", !sent.resource_type.is_empty(), why)?;
    check::unset("blueprint.problem", !sent.problem.is_empty(), why)?;
    check::unset("blueprint.etag", !sent.etag.is_empty(), "goes with UpdateBlueprint")?;
    check::unset("blueprint.create_time", sent.create_time.is_some(), why)?;
    check::unset("blueprint.update_time", sent.update_time.is_some(), why)
}

/// A blueprint that was read and is sent back changed: what cannot be changed must be as it is, or left out. Its problem
/// and its times are as of the reading and mean nothing.
fn as_it_is(sent: &mut v1::Blueprint, present: &Blueprint) -> Result<()> {
    let same = |field: &str, sent: &mut String, present: &str| {
        if sent.is_empty() {
            present.clone_into(sent);
        }
        if sent == present {
            return Ok(());
        }
        let message = format!("{field} is {sent:?}, but it is {present:?} and cannot be changed; leave it out");
        Err(Error::invalid(message).with("field", field))
    };
    same("blueprint.name", &mut sent.name, &present.name)?;
    same("blueprint.kind", &mut sent.kind, &present.kind)?;
    same("blueprint.resource_type", &mut sent.resource_type, &present.resource_type)?;
    stays_disabled(sent, present)
}

/// `enabled` cannot be told from unset when it is false; when it is true, it must be.
fn stays_disabled(sent: &v1::Blueprint, present: &Blueprint) -> Result<()> {
    let field = "blueprint.enabled";
    check::unset(field, sent.enabled && !present.enabled, "does not enable a disabled blueprint, EnableBlueprint does")
}

#[tonic::async_trait]
impl BlueprintService for BlueprintRpc {
    async fn list_blueprint_kinds(
        &self,
        request: Request<ListBlueprintKindsRequest>,
    ) -> Result<Response<ListBlueprintKindsResponse>, Status> {
        let mut sent = request.into_inner();
        let (size, token) = (take(&mut sent.page_size), take(&mut sent.page_token));
        let page = Page::open("ListBlueprintKinds", size, &token, &sent)?;
        let mut kinds = self.engine.kinds();
        if let Some(after) = &page.after {
            kinds.retain(|view| view.kind.kind > after.as_str());
        }
        let next_page_token = page.cut(&mut kinds, |view| view.kind.kind.to_owned());
        let kinds = kinds.iter().map(convert::kind).collect();
        Ok(Response::new(ListBlueprintKindsResponse { kinds, next_page_token }))
    }

    async fn create_blueprint(
        &self,
        request: Request<CreateBlueprintRequest>,
    ) -> Result<Response<CreateBlueprintResponse>, Status> {
        let caller = caller(&request)?;
        let mut sent = request.into_inner();
        let request_id = take(&mut sent.request_id);
        let key = check::request_key("CreateBlueprint", &request_id, &sent)?;
        let blueprint = check::present("blueprint", sent.blueprint)?;
        only_what_can_be_said(&blueprint)?;
        let draft = convert::draft(blueprint)?;
        let made = self.engine.create_blueprint(&caller, draft, sent.validate_only, key).await?;
        Ok(Response::new(CreateBlueprintResponse { blueprint: Some(self.shown(made)) }))
    }

    async fn update_blueprint(
        &self,
        request: Request<UpdateBlueprintRequest>,
    ) -> Result<Response<UpdateBlueprintResponse>, Status> {
        let caller = caller(&request)?;
        let mut sent = request.into_inner();
        let request_id = take(&mut sent.request_id);
        let request_key = check::request_key("UpdateBlueprint", &request_id, &sent)?;
        let mut blueprint = check::present("blueprint", sent.blueprint)?;
        let named = if blueprint.id.is_empty() { &blueprint.name } else { &blueprint.id };
        let key = check::required("blueprint.id or blueprint.name", named)?.to_owned();
        let etag = check::text("blueprint.etag", &blueprint.etag, MAX_ETAG)?.to_owned();
        as_it_is(&mut blueprint, &self.engine.get_blueprint(&caller, &key).await?)?;
        let draft = convert::draft(blueprint)?;
        let done = self.engine.update_blueprint(&caller, &key, draft, &etag, sent.validate_only, request_key).await?;
        Ok(Response::new(UpdateBlueprintResponse { blueprint: Some(self.shown(done)) }))
    }

    async fn apply_blueprint(
        &self,
        request: Request<ApplyBlueprintRequest>,
    ) -> Result<Response<ApplyBlueprintResponse>, Status> {
        let caller = caller(&request)?;
        let mut sent = request.into_inner();
        let request_id = take(&mut sent.request_id);
        let key = check::request_key("ApplyBlueprint", &request_id, &sent)?;
        let blueprint = check::present("blueprint", sent.blueprint)?;
        only_what_can_be_said(&blueprint)?;
        if blueprint.enabled {
            match self.engine.get_blueprint(&caller, check::required("blueprint.name", &blueprint.name)?).await {
                Ok(present) => stays_disabled(&blueprint, &present)?,
                Err(error) if error.reason == Reason::BlueprintNotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        let draft = convert::draft(blueprint)?;
        let (done, applied) = self.engine.apply_blueprint(&caller, draft, sent.validate_only, key).await?;
        let outcome = convert::outcome(applied).into();
        Ok(Response::new(ApplyBlueprintResponse { blueprint: Some(self.shown(done)), outcome }))
    }

    async fn get_blueprint(
        &self,
        request: Request<GetBlueprintRequest>,
    ) -> Result<Response<GetBlueprintResponse>, Status> {
        let caller = caller(&request)?;
        let sent = request.into_inner();
        let found = self.engine.get_blueprint(&caller, check::required("blueprint", &sent.blueprint)?).await?;
        Ok(Response::new(GetBlueprintResponse { blueprint: Some(self.shown(found)) }))
    }

    async fn list_blueprints(
        &self,
        request: Request<ListBlueprintsRequest>,
    ) -> Result<Response<ListBlueprintsResponse>, Status> {
        let caller = caller(&request)?;
        let mut sent = request.into_inner();
        let (size, token) = (take(&mut sent.page_size), take(&mut sent.page_token));
        let page = Page::open("ListBlueprints", size, &token, &sent)?;
        let query = fields::query(&page, &sent.filter, fields::BLUEPRINT)?;
        let mut found = self.engine.list_blueprints(&caller, query).await?;
        let next_page_token = page.cut(&mut found, |blueprint| blueprint.name.clone());
        let blueprints = found.into_iter().map(|blueprint| self.shown(blueprint)).collect();
        Ok(Response::new(ListBlueprintsResponse { blueprints, next_page_token }))
    }

    async fn delete_blueprint(
        &self,
        request: Request<DeleteBlueprintRequest>,
    ) -> Result<Response<DeleteBlueprintResponse>, Status> {
        let caller = caller(&request)?;
        let mut sent = request.into_inner();
        let request_id = take(&mut sent.request_id);
        let request_key = check::request_key("DeleteBlueprint", &request_id, &sent)?;
        let key = check::required("blueprint", &sent.blueprint)?;
        let etag = check::text("etag", &sent.etag, MAX_ETAG)?;
        self.engine.delete_blueprint(&caller, key, etag, request_key).await?;
        Ok(Response::new(DeleteBlueprintResponse {}))
    }

    async fn enable_blueprint(
        &self,
        request: Request<EnableBlueprintRequest>,
    ) -> Result<Response<EnableBlueprintResponse>, Status> {
        let caller = caller(&request)?;
        let mut sent = request.into_inner();
        let request_id = take(&mut sent.request_id);
        let key = check::request_key("EnableBlueprint", &request_id, &sent)?;
        let blueprint = self.set_enabled(&caller, &sent.blueprint, true, key).await?;
        Ok(Response::new(EnableBlueprintResponse { blueprint: Some(blueprint) }))
    }

    async fn disable_blueprint(
        &self,
        request: Request<DisableBlueprintRequest>,
    ) -> Result<Response<DisableBlueprintResponse>, Status> {
        let caller = caller(&request)?;
        let mut sent = request.into_inner();
        let request_id = take(&mut sent.request_id);
        let key = check::request_key("DisableBlueprint", &request_id, &sent)?;
        let blueprint = self.set_enabled(&caller, &sent.blueprint, false, key).await?;
        Ok(Response::new(DisableBlueprintResponse { blueprint: Some(blueprint) }))
    }
}
