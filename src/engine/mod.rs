//! Where store, scheduler, allocator and blueprints meet: a task's step means "look at the subject, do the next thing".
//!
//! `lease`, `allocate` and `resource` hold the steps, `context` what a blueprint sees of the world, `acquire`, `release`,
//! `explain` and `watch` what callers ask for, `admin` what operators do. `idle` is the time between leases, `warm` what is built
//! ahead of them, `reclaim` what makes room for them, `breaker` and `quarantine` what goes wrong.

mod acquire;
mod admin;
mod allocate;
mod blueprints;
mod boxes;
mod breaker;
mod caller;
mod context;
mod courtesy;
mod deadlock;
mod effects;
mod explain;
mod health;
mod housekeeping;
mod idle;
mod lease;
mod log;
mod narrate;
mod outlook;
mod picture;
mod present;
mod quarantine;
mod reclaim;
mod release;
mod resource;
mod running;
mod slots;
mod steps;
mod upkeep;
mod view;
mod waiting;
mod warm;
mod watch;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use crate::allocator::eta::Eta;
pub use crate::allocator::pause_of;
pub use crate::blueprint::DAEMON_FACT;
pub use acquire::Acquire;
pub use blueprints::{Applied, BlueprintDraft, KindView};
pub use boxes::Registration;
pub use caller::{Caller, RequestKey};
pub use explain::{ExplainSubject, Explanation};
pub use view::{LeaseView, Receipt, ResourceView};
pub use watch::{EventWatch, LeaseUpdate, LeaseWatch, event_cursor, parse_event_cursor};

use crate::allocator;
use crate::blueprint::Registry;
use crate::clock::{Micros, SharedClock};
use crate::error::{Error, Reason, Result};
use crate::host::Place;
use crate::model::id::LeaseId;
use crate::model::{Lease, LeaseState, Resource, Shares};
use crate::scheduler::{self, Scheduler};
use crate::store::{Daemon, Location, PeerDoor, Store, pool_of};
use running::Running;

/// How an engine runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where everything is kept.
    pub database: Location,
    /// Workers of the queue.
    pub workers: usize,
    /// The queue's slow sweep; only tests switch it off.
    pub sweep: bool,
    /// How long what has ended is kept.
    pub retention: std::time::Duration,
    /// Whether the local host and the stock kinds become blueprints when there are none.
    pub stock_blueprints: bool,
    /// This machine's name.
    pub machine: String,
    /// Where this daemon is reached.
    pub address: String,
    /// What each owner may have.
    pub shares: Shares,
}

/// An interface of an ACTIVE lease of the caller, ready to be used.
pub struct Opened {
    /// As of now.
    pub lease: Lease,
    /// Where it goes.
    pub place: Place,
    /// Cancelled within a second of the lease's end: streams end then.
    pub ended: CancellationToken,
}

/// The engine of one daemon.
pub struct Engine {
    store: Store,
    registry: Registry,
    shares: Arc<Shares>,
    clock: SharedClock,
    daemon: Daemon,
    /// Where other daemons come in, once that is known.
    door: OnceLock<PeerDoor>,
    /// The newest id of a lease or resource that there was at the start.
    inherited: String,
    /// Set from the start to the stop; it knows the engine in turn.
    scheduler: Mutex<Option<Arc<Scheduler>>>,
    running: Running,
    /// Tokens of leases whose interfaces are open; cancelled when the lease ends.
    open: Mutex<HashMap<LeaseId, CancellationToken>>,
    /// Last use of leases, written down now and then: a durable commit per call would cost more than the call.
    used: Mutex<HashMap<LeaseId, Micros>>,
    outlooks: outlook::Outlooks,
    courtesy: Arc<courtesy::Courtesy>,
    draining: AtomicBool,
    /// Ended by [`Engine::stop`].
    stop: CancellationToken,
    /// Ended by [`Engine::begin_drain`]: watches end.
    drain: CancellationToken,
    background: TaskTracker,
}

