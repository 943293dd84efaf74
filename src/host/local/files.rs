//! Files under a root on this machine. The boundary is the kernel's (`openat2` with `RESOLVE_BENEATH`, by way of
//! cap-std): no path leads out, whatever links are made meanwhile.

use std::ffi::{OsStr, OsString};
use std::io::{self, Seek as _, SeekFrom};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use cap_std::ambient_authority;
use cap_std::fs::{
    Dir, File, Metadata, MetadataExt as _, OpenOptions, OpenOptionsExt as _, Permissions, PermissionsExt as _,
};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, fchmod, fsync, linkat, renameat, renameat_with, unlinkat};
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite};

use super::blocking;
use super::fences::Passage;
use super::folder::{explain, remove_tree};
use crate::clock::Micros;
use crate::error::{Error, Reason, Result};
use crate::host::files::{Entry, EntryType, Files, inside, outside};

/// A root, held open: it stays the same folder, whatever it is renamed to.
pub(super) struct LocalFiles {
    root: Arc<Dir>,
    passage: Passage,
}

impl LocalFiles {
    /// Opens a root, to be changed by who is let in.
    pub(super) fn open(root: &Path, passage: Passage) -> Result<Self> {
        let dir = Dir::open_ambient_dir(root, ambient_authority())
            .map_err(|error| explain(&format!("root {} cannot be opened", root.display()), error))?;
        Ok(Self { root: Arc::new(dir), passage })
    }

    async fn at<T: Send + 'static>(
        &self,
        path: &Path,
        work: impl FnOnce(&Dir, &Path) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let path = inside(path)?;
        let root = Arc::clone(&self.root);
        blocking(move || work(&root, &path)).await
    }

    /// The same for what changes something: nobody is fenced off before it is done.
    async fn change<T: Send + 'static>(
        &self,
        path: &Path,
        work: impl FnOnce(&Dir, &Path) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let passage = self.passage.clone();
        self.at(path, move |root, path| {
            let _passed = passage.enter_blocking()?;
            work(root, path)
        })
        .await
    }
}

fn take_away(root: &Dir, path: &Path, recursive: bool) -> Result<()> {
    let (parent, name) = parent_of(root, path)?;
    let removed = |error: Errno| refused("removed", path, error.into());
    let metadata = parent.symlink_metadata(&name).map_err(|error| refused("removed", path, error))?;
    if !metadata.is_dir() {
        return unlinkat(&parent, &name, AtFlags::empty()).map_err(removed);
    }
    if !recursive {
        return unlinkat(&parent, &name, AtFlags::REMOVEDIR).map_err(removed);
    }
    let name = std::ffi::CString::new(name.as_bytes()).map_err(|_| Error::invalid("the path holds a NUL byte"))?;
    remove_tree(parent.as_fd(), &name).map_err(|(entry, error)| refused("removed", &path.join(entry), error.into()))
}

fn refused(what: &str, path: &Path, error: io::Error) -> Error {
    // The only error of this kind that cap-std makes itself.
    if error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none() {
        return outside(path).because(error);
    }
    explain(&format!("{:?} cannot be {what}", path.display()), error)
}

/// The folder that holds an entry, and the entry's own name.
fn parent_of(root: &Dir, path: &Path) -> Result<(Dir, OsString)> {
    let Some(name) = path.file_name() else {
        return Err(Error::invalid(format!("path {:?} does not name an entry under the root", path.display())));
    };
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = root.open_dir(above).map_err(|error| refused("reached", path, error))?;
    Ok((dir, name.to_owned()))
}

fn entry(dir: &Dir, name: &Path, path: OsString, metadata: &Metadata) -> Entry {
    let kind = if metadata.is_symlink() {
        EntryType::Symlink
    } else if metadata.is_dir() {
        EntryType::Directory
    } else if metadata.is_file() {
        EntryType::File
    } else {
        EntryType::Other
    };
    // As it is written, which may lead anywhere: it is told, not followed.
    let target = (kind == EntryType::Symlink).then(|| dir.read_link_contents(name).ok()).flatten();
    let (device, inode, size) = (metadata.dev(), metadata.ino(), metadata.size());
    let (changed, nanos) = (metadata.ctime(), metadata.ctime_nsec());
    Entry {
        path,
        kind,
        size,
        mode: metadata.mode() & 0o777,
        modify_time: metadata.mtime().saturating_mul(1_000_000).saturating_add(metadata.mtime_nsec() / 1000) as Micros,
        symlink_target: target.map(PathBuf::into_os_string),
        etag: format!("{device:x}-{inode:x}-{size:x}-{changed:x}.{nanos:x}"),
    }
}

