//! Resources that admins register by hand: in, changed, and let go.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::lease::words;
use super::narrate::Told;
use super::steps::retry;
use super::view::resource_not_found;
use super::{Caller, Engine, RequestKey, ResourceView, caller};
use crate::allocator;
use crate::blueprint::{Blueprint as Kind, Condition, Failure, Registered, Urgency};
use crate::error::{Error, Reason, Result};
use crate::model::id::{ResourceId, Subject};
use crate::model::labels::{check_labels, is_name};
use crate::model::slot::{Slot, free_place};
use crate::model::{Blueprint, Resource, ResourceState, StringMap};
use crate::store::{Next, Tx, pool_of};

/// The kind of the event that tells of a new one.
pub(super) const REGISTERED: &str = "resource.registered";

/// What is to be registered.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Registration {
    /// Id or name.
    pub blueprint: String,
    /// Unique among what the blueprint has.
    pub name: String,
    /// By the kind's schema.
    pub attributes: StringMap,
    /// Its own, beside those of the blueprint.
    pub labels: StringMap,
}

impl Engine {
    /// Adds a resource by hand; it becomes ACTIVE when it was reached. With `validate_only` it is looked at and nothing is
    /// written: what it shows is in the facts.
    ///
    /// # Errors
    /// `NOT_REGISTRABLE`, `RESOURCE_EXISTS`, `INVALID_ATTRIBUTE` (without a pinned key it tells what the box shows),
    /// `HOST_UNREACHABLE`, `HOST_KEY_MISMATCH`, `PERMISSION_DENIED`.
    pub async fn register_resource(
        &self,
        caller: &Caller,
        asked: Registration,
        validate_only: bool,
        key: Option<RequestKey>,
    ) -> Result<ResourceView> {
        caller.need_admin("register resources")?;
        let request = key.map(|key| key.of(caller));
        if let Some(request) = &request
            && let Some(object) = self.store.seen(request).await?
        {
            let found = self.store.find_resource(&ResourceId::from_stored(object.clone())).await?;
            return self.view_resource(found.ok_or_else(|| resource_not_found(&object))?).await;
        }
        let blueprint = self.get_blueprint(caller, &asked.blueprint).await?;
        let kind = self.kind_of(&blueprint)?;
        let registered = registered(&blueprint, kind.as_ref())?;
        caller::given("name", &asked.name)?;
        if !is_name(&asked.name) {
            return Err(Error::invalid(format!("the name {:?} must be [a-z0-9][a-z0-9-]{{0,62}}", asked.name)));
        }
        check_labels("labels", &asked.labels)?;
        let attributes = registered.admit(&blueprint.config, &asked.attributes)?;
        if let Some(taken) = self.store.resource_named(&blueprint.id, &asked.name).await? {
            return Err(exists(&blueprint, &taken));
        }
        let mut draft = self.draft_resource(caller, &blueprint, asked, attributes);
        if validate_only {
            draft.facts = registered.look(&draft.attributes).await?;
            return Ok(ResourceView { resource: draft, lease_count: 0, diagnostics: None });
        }
        if !registered.is_pinned(&draft.attributes) {
            return Err(unpinned(&draft, &registered.look(&draft.attributes).await?));
        }
        let after = self
            .store
            .write(move |tx| {
                let (blueprint, draft, request) = (blueprint.clone(), draft.clone(), request.clone());
                Box::pin(async move {
                    if let Some(request) = &request {
                        if let Some(object) = tx.seen(request).await? {
                            return tx.get_resource(&ResourceId::from_stored(object)).await;
                        }
                        tx.remember(request, draft.id.as_str()).await?;
                    }
                    insert(tx, &blueprint, draft).await
                })
            })
            .await?;
        self.view_resource(after).await
    }

