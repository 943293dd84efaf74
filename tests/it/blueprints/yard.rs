//! A stand-in for the engine: it leases what blueprints need, hands out slots, and keeps the effects in memory.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use drydock::blueprint::{Context, EffectState, Effects, Endpoint, Failure, Met, Need, Registry, Step, all};
use drydock::error::Result;
use drydock::host::guard::Guard;
use drydock::host::local::LocalHost;
use drydock::host::{Host, Place};
use drydock::model::id::{BlueprintId, LeaseId, ResourceId};
use drydock::model::slot::Slot;
use drydock::model::{Blueprint, Breaker, Lease, LeaseSpec, LeaseState, Limits, Resource, ResourceState, StringMap};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Effects in memory.
#[derive(Default)]
pub(super) struct Notes {
    known: Mutex<BTreeMap<String, EffectState>>,
}

#[async_trait]
impl Effects for Notes {
    async fn begin(&self, name: &str, _request: Value) -> Result<EffectState> {
        let mut known = self.known.lock().unwrap();
        if let Some(state) = known.get(name) {
            return Ok(state.clone());
        }
        known.insert(name.to_owned(), EffectState::Begun);
        Ok(EffectState::Fresh)
    }

    async fn done(&self, name: &str, outcome: Value) -> Result<()> {
        self.known.lock().unwrap().insert(name.to_owned(), EffectState::Done(outcome));
        Ok(())
    }

    async fn undone(&self, name: &str) -> Result<()> {
        self.known.lock().unwrap().remove(name);
        Ok(())
    }

    async fn all(&self) -> Result<Vec<(String, EffectState)>> {
        Ok(self.known.lock().unwrap().clone().into_iter().collect())
    }
}

/// A folder with a local host in it.
pub(super) struct Yard {
    pub(super) folder: TempDir,
    pub(super) host: Arc<dyn Host>,
    pub(super) registry: Registry,
    /// Types that composites need and their blueprint's kind.
    kinds: BTreeMap<&'static str, &'static str>,
    /// For the blueprint `port`: tests that run at once must not be strangers to each other.
    pub(super) ports: Value,
    machine: ResourceId,
    slots: Mutex<BTreeSet<Slot>>,
    /// In the order in which they were made, for taking down.
    made: Mutex<Vec<(String, Context)>>,
    /// Roots of leases, by host lease.
    roots: Mutex<Vec<(LeaseId, PathBuf)>>,
    /// Rounds of needs, as names.
    pub(super) rounds: Mutex<Vec<String>>,
}

static YARDS: AtomicU32 = AtomicU32::new(0);
const NOW: i64 = 1_700_000_000_000_000;

impl Yard {
    pub(super) fn new() -> Self {
        Self::on(|host| Arc::new(host))
    }

    /// On a host that is made of the local one.
    pub(super) fn on(host: impl FnOnce(LocalHost) -> Arc<dyn Host>) -> Self {
        let nth = std::process::id().wrapping_mul(7).wrapping_add(YARDS.fetch_add(1, Ordering::Relaxed)) % 90;
        let first = 20000 + nth * 100;
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().canonicalize().unwrap().join("data");
        let host = host(LocalHost::new(data, PathBuf::from(env!("CARGO_BIN_EXE_drydock"))));
        Self {
            registry: Registry::new(all(Arc::clone(&host))),
            folder,
            host,
            kinds: BTreeMap::from([
                ("host", "local-host"),
                ("port", "port"),
                ("storage", "storage"),
                ("webroot", "webroot"),
                ("working-copy", "working-copy"),
            ]),
            ports: json!({"first": first, "last": first + 99}),
            machine: ResourceId::new(NOW),
            slots: Mutex::default(),
            made: Mutex::default(),
            roots: Mutex::default(),
            rounds: Mutex::default(),
        }
    }

