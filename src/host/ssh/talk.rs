//! Requests to a shell that stays: each a few lines, answered in turn by what they print, between marks that nothing else
//! can print.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::link::{Channel, Link, Purpose};
use super::scan::{self, Scan};
use super::words::{lines, mark};
use crate::error::{Error, Reason, Result};

/// From opening a channel to the shell's first word: a login shell may read long files first, and what a dead daemon left
/// is ended.
const GREETING: Duration = Duration::from_secs(20);
/// Requests that wait their turn.
const QUEUE: usize = 256;
/// More than any request prints.
const LONGEST: usize = 4 * 1024 * 1024;
/// A shell whose stdin was closed has this long for its last duties before its channel is torn down.
const PARTING: Duration = Duration::from_secs(15);

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    /// Its exit status; 0 is good.
    pub(super) status: i32,
    /// What it printed.
    pub(super) body: Vec<u8>,
}

struct Asked {
    text: Vec<u8>,
    answer: oneshot::Sender<(Vec<u8>, String)>,
}

/// A shell that answers. Dropping it closes the shell's stdin.
pub(super) struct Talk {
    requests: mpsc::Sender<Asked>,
    state: Arc<State>,
}

struct State {
    dead: CancellationToken,
    waiting: Mutex<Waiting>,
}

struct Waiting {
    turns: VecDeque<oneshot::Sender<(Vec<u8>, String)>>,
    /// Since when the first of them waits.
    since: Instant,
    heard: Instant,
}

