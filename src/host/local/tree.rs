//! A process tree on this machine: its group, and whoever left the group but still carries its process id in the
//! environment.
//!
//! The leader stays unreaped until the tree is ended: as long as its zombie holds the number, no stranger's group can.

use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, test_kill_process_group, waitid,
};
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout, timeout_at};

use super::process_table::{Candidate, PROCESS_VARIABLE, strike};
use super::supervisor::Supervisor;
use super::sweep::Sweep;
use crate::error::{Error, Reason, Result};
use crate::host::{Control, Exit};

/// After this long, what survives KILL is given up (it hangs in the kernel) and left to the end of its lease.
const GIVE_UP: Duration = Duration::from_secs(5);

/// A handle on a child, readable once it has exited.
#[expect(deprecated, reason = "its successor is unsafe; an owned descriptor stays open as long as it must")]
pub(super) fn leader(child: Pid) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(pidfd_open(child, PidfdFlags::NONBLOCK)?)
}

/// A running tree; see the module.
pub(super) struct Tree {
    group: Pid,
    process_id: String,
    leader: AsyncFd<OwnedFd>,
    /// `None` once reaped.
    child: Mutex<Option<Child>>,
    exit: OnceLock<Exit>,
    over: AtomicBool,
    supervisor: Arc<Supervisor>,
    sweep: Arc<Sweep>,
}

impl Tree {
    /// Takes over a child that leads its own group.
    pub(super) fn new(
        child: Child,
        process_id: String,
        supervisor: Arc<Supervisor>,
        sweep: Arc<Sweep>,
    ) -> std::io::Result<Self> {
        let group = Pid::from_child(&child);
        let leader = leader(group)?;
        let child = Mutex::new(Some(child));
        let over = AtomicBool::new(false);
        Ok(Self { group, process_id, leader, child, exit: OnceLock::new(), over, supervisor, sweep })
    }

    /// How the leader ended; it stays a zombie.
    fn peek(&self) -> Result<Option<Exit>> {
        if let Some(exit) = self.exit.get() {
            return Ok(Some(*exit));
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::PidFd(self.leader.get_ref().as_fd()), options) {
            Ok(None) | Err(Errno::INTR) => Ok(None),
            Ok(Some(status)) => {
                let exit = status
                    .exit_status()
                    .map(Exit::Code)
                    .or_else(|| status.terminating_signal().map(Exit::Signal))
                    .unwrap_or(Exit::Code(0));
                Ok(Some(*self.exit.get_or_init(|| exit)))
            }
            Err(error) => self.exit.get().map(|exit| Some(*exit)).ok_or_else(|| {
                Error::new(Reason::OutcomeUnknown, format!("nobody knows how process {} ended", self.process_id))
                    .because(error)
            }),
        }
    }

    async fn exited(&self) -> Result<Exit> {
        loop {
            if let Some(exit) = self.peek()? {
                return Ok(exit);
            }
            let lost = |error| Error::internal(format!("cannot wait for process {}", self.process_id), error);
            let mut ready = self.leader.readable().await.map_err(lost)?;
            if self.peek()?.is_none() {
                ready.clear_ready();
            }
        }
    }

    fn signal_group(&self, signal: Signal) -> rustix::io::Result<()> {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        // A group that still has members keeps its number.
        if child.is_none() {
            test_kill_process_group(self.group)?;
        }
        kill_process_group(self.group, signal)
    }

    /// Reaps the leader, which has exited; whether the group is empty then.
    fn reap(&self) -> bool {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = child {
            let _ = child.wait();
        }
        test_kill_process_group(self.group) == Err(Errno::SRCH)
    }

