//! A real engine on a real file, with blueprints whose steps are written by the test, and a world that they act on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use drydock::blueprint::{Blueprint, Context, EffectState, Endpoint, Need, Registry, Step};
use drydock::clock::{Clock, ManualClock, span};
use drydock::engine::{Acquire, BlueprintDraft, Caller, Engine, Settings};
use drydock::error::Result;
use drydock::model::id::LeaseId;
use drydock::model::{
    Field, FieldType, Kind, Lease, LeaseSpec, LeaseState, Limits, Shares, StringMap, Task, TaskState,
};
use drydock::store::ListQuery;
use serde_json::{Value, json};
use tokio::time::{Instant, interval};

use super::asking::{Keep, settings};
pub(crate) use super::asking::{admin, ask, folder, user};
pub(crate) use super::world::{Fate, Gate, Phase, World};

/// Nothing in here takes longer, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// When the tests' clock begins.
pub(crate) const NOON: i64 = 1_700_000_000_000_000;
const MILLISECOND: Duration = Duration::from_millis(1);

/// Waits until `look` finds something; `what` is said when it does not in time.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    // A look is a trip to the server there.
    let mut ticks = interval(if crate::postgres::is_chosen() { 10 * MILLISECOND } else { MILLISECOND });
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        ticks.tick().await;
    }
}

/// A kind whose steps are scripted. It puts a thing into the world for each resource and for each lease set up.
pub(crate) struct TestKind {
    pub(crate) kind: Kind,
    /// Names and types of the leases it takes.
    pub(crate) needs: Vec<(String, String)>,
    pub(crate) limits: Limits,
    pub(crate) labels: StringMap,
    /// It asks for a need when it has those before it.
    in_turn: bool,
    world: Arc<World>,
    leaked: std::sync::OnceLock<&'static Kind>,
}

const ATTRIBUTES: &[Field] = &[
    Field::optional("colour", FieldType::Text, "Resources are reused for one colour."),
    Field::optional("host", FieldType::Lease, "A host lease to be placed on."),
];

impl TestKind {
    /// A kind that dies with its last lease and has something to set up.
    pub(crate) fn new(world: &Arc<World>, name: &'static str) -> Self {
        Self {
            kind: Kind {
                kind: name,
                resource_type: name,
                interfaces: &["command"],
                needs: &[],
                config: &[],
                attributes: ATTRIBUTES,
                leases_per_resource: 1,
                max_resources: None,
                rank: 0,
                stays: false,
                reused_by_attributes: true,
                instant: false,
                registration: None,
            },
            needs: Vec::new(),
            limits: Limits::default(),
            labels: StringMap::new(),
            in_turn: false,
            world: Arc::clone(world),
            leaked: std::sync::OnceLock::new(),
        }
    }

    pub(crate) fn needing(mut self, types: &[&str]) -> Self {
        let named = types.iter().enumerate().map(|(number, of)| (format!("n{number}-{of}"), (*of).to_owned()));
        self.needs = named.collect();
        self
    }

    /// As `needing`, one after the other.
    pub(crate) fn needing_in_turn(self, types: &[&str]) -> Self {
        Self { in_turn: true, ..self.needing(types) }
    }

    pub(crate) fn limit(mut self, limit: i64) -> Self {
        self.limits.max_resources = Some(limit);
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Kind)) -> Self {
        change(&mut self.kind);
        self
    }

    pub(crate) fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.limits);
        self
    }

    async fn act(&self, phase: Phase, ctx: &Context, id: &str) -> Option<Step> {
        let gate = self.world.note(phase, self.kind.kind, id);
        if let Some(gate) = gate {
            gate.pass().await;
        }
        match self.world.next(self.kind.kind, phase) {
            Fate::Ready => None,
            Fate::Later(after) => Some(Step::Later { after, why: "it takes its time".to_owned() }),
            Fate::Fail => Some(Step::stumble("it did not work", "the end of the output")),
            Fate::Refuse => Some(Step::refuse("it can never work", "")),
            Fate::Panic => panic!("a blueprint that panics"),
            Fate::Block(gate) => {
                tokio::select! {
                    () = gate.pass() => None,
                    () = ctx.cancel.cancelled() => Some(Step::stumble("nobody wants it any more", "")),
                }
            }
            Fate::Slow(gate) => {
                gate.pass().await;
                None
            }
            Fate::AskAgain => Some(Step::Needs(self.wanted())),
        }
    }

    fn wanted(&self) -> Vec<Need> {
        let need = |(name, of): &(String, String)| Need {
            name: name.clone(),
            spec: LeaseSpec { resource_type: of.clone(), ..LeaseSpec::default() },
        };
        self.needs.iter().map(need).collect()
    }
}

