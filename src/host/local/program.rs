//! What a command starts from: the scrubbed environment, and its program's file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::process_table::{LEASE_VARIABLE, PROCESS_VARIABLE};
use crate::host::Command;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The few variables that every command gets, as this machine has them.
pub(super) struct Environment {
    base: BTreeMap<OsString, OsString>,
}

impl Environment {
    /// From the daemon's own environment, and `/etc/passwd` for what a bare service does not have.
    pub(super) fn read() -> Self {
        let uid = rustix::process::getuid().as_raw();
        let (user, home) = account(&fs::read_to_string("/etc/passwd").unwrap_or_default(), uid);
        let defaults = [
            ("PATH", DEFAULT_PATH.to_owned()),
            ("HOME", home),
            ("USER", user),
            ("LANG", "C.UTF-8".to_owned()),
            ("TMPDIR", "/tmp".to_owned()),
        ];
        let base = defaults.map(|(name, default)| {
            let own = std::env::var_os(name).filter(|value| !value.is_empty());
            (OsString::from(name), own.unwrap_or_else(|| default.into()))
        });
        Self { base: base.into() }
    }

    /// All variables of a command.
    pub(super) fn of(&self, command: &Command) -> BTreeMap<OsString, OsString> {
        let mut all = self.base.clone();
        all.extend(command.env.iter().map(|(name, value)| (name.into(), value.into())));
        // Last, so that nobody can hide behind another lease's name.
        all.insert(LEASE_VARIABLE.into(), command.lease_id.clone().into());
        all.insert(PROCESS_VARIABLE.into(), command.process_id.clone().into());
        all
    }
}

/// Name and home of an account; the number and `/` when there is none.
fn account(passwd: &str, uid: u32) -> (String, String) {
    let uid = uid.to_string();
    passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.len() > 5 && fields[2] == uid)
        .map_or_else(|| (uid.clone(), "/".to_owned()), |fields| (fields[0].to_owned(), fields[5].to_owned()))
}

/// A program that cannot run, as a shell would tell it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CannotRun {
    /// 127 for what is not there, 126 for what is no program.
    pub(super) code: i32,
    /// Why, in a few words.
    pub(super) why: &'static str,
}

impl CannotRun {
    /// Nothing of that name.
    pub(super) const MISSING: Self = Self { code: 127, why: "not found" };
    /// No right to run it.
    pub(super) const FORBIDDEN: Self = Self { code: 126, why: "not executable" };
    /// Not a format that the kernel runs.
    pub(super) const MALFORMED: Self = Self { code: 126, why: "not a program (no #! line?)" };
}

/// Finds a program as execvp(3) does: a word with a slash is a path from `cwd`, any other is looked up in `path`.
///
/// It is done here rather than left to the standard library, which would fork for it instead of using `posix_spawn`.
pub(super) fn find(word: &str, cwd: &Path, path: &str) -> Result<PathBuf, CannotRun> {
    if word.is_empty() {
        return Err(CannotRun::MISSING);
    }
    if word.contains('/') {
        let file = cwd.join(word);
        return check(&file).map(|()| file);
    }
    let mut best = CannotRun::MISSING;
    for folder in path.split(':') {
        let file = cwd.join(folder).join(word);
        match check(&file) {
            Ok(()) => return Ok(file),
            Err(CannotRun::MISSING) => {}
            Err(worse) => best = worse,
        }
    }
    Err(best)
}

fn check(file: &Path) -> Result<(), CannotRun> {
    match fs::metadata(file) {
        Ok(metadata) if metadata.is_file() && access(file, Access::EXEC_OK).is_ok() => Ok(()),
        Ok(_) => Err(CannotRun::FORBIDDEN),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(CannotRun::FORBIDDEN),
        Err(_) => Err(CannotRun::MISSING),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nci:x:7:7::/home/ci:/bin/sh\n";
        assert_eq!(account(passwd, 7), ("ci".to_owned(), "/home/ci".to_owned()));
        assert_eq!(account(passwd, 8), ("8".to_owned(), "/".to_owned()));
    }

    #[test]
    fn a_program_is_looked_up_like_execvp_does() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("data"), "x").unwrap();
        let path = format!("{}:/usr/bin:/bin", folder.path().display());
        assert!(find("sh", folder.path(), &path).unwrap().ends_with("sh"));
        assert_eq!(find("data", folder.path(), &path), Err(CannotRun::FORBIDDEN));
        assert_eq!(find("./data", folder.path(), &path), Err(CannotRun::FORBIDDEN));
        assert_eq!(find("no-such-program", folder.path(), &path), Err(CannotRun::MISSING));
        assert_eq!(find("", folder.path(), &path), Err(CannotRun::MISSING));
        assert_eq!(find("..", folder.path(), &path), Err(CannotRun::FORBIDDEN));
    }
}
