//! Files under a root of another machine, over sftp.
//!
//! Paths are checked, then used: a guard against mistakes. Whoever can change links on the machine meanwhile can lead a path
//! out of the root, and needs no help from us for that: commands of the lease run there as the same user.
//!
//! sftp has no way to sync a directory, but OpenSSH's server lets one be opened and synced like a file; where a server does
//! not, a rename that was answered may be undone by a crash of the machine, never a file be half there.

mod faults;
mod gates;
mod paths;
mod tree;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

use self::faults::Doing;
use super::sftp::{
    Attributes, FSETSTAT, FSTAT, Fault, Handle, LSTAT, MKDIR, OPEN, Packet, READLINK, REMOVE, RMDIR, SETSTAT, STAT,
    Session, Sftp, code, how, reader, writer,
};
use crate::error::{Error, Reason, Result};
use crate::host::fence::Fence;
use crate::host::files::{Entry, EntryType, Files, inside};

/// Up to this many bytes are read over the shared session; more would delay the others.
const SMALL: u64 = 256 * 1024;

/// Files under a root.
#[derive(Clone)]
pub(super) struct SftpFiles {
    sftp: Arc<Sftp>,
    /// Without links.
    root: PathBuf,
    /// In whose names it is changed, and where their gates are.
    fences: Arc<[Fence]>,
    data_dir: PathBuf,
}

impl Sftp {
    /// The files under a root, which must be there; absolute.
    ///
    /// # Errors
    /// `FILE_NOT_FOUND`, `NOT_A_DIRECTORY`, `HOST_UNREACHABLE`, `INTERFACE_NOT_SUPPORTED` when the machine has no sftp.
    pub async fn files(self: &Arc<Self>, root: &Path) -> Result<Arc<dyn Files>> {
        self.files_behind(root, Path::new("/"), &[]).await
    }

    /// The same, to be changed in these names, whose gates are below `data_dir`: what comes late is `LEASE_NOT_ACTIVE`.
    ///
    /// # Errors
    /// As [`Sftp::files`].
    pub async fn files_behind(
        self: &Arc<Self>,
        root: &Path,
        data_dir: &Path,
        fences: &[Fence],
    ) -> Result<Arc<dyn Files>> {
        let mut files = SftpFiles {
            sftp: Arc::clone(self),
            root: root.to_owned(),
            fences: fences.into(),
            data_dir: data_dir.to_owned(),
        };
        files.root = files
            .look(|session| {
                let files = &files;
                async move {
                    let doing = Doing::looking("opened", Path::new(""));
                    let real = files.real(&session, root, &doing).await?;
                    match session.attributes(at(STAT, &real)).await {
                        Ok(attributes) if kind(&attributes) == EntryType::Directory => Ok(real),
                        Ok(_) => {
                            let root = root.display();
                            Err(Error::new(
                                Reason::NotADirectory,
                                format!("root {root} cannot be opened: not a directory"),
                            ))
                        }
                        Err(fault) if fault.is(code::NO_SUCH_FILE) => {
                            let message =
                                format!("root {} cannot be opened: no such file or directory", root.display());
                            Err(Error::new(Reason::FileNotFound, message))
                        }
                        Err(fault) => Err(files.explain(&session, &doing, fault).await),
                    }
                }
            })
            .await?;
        Ok(Arc::new(files))
    }
}

/// A request about a path.
fn at(kind: u8, path: &Path) -> Packet {
    Packet::new(kind).string(path.as_os_str().as_bytes())
}

fn kind(attributes: &Attributes) -> EntryType {
    match attributes.mode & 0o170_000 {
        0o100_000 => EntryType::File,
        0o040_000 => EntryType::Directory,
        0o120_000 => EntryType::Symlink,
        _ => EntryType::Other,
    }
}

