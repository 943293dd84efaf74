//! Why something could not be done. Version 3 of sftp answers most failures with one code: what is there tells them apart.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{SftpFiles, at, kind};
use crate::error::{Error, Reason};
use crate::host::files::{EntryType, outside};
use crate::host::ssh::sftp::{Fault, LSTAT, Packet, REALPATH, STAT, Session, code, take_u64};

/// What was tried.
pub(super) struct Doing<'a> {
    pub(super) what: &'static str,
    pub(super) path: &'a Path,
    /// Whether it is not known how it ended when the session is lost.
    pub(super) changes: bool,
    /// Bytes that it takes on the disk.
    pub(super) room: usize,
}

impl<'a> Doing<'a> {
    /// What can be done again.
    pub(super) fn looking(what: &'static str, path: &'a Path) -> Self {
        Self { what, path, changes: false, room: 1 }
    }

    /// What must not be done twice unseen.
    pub(super) fn changing(what: &'static str, path: &'a Path) -> Self {
        Self { what, path, changes: true, room: 1 }
    }

    pub(super) fn error(&self, reason: Reason, why: &str) -> Error {
        Error::new(reason, format!("{:?} cannot be {}: {why}", self.path.display(), self.what))
    }
}

pub(super) fn no_directory(what: &'static str, path: &Path) -> Error {
    Doing::looking(what, path).error(Reason::NotADirectory, "not a directory")
}

impl SftpFiles {
    /// A fault as an error. What it does not say by itself, a look at what is there tells.
    pub(super) async fn explain(&self, session: &Arc<Session>, doing: &Doing<'_>, fault: Fault) -> Error {
        let (number, message) = match fault {
            Fault::Lost(why) => return self.lost(doing, &why),
            Fault::Refused { code, message } => (code, message),
        };
        match number {
            code::NO_SUCH_FILE => self.missing(session, doing).await,
            code::PERMISSION_DENIED => doing.error(Reason::PermissionDenied, "permission denied"),
            code::BAD_MESSAGE => doing.error(
                Reason::InvalidArgument,
                "the machine refuses it; the name may be too long, or a part of itself",
            ),
            code::UNSUPPORTED => doing.error(Reason::InterfaceNotSupported, "the sftp server does not know how"),
            _ if self.is_full(session, doing).await => doing.error(Reason::NoSpace, "no space left"),
            _ => {
                let why = format!("{message} (sftp status {number}); the server's log may say more");
                doing.error(Reason::Internal, &why)
            }
        }
    }

    fn lost(&self, doing: &Doing<'_>, why: &str) -> Error {
        let (path, what, host) = (doing.path.display(), doing.what, self.host());
        if doing.changes {
            let message =
                format!("it is unknown whether {path:?} was {what} on {host}: {why}; look before you try again");
            return Error::new(Reason::OutcomeUnknown, message);
        }
        let message = format!("{path:?} cannot be {what} on {host}: {why}; try again");
        Error::new(Reason::HostUnreachable, message)
    }

    fn host(&self) -> &str {
        self.sftp.host()
    }

    /// OpenSSH's server says this also when a part of the path is no directory.
    async fn missing(&self, session: &Arc<Session>, doing: &Doing<'_>) -> Error {
        let mut reached = self.root.clone();
        for part in doing.path.parent().unwrap_or(Path::new("")).components() {
            reached.push(part);
            let Ok(real) = session.name(at(REALPATH, &reached)).await else { break };
            reached = PathBuf::from(std::ffi::OsStr::from_bytes(&real));
            if !reached.starts_with(&self.root) {
                return outside(doing.path);
            }
            match session.attributes(at(STAT, &reached)).await {
                Ok(attributes) if kind(&attributes) != EntryType::Directory => {
                    return doing.error(Reason::NotADirectory, "not a directory");
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        doing.error(Reason::FileNotFound, "no such file or directory")
    }

    /// Whether the file system has no room for what was tried.
    async fn is_full(&self, session: &Arc<Session>, doing: &Doing<'_>) -> bool {
        if !session.extensions.statvfs {
            return false;
        }
        let path = self.root.join(doing.path);
        let folder = path.parent().unwrap_or(&self.root);
        let asked = Packet::extended("statvfs@openssh.com").string(folder.as_os_str().as_bytes());
        let Ok(mut told) = session.extended(asked).await else { return false };
        let mut numbers = [0_u64; 8];
        for number in &mut numbers {
            let Ok(next) = take_u64(&mut told) else { return false };
            *number = next;
        }
        let [_, block, _, _, blocks_left, files, _, files_left] = numbers;
        let room = u64::try_from(doing.room).unwrap_or(u64::MAX);
        block.saturating_mul(blocks_left) < room || (files > 0 && files_left == 0)
    }

    /// Why an entry was not moved.
    pub(super) async fn not_moved(
        &self,
        session: &Arc<Session>,
        from: (&Path, &Path),
        to: (&Path, &Path),
        replace: bool,
        fault: Fault,
    ) -> Error {
        let doing = Doing::changing("moved", to.0);
        if !fault.is(code::FAILURE) && !fault.is(code::NO_SUCH_FILE) {
            return self.explain(session, &doing, fault).await;
        }
        let kind_at = async |path: &Path| Ok::<_, Fault>(kind(&session.attributes(at(LSTAT, path)).await?));
        let source = match kind_at(from.1).await {
            Ok(source) => source,
            // Which of the two it is about.
            Err(fault) => return self.explain(session, &Doing::looking("moved", from.0), fault).await,
        };
        match (source, kind_at(to.1).await) {
            (_, Ok(_)) if !replace => doing.error(Reason::FileExists, "it exists"),
            (EntryType::Directory, Ok(EntryType::Directory)) => {
                doing.error(Reason::DirectoryNotEmpty, "the directory is not empty")
            }
            (EntryType::Directory, Ok(_)) => doing.error(Reason::NotADirectory, "not a directory"),
            (_, Ok(EntryType::Directory)) => doing.error(Reason::IsADirectory, "it is a directory"),
            (_, Ok(_)) if !session.extensions.posix_rename => doing.error(
                Reason::InterfaceNotSupported,
                "the sftp server cannot replace files; it needs posix-rename@openssh.com, as OpenSSH has it",
            ),
            _ => self.explain(session, &doing, fault).await,
        }
    }
}
