//! The uploads that this daemon knows of by name. The bytes lie on the host: another daemon, or this one after a restart,
//! finds them there.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use super::{Filesystem, files};
use crate::error::{Error, Reason, Result};
use crate::host::Place;
use crate::host::files::EntryType;

/// Remembered at most; the oldest are forgotten, and found on the host again if they must.
const REMEMBERED: usize = 10_000;
/// Where a temporary sibling is looked for.
const DEPTH: u32 = 32;

type Key = (String, String);

/// How far an upload came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that need not be sent again.
    pub committed_size: u64,
    /// Whether the file is there.
    pub complete: bool,
}

#[derive(Default)]
pub(super) struct Uploads {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: BTreeMap<Key, Known>,
    order: VecDeque<Key>,
}

#[derive(Clone)]
struct Known {
    path: PathBuf,
    /// Its size, once it is complete.
    complete: Option<u64>,
    /// Held by the call that writes.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Tells that call that a newer one wants to go on.
    newer: CancellationToken,
}

/// The right to go on with an upload, until a newer call wants it.
pub(super) struct Turn {
    /// Cancelled when a newer call wants to go on.
    pub(super) newer: CancellationToken,
    _held: Option<OwnedMutexGuard<()>>,
}

impl Turn {
    /// For an upload that nobody can name.
    pub(super) fn alone() -> Self {
        Self { newer: CancellationToken::new(), _held: None }
    }
}

impl Uploads {
    /// Waits for the upload's turn: the call that had it is told to stop, for its client has come back in this one. `None`
    /// when the upload is complete already.
    pub(super) async fn enter(&self, lease_id: &str, upload_id: &str, path: &Path) -> Result<Option<Turn>> {
        let key = (lease_id.to_owned(), upload_id.to_owned());
        let newer = CancellationToken::new();
        let turn = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = state.known.get_mut(&key) {
                if known.path != path {
                    let (known, path) = (known.path.display(), path.display());
                    let message =
                        format!("upload {upload_id} is for {known:?}, not for {path:?}; choose another upload_id");
                    return Err(Error::invalid(message));
                }
                if known.complete.is_some() {
                    return Ok(None);
                }
                std::mem::replace(&mut known.newer, newer.clone()).cancel();
                Arc::clone(&known.turn)
            } else {
                let turn = Arc::default();
                let known =
                    Known { path: path.to_owned(), complete: None, turn: Arc::clone(&turn), newer: newer.clone() };
                state.remember(key, known);
                turn
            }
        };
        let held = turn.lock_owned().await;
        Ok(Some(Turn { newer, _held: Some(held) }))
    }

    pub(super) fn complete(&self, lease_id: &str, upload_id: &str, size: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = state.known.get_mut(&(lease_id.to_owned(), upload_id.to_owned())) {
            known.complete = Some(size);
        }
    }

    fn find(&self, lease_id: &str, upload_id: &str) -> Option<(PathBuf, Option<u64>)> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let known = state.known.get(&(lease_id.to_owned(), upload_id.to_owned()))?;
        Some((known.path.clone(), known.complete))
    }
}

impl State {
    fn remember(&mut self, key: Key, known: Known) {
        self.known.insert(key.clone(), known);
        self.order.push_back(key);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

impl Filesystem {
    /// How far a resumable upload came.
    ///
    /// # Errors
    /// `UPLOAD_NOT_FOUND`, `INVALID_ARGUMENT` for what can be no upload's id.
    pub async fn progress(&self, place: &Place, lease_id: &str, upload_id: &str) -> Result<Progress> {
        check_id(upload_id)?;
        let files = files(place).await?;
        if let Some((path, complete)) = self.uploads.find(lease_id, upload_id) {
            if let Some(committed_size) = complete {
                return Ok(Progress { committed_size, complete: true });
            }
            if let Ok(entry) = files.stat(&temporary(&path, upload_id)?, false).await {
                return Ok(Progress { committed_size: entry.size, complete: false });
            }
        }
        let suffix = suffix(upload_id);
        let all = files.list(Path::new(""), DEPTH, None, usize::MAX).await?;
        let found = all
            .iter()
            .find(|entry| entry.kind == EntryType::File && entry.path.as_encoded_bytes().ends_with(suffix.as_bytes()));
        let entry = found.ok_or_else(|| {
            let message = format!("no upload {upload_id} in lease {lease_id}; begin at offset 0");
            Error::new(Reason::UploadNotFound, message)
        })?;
        Ok(Progress { committed_size: entry.size, complete: false })
    }
}

/// Refuses what can be no upload's id: it becomes part of a file's name.
pub(super) fn check_id(upload_id: &str) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if upload_id.is_empty() || upload_id.len() > 64 || !upload_id.bytes().all(fits) {
        return Err(Error::invalid("upload_id must be 1 to 64 of the characters A-Z a-z 0-9 . _ -"));
    }
    Ok(())
}

fn suffix(upload_id: &str) -> String {
    format!(".drydock-{upload_id}")
}

/// The sibling that holds an upload until it is whole. A long name is shortened: the upload's id tells it apart.
pub(super) fn temporary(path: &Path, upload_id: &str) -> Result<PathBuf> {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    const SHORT: usize = 120;

    let name = path
        .file_name()
        .ok_or_else(|| Error::invalid(format!("path {:?} does not name a file under the root", path.display())))?;
    let mut sibling = vec![b'.'];
    sibling.extend(name.as_bytes().iter().take(SHORT));
    sibling.extend(suffix(upload_id).bytes());
    Ok(path.with_file_name(OsString::from_vec(sibling)))
}