/// Only regular files are opened: a named pipe would hold up the whole session.
fn regular(path: &Path, attributes: &Attributes) -> Result<()> {
    match kind(attributes) {
        EntryType::File => Ok(()),
        EntryType::Directory => Err(Error::new(Reason::IsADirectory, format!("{:?} is a directory", path.display()))),
        _ => Err(Error::invalid(format!("{:?} is not a regular file", path.display()))),
    }
}

fn opening(path: &Path, flags: u32, mode: Option<u32>) -> Packet {
    at(OPEN, path).number(flags).mode(mode)
}

impl SftpFiles {
    /// Does what changes nothing, and does it again when the session turns out to be dead.
    async fn look<T, W, F>(&self, work: W) -> Result<T>
    where
        W: Fn(Arc<Session>) -> F,
        F: Future<Output = Result<T>>,
    {
        let session = self.sftp.small().await?;
        match work(Arc::clone(&session)).await {
            Err(error) if error.reason == Reason::HostUnreachable && session.is_lost() => {
                work(self.sftp.small().await?).await
            }
            done => done,
        }
    }

    fn entry(&self, told: OsString, real: &Path, attributes: &Attributes, target: Option<OsString>) -> Entry {
        Entry {
            path: told,
            kind: kind(attributes),
            size: attributes.size,
            mode: attributes.mode & 0o777,
            modify_time: i64::from(attributes.changed) * 1_000_000,
            symlink_target: target,
            etag: self.sftp.with_versions(|versions| versions.etag(real, attributes)),
        }
    }

    /// Where a link leads, as it is written.
    async fn target(session: &Session, real: &Path, attributes: &Attributes) -> Option<OsString> {
        if kind(attributes) != EntryType::Symlink {
            return None;
        }
        let target = session.name(at(READLINK, real)).await.ok()?;
        Some(OsStr::from_bytes(&target).to_owned())
    }

    /// A regular file that is to be written, checked, and opened on a session for transfers.
    async fn open_to_write(&self, path: &Path, create: bool) -> Result<(Handle, PathBuf)> {
        let doing = Doing::looking("opened", path);
        let real = self
            .look(|session| {
                let doing = &doing;
                async move {
                    let real = self.named(&session, path).await?;
                    match session.attributes(at(LSTAT, &real)).await {
                        Err(fault) if create && fault.is(code::NO_SUCH_FILE) => Ok(real),
                        Err(fault) => Err(self.explain(&session, doing, fault).await),
                        Ok(attributes) if kind(&attributes) == EntryType::Symlink => {
                            let real = self.followed(&session, path).await?;
                            match session.attributes(at(STAT, &real)).await {
                                Ok(attributes) => regular(path, &attributes).map(|()| real),
                                Err(fault) => Err(self.explain(&session, doing, fault).await),
                            }
                        }
                        Ok(attributes) => regular(path, &attributes).map(|()| real),
                    }
                }
            })
            .await?;
        let session = self.sftp.large().await?;
        let flags = how::WRITE | if create { how::CREATE } else { 0 };
        match session.open(opening(&self.way(&real), flags, create.then_some(0o600))).await {
            Ok(handle) => Ok((handle, real)),
            Err(fault) => Err(self.turned_away(&session, &doing, fault).await),
        }
    }

    async fn flush(&self, handle: &Handle, path: &Path) -> Result<()> {
        let session = &handle.session;
        if !session.extensions.fsync {
            let message = format!(
                "the sftp server of {} cannot make files durable; it needs fsync@openssh.com, as OpenSSH has it",
                self.sftp.host()
            );
            return Err(Error::new(Reason::InterfaceNotSupported, message));
        }
        match session.on_disk(handle.extended("fsync@openssh.com")).await {
            Ok(()) => Ok(()),
            Err(fault) => Err(self.explain(session, &Doing::looking("synced", path), fault).await),
        }
    }

