//! The supervisor: a child of the daemon that outlives it by a moment, to kill what it left running.
//!
//! It reads lines from a pipe whose other end the daemon alone holds: `+ PROCESS GROUP` (group 0 while it is not known
//! yet) and `- PROCESS`. The pipe's end means that the daemon is gone, however it went, `kill -9` too.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, PipeWriter, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::signal::unix::{SignalKind, signal};

use super::process_table::{PROCESS_VARIABLE, strike};
use crate::error::{Error, Reason, Result};

/// The hidden subcommand that runs [`supervise`].
pub const SUBCOMMAND: &str = "__supervise";

/// The daemon's end. The supervisor is started with the first process, and again should it ever be gone.
pub(super) struct Supervisor {
    executable: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    link: Option<Link>,
    /// Process id to group.
    live: BTreeMap<String, i32>,
}

struct Link {
    pipe: PipeWriter,
    child: Child,
}

impl Supervisor {
    /// `executable` is this binary.
    pub(super) fn new(executable: PathBuf) -> Self {
        Self { executable, state: Mutex::default() }
    }

    /// Tells of a process that is about to be started: from now on it dies with us.
    pub(super) fn expect(&self, process_id: &str) -> Result<()> {
        self.tell(process_id, 0)
    }

    /// Tells a process's group, right after its start.
    pub(super) fn watch(&self, process_id: &str, group: Pid) -> Result<()> {
        self.tell(process_id, group.as_raw_nonzero().get())
    }

    /// Tells that nothing of a process is left.
    pub(super) fn forget(&self, process_id: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.live.remove(process_id).is_some()
            && let Some(link) = &mut state.link
        {
            // If the supervisor is gone, the next one is not told of this process in the first place.
            let _ = link.pipe.write_all(format!("- {process_id}\n").as_bytes());
        }
    }

    fn tell(&self, process_id: &str, group: i32) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.live.insert(process_id.to_owned(), group);
        if let Some(link) = &mut state.link {
            if link.pipe.write_all(format!("+ {process_id} {group}\n").as_bytes()).is_ok() {
                return Ok(());
            }
            // So that it leaves no zombie.
            let _ = link.child.wait();
            state.link = None;
        }
        let started = self.start().and_then(|mut link| {
            for (id, group) in &state.live {
                link.pipe.write_all(format!("+ {id} {group}\n").as_bytes())?;
            }
            Ok(link)
        });
        match started {
            Ok(link) => {
                state.link = Some(link);
                Ok(())
            }
            Err(error) => {
                state.live.remove(process_id);
                let program = self.executable.display();
                Err(Error::new(Reason::HostUnreachable, format!("the supervisor {program} cannot be started"))
                    .because(error))
            }
        }
    }

    fn start(&self) -> io::Result<Link> {
        let (reader, pipe) = io::pipe()?;
        let child = Command::new(&self.executable)
            .arg(SUBCOMMAND)
            .env_clear()
            .current_dir("/")
            // Out of reach of the terminal's Ctrl-C, which is meant for the daemon.
            .process_group(0)
            .stdin(reader)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Link { pipe, child })
    }
}

/// The supervisor itself: returns when the daemon is gone and what it left is dead.
#[must_use]
pub fn supervise() -> ExitCode {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return ExitCode::FAILURE;
    };
    runtime.block_on(async {
        // Caught, never listened to: only the daemon's end ends us.
        let _caught = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()]
            .map(|kind| signal(kind).ok());
        let mut live = BTreeMap::new();
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            note(&mut live, &line);
        }
        if live.is_empty() || kill_all(&live).await { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    })
}

fn note(live: &mut BTreeMap<String, i32>, words: &str) {
    let mut words = words.split(' ');
    match (words.next(), words.next(), words.next().and_then(|group| group.parse().ok())) {
        (Some("+"), Some(id), Some(group)) => {
            live.insert(id.to_owned(), group);
        }
        (Some("-"), Some(id), _) => {
            live.remove(id);
        }
        // Cut off in the middle by the daemon's death; the line before it told the process id.
        _ => {}
    }
}

/// Whether all are dead. One that was just being started may show up a moment later, hence the second look.
async fn kill_all(live: &BTreeMap<String, i32>) -> bool {
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let mut clean = 0;
    for _ in 0..200 {
        for group in live.values().filter_map(|group| Pid::from_raw(*group)) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let left = strike(Some(Signal::KILL), |candidate| {
            live.values().any(|group| *group == candidate.group())
                || candidate
                    .variable(PROCESS_VARIABLE)
                    .and_then(|id| std::str::from_utf8(id).ok())
                    .is_some_and(|id| live.contains_key(id))
        });
        clean = if matches!(left, Ok(0)) { clean + 1 } else { 0 };
        if clean == 2 {
            return true;
        }
        tick.tick().await;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_cut_off_changes_nothing() {
        let mut live = BTreeMap::new();
        for line in ["+ proc_a 0", "+ proc_a 12", "+ proc_b 0", "- proc_b", "+ proc_c", "+ pro"] {
            note(&mut live, line);
        }
        assert_eq!(live, [("proc_a".to_owned(), 12)].into());
    }
}
