//! The process table of this machine, read from `/proc`: who belongs to what, by group and by environment.
//!
//! A pid is only a hint, it may be given out anew at any time. So a process is judged again after a pidfd holds it, and
//! signalled through that.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Names the lease that a process runs for.
pub(super) const LEASE_VARIABLE: &str = "DRYDOCK_LEASE_ID";
/// Names the process tree that a process belongs to.
pub(super) const PROCESS_VARIABLE: &str = "DRYDOCK_PROCESS_ID";

/// A live process; its environment is read when first asked for.
pub(super) struct Candidate {
    pid: i32,
    group: i32,
    environment: Option<Vec<u8>>,
    /// Why its environment is not known, though it may be ours.
    unread: Option<io::Error>,
}

impl Candidate {
    /// `None` when there is no such process, or only its zombie, or when that cannot be told.
    pub(super) fn read(pid: i32) -> Option<Self> {
        Self::find(pid).ok().flatten()
    }

    /// `None` when there is no such process, or only its zombie.
    ///
    /// # Errors
    /// When that cannot be told: no file can be opened any more.
    fn find(pid: i32) -> io::Result<Option<Self>> {
        let mut stat = [0; 512];
        let length = match File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut stat)) {
            Err(error) if is_no_business(&error) => return Ok(None),
            read => read?,
        };
        let alive = parse_stat(&stat[..length]).filter(|(state, _)| !matches!(state, b'Z' | b'X'));
        Ok(alive.map(|(_, group)| Self { pid, group, environment: None, unread: None }))
    }

    /// What `wanted` says of it.
    ///
    /// # Errors
    /// When that rests on an environment that could not be read.
    fn judge(mut self, mut wanted: impl FnMut(&mut Self) -> bool) -> io::Result<bool> {
        let is_wanted = wanted(&mut self);
        self.unread.map_or(Ok(is_wanted), Err)
    }

    /// Number of its process group.
    pub(super) fn group(&self) -> i32 {
        self.group
    }

    /// Whether its environment, as it was when the program began, holds exactly `NAME=value`.
    pub(super) fn names(&mut self, name: &str, value: &str) -> bool {
        self.variable(name) == Some(value.as_bytes())
    }

    /// A variable of its environment as it was when the program began.
    pub(super) fn variable(&mut self, name: &str) -> Option<&[u8]> {
        let environment = self.environment.get_or_insert_with(|| {
            fs::read(format!("/proc/{}/environ", self.pid)).unwrap_or_else(|error| {
                self.unread = Some(error).filter(|error| !is_no_business(error));
                Vec::new()
            })
        });
        environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    }
}

/// It has ended meanwhile, or is somebody else's.
fn is_no_business(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
        || Errno::from_io_error(error) == Some(Errno::SRCH)
}

/// State and group out of `pid (name) S ppid pgrp …`; the name may hold anything, parentheses and blanks too.
fn parse_stat(stat: &[u8]) -> Option<(u8, i32)> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = stat[end + 1..].split(|byte| *byte == b' ').filter(|field| !field.is_empty());
    let state = *fields.next()?.first()?;
    let group = std::str::from_utf8(fields.nth(1)?).ok()?.parse().ok()?;
    Some((state, group))
}

/// Sends `signal`, if any, to every live process that is `wanted`, never to ourselves; answers how many there are.
///
/// # Errors
/// When it cannot be told which there are; those that were found have their signal.
pub(super) fn strike(signal: Option<Signal>, mut wanted: impl FnMut(&mut Candidate) -> bool) -> io::Result<usize> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let mut found = 0;
    let mut unread = None;
    let mut is_wanted = |pid| {
        let judged = Candidate::find(pid).and_then(|found| found.map_or(Ok(false), |found| found.judge(&mut wanted)));
        judged.unwrap_or_else(|error| {
            unread = Some(error);
            false
        })
    };
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = std::str::from_utf8(name.as_bytes()).ok().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if pid == own || !is_wanted(pid) {
            continue;
        }
        let Some(signal) = signal else {
            found += 1;
            continue;
        };
        let handle = match Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
            Some(Ok(handle)) => handle,
            None | Some(Err(Errno::SRCH)) => continue,
            Some(Err(error)) => return Err(error.into()),
        };
        if is_wanted(pid) {
            found += 1;
            // It may have ended by now, which is just as well.
            let _ = pidfd_send_signal(&handle, signal);
        }
    }
    unread.map_or(Ok(found), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_forge_the_fields() {
        assert_eq!(parse_stat(b"12 (a) Z 1 1) S 7 99 99 0 -1"), Some((b'S', 99)));
        assert_eq!(parse_stat(b"12 (sh"), None);
    }

    #[test]
    fn one_finds_oneself_by_group() {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let group = rustix::process::getpgrp().as_raw_nonzero().get();
        assert_eq!(Candidate::read(own).unwrap().group(), group);
    }
}
