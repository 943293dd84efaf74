//! Who gets a place on which master, when another is dialled, and what everyone is told while none can be.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::links::Patience;
use super::master::Master;
use super::room::{Class, MASTERS, Room};
use super::target::Target;
use crate::error::{Error, Reason, Result};

/// Waiting longer than this is a reason to dial another master.
const WAITS: Duration = Duration::from_millis(50);
/// While a machine is down, only the caller who tries it waits longer than this.
const DOWN: Duration = Duration::from_secs(1);
/// The first pause after a failure, and the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// How often one dial is tried when the machine hangs up before the login (`MaxStartups`).
const BUSY_TRIES: u32 = 6;

type Grant = Result<(Arc<Master>, Place), Failure>;

struct Waiter {
    class: Class,
    since: Instant,
    grant: oneshot::Sender<Grant>,
}

/// Why the last dial failed, and when the next may be.
struct Down {
    failure: Failure,
    since: Instant,
    until: Instant,
    tries: u32,
}

#[derive(Default)]
struct State {
    room: Room,
    masters: BTreeMap<u32, Arc<Master>>,
    waiting: VecDeque<Waiter>,
    dialled: u32,
    dialling: bool,
    down: Option<Down>,
    closed: bool,
}

/// The masters of one machine, and who waits for them.
pub(super) struct Pool {
    pub(super) target: Target,
    pub(super) folder: PathBuf,
    pub(super) patience: Patience,
    stop: CancellationToken,
    /// Told while somebody waits, and there can be no further master.
    wanted: Notify,
    state: Mutex<State>,
}

/// A place for one session; dropped, someone else may have it.
pub(super) struct Place {
    pool: Arc<Pool>,
    master: u32,
    class: Class,
    open: bool,
    again: bool,
    given_back: bool,
}

impl Place {
    /// The machine has accepted the session.
    pub(super) fn opened(&mut self) {
        self.open = true;
        self.pool.lock().room.opened(self.master);
    }

