//! What a blueprint sees of the world, and where a lease's interfaces are.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::Engine;
use super::effects::ResourceEffects;
use crate::blueprint::{Blueprint as Kind, Context, DAEMON_FACT, Endpoint, Met, fence_of};
use crate::error::{Error, Reason, Result};
use crate::host::Place;
use crate::host::fence::Fence;
use crate::host::guard::Guard;
use crate::model::id::LeaseId;
use crate::model::{Blueprint, Lease, LeaseState, Resource};
use crate::store::Claim;

/// A place and the host resource that it is on; `None` when the interface is not offered.
type Found = Option<(Place, Option<Resource>)>;

/// How many hops an endpoint may take through other leases.
const MAX_HOPS: usize = 16;

impl Engine {
    /// The blueprint of a resource: its record and its code.
    pub(super) async fn blueprint_of(&self, resource: &Resource) -> Result<(Blueprint, Arc<dyn Kind>)> {
        let record = self.store.find_blueprint(resource.blueprint_id.as_str()).await?.ok_or_else(|| {
            Error::new(
                Reason::BlueprintNotFound,
                format!("the blueprint {} of {} is gone", resource.blueprint_id, resource.id),
            )
        })?;
        let kind = self.kind_of(&record)?;
        Ok((record, kind))
    }

    /// The code of a blueprint.
    pub(super) fn kind_of(&self, record: &Blueprint) -> Result<Arc<dyn Kind>> {
        self.registry.find(&record.kind).cloned().ok_or_else(|| {
            Error::new(
                Reason::Internal,
                format!("this daemon has no kind {:?}, which {} needs", record.kind, record.name),
            )
        })
    }

    /// All that a step of `resource` sees; without a claim it only looks.
    pub(super) async fn context(
        &self,
        resource: &Resource,
        record: Blueprint,
        lease: Option<Lease>,
        claim: Option<&Claim>,
        cancel: CancellationToken,
    ) -> Result<Context> {
        self.check_ours(resource)?;
        let guard = self.guard_of(claim);
        let met = async |lease: Lease| {
            let met = self.met(lease).await?;
            Ok::<_, Error>(met.map(|met| Met { place: met.place.map(|place| guard.place(place)), ..met }))
        };
        let mut needs = BTreeMap::new();
        for need in self.store.needs_of(&resource.id).await? {
            let Some((_, name)) = need.parent.clone() else { continue };
            if let Some(met) = met(need).await? {
                needs.insert(name, met);
            }
        }
        if let Some(placed_on) = &resource.placed_on
            && let Some(host) = self.store.find_lease(placed_on).await?
            && let Some(met) = met(host).await?
        {
            needs.insert("host".to_owned(), met);
        }
        let slots = self.store.slots_of(&resource.id.clone().into()).await?;
        let wanted = self.registry.find(&record.kind).is_some_and(|kind| kind.wants_neighbours(resource));
        let neighbours = match needs.get("host").filter(|_| wanted) {
            Some(host) => self.neighbours(&resource.owner, &host.lease).await?,
            None => Vec::new(),
        };
        let fence = lease.as_ref().and_then(|lease| self.fence_for(lease));
        Ok(Context {
            resource: resource.clone(),
            blueprint: record,
            lease,
            needs,
            slots,
            neighbours,
            effects: Arc::new(ResourceEffects {
                store: self.store.clone(),
                resource: resource.id.clone(),
                claim: claim.cloned(),
            }),
            guard: guard.and(fence),
            cancel,
        })
    }

    /// A needed lease that can be used: ACTIVE, or ended but still on its resource, which `destroy` may need.
    async fn met(&self, lease: Lease) -> Result<Option<Met>> {
        if !matches!(lease.state, LeaseState::Active | LeaseState::Released | LeaseState::Broken)
            || lease.resource_id.is_none()
        {
            return Ok(None);
        }
        let place = self.place_of(&lease, "command").await?;
        Ok(Some(Met { lease, place }))
    }

    /// Roots of the owner's other ACTIVE leases on the same machine.
    async fn neighbours(&self, owner: &str, host: &Lease) -> Result<Vec<(LeaseId, PathBuf)>> {
        let mut neighbours = Vec::new();
        for lease in self.store.active_leases_of(owner).await? {
            let found = match self.resolve(&lease, "filesystem").await {
                // On the machine of another daemon: no neighbour.
                Err(error) if error.metadata.contains_key(DAEMON_FACT) => None,
                found => found?,
            };
            if let Some((place, machine)) = found
                && machine.map(|machine| machine.id) == host.resource_id
            {
                neighbours.push((lease.id, place.root));
            }
        }
        Ok(neighbours)
    }

    /// What is on a machine that only its own daemon reaches is left to that one.
    ///
    /// # Errors
    /// `HOST_UNREACHABLE`, with the daemon's home in its metadata.
    fn check_ours(&self, resource: &Resource) -> Result<()> {
        let (Some(home), Some(theirs)) = (self.store.home(), resource.facts.get(DAEMON_FACT)) else { return Ok(()) };
        if theirs == home {
            return Ok(());
        }
        let message = format!(
            "{} is the machine of the daemon {theirs}, which alone reaches it; ask that one (`drydock daemon list` shows where it is)",
            resource.id
        );
        Err(Error::new(Reason::HostUnreachable, message).with(DAEMON_FACT, theirs))
    }

