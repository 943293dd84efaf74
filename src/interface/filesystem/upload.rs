//! Writing a file: data goes to a temporary sibling, which takes the file's place when it is whole.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use super::uploads::{Turn, check_id, temporary};
use super::{Filesystem, files, permissions};
use crate::error::{Error, Reason, Result};
use crate::host::Place;
use crate::host::files::{Entry, EntryType, Files};

const DEFAULT_MODE: u32 = 0o644;

/// What to write.
#[derive(Debug, Clone, Default)]
pub struct WriteStart {
    /// The lease it is for.
    pub lease_id: String,
    /// Under the root. A link is replaced, not followed.
    pub path: PathBuf,
    /// By which it is resumed; empty is not resumable.
    pub upload_id: String,
    /// 0 keeps the old one, or 0644.
    pub mode: u32,
    /// Also makes the directories above.
    pub make_parents: bool,
    /// Replaces nothing.
    pub create_only: bool,
    /// Replaces only this version; empty is any.
    pub if_etag: String,
}

/// What the whole must be.
#[derive(Debug, Clone, Default)]
pub struct Finish {
    /// In bytes.
    pub size: Option<u64>,
    /// Of 32 bytes; empty is not checked.
    pub sha256: Vec<u8>,
}

/// An upload that is under way, or was done before.
pub enum Begun {
    /// Write on.
    Open(Box<Upload>),
    /// The same upload was finished earlier: the file and its size then.
    Complete(Entry),
}

/// An upload that is under way. Dropped unfinished, it leaves nothing, or what can be resumed.
pub struct Upload {
    files: Arc<dyn Files>,
    place: Place,
    start: WriteStart,
    mode: u32,
    temporary: PathBuf,
    file: Box<dyn AsyncWrite + Send + Unpin>,
    position: u64,
    /// Bytes that may still be written.
    room: u64,
    turn: Turn,
    /// Whether the temporary sibling goes when this is dropped.
    discard: bool,
}

impl Filesystem {
    /// Begins an upload, or goes on with one.
    ///
    /// # Errors
    /// `FILE_EXISTS`, `ETAG_MISMATCH`, `IS_A_DIRECTORY`, `FILE_NOT_FOUND` for a missing directory, `PATH_OUTSIDE_ROOT`,
    /// `NO_SPACE`, `INVALID_ARGUMENT`.
    pub async fn begin(&self, place: &Place, start: WriteStart) -> Result<Begun> {
        let asked = permissions(start.mode)?;
        let resumable = !start.upload_id.is_empty();
        let upload_id = if resumable { start.upload_id.clone() } else { format!("{:016x}", fastrand::u64(..)) };
        check_id(&upload_id)?;
        let temporary = temporary(&start.path, &upload_id)?;
        let files = files(place).await?;
        if start.make_parents
            && let Some(above) = start.path.parent().filter(|above| !above.as_os_str().is_empty())
        {
            files.make_directory(above, 0o755, true).await?;
        }
        let turn = if resumable {
            match self.uploads.enter(&start.lease_id, &upload_id, &start.path).await? {
                Some(turn) => turn,
                None => return Ok(Begun::Complete(files.stat(&start.path, false).await?)),
            }
        } else {
            Turn::alone()
        };
        let old = present(&*files, &start.path).await?;
        admit(&start, old.as_ref())?;
        let mode = asked.unwrap_or_else(|| match &old {
            Some(old) if old.kind == EntryType::File => old.mode,
            _ => DEFAULT_MODE,
        });
        let position = if resumable { present(&*files, &temporary).await?.map_or(0, |entry| entry.size) } else { 0 };
        let room = match place.quota {
            Some(quota) => quota.saturating_sub(place.host.used_bytes(&place.root).await?),
            None => u64::MAX,
        };
        let file = files.append(&temporary, position).await?;
        let place = place.clone();
        let discard = !resumable;
        Ok(Begun::Open(Box::new(Upload { files, place, start, mode, temporary, file, position, room, turn, discard })))
    }

    /// Makes an upload visible, all at once.
    ///
    /// # Errors
    /// `CHECKSUM_MISMATCH` when the whole is not what it must be, `ETAG_MISMATCH`, `FILE_EXISTS`, `NO_SPACE`.
    pub async fn finish(&self, mut upload: Box<Upload>, finish: &Finish) -> Result<Entry> {
        upload.flush().await?;
        if let Err(error) = upload.verify(finish).await {
            // Nothing that is sent later can make it right.
            upload.discard |= error.reason == Reason::ChecksumMismatch;
            return Err(error);
        }
        let Upload { files, start, place, .. } = &*upload;
        if let Some(quota) = place.quota
            && place.host.used_bytes(&place.root).await? > quota
        {
            return Err(no_space(quota));
        }
        // The slow part, before anybody has to wait for it.
        files.sync(&upload.temporary).await?;
        {
            let _alone = self.lock(&place.root, &start.path).await;
            admit(start, present(&**files, &start.path).await?.as_ref())?;
            files.publish(&upload.temporary, &start.path, upload.mode, !start.create_only).await?;
        }
        let entry = files.stat(&start.path, false).await?;
        if !start.upload_id.is_empty() {
            self.uploads.complete(&start.lease_id, &start.upload_id, entry.size);
        }
        upload.discard = false;
        Ok(entry)
    }
}

