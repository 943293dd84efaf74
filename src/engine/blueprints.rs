//! Blueprints as an install configures them.

use std::sync::Arc;

use serde_json::json;

use super::narrate::Told;
use super::{Caller, Engine, RequestKey, caller};
use crate::allocator;
use crate::error::{Error, Reason, Result};
use crate::model::id::BlueprintId;
use crate::model::labels::{check_labels, is_name};
use crate::model::{Blueprint, Kind, Limits, NewEvent, StringMap};
use crate::store::{ListQuery, Tx, pool_of};

/// A blueprint as somebody wrote it.
#[derive(Debug, Clone, PartialEq)]
pub struct BlueprintDraft {
    /// Unique.
    pub name: String,
    /// What it is.
    pub kind: String,
    /// An object.
    pub config: serde_json::Value,
    /// Copied to its resources.
    pub labels: StringMap,
    /// How many, how long, in which order.
    pub limits: Limits,
}

/// A kind, as this daemon has it.
#[derive(Debug, Clone, PartialEq)]
pub struct KindView {
    /// What it says of itself.
    pub kind: &'static Kind,
    /// JSON Schema of its configuration.
    pub config_schema: serde_json::Value,
}

/// What applying a blueprint did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// There was none of that name.
    Created,
    /// It was replaced.
    Updated,
    /// It is the same already.
    Unchanged,
}

/// Made on first start: the kinds that need no configuration.
const STOCK: [&str; 5] = ["local-host", "storage", "working-copy", "port", "webroot"];

pub(super) fn not_found(key: &str) -> Error {
    Error::new(Reason::BlueprintNotFound, format!("there is no blueprint {key:?}; `drydock blueprint list` shows them"))
}

impl Engine {
    /// The kinds that this daemon has, by name.
    #[must_use]
    pub fn kinds(&self) -> Vec<KindView> {
        self.registry
            .iter()
            .map(|code| KindView { kind: code.describe(), config_schema: code.config_schema() })
            .collect()
    }

    /// A blueprint by id or name; anybody may see it.
    pub async fn get_blueprint(&self, _caller: &Caller, key: &str) -> Result<Blueprint> {
        caller::given("blueprint", key)?;
        self.store.find_blueprint(key).await?.ok_or_else(|| not_found(key))
    }

    /// A page of blueprints, by name.
    pub async fn list_blueprints(&self, _caller: &Caller, query: ListQuery) -> Result<Vec<Blueprint>> {
        self.store.list_blueprints(&query).await
    }

    /// Makes a new blueprint.
    ///
    /// # Errors
    /// `BLUEPRINT_EXISTS`, `INVALID_ARGUMENT`, `PERMISSION_DENIED`.
    pub async fn create_blueprint(
        &self,
        caller: &Caller,
        draft: BlueprintDraft,
        validate_only: bool,
        key: Option<RequestKey>,
    ) -> Result<Blueprint> {
        caller.need_admin("create blueprints")?;
        if let Some(before) = self.replayed(caller, key.as_ref()).await? {
            return Ok(before);
        }
        let blueprint = self.checked(draft).await?;
        if let Some(taken) = self.store.find_blueprint(&blueprint.name).await?
            && (validate_only || key.is_none())
        {
            return Err(exists(&taken));
        }
        if validate_only {
            return Ok(blueprint);
        }
        self.change(caller, key, move |tx| {
            let blueprint = blueprint.clone();
            Box::pin(async move {
                if !tx.insert_blueprint(&blueprint).await? {
                    return Err(exists(&blueprint));
                }
                Ok((blueprint, "blueprint.created"))
            })
        })
        .await
    }