    /// As far as the server can.
    async fn flush_folder(&self, session: &Arc<Session>, real: &Path, path: &Path) -> Result<()> {
        let Some(folder) = real.parent().filter(|_| session.extensions.fsync) else { return Ok(()) };
        let Ok(handle) = session.open(opening(folder, how::READ, None)).await else { return Ok(()) };
        match session.on_disk(handle.extended("fsync@openssh.com")).await {
            Err(fault) if fault.is(code::FAILURE) => {
                Err(self.explain(session, &Doing::looking("synced", path), fault).await)
            }
            // Where directories cannot be synced.
            _ => Ok(()),
        }
    }

    /// The directory that is to hold an entry, made where it is missing.
    async fn folder_for(&self, session: &Arc<Session>, path: &Path) -> Result<PathBuf> {
        let mut real = self.root.clone();
        let mut reached = PathBuf::new();
        for part in path.parent().unwrap_or(Path::new("")).components() {
            reached.push(part);
            let doing = Doing::changing("made", &reached);
            let next = real.join(part);
            real = self.real(session, &next, &doing).await?;
            self.check(&real, &reached)?;
            match session.attributes(at(STAT, &real)).await {
                Ok(attributes) if kind(&attributes) == EntryType::Directory => {}
                Ok(_) => return Err(faults::no_directory("made", &reached)),
                Err(fault) if fault.is(code::NO_SUCH_FILE) => self.make(session, &next, None, &doing, true).await?,
                Err(fault) => return Err(self.explain(session, &doing, fault).await),
            }
        }
        Ok(real)
    }

    /// Makes one directory; `parents` lets it be there already.
    async fn make(
        &self,
        session: &Arc<Session>,
        real: &Path,
        mode: Option<u32>,
        doing: &Doing<'_>,
        parents: bool,
    ) -> Result<()> {
        let Err(fault) = session.done(at(MKDIR, &self.way(real)).mode(mode)).await else { return Ok(()) };
        if !fault.is(code::FAILURE) {
            return Err(self.turned_away(session, doing, fault).await);
        }
        match session.attributes(at(if parents { STAT } else { LSTAT }, real)).await {
            Ok(attributes) if parents && kind(&attributes) == EntryType::Directory => Ok(()),
            Ok(_) if parents => Err(faults::no_directory("made", doing.path)),
            Ok(_) => Err(doing.error(Reason::FileExists, "it exists")),
            Err(_) => Err(self.explain(session, doing, fault).await),
        }
    }
}

#[async_trait]
impl Files for SftpFiles {
    async fn stat(&self, path: &Path, follow: bool) -> Result<Entry> {
        let path = &inside(path)?;
        self.look(|session| async move {
            let real =
                if follow { self.followed(&session, path).await? } else { self.entry_at(&session, path).await? };
            let told = if path == Path::new(".") { OsString::new() } else { path.as_os_str().to_owned() };
            match session.attributes(at(LSTAT, &real)).await {
                Ok(attributes) => {
                    let target = Self::target(&session, &real, &attributes).await;
                    Ok(self.entry(told, &real, &attributes, target))
                }
                Err(fault) => Err(self.explain(&session, &Doing::looking("found", path), fault).await),
            }
        })
        .await
    }

    async fn list(&self, path: &Path, depth: u32, after: Option<&OsStr>, limit: usize) -> Result<Vec<Entry>> {
        let path = &inside(path)?;
        self.look(|session| async move {
            let doing = Doing::looking("listed", path);
            let real = self.followed(&session, path).await?;
            match session.attributes(at(STAT, &real)).await {
                Ok(attributes) if kind(&attributes) == EntryType::Directory => {}
                Ok(_) => return Err(faults::no_directory("listed", path)),
                Err(fault) => return Err(self.explain(&session, &doing, fault).await),
            }
            let prefix = if path == Path::new(".") { OsStr::new("") } else { path.as_os_str() };
            let wanted = tree::Wanted { after: after.map(OsStr::as_bytes), limit };
            match tree::list(&session, &real, prefix.as_bytes(), depth, &wanted).await {
                Ok(found) => {
                    let entries = found.iter().map(|(told, real, attributes)| async {
                        let target = Self::target(&session, real, attributes).await;
                        self.entry(told.clone(), real, attributes, target)
                    });
                    Ok(futures::future::join_all(entries).await)
                }
                Err(fault) => Err(self.explain(&session, &doing, fault).await),
            }
        })
        .await
    }