impl State {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The command that, by whatever login shell, becomes a POSIX shell with a scrubbed environment which reads `length` bytes
/// of text and runs them. Bytes are read one by one, so that none of what follows is taken.
pub(super) fn login(length: usize) -> String {
    let read = format!(r#"eval \"\$(dd bs=1 count={length} 2>/dev/null)\""#);
    format!(
        "exec sh -c 'exec env -i PATH=\"${{PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}}\" \
         HOME=\"${{HOME:-/}}\" USER=\"${{USER:-${{LOGNAME:-$(id -un)}}}}\" LANG=\"${{LANG:-C.UTF-8}}\" \
         TMPDIR=\"${{TMPDIR:-/tmp}}\" sh -c \"{read}\"'"
    )
}

/// A script without its comments and indentation: each byte costs the shell a system call.
pub(super) fn compact(script: &str) -> String {
    let kept = script.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
    kept.fold(String::with_capacity(script.len()), |text, line| text + line + "\n")
}

impl Talk {
    /// Opens a channel and starts `script` there, with `dd_mark` set. Answers as well what the script said first, after
    /// its `up`.
    ///
    /// # Errors
    /// As [`Link::open`]; `HOST_UNREACHABLE` when no answer comes, or what the script fails with.
    pub(super) async fn open(link: &dyn Link, purpose: Purpose, script: &[u8]) -> Result<(Self, String)> {
        let mark = mark()?;
        let mut text = format!("dd_mark={mark}\n").into_bytes();
        text.extend_from_slice(script);
        let open = async {
            let Channel { mut stdin, stdout, mut stderr, hold } = link.open(&login(text.len()), purpose).await?;
            let cut = |error| silent("the connection to the host was lost").because(error);
            stdin.write_all(&text).await.map_err(cut)?;
            stdin.flush().await.map_err(cut)?;
            let state = Arc::new(State {
                dead: CancellationToken::new(),
                waiting: Mutex::new(Waiting { turns: VecDeque::new(), since: Instant::now(), heard: Instant::now() }),
            });
            let (first, greeting) = oneshot::channel();
            state.waiting().turns.push_back(first);
            let (requests, asked) = mpsc::channel(QUEUE);
            let reading = Arc::clone(&state);
            let closed = CancellationToken::new();
            let parted = closed.clone();
            tokio::spawn(async move {
                let last = async {
                    closed.cancelled().await;
                    let _ = timeout(PARTING, std::future::pending::<()>()).await;
                };
                let drain = async {
                    let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    () = read(stdout, &reading, &mark) => {}
                    () = drain => {}
                    () = last => {}
                    () = reading.dead.cancelled() => {}
                }
                reading.dead.cancel();
                // Whoever waits learns it by the end of its channel.
                reading.waiting().turns.clear();
                drop(hold);
            });
            let writing = Arc::clone(&state);
            tokio::spawn(async move {
                let _parted = parted.drop_guard();
                write(stdin, asked, &writing).await;
            });
            let talk = Self { requests, state };
            let (_, said) = greeting.await.map_err(|_| silent("the host's shell ended before it answered"))?;
            match said.split_once(' ') {
                Some(("up", said)) => Ok((talk, said.to_owned())),
                Some(("fail", why)) => Err(super::reason::explain(
                    "Drydock's folder on the host cannot be used; make room there, or give it to the user",
                    why.as_bytes(),
                )),
                _ => Err(silent("the host's shell gave an answer that makes no sense")),
            }
        };
        timeout(GREETING, open).await.unwrap_or_else(|_| Err(silent("the host's shell does not answer")))
    }

    /// Whether it will never answer again; ends when that is so.
    pub(super) fn dead(&self) -> &CancellationToken {
        &self.state.dead
    }

    /// For how long somebody has waited without hearing anything.
    pub(super) fn silence(&self) -> Duration {
        let waiting = self.state.waiting();
        if waiting.turns.is_empty() { Duration::ZERO } else { waiting.since.max(waiting.heard).elapsed() }
    }

    /// How long ago something was last heard.
    pub(super) fn heard(&self) -> Duration {
        self.state.waiting().heard.elapsed()
    }

    /// Asks without waiting for the answer, if there is room.
    pub(super) fn tell(&self, text: Vec<u8>) {
        let (answer, _) = oneshot::channel();
        let _ = self.requests.try_send(Asked { text, answer });
    }

    /// Runs `text`, whole lines, and answers what it printed.
    ///
    /// # Errors
    /// `HOST_UNREACHABLE` when the shell is gone or does not answer in time.
    pub(super) async fn ask(&self, text: Vec<u8>, patience: Duration) -> Result<Answer> {
        let asking = async {
            let (answer, answered) = oneshot::channel();
            let gone = || silent("the connection to the host was lost");
            self.requests.send(Asked { text, answer }).await.map_err(|_| gone())?;
            let (body, line) = answered.await.map_err(|_| gone())?;
            let status = line.split_once(' ').and_then(|(_, status)| status.parse().ok()).ok_or_else(gone)?;
            Ok(Answer { status, body })
        };
        let answer = tokio::select! {
            answer = timeout(patience, asking) => answer,
            () = self.state.dead.cancelled() => Ok(Err(silent("the connection to the host was lost"))),
        };
        answer.unwrap_or_else(|_| Err(silent("the host does not answer in time")))
    }
}

/// `HOST_UNREACHABLE`, to be tried again soon.
pub(super) fn silent(what: &str) -> Error {
    Error::new(Reason::HostUnreachable, what).retry_after(Duration::from_secs(1))
}

async fn write(mut stdin: Box<dyn AsyncWrite + Send + Unpin>, mut asked: mpsc::Receiver<Asked>, state: &State) {
    let work = async {
        let mut tag = 0_u64;
        while let Some(Asked { text, answer }) = asked.recv().await {
            {
                let mut waiting = state.waiting();
                if waiting.turns.is_empty() {
                    waiting.since = Instant::now();
                }
                waiting.turns.push_back(answer);
            }
            tag += 1;
            let mut request = format!("{tag} {}\n", lines(&text)).into_bytes();
            request.extend_from_slice(&text);
            if stdin.write_all(&request).await.is_err() || stdin.flush().await.is_err() {
                state.dead.cancel();
            }
        }
        let _ = stdin.shutdown().await;
    };
    tokio::select! {
        () = work => {}
        () = state.dead.cancelled() => {}
    }
}

async fn read(mut stdout: Box<dyn AsyncRead + Send + Unpin>, state: &State, mark: &str) {
    let scan = Scan::new(&format!("\n{mark} "));
    let (mut buffer, mut body) = (BytesMut::new(), Vec::new());
    let mut ended = false;
    while body.len() <= LONGEST {
        if !ended {
            let (data, found) = scan.split(&mut buffer);
            body.extend_from_slice(&data);
            ended = found;
        }
        if ended && let Some(line) = scan::line(&mut buffer) {
            ended = false;
            let mut waiting = state.waiting();
            let now = Instant::now();
            (waiting.heard, waiting.since) = (now, now);
            let Some(answer) = waiting.turns.pop_front() else { return };
            // Whoever asked may have gone.
            let _ = answer.send((std::mem::take(&mut body), line));
            continue;
        }
        buffer.reserve(8 * 1024);
        match stdout.read_buf(&mut buffer).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_sent_without_what_is_not_run() {
        assert_eq!(compact("# x\nif a; then\n    # y\n    b\nfi\n\n"), "if a; then\nb\nfi\n");
    }
}
