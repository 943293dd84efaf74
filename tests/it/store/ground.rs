//! A store to stand on, and the rows that the cases put into it.

use std::any::Any;
use std::sync::Arc;

use drydock::clock::ManualClock;
use drydock::model::id::{BlueprintId, LeaseId, ResourceId, Subject, TaskId};
use drydock::model::{Blueprint, Breaker, Lease, LeaseSpec, LeaseState, Limits, Resource, StringMap, Task};
use drydock::store::{Baton, Claim, Committed, ListQuery, Location, Next, Remote, Scope, Store};
use serde_json::json;

use crate::queue::kit::{NOON, folder};

/// An open store.
pub(super) struct Ground {
    pub(super) store: Store,
    pub(super) clock: Arc<ManualClock>,
    /// What must live as long.
    _keep: Box<dyn Any + Send + Sync>,
}

/// On a file of its own.
pub(super) async fn sqlite() -> Ground {
    let folder = folder();
    let clock = ManualClock::at(NOON);
    let location = Location::Sqlite { path: folder.path().join("drydock.db") };
    let store = Store::open(&location, clock.clone()).await.unwrap();
    Ground { store, clock, _keep: Box::new(folder) }
}

/// On a database of its own; `None` without a server.
pub(super) async fn postgres() -> Option<Ground> {
    if !crate::postgres::is_installed() {
        return None;
    }
    let database = crate::postgres::database().await;
    let clock = ManualClock::at(NOON);
    // There are no others to be heard.
    let remote = Remote { notify: false, ..Remote::at(&database.url) };
    let store = Store::open(&Location::Postgres(remote), clock.clone()).await.unwrap();
    Some(Ground { store, clock, _keep: Box::new(database) })
}

/// A root lease that has just been queued.
pub(crate) fn lease() -> Lease {
    let spec = LeaseSpec { resource_type: "box".to_owned(), ..LeaseSpec::default() };
    Lease { max_ttl: 1, ..Lease::pending(LeaseId::new(NOON), spec, "ann".to_owned(), NOON) }
}

/// A resource that is about to be built.
pub(crate) fn resource() -> Resource {
    let id = ResourceId::new(NOON);
    Resource {
        name: format!("box-{id}"),
        id,
        owner: "ann".to_owned(),
        lease_limit: 1,
        depth: 1,
        ..Resource::fresh(&blueprint("boxes"), NOON)
    }
}

/// A blueprint of boxes.
pub(crate) fn blueprint(name: &str) -> Blueprint {
    Blueprint {
        id: BlueprintId::new(NOON),
        name: name.to_owned(),
        kind: "box".to_owned(),
        resource_type: "box".to_owned(),
        config: json!({"size": 1}),
        labels: StringMap::new(),
        enabled: true,
        limits: Limits::default(),
        breaker: Breaker::default(),
        create_time: NOON,
        update_time: NOON,
        version: 1,
    }
}

impl Ground {
    pub(super) async fn insert(&self, lease: &Lease) -> Lease {
        let lease = lease.clone();
        let id = lease.id.clone();
        self.store
            .write(move |tx| {
                let lease = lease.clone();
                Box::pin(async move { tx.insert_lease(&lease).await })
            })
            .await
            .unwrap();
        self.store.find_lease(&id).await.unwrap().unwrap()
    }

    pub(super) async fn insert_resource(&self, resource: &Resource) -> Resource {
        let resource = resource.clone();
        let id = resource.id.clone();
        self.store
            .write(move |tx| {
                let resource = resource.clone();
                Box::pin(async move { tx.insert_resource(&resource).await })
            })
            .await
            .unwrap();
        self.store.find_resource(&id).await.unwrap().unwrap()
    }

    pub(super) async fn put(&self, before: &Lease, after: &Lease) -> drydock::error::Result<()> {
        let (before, after) = (before.clone(), after.clone());
        self.store
            .write(move |tx| {
                let (before, after) = (before.clone(), after.clone());
                Box::pin(async move { tx.put_lease(&before, &after).await })
            })
            .await
    }

    /// Moves a lease on.
    pub(super) async fn become_(&self, lease: &Lease, state: LeaseState) -> Lease {
        let before = self.store.find_lease(&lease.id).await.unwrap().unwrap();
        let after = Lease { state, ..before.clone() };
        self.put(&before, &after).await.unwrap();
        self.store.find_lease(&lease.id).await.unwrap().unwrap()
    }

    pub(super) async fn put_resource(&self, before: &Resource, after: &Resource) -> drydock::error::Result<()> {
        let (before, after) = (before.clone(), after.clone());
        self.store
            .write(move |tx| {
                let (before, after) = (before.clone(), after.clone());
                Box::pin(async move { tx.put_resource(&before, &after).await })
            })
            .await
    }

    pub(super) async fn claim(&self) -> Option<Claim> {
        self.store.claim(&Scope::Any, "daemon/w0").await.unwrap()
    }

    /// Claims until this subject's task is held; the others are handed back.
    pub(super) async fn claim_of(&self, subject: impl Into<Subject>) -> Claim {
        let subject = subject.into();
        let mut others = Vec::new();
        let found = loop {
            let claim = self.claim().await.expect("its task is ready");
            if claim.subject == subject {
                break claim;
            }
            others.push(claim);
        };
        for other in others {
            self.store.hand_back(&other).await.unwrap();
        }
        found
    }

    /// Ends a step so.
    pub(super) async fn settle(&self, claim: &Claim, next: Next) -> Committed {
        self.settle_with(claim, next, Baton::Pass).await
    }

    pub(super) async fn settle_with(&self, claim: &Claim, next: Next, baton: Baton) -> Committed {
        self.store
            .commit_step(claim, None, move |_| {
                let (next, baton) = (next.clone(), baton.clone());
                Box::pin(async move { Ok((next, baton)) })
            })
            .await
            .unwrap()
    }

    /// Parks the ready task of a lease on these.
    pub(super) async fn park(&self, lease: &Lease, waits: Vec<drydock::store::Wait>) -> TaskId {
        let claim = self.claim_of(lease.id.clone()).await;
        self.settle(&claim, Next::Park { waits, until: None }).await;
        claim.task
    }

    pub(super) async fn task(&self, id: &TaskId) -> Task {
        self.store.find_task(id).await.unwrap().unwrap()
    }

    pub(super) async fn task_of(&self, subject: impl Into<Subject>) -> Task {
        let subject = subject.into();
        let all = self.store.list_tasks(&ListQuery { limit: 499, ..ListQuery::default() }).await.unwrap();
        all.into_iter().find(|task| task.subject == subject).expect("a task")
    }

    pub(super) async fn wake_pool(&self, pool: &'static str) {
        self.store.write(move |tx| Box::pin(async move { tx.wake_pool(pool, None).await })).await.unwrap();
    }
}