    async fn read(&self, path: &Path, offset: u64) -> Result<(Entry, Box<dyn AsyncRead + Send + Unpin>)> {
        let path = &inside(path)?;
        self.look(|session| async move {
            let doing = Doing::looking("opened", path);
            let real = self.followed(&session, path).await?;
            let size = match session.attributes(at(STAT, &real)).await {
                Ok(attributes) => regular(path, &attributes).map(|()| attributes.size)?,
                Err(fault) => return Err(self.explain(&session, &doing, fault).await),
            };
            let session = if size.saturating_sub(offset) > SMALL { self.sftp.large().await? } else { session };
            let opened = async {
                let handle = session.open(opening(&real, how::READ, None)).await?;
                let attributes = session.attributes(handle.packet(FSTAT)).await?;
                Ok::<_, Fault>((handle, attributes))
            };
            let (handle, attributes) = match opened.await {
                Ok(opened) => opened,
                Err(fault) => return Err(self.explain(&session, &doing, fault).await),
            };
            let told = self.entry(path.as_os_str().to_owned(), &real, &attributes, None);
            if offset > told.size {
                let (path, size) = (path.display(), told.size);
                let message = format!("offset {offset} is past the end of {path:?}, which has {size} bytes");
                return Err(Error::new(Reason::OffsetUnavailable, message).with("end", size.to_string()));
            }
            let file = reader(handle, self.sftp.host(), offset, told.size);
            Ok((told, file))
        })
        .await
    }

    async fn append(&self, path: &Path, offset: u64) -> Result<Box<dyn AsyncWrite + Send + Unpin>> {
        let path = inside(path)?;
        let (handle, _) = self.open_to_write(&path, offset == 0).await?;
        let session = Arc::clone(&handle.session);
        let size = match session.attributes(handle.packet(FSTAT)).await {
            Ok(attributes) => attributes.size,
            Err(fault) => return Err(self.explain(&session, &Doing::looking("opened", &path), fault).await),
        };
        if size != offset {
            let message = format!("{:?} has {size} bytes, so nothing can be added at {offset}", path.display());
            return Err(Error::new(Reason::OffsetUnavailable, message).with("committed_size", size.to_string()));
        }
        let files = self.clone();
        let explain = Box::new(move |fault, length| {
            let (files, session, path) = (files.clone(), Arc::clone(&session), path.clone());
            let work = async move {
                let doing = Doing { room: length, ..Doing::looking("written", &path) };
                files.explain(&session, &doing, fault).await
            };
            Box::pin(work) as futures::future::BoxFuture<'static, Error>
        });
        Ok(writer(handle, offset, explain))
    }

    async fn sync(&self, path: &Path) -> Result<()> {
        let path = inside(path)?;
        let (handle, _) = self.open_to_write(&path, false).await?;
        self.flush(&handle, &path).await
    }

    async fn publish(&self, from: &Path, to: &Path, mode: u32, replace: bool) -> Result<()> {
        let (from, to) = (inside(from)?, inside(to)?);
        let (handle, source) = self.open_to_write(&from, false).await?;
        let session = Arc::clone(&handle.session);
        let target = self.named(&session, &to).await?;
        // The server takes them one after the other.
        let set = session.done(handle.packet(FSETSTAT).mode(Some(mode & 0o777)));
        let (set, flushed) = tokio::join!(set, self.flush(&handle, &to));
        if let Err(fault) = set {
            return Err(self.explain(&session, &Doing::looking("written", &to), fault).await);
        }
        flushed?;
        drop(handle);
        self.shift(&session, (&from, &source), (&to, &target), replace).await?;
        self.flush_folder(&session, &target, &to).await
    }