#[async_trait]
impl Blueprint for TestKind {
    fn describe(&self) -> &'static Kind {
        self.leaked.get_or_init(|| Box::leak(Box::new(self.kind.clone())))
    }

    fn needs(&self, _config: &Value) -> Vec<String> {
        self.needs.iter().map(|(_, of)| of.clone()).collect()
    }

    async fn build(&self, ctx: &Context) -> Step {
        let id = ctx.resource.id.as_str();
        let missing = self.needs.iter().any(|(name, _)| !ctx.needs.contains_key(name));
        if let Some(step) = self.act(Phase::Build, ctx, id).await {
            return step;
        }
        if missing {
            let mut wanted = self.wanted();
            if self.in_turn {
                wanted.truncate(ctx.needs.len() + 1);
            }
            return Step::Needs(wanted);
        }
        match ctx.effects.begin("thing", json!({})).await {
            Ok(EffectState::Fresh | EffectState::Begun) => self.world.put(id),
            Ok(EffectState::Done(_)) => {}
            Err(error) => return error.into(),
        }
        match ctx.effects.done("thing", json!({})).await {
            Ok(()) => Step::Ready(StringMap::from([("thing".to_owned(), id.to_owned())])),
            Err(error) => error.into(),
        }
    }

    async fn prepare(&self, ctx: &Context) -> Step {
        let id = ctx.lease.as_ref().unwrap().id.to_string();
        if let Some(step) = self.act(Phase::Prepare, ctx, &id).await {
            step
        } else {
            self.world.put(&id);
            Step::done()
        }
    }

    async fn clean(&self, ctx: &Context) -> Step {
        let id = ctx.lease.as_ref().unwrap().id.to_string();
        if let Some(step) = self.act(Phase::Clean, ctx, &id).await {
            step
        } else {
            self.world.take_away(&id);
            Step::done()
        }
    }

    async fn destroy(&self, ctx: &Context) -> Step {
        let id = ctx.resource.id.as_str();
        if let Some(step) = self.act(Phase::Destroy, ctx, id).await {
            step
        } else {
            self.world.take_away(id);
            Step::done()
        }
    }

    fn endpoint(&self, _ctx: &Context, _interface: &str) -> Option<Endpoint> {
        None
    }
}

/// An engine of the test, its clock and its world.
pub(crate) struct Bench {
    keep: Keep,
    shares: Shares,
    engine: Option<Arc<Engine>>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) world: Arc<World>,
    registry: Registry,
}

impl Bench {
    /// With one blueprint of each kind, named after it.
    pub(crate) async fn start(workers: usize, world: Arc<World>, kinds: Vec<TestKind>) -> Self {
        Self::sharing(&[], workers, world, kinds).await
    }

    /// With these lines of what owners may have.
    pub(crate) async fn sharing(owners: &[&str], workers: usize, world: Arc<World>, kinds: Vec<TestKind>) -> Self {
        let shares = Shares::parse(owners).unwrap();
        let mut drafts: Vec<BlueprintDraft> = kinds.iter().map(draft).collect();
        let all = kinds.into_iter().map(|kind| Arc::new(kind) as Arc<dyn Blueprint>).collect();
        let registry = Registry::new(all);
        let clock = ManualClock::at(NOON);
        let keep = Keep::new().await;
        let settings = Settings { shares: shares.clone(), ..settings(&keep, workers) };
        let engine = Engine::start(&settings, registry.clone(), clock.clone()).await.unwrap();
        let bench = Self { keep, shares, engine: Some(engine), clock, world, registry };
        for draft in drafts.drain(..) {
            bench.apply(draft).await;
        }
        bench
    }

    /// The engine ends, as it does when the daemon is told to, and another begins on the same file.
    pub(crate) async fn restart(&mut self, workers: usize) {
        self.engine().stop().await;
        self.engine = None;
        let settings = Settings { shares: self.shares.clone(), ..settings(&self.keep, workers) };
        let started = eventually("the file is free", async || {
            Engine::start(&settings, self.registry.clone(), self.clock.clone()).await.ok()
        })
        .await;
        self.engine = Some(started);
    }

    /// As `restart`, and owners may have something else.
    pub(crate) async fn restart_sharing(&mut self, owners: &[&str], workers: usize) {
        self.shares = Shares::parse(owners).unwrap();
        self.restart(workers).await;
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        self.engine.as_ref().expect("it runs")
    }

    /// As sqlx wants it.
    pub(crate) fn database(&self) -> String {
        self.keep.url()
    }

    pub(crate) async fn apply(&self, draft: BlueprintDraft) {
        self.engine().apply_blueprint(&admin(), draft, false, None).await.unwrap();
    }

    /// Changes the limits of a blueprint.
    pub(crate) async fn limit(&self, name: &str, change: impl FnOnce(&mut Limits)) {
        let blueprint = self.engine().get_blueprint(&admin(), name).await.unwrap();
        let mut limits = blueprint.limits;
        change(&mut limits);
        let draft = BlueprintDraft {
            name: blueprint.name,
            kind: blueprint.kind,
            config: blueprint.config,
            labels: blueprint.labels,
            limits,
        };
        self.apply(draft).await;
    }