/// The paths below a folder, unsorted; nothing is looked at but names and types.
fn paths(dir: &Dir, prefix: &Path, depth: u32, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for item in dir.entries()? {
        let item = item?;
        let path = prefix.join(item.file_name());
        if depth > 1
            && item.file_type().is_ok_and(|kind| kind.is_dir())
            && let Ok(below) = item.open_dir()
        {
            paths(&below, &path, depth - 1, found)?;
        }
        found.push(path);
    }
    Ok(())
}

/// Opens without waiting: a named pipe would wait for its other end.
fn open(root: &Dir, path: &Path, options: &mut OpenOptions) -> Result<(File, Metadata)> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = root.open_with(path, options.custom_flags(flags)).map_err(|error| refused("opened", path, error))?;
    let metadata = file.metadata().map_err(|error| refused("read", path, error))?;
    if metadata.is_dir() {
        return Err(Error::new(Reason::IsADirectory, format!("{:?} is a directory", path.display())));
    }
    if !metadata.is_file() {
        return Err(Error::invalid(format!("{:?} is not a regular file", path.display())));
    }
    Ok((file, metadata))
}

/// Moves an entry; `replace` false lets nothing be replaced, not even in a race.
fn shift(from: (&Dir, &OsString), to: (&Dir, &OsString), replace: bool) -> io::Result<()> {
    if replace {
        return Ok(renameat(from.0, from.1, to.0, to.1)?);
    }
    match renameat_with(from.0, from.1, to.0, to.1, RenameFlags::NOREPLACE) {
        // Not every file system can; a link is as good for what is no directory.
        Err(Errno::INVAL | Errno::NOSYS) => {
            linkat(from.0, from.1, to.0, to.1, AtFlags::empty())?;
            Ok(unlinkat(from.0, from.1, AtFlags::empty())?)
        }
        done => Ok(done?),
    }
}

fn sync_folder(dir: &Dir, path: &Path) -> Result<()> {
    // The handle that cap-std holds may be one by which nothing can be read or synced.
    let readable = dir.open(".").map_err(|error| refused("synced", path, error))?;
    fsync(&readable).map_err(|error| refused("synced", path, error.into()))
}

#[async_trait]
impl Files for LocalFiles {
    async fn stat(&self, path: &Path, follow: bool) -> Result<Entry> {
        self.at(path, move |root, path| {
            let metadata = if follow { root.metadata(path) } else { root.symlink_metadata(path) };
            let metadata = metadata.map_err(|error| refused("found", path, error))?;
            let told = if path == Path::new(".") { OsString::new() } else { path.as_os_str().to_owned() };
            Ok(entry(root, path, told, &metadata))
        })
        .await
    }

    async fn list(&self, path: &Path, depth: u32, after: Option<&OsStr>, limit: usize) -> Result<Vec<Entry>> {
        let after = after.map(OsStr::to_owned);
        self.at(path, move |root, path| {
            let dir = root.open_dir(path).map_err(|error| refused("listed", path, error))?;
            let mut found = Vec::new();
            let prefix = if path == Path::new(".") { Path::new("") } else { path };
            paths(&dir, prefix, depth, &mut found).map_err(|error| refused("listed", path, error))?;
            found.retain(|path| after.as_deref().is_none_or(|after| path.as_os_str() > after));
            found.sort_unstable_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
            let entries = found.into_iter().filter_map(|path| {
                // What vanished meanwhile is left out.
                let metadata = root.symlink_metadata(&path).ok()?;
                Some(entry(root, &path, path.clone().into_os_string(), &metadata))
            });
            Ok(entries.take(limit).collect())
        })
        .await
    }