    /// A resource that is about to be built for a lease.
    pub(super) fn context(&self, kind: &str, config: Value, attributes: &[(&str, &str)]) -> Context {
        let blueprint = self.registry.find(kind).unwrap();
        let attributes: StringMap =
            attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let attributes = blueprint.admit(&config, &attributes).unwrap();
        let resource_type = blueprint.resource_type(&config);
        let blueprint_id = BlueprintId::new(NOW);
        let resource = Resource {
            // There is one machine, however often it is leased.
            id: if kind == "local-host" { self.machine.clone() } else { ResourceId::new(NOW) },
            name: kind.to_owned(),
            resource_type: resource_type.clone(),
            blueprint_id: blueprint_id.clone(),
            state: ResourceState::Pending,
            state_reason: String::new(),
            state_message: String::new(),
            facts: StringMap::new(),
            attributes: attributes.clone(),
            labels: StringMap::new(),
            owner: "local".to_owned(),
            made_for: None,
            root_id: None,
            placed_on: None,
            lease_limit: blueprint.describe().leases_per_resource,
            depth: 0,
            ord: 0,
            drain: None,
            problem: String::new(),
            cleanup_failures: 0,
            create_time: NOW,
            active_time: None,
            check_time: None,
            end_time: None,
            permanent: false,
            torn_down: false,
            warm: false,
            uses: 0,
            idle_since: None,
            abandoned: false,
            version: 1,
        };
        let spec = LeaseSpec { resource_type: resource_type.clone(), attributes, ..LeaseSpec::default() };
        Context {
            lease: Some(lease(spec, &resource)),
            resource,
            blueprint: Blueprint {
                id: blueprint_id,
                name: kind.to_owned(),
                kind: kind.to_owned(),
                resource_type,
                config,
                labels: StringMap::new(),
                enabled: true,
                limits: Limits::default(),
                breaker: Breaker::default(),
                create_time: NOW,
                update_time: NOW,
                version: 1,
            },
            needs: BTreeMap::new(),
            slots: Vec::new(),
            neighbours: Vec::new(),
            effects: Arc::new(Notes::default()),
            guard: Guard::default(),
            cancel: CancellationToken::new(),
        }
    }

    /// Builds to the end, leasing on the way whatever is needed.
    pub(super) fn build<'a>(&'a self, ctx: &'a mut Context) -> BoxFuture<'a, Result<StringMap, Failure>> {
        Box::pin(async move {
            let blueprint = Arc::clone(self.registry.find(&ctx.blueprint.kind).unwrap());
            loop {
                ctx.neighbours.clone_from(&self.roots.lock().unwrap());
                match blueprint.build(ctx).await {
                    Step::Ready(facts) => {
                        ctx.resource.facts.clone_from(&facts);
                        ctx.lease.as_mut().unwrap().facts = facts;
                        self.made.lock().unwrap().push((ctx.blueprint.kind.clone(), ctx.clone()));
                        break;
                    }
                    Step::Needs(needs) => {
                        let names: Vec<&str> = needs.iter().map(|need| need.name.as_str()).collect();
                        self.rounds.lock().unwrap().push(names.join(" "));
                        for need in needs {
                            if let Entry::Vacant(place) = ctx.needs.entry(need.name.clone()) {
                                place.insert(self.meet(&need).await?);
                            }
                        }
                    }
                    Step::Exclusive(candidates) => {
                        let mut slots = self.slots.lock().unwrap();
                        ctx.slots.clear();
                        let free = candidates.into_iter().find(|slot| !slots.contains(slot)).expect("a free slot");
                        slots.insert(free.clone());
                        ctx.slots.push(free);
                    }
                    Step::Later { why, .. } => panic!("nothing here takes time: {why}"),
                    Step::Failed(failure) => return Err(failure),
                }
            }
            match blueprint.prepare(ctx).await {
                Step::Ready(facts) => ctx.lease.as_mut().unwrap().facts.extend(facts),
                other => panic!("{other:?}"),
            }
            if let Some(place) = self.place(ctx, "command") {
                self.roots.lock().unwrap().push((ctx.lease.as_ref().unwrap().id.clone(), place.root));
            }
            Ok(ctx.lease.as_ref().unwrap().facts.clone())
        })
    }

    /// Leases what is needed. The attribute `host` places it on a lease that was made before.
    pub(super) async fn meet(&self, need: &Need) -> Result<Met, Failure> {
        let kind = self.kinds[need.spec.resource_type.as_str()];
        let attributes: Vec<(&str, &str)> =
            need.spec.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let config = if kind == "port" { self.ports.clone() } else { json!({}) };
        let mut ctx = self.context(kind, config, &attributes);
        if let Some(host) = need.spec.attributes.get("host") {
            let made = self.made.lock().unwrap();
            let (_, on) = made.iter().find(|(_, made)| made.lease.as_ref().unwrap().id.as_str() == host).unwrap();
            ctx.needs.insert("host".to_owned(), self.met(on));
        }
        self.build(&mut ctx).await?;
        Ok(self.met(&ctx))
    }