impl Engine {
    /// Opens the store, takes over what a dead daemon left, and starts the workers.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn start(settings: &Settings, registry: Registry, clock: SharedClock) -> Result<Arc<Self>> {
        let store = Store::open(&settings.database, Arc::clone(&clock)).await?;
        let inherited = store.newest_id().await?;
        let now = clock.now();
        let daemon = Daemon {
            id: format!("daemon_{}", ulid_part(now)),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine: settings.machine.clone(),
            address: settings.address.clone(),
            start_time: now,
            seen_time: now,
            draining: false,
            claims: 0,
        };
        let engine = Arc::new(Self {
            store: store.clone(),
            registry,
            shares: Arc::new(settings.shares.clone()),
            clock,
            daemon: daemon.clone(),
            door: OnceLock::new(),
            inherited,
            scheduler: Mutex::default(),
            running: Running::default(),
            open: Mutex::default(),
            used: Mutex::default(),
            outlooks: outlook::Outlooks::default(),
            courtesy: Arc::default(),
            draining: AtomicBool::new(false),
            stop: CancellationToken::new(),
            drain: CancellationToken::new(),
            background: TaskTracker::new(),
        });
        engine.name_blueprints().await?;
        engine.store.daemon_lives(&daemon).await?;
        if settings.stock_blueprints {
            engine.make_stock_blueprints().await?;
        }
        let limits = pool_of(allocator::gates::EVERYWHERE);
        // What owners may have was perhaps changed.
        engine
            .store
            .write(move |tx| {
                let limits = limits.clone();
                Box::pin(async move { tx.wake_pools(&limits).await })
            })
            .await?;
        engine.background.spawn(running::follow(Arc::clone(&engine), store.news()));
        let settings_of_queue =
            scheduler::Settings { workers: settings.workers, sweep: settings.sweep, daemon: daemon.id.clone() };
        let steps = Arc::new(steps::EngineSteps(Arc::clone(&engine)));
        store.take_along(Arc::new(steps::Allocations(engine.rules())));
        let scheduler = Scheduler::start(store, steps, &settings_of_queue).await?;
        *engine.scheduler.lock().unwrap_or_else(PoisonError::into_inner) = Some(scheduler);
        engine.background.spawn(housekeeping::keep(Arc::clone(&engine), settings.retention));
        engine.background.spawn(health::keep(Arc::clone(&engine)));
        Ok(engine)
    }

    /// Tells the other daemons on this database where they reach this one.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn open_to_peers(&self, door: PeerDoor) -> Result<()> {
        let door = self.door.get_or_init(|| door).clone();
        self.store.open_to_peers(&self.daemon.id, Some(door)).await
    }

    /// No new leases from now on, and watches end; running calls go on. Where there are other daemons they get what there is to do at
    /// once, rather than when the last call has ended; on its own a daemon goes on with it until then.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.drain.cancel();
        if self.store.is_shared()
            && let Ok(scheduler) = self.scheduler()
        {
            scheduler.stop();
            self.running.cancel_all();
        }
    }

    /// Whether [`Engine::begin_drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Hands claims back and returns when no step runs any more.
    pub async fn stop(&self) {
        self.begin_drain();
        let scheduler = self.scheduler.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(scheduler) = scheduler {
            // No new steps first: those that are cancelled then are the last.
            scheduler.stop();
            self.running.cancel_all();
            scheduler.stopped().await;
        }
        self.stop.cancel();
        self.background.close();
        self.background.wait().await;
        if let Err(error) = self.flush_uses().await {
            tracing::warn!(error = %crate::error::report(&error), "cannot write the last uses of leases");
        }
        // Who has a call for us need not find out by itself that we are gone.
        if self.door.get().is_some()
            && let Err(error) = self.store.open_to_peers(&self.daemon.id, None).await
        {
            tracing::warn!(error = %crate::error::report(&error), "cannot tell the other daemons that this one ends");
        }
    }

    /// The store, for what only reads.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// This daemon's id.
    #[must_use]
    pub fn daemon_id(&self) -> &str {
        &self.daemon.id
    }

    /// When this daemon started.
    #[must_use]
    pub fn start_time(&self) -> Micros {
        self.daemon.start_time
    }

    /// The newest id of a lease or resource that there was when this engine started; empty when there was none.
    #[must_use]
    pub fn newest_inherited(&self) -> &str {
        &self.inherited
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &SharedClock {
        &self.clock
    }

    /// The clock now.
    #[must_use]
    pub fn now(&self) -> Micros {
        self.clock.now()
    }

    /// Resolves an interface of a lease to where it is.
    ///
    /// # Errors
    /// `LEASE_NOT_FOUND`, `LEASE_NOT_ACTIVE`, `LEASE_EXPIRED`, `INTERFACE_NOT_SUPPORTED`.
    pub async fn open(&self, caller: &Caller, lease_id: &str, interface: &str) -> Result<Opened> {
        let lease = self.find_own_lease(caller, lease_id).await?;
        // The token first, the state second: an end in between is seen by one or the other.
        let ended = self.token_of(&lease.id);
        let lease = self.active_lease(&lease.id).await.inspect_err(|error| {
            if matches!(error.reason, Reason::LeaseExpired | Reason::LeaseNotActive) {
                self.end_token(&lease.id);
            }
        })?;
        let Some((place, machine)) = self.resolve(&lease, interface).await? else {
            return Err(Error::new(
                Reason::InterfaceNotSupported,
                format!("the lease {} on a {} does not offer {interface:?}", lease.id, lease.spec.resource_type),
            ));
        };
        if let Some(machine) = machine.filter(Resource::is_blocked) {
            let why = machine.problem.split_once(": ").map_or("", |(_, why)| why);
            let message =
                format!("the host {} of {} is blocked until its key is pinned again: {why}", machine.id, lease.id);
            return Err(Error::new(Reason::HostKeyMismatch, message));
        }
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(lease.id.clone(), self.clock.now());
        Ok(Opened { lease, place, ended })
    }

    async fn active_lease(&self, id: &LeaseId) -> Result<Lease> {
        let lease = self.store.find_lease(id).await?.ok_or_else(|| caller::lease_not_found(id.as_str()))?;
        match lease.state {
            LeaseState::Active if lease.expire_time.is_some_and(|at| at <= self.clock.now()) => Err(expired(id)),
            LeaseState::Active => Ok(lease),
            _ if lease.state_reason == "EXPIRED" => Err(expired(id)),
            state => Err(Error::new(
                Reason::LeaseNotActive,
                format!(
                    "the lease {id} is {}{}; this needs an ACTIVE lease",
                    state.as_str(),
                    if lease.state_reason.is_empty() { String::new() } else { format!(" ({})", lease.state_reason) }
                ),
            )
            .with("state", state.as_str())),
        }
    }

    fn token_of(&self, id: &LeaseId) -> CancellationToken {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).entry(id.clone()).or_default().clone()
    }

    /// The lease has ended: whatever goes through it ends.
    fn end_token(&self, id: &LeaseId) {
        if let Some(token) = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(id) {
            token.cancel();
        }
    }

    fn scheduler(&self) -> Result<Arc<Scheduler>> {
        self.scheduler
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or_else(|| Error::new(Reason::ServerDraining, "the daemon is starting or going down; try again"))
    }
}

fn expired(id: &LeaseId) -> Error {
    Error::new(Reason::LeaseExpired, format!("the lease {id} has expired; acquire a new one, and renew it in time"))
}

fn ulid_part(now: Micros) -> String {
    let id = crate::model::id::ProcessId::new(now);
    id.as_str().trim_start_matches(crate::model::id::ProcessId::PREFIX).to_owned()
}
