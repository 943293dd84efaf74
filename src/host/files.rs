//! Files under a root, with paths that cannot leave it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::clock::Micros;
use crate::error::{Error, Reason, Result};

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryType {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Anything else.
    Other,
}

/// A directory entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the root; empty is the root itself.
    pub path: OsString,
    /// What it is.
    pub kind: EntryType,
    /// Bytes.
    pub size: u64,
    /// The 0777 bits.
    pub mode: u32,
    /// Last change.
    pub modify_time: Micros,
    /// Of a link.
    pub symlink_target: Option<OsString>,
    /// Weak: device, inode, size and time of change.
    pub etag: String,
}

/// Files under a root. Every path is relative to it; what leads out of it, also through links, is `PATH_OUTSIDE_ROOT`.
/// Errors: `FILE_NOT_FOUND`, `FILE_EXISTS`, `NOT_A_DIRECTORY`, `IS_A_DIRECTORY`, `DIRECTORY_NOT_EMPTY`, `PERMISSION_DENIED`, `NO_SPACE`.
#[async_trait]
pub trait Files: Send + Sync {
    /// One entry; `follow` looks through a link.
    async fn stat(&self, path: &Path, follow: bool) -> Result<Entry>;
    /// Entries below a directory, `depth` levels down (1 is the directory alone), in the order of their paths' bytes: those
    /// after `after`, at most `limit`.
    async fn list(&self, path: &Path, depth: u32, after: Option<&OsStr>, limit: usize) -> Result<Vec<Entry>>;
    /// Opens a file to read from `offset`, with its entry as of then; `OFFSET_UNAVAILABLE` when it is shorter.
    async fn read(&self, path: &Path, offset: u64) -> Result<(Entry, Box<dyn AsyncRead + Send + Unpin>)>;
    /// Opens a file to append to at `offset`, which must be its size (else `OFFSET_UNAVAILABLE`, with `committed_size`);
    /// at 0 it is made, mode 0600. For temporary siblings. What is written is in the file after a flush.
    async fn append(&self, path: &Path, offset: u64) -> Result<Box<dyn AsyncWrite + Send + Unpin>>;
    /// Makes what was appended durable.
    async fn sync(&self, path: &Path) -> Result<()>;
    /// Makes what was appended durable, sets the mode and moves it to `to`; `replace` false fails with `FILE_EXISTS`.
    async fn publish(&self, from: &Path, to: &Path, mode: u32, replace: bool) -> Result<()>;
    /// Makes a directory.
    async fn make_directory(&self, path: &Path, mode: u32, parents: bool) -> Result<()>;
    /// Removes a file or an empty directory, or a tree when `recursive`.
    async fn remove(&self, path: &Path, recursive: bool) -> Result<()>;
    /// Removes what an upload has left under a name of its own, also when it is too late for anything else: nobody else uses it.
    async fn discard(&self, path: &Path) -> Result<()>;
    /// Moves, atomically; `replace` false fails with `FILE_EXISTS`.
    async fn rename(&self, from: &Path, to: &Path, replace: bool) -> Result<()>;
}

/// A caller's path, `.` for the root. What is plainly outside is refused before anything is touched.
pub(super) fn inside(path: &Path) -> Result<PathBuf> {
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(Error::invalid("the path holds a NUL byte"));
    }
    let mut depth = 0_u32;
    for part in path.components() {
        let step = match part {
            Component::Normal(_) => depth.checked_add(1),
            Component::ParentDir => depth.checked_sub(1),
            Component::CurDir => Some(depth),
            Component::RootDir | Component::Prefix(_) => None,
        };
        depth = step.ok_or_else(|| outside(path))?;
    }
    Ok(if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_owned() })
}

/// A path that leads out of the root, by itself or by a link.
pub(super) fn outside(path: &Path) -> Error {
    let path = path.display();
    Error::new(
        Reason::PathOutsideRoot,
        format!("path {path:?} leads out of the lease's root; paths are relative to it, and links must stay in it"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_plainly_outside_is_refused() {
        for path in ["..", "/", "/etc", "a/../..", "a/../../a"] {
            assert_eq!(inside(Path::new(path)).unwrap_err().reason, Reason::PathOutsideRoot, "{path}");
        }
        assert_eq!(inside(Path::new("a\0")).unwrap_err().reason, Reason::InvalidArgument);
        assert_eq!(inside(Path::new("")).unwrap(), Path::new("."));
        assert_eq!(inside(Path::new("a/../b")).unwrap(), Path::new("a/../b"));
    }
}