impl Upload {
    /// Where the next piece belongs.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Cancelled when the same upload goes on in a newer call.
    #[must_use]
    pub fn newer(&self) -> CancellationToken {
        self.turn.newer.clone()
    }

    /// Writes a piece.
    ///
    /// # Errors
    /// `OFFSET_UNAVAILABLE` for a piece that does not belong here, `NO_SPACE`.
    pub async fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        if offset != self.position {
            let message = format!("the upload is at {}, not at {offset}; go on there", self.position);
            let error = Error::new(Reason::OffsetUnavailable, message);
            return Err(error.with("committed_size", self.position.to_string()));
        }
        let length = data.len() as u64;
        self.room = self.room.checked_sub(length).ok_or_else(|| no_space(self.place.quota.unwrap_or(0)))?;
        self.file.write_all(data).await.map_err(|error| broken(&self.start.path, error))?;
        self.position += length;
        Ok(())
    }

    /// Ends the call without finishing: what can be resumed is made durable; answers how much that is.
    ///
    /// # Errors
    /// `NO_SPACE`.
    pub async fn suspend(mut self: Box<Self>) -> Result<u64> {
        if self.discard {
            return Ok(0);
        }
        self.flush().await?;
        self.files.sync(&self.temporary).await?;
        Ok(self.position)
    }

    async fn flush(&mut self) -> Result<()> {
        self.file.flush().await.map_err(|error| broken(&self.start.path, error))
    }

    async fn verify(&mut self, finish: &Finish) -> Result<()> {
        let mismatch = |what: String| Error::new(Reason::ChecksumMismatch, format!("{what}; send the file again"));
        if let Some(size) = finish.size.filter(|size| *size != self.position) {
            return Err(mismatch(format!("{} bytes arrived, not {size}", self.position)));
        }
        if finish.sha256.is_empty() {
            return Ok(());
        }
        if finish.sha256.len() != 32 {
            return Err(Error::invalid(format!("finish.sha256 has {} bytes; it must be 32", finish.sha256.len())));
        }
        // What lies on the disk counts, and some of it may have come with an earlier call.
        let (_, mut file) = self.files.read(&self.temporary, 0).await?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = file.read(&mut buffer).await.map_err(|error| broken(&self.start.path, error))?;
            if length == 0 {
                break;
            }
            hash.update(&buffer[..length]);
        }
        if hash.finalize().as_slice() != finish.sha256 {
            return Err(mismatch("the sha256 of what arrived is another".to_owned()));
        }
        Ok(())
    }
}

fn broken(path: &Path, error: io::Error) -> Error {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Error::new(Reason::NoSpace, format!("{path:?} cannot be written: no space left")).because(error)
        }
        _ => Error::from_stream(format!("{path:?} cannot be written"), error),
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.discard {
            return;
        }
        let (files, temporary) = (Arc::clone(&self.files), std::mem::take(&mut self.temporary));
        // The caller may be gone, and with it the task that runs this. With the lease the sibling goes at the latest.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { files.discard(&temporary).await });
        }
    }
}

async fn present(files: &dyn Files, path: &Path) -> Result<Option<Entry>> {
    match files.stat(path, false).await {
        Ok(entry) => Ok(Some(entry)),
        Err(error) if error.reason == Reason::FileNotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether what is there now may be replaced.
fn admit(start: &WriteStart, old: Option<&Entry>) -> Result<()> {
    let path = start.path.display();
    if old.is_some_and(|old| old.kind == EntryType::Directory) {
        return Err(Error::new(Reason::IsADirectory, format!("{path:?} is a directory")));
    }
    if start.create_only && old.is_some() {
        return Err(Error::new(Reason::FileExists, format!("{path:?} exists, and create_only is set")));
    }
    if start.if_etag.is_empty() {
        return Ok(());
    }
    match old {
        Some(old) if old.etag == start.if_etag => Ok(()),
        Some(old) => {
            let message = format!("{path:?} changed since it was read; read it again");
            Err(Error::new(Reason::EtagMismatch, message).with("etag", &old.etag))
        }
        None => Err(Error::new(Reason::EtagMismatch, format!("{path:?} is gone, and if_etag is set"))),
    }
}

fn no_space(quota: u64) -> Error {
    Error::new(Reason::NoSpace, format!("the storage's quota of {quota} bytes is reached; remove something first"))
        .with("quota", quota.to_string())
}