    /// Replaces attributes and labels of what was registered, each as a whole when not empty. A blocked one is looked at
    /// anew.
    ///
    /// # Errors
    /// `RESOURCE_NOT_FOUND`, `NOT_REGISTRABLE`, `INVALID_ATTRIBUTE`, `ETAG_MISMATCH`; `RESOURCE_IN_USE` when it is leased and
    /// is to be reached elsewhere, or as another user.
    pub async fn update_resource(
        &self,
        caller: &Caller,
        id: &str,
        attributes: &StringMap,
        labels: StringMap,
        etag: &str,
        key: Option<RequestKey>,
    ) -> Result<ResourceView> {
        let before = self.find_seen_resource(caller, id).await?;
        let request = key.map(|key| key.of(caller));
        if let Some(request) = &request
            && self.store.seen(request).await?.is_some()
        {
            return self.view_resource(before).await;
        }
        let (blueprint, kind) = self.blueprint_of(&before).await?;
        let registered = registered(&blueprint, kind.as_ref())?;
        check_labels("labels", &labels)?;
        let attributes =
            if attributes.is_empty() { None } else { Some(registered.admit(&blueprint.config, attributes)?) };
        if let Some(attributes) = &attributes
            && !registered.is_pinned(attributes)
        {
            return Err(unpinned(&before, &registered.look(attributes).await?));
        }
        let changes = Arc::new(Changes {
            labels: (!labels.is_empty()).then(|| of_both(&blueprint, labels)),
            attributes,
            etag: etag.to_owned(),
            actor: caller.principal.clone(),
        });
        let id = before.id.clone();
        let (old, after) = self
            .store
            .write(move |tx| {
                let (id, changes, request) = (id.clone(), Arc::clone(&changes), request.clone());
                Box::pin(async move {
                    if let Some(request) = &request {
                        if tx.seen(request).await?.is_some() {
                            let now = tx.get_resource(&id).await?;
                            return Ok((now.clone(), now));
                        }
                        tx.remember(request, id.as_str()).await?;
                    }
                    let before = tx.get_resource(&id).await?;
                    change(tx, &before, &changes).await?;
                    Ok((before, tx.get_resource(&id).await?))
                })
            })
            .await?;
        // What a blocked one was known to show is not to be heard again.
        if old.attributes != after.attributes || (old.is_blocked() && !after.is_blocked()) {
            registered.forget(&old).await;
        }
        if after.state == ResourceState::Active {
            registered.alarms().ring(&after.id, Urgency::Changed);
        }
        self.view_resource(after).await
    }

    fn draft_resource(
        &self,
        caller: &Caller,
        blueprint: &Blueprint,
        asked: Registration,
        attributes: StringMap,
    ) -> Resource {
        Resource {
            name: asked.name,
            attributes,
            labels: of_both(blueprint, asked.labels),
            owner: caller.principal.clone(),
            lease_limit: allocator::leases_of(blueprint, &self.rules()),
            ..Resource::fresh(blueprint, self.clock.now())
        }
    }
}

struct Changes {
    attributes: Option<StringMap>,
    labels: Option<StringMap>,
    etag: String,
    actor: String,
}

/// What tells where a box is, and whose home folder is used there.
const WHERE: [&str; 3] = ["address", "port", "user"];

/// What leases have on a box, and the cleaning up of it, cannot move to another.
async fn stays_while_leased(tx: &mut Tx, resource: &Resource) -> Result<()> {
    let leases = tx.leases_on(&resource.id).await?;
    if leases.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = leases.iter().map(|lease| lease.id.as_str()).collect();
    let message = format!(
        "address, port and user of {} cannot be changed: it is leased by {}; release them first, or register another",
        resource.id,
        names.join(", ")
    );
    Err(Error::new(Reason::ResourceInUse, message).with("used_by", names.join(" ")))
}