    /// Replaces config, labels and limits.
    ///
    /// # Errors
    /// `BLUEPRINT_NOT_FOUND`, `ETAG_MISMATCH`, `INVALID_ARGUMENT` (the kind is immutable), `PERMISSION_DENIED`.
    pub async fn update_blueprint(
        &self,
        caller: &Caller,
        key_or_name: &str,
        draft: BlueprintDraft,
        etag: &str,
        validate_only: bool,
        key: Option<RequestKey>,
    ) -> Result<Blueprint> {
        caller.need_admin("change blueprints")?;
        if let Some(before) = self.replayed(caller, key.as_ref()).await? {
            return Ok(before);
        }
        let before = self.get_blueprint(caller, key_or_name).await?;
        if !draft.kind.is_empty() && draft.kind != before.kind {
            return Err(Error::invalid(format!(
                "the kind of {} is {}; it cannot be changed",
                before.name, before.kind
            )));
        }
        check_etag(&before, etag)?;
        let after =
            self.checked(BlueprintDraft { name: before.name.clone(), kind: before.kind.clone(), ..draft }).await?;
        let after = replaced(&before, after);
        if validate_only {
            return Ok(after);
        }
        self.replace(caller, before, after, key).await
    }

    /// Makes or replaces a blueprint by its name.
    ///
    /// # Errors
    /// As create and update.
    pub async fn apply_blueprint(
        &self,
        caller: &Caller,
        draft: BlueprintDraft,
        validate_only: bool,
        key: Option<RequestKey>,
    ) -> Result<(Blueprint, Applied)> {
        caller.need_admin("apply blueprints")?;
        if let Some(before) = self.replayed(caller, key.as_ref()).await? {
            return Ok((before, Applied::Unchanged));
        }
        let Some(before) = self.store.find_blueprint(&draft.name).await? else {
            return Ok((self.create_blueprint(caller, draft, validate_only, key).await?, Applied::Created));
        };
        if draft.kind != before.kind {
            return Err(Error::invalid(format!(
                "the blueprint {} has the kind {}; delete it first, or choose another name",
                before.name, before.kind
            )));
        }
        let after = replaced(&before, self.checked(draft).await?);
        let same = Blueprint { update_time: before.update_time, ..after.clone() } == before;
        if same || validate_only {
            return Ok((after, if same { Applied::Unchanged } else { Applied::Updated }));
        }
        Ok((self.replace(caller, before, after, key).await?, Applied::Updated))
    }

    /// The blueprint that this very request has made or changed before.
    async fn replayed(&self, caller: &Caller, key: Option<&RequestKey>) -> Result<Option<Blueprint>> {
        let Some(key) = key else { return Ok(None) };
        match self.store.seen(&key.clone().of(caller)).await? {
            Some(object) => self.store.find_blueprint(&object).await,
            None => Ok(None),
        }
    }

    async fn replace(
        &self,
        caller: &Caller,
        before: Blueprint,
        after: Blueprint,
        key: Option<RequestKey>,
    ) -> Result<Blueprint> {
        self.change(caller, key, move |tx| {
            let (version, after) = (before.version, after.clone());
            Box::pin(async move {
                tx.put_blueprint(version, &after).await?;
                Ok((Blueprint { version: version + 1, ..after }, "blueprint.updated"))
            })
        })
        .await
    }

    /// Takes new leases and builds again, or stops to.
    pub async fn set_blueprint_enabled(
        &self,
        caller: &Caller,
        key: &str,
        enabled: bool,
        request: Option<RequestKey>,
    ) -> Result<Blueprint> {
        caller.need_admin(if enabled { "enable blueprints" } else { "disable blueprints" })?;
        let before = self.get_blueprint(caller, key).await?;
        if before.enabled == enabled && request.is_none() {
            return Ok(before);
        }
        let now = self.clock.now();
        self.change(caller, request, move |tx| {
            let before = before.clone();
            Box::pin(async move {
                let after = Blueprint { enabled, update_time: now, ..before.clone() };
                tx.put_blueprint(before.version, &after).await?;
                let kind = if enabled { "blueprint.enabled" } else { "blueprint.disabled" };
                Ok((Blueprint { version: before.version + 1, ..after }, kind))
            })
        })
        .await
    }

