//! Leases and resources as callers see them.

use std::collections::HashMap;

use super::{Caller, Engine, caller};
use crate::allocator::eta::Eta;
use crate::clock::Micros;
use crate::error::{Error, Reason, Result};
use crate::model::id::{BlueprintId, ResourceId};
use crate::model::{Blueprint, Lease, LeaseState, Resource};
use crate::store::ListQuery;

/// A lease with what is worked out for its reader.
#[derive(Debug, Clone, PartialEq)]
pub struct LeaseView {
    /// The row, its last use as of now.
    pub lease: Lease,
    /// Usable once ACTIVE; empty before it has a resource.
    pub interfaces: Vec<String>,
    /// 1 is next; only while it queues.
    pub queue_position: Option<i64>,
    /// Until it is ACTIVE; only while it waits, and enough is known.
    pub eta: Option<Eta>,
    /// What it took so far; from when it has a resource or has ended.
    pub receipt: Option<Receipt>,
}

/// What a lease took, microseconds each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// In the queue.
    pub waited: Micros,
    /// Building and setting up; `None` while that goes on.
    pub built: Option<Micros>,
    /// ACTIVE; `None` before its end.
    pub used: Option<Micros>,
    /// When its resource began to be built for it.
    pub build_time: Option<Micros>,
    /// When it got its resource.
    pub acquire_time: Option<Micros>,
    /// `daemon/worker` that took it to ACTIVE; empty in lists.
    pub worker: String,
    /// Resources lost under it, and steps of its tree that failed and were tried again; the latter only of a root, not in lists.
    pub retries: i64,
}

/// A resource with the number of leases on it.
#[derive(Debug, Clone, PartialEq)]
pub struct ResourceView {
    /// The row.
    pub resource: Resource,
    /// Leases on it now.
    pub lease_count: i64,
    /// For operators, of one that was registered; only of a single one.
    pub diagnostics: Option<serde_json::Value>,
}

fn receipt(lease: &Lease) -> Option<Receipt> {
    let begun = lease.build_time.or(lease.acquire_time).or(lease.end_time)?;
    let active = lease.active_time.or(lease.end_time);
    Some(Receipt {
        waited: (begun - lease.create_time).max(0),
        built: active.map(|active| (active - begun).max(0)),
        used: lease.end_time.map(|end| lease.active_time.map_or(0, |active| (end - active).max(0))),
        build_time: lease.build_time,
        acquire_time: lease.acquire_time,
        worker: String::new(),
        retries: lease.reacquires,
    })
}

impl Engine {
    /// One lease of the caller.
    pub async fn get_lease(&self, caller: &Caller, id: &str) -> Result<LeaseView> {
        let lease = self.find_own_lease(caller, id).await?;
        let mut view = self.view(lease).await?;
        if let Some(receipt) = &mut view.receipt {
            let (worker, failed) = self.store.lease_story(&view.lease.id, view.lease.parent.is_none()).await?;
            receipt.worker = worker.unwrap_or_default();
            receipt.retries += failed;
        }
        Ok(view)
    }

    /// A page of the caller's leases, or of all for admins.
    pub async fn list_leases(&self, caller: &Caller, query: ListQuery, sub_leases: bool) -> Result<Vec<LeaseView>> {
        let query = ListQuery { owner: caller.narrowed_to(), ..query };
        let leases = self.store.list_leases(&query, sub_leases).await?;
        let blueprints = self.blueprints_by_id().await?;
        let mut views: Vec<_> = leases.into_iter().map(|lease| self.view_with(lease, None, &blueprints)).collect();
        for view in &mut views {
            self.present_in_list(view).await?;
        }
        Ok(views)
    }

    pub(super) async fn view(&self, lease: Lease) -> Result<LeaseView> {
        let queues = lease.state == LeaseState::Pending && lease.allocating.is_none();
        let position = if queues { Some(self.store.queue_position(&lease).await?) } else { None };
        self.view_at(lease, position).await
    }

    /// As [`Engine::view`], but with the place in the queue that is known already, for those who look again and again.
    pub(super) async fn view_at(&self, lease: Lease, position: Option<i64>) -> Result<LeaseView> {
        let blueprints = match &lease.blueprint_id {
            Some(id) => self.store.find_blueprint(id.as_str()).await?.map(|b| (b.id.clone(), b)).into_iter().collect(),
            None => HashMap::new(),
        };
        let mut view = self.view_with(lease, position, &blueprints);
        self.present(&mut view).await?;
        Ok(view)
    }

    fn view_with(
        &self,
        mut lease: Lease,
        queue_position: Option<i64>,
        blueprints: &HashMap<BlueprintId, Blueprint>,
    ) -> LeaseView {
        let record = lease.blueprint_id.as_ref().and_then(|id| blueprints.get(id));
        let interfaces = record
            .and_then(|record| Some(self.registry.find(&record.kind)?.interfaces(&record.config)))
            .map(|mut interfaces| {
                interfaces.sort();
                interfaces
            })
            .unwrap_or_default();
        if let Some(used) = self.last_use(&lease.id) {
            lease.use_time = Some(lease.use_time.map_or(used, |before| before.max(used)));
        }
        LeaseView { interfaces, queue_position, eta: None, receipt: receipt(&lease), lease }
    }

    async fn blueprints_by_id(&self) -> Result<HashMap<BlueprintId, Blueprint>> {
        Ok(self.store.all_blueprints().await?.into_iter().map(|blueprint| (blueprint.id.clone(), blueprint)).collect())
    }

    /// Interfaces of an ACTIVE lease of the caller, by name.
    pub async fn interfaces(&self, caller: &Caller, lease_id: &str) -> Result<Vec<String>> {
        let lease = self.find_own_lease(caller, lease_id).await?;
        let lease = self.active_lease(&lease.id).await?;
        Ok(self.view(lease).await?.interfaces)
    }

    /// One resource, for admins; for others there is none.
    pub async fn get_resource(&self, caller: &Caller, id: &str) -> Result<ResourceView> {
        let resource = self.find_seen_resource(caller, id).await?;
        self.view_resource(resource).await
    }

    /// A page of resources, for admins; for others there is none.
    pub async fn list_resources(&self, caller: &Caller, query: ListQuery) -> Result<Vec<ResourceView>> {
        if !caller.admin {
            return Ok(Vec::new());
        }
        let mut views = Vec::new();
        for resource in self.store.list_resources(&query).await? {
            let lease_count = self.store.lease_count(&resource.id).await?;
            views.push(ResourceView { resource, lease_count, diagnostics: None });
        }
        Ok(views)
    }

    pub(super) async fn view_resource(&self, resource: Resource) -> Result<ResourceView> {
        let lease_count = self.store.lease_count(&resource.id).await?;
        let kind = if resource.is_registered() { self.blueprint_of(&resource).await.ok() } else { None };
        let diagnostics = kind
            .as_ref()
            .and_then(|(_, kind)| kind.registered())
            .and_then(|registered| registered.diagnostics(&resource));
        Ok(ResourceView { resource, lease_count, diagnostics })
    }

    pub(super) async fn find_seen_resource(&self, caller: &Caller, id: &str) -> Result<Resource> {
        caller::given("resource_id", id)?;
        let found = match ResourceId::parse(id) {
            Some(parsed) if caller.admin => self.store.find_resource(&parsed).await?,
            _ => None,
        };
        found.ok_or_else(|| resource_not_found(id))
    }
}

pub(super) fn resource_not_found(id: &str) -> Error {
    Error::new(
        Reason::ResourceNotFound,
        format!("there is no resource {id:?} that you may see; `drydock resource list` shows them"),
    )
}
