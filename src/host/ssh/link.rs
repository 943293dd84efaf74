//! The seam between what runs on a machine and how channels reach it.

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::Result;

/// What a channel is for: bulk goes over masters of its own, so that it does not delay the small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The helper's channel: state, pings, kills, the lifeline. Never waits for room.
    Control,
    /// A command of a lease.
    Command,
    /// Files.
    Bulk,
}

/// A session channel that is open. Dropping it closes it and frees its place among the machine's sessions.
pub struct Channel {
    /// To the remote command.
    pub stdin: Box<dyn AsyncWrite + Send + Unpin>,
    /// From it.
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// From it.
    pub stderr: Box<dyn AsyncRead + Send + Unpin>,
    /// Held as long as the channel is: its place among the sessions.
    pub hold: Box<dyn std::any::Any + Send>,
}

/// A way to open channels to one machine.
#[async_trait]
pub trait Link: Send + Sync {
    /// Runs `command` by the user's login shell; returns when the machine has accepted the channel. Refusals for want of
    /// sessions are tried again inside: nothing ran then.
    ///
    /// # Errors
    /// `HOST_UNREACHABLE`, `HOST_AUTH_FAILED`, `HOST_KEY_MISMATCH`, `SESSIONS_EXHAUSTED`.
    async fn open(&self, command: &str, purpose: Purpose) -> Result<Channel>;

    /// Opens a subsystem, for example `sftp`. A machine that has none may be known by a channel that ends at once.
    ///
    /// # Errors
    /// As [`Link::open`]; `INTERFACE_NOT_SUPPORTED` when the machine says at once that it has no such subsystem.
    async fn subsystem(&self, name: &str, purpose: Purpose) -> Result<Channel>;

    /// Returns when somebody waits for a place that only the end of another session makes free: who holds one without need
    /// gives it back then.
    async fn wanted(&self) {
        std::future::pending::<()>().await;
    }

    /// What was seen to be dead is dropped: channels that are opened from now on go over new connections.
    async fn reset(&self);
}