    /// Sends a signal to all of the tree that lives, or to those outside of the group only; answers how many.
    async fn strike(&self, signal: Option<Signal>, outside: bool) -> usize {
        let group = self.group.as_raw_nonzero().get();
        let id = self.process_id.clone();
        let wanted = move |candidate: &mut Candidate| {
            let inside = candidate.group() == group;
            (inside && !outside) || (!inside && candidate.names(PROCESS_VARIABLE, &id))
        };
        let look = tokio::task::spawn_blocking(move || strike(signal, wanted)).await.map_err(std::io::Error::other);
        look.flatten().unwrap_or_else(|error| {
            tracing::warn!(process_id = self.process_id, %error, "cannot read the process table; looking again");
            // Nobody knows, so there may be one.
            1
        })
    }

    /// Ends the tree; see [`Control::end`].
    async fn end(&self, grace: Duration) {
        if self.over.load(Ordering::Acquire) {
            return;
        }
        let exited = matches!(self.peek(), Ok(Some(_)) | Err(_));
        let _ = self.signal_group(if grace.is_zero() { Signal::KILL } else { Signal::TERM });
        if exited && self.reap() {
            // The common case: all went home by themselves. Whoever left the group is looked for a little later, for
            // many trees at once: a look at the whole process table costs more than starting a process.
            if !self.over.swap(true, Ordering::AcqRel) {
                self.sweep.later(&self.process_id);
            }
            return;
        }
        let deadline = Instant::now() + grace;
        if grace.is_zero() || !self.leave(deadline).await {
            self.kill().await;
        }
        self.over.store(true, Ordering::Release);
        self.supervisor.forget(&self.process_id);
    }

    /// Waits until `deadline` for the tree to be gone after TERM.
    async fn leave(&self, deadline: Instant) -> bool {
        self.strike(Some(Signal::TERM), true).await;
        if timeout_at(deadline, self.exited()).await.is_err() {
            return false;
        }
        let mut pause = Duration::from_millis(2);
        while self.strike(None, false).await > 0 {
            if Instant::now() >= deadline {
                return false;
            }
            pause = (pause * 2).min(Duration::from_millis(50));
            let _ = timeout_at(deadline, wait(pause)).await;
        }
        self.reap();
        true
    }

    async fn kill(&self) {
        let give_up = Instant::now() + GIVE_UP;
        let mut pause = Duration::from_millis(1);
        loop {
            let _ = self.signal_group(Signal::KILL);
            let left = self.strike(Some(Signal::KILL), false).await;
            let exited = timeout(pause, self.exited()).await.is_ok();
            if exited && left == 0 {
                self.reap();
                return;
            }
            if Instant::now() >= give_up {
                tracing::error!(process_id = self.process_id, left, "processes survive SIGKILL");
                return;
            }
            if exited {
                wait(pause).await;
            }
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

/// A pause between two looks at processes that are not our children: nothing tells when they end.
pub(super) async fn wait(pause: Duration) {
    let _ = timeout(pause, std::future::pending::<()>()).await;
}

/// Power over a tree; the tree is killed when it is dropped.
pub(super) struct TreeControl {
    tree: Arc<Tree>,
    runtime: Handle,
}

impl TreeControl {
    /// Must be called in a runtime.
    pub(super) fn new(tree: Tree) -> Self {
        Self { tree: Arc::new(tree), runtime: Handle::current() }
    }
}

#[async_trait]
impl Control for TreeControl {
    async fn signal(&self, number: i32) -> Result<()> {
        let signal = Signal::from_named_raw(number)
            .ok_or_else(|| Error::invalid(format!("signal {number} does not exist on this host")))?;
        match self.tree.signal_group(signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(Error::internal(format!("process {} cannot be signalled", self.tree.process_id), error)),
        }
    }

    async fn wait(&self) -> Result<Exit> {
        self.tree.exited().await
    }

    async fn end(&self, grace: Duration) {
        self.tree.end(grace).await;
    }
}

impl Drop for TreeControl {
    fn drop(&mut self) {
        if self.tree.over.load(Ordering::Acquire) {
            return;
        }
        // At once for the group; the rest needs a look at the process table.
        let _ = self.tree.signal_group(Signal::KILL);
        let tree = Arc::clone(&self.tree);
        self.runtime.spawn(async move { tree.end(Duration::ZERO).await });
    }
}
