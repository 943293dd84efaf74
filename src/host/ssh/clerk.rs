//! The clerk of a machine: a shell that does small work with Drydock's own folders, and launches what outlives us. Beside
//! the keeper, because a disk may keep it waiting.

use std::path::Path;
use std::time::Duration;

use super::keeper::{FIND, START};
use super::link::{Link, Purpose};
use super::reason::explain;
use super::talk::{Answer, Talk, compact};
use super::words::{passage, quoted, quoted_path};
use crate::error::{Error, Reason, Result};
use crate::host::fence::{Fence, through};

const CLERK: &str = include_str!("sh/clerk.sh");
/// A disk that is busy, not one that hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A living clerk. It goes when it is dropped.
pub(super) struct Clerk {
    talk: Talk,
}

impl Clerk {
    /// Starts one.
    ///
    /// # Errors
    /// As [`Link::open`].
    pub(super) async fn start(link: &dyn Link) -> Result<Self> {
        let (talk, _) =
            Talk::open(link, Purpose::Control, compact(&format!("{START}{FIND}{CLERK}")).as_bytes()).await?;
        Ok(Self { talk })
    }

    /// Whether it is of no more use.
    pub(super) fn is_dead(&self) -> bool {
        self.talk.dead().is_cancelled()
    }

    async fn ask(&self, words: &[&[u8]]) -> Result<Answer> {
        let mut request = words.join(&b' ');
        request.push(b'\n');
        let answer = self.talk.ask(request, PATIENCE).await;
        if answer.is_err() {
            // One that hangs would hang for the next one too.
            self.talk.dead().cancel();
        }
        answer
    }

    /// Asks for what is done in these names, whose fences are below `data_dir`.
    ///
    /// # Errors
    /// `LEASE_NOT_ACTIVE` when it comes late.
    async fn ask_behind(&self, words: &[&[u8]], data_dir: &Path, fences: &[Fence]) -> Result<Answer> {
        let passages: Vec<_> = fences.iter().map(|fence| passage(fence, data_dir)).collect();
        let words: Vec<_> = words.iter().copied().chain(passages.iter().map(Vec::as_slice)).collect();
        let answer = self.ask(&words).await?;
        if answer.status != 0 && answer.body.ends_with(b"fenced") && !fences.is_empty() {
            return Err(late(fences));
        }
        Ok(answer)
    }

    /// Lets in what is done by a path through the gates of these fences.
    ///
    /// # Errors
    /// `LEASE_NOT_ACTIVE`, `NO_SPACE`, …
    pub(super) async fn pass(&self, data_dir: &Path, fences: &[Fence]) -> Result<()> {
        let answer = self.ask_behind(&[b"dd_pass"], data_dir, fences).await?;
        if answer.status == 0 { Ok(()) } else { Err(explain("a gate cannot be made", &answer.body)) }
    }

    /// Runs a line of the keeper's that prints a count, unless that comes late.
    ///
    /// # Errors
    /// `LEASE_NOT_ACTIVE`, `HOST_UNREACHABLE`.
    pub(super) async fn count(&self, line: &str, data_dir: &Path, fences: &[Fence]) -> Result<u64> {
        let passages: Vec<_> = fences.iter().map(|fence| passage(fence, data_dir)).collect();
        let request = [b"dd_pass ".as_slice(), &passages.join(&b' '), b" && ", line.trim_end().as_bytes()].concat();
        let answer = self.ask(&[&request]).await?;
        if answer.status != 0 && answer.body.ends_with(b"fenced") {
            return Err(late(fences));
        }
        let said = String::from_utf8_lossy(&answer.body);
        said.trim().parse().map_err(|_| explain("processes of the host cannot be looked for", &answer.body))
    }

    /// Makes a folder with its parents, 0700.
    ///
    /// # Errors
    /// `LEASE_NOT_ACTIVE`, `NO_SPACE`, `PERMISSION_DENIED`, …
    pub(super) async fn make_folder(&self, path: &Path, data_dir: &Path, fences: &[Fence]) -> Result<()> {
        let answer = self.ask_behind(&[b"dd_make_folder", &quoted_path(path)], data_dir, fences).await?;
        if answer.status == 0 {
            return Ok(());
        }
        Err(explain(&format!("folder {} cannot be made", path.display()), &answer.body))
    }

    /// From now on this fence lets in nothing of its epoch and those before.
    ///
    /// # Errors
    /// `NO_SPACE`, `PERMISSION_DENIED`, …
    pub(super) async fn fence_off(&self, fence: &Fence, data_dir: &Path) -> Result<()> {
        let above = Fence { epoch: fence.epoch.saturating_add(1), ..fence.clone() };
        let answer = self.ask(&[b"dd_fence_off", &passage(&above, data_dir)]).await?;
        if answer.status == 0 {
            return Ok(());
        }
        Err(explain(&format!("the lease {} cannot be fenced off", fence.holder), &answer.body))
    }

    /// A small file's bytes; `None` when there is none.
    ///
    /// # Errors
    /// `INTERNAL` when it cannot be read.
    pub(super) async fn read(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        let answer = self.ask(&[b"dd_read", &quoted_path(path)]).await?;
        if answer.status == 0 {
            return Ok(Some(answer.body));
        }
        let error = explain(&format!("{} cannot be read", path.display()), &answer.body);
        if error.reason == Reason::FileNotFound { Ok(None) } else { Err(Error::new(Reason::Internal, error.message)) }
    }