    /// The machine has refused it. One refusal may be because it frees sessions late; two in a row are its limit.
    pub(super) fn refused(&mut self) {
        if self.again {
            self.pool.lock().room.refused(self.master, Instant::now());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.given_back {
            let mut state = self.pool.lock();
            state.room.free(self.master, self.class, self.open);
            self.pool.serve(&mut state);
        }
    }
}

impl Pool {
    pub(super) fn new(target: Target, folder: PathBuf, patience: Patience) -> Arc<Self> {
        let (stop, wanted) = (CancellationToken::new(), Notify::new());
        Arc::new(Self { target, folder, patience, stop, wanted, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place until `deadline`; `again` when the machine has just refused the same call.
    pub(super) async fn place(
        self: &Arc<Self>,
        class: Class,
        again: bool,
        deadline: Instant,
    ) -> Result<(Arc<Master>, Place)> {
        let begun = Instant::now();
        let (grant, mut granted) = oneshot::channel();
        let mut mine = {
            let mut state = self.lock();
            if state.closed {
                return Err(closed(&self.target).error(None));
            }
            if let Some(error) = state.refusal(begun) {
                return Err(error);
            }
            state.waiting.push_back(Waiter { class, since: begun, grant });
            self.serve(&mut state);
            !state.room.possible(class) && self.grow(&mut state)
        };
        let mut step = WAITS;
        loop {
            match timeout(step.min(deadline.saturating_duration_since(Instant::now())), &mut granted).await {
                Ok(Ok(Ok((master, mut place)))) => {
                    place.again = again;
                    return Ok((master, place));
                }
                Ok(Ok(Err(failure))) => return Err(failure.error(Some(self.lock().pause(Instant::now())))),
                Ok(Err(_)) => return Err(closed(&self.target).error(None)),
                Err(_) => {}
            }
            let now = Instant::now();
            let mut state = self.lock();
            if now >= deadline {
                return Err(self.exhausted(&state, now - begun));
            }
            // One that waits for a learned limit to be forgotten is served here.
            self.serve(&mut state);
            mine |= self.grow(&mut state);
            let down = state.masters.is_empty().then_some(state.down.as_ref()).flatten();
            if let Some(down) = down
                && !mine
                && now - begun >= DOWN
            {
                return Err(down.failure.error(Some(BACK_OFF.0)));
            }
            if state.masters.len() >= MASTERS {
                self.wanted.notify_waiters();
            }
            step = (step * 2).min(WAITS * 5);
        }
    }

    fn exhausted(&self, state: &State, waited: Duration) -> Error {
        let open: u32 = state.room.seats.iter().map(|seats| seats.open).sum();
        let message = format!(
            "no session of {} was free in {} s: {open} are open on {} connections, and it takes {} on each; raise MaxSessions \
             in its sshd_config, or run less at once",
            self.target.id,
            waited.as_secs(),
            state.masters.len(),
            state.room.limit()
        );
        Error::new(Reason::SessionsExhausted, message).retry_after(Duration::from_secs(1))
    }

    /// Returns when somebody waits for a place, and no further master will bring one.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Gives what is free to who waits.
    fn serve(self: &Arc<Self>, state: &mut State) {
        let now = Instant::now();
        state.waiting.retain(|waiter| !waiter.grant.is_closed());
        for class in Class::ALL {
            while let Some(at) = state.waiting.iter().position(|waiter| waiter.class == class) {
                let Some(number) = state.room.take(class, now) else { break };
                let (Some(waiter), Some(master)) = (state.waiting.remove(at), state.masters.get(&number)) else {
                    break;
                };
                let place = Place {
                    pool: Arc::clone(self),
                    master: number,
                    class,
                    open: false,
                    again: false,
                    given_back: false,
                };
                if let Err(Ok((_, mut place))) = waiter.grant.send(Ok((Arc::clone(master), place))) {
                    // Who waited has just left. Not by its drop: the state is locked.
                    place.given_back = true;
                    state.room.free(number, class, false);
                }
            }
        }
    }

    /// Dials another master if someone waits and there may be one; whether this call began it.
    fn grow(self: &Arc<Self>, state: &mut State) -> bool {
        let held = state.down.as_ref().is_some_and(|down| Instant::now() < down.until);
        let wanted = state.waiting.iter().any(|waiter| !waiter.grant.is_closed());
        if !wanted || held || state.closed || state.dialling || state.masters.len() >= MASTERS {
            return false;
        }
        state.dialling = true;
        state.dialled += 1;
        tokio::spawn(Box::pin(Arc::clone(self).dial(state.dialled)));
        true
    }

    async fn dial(self: Arc<Self>, number: u32) {
        let dialled = tokio::select! {
            dialled = self.connect(number) => dialled,
            () = self.stop.cancelled() => Err(closed(&self.target)),
        };
        let now = Instant::now();
        let mut state = self.lock();
        state.dialling = false;
        match dialled {
            Ok(master) if state.closed => master.end(),
            Ok(master) => {
                let master = Arc::new(master);
                tracing::info!(
                    host = self.target.id,
                    master = number,
                    pid = master.pid.as_raw_pid(),
                    "connected over ssh"
                );
                state.down = None;
                state.room.add(number);
                state.masters.insert(number, Arc::clone(&master));
                tokio::spawn(watch(Arc::downgrade(&self), master));
                self.serve(&mut state);
                if state.waiting.iter().any(|waiter| now - waiter.since >= WAITS) {
                    self.grow(&mut state);
                }
            }
            Err(failure) => {
                tracing::warn!(host = self.target.id, reason = failure.reason.as_str(), "{}", failure.message);
                let before = state.down.take();
                let tries = before.as_ref().map_or(0, |down| down.tries) + 1;
                let since = before.map_or(now, |down| down.since);
                state.down = Some(Down { failure: failure.clone(), since, until: now + back_off(tries), tries });
                if state.masters.is_empty() {
                    for waiter in state.waiting.drain(..) {
                        let _ = waiter.grant.send(Err(failure.clone()));
                    }
                }
            }
        }
    }

    /// Dials; again, a little later, when the machine hangs up before it knows us.
    async fn connect(&self, number: u32) -> Result<Master, Failure> {
        let deadline = Instant::now() + self.patience.dial;
        let mut tries = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match Master::dial(&self.target, &self.folder, number, left).await {
                Err(failure) if failure.busy && tries < BUSY_TRIES => {
                    tries += 1;
                    let pause = jitter(Duration::from_millis(100) * 2_u32.pow(tries));
                    if Instant::now() + pause >= deadline {
                        return Err(failure);
                    }
                    // Nothing comes but the end of the pause.
                    let _ = timeout(pause, std::future::pending::<()>()).await;
                }
                done => return done,
            }
        }
    }

    /// This master is dead, or to be treated so: it is ended, and what waits goes elsewhere.
    pub(super) fn lost(self: &Arc<Self>, number: u32) {
        let mut state = self.lock();
        if let Some(master) = state.masters.remove(&number) {
            master.kill();
            master.clean();
            state.room.remove(number);
            self.serve(&mut state);
            self.grow(&mut state);
        }
    }

    /// A machine that does not answer is down until it is tried again.
    pub(super) fn silent(&self, failure: &Failure) {
        let now = Instant::now();
        let mut state = self.lock();
        if state.down.is_none() {
            state.down = Some(Down { failure: failure.clone(), since: now, until: now + BACK_OFF.0, tries: 1 });
        }
    }

    /// The machine may be tried at once, whatever was heard of it before.
    pub(super) fn retry(&self) {
        self.lock().down = None;
    }

    /// All masters at once.
    pub(super) fn drop_all(self: &Arc<Self>) {
        let numbers: Vec<u32> = self.lock().masters.keys().copied().collect();
        for number in numbers {
            self.lost(number);
        }
    }

    /// No call is answered any more; the masters are asked to end.
    pub(super) fn close(&self) -> Vec<Arc<Master>> {
        self.stop.cancel();
        let mut state = self.lock();
        state.closed = true;
        let failure = closed(&self.target);
        for waiter in state.waiting.drain(..) {
            let _ = waiter.grant.send(Err(failure.clone()));
        }
        state.room = Room::default();
        let masters: Vec<_> = std::mem::take(&mut state.masters).into_values().collect();
        for master in &masters {
            master.end();
        }
        masters
    }

    /// For operators.
    pub(super) fn diagnostics(&self) -> Value {
        let now = Instant::now();
        let state = self.lock();
        let masters = state.room.seats.iter().filter_map(|seats| {
            let master = state.masters.get(&seats.master)?;
            Some(json!({
                "number": seats.master,
                "pid": master.pid.as_raw_pid(),
                "up_seconds": (now - master.since).as_secs(),
                "first": seats.first,
                "sessions_open": seats.open,
                "control": seats.taken(Class::Control),
                "files": seats.taken(Class::Files),
                "commands": seats.taken(Class::Command),
                "bulk": seats.taken(Class::Bulk),
            }))
        });
        let masters: Vec<_> = masters.collect();
        let named = match (&state.down, masters.is_empty()) {
            _ if state.closed => "closed",
            (Some(_), true) => "down",
            (None, true) if state.dialling => "connecting",
            (None, true) => "idle",
            (_, false) => "up",
        };
        json!({
            "state": named,
            "masters": masters,
            "waiting": state.waiting.len(),
            "dialling": state.dialling,
            "session_limit": state.room.limit(),
            "last_error": state.down.as_ref().map(|down| json!({
                "reason": down.failure.reason.as_str(),
                "message": down.failure.message,
                "since_seconds": (now - down.since).as_secs(),
                "tries": down.tries,
                "retry_in_seconds": down.until.saturating_duration_since(now).as_secs_f64(),
            })),
        })
    }
}

impl State {
    /// What a call is told at once: the machine is down, and it is not yet time to try it.
    fn refusal(&self, now: Instant) -> Option<Error> {
        let down = self.down.as_ref().filter(|down| self.masters.is_empty() && now < down.until)?;
        Some(down.failure.error(Some(down.until - now)))
    }

    /// Until the next try.
    fn pause(&self, now: Instant) -> Duration {
        self.down.as_ref().map_or(BACK_OFF.0, |down| down.until.saturating_duration_since(now))
    }
}

/// Full jitter: callers that failed together do not come back together.
pub(super) fn jitter(longest: Duration) -> Duration {
    longest.mul_f64(fastrand::f64())
}

fn back_off(tries: u32) -> Duration {
    jitter((BACK_OFF.0 * 2_u32.pow(tries.saturating_sub(1).min(16))).min(BACK_OFF.1))
}

fn closed(target: &Target) -> Failure {
    Failure::new(
        Reason::HostUnreachable,
        format!("the ssh link to {} is closed: it was changed, removed or shut down", target.id),
    )
}

/// A master that ends, by itself or not, leaves the pool.
async fn watch(pool: Weak<Pool>, master: Arc<Master>) {
    master.gone().await;
    if let Some(pool) = pool.upgrade() {
        tracing::debug!(host = pool.target.id, master = master.number, "an ssh master has ended");
        pool.lost(master.number);
    }
}
