//! A [`Link`] over a few OpenSSH masters.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::failure::Failure;
use super::folder;
use super::link::{Channel, Link, Purpose};
use super::links::Patience;
use super::master::{Miss, Want};
use super::pool::{Pool, jitter};
use super::room::Class;
use super::target::Target;
use crate::error::{Error, Reason, Result};

/// Longer command lines break the mux protocol, or do not fit one argument on the machine; in bytes.
pub const LONGEST_COMMAND: usize = 100 * 1024;
/// The first pause after a refusal, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(640));
/// Masters that may die under one call.
const DEATHS: u32 = 3;
/// How long masters may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// The way to one machine: at most four connections, dialled when needed and gone when idle, and the places on them.
pub struct Masters {
    pool: Arc<Pool>,
}

impl Drop for Masters {
    fn drop(&mut self) {
        self.pool.close();
    }
}

impl Masters {
    pub(super) fn new(target: Target, folder: PathBuf, patience: Patience) -> Arc<Self> {
        Arc::new(Self { pool: Pool::new(target, folder, patience) })
    }

    /// Which machine, and as whom.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.pool.target
    }

    /// For operators: each master with its process and sessions, who waits, the learned limit of sessions, the last error
    /// and for how long it has been so.
    #[must_use]
    pub fn diagnostics(&self) -> Value {
        self.pool.diagnostics()
    }

    pub(super) fn retry(&self) {
        self.pool.retry();
    }

    /// Ends all masters, and with them what is open. Later calls are `HOST_UNREACHABLE`.
    pub async fn close(&self) {
        let masters = self.pool.close();
        for master in masters {
            if timeout(GOODBYE, master.gone()).await.is_err() {
                master.kill();
                // What is killed goes, stopped or not.
                let _ = timeout(GOODBYE, master.gone()).await;
            }
        }
        // Also one that was being dialled just now.
        folder::end(&self.pool.folder).await;
    }

    async fn channel(&self, want: Want, class: Class) -> Result<Channel> {
        let deadline = Instant::now() + self.pool.patience.wait;
        let (mut pause, mut again, mut deaths) = (PAUSES.0, false, 0);
        loop {
            let (master, place) = self.pool.place(class, again, deadline).await?;
            match master.open(want.clone(), self.pool.patience.open, place).await {
                Ok(channel) => return Ok(channel),
                Err(Miss::Failed(error)) => return Err(error),
                Err(Miss::Refused) => {
                    again = true;
                    // Nothing comes but the end of the pause.
                    let _ = timeout(pause / 2 + jitter(pause / 2), std::future::pending::<()>()).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
                Err(Miss::Gone) => {
                    self.pool.lost(master.number);
                    deaths += 1;
                }
                Err(Miss::Silent) => {
                    // A master that answers for itself waits for the machine, and ends when that is silent for longer:
                    // nothing that runs over it is lost to a machine or a line that is only slow.
                    if master.answers().await {
                        self.pool.silent(&self.unanswered());
                        return Err(self.unanswered().error(Some(Duration::from_millis(250))));
                    }
                    // One that does not hangs.
                    self.pool.lost(master.number);
                    deaths += 1;
                }
            }
            if deaths >= DEATHS {
                let message = format!("the connections to {} end as soon as they are used", self.target().id);
                let failure = Failure::new(Reason::HostUnreachable, message);
                return Err(failure.error(Some(Duration::from_secs(1))));
            }
        }
    }

    fn unanswered(&self) -> Failure {
        let seconds = self.pool.patience.open.as_secs_f32();
        let message = format!("{} does not answer: a session was not opened within {seconds} s", self.target().id);
        Failure::new(Reason::HostUnreachable, message)
    }
}

#[async_trait]
impl Link for Masters {
    async fn open(&self, command: &str, purpose: Purpose) -> Result<Channel> {
        if command.len() > LONGEST_COMMAND {
            let message =
                format!("a command line of {} bytes is too long for ssh: at most {LONGEST_COMMAND}", command.len());
            return Err(Error::invalid(message));
        }
        let class = match purpose {
            Purpose::Control => Class::Control,
            Purpose::Command => Class::Command,
            Purpose::Bulk => Class::Bulk,
        };
        Box::pin(self.channel(Want::Command(command.to_owned()), class)).await
    }

    async fn subsystem(&self, name: &str, purpose: Purpose) -> Result<Channel> {
        let want = Want::Subsystem(name.to_owned());
        let class = if purpose == Purpose::Bulk { Class::Bulk } else { Class::Files };
        Box::pin(self.channel(want, class)).await
    }

    async fn wanted(&self) {
        self.pool.wanted().await;
    }

    async fn reset(&self) {
        self.pool.drop_all();
    }
}
