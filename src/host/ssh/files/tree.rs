//! Directories with all that is below them: listed and removed.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::FuturesUnordered;

use super::{at, kind};
use crate::host::files::EntryType;
use crate::host::ssh::sftp::{
    Attributes, Fault, Handle, Name, OPENDIR, Packet, READDIR, REMOVE, RENAME, RMDIR, SETSTAT, Session, code,
};

/// Directories that are read at once.
const ABREAST: usize = 8;
/// A path of more bytes is shortened before anything below it is touched: systems take 4096.
const LONG: usize = 3000;
/// Whoever still writes in a directory while we remove it may win a few times.
const ROUNDS: usize = 20;

/// What of a listing is wanted.
pub(super) struct Wanted<'a> {
    pub(super) after: Option<&'a [u8]>,
    pub(super) limit: usize,
}

struct Folder {
    real: PathBuf,
    told: Vec<u8>,
    depth: u32,
    handle: Option<Handle>,
}

/// Names as a directory has them, without itself and its parent; empty at its end.
async fn more(session: &Session, handle: &Handle) -> Result<Vec<Name>, Fault> {
    let ask = || session.names(handle.packet(READDIR));
    // Several at once: each answer holds a hundred names or so, and the end is an answer too.
    let (one, two, three) = tokio::join!(ask(), ask(), ask());
    let mut names = one?;
    names.extend(two?);
    names.extend(three?);
    Ok(names)
}

fn is_entry(name: &Name) -> bool {
    !matches!(&name.name[..], b"" | b"." | b"..") && !name.name.contains(&b'/')
}

async fn read(session: &Arc<Session>, mut folder: Folder) -> (Folder, Result<Vec<Name>, Fault>) {
    let handle = match folder.handle.take() {
        Some(handle) => handle,
        None => match session.open(at(OPENDIR, &folder.real)).await {
            Ok(handle) => handle,
            Err(fault) => return (folder, Err(fault)),
        },
    };
    let names = more(session, &handle).await;
    folder.handle = Some(handle);
    (folder, names)
}

impl Wanted<'_> {
    fn has(&self, path: &[u8]) -> bool {
        self.after.is_none_or(|after| path > after)
    }

    /// Whether anything below a directory can be wanted, when `found` is all that is known.
    fn has_below(&self, folder: &[u8], found: &BTreeMap<Vec<u8>, (PathBuf, Attributes)>) -> bool {
        // All that is below lies between `folder/` and `folder0`, which is the next byte.
        let passed = self.after.is_some_and(|after| after >= [folder, b"0"].concat().as_slice());
        let full = found.len() >= self.limit
            && found.last_key_value().is_some_and(|(last, _)| *last < [folder, b"/"].concat());
        !passed && !full
    }
}

/// Entries below a directory in the order of their paths' bytes: as told, where they are, and what they are. Never holds more
/// than are wanted.
pub(super) async fn list(
    session: &Arc<Session>,
    real: &Path,
    told: &[u8],
    depth: u32,
    wanted: &Wanted<'_>,
) -> Result<Vec<(OsString, PathBuf, Attributes)>, Fault> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![Folder { real: real.to_owned(), told: told.to_vec(), depth, handle: None }];
    let mut reading = FuturesUnordered::new();
    loop {
        while reading.len() < ABREAST
            && let Some(folder) = waiting.pop()
        {
            if folder.handle.is_some() || folder.real == real || wanted.has_below(&folder.told, &found) {
                reading.push(read(session, folder));
            }
        }
        let Some((folder, names)) = reading.next().await else { break };
        let names = match names {
            Ok(names) => names,
            // What vanished meanwhile, or is closed to us, is left out.
            Err(Fault::Refused { .. }) if folder.real != real => continue,
            Err(fault) => return Err(fault),
        };
        let ended = names.is_empty();
        for name in names.into_iter().filter(is_entry) {
            let mut told = folder.told.clone();
            if !told.is_empty() {
                told.push(b'/');
            }
            told.extend_from_slice(&name.name);
            let real = folder.real.join(OsStr::from_bytes(&name.name));
            if folder.depth > 1 && kind(&name.attributes) == EntryType::Directory {
                waiting.push(Folder { real: real.clone(), told: told.clone(), depth: folder.depth - 1, handle: None });
            }
            if wanted.has(&told) {
                found.insert(told, (real, name.attributes));
                if found.len() > wanted.limit {
                    found.pop_last();
                }
            }
        }
        if !ended {
            waiting.push(folder);
        }
    }
    Ok(found.into_iter().map(|(told, (real, attributes))| (OsString::from_vec(told), real, attributes)).collect())
}

