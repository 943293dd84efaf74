//! Drydock's own folders on this machine: made, measured, removed.

use std::ffi::{CStr, CString};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use crate::error::{Error, Reason, Result};

/// An error of the file system as a reason; `what` says what could not be done to which path.
pub(super) fn explain(what: &str, error: io::Error) -> Error {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let (reason, why) = match errno {
        Some(Errno::NOENT) => (Reason::FileNotFound, "no such file or directory"),
        Some(Errno::EXIST) => (Reason::FileExists, "it exists"),
        Some(Errno::NOTDIR) => (Reason::NotADirectory, "not a directory"),
        Some(Errno::ISDIR) => (Reason::IsADirectory, "it is a directory"),
        Some(Errno::NOTEMPTY) => (Reason::DirectoryNotEmpty, "the directory is not empty"),
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => (Reason::PermissionDenied, "permission denied"),
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => (Reason::NoSpace, "no space left"),
        Some(Errno::NAMETOOLONG) => (Reason::InvalidArgument, "the name is too long"),
        Some(Errno::LOOP) => (Reason::InvalidArgument, "too many symbolic links"),
        Some(Errno::INVAL) => (Reason::InvalidArgument, "the operating system refuses it"),
        _ => return Error::internal(what.to_owned(), error),
    };
    Error::new(reason, format!("{what}: {why}")).because(error)
}

/// Makes a folder and its parents, 0700.
pub(super) fn make(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| explain(&format!("folder {} cannot be made", path.display()), error))
}

/// A file's text; `None` when there is none.
pub(super) fn read_text(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::internal(format!("{} cannot be read", path.display()), error)),
    }
}

/// Writes a file, 0600, by way of a temporary sibling.
pub(super) fn write_text(path: &Path, text: &str) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        name.push(format!(".{:016x}", fastrand::u64(..)));
        let temporary = path.with_file_name(name);
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            // Whatever of it is there; the first error is the one to tell.
            let _ = fs::remove_file(&temporary);
        }
        written
    };
    write().map_err(|error| explain(&format!("{} cannot be written", path.display()), error))
}

/// Bytes of all files below a folder, as they are long; links are not followed.
pub(super) fn used_bytes(path: &Path) -> Result<u64> {
    let mut used = 0;
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            // It may go while we look, or be closed to us; the root must be there.
            Err(error) if folder == path => {
                return Err(Error::internal(format!("folder {} cannot be read", path.display()), error));
            }
            Err(_) => continue,
        };
        for entry in entries.flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) => used += metadata.len(),
                Err(_) => {}
            }
        }
    }
    Ok(used)
}

/// The names on the way from `data_dir` to a folder strictly below it. By the path alone, whether or not it exists: one
/// that leads out by `..` is not below.
///
/// # Errors
/// `INTERNAL` when it is not below.
pub(super) fn parts_below<'p>(data_dir: &Path, path: &'p Path) -> Result<Vec<Component<'p>>> {
    let below = path.strip_prefix(data_dir).ok().map(Path::components).map(Iterator::collect::<Vec<_>>);
    below.filter(|parts| !parts.is_empty() && parts.iter().all(|part| matches!(part, Component::Normal(_)))).ok_or_else(
        || {
            let (path, data_dir) = (path.display(), data_dir.display());
            Error::new(Reason::Internal, format!("folder {path} is not removed: it is not below {data_dir}"))
        },
    )
}

/// Removes a folder strictly below `data_dir` with all that is in it; missing is fine.
pub(super) fn remove(data_dir: &Path, path: &Path) -> Result<()> {
    let parts = parts_below(data_dir, path)?;
    let blocked = |at: PathBuf, error: Errno| {
        Error::internal(format!("{} cannot be removed", at.display()), io::Error::from(error))
    };
    let mut parent = match open(CWD, data_dir) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened.map_err(|error| blocked(data_dir.to_owned(), error))?,
    };
    let (last, above) = parts.split_last().ok_or_else(|| Error::new(Reason::Internal, "an empty path"))?;
    let mut at = data_dir.to_owned();
    for part in above {
        at.push(part);
        parent = match open(&parent, part.as_os_str()) {
            Err(Errno::NOENT) => return Ok(()),
            opened => opened.map_err(|error| blocked(at.clone(), error))?,
        };
    }
    let name =
        CString::new(last.as_os_str().as_encoded_bytes()).map_err(|error| Error::internal("a path with NUL", error))?;
    remove_tree(parent.as_fd(), &name).map_err(|(entry, error)| blocked(path.join(entry), error))
}

/// Opens a folder, never through a link; a closed one is opened to its owner, us, first.
fn open<P: rustix::path::Arg + Copy>(parent: impl AsFd, name: P) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    match openat(&parent, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            let held = openat(&parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
            unlock(&held)?;
            openat(&parent, name, flags, Mode::empty())
        }
        opened => opened,
    }
}

/// Gives us all rights to a folder, which may be held by `O_PATH` only.
fn unlock(folder: &OwnedFd) -> Result<(), Errno> {
    rustix::fs::chmod(format!("/proc/self/fd/{}", folder.as_raw_fd()), Mode::RWXU)
}

