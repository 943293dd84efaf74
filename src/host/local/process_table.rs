//! The process table of this machine, read from `/proc`: who belongs to what, by group and by environment.
//!
//! A pid is only a hint, it may be given out anew at any time. So a process is judged again after a pidfd holds it, and
//! signalled through that.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;

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
}

impl Candidate {
    /// `None` when there is no such process, or only its zombie.
    pub(super) fn read(pid: i32) -> Option<Self> {
        let mut stat = [0; 512];
        let length = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut stat).ok()?;
        let (state, group) = parse_stat(&stat[..length])?;
        (!matches!(state, b'Z' | b'X')).then_some(Self { pid, group, environment: None })
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
        let pid = self.pid;
        let environment =
            self.environment.get_or_insert_with(|| fs::read(format!("/proc/{pid}/environ")).unwrap_or_default());
        environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    }
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
pub(super) fn strike(signal: Option<Signal>, mut wanted: impl FnMut(&mut Candidate) -> bool) -> usize {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let Ok(table) = fs::read_dir("/proc") else { return 0 };
    let mut found = 0;
    for entry in table.flatten() {
        let name = entry.file_name();
        let Some(pid) = std::str::from_utf8(name.as_bytes()).ok().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if pid == own || !Candidate::read(pid).is_some_and(|mut candidate| wanted(&mut candidate)) {
            continue;
        }
        let Some(signal) = signal else {
            found += 1;
            continue;
        };
        let Some(Ok(handle)) = Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) else { continue };
        if Candidate::read(pid).is_some_and(|mut candidate| wanted(&mut candidate)) {
            found += 1;
            // It may have ended by now, which is just as well.
            let _ = pidfd_send_signal(&handle, signal);
        }
    }
    found
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
