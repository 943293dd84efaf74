//! What operators do: resources, tasks, daemons.

use std::sync::Arc;

use super::narrate::Told;
use super::view::resource_not_found;
use super::{Caller, Engine, RequestKey, ResourceView, caller};
use crate::error::{Error, Reason, Result};
use crate::model::id::TaskId;
use crate::model::{Drain, Resource, ResourceState, Task};
use crate::store::{Daemon, ListQuery, Tx};

impl Engine {
    /// No new leases on a resource; present ones go on.
    pub async fn drain_resource(
        &self,
        caller: &Caller,
        id: &str,
        comment: &str,
        key: Option<RequestKey>,
    ) -> Result<ResourceView> {
        let resource = self.find_seen_resource(caller, id).await?;
        let drain = Drain { comment: comment.to_owned(), actor: caller.principal.clone(), time: self.clock.now() };
        self.change_resource(caller, resource, key, move |_, resource| {
            if !resource.state.is_live() {
                return Err(ended(resource));
            }
            resource.drain = resource.drain.take().or_else(|| Some(drain.clone()));
            Ok("resource.drained")
        })
        .await
    }

    /// A drained resource takes leases again.
    pub async fn undrain_resource(&self, caller: &Caller, id: &str, key: Option<RequestKey>) -> Result<ResourceView> {
        let resource = self.find_seen_resource(caller, id).await?;
        self.change_resource(caller, resource, key, |_, resource| {
            resource.drain = None;
            Ok("resource.undrained")
        })
        .await
    }

    /// Destroys a resource; with `force` its leases end first, and one that was registered, or has ended already, goes even
    /// when it cannot be cleaned up.
    ///
    /// # Errors
    /// `RESOURCE_IN_USE` names the leases on it.
    pub async fn release_resource(
        &self,
        caller: &Caller,
        id: &str,
        force: bool,
        key: Option<RequestKey>,
    ) -> Result<ResourceView> {
        let resource = self.find_seen_resource(caller, id).await?;
        let request = key.map(|key| key.of(caller));
        let (id, actor) = (resource.id.clone(), caller.principal.clone());
        let after = self
            .store
            .write(move |tx| {
                let (id, actor, request) = (id.clone(), actor.clone(), request.clone());
                Box::pin(async move {
                    if let Some(request) = &request
                        && tx.seen(request).await?.is_some()
                    {
                        return tx.get_resource(&id).await;
                    }
                    let before = tx.get_resource(&id).await?;
                    if force && before.is_registered() {
                        super::boxes::let_go(tx, &before, &actor).await?;
                    } else if force && !before.state.is_live() {
                        super::quarantine::give_up_resource(tx, &before, &actor).await?;
                    } else if before.state.is_live() {
                        let live = tx.leases_on(&id).await?;
                        let names: Vec<&str> =
                            live.iter().filter(|l| l.state.is_live()).map(|l| l.id.as_str()).collect();
                        if !names.is_empty() && !force {
                            return Err(in_use(&before, &names));
                        }
                        let message = format!("released by {actor}");
                        super::resource::end(
                            tx,
                            &before,
                            ResourceState::Released,
                            "RESOURCE_RELEASED",
                            &message,
                            false,
                        )
                        .await?;
                    }
                    if let Some(request) = &request {
                        tx.remember(request, id.as_str()).await?;
                    }
                    tx.get_resource(&id).await
                })
            })
            .await?;
        self.view_resource(after).await
    }

    /// Changes a resource in one transaction, with an event; those who wait for capacity are woken.
    pub(super) async fn change_resource<F>(
        &self,
        caller: &Caller,
        resource: Resource,
        key: Option<RequestKey>,
        change: F,
    ) -> Result<ResourceView>
    where
        F: Fn(&Tx, &mut Resource) -> Result<&'static str> + Send + Sync + 'static,
    {
        let request = key.map(|key| key.of(caller));
        let (id, actor, change) = (resource.id, caller.principal.clone(), Arc::new(change));
        let after = self
            .store
            .write(move |tx| {
                let (id, actor, request, change) = (id.clone(), actor.clone(), request.clone(), Arc::clone(&change));
                Box::pin(async move {
                    if let Some(request) = &request
                        && tx.seen(request).await?.is_some()
                    {
                        return tx.get_resource(&id).await;
                    }
                    let before = tx.find_resource(&id).await?.ok_or_else(|| resource_not_found(id.as_str()))?;
                    let mut after = before.clone();
                    let kind = (*change)(tx, &mut after)?;
                    tx.put_resource(&before, &after).await?;
                    let message =
                        after.drain.as_ref().map_or_else(|| after.problem.clone(), |drain| drain.comment.clone());
                    tx.event(Told::by_drydock(kind, message).by(&actor).of_resource(&after, &[])).await?;
                    tx.wake_pool(&crate::store::pool_of(&after.resource_type), None).await?;
                    if let Some(request) = &request {
                        tx.remember(request, id.as_str()).await?;
                    }
                    tx.get_resource(&id).await
                })
            })
            .await?;
        self.view_resource(after).await
    }

    /// A page of tasks, for admins; for others there is none.
    pub async fn list_tasks(&self, caller: &Caller, query: ListQuery) -> Result<Vec<Task>> {
        if !caller.admin {
            return Ok(Vec::new());
        }
        self.store.list_tasks(&query).await
    }

    /// One task, for admins.
    pub async fn get_task(&self, caller: &Caller, id: &str) -> Result<Task> {
        caller::given("task_id", id)?;
        let found = match TaskId::parse(id) {
            Some(parsed) if caller.admin => self.store.find_task(&parsed).await?,
            _ => None,
        };
        found.ok_or_else(|| {
            Error::new(
                Reason::TaskNotFound,
                format!("there is no task {id:?} that you may see; `drydock task list` shows them"),
            )
        })
    }

    /// Runs a task now; a dead one gets another life.
    pub async fn retry_task(&self, caller: &Caller, id: &str, key: Option<RequestKey>) -> Result<Task> {
        let task = self.get_task(caller, id).await?;
        let request = key.map(|key| key.of(caller));
        let (task_id, actor) = (task.id, caller.principal.clone());
        self.store
            .write(move |tx| {
                let (id, actor, request) = (task_id.clone(), actor.clone(), request.clone());
                Box::pin(async move {
                    if let Some(request) = &request {
                        if tx.seen(request).await?.is_some() {
                            return Ok(());
                        }
                        tx.remember(request, id.as_str()).await?;
                    }
                    if let Some(subject) = tx.retry_task(&id).await? {
                        let told = Told::by_drydock("task.retried", "put back into the queue").by(&actor);
                        tx.event(told.of_task(&id, subject.as_str())).await?;
                    }
                    Ok(())
                })
            })
            .await?;
        self.get_task(caller, id).await
    }

    /// All daemons on this database.
    pub async fn daemons(&self, _caller: &Caller) -> Result<Vec<Daemon>> {
        self.store.daemons().await
    }
}

fn ended(resource: &Resource) -> Error {
    Error::new(
        Reason::ResourceNotFound,
        format!("the resource {} has ended ({})", resource.id, resource.state.as_str()),
    )
}

fn in_use(resource: &Resource, leases: &[&str]) -> Error {
    Error::new(
        Reason::ResourceInUse,
        format!("the resource {} is leased by {}; release them first, or use force", resource.id, leases.join(", ")),
    )
    .with("used_by", leases.join(" "))
}
