//! The lives of one simulated daemon: the real engine, scheduler and store, and jobs that ask for leases. It may die at any
//! moment between two commits; the next life goes on with the same file and the same jobs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use drydock::blueprint::{Blueprint, Registry};
use drydock::clock::{Clock as _, HeardClock, Micros, SharedClock, micros, span};
use drydock::engine::{Acquire, BlueprintDraft, Caller, Engine, RequestKey, Settings};
use drydock::error::Reason;
use drydock::model::id::LeaseId;
use drydock::model::{LeaseState, Limits, StringMap};
use drydock::store::News;
use fastrand::Rng;
use tokio::sync::Notify;
use tokio::sync::broadcast::Receiver;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::ground::{self, Ground, NOON, pass};
use super::judge::Judge;
use super::stage::{COLOUR, NAME, Stage, Timed};
use super::workload::{End, Plan, Workload};

/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_hours(3);
/// How long a machine stands still: longer than a claim.
const STANDSTILL: Duration = Duration::from_secs(45);

/// What came of a seed.
pub(super) struct Outcome {
    /// What must not have been.
    pub(super) found: Vec<String>,
    /// What happened, if it is told.
    pub(super) events: Vec<String>,
}

/// All that outlives the daemon.
struct Tale {
    plan: Plan,
    stage: Arc<Stage>,
    judge: Mutex<Judge>,
    workload: Workload,
    leases: Mutex<BTreeMap<usize, Option<LeaseId>>>,
    found: Mutex<Vec<String>>,
    failed: Notify,
    /// Tasks that were signalled while they ran, and their attempts.
    signalled: Mutex<Vec<(String, i64)>>,
    /// The judge looks at every commit of this number.
    every: usize,
}

/// A daemon that runs.
struct Life {
    tale: Arc<Tale>,
    engine: Arc<Engine>,
    clock: Arc<HeardClock>,
    begun: Instant,
    /// Since the beginning of all, when this life began.
    before: Duration,
    states: Mutex<BTreeMap<LeaseId, LeaseState>>,
    moved: Notify,
}

/// What decides about a story.
pub(super) fn dice(seed: u64) -> Rng {
    Rng::with_seed(seed ^ 0x5eed)
}

/// Plays a seed to its end; `told` with all that happened, which is told of a failure in any case.
pub(super) fn play(workload: Workload, seed: u64, ground: &Ground, told: bool) -> Outcome {
    fastrand::seed(seed);
    let mut dice = dice(seed);
    let plan = Plan::new(workload, &mut dice);
    let mut stage = Stage::new(seed, Duration::from_secs(1));
    (stage.trouble, stage.most) = (plan.trouble, plan.most().collect());
    stage.haunted = !plan.standstills.is_empty();
    let stage = Arc::new(stage);
    let timed = plan.blueprints.iter().map(|(make, _)| {
        let stage = Arc::clone(&stage);
        Arc::new(Timed { make, stage }) as Arc<dyn Blueprint>
    });
    let registry = Registry::new(timed.collect());
    let path = ground.fresh();
    let tale = Arc::new(Tale {
        plan,
        stage: Arc::clone(&stage),
        judge: Mutex::new(Judge::of(&path)),
        workload,
        leases: Mutex::default(),
        found: Mutex::default(),
        failed: Notify::new(),
        signalled: Mutex::default(),
        every: dice.usize(1..=8),
    });
    let deaths = tale.plan.deaths.iter().map(|at| Some(*at)).chain([None]);
    let mut now = NOON;
    for death in deaths {
        let runtime = ground::runtime();
        let (engine, ended, over) = runtime.block_on(live(&tale, &registry, &path, now, death));
        now = ended;
        // All that it does ends here, wherever it is.
        drop(runtime);
        // Nothing is left to be done: the file is let go.
        ground::runtime().block_on(engine.stop());
        if over {
            break;
        }
    }
    let found = std::mem::take(&mut *tale.found.lock().unwrap());
    let events = if told || !found.is_empty() { tale.judge.lock().unwrap().events() } else { Vec::new() };
    Outcome { found, events }
}

