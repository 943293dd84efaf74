//! The runtime folder: short enough for control sockets, nobody else's, and empty of what an earlier daemon left.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures::future::join_all;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use sha2::{Digest as _, Sha256};
use tokio::process::Command;
use tokio::time::{Instant, interval, timeout};

use super::target::check_path;
use crate::error::{Error, Result};

/// A socket's path has at most 107 bytes on Linux. ssh makes its own with 17 more behind the name, and below the folder come
/// 8 of the link, up to 7 of the master and two slashes.
const LONGEST: usize = 107 - 17 - 8 - 7 - 2;
/// How long a master may take to say that it goes, and then to go.
const GOES: Duration = Duration::from_secs(1);

/// Eight letters that stand for a longer name.
pub(super) fn short(name: &str) -> String {
    Sha256::digest(name).iter().take(4).fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// Makes `wanted`, or the same short folder each time when its path is too long for sockets; 0700 and ours.
///
/// # Errors
/// `INTERNAL` when it cannot be made or is someone else's.
pub(super) fn prepare(wanted: &Path) -> Result<PathBuf> {
    if fits(wanted) {
        return make(wanted);
    }
    let short = short(&wanted.to_string_lossy());
    let uid = geteuid().as_raw();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
    let places = [runtime, Some(std::env::temp_dir()), Some(PathBuf::from("/tmp"))];
    let mut places = places.into_iter().flatten().map(|place| place.join(format!("drydock-{uid}-{short}")));
    if let Some(place) = places.find(|place| fits(place)) {
        make(&place)
    } else {
        let message = format!(
            "{} is too long for ssh's control sockets (at most {LONGEST} bytes, and no quotes, % or $), and so are \
                 XDG_RUNTIME_DIR and TMPDIR: give a shorter folder",
            wanted.display()
        );
        Err(Error::invalid(message))
    }
}

fn fits(path: &Path) -> bool {
    path.as_os_str().len() <= LONGEST && check_path("folder", path).is_ok()
}

fn make(path: &Path) -> Result<PathBuf> {
    let failed = |error| Error::internal(format!("cannot make the folder {}", path.display()), error);
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    // Of the path itself: a link that somebody has laid in a shared folder is not followed.
    let facts = fs::symlink_metadata(path).map_err(failed)?;
    if !facts.is_dir() || facts.uid() != geteuid().as_raw() {
        let message = format!("{} is not a folder of the daemon's user: remove it", path.display());
        return Err(Error::internal(message, std::io::Error::other("not ours")));
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    Ok(path.to_owned())
}

/// Ends the masters that an earlier daemon left below `folder`, and removes what was theirs.
pub(super) async fn reap(folder: &Path) {
    let links: Vec<_> = entries(folder).into_iter().filter(|path| path.is_dir()).collect();
    join_all(links.iter().map(|link| end(link))).await;
}

/// Asks every master of one link to go, then kills what did not; the link's folder is removed.
pub(super) async fn end(link: &Path) {
    // The sockets are the files without an ending.
    let sockets = entries(link)
        .into_iter()
        .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<u32>().is_ok()));
    let ask = async |socket: PathBuf| {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-O", "exit", "-S"]).arg(socket).arg("gone");
        ssh.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        // One that is stopped never answers.
        let _ = timeout(GOES, ssh.status()).await;
    };
    join_all(sockets.map(ask)).await;
    let until = Instant::now() + GOES;
    let mut ticks = interval(Duration::from_millis(20));
    while !sshs_of(link).is_empty() && Instant::now() < until {
        ticks.tick().await;
    }
    kill(link);
    if let Err(error) = fs::remove_dir_all(link)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(folder = %link.display(), %error, "what an ssh link left cannot be removed");
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).map(|all| all.filter_map(|entry| Some(entry.ok()?.path())).collect()).unwrap_or_default()
}

/// Kills each ssh that was started with this file, or with one below it.
pub(super) fn kill(path: &Path) {
    for pid in sshs_of(path) {
        // It may have gone just now.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// By their command lines: no number of a process that was written down is believed.
fn sshs_of(path: &Path) -> Vec<Pid> {
    let path = path.to_string_lossy();
    let ours = |entry: &PathBuf| {
        let pid = Pid::from_raw(entry.file_name()?.to_str()?.parse().ok()?)?;
        let text = fs::read(entry.join("cmdline")).ok()?;
        let text = String::from_utf8_lossy(&text);
        let program = text.split(['\0', ' ', ':']).next()?.rsplit('/').next()?;
        let named = |word: &str| word.strip_prefix(&*path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        (program == "ssh" && text.split(['\0', ' ']).any(named)).then_some(pid)
    };
    entries(Path::new("/proc")).iter().filter_map(ours).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_folder_becomes_a_short_one() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(prepare(&folder.path().join("run")).unwrap(), folder.path().join("run"));
        let long = folder.path().join("x".repeat(90));
        let short = prepare(&long).unwrap();
        assert!(short.as_os_str().len() <= LONGEST, "{}", short.display());
        assert_eq!(prepare(&long).unwrap(), short, "the same each time, so that it can be reaped");
        assert_eq!(fs::metadata(&short).unwrap().permissions().mode() & 0o777, 0o700);
        fs::remove_dir(&short).unwrap();
        let odd = prepare(&folder.path().join("%h")).unwrap();
        assert!(!odd.starts_with(folder.path()));
        fs::remove_dir(odd).unwrap();
    }

    #[test]
    fn a_folder_that_is_a_link_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("run");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        prepare(&link).unwrap_err();
    }
}
