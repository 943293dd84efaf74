//! What to run, and what of it no host is asked for.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, Reason, Result};
use crate::host::files::EntryType;
use crate::host::{Command, Place};
use crate::model::id::ProcessId;

/// Inline stdin, and each piece of live stdin, at most.
pub const MAX_STDIN: usize = 1024 * 1024;
/// Words and environment together, at most; a single word is limited by the host (128 KiB on Linux).
const MAX_WORDS: usize = 1024 * 1024;
/// Names that tell whose a process is.
const RESERVED: &str = "DRYDOCK_";

/// A command as a caller asks for it.
#[derive(Clone, Default)]
pub struct ExecSpec {
    /// Exact words. Exactly one of this and `shell`.
    pub argv: Vec<String>,
    /// A script for `sh -c`; empty is none.
    pub shell: String,
    /// Relative to the root; empty is the root.
    pub cwd: String,
    /// Added to the scrubbed environment.
    pub env: BTreeMap<String, String>,
    /// The same, never shown.
    pub secret_env: BTreeMap<String, String>,
    /// Of the process.
    pub timeout: Option<Duration>,
    /// From TERM to KILL; the default depends on why.
    pub kill_grace: Option<Duration>,
    /// stderr goes where stdout goes.
    pub merge_stderr: bool,
    /// The first of stdin.
    pub stdin: Bytes,
    /// Anything but exit code 0 ends the frames with `COMMAND_FAILED`.
    pub check: bool,
    /// Output as repaired text.
    pub text: bool,
}

impl ExecSpec {
    /// Refuses what cannot be run anywhere.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`.
    pub fn validate(&self) -> Result<()> {
        match (self.argv.is_empty(), self.shell.is_empty()) {
            (false, true) | (true, false) => {}
            (true, true) => return Err(Error::invalid("command has neither argv nor shell; set exactly one")),
            (false, false) => return Err(Error::invalid("command has both argv and shell; set exactly one")),
        }
        let mut size = self.shell.len();
        for word in self.argv.iter().chain([&self.shell]) {
            if word.contains('\0') {
                return Err(Error::invalid("command holds a NUL byte, which no program can get"));
            }
            size += word.len() + 1;
        }
        for (name, value) in self.env.iter().chain(&self.secret_env) {
            check_variable(name, value)?;
            size += name.len() + value.len() + 2;
        }
        if let Some(name) = self.env.keys().find(|name| self.secret_env.contains_key(*name)) {
            return Err(Error::invalid(format!("{name} is in both env and secret_env; set it once")));
        }
        if size > MAX_WORDS {
            let what = format!(
                "command and environment have {size} bytes; at most {MAX_WORDS} can be passed, use stdin or files"
            );
            return Err(Error::invalid(what));
        }
        if self.stdin.len() > MAX_STDIN {
            let size = self.stdin.len();
            return Err(Error::invalid(format!(
                "stdin has {size} bytes; at most {MAX_STDIN} go inline, use ExecInteractive"
            )));
        }
        if self.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(Error::invalid("command.timeout is 0; leave it out for none"));
        }
        Ok(())
    }

    /// The command for the host, all but stdin.
    ///
    /// # Errors
    /// `PATH_OUTSIDE_ROOT`, `FILE_NOT_FOUND`, `NOT_A_DIRECTORY` for `cwd`.
    pub async fn command(&self, place: &Place, lease_id: &str, process_id: &ProcessId) -> Result<Command> {
        let argv = if self.shell.is_empty() {
            self.argv.clone()
        } else {
            vec!["sh".to_owned(), "-c".to_owned(), self.shell.clone()]
        };
        let mut env = self.env.clone();
        env.extend(self.secret_env.clone());
        let mut cwd = place.root.clone();
        if !self.cwd.is_empty() {
            // Through the root's own eyes, so that no link leads out of it.
            let entry = place.host.files(&place.root).await?.stat(Path::new(&self.cwd), true).await?;
            if entry.kind != EntryType::Directory {
                return Err(Error::new(
                    Reason::NotADirectory,
                    format!("command.cwd {:?} is not a directory", self.cwd),
                ));
            }
            cwd.push(&self.cwd);
        }
        Ok(Command {
            argv,
            cwd,
            env,
            lease_id: lease_id.to_owned(),
            process_id: process_id.to_string(),
            merge_stderr: self.merge_stderr,
            stdin: false,
            fences: Vec::new(),
        })
    }
}

fn check_variable(name: &str, value: &str) -> Result<()> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    if !first || !bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err(Error::invalid(format!("environment name {name:?} must match [A-Za-z_][A-Za-z0-9_]*")));
    }
    if name == "DRYDOCK_LEASE_ID" || name == "DRYDOCK_PROCESS_ID" {
        return Err(Error::invalid(format!(
            "environment name {name} is set by Drydock; choose one without {RESERVED}"
        )));
    }
    if value.contains('\0') {
        return Err(Error::invalid(format!("the value of {name} holds a NUL byte, which no program can get")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_run_is_refused_at_the_door() {
        let argv = |words: &[&str]| ExecSpec {
            argv: words.iter().map(|word| (*word).to_owned()).collect(),
            ..ExecSpec::default()
        };
        let env =
            |name: &str, value: &str| ExecSpec { env: [(name.to_owned(), value.to_owned())].into(), ..argv(&["true"]) };
        argv(&["true", ""]).validate().unwrap();
        env("PATH", "/bin").validate().unwrap();
        let both = env("A", "1");
        for bad in [
            ExecSpec::default(),
            ExecSpec { shell: "true".to_owned(), ..argv(&["true"]) },
            argv(&["a\0b"]),
            argv(&[&"x".repeat(MAX_WORDS)]),
            env("", "1"),
            env("1A", "1"),
            env("A=B", "1"),
            env("A", "\0"),
            env("DRYDOCK_LEASE_ID", "lease_x"),
            ExecSpec { secret_env: both.env.clone(), ..both },
            ExecSpec { stdin: Bytes::from(vec![0; MAX_STDIN + 1]), ..argv(&["cat"]) },
            ExecSpec { timeout: Some(Duration::ZERO), ..argv(&["true"]) },
        ] {
            assert_eq!(bad.validate().unwrap_err().reason, Reason::InvalidArgument);
        }
    }
}