/// A daemon's life begins. The lock of the file may still be held for a moment by a process that another test is about to
/// start, which has all our open files until it is another program.
async fn start(settings: &Settings, registry: &Registry, clock: &Arc<HeardClock>) -> Arc<Engine> {
    let patience = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        match Engine::start(settings, registry.clone(), Arc::clone(clock) as SharedClock).await {
            Ok(engine) => return engine,
            Err(error) if error.message.starts_with("another daemon") && std::time::Instant::now() < patience => {
                std::thread::yield_now();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// One life; its engine, when it ended, and whether all is over.
async fn live(
    tale: &Arc<Tale>,
    registry: &Registry,
    path: &Path,
    now: Micros,
    death: Option<Duration>,
) -> (Arc<Engine>, Micros, bool) {
    let clock = HeardClock::at(now);
    let (path, plan) = (PathBuf::from(path), &tale.plan);
    let settings = ground::settings(&path, plan.workers, plan.sweep, plan.shares.clone());
    let engine = start(&settings, registry, &clock).await;
    let life = Arc::new(Life {
        tale: Arc::clone(tale),
        engine: Arc::clone(&engine),
        clock: Arc::clone(&clock),
        begun: Instant::now(),
        before: span(now - NOON),
        states: Mutex::default(),
        moved: Notify::new(),
    });
    tokio::spawn(Arc::clone(&life).follow(engine.store().news()));
    let story = async {
        life.prepare(now == NOON).await;
        if timeout(PATIENCE, life.story()).await.is_err() {
            let mut left = life.tale.judge.lock().unwrap().left();
            left.insert(0, format!("not over in {PATIENCE:?}"));
            life.complain(left);
        }
    };
    let over = tokio::select! {
        biased;
        () = tale.failed.notified() => true,
        () = story => true,
        () = life.until(death.unwrap_or(Duration::MAX)) => false,
    };
    if over && tale.found.lock().unwrap().is_empty() {
        engine.stop().await;
    }
    (engine, clock.now(), over)
}

impl Life {
    /// Returns when so much has gone by since the beginning of all.
    async fn until(&self, at: Duration) {
        pass(at.saturating_sub(self.before).saturating_sub(self.begun.elapsed())).await;
    }

    fn complain(&self, found: Vec<String>) {
        if !found.is_empty() {
            self.tale.found.lock().unwrap().extend(found);
            self.tale.failed.notify_one();
        }
    }

    /// Hears what commits tell, and has the judge look now and then.
    async fn follow(self: Arc<Self>, mut news: Receiver<Arc<News>>) {
        let mut commits = 0_usize;
        while let Ok(told) = news.recv().await {
            for event in &told.events {
                if self.tale.plan.hasty && event.kind == "lease.acquired" {
                    // Some while it is being set up, some before or after.
                    let after = Duration::from_millis(u64::try_from(commits % 8).unwrap() * 20);
                    tokio::spawn(Arc::clone(&self).hasten(event.subjects[0].clone(), after));
                }
                let state = match event.kind.as_str() {
                    "lease.activated" => LeaseState::Active,
                    "lease.requeued" => LeaseState::Pending,
                    "lease.released" => LeaseState::Released,
                    "lease.broken" => LeaseState::Broken,
                    "lease.destroyed" => LeaseState::Destroyed,
                    _ => continue,
                };
                let lease = event.subjects.first().and_then(|id| LeaseId::parse(id)).unwrap();
                self.states.lock().unwrap().insert(lease, state);
            }
            self.moved.notify_waiters();
            commits += 1;
            if commits.is_multiple_of(self.tale.every) {
                self.look();
            }
        }
    }

    /// An operator has a step taken again that is being taken.
    async fn hasten(self: Arc<Self>, subject: String, after: Duration) {
        pass(after).await;
        let running = self.tale.judge.lock().unwrap().running(&subject);
        let Some((task, attempt)) = running else { return };
        if self.engine.retry_task(&ground::admin(), &task, None).await.is_ok() {
            self.tale.signalled.lock().unwrap().push((task, attempt));
        }
    }

    fn look(&self) {
        let tale = &self.tale;
        let judge = tale.judge.lock().unwrap();
        let mut found = judge.breaches();
        found.extend(judge.waits_in_vain(&tale.plan, &tale.stage));
        found.extend(tale.stage.complaints());
        found.extend(judge.deaf(&tale.signalled.lock().unwrap()));
        if !tale.plan.standstills.is_empty() {
            found.extend(judge.came_late(&tale.stage));
        }
        drop(judge);
        self.complain(found);
    }

    /// Makes the blueprints, or finds out what became of the leases of the life before.
    async fn prepare(&self, first: bool) {
        if first {
            for (make, limits) in &self.tale.plan.blueprints {
                self.apply(make.kind.kind, limits.clone()).await;
            }
        }
        let known: Vec<LeaseId> = self.tale.leases.lock().unwrap().values().flatten().cloned().collect();
        for id in known {
            let lease = self.engine.store().find_lease(&id).await.unwrap().unwrap();
            self.states.lock().unwrap().entry(id).or_insert(lease.state);
        }
    }

    async fn apply(&self, kind: &str, limits: Limits) {
        let (name, kind) = (kind.to_owned(), kind.to_owned());
        let draft = BlueprintDraft { name, kind, config: serde_json::json!({}), labels: StringMap::new(), limits };
        self.engine.apply_blueprint(&ground::admin(), draft, false, None).await.unwrap();
    }

    /// All jobs, and what is left when they are done.
    async fn story(self: &Arc<Self>) {
        let mut all = JoinSet::new();
        for number in 0..self.tale.plan.jobs.len() {
            all.spawn(Arc::clone(self).job(number));
        }
        for at in self.tale.plan.standstills.clone() {
            let life = Arc::clone(self);
            all.spawn(async move {
                life.until(at).await;
                let claimed = life.tale.judge.lock().unwrap().claimed();
                life.tale.stage.excuse(claimed);
                life.clock.hear(life.clock.now() + micros(STANDSTILL));
            });
        }
        while let Some(done) = all.join_next().await {
            done.unwrap();
        }
        self.wind_up().await;
        self.look();
        let mut found = self.tale.judge.lock().unwrap().verdict(self.tale.workload, &self.tale.plan);
        found.extend(self.tale.stage.left().into_iter().map(|id| format!("{id} is left on the stage")));
        if self.tale.plan.standstills.is_empty() {
            let (metrics, _) = self.engine.store().metrics().text(false);
            let swept = metrics.lines().filter(|line| line.contains("cause=\"sweep\"") && !line.ends_with(" 0"));
            found.extend(swept.map(|line| format!("the sweep woke somebody: {line}")));
        }
        self.complain(found);
    }

    async fn job(self: Arc<Self>, number: usize) {
        let plan = &self.tale.plan;
        let job = &plan.jobs[number];
        self.until(job.at).await;
        let caller = Caller { principal: job.owner.to_owned(), admin: false };
        let known = self.tale.leases.lock().unwrap().get(&number).cloned();
        let id = if let Some(known) = known {
            known
        } else {
            let request_id = format!("job-{number}");
            let key = RequestKey { method: "AcquireLease", request_id: request_id.clone(), body: String::new() };
            let mut attributes = StringMap::from([(NAME.to_owned(), request_id)]);
            if let Some(colour) = job.colour {
                attributes = StringMap::from([(COLOUR.to_owned(), colour.to_owned())]);
            }
            let ask = Acquire {
                resource_type: job.of.to_owned(),
                attributes,
                priority: job.priority,
                queue_timeout: job.patience,
                ttl: Some(if let End::Expires(span) = job.end { span } else { PATIENCE }),
                ..Acquire::default()
            };
            // Somebody whose daemon dies asks again, and means the same lease.
            let key = (!plan.deaths.is_empty()).then_some(key);
            let id = match self.engine.acquire(&caller, ask, key, job.wait).await {
                Ok(view) => Some(view.lease.id),
                Err(error) if error.reason == Reason::QuotaExceeded => None,
                Err(error) => panic!("{error}"),
            };
            self.tale.leases.lock().unwrap().insert(number, id.clone());
            id
        };
        let Some(id) = id else { return };
        match job.end {
            End::GivenBack(hold) => {
                if self.reaches(&id, LeaseState::Active).await == LeaseState::Active {
                    pass(hold).await;
                    self.give_back(&caller, &id).await;
                }
            }
            End::Cancelled(after) => {
                self.until(job.at + after).await;
                self.give_back(&caller, &id).await;
            }
            End::Expires(_) => {}
        }
        self.reaches(&id, LeaseState::Destroyed).await;
    }

    async fn give_back(&self, caller: &Caller, id: &LeaseId) {
        self.engine.release_lease(caller, id.as_str(), "", false, None, Duration::ZERO).await.unwrap();
    }

    /// Returns when the lease is in this state or a later one.
    async fn reaches(&self, id: &LeaseId, state: LeaseState) -> LeaseState {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            let now = self.states.lock().unwrap().get(id).copied();
            if let Some(now) = now.filter(|now| *now >= state) {
                return now;
            }
            moved.await;
        }
    }

    /// Nobody wants anything any more: pools go back to what they keep, then nothing is kept, and nothing is left.
    async fn wind_up(&self) {
        for (make, limits) in &self.tale.plan.blueprints {
            let ready = limits.upkeep.min_ready;
            if ready == 0 {
                continue;
            }
            pass(Duration::from_mins(4)).await;
            let kept = self.tale.judge.lock().unwrap().active(make.kind.kind);
            if kept != ready {
                self.complain(vec![format!("{kept} {} are kept, and {ready} should be", make.kind.kind)]);
            }
            let mut none = limits.clone();
            none.upkeep.min_ready = 0;
            self.apply(make.kind.kind, none).await;
        }
        loop {
            let moved = self.moved.notified();
            if self.tale.judge.lock().unwrap().left().is_empty() {
                return;
            }
            // What ends a task may tell nothing.
            let _ = timeout(Duration::from_secs(20), moved).await;
        }
    }
}