    async fn read(&self, path: &Path, offset: u64) -> Result<(Entry, Box<dyn AsyncRead + Send + Unpin>)> {
        self.at(path, move |root, path| {
            let (mut file, metadata) = open(root, path, OpenOptions::new().read(true))?;
            let told = entry(root, path, path.as_os_str().to_owned(), &metadata);
            if offset > told.size {
                let (path, size) = (path.display(), told.size);
                let message = format!("offset {offset} is past the end of {path:?}, which has {size} bytes");
                return Err(Error::new(Reason::OffsetUnavailable, message).with("end", size.to_string()));
            }
            file.seek(SeekFrom::Start(offset)).map_err(|error| refused("read", path, error))?;
            Ok((told, Box::new(tokio::fs::File::from_std(file.into_std())) as Box<dyn AsyncRead + Send + Unpin>))
        })
        .await
    }

    async fn append(&self, path: &Path, offset: u64) -> Result<Box<dyn AsyncWrite + Send + Unpin>> {
        self.change(path, move |root, path| {
            let mut options = OpenOptions::new();
            options.append(true).mode(0o600);
            if offset == 0 {
                options.create(true);
            }
            let (file, metadata) = open(root, path, &mut options)?;
            let size = metadata.size();
            if size != offset {
                let message = format!("{:?} has {size} bytes, so nothing can be added at {offset}", path.display());
                return Err(Error::new(Reason::OffsetUnavailable, message).with("committed_size", size.to_string()));
            }
            let mut file = tokio::fs::File::from_std(file.into_std());
            // What is under way to the disk at once, for each upload.
            file.set_max_buf_size(256 * 1024);
            Ok(Box::new(file) as Box<dyn AsyncWrite + Send + Unpin>)
        })
        .await
    }

    async fn sync(&self, path: &Path) -> Result<()> {
        self.at(path, |root, path| {
            let (file, _) = open(root, path, OpenOptions::new().append(true))?;
            file.sync_all().map_err(|error| refused("synced", path, error))
        })
        .await
    }

    async fn publish(&self, from: &Path, to: &Path, mode: u32, replace: bool) -> Result<()> {
        let (to, passage) = (inside(to)?, self.passage.clone());
        self.at(from, move |root, from| {
            let (file, _) = open(root, from, OpenOptions::new().append(true))?;
            let written = |error: io::Error| refused("written", &to, error);
            fchmod(&file, Mode::from_raw_mode(mode & 0o777)).map_err(|error| written(error.into()))?;
            file.sync_all().map_err(written)?;
            // All that was slow is done, and nothing of it was to be seen.
            let passed = passage.enter_blocking()?;
            let (source, target) = (parent_of(root, from)?, parent_of(root, &to)?);
            shift((&source.0, &source.1), (&target.0, &target.1), replace).map_err(written)?;
            drop(passed);
            sync_folder(&target.0, &to)
        })
        .await
    }

    async fn make_directory(&self, path: &Path, mode: u32, parents: bool) -> Result<()> {
        self.change(path, move |root, path| {
            // What is in the way says more than that something is.
            let blocked = |path: &Path, error: io::Error| match root.open_dir(path) {
                Err(why) if why.kind() != io::ErrorKind::NotFound => refused("made", path, why),
                _ => refused("made", path, error),
            };
            if parents && let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
                root.create_dir_all(above).map_err(|error| blocked(above, error))?;
            }
            match root.create_dir(path) {
                Err(error) if parents && error.kind() == io::ErrorKind::AlreadyExists => {
                    return root.open_dir(path).map(|_| ()).map_err(|error| blocked(path, error));
                }
                done => done.map_err(|error| refused("made", path, error))?,
            }
            // The umask is the daemon's; the mode is the caller's.
            root.set_permissions(path, Permissions::from_mode(mode & 0o777))
                .map_err(|error| refused("made", path, error))
        })
        .await
    }

    async fn remove(&self, path: &Path, recursive: bool) -> Result<()> {
        self.change(path, move |root, path| take_away(root, path, recursive)).await
    }

    async fn discard(&self, path: &Path) -> Result<()> {
        self.at(path, |root, path| take_away(root, path, false)).await
    }

    async fn rename(&self, from: &Path, to: &Path, replace: bool) -> Result<()> {
        let to = inside(to)?;
        self.change(from, move |root, from| {
            let (source, target) = (parent_of(root, from)?, parent_of(root, &to)?);
            shift((&source.0, &source.1), (&target.0, &target.1), replace).map_err(|error| {
                // Which of the two it is about.
                let path = if source.0.symlink_metadata(&source.1).is_err() { from } else { &to };
                refused("moved", path, error)
            })
        })
        .await
    }
}