async fn change(tx: &mut Tx, before: &Resource, changes: &Changes) -> Result<()> {
    if !before.state.is_live() {
        let state = before.state.as_str();
        return Err(Error::new(Reason::ResourceNotFound, format!("the resource {} has ended ({state})", before.id)));
    }
    if !changes.etag.is_empty() && changes.etag != before.version.to_string() {
        let (id, now, etag) = (&before.id, before.version, &changes.etag);
        let message = format!("the resource {id} has changed (its etag is {now}, not {etag}); read it again");
        return Err(Error::new(Reason::EtagMismatch, message));
    }
    let mut after = before.clone();
    if let Some(labels) = &changes.labels {
        after.labels.clone_from(labels);
    }
    let moved = changes
        .attributes
        .as_ref()
        .is_some_and(|attributes| WHERE.iter().any(|name| attributes.get(*name) != before.attributes.get(*name)));
    if moved {
        stays_while_leased(tx, before).await?;
    }
    if let Some(attributes) = &changes.attributes {
        after.attributes.clone_from(attributes);
        // What is told of it is what was true of it as it was; a key that is pinned again is a new beginning.
        for name in WHERE {
            if let (Some(fact), Some(value)) = (after.facts.get_mut(name), attributes.get(name)) {
                fact.clone_from(value);
            }
        }
        if after.is_blocked() {
            after.problem.clear();
        }
        // Another machine, or another user there: it is greeted before it takes a lease.
        if moved && after.facts.remove("home").is_some() {
            let message = "its address, port or user was changed, and it was not reached there yet".to_owned();
            after.problem = Condition { reason: Reason::HostUnreachable, message }.problem();
        }
        tx.set_attributes(&before.id, attributes).await?;
    }
    tx.put_resource(before, &after).await?;
    let repinned =
        changes.attributes.is_some() && before.attributes.get("host_key") != after.attributes.get("host_key");
    let message = match (moved, repinned) {
        (true, _) => {
            "it is reached elsewhere or as somebody else; ~/.drydock stays where it was, remove it there by hand"
        }
        (_, true) => "another host key is pinned",
        _ => "attributes or labels were replaced",
    };
    tx.event(Told::by_drydock("resource.updated", message).by(&changes.actor).of_resource(&after, &[])).await?;
    // One that could not be built is tried again, and those who wait look whether it suits them now.
    if before.state == ResourceState::Pending {
        tx.nudge(before.id.clone()).await?;
    }
    tx.wake_pool(&pool_of(&after.resource_type), None).await
}

async fn insert(tx: &mut Tx, blueprint: &Blueprint, draft: Resource) -> Result<Resource> {
    if let Some(taken) = tx.resource_named(&blueprint.id, &draft.name).await? {
        return Err(exists(blueprint, &taken));
    }
    let limit = blueprint.limits.max_resources.unwrap_or(i64::MAX);
    let taken = tx.places_of(&blueprint.id).await?;
    let Some(place) = free_place(limit, &taken) else {
        let message = format!("the blueprint {} may have {limit} resources and has them", blueprint.name);
        return Err(Error::new(Reason::QuotaExceeded, format!("{message}; raise limits.max_resources")));
    };
    tx.take_slots(&Subject::from(draft.id.clone()), 1, &[Slot::of_blueprint(&blueprint.id, place)]).await?;
    tx.insert_resource(&draft).await?;
    let told = Told::by_drydock(REGISTERED, format!("registered as {}", draft.name)).by(&draft.owner);
    tx.event(told.of_resource(&draft, &[("blueprint", blueprint.name.clone())])).await?;
    tx.get_resource(&draft.id).await
}

/// One that cannot be built stays, PENDING, with the reason, and is tried again and again: it is there, after all.
pub(super) async fn stumbled(tx: &mut Tx, before: &Resource, failure: &Failure, failures: i64) -> Result<Next> {
    let reason = failure.reason.unwrap_or(Reason::CommandFailed);
    let problem = Condition { reason, message: words(failure) }.problem();
    if before.problem != problem {
        let after = Resource { problem, check_time: Some(tx.now()), ..before.clone() };
        tx.put_resource(before, &after).await?;
        let told = Told::by_drydock("resource.unhealthy", words(failure)).because(reason.as_str());
        tx.event(told.of_resource(&after, &[])).await?;
        tx.wake_pool(&pool_of(&after.resource_type), None).await?;
    }
    Ok(retry(tx, failures, words(failure)))
}