    pub(super) fn met(&self, ctx: &Context) -> Met {
        Met { lease: ctx.lease.clone().unwrap(), place: self.place(ctx, "command") }
    }

    /// Where an interface of the lease is.
    pub(super) fn place(&self, ctx: &Context, interface: &str) -> Option<Place> {
        let blueprint = self.registry.find(&ctx.blueprint.kind).unwrap();
        match blueprint.endpoint(ctx, interface)? {
            Endpoint::Here(place) => Some(place),
            Endpoint::On { root, quota, .. } => Some(Place { host: Arc::clone(&self.host), root, quota }),
            Endpoint::Via(lease) => {
                let made = self.made.lock().unwrap();
                let (_, on) = made.iter().find(|(_, made)| made.lease.as_ref().unwrap().id == lease).unwrap();
                let on = on.clone();
                drop(made);
                self.place(&on, interface)
            }
        }
    }

    /// The lease ends, and the resource with it.
    pub(super) async fn end(&self, ctx: &Context) {
        let blueprint = self.registry.find(&ctx.blueprint.kind).unwrap();
        for step in [blueprint.clean(ctx).await, blueprint.destroy(ctx).await, blueprint.destroy(ctx).await] {
            assert!(matches!(step, Step::Ready(_)), "{step:?}");
        }
        for slot in &ctx.slots {
            self.slots.lock().unwrap().remove(slot);
        }
        assert_eq!(ctx.effects.all().await.unwrap(), [], "effects left of {}", ctx.blueprint.kind);
    }

    /// Everything that was made ends, the last first; only the cache may be left.
    pub(super) async fn end_all(&self) {
        let made = std::mem::take(&mut *self.made.lock().unwrap());
        for (_, ctx) in made.iter().rev() {
            self.end(ctx).await;
        }
        for folder in ["leases", "resources"] {
            let left: Vec<PathBuf> = list(&self.host.data_dir().join(folder));
            assert_eq!(left, Vec::<PathBuf>::new());
        }
    }

    /// A fresh repository with commits, a branch and a tag.
    pub(super) fn repository(&self, name: &str) -> PathBuf {
        let path = self.folder.path().canonicalize().unwrap().join(name);
        std::fs::create_dir(&path).unwrap();
        git(&path, &["init", "--quiet", "--initial-branch=main"]);
        commit(&path, "page.txt", "one");
        git(&path, &["tag", "-a", "v1", "-m", "one"]);
        git(&path, &["branch", "feature/x"]);
        commit(&path, "page.txt", "two");
        path
    }
}

impl Drop for Yard {
    /// A test that failed must not leave a server behind.
    fn drop(&mut self) {
        for folder in list(&self.host.data_dir().join("resources")) {
            if let Ok(pid) = std::fs::read_to_string(folder.join("pid")) {
                let _ = std::process::Command::new("kill").arg(pid).status();
            }
        }
    }
}

fn lease(spec: LeaseSpec, resource: &Resource) -> Lease {
    Lease {
        state: LeaseState::Active,
        resource_id: Some(resource.id.clone()),
        blueprint_id: Some(resource.blueprint_id.clone()),
        epoch: 1,
        ..Lease::pending(LeaseId::new(NOW), spec, "local".to_owned(), NOW)
    }
}

/// Runs git as a user would, and gives its output.
pub(super) fn git(folder: &Path, words: &[&str]) -> String {
    let output = std::process::Command::new("git")
        .args(["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "protocol.file.allow=always"])
        .args(words)
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub(super) fn commit(folder: &Path, file: &str, text: &str) -> String {
    std::fs::write(folder.join(file), text).unwrap();
    git(folder, &["add", "--all"]);
    git(folder, &["commit", "--quiet", "-m", text]);
    git(folder, &["rev-parse", "HEAD"])
}

pub(super) fn list(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).map(|entries| entries.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
}
