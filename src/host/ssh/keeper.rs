//! The keeper of a machine: a shell that stays there as long as we live and know of it. It is the lifeline of all that runs
//! there for us, it signals and finds processes, and by its answers the machine is known to live.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tokio_util::sync::CancellationToken;

use super::link::{Link, Purpose};
use super::talk::{Talk, compact, silent};
use super::words::{quoted, quoted_path};
use crate::error::{Result, report};

const KEEPER: &str = include_str!("sh/keeper.sh");
const RUNNER: &str = include_str!("sh/runner.sh");
const GROUP: &str = include_str!("sh/group.sh");
/// What finds processes, for the keeper and the clerk.
pub(super) const FIND: &str = include_str!("sh/find.sh");
/// What starts a command, for the runner and the clerk.
pub(super) const START: &str = include_str!("sh/start.sh");

/// A look at all processes, on a slow machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// Without news for so long, it is asked whether it lives; when the machine is not used,
const PING_AFTER: Duration = Duration::from_millis(1500);
/// after this, so that it knows of us.
const PING_IDLE_AFTER: Duration = Duration::from_secs(5);
/// In seconds: when nothing was heard of us for one to two times as long, it ends what it keeps.
const ITS_PATIENCE: &str = "30";
/// Who waited so long without hearing anything waits for a dead network.
const GIVE_UP: Duration = Duration::from_millis(3800);

/// The living keeper of a machine. Dropping it ends what it keeps.
pub(super) struct Keeper {
    talk: Talk,
    folder: PathBuf,
    /// Of the machine's kernel; empty when it does not tell.
    boot: String,
}

/// What a runner has written down of its last command.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Process id of the API.
    pub(super) id: String,
    /// Its group.
    pub(super) group: i64,
    /// Its status, once it has ended.
    pub(super) status: Option<i32>,
}

impl Record {
    /// `None` when it never ran anything.
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<_> = line.split(' ').collect();
        let (id, group) = (words.get(2)?, words.get(4)?.parse().ok()?);
        let status = match *words.first()? {
            "over" => Some(words.get(5)?.parse().ok()?),
            _ => None,
        };
        Some(Self { id: (*id).to_owned(), group, status })
    }
}

impl Keeper {
    /// Starts one, in a folder of its own below `data_dir`, and has what dead ones left ended. `owner` names us,
    /// `name` this one.
    ///
    /// # Errors
    /// As [`Link::open`], or why its folder cannot be made.
    pub(super) async fn start(link: &dyn Link, data_dir: &Path, owner: &str, name: &str) -> Result<Self> {
        let folder = data_dir.join("run").join(name);
        let mut script = Vec::new();
        let runner = compact(&format!("{GROUP}{START}{RUNNER}"));
        for (variable, value) in [
            ("dd_data", quoted_path(data_dir)),
            ("dd_name", quoted(name)),
            ("dd_owner", quoted(owner)),
            ("dd_patience", quoted(ITS_PATIENCE)),
            ("dd_quoted", quoted(quoted_path(&folder))),
            ("dd_program", quoted(runner)),
        ] {
            script.extend_from_slice(variable.as_bytes());
            script.push(b'=');
            script.extend_from_slice(&value);
            script.push(b'\n');
        }
        script.extend_from_slice(compact(&format!("{GROUP}{FIND}{KEEPER}")).as_bytes());
        let (talk, said) = Talk::open(link, Purpose::Control, &script).await?;
        // Its process id, and the boot's.
        let boot = said.split_once(' ').map_or("", |(_, boot)| boot.trim());
        let boot = if boot == "unknown" { "" } else { boot };
        Ok(Self { talk, folder, boot: boot.to_owned() })
    }

    /// The command by which a runner of this name is started.
    pub(super) fn runner_command(&self, name: &str) -> String {
        let file = quoted_path(&self.folder.join("runner"));
        format!("exec sh {} {name}", String::from_utf8_lossy(&file))
    }

    /// Where words for a runner may lie that are too long for a line.
    pub(super) fn words(&self) -> PathBuf {
        self.folder.join(format!("s.{:016x}", fastrand::u64(..)))
    }

    /// The id of the machine's boot, by which it is known under whatever address; empty when it has none.
    pub(super) fn boot(&self) -> &str {
        &self.boot
    }

    /// How long ago something was heard of it, and for how long a request has waited for its answer.
    pub(super) fn silence(&self) -> (Duration, Duration) {
        (self.talk.heard(), self.talk.silence())
    }

    /// Cancelled when it is gone, and with it all that it kept.
    pub(super) fn dead(&self) -> &CancellationToken {
        self.talk.dead()
    }

    /// To be called often: whether it still answers. If not, it is given up.
    pub(super) fn check(&self, used: bool) -> bool {
        let ping_after = if used { PING_AFTER } else { PING_IDLE_AFTER };
        if self.talk.silence() > GIVE_UP {
            self.talk.dead().cancel();
        } else if self.talk.heard() > ping_after && self.talk.silence().is_zero() {
            self.talk.tell(b":\n".to_vec());
        }
        !self.talk.dead().is_cancelled()
    }

