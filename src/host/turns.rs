//! Turns at a folder of a host: several may read, one may change. Within this daemon.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::Host;

/// A lock for each folder that somebody uses now.
#[derive(Debug, Default)]
pub struct Turns {
    locks: Mutex<HashMap<String, Weak<RwLock<()>>>>,
}

impl Turns {
    /// Waits until nobody changes the folder, and keeps it so.
    pub async fn shared(&self, host: &dyn Host, folder: &Path) -> OwnedRwLockReadGuard<()> {
        self.lock(host, folder).await.read_owned().await
    }

    /// Waits until nobody else uses the folder, and keeps it so.
    pub async fn alone(&self, host: &dyn Host, folder: &Path) -> OwnedRwLockWriteGuard<()> {
        self.lock(host, folder).await.write_owned().await
    }

    async fn lock(&self, host: &dyn Host, folder: &Path) -> Arc<RwLock<()>> {
        // Not by the address: one machine may be known under several.
        let key = format!("{}:{}", host.machine().await, folder.display());
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(RwLock::new(()));
        locks.insert(key, Arc::downgrade(&lock));
        lock
    }
}
