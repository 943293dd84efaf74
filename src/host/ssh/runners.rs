//! The runners of a machine: kept warm, used again, and given up when others need their place.
//!
//! A runner that has served a lease serves only this lease from then on: should something of a command have hidden itself
//! so well that nobody finds it, what it writes to the runner's pipes reaches no other lease.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, interval_at};

use super::keeper::Keeper;
use super::link::{Link, Purpose};
use super::runner::Runner;
use crate::error::{Error, Reason, Result};

/// Commands that wait for a runner at most.
const QUEUE: usize = 1024;
/// Runners that do nothing are closed after this time,
const IDLE: Duration = Duration::from_secs(5);
/// but one, which goes after this.
const LAST_IDLE: Duration = Duration::from_mins(1);
/// Who waits so long for a place closes somebody else's idle runner.
const EVICT: Duration = Duration::from_millis(100);

struct Idle {
    runner: Runner,
    /// Whom it served.
    lease: Option<String>,
    since: Instant,
}

/// See the module.
pub(super) struct Runners {
    link: Arc<dyn Link>,
    idle: Mutex<Vec<Idle>>,
    freed: Notify,
    waiting: AtomicUsize,
    opening_ahead: AtomicBool,
    names: AtomicU64,
}

/// Counts one up as long as it lives.
pub(super) struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    /// One more.
    pub(super) fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Runners {
    /// None yet.
    pub(super) fn new(link: Arc<dyn Link>) -> Arc<Self> {
        Arc::new(Self {
            link,
            idle: Mutex::default(),
            freed: Notify::new(),
            waiting: AtomicUsize::new(0),
            opening_ahead: AtomicBool::new(false),
            names: AtomicU64::new(1),
        })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A runner for a lease, and whether it is new: one that waited may have lost its channel meanwhile.
    ///
    /// # Errors
    /// As [`Link::open`]; `SESSIONS_EXHAUSTED` when too many wait.
    pub(super) async fn take(self: &Arc<Self>, keeper: &Arc<Keeper>, lease: &str) -> Result<(Runner, bool)> {
        let freed = self.freed.notified();
        tokio::pin!(freed);
        freed.as_mut().enable();
        if let Some(runner) = self.pick(keeper, lease) {
            self.open_ahead(keeper);
            return Ok((runner, false));
        }
        let _counted = Counted::new(&self.waiting);
        if self.waiting.load(Ordering::Acquire) > QUEUE {
            let what = format!("more than {QUEUE} commands wait for a session of the host");
            return Err(Error::new(Reason::SessionsExhausted, what).retry_after(Duration::from_secs(5)));
        }
        let open = self.open(keeper);
        tokio::pin!(open);
        let mut evict = interval_at(Instant::now() + EVICT, EVICT);
        loop {
            tokio::select! {
                biased;
                () = &mut freed => {
                    freed.set(self.freed.notified());
                    freed.as_mut().enable();
                    if let Some(runner) = self.pick(keeper, lease) {
                        return Ok((runner, false));
                    }
                }
                opened = &mut open => {
                    self.open_ahead(keeper);
                    return opened.map(|runner| (runner, true));
                }
                _ = evict.tick() => self.evict(),
            }
        }
    }

    /// Whatever waits for this lease, else one that has served nobody.
    fn pick(&self, keeper: &Arc<Keeper>, lease: &str) -> Option<Runner> {
        let mut idle = self.idle();
        let usable = |idle: &Idle| Arc::ptr_eq(&idle.runner.keeper, keeper);
        let own = idle.iter().rposition(|idle| usable(idle) && idle.lease.as_deref() == Some(lease));
        let at = own.or_else(|| idle.iter().rposition(|idle| usable(idle) && idle.lease.is_none()))?;
        Some(idle.remove(at).runner)
    }

    async fn open(&self, keeper: &Arc<Keeper>) -> Result<Runner> {
        let name = self.names.fetch_add(1, Ordering::Relaxed).to_string();
        let channel = self.link.open(&keeper.runner_command(&name), Purpose::Command).await?;
        Ok(Runner::new(name, Arc::clone(keeper), channel))
    }

    /// Sees to it that the next new lease need not wait for a login shell.
    fn open_ahead(self: &Arc<Self>, keeper: &Arc<Keeper>) {
        let fresh = self.idle().iter().any(|idle| idle.lease.is_none());
        if fresh || self.waiting.load(Ordering::Acquire) > 1 || self.opening_ahead.swap(true, Ordering::AcqRel) {
            return;
        }
        let (runners, keeper) = (Arc::clone(self), Arc::clone(keeper));
        tokio::spawn(async move {
            let opened = tokio::select! {
                opened = runners.open(&keeper) => opened.ok(),
                () = keeper.dead().cancelled() => None,
            };
            runners.opening_ahead.store(false, Ordering::Release);
            if let Some(runner) = opened {
                runners.wait_here(runner, None);
            }
        });
    }

    /// Takes back a runner that can be used again.
    pub(super) fn give_back(&self, runner: Runner, lease: &str) {
        self.wait_here(runner, Some(lease.to_owned()));
    }

    fn wait_here(&self, runner: Runner, lease: Option<String>) {
        self.idle().push(Idle { runner, lease, since: Instant::now() });
        self.freed.notify_waiters();
    }

    /// Closes the runner that has waited longest, since somebody needs its place.
    pub(super) fn evict(&self) {
        let evicted = {
            let mut idle = self.idle();
            if idle.is_empty() { None } else { Some(idle.remove(0)) }
        };
        if let Some(idle) = evicted {
            idle.runner.keeper.forget(&idle.runner.name);
        }
    }

    /// For operators: how many wait for work, and how many commands wait for one of them.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.idle().len(), self.waiting.load(Ordering::Acquire))
    }

    /// To be called now and then: closes what nobody needs.
    pub(super) fn trim(&self) {
        let mut idle = self.idle();
        let mut left = idle.len();
        idle.retain(|idle| {
            let limit = if left > 1 { IDLE } else { LAST_IDLE };
            let gone = idle.runner.keeper.dead().is_cancelled() || idle.since.elapsed() > limit;
            if gone {
                left -= 1;
                idle.runner.keeper.forget(&idle.runner.name);
            }
            !gone
        });
    }

    /// Closes all that wait.
    pub(super) fn clear(&self) {
        self.idle().clear();
    }
}
