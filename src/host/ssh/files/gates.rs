//! What changes files goes by way of the gates of those in whose names it is done: nobody is there to look at a fence.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::faults::Doing;
use super::{SftpFiles, at, kind};
use crate::error::{Error, Result};
use crate::host::fence::through;
use crate::host::files::EntryType;
use crate::host::ssh::sftp::{Fault, Packet, RENAME, STAT, Session, code};

impl SftpFiles {
    /// The way to what is to be changed: it leads there as long as that is let in.
    pub(super) fn way(&self, real: &Path) -> PathBuf {
        through(&self.fences, &self.data_dir, real)
    }

    /// Why nothing is let in any more, if that is so.
    pub(super) async fn shut(&self, session: &Session) -> Option<Error> {
        for fence in &*self.fences {
            match session.attributes(at(STAT, &fence.gate(&self.data_dir))).await {
                Ok(attributes) if kind(&attributes) == EntryType::Directory => {}
                Err(Fault::Lost(_)) => return None,
                _ => return Some(fence.refusal()),
            }
        }
        None
    }

    /// As [`SftpFiles::explain`], of what went by [`SftpFiles::way`].
    pub(super) async fn turned_away(&self, session: &Arc<Session>, doing: &Doing<'_>, fault: Fault) -> Error {
        if fault.is(code::NO_SUCH_FILE)
            && let Some(refusal) = self.shut(session).await
        {
            return refusal;
        }
        self.explain(session, doing, fault).await
    }

    /// Moves an entry; `replace` false lets nothing be replaced.
    pub(super) async fn shift(
        &self,
        session: &Arc<Session>,
        from: (&Path, &Path),
        to: (&Path, &Path),
        replace: bool,
    ) -> Result<()> {
        let packet = if replace && session.extensions.posix_rename {
            Packet::extended("posix-rename@openssh.com").string(from.1.as_os_str().as_bytes())
        } else {
            // Which replaces nothing: OpenSSH's server links and unlinks files, so not even in a race.
            at(RENAME, from.1)
        };
        let moved = session.done(packet.string(self.way(to.1).as_os_str().as_bytes())).await;
        let Err(fault) = moved else {
            self.sftp.with_versions(|versions| versions.renew(to.1));
            return Ok(());
        };
        if fault.is(code::NO_SUCH_FILE)
            && let Some(refusal) = self.shut(session).await
        {
            return Err(refusal);
        }
        Err(self.not_moved(session, from, to, replace, fault).await)
    }
}