    /// Takes a blueprint away that has no resources.
    ///
    /// # Errors
    /// `BLUEPRINT_IN_USE` names them; `BLUEPRINT_NOT_FOUND`, `ETAG_MISMATCH`, `PERMISSION_DENIED`.
    pub async fn delete_blueprint(
        &self,
        caller: &Caller,
        key: &str,
        etag: &str,
        request: Option<RequestKey>,
    ) -> Result<()> {
        caller.need_admin("delete blueprints")?;
        let request = request.map(|key| key.of(caller));
        let seen = match &request {
            Some(request) => {
                let request = request.clone();
                self.store
                    .write(move |tx| {
                        let request = request.clone();
                        Box::pin(async move { tx.seen(&request).await })
                    })
                    .await?
            }
            None => None,
        };
        if seen.is_some() {
            return Ok(());
        }
        let blueprint = self.get_blueprint(caller, key).await?;
        check_etag(&blueprint, etag)?;
        let actor = caller.principal.clone();
        self.store
            .write(move |tx| {
                let (blueprint, actor, request) = (blueprint.clone(), actor.clone(), request.clone());
                Box::pin(async move {
                    let left = tx.resources_of(&blueprint.id).await?;
                    if !left.is_empty() {
                        return Err(in_use(&blueprint, left.iter().map(|resource| resource.id.as_str())));
                    }
                    tx.delete_blueprint(&blueprint.id).await?;
                    tx.event(Told::by_drydock("blueprint.deleted", "").by(&actor).of_blueprint(&blueprint)).await?;
                    wake_all(tx, &blueprint).await?;
                    if let Some(request) = &request {
                        tx.remember(request, blueprint.id.as_str()).await?;
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Runs a change with its request id, its event, and the waking of those who wait for the type.
    async fn change<F>(&self, caller: &Caller, key: Option<RequestKey>, work: F) -> Result<Blueprint>
    where
        F: for<'t> Fn(&'t mut Tx) -> futures::future::BoxFuture<'t, Result<(Blueprint, &'static str)>>
            + Send
            + Sync
            + 'static,
    {
        let request = key.map(|key| key.of(caller));
        let (actor, work) = (caller.principal.clone(), Arc::new(work));
        self.store
            .write(move |tx| {
                let (actor, request, work) = (actor.clone(), request.clone(), Arc::clone(&work));
                Box::pin(async move {
                    if let Some(request) = &request
                        && let Some(object) = tx.seen(request).await?
                    {
                        return tx.find_blueprint(&object).await?.ok_or_else(|| not_found(&object));
                    }
                    let (blueprint, kind) = (*work)(tx).await?;
                    let event: NewEvent = Told::by_drydock(kind, "").by(&actor).of_blueprint(&blueprint);
                    tx.event(event).await?;
                    wake_all(tx, &blueprint).await?;
                    if let Some(request) = &request {
                        tx.remember(request, blueprint.id.as_str()).await?;
                    }
                    Ok(blueprint)
                })
            })
            .await
    }

    /// A draft that is complete and sound, as a new blueprint.
    async fn checked(&self, draft: BlueprintDraft) -> Result<Blueprint> {
        caller::given("blueprint.name", &draft.name)?;
        caller::given("blueprint.kind", &draft.kind)?;
        if !is_name(&draft.name) {
            return Err(Error::invalid(format!("the name {:?} must be [a-z0-9][a-z0-9-]{{0,62}}", draft.name)));
        }
        let code = self.registry.find(&draft.kind).ok_or_else(|| {
            let known: Vec<&str> = self.registry.iter().map(|code| code.describe().kind).collect();
            Error::invalid(format!("there is no kind {:?}; there are {}", draft.kind, known.join(", ")))
        })?;
        check_labels("blueprint.labels", &draft.labels)?;
        check_limits(&draft.limits)?;
        let config = if draft.config.is_null() { json!({}) } else { draft.config };
        code.check_config(&config)?;
        let now = self.clock.now();
        let blueprint = Blueprint {
            id: BlueprintId::new(now),
            resource_type: code.resource_type(&config),
            name: draft.name,
            kind: draft.kind,
            config,
            labels: draft.labels,
            enabled: true,
            limits: draft.limits,
            create_time: now,
            update_time: now,
            version: 1,
        };
        self.check_circles(&blueprint).await?;
        Ok(blueprint)
    }

    /// Types must not need each other in a circle.
    async fn check_circles(&self, blueprint: &Blueprint) -> Result<()> {
        let mut all = self.store.all_blueprints().await?;
        all.retain(|other| other.name != blueprint.name);
        all.push(blueprint.clone());
        let needs = |blueprint: &Blueprint| {
            self.registry.find(&blueprint.kind).map(|code| code.demand(&blueprint.config)).unwrap_or_default()
        };
        match allocator::circle(&all, &needs) {
            None => Ok(()),
            Some(circle) => Err(Error::invalid(format!("{} would close a circle: {circle}", blueprint.name))),
        }
    }

    pub(super) async fn make_stock_blueprints(&self) -> Result<()> {
        if !self.store.all_blueprints().await?.is_empty() {
            return Ok(());
        }
        let mut stock = Vec::new();
        for name in STOCK {
            // This machine serves every owner: there is only one of it.
            let limits = Limits { shared: name == "local-host", ..Limits::default() };
            let (name, kind) = (name.to_owned(), name.to_owned());
            stock.push(
                self.checked(BlueprintDraft { name, kind, config: json!({}), labels: StringMap::new(), limits })
                    .await?,
            );
        }
        // All in one commit: a first start that is cut short is a first start again.
        self.store
            .write(move |tx| {
                let stock = stock.clone();
                Box::pin(async move {
                    for blueprint in &stock {
                        if tx.insert_blueprint(blueprint).await? {
                            let told = Told::by_drydock("blueprint.created", "made on first start");
                            tx.event(told.of_blueprint(blueprint)).await?;
                        }
                    }
                    Ok(())
                })
            })
            .await?;
        Ok(())
    }
}

/// Capacity may have come: the first in the queue looks, and passes the word on.
async fn wake_all(tx: &mut Tx, blueprint: &Blueprint) -> Result<()> {
    tx.wake_pool(&pool_of(&blueprint.resource_type), None).await
}

fn replaced(before: &Blueprint, after: Blueprint) -> Blueprint {
    Blueprint {
        id: before.id.clone(),
        create_time: before.create_time,
        version: before.version,
        enabled: before.enabled,
        ..after
    }
}

fn check_etag(blueprint: &Blueprint, etag: &str) -> Result<()> {
    if etag.is_empty() || etag == blueprint.version.to_string() {
        return Ok(());
    }
    Err(Error::new(
        Reason::EtagMismatch,
        format!(
            "the blueprint {} has changed (its etag is {}, not {etag}); read it again",
            blueprint.name, blueprint.version
        ),
    ))
}

fn check_limits(limits: &Limits) -> Result<()> {
    let positive = |name: &str, value: Option<i64>, least: i64| match value {
        Some(value) if value < least || value > 1_000_000 => {
            Err(Error::invalid(format!("limits.{name} is {value}; it must be {least} to 1000000")))
        }
        _ => Ok(()),
    };
    positive("max_resources", limits.max_resources, 0)?;
    positive("leases_per_resource", limits.leases_per_resource, 1)?;
    positive("max_builds", limits.max_builds, 1)?;
    positive("leases_per_owner", limits.leases_per_owner, 1)?;
    for (name, value) in [("default_ttl", limits.default_ttl), ("max_ttl", limits.max_ttl)] {
        if value.is_some_and(|value| value <= 0) {
            return Err(Error::invalid(format!("limits.{name} must be longer than 0 s")));
        }
    }
    Ok(())
}

fn exists(blueprint: &Blueprint) -> Error {
    Error::new(
        Reason::BlueprintExists,
        format!("there is a blueprint {} already; apply or update it, or choose another name", blueprint.name),
    )
}

fn in_use<'r>(blueprint: &Blueprint, resources: impl Iterator<Item = &'r str>) -> Error {
    let names: Vec<&str> = resources.collect();
    Error::new(
        Reason::BlueprintInUse,
        format!("the blueprint {} has resources: {}; release them first", blueprint.name, names.join(", ")),
    )
    .with("used_by", names.join(" "))
}
