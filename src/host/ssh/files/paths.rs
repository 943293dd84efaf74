//! Paths of a caller, made into paths on the machine: what leads out of the root is refused.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::faults::{Doing, outside};
use super::{SftpFiles, at};
use crate::error::{Error, Result};
use crate::host::ssh::sftp::{REALPATH, Session};

/// The path, `.` for the root. What is plainly outside is refused before anything is asked.
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

impl SftpFiles {
    /// A path without links, as the machine resolves it; its last part need not be there.
    pub(super) async fn real(&self, session: &Arc<Session>, path: &Path, doing: &Doing<'_>) -> Result<PathBuf> {
        match session.name(at(REALPATH, path)).await {
            Ok(real) => Ok(PathBuf::from(OsStr::from_bytes(&real))),
            Err(fault) => Err(self.explain(session, doing, fault).await),
        }
    }

    pub(super) fn check(&self, real: &Path, path: &Path) -> Result<()> {
        if real.starts_with(&self.root) { Ok(()) } else { Err(outside(path)) }
    }

    /// Where a path leads, all links followed.
    pub(super) async fn followed(&self, session: &Arc<Session>, path: &Path) -> Result<PathBuf> {
        if path == Path::new(".") {
            return Ok(self.root.clone());
        }
        let real = self.real(session, &self.root.join(path), &Doing::looking("reached", path)).await?;
        self.check(&real, path)?;
        Ok(real)
    }

    /// Where an entry is, which may itself be a link.
    pub(super) async fn entry_at(&self, session: &Arc<Session>, path: &Path) -> Result<PathBuf> {
        let Some(name) = path.file_name() else { return self.followed(session, path).await };
        let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(self.followed(session, above).await?.join(name))
    }

    /// Where an entry is that is not the root.
    pub(super) async fn named(&self, session: &Arc<Session>, path: &Path) -> Result<PathBuf> {
        if path.file_name().is_none() {
            return Err(Error::invalid(format!("path {:?} does not name an entry under the root", path.display())));
        }
        self.entry_at(session, path).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;

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