    /// Where an interface of a lease is; `None` when it does not offer it.
    pub(super) async fn place_of(&self, lease: &Lease, interface: &str) -> Result<Option<Place>> {
        Ok(self.resolve(lease, interface).await?.map(|(place, _)| place))
    }

    /// The place, and the host resource that it is on.
    pub(super) async fn resolve(&self, lease: &Lease, interface: &str) -> Result<Found> {
        self.hop(lease.clone(), interface.to_owned(), 0).await
    }

    fn hop(&self, lease: Lease, interface: String, hops: usize) -> BoxFuture<'_, Result<Found>> {
        Box::pin(async move {
            let fence = self.fence_for(&lease);
            let found = self.hop_unfenced(lease, interface, hops).await?;
            let Some((place, machine)) = found else { return Ok(None) };
            Ok(Some((fence.into_iter().fold(place, Place::behind), machine)))
        })
    }

    /// What is done on the way through a lease is done as long as the lease is what it is now: among several daemons one may
    /// come late. What takes down the rest of a lease that has ended is not for it, but for what stands on it.
    fn fence_for(&self, lease: &Lease) -> Option<Fence> {
        let live = matches!(lease.state, LeaseState::Acquired | LeaseState::Active);
        (live && self.store.is_shared()).then(|| fence_of(lease))
    }

    /// What a step does it does in the name of its claim: one that was lost is let in nowhere that the next one has come to. So
    /// also what has no lease of its own, a resource that is built or taken down, cannot be acted on late.
    pub(super) fn guard_of(&self, claim: Option<&Claim>) -> Guard {
        match claim.filter(|_| self.store.is_shared()) {
            Some(claim) => Guard::of_step(&claim.subject.to_string(), claim.attempt, claim.lapsed),
            None => Guard::default(),
        }
    }

    fn hop_unfenced(&self, lease: Lease, interface: String, hops: usize) -> BoxFuture<'_, Result<Found>> {
        Box::pin(async move {
            if hops > MAX_HOPS {
                return Err(Error::new(
                    Reason::Internal,
                    format!("the endpoint of {} goes through too many leases", lease.id),
                ));
            }
            let Some(resource_id) = lease.resource_id.clone() else { return Ok(None) };
            let Some(resource) = self.store.find_resource(&resource_id).await? else { return Ok(None) };
            let (record, kind) = self.blueprint_of(&resource).await?;
            let ctx = self.endpoint_context(&resource, record, &lease, hops).await?;
            match kind.endpoint(&ctx, &interface) {
                None => Ok(None),
                Some(Endpoint::Here(place)) => {
                    self.check_ours(&resource)?;
                    Ok(Some((place, Some(resource))))
                }
                Some(Endpoint::On { lease: host, root, quota }) => {
                    let Some(host) = self.store.find_lease(&host).await? else { return Ok(None) };
                    let found = self.hop(host, "command".to_owned(), hops + 1).await?;
                    Ok(found.map(|(place, machine)| (Place { root, quota, ..place }, machine)))
                }
                Some(Endpoint::Via(part)) => match self.store.find_lease(&part).await? {
                    Some(part) => self.hop(part, interface, hops + 1).await,
                    None => Ok(None),
                },
            }
        })
    }

    /// Enough of a context for [`Kind::endpoint`]: the needed leases, and of the host its place.
    async fn endpoint_context(
        &self,
        resource: &Resource,
        record: Blueprint,
        lease: &Lease,
        hops: usize,
    ) -> Result<Context> {
        let mut needs = BTreeMap::new();
        let kind = self.registry.find(&record.kind);
        if kind.is_some_and(|kind| !kind.needs(&record.config).is_empty()) {
            for need in self.store.needs_of(&resource.id).await? {
                if let Some((_, name)) = need.parent.clone() {
                    let place = if name == "host" { self.host_place(need.clone(), hops).await? } else { None };
                    needs.insert(name, Met { lease: need, place });
                }
            }
            if let Some(placed_on) = &resource.placed_on
                && let Some(host) = self.store.find_lease(placed_on).await?
            {
                let place = self.host_place(host.clone(), hops).await?;
                needs.insert("host".to_owned(), Met { lease: host, place });
            }
        }
        Ok(Context {
            resource: resource.clone(),
            blueprint: record,
            lease: Some(lease.clone()),
            needs,
            slots: Vec::new(),
            neighbours: Vec::new(),
            effects: Arc::new(ResourceEffects {
                store: self.store.clone(),
                resource: resource.id.clone(),
                claim: None,
            }),
            guard: Guard::default(),
            cancel: CancellationToken::new(),
        })
    }

    async fn host_place(&self, host: Lease, hops: usize) -> Result<Option<Place>> {
        Ok(self.hop(host, "command".to_owned(), hops + 1).await?.map(|(place, _)| place))
    }
}