/// Without recursion and with three open folders, however deep it goes: each folder in a folder is first moved up to the
/// top. The error names the entry.
pub(super) fn remove_tree(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), (String, Errno)> {
    let at_top = |error| (String::new(), error);
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // A folder says one or the other.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(at_top(error)),
    }
    let top = open(parent, name).map_err(at_top)?;
    unlock(&top).map_err(at_top)?;
    let mut moved = 0_u64;
    // Whoever still writes in it while we remove may win a few times.
    for _ in 0..20 {
        while let Some(folder) = strip(&top, None, &mut moved)? {
            empty(&top, &folder, &mut moved)?;
        }
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => return Err(at_top(error)),
        }
    }
    Err(at_top(Errno::NOTEMPTY))
}

/// Empties one folder of the top, its folders moved up, and removes it.
fn empty(top: &OwnedFd, name: &CStr, moved: &mut u64) -> Result<(), (String, Errno)> {
    let tell = |error| (name.to_string_lossy().into_owned(), error);
    let folder = match open(top, name) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened.map_err(tell)?,
    };
    unlock(&folder).map_err(tell)?;
    strip(&folder, Some(top), moved)?;
    match unlinkat(top, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
        Err(error) => Err(tell(error)),
    }
}

/// Removes all that is no folder; folders are moved to `up`, or the first one is answered when there is no `up`.
fn strip(folder: &OwnedFd, up: Option<&OwnedFd>, moved: &mut u64) -> Result<Option<CString>, (String, Errno)> {
    let tell = |name: &CStr, error| (name.to_string_lossy().into_owned(), error);
    for entry in Dir::read_from(folder).map_err(|error| tell(c"", error))? {
        let entry = entry.map_err(|error| tell(c"", error))?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let removed = if is_folder(folder, name, entry.file_type()) {
            let Some(top) = up else { return Ok(Some(name.to_owned())) };
            move_up(folder, name, top, moved)
        } else {
            unlinkat(folder, name, AtFlags::empty())
        };
        match removed {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(tell(name, error)),
        }
    }
    Ok(None)
}

fn is_folder(parent: &OwnedFd, name: &CStr, kind: FileType) -> bool {
    match kind {
        FileType::Directory => true,
        FileType::Unknown => statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
        _ => false,
    }
}

fn move_up(folder: &OwnedFd, name: &CStr, top: &OwnedFd, moved: &mut u64) -> Result<(), Errno> {
    loop {
        *moved += 1;
        let place = format!("removed-{moved}-{:08x}", fastrand::u32(..));
        match renameat(folder, name, top, place.as_str()) {
            // A folder that is closed to us cannot change its parent.
            Err(Errno::ACCESS) => {
                let held = openat(folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
                unlock(&held)?;
                return renameat(folder, name, top, place.as_str());
            }
            Err(Errno::EXIST | Errno::NOTEMPTY) => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn read_only_trees_go_and_links_are_not_followed() {
        let data = tempfile::tempdir().unwrap();
        let precious = data.path().join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("kept"), "x").unwrap();
        let lease = data.path().join("leases/a");
        fs::create_dir_all(lease.join("deep/er")).unwrap();
        fs::write(lease.join("deep/er/file"), "x").unwrap();
        symlink(&precious, lease.join("deep/link")).unwrap();
        for folder in ["deep/er", "deep", ""] {
            fs::set_permissions(lease.join(folder), fs::Permissions::from_mode(0o500)).unwrap();
        }
        remove(data.path(), &lease).unwrap();
        assert!(!lease.exists() && precious.join("kept").exists());
        remove(data.path(), &lease).unwrap();
    }

    #[test]
    fn depth_does_not_matter() {
        let data = tempfile::tempdir().unwrap();
        let lease = data.path().join("lease");
        fs::create_dir(&lease).unwrap();
        let mut folder = open(CWD, &lease).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&folder, "d", Mode::RWXU).unwrap();
            folder = open(&folder, "d").unwrap();
        }
        remove(data.path(), &lease).unwrap();
        assert!(!lease.exists());
    }

    #[test]
    fn what_is_not_below_the_data_folder_stays() {
        let data = tempfile::tempdir().unwrap();
        let inner = data.path().join("data");
        fs::create_dir(&inner).unwrap();
        for path in [inner.clone(), data.path().to_owned(), inner.join("../other"), PathBuf::from("/")] {
            assert_eq!(remove(&inner, &path).unwrap_err().reason, Reason::Internal, "{}", path.display());
        }
        let outside = data.path().join("outside");
        fs::create_dir(&outside).unwrap();
        symlink(&outside, inner.join("way-out")).unwrap();
        fs::create_dir(outside.join("x")).unwrap();
        remove(&inner, &inner.join("way-out/x")).unwrap_err();
        assert!(outside.join("x").exists());
        remove(&inner, &inner.join("way-out")).unwrap();
        assert!(outside.exists());
    }
}