/// Ends what was registered, whatever sits on it, and whether or not it can be cleaned up.
pub(super) async fn let_go(tx: &mut Tx, before: &Resource, actor: &str) -> Result<()> {
    if before.state == ResourceState::Destroyed || before.is_let_go() {
        return Ok(());
    }
    let message = format!("released by {actor} by force: what cannot be cleaned up there is left behind");
    if before.state.is_live() {
        super::resource::end(tx, before, ResourceState::Released, "RESOURCE_RELEASED", &message, true).await?;
    } else {
        let after = Resource { permanent: true, state_message: message.clone(), ..before.clone() };
        tx.put_resource(before, &after).await?;
        let told = Told::by_drydock("resource.released", message).because("RESOURCE_RELEASED").by(actor);
        tx.event(told.of_resource(&after, &[])).await?;
    }
    // Clean-ups that wait for their next try need not wait any more.
    tx.nudge(before.id.clone()).await?;
    for lease in tx.leases_on(&before.id).await? {
        for placed in tx.placed_on(&lease.id).await? {
            tx.nudge(placed.id).await?;
        }
        if let Some((parent, _)) = &lease.parent {
            tx.nudge(parent.clone()).await?;
        }
        tx.nudge(lease.id).await?;
    }
    Ok(())
}

/// Whether a resource was let go, or stands on one that was: then a clean-up that fails is given up.
pub(super) fn is_let_go<'t>(tx: &'t mut Tx, id: &'t ResourceId) -> BoxFuture<'t, Result<bool>> {
    Box::pin(async move {
        let Some(resource) = tx.find_resource(id).await? else { return Ok(false) };
        if resource.is_let_go() {
            return Ok(true);
        }
        let mut below: Vec<ResourceId> =
            tx.needs_of(id).await?.into_iter().filter_map(|need| need.resource_id).collect();
        if let Some(host) = &resource.placed_on {
            below.extend(tx.find_lease(host).await?.and_then(|host| host.resource_id));
        }
        for id in below {
            if is_let_go(tx, &id).await? {
                return Ok(true);
            }
        }
        Ok(false)
    })
}

fn registered<'k>(blueprint: &Blueprint, kind: &'k dyn Kind) -> Result<&'k dyn Registered> {
    kind.registered().ok_or_else(|| {
        let (name, kind) = (&blueprint.name, &blueprint.kind);
        let message =
            format!("the blueprint {name} has the kind {kind}, which takes nothing that is registered by hand");
        Error::new(Reason::NotRegistrable, format!("{message}; one of the kind remote-host does"))
    })
}

/// The labels of the blueprint, and its own over them.
fn of_both(blueprint: &Blueprint, labels: StringMap) -> StringMap {
    let mut both = blueprint.labels.clone();
    both.extend(labels);
    both
}

fn exists(blueprint: &Blueprint, taken: &Resource) -> Error {
    let message = format!("the blueprint {} has a {} already ({})", blueprint.name, taken.name, taken.id);
    Error::new(Reason::ResourceExists, format!("{message}; choose another name, or release that one"))
}

/// Nothing is trusted unseen.
fn unpinned(draft: &Resource, shown: &StringMap) -> Error {
    let of = |prefix: &str| -> Vec<String> {
        shown.iter().filter_map(|(key, value)| Some(format!("{} {value}", key.strip_prefix(prefix)?))).collect()
    };
    let keys: Vec<&str> =
        shown.iter().filter(|(key, _)| key.starts_with("host_key.")).map(|(_, value)| value.as_str()).collect();
    let message = format!(
        "attribute \"host_key\" is missing: {} shows {}; compare that with what the box itself says \
         (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then pin it: host_key = {:?}",
        draft.name,
        of("fingerprint.").join(", "),
        keys.first().copied().unwrap_or_default()
    );
    Error::new(Reason::InvalidAttribute, message).with("fingerprints", of("fingerprint.").join(", "))
}