/// Whether a directory has entries.
pub(super) async fn is_filled(session: &Arc<Session>, real: &Path) -> bool {
    let folder = Folder { real: real.to_owned(), told: Vec::new(), depth: 1, handle: None };
    read(session, folder).await.1.is_ok_and(|names| names.iter().any(is_entry))
}

/// Gives us all rights to a directory; where the server can, never through a link.
async fn unlock(session: &Session, real: &Path) -> Result<(), Fault> {
    let packet = if session.extensions.lsetstat {
        Packet::extended("lsetstat@openssh.com").string(real.as_os_str().as_bytes())
    } else {
        at(SETSTAT, real)
    };
    session.done(packet.mode(Some(0o700))).await
}

fn unless_gone(done: Result<(), Fault>) -> Result<(), Fault> {
    match done {
        Err(fault) if fault.is(code::NO_SUCH_FILE) => Ok(()),
        done => done,
    }
}

/// Removes a directory with all that is in it, links themselves and not what they lead to. The error names the entry.
pub(super) async fn remove(session: &Arc<Session>, top: &Path) -> Result<(), (PathBuf, Fault)> {
    // Each with how often it was emptied.
    let mut folders = vec![(top.to_owned(), 0)];
    while let Some((folder, rounds)) = folders.pop() {
        if rounds > 0 {
            match unless_gone(session.done(at(RMDIR, &folder)).await) {
                Ok(()) => continue,
                Err(fault) if fault.is(code::FAILURE) && rounds < ROUNDS => {}
                Err(fault) => return Err((folder, fault)),
            }
        }
        let below = strip(session, &folder).await?;
        folders.push((folder.clone(), rounds + 1));
        for inner in below {
            folders.push((move_up(session, top, inner).await?, 0));
        }
    }
    Ok(())
}

/// Removes all in a directory that is no directory, and answers those.
async fn strip(session: &Arc<Session>, folder: &Path) -> Result<Vec<PathBuf>, (PathBuf, Fault)> {
    let tell = |fault| (folder.to_owned(), fault);
    match unless_gone(unlock(session, folder).await) {
        // Another's directory may still be open to us.
        Ok(()) | Err(Fault::Refused { .. }) => {}
        Err(fault) => return Err(tell(fault)),
    }
    let handle = match session.open(at(OPENDIR, folder)).await {
        Ok(handle) => handle,
        Err(fault) if fault.is(code::NO_SUCH_FILE) => return Ok(Vec::new()),
        Err(fault) => return Err(tell(fault)),
    };
    let mut below = Vec::new();
    loop {
        let names = more(session, &handle).await.map_err(tell)?;
        if names.is_empty() {
            return Ok(below);
        }
        let (folders, others): (Vec<_>, Vec<_>) = names
            .iter()
            .filter(|name| is_entry(name))
            .map(|name| (folder.join(OsStr::from_bytes(&name.name)), kind(&name.attributes)))
            .partition(|(_, kind)| *kind == EntryType::Directory);
        below.extend(folders.into_iter().map(|(path, _)| path));
        let removed = join_all(others.iter().map(|(path, _)| session.done(at(REMOVE, path)))).await;
        for ((path, _), removed) in others.iter().zip(removed) {
            unless_gone(removed).map_err(|fault| (path.clone(), fault))?;
        }
    }
}

/// A directory whose path gets too long is moved to the top first.
async fn move_up(session: &Session, top: &Path, folder: PathBuf) -> Result<PathBuf, (PathBuf, Fault)> {
    if folder.as_os_str().len() < LONG {
        return Ok(folder);
    }
    let place = top.join(format!("removed-{:016x}", fastrand::u64(..)));
    let shift = || session.done(at(RENAME, &folder).string(place.as_os_str().as_bytes()));
    let mut moved = shift().await;
    if matches!(&moved, Err(fault) if fault.is(code::PERMISSION_DENIED)) {
        // A directory that is closed to us cannot change its parent.
        moved = match unlock(session, &folder).await {
            Ok(()) => shift().await,
            Err(fault) => Err(fault),
        };
    }
    match moved {
        Ok(()) => Ok(place),
        Err(fault) => Err((folder, fault)),
    }
}
