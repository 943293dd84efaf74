//! All links of a daemon, one for each machine.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;

use super::masters::Masters;
use super::target::Target;
use super::{config, folder};
use crate::error::{Error, Result};

/// How long is waited for what.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// A connection with its login, and again when the machine is busy.
    pub dial: Duration,
    /// The answer to one session that is opened.
    pub open: Duration,
    /// A place among the sessions of a machine.
    pub wait: Duration,
    /// A master that carries no session ends after this; whole seconds.
    pub idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            dial: Duration::from_secs(12),
            open: Duration::from_secs(5),
            wait: Duration::from_mins(1),
            idle: Duration::from_mins(2),
        }
    }
}

/// The links of a daemon. Dropped, all their masters end.
pub struct Links {
    folder: PathBuf,
    patience: Patience,
    made: AtomicU32,
    by_id: Mutex<BTreeMap<String, Arc<Masters>>>,
}

impl Links {
    /// Links that keep their sockets in `runtime_dir`, or in a short folder instead when its path is too long for sockets.
    /// What an earlier daemon left there is ended first: no two daemons may share it.
    ///
    /// # Errors
    /// When the folder cannot be made, or is someone else's.
    pub async fn open(runtime_dir: &Path) -> Result<Self> {
        Self::patient(runtime_dir, Patience::default()).await
    }

    /// As [`Links::open`], with other times.
    ///
    /// # Errors
    /// As [`Links::open`].
    pub async fn patient(runtime_dir: &Path, patience: Patience) -> Result<Self> {
        let folder = folder::prepare(runtime_dir)?;
        folder::reap(&folder).await;
        Ok(Self { folder, patience, made: AtomicU32::new(0), by_id: Mutex::default() })
    }

    /// The link to a machine. The same target has the same link; one that was changed ends the link it had. Connects to
    /// nothing yet.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` as [`Target::check`].
    pub fn of(&self, target: &Target) -> Result<Arc<Masters>> {
        target.check()?;
        let mut links = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.get(&target.id)
            && link.target() == target
        {
            return Ok(Arc::clone(link));
        }
        // A folder of its own each time: the link before may still be ending.
        let made = self.made.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.join(folder::short(&format!("{} {made}", target.id)));
        let failed = |error| Error::internal(format!("cannot make the folder {}", folder.display()), error);
        DirBuilder::new().mode(0o700).create(&folder).map_err(failed)?;
        config::write(target, &folder, self.patience.idle)?;
        let link = Masters::new(target.clone(), folder, self.patience);
        let before = links.insert(target.id.clone(), Arc::clone(&link));
        drop(links);
        if let Some(before) = before {
            end(before);
        }
        Ok(link)
    }

    /// What is known of a machine's link, for operators; `None` when there is none.
    #[must_use]
    pub fn diagnostics(&self, id: &str) -> Option<serde_json::Value> {
        let links = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        links.get(id).map(|link| link.diagnostics())
    }

    /// How many links are in which state: `up`, `idle`, `connecting`, `down`, `closed`.
    #[must_use]
    pub fn states(&self) -> Vec<(String, i64)> {
        let mut states: BTreeMap<String, i64> = BTreeMap::new();
        for link in self.by_id.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let state = link.diagnostics()["state"].as_str().unwrap_or("unknown").to_owned();
            *states.entry(state).or_default() += 1;
        }
        states.into_iter().collect()
    }

    /// Lets this machine be tried at once, also when it was down just now. What is open stays.
    pub fn retry(&self, id: &str) {
        if let Some(link) = self.by_id.lock().unwrap_or_else(PoisonError::into_inner).get(id) {
            link.retry();
        }
    }

    /// Ends the link to this machine.
    pub fn forget(&self, id: &str) {
        let link = self.by_id.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        if let Some(link) = link {
            end(link);
        }
    }

    /// Ends all links; returns when no master is left.
    pub async fn close(&self) {
        let links = std::mem::take(&mut *self.by_id.lock().unwrap_or_else(PoisonError::into_inner));
        join_all(links.values().map(|link| link.close())).await;
    }
}

/// In the background: masters may take a second to go.
fn end(link: Arc<Masters>) {
    tokio::spawn(async move { link.close().await });
}