    /// Writes a small file, 0600, by way of `temporary`, a sibling.
    ///
    /// # Errors
    /// `LEASE_NOT_ACTIVE`, `NO_SPACE`, `PERMISSION_DENIED`, …
    pub(super) async fn write(
        &self,
        path: &Path,
        temporary: &Path,
        text: &str,
        data_dir: &Path,
        fences: &[Fence],
    ) -> Result<()> {
        let way = quoted_path(&through(fences, data_dir, path));
        let words: [&[u8]; 5] = [b"dd_write", &quoted_path(path), &quoted_path(temporary), &quoted(text), &way];
        let answer = self.ask_behind(&words, data_dir, fences).await?;
        if answer.status == 0 {
            return Ok(());
        }
        Err(explain(&format!("{} cannot be written", path.display()), &answer.body))
    }

    /// Bytes free on the file system that holds `path`.
    ///
    /// # Errors
    /// `INTERNAL` when the host does not tell.
    pub(super) async fn free_bytes(&self, path: &Path) -> Result<u64> {
        let answer = self.ask(&[b"dd_free", &quoted_path(path)]).await?;
        let said = String::from_utf8_lossy(&answer.body);
        let free = if answer.status == 0 { free_in(&said) } else { None };
        free.ok_or_else(|| {
            let error = explain(&format!("free space of {} is unknown", path.display()), said.as_bytes());
            Error::new(Reason::Internal, error.message)
        })
    }

    /// What a script of ours prints, whose word is `word`.
    ///
    /// # Errors
    /// `HOST_UNREACHABLE` when no answer comes.
    pub(super) async fn question(&self, script: &str, word: &Path) -> Result<String> {
        let answer = self.ask(&[b"dd_question", &quoted(script), &quoted_path(word)]).await?;
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// Starts what `spec` says so that it outlives us, `id` being its mark; answers its pid. What becomes of it is then to be
    /// asked for.
    ///
    /// # Errors
    /// `FILE_NOT_FOUND` for what is missing, and so on.
    pub(super) async fn launch(&self, launch: &Launch<'_>) -> Result<i64> {
        let mut request = b"dd_it=".to_vec();
        request.extend_from_slice(&quoted(launch.spec));
        request.extend_from_slice(b"\ndd_launch");
        for word in [quoted_path(launch.log), quoted(launch.id), quoted_path(launch.records)] {
            request.push(b' ');
            request.extend_from_slice(&word);
        }
        let answer = self.ask(&[&request]).await?;
        let said = String::from_utf8_lossy(&answer.body);
        if answer.status == 0
            && let Ok(pid) = said.trim().parse()
        {
            return Ok(pid);
        }
        let (log, program) = (launch.log.display(), launch.program);
        Err(match said.split_once(' ') {
            Some(("log", why)) => explain(&format!("the log {log} cannot be opened"), why.as_bytes()),
            Some(("program", why)) => Error::new(Reason::FileNotFound, format!("program {program:?}: {why}")),
            _ => refused(said.trim(), launch.cwd),
        })
    }

    /// Whether the launched program can be known by its environment, or is gone: not, as long as it is about to be started.
    ///
    /// # Errors
    /// `LEASE_NOT_ACTIVE` when it was not let in, `NO_SPACE` when it could not be written down.
    pub(super) async fn launched(&self, launch: &Launch<'_>, pid: i64) -> Result<bool> {
        let record = quoted_path(&launch.records.join(pid.to_string()));
        let answer = self.ask(&[b"dd_launched_as", &record, &quoted(launch.id)]).await?;
        match String::from_utf8_lossy(&answer.body).trim() {
            "young" => Ok(false),
            "! fenced" => Err(refused("fenced", launch.cwd)),
            "! full" => Err(refused("full", launch.cwd)),
            _ => Ok(true),
        }
    }
}

/// What is to be launched.
pub(super) struct Launch<'a> {
    pub(super) spec: &'a [u8],
    pub(super) program: &'a str,
    pub(super) id: &'a str,
    pub(super) cwd: &'a Path,
    pub(super) log: &'a Path,
    /// The folder where it is known by its number until it can be known by its environment.
    pub(super) records: &'a Path,
}

fn late(fences: &[Fence]) -> Error {
    match fences {
        [fence] => fence.refusal(),
        _ => refused("fenced", Path::new("")),
    }
}

/// Why a command was not started.
pub(super) fn refused(why: &str, cwd: &Path) -> Error {
    let cwd = cwd.display();
    match why {
        "missing" => Error::new(Reason::FileNotFound, format!("working directory {cwd} cannot be used")),
        "file" => Error::new(Reason::NotADirectory, format!("working directory {cwd} is not a directory")),
        "denied" => {
            Error::new(Reason::PermissionDenied, format!("working directory {cwd} cannot be used: permission denied"))
        }
        "fenced" => Error::new(
            Reason::LeaseNotActive,
            "what it was for has ended, or is in other hands, meanwhile; the host let nothing in",
        ),
        "full" => {
            Error::new(Reason::NoSpace, "the host has no room to write down what runs; nothing ran: make room there")
        }
        _ => Error::new(Reason::HostUnreachable, "no process could be started on the host; nothing ran")
            .retry_after(Duration::from_secs(1)),
    }
}

/// The bytes that `df -Pk` calls available: the number in front of the percentage.
#[must_use]
pub fn free_in(said: &str) -> Option<u64> {
    let words: Vec<_> = said.lines().last()?.split_whitespace().collect();
    let percentage = words.iter().position(|word| {
        word.strip_suffix('%').is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    })?;
    let blocks: u64 = words.get(percentage.checked_sub(1)?)?.parse().ok()?;
    blocks.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_space_is_read_whatever_the_names() {
        let said = "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/a b 100 40 60 40% /mnt/my disk\n";
        assert_eq!(free_in(said), Some(61_440));
        assert_eq!(free_in("df: /x: No such file or directory\n"), None);
    }
}
