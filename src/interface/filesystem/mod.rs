//! Files under a lease's root. Nothing that is written is visible before it is whole.

mod read;
mod upload;
mod uploads;

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

pub use self::read::{Part, read};
pub use self::upload::{Begun, Finish, Upload, WriteStart};
pub use self::uploads::Progress;

use self::uploads::Uploads;
use crate::error::{Error, Reason, Result};
use crate::host::Place;
use crate::host::files::{Entry, Files};

/// A piece of a file in one message, at most.
pub const MAX_PIECE: usize = 1024 * 1024;
/// Levels of a listing, at most.
const MAX_DEPTH: u32 = 32;
/// Writers of different paths seldom meet.
const LOCKS: usize = 64;

/// What all file calls of a daemon share.
pub struct Filesystem {
    uploads: Uploads,
    /// By path: comparing an etag and replacing the file must be one step for all who write through us.
    locks: Vec<Mutex<()>>,
}

impl Default for Filesystem {
    fn default() -> Self {
        Self { uploads: Uploads::default(), locks: (0..LOCKS).map(|_| Mutex::new(())).collect() }
    }
}

impl Filesystem {
    async fn lock(&self, root: &Path, path: &Path) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        (root, path).hash(&mut hasher);
        let slot = usize::try_from(hasher.finish() % LOCKS as u64).unwrap_or(0);
        self.locks[slot].lock().await
    }
}

/// The files of a place, whose root is made if nobody has used it yet.
///
/// # Errors
/// What the host says.
pub async fn files(place: &Place) -> Result<Arc<dyn Files>> {
    place.host.make_folder(&place.root).await?;
    place.host.files(&place.root).await
}

/// One entry.
///
/// # Errors
/// `FILE_NOT_FOUND`, `PATH_OUTSIDE_ROOT`.
pub async fn stat(place: &Place, path: &Path, follow: bool) -> Result<Entry> {
    files(place).await?.stat(path, follow).await
}

/// At most `limit` entries below a directory after the path `after`; `depth` 0 means 1.
///
/// # Errors
/// `FILE_NOT_FOUND`, `NOT_A_DIRECTORY`, `PATH_OUTSIDE_ROOT`, `INVALID_ARGUMENT` for a depth beyond 32.
pub async fn list(place: &Place, path: &Path, depth: u32, after: Option<&OsStr>, limit: usize) -> Result<Vec<Entry>> {
    if depth > MAX_DEPTH {
        return Err(Error::invalid(format!("depth is {depth}; at most {MAX_DEPTH} levels are listed at once")));
    }
    files(place).await?.list(path, depth.max(1), after, limit).await
}

/// Makes a directory; mode 0 means 0755.
///
/// # Errors
/// `FILE_EXISTS`, `FILE_NOT_FOUND` for a missing parent, `PATH_OUTSIDE_ROOT`.
pub async fn make_directory(place: &Place, path: &Path, mode: u32, parents: bool) -> Result<Entry> {
    let mode = permissions(mode)?.unwrap_or(0o755);
    let files = files(place).await?;
    files.make_directory(path, mode, parents).await?;
    files.stat(path, false).await
}

/// Removes a file or an empty directory, or a tree.
///
/// # Errors
/// `FILE_NOT_FOUND` unless that is fine, `DIRECTORY_NOT_EMPTY`, `PATH_OUTSIDE_ROOT`.
pub async fn remove(place: &Place, path: &Path, recursive: bool, ignore_missing: bool) -> Result<()> {
    match files(place).await?.remove(path, recursive).await {
        Err(error) if ignore_missing && error.reason == Reason::FileNotFound => Ok(()),
        done => done,
    }
}

/// Moves an entry, atomically; answers where it is now.
///
/// # Errors
/// `FILE_NOT_FOUND`, `FILE_EXISTS` when nothing may be replaced, `PATH_OUTSIDE_ROOT`.
pub async fn rename(place: &Place, from: &Path, to: &Path, replace: bool) -> Result<Entry> {
    let files = files(place).await?;
    files.rename(from, to, replace).await?;
    files.stat(to, false).await
}

/// The path that a caller names by text or by bytes.
///
/// # Errors
/// `INVALID_ARGUMENT` when both are set.
pub fn path(text: &str, raw: &[u8]) -> Result<PathBuf> {
    use std::os::unix::ffi::OsStrExt as _;
    match (text.is_empty(), raw.is_empty()) {
        (_, true) => Ok(PathBuf::from(text)),
        (true, false) => Ok(PathBuf::from(OsStr::from_bytes(raw))),
        (false, false) => Err(Error::invalid("both path and raw_path are set; set one")),
    }
}

/// The 0777 bits a caller asks for; 0 is none.
fn permissions(mode: u32) -> Result<Option<u32>> {
    if mode > 0o777 {
        return Err(Error::invalid(format!("mode is {mode}; it must be at most 511, which is 0777")));
    }
    Ok((mode != 0).then_some(mode))
}

/// The answer of a call that the lease's end cut short.
#[must_use]
pub fn lease_ended() -> Error {
    Error::new(Reason::LeaseNotActive, "the lease ended during the call")
}

/// Does the work unless the lease ends first.
///
/// # Errors
/// `LEASE_NOT_ACTIVE`, or the work's own.
pub async fn unless_ended<T>(ended: &CancellationToken, work: impl Future<Output = Result<T>>) -> Result<T> {
    ended.run_until_cancelled(work).await.unwrap_or_else(|| Err(lease_ended()))
}
