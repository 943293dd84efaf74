//! The unix socket: made private, taken over from a dead daemon, never from a live one, and removed at the end.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, Result};

/// Longest path that the system takes for a socket, in bytes.
const MAX_PATH: usize = 107;

/// The name of a bound socket in the file system; removed when dropped, unless somebody put something else there.
#[derive(Debug)]
pub(super) struct Name {
    path: PathBuf,
    identity: (u64, u64),
    /// As long as it is open, nobody takes the socket for a dead one, and its inode number is not given out again.
    _alive: UnixListener,
}

impl Drop for Name {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // It may be gone already, and a stale name is taken over anyway.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|facts| (facts.dev(), facts.ino()))
}

/// Makes a folder that only we can enter, and those above it, where they are missing.
///
/// # Errors
/// `INVALID_ARGUMENT` when it cannot be made.
pub(super) fn private_folder(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| failed(&format!("cannot make the folder {}", path.display()), error))
}

/// Listens at `path`, mode 0600.
///
/// # Errors
/// `INVALID_ARGUMENT`: a live daemon listens there, something else lies there, or the path cannot be a socket's.
pub(super) fn listen(path: &Path) -> Result<(UnixListener, Name)> {
    let length = path.as_os_str().len();
    if length > MAX_PATH {
        let message =
            format!("the socket's path {} is {length} bytes long; at most {MAX_PATH} are possible", path.display());
        return Err(Error::invalid(format!("{message}; choose a shorter --data-dir")));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    private_folder(folder)?;
    let cannot = |error| failed(&format!("cannot listen on the socket {}", path.display()), error);
    // Of two daemons that find the same stale socket, one waits here and then finds the other alive.
    let turn = File::open(folder).map_err(cannot)?;
    flock(&turn, FlockOperation::LockExclusive).map_err(|error| cannot(error.into()))?;
    clear(path)?;
    let listener = UnixListener::bind(path).map_err(cannot)?;
    let alive = listener.try_clone().map_err(cannot)?;
    let name = Name { path: path.to_owned(), identity: identity(path).map_err(cannot)?, _alive: alive };
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(cannot)?;
    listener.set_nonblocking(true).map_err(cannot)?;
    Ok((listener, name))
}

/// Removes the socket of a daemon that is gone.
fn clear(path: &Path) -> Result<()> {
    let cannot = |error| failed(&format!("cannot use the socket {}", path.display()), error);
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot(error)),
        Ok(facts) if !facts.file_type().is_socket() => {
            let message = format!("{} is not a socket; move it away, or choose another --data-dir", path.display());
            return Err(Error::invalid(message));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(Error::invalid(format!(
            "another daemon listens on {}; stop it, or choose another --data-dir",
            path.display()
        ))),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(cannot),
        Err(error) => Err(cannot(error)),
    }
}

fn failed(what: &str, error: io::Error) -> Error {
    Error::invalid(format!("{what}: {error}")).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn it_is_private_and_goes_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/drydock.sock");
        let (listener, name) = listen(&path).unwrap();
        assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
        drop((listener, name));
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_daemons_socket_is_taken_over_and_a_live_ones_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("drydock.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let (listener, name) = listen(&path).unwrap();
        assert!(listen(&path).unwrap_err().message.contains("another daemon"));
        drop(listener);
        assert!(listen(&path).unwrap_err().message.contains("another daemon"));
        // What somebody else put there stays.
        fs::remove_file(&path).unwrap();
        let (_other, _name) = listen(&path).unwrap();
        drop(name);
        assert!(path.exists());
    }

    #[test]
    fn what_is_no_socket_stays_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("drydock.sock");
        fs::write(&path, "mine").unwrap();
        assert!(listen(&path).unwrap_err().message.contains("not a socket"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        assert!(listen(&folder.path().join("x".repeat(120))).unwrap_err().message.contains("bytes long"));
    }
}