    async fn make_directory(&self, path: &Path, mode: u32, parents: bool) -> Result<()> {
        let path = inside(path)?;
        let session = self.sftp.small().await?;
        let Some(name) = path.file_name() else {
            let real = self.followed(&session, &path).await?;
            return self.make(&session, &real, None, &Doing::changing("made", &path), parents).await;
        };
        let real = if parents {
            self.folder_for(&session, &path).await?.join(name)
        } else {
            self.named(&session, &path).await?
        };
        // Again is as good as once when parents may be there already.
        let doing = if parents { Doing::looking("made", &path) } else { Doing::changing("made", &path) };
        if parents && let Ok(attributes) = session.attributes(at(LSTAT, &real)).await {
            let there = match kind(&attributes) {
                EntryType::Symlink => session.attributes(at(STAT, &self.followed(&session, &path).await?)).await.ok(),
                _ => Some(attributes),
            };
            return match there.map(|attributes| kind(&attributes)) {
                Some(EntryType::Directory) => Ok(()),
                _ => Err(faults::no_directory("made", &path)),
            };
        }
        self.make(&session, &real, Some(mode & 0o777), &doing, parents).await?;
        // The umask is the machine's; the mode is the caller's.
        match session.done(at(SETSTAT, &self.way(&real)).mode(Some(mode & 0o777))).await {
            Ok(()) => Ok(()),
            Err(fault) => Err(self.turned_away(&session, &doing, fault).await),
        }
    }

    async fn remove(&self, path: &Path, recursive: bool) -> Result<()> {
        let path = inside(path)?;
        let session = self.sftp.small().await?;
        let real = self.named(&session, &path).await?;
        let attributes = match session.attributes(at(LSTAT, &real)).await {
            Ok(attributes) => attributes,
            Err(fault) => return Err(self.explain(&session, &Doing::looking("removed", &path), fault).await),
        };
        let doing = Doing::changing("removed", &path);
        let folder = kind(&attributes) == EntryType::Directory;
        let way = self.way(&real);
        let removed = if folder && recursive {
            let removed = tree::remove(&session, &way).await;
            // To which all is gone that is not found.
            if removed.is_ok()
                && let Some(refusal) = self.shut(&session).await
            {
                return Err(refusal);
            }
            removed
        } else {
            let gone = session.done(at(if folder { RMDIR } else { REMOVE }, &way)).await;
            gone.map_err(|fault| (way.clone(), fault))
        };
        match removed {
            Ok(()) => Ok(()),
            Err((_, fault))
                if folder && !recursive && fault.is(code::FAILURE) && tree::is_filled(&session, &real).await =>
            {
                Err(doing.error(Reason::DirectoryNotEmpty, "the directory is not empty"))
            }
            Err((entry, fault)) => {
                let below = entry.strip_prefix(&way).unwrap_or(Path::new(""));
                let path = if below.as_os_str().is_empty() { path.clone() } else { path.join(below) };
                Err(self.turned_away(&session, &Doing { path: &path, ..doing }, fault).await)
            }
        }
    }

    async fn discard(&self, path: &Path) -> Result<()> {
        let path = inside(path)?;
        let session = self.sftp.small().await?;
        let real = self.named(&session, &path).await?;
        match session.done(at(REMOVE, &real)).await {
            Ok(()) => Ok(()),
            Err(fault) => Err(self.explain(&session, &Doing::changing("removed", &path), fault).await),
        }
    }

    async fn rename(&self, from: &Path, to: &Path, replace: bool) -> Result<()> {
        let (from, to) = (inside(from)?, inside(to)?);
        let session = self.sftp.small().await?;
        let (source, target) = (self.named(&session, &from).await?, self.named(&session, &to).await?);
        self.shift(&session, (&from, &source), (&to, &target), replace).await
    }
}
