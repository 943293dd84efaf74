//! Paths of a caller, made into paths on the machine: what leads out of the root is refused.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::faults::Doing;
use super::{SftpFiles, at};
use crate::error::{Error, Result};
use crate::host::files::outside;
use crate::host::ssh::sftp::{REALPATH, Session};

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
