//! Power over a command that runs on the machine: its group, and whoever left the group but carries its mark.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::Signal;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout, timeout_at};

use super::keeper::Keeper;
use super::runner::{End, News};
use crate::error::{Error, Reason, Result, report};
use crate::host::{Control, Exit};

/// After this long, what survives KILL is given up (it hangs in the kernel) and left to the end of its lease.
const GIVE_UP: Duration = Duration::from_secs(5);
/// While nobody reads its output, a command's end is looked for in what its runner has written down.
const LOOK: Duration = Duration::from_secs(1);

/// What is known of a running command.
pub(super) struct Running {
    /// Who can reach it.
    pub(super) keeper: Arc<Keeper>,
    /// The name of its runner.
    pub(super) runner: String,
    /// Its process id of the API, by which its tree is found.
    pub(super) id: String,
    /// 0 when there was no program to run.
    pub(super) group: i64,
    /// What is told of it.
    pub(super) news: Arc<News>,
}

/// A running tree; it is killed when this is dropped.
pub(super) struct Tree {
    running: Arc<Running>,
    over: Arc<AtomicBool>,
    runtime: Handle,
}

impl Tree {
    /// Must be called in a runtime.
    pub(super) fn new(running: Running) -> Self {
        Self { running: Arc::new(running), over: Arc::default(), runtime: Handle::current() }
    }
}

impl Running {
    fn end(&self) -> Option<End> {
        *self.news.end.borrow()
    }

    async fn ended(&self) -> End {
        let mut news = self.news.end.subscribe();
        loop {
            if let Some(end) = *news.borrow_and_update() {
                return end;
            }
            if timeout(LOOK, news.changed()).await.is_err() && self.news.stalled.load(Ordering::Acquire) {
                self.look().await;
            }
        }
    }

    /// Takes the end from what the runner has written down: it may have ended although its output is not read yet.
    async fn look(&self) {
        if let Ok(Some(record)) = self.keeper.record(&self.runner).await
            && record.id == self.id
            && let Some(status) = record.status
        {
            let end = End::Exited(Exit::Code(status));
            self.news.end.send_if_modified(|known| known.is_none() && known.replace(end).is_none());
        }
    }

    async fn strike(&self, signal: Option<Signal>) -> u64 {
        if signal == Some(Signal::KILL) {
            self.news.killed.store(true, Ordering::Release);
        }
        self.keeper.strike(signal, self.group, &self.id, &self.runner).await.unwrap_or_else(|error| {
            // A keeper that is gone has ended, or will end, what it kept.
            tracing::debug!(error = report(&error), id = self.id, "the keeper does not answer");
            0
        })
    }

    /// Ends the tree; see [`Control::end`].
    async fn finish(&self, grace: Duration) {
        // The common case: all went home by themselves.
        if self.group == 0 || (self.end().is_some() && self.is_clean().await) {
            return;
        }
        let deadline = Instant::now() + grace;
        if grace.is_zero() || !self.leave(deadline).await {
            self.kill().await;
        }
        if self.end().is_none() {
            self.look().await;
        }
        if *self.news.left.borrow() == Some(true) {
            // Its runner is not used again.
            self.keeper.forget(&self.runner);
        }
    }

    /// Whether nothing was left of it at its end; its runner knows in a moment.
    async fn is_clean(&self) -> bool {
        let mut left = self.news.left.subscribe();
        let known = timeout(LOOK, left.wait_for(Option::is_some)).await;
        matches!(known, Ok(Ok(left)) if *left == Some(false))
    }

    /// Waits until `deadline` for the tree to be gone after TERM.
    async fn leave(&self, deadline: Instant) -> bool {
        if self.strike(Some(Signal::TERM)).await == 0 {
            return true;
        }
        let mut pause = Duration::from_millis(2);
        loop {
            let _ = timeout_at(deadline, timeout(pause, std::future::pending::<()>())).await;
            if self.strike(None).await == 0 {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    async fn kill(&self) {
        let give_up = Instant::now() + GIVE_UP;
        let mut pause = Duration::from_millis(1);
        loop {
            let left = self.strike(Some(Signal::KILL)).await;
            if left == 0 {
                return;
            }
            if Instant::now() >= give_up {
                tracing::error!(process_id = self.id, left, "processes survive SIGKILL on the host");
                return;
            }
            let _ = timeout(pause, std::future::pending::<()>()).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

#[async_trait]
impl Control for Tree {
    async fn signal(&self, number: i32) -> Result<()> {
        let running = &self.running;
        let signal = Signal::from_named_raw(number)
            .ok_or_else(|| Error::invalid(format!("signal {number} does not exist on this host")))?;
        if running.group == 0 || running.end().is_some() {
            return Ok(());
        }
        if signal == Signal::KILL {
            running.news.killed.store(true, Ordering::Release);
        }
        running.keeper.signal(number, running.group).await
    }

    async fn wait(&self) -> Result<Exit> {
        match self.running.ended().await {
            End::Exited(exit) => Ok(exit),
            End::Lost => {
                let what = format!("the link to the host was lost; nobody knows how process {} ended", self.running.id);
                Err(Error::new(Reason::OutcomeUnknown, what))
            }
        }
    }

    async fn end(&self, grace: Duration) {
        if self.over.load(Ordering::Acquire) {
            return;
        }
        self.running.finish(grace).await;
        self.over.store(true, Ordering::Release);
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if self.over.load(Ordering::Acquire) {
            return;
        }
        let running = Arc::clone(&self.running);
        self.runtime.spawn(async move { running.finish(Duration::ZERO).await });
    }
}