    /// Queues a lease; each is a millisecond younger than the one before.
    pub(crate) async fn queue(&self, ask: Acquire) -> LeaseId {
        self.queue_as(&admin(), ask).await.unwrap()
    }

    pub(crate) async fn queue_as(&self, caller: &Caller, ask: Acquire) -> Result<LeaseId> {
        self.clock.advance(MILLISECOND);
        Ok(self.engine().acquire(caller, ask, None, Duration::ZERO).await?.lease.id)
    }

    pub(crate) async fn lease(&self, id: &LeaseId) -> Lease {
        self.engine().store().find_lease(id).await.unwrap().expect("a lease that is kept")
    }

    pub(crate) async fn state(&self, id: &LeaseId) -> LeaseState {
        self.lease(id).await.state
    }

    /// Waits, without turning the clock, until the lease is in this state.
    pub(crate) async fn reaches(&self, id: &LeaseId, state: LeaseState) -> Lease {
        eventually(&format!("{id} becomes {}", state.as_str()), async || {
            let lease = self.lease(id).await;
            (lease.state == state).then_some(lease)
        })
        .await
    }

    /// Waits, turning the clock to the next timer whenever nothing else goes on, until the lease is in this state.
    pub(crate) async fn reaches_in_time(&self, id: &LeaseId, state: LeaseState) -> Lease {
        eventually(&format!("{id} becomes {} in its time", state.as_str()), async || {
            // First this, then the state: the clock is not turned behind what comes to pass in between.
            let due = self.engine().store().next_timer().await.unwrap().is_some_and(|at| at <= self.clock.now());
            let moves = due || self.engine().store().is_busy().await.unwrap();
            let lease = self.lease(id).await;
            if lease.state != state && !moves {
                self.turn_when_idle().await;
            }
            (lease.state == state).then_some(lease)
        })
        .await
    }

    /// Turns the clock to the next timer when no task is ready or runs.
    pub(crate) async fn turn_when_idle(&self) {
        let store = self.engine().store();
        if store.is_busy().await.unwrap() {
            return;
        }
        if let Some(next) = store.next_timer().await.unwrap() {
            self.clock.advance(span(next - self.clock.now()));
        }
    }

    /// Returns when no task is ready or runs.
    pub(crate) async fn idle(&self) {
        eventually("nothing is to be done", async || (!self.engine().store().is_busy().await.unwrap()).then_some(()))
            .await;
    }

    /// Returns when at most one task is ready or runs: the one that stands still.
    pub(crate) async fn idle_but_one(&self) {
        eventually("nothing else is to be done", async || {
            let all =
                self.engine().store().list_tasks(&ListQuery { limit: 499, ..ListQuery::default() }).await.unwrap();
            let busy = |task: &&Task| matches!(task.state, TaskState::Ready | TaskState::Running);
            (all.iter().filter(busy).count() <= 1).then_some(())
        })
        .await;
    }

    pub(crate) async fn release(&self, id: &LeaseId) {
        self.engine().release_lease(&admin(), id.as_str(), "", false, None, Duration::ZERO).await.unwrap();
    }

    /// Ids of resources that are not DESTROYED, by kind.
    pub(crate) async fn resources(&self, of: &str) -> Vec<drydock::model::Resource> {
        let all =
            self.engine().store().list_resources(&ListQuery { limit: 499, ..ListQuery::default() }).await.unwrap();
        let live = |resource: &drydock::model::Resource| resource.state != drydock::model::ResourceState::Destroyed;
        let mut found: Vec<_> = all.into_iter().filter(|r| r.resource_type == of && live(r)).collect();
        found.sort_by(|a, b| a.id.cmp(&b.id));
        found
    }

    pub(crate) async fn task_of(&self, subject: &str) -> Option<Task> {
        let all = self.engine().store().list_tasks(&ListQuery { limit: 499, ..ListQuery::default() }).await.unwrap();
        all.into_iter().find(|task| task.subject.as_str() == subject)
    }

    /// All that is left when everything is given back: nothing, but resources of kinds that stay.
    pub(crate) async fn assert_nothing_left(&self) {
        eventually("everything is given back", async || {
            self.turn_when_idle().await;
            let live = self.engine().store().list_leases(&ListQuery { limit: 499, ..ListQuery::default() }, true).await;
            let live = live.unwrap().into_iter().any(|lease| lease.state != LeaseState::Destroyed);
            (!live && self.engine().store().slots().await.unwrap().is_empty()).then_some(())
        })
        .await;
        assert_eq!(self.world.things(), BTreeSet::new());
        super::invariants::assert_hold(&self.database()).await;
    }
}

fn draft(kind: &TestKind) -> BlueprintDraft {
    BlueprintDraft {
        name: kind.kind.kind.to_owned(),
        kind: kind.kind.kind.to_owned(),
        config: json!({}),
        labels: kind.labels.clone(),
        limits: kind.limits.clone(),
    }
}
