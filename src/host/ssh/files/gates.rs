//! What changes files goes by way of the gates of those in whose names it is done: nobody is there to look at a fence.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::faults::Doing;
use super::{SftpFiles, at, kind};
use crate::error::Error;
use crate::host::fence::through;
use crate::host::files::EntryType;
use crate::host::ssh::sftp::{Fault, STAT, Session, code};

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
}
