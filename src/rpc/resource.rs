//! `ResourceService`.

use std::mem::take;
use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert::{resource as convert, time};
use super::page::Page;
use super::{caller, check, fields};
use crate::clock::micros;
use crate::engine::{Engine, Registration};
use crate::error::Result;
use crate::proto::v1::resource_service_server::ResourceService;
use crate::proto::v1::{
    CheckResourceRequest, CheckResourceResponse, DrainResourceRequest, DrainResourceResponse, GetResourceRequest,
    GetResourceResponse, ListResourcesRequest, ListResourcesResponse, RegisterResourceRequest,
    RegisterResourceResponse, ReleaseResourceRequest, ReleaseResourceResponse, UndrainResourceRequest,
    UndrainResourceResponse, UpdateResourceRequest, UpdateResourceResponse,
};

/// `drydock.v1.ResourceService`.
pub(crate) struct ResourceRpc {
    engine: Arc<Engine>,
}

impl ResourceRpc {
    pub(crate) fn new(engine: &Arc<Engine>) -> Self {
        Self { engine: Arc::clone(engine) }
    }
}

#[tonic::async_trait]
impl ResourceService for ResourceRpc {
    async fn register_resource(
        &self,
        request: Request<RegisterResourceRequest>,
    ) -> Result<Response<RegisterResourceResponse>, Status> {
        let caller = caller(&request)?;
        let mut sent = request.into_inner();
        let request_id = take(&mut sent.request_id);
        let key = check::request_key("RegisterResource", &request_id, &sent)?;
        check::required("blueprint", &sent.blueprint)?;
        check::required("name", &sent.name)?;
        check::attributes(&sent.attributes)?;
        let (attributes, labels) = (sent.attributes, sent.labels);
        let asked = Registration { blueprint: sent.blueprint, name: sent.name, attributes, labels };
        let view = self.engine.register_resource(&caller, asked, sent.validate_only, key).await?;
        Ok(Response::new(RegisterResourceResponse { resource: Some(convert::resource(view)) }))
    }

    async fn update_resource(
        &self,
        request: Request<UpdateResourceRequest>,
    ) -> Result<Response<UpdateResourceResponse>, Status> {
        let caller = caller(&request)?;
        let mut sent = request.into_inner();
        let request_id = take(&mut sent.request_id);
        let key = check::request_key("UpdateResource", &request_id, &sent)?;
        let id = check::required("resource_id", &sent.resource_id)?;
        check::attributes(&sent.attributes)?;
        let view = self.engine.update_resource(&caller, id, &sent.attributes, sent.labels, &sent.etag, key).await?;
        Ok(Response::new(UpdateResourceResponse { resource: Some(convert::resource(view)) }))
    }

    async fn check_resource(
        &self,
        request: Request<CheckResourceRequest>,
    ) -> Result<Response<CheckResourceResponse>, Status> {
        let caller = caller(&request)?;
        let sent = request.into_inner();
        let id = check::required("resource_id", &sent.resource_id)?;
        let (view, findings, latency) = self.engine.check_resource(&caller, id).await?;
        Ok(Response::new(CheckResourceResponse {
            resource: Some(convert::resource(view)),
            findings,
            latency: Some(time::duration(micros(latency))),
        }))
    }

    async fn get_resource(
        &self,
        request: Request<GetResourceRequest>,
    ) -> Result<Response<GetResourceResponse>, Status> {
        let caller = caller(&request)?;
        let sent = request.into_inner();
        let view = self.engine.get_resource(&caller, check::required("resource_id", &sent.resource_id)?).await?;
        Ok(Response::new(GetResourceResponse { resource: Some(convert::resource(view)) }))
    }

    async fn list_resources(
        &self,
        request: Request<ListResourcesRequest>,
    ) -> Result<Response<ListResourcesResponse>, Status> {
        let caller = caller(&request)?;
        let mut sent = request.into_inner();
        let (size, token) = (take(&mut sent.page_size), take(&mut sent.page_token));
        let page = Page::open("ListResources", size, &token, &sent)?;
        let query = fields::query(&page, &sent.filter, fields::RESOURCE)?;
        let mut views = self.engine.list_resources(&caller, query).await?;
        let next_page_token = page.cut(&mut views, |view| view.resource.id.to_string());
        let resources = views.into_iter().map(convert::resource).collect();
        Ok(Response::new(ListResourcesResponse { resources, next_page_token }))
    }

    async fn drain_resource(
        &self,
        request: Request<DrainResourceRequest>,
    ) -> Result<Response<DrainResourceResponse>, Status> {
        let caller = caller(&request)?;
        let mut sent = request.into_inner();
        let request_id = take(&mut sent.request_id);
        let key = check::request_key("DrainResource", &request_id, &sent)?;
        let id = check::required("resource_id", &sent.resource_id)?;
        let view = self.engine.drain_resource(&caller, id, check::comment(&sent.comment)?, key).await?;
        Ok(Response::new(DrainResourceResponse { resource: Some(convert::resource(view)) }))
    }

    async fn undrain_resource(
        &self,
        request: Request<UndrainResourceRequest>,
    ) -> Result<Response<UndrainResourceResponse>, Status> {
        let caller = caller(&request)?;
        let mut sent = request.into_inner();
        let request_id = take(&mut sent.request_id);
        let key = check::request_key("UndrainResource", &request_id, &sent)?;
        let id = check::required("resource_id", &sent.resource_id)?;
        let view = self.engine.undrain_resource(&caller, id, key).await?;
        Ok(Response::new(UndrainResourceResponse { resource: Some(convert::resource(view)) }))
    }

    async fn release_resource(
        &self,
        request: Request<ReleaseResourceRequest>,
    ) -> Result<Response<ReleaseResourceResponse>, Status> {
        let caller = caller(&request)?;
        let mut sent = request.into_inner();
        let request_id = take(&mut sent.request_id);
        let key = check::request_key("ReleaseResource", &request_id, &sent)?;
        let id = check::required("resource_id", &sent.resource_id)?;
        let view = self.engine.release_resource(&caller, id, sent.force, key).await?;
        Ok(Response::new(ReleaseResourceResponse { resource: Some(convert::resource(view)) }))
    }
}