    /// Waits for a word of it.
    ///
    /// # Errors
    /// `HOST_UNREACHABLE` when none comes.
    pub(super) async fn ping(&self) -> Result<()> {
        self.talk.ask(b":\n".to_vec(), PATIENCE).await.map(drop)
    }

    /// Runs a line that prints a count.
    ///
    /// # Errors
    /// `HOST_UNREACHABLE` when no answer comes.
    pub(super) async fn count(&self, request: String) -> Result<u64> {
        let answer = self.talk.ask(request.into_bytes(), PATIENCE).await?;
        let body = String::from_utf8_lossy(&answer.body);
        body.trim().parse().map_err(|_| silent("the host gave an answer that makes no sense"))
    }

    /// Sends a signal, if any, to a group and to whoever left it but carries the mark; answers how many live.
    /// `runner` is empty for what was launched.
    pub(super) async fn strike(&self, signal: Option<Signal>, group: i64, id: &str, runner: &str) -> Result<u64> {
        self.count(format!("dd_strike {} {group} {} '{runner}'\n", name(signal), text(id))).await
    }

    /// Sends a signal to a group; that nobody is there is fine.
    pub(super) async fn signal(&self, number: i32, group: i64) -> Result<()> {
        self.talk.ask(format!("dd_signal {number} {group}\n").into_bytes(), PATIENCE).await.map(drop)
    }

    /// How many commands are about to start, whoever told them to: they cannot be found by their lease yet.
    pub(super) async fn young(&self) -> Result<u64> {
        self.count("dd_young\n".to_owned()).await
    }

    /// The mark of a process, empty when it has none.
    pub(super) async fn mark_of(&self, pid: i64) -> Result<String> {
        let answer = self.talk.ask(format!("dd_mark_of {pid}\n").into_bytes(), PATIENCE).await?;
        Ok(String::from_utf8_lossy(&answer.body).trim().to_owned())
    }

    /// Whether a process runs for a lease.
    pub(super) async fn runs(&self, pid: i64, lease: &str) -> Result<bool> {
        let request = format!("dd_runs {pid} {}\n", text(lease));
        Ok(self.talk.ask(request.into_bytes(), PATIENCE).await?.status == 0)
    }

    /// What a runner has written down.
    pub(super) async fn record(&self, runner: &str) -> Result<Option<Record>> {
        let answer = self.talk.ask(format!("dd_record {runner}\n").into_bytes(), PATIENCE).await?;
        Ok(Record::parse(&String::from_utf8_lossy(&answer.body)))
    }

    /// The same; and the runner starts nothing from now on.
    pub(super) async fn void(&self, runner: &str) -> Result<Option<Record>> {
        let answer = self.talk.ask(format!("dd_void {runner}\n").into_bytes(), PATIENCE).await?;
        Ok(Record::parse(&String::from_utf8_lossy(&answer.body)))
    }

    /// Nothing is left of this runner and of what it ran.
    pub(super) fn forget(&self, runner: &str) {
        self.talk.tell(format!("dd_forget {runner}\n").into_bytes());
    }

    /// Whether something listens on this TCP port.
    pub(super) async fn listens(&self, port: u16) -> Result<bool> {
        let request = format!("dd_listens {port} {port:04X}\n");
        Ok(self.talk.ask(request.into_bytes(), PATIENCE).await?.status == 0)
    }

    /// Kills what a runner was told to run, whether or not it has begun to.
    pub(super) async fn abort(&self, runner: &str, id: &str) {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        for _ in 0..100 {
            let left = match self.void(runner).await {
                Ok(Some(record)) if record.id == id => self.strike(Some(Signal::KILL), record.group, id, runner).await,
                Ok(_) => Ok(0),
                Err(error) => Err(error),
            };
            match left {
                Ok(0) => return self.forget(runner),
                Ok(_) => {}
                // It is dead: what it kept is ended by its end.
                Err(error) => return tracing::debug!(error = report(&error), id, "a command was given up"),
            }
            tick.tick().await;
        }
    }
}

/// The line that kills all whose environment holds `NAME=value`, and prints how many there were.
pub(super) fn strays(name: &str, value: &str) -> String {
    format!("dd_strays KILL {}\n", text(&format!("{name}={value}")))
}

/// The line that sends a signal, if any, to the tree of a launched process, whose mark is `id`, and prints how many there are.
pub(super) fn launched(signal: Option<Signal>, pid: i64, lease: &str, id: &str) -> String {
    format!("dd_launched {} {pid} {} {}\n", name(signal), text(lease), text(id))
}

fn text(word: &str) -> String {
    String::from_utf8_lossy(&quoted(word)).into_owned()
}

fn name(signal: Option<Signal>) -> &'static str {
    match signal {
        None => "0",
        Some(Signal::TERM) => "TERM",
        Some(_) => "KILL",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read() {
        let record = |id: &str, status| Some(Record { id: id.to_owned(), group: 13, status });
        assert_eq!(Record::parse("idle 7"), None);
        assert_eq!(Record::parse("run 7 proc_a 12 13"), record("proc_a", None));
        assert_eq!(Record::parse("over 7 proc_a 12 13 137 1"), record("proc_a", Some(137)));
        assert_eq!(Record::parse("over 7 proc_a 12 13"), None);
    }
}
