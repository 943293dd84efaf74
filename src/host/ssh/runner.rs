//! A runner: a channel to a shell that runs one command after the other, each with the channel's own pipes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::keeper::{Keeper, Record};
use super::link::Channel;
use super::scan::{self, Scan};
use crate::host::Exit;

/// What is read at once; more waits in the channel.
const CHUNK: usize = 64 * 1024;
/// For a runner's look around after a command.
const SETTLE: Duration = Duration::from_secs(10);
/// So much without a lull is a flood.
const FLOOD: usize = 1024 * 1024;
/// So long without a byte is a lull.
const LULL: Duration = Duration::from_millis(5);
/// Between two looks at a flood; the pipe holds what comes meanwhile.
const PACE: Duration = Duration::from_millis(1);
/// A buffer with less room gets a new one.
const ROOM: usize = 16 * 1024;

type Input = Box<dyn AsyncWrite + Send + Unpin>;

/// One of a channel's two outputs, and what was read of it too early.
struct Source {
    pipe: Box<dyn AsyncRead + Send + Unpin>,
    buffer: BytesMut,
    /// Bytes since the last lull.
    flood: usize,
    /// The last read took all that was there.
    emptied: bool,
}

/// The channel broke, or nothing more comes.
#[derive(Debug)]
pub(super) struct Broken;

/// What a runner said to a request.
#[derive(Debug)]
pub(super) enum Begun {
    /// It runs; both 0 when there was no program to run, which the output tells.
    Runs {
        /// Of the process.
        pid: i64,
        /// By which it is signalled.
        group: i64,
    },
    /// It does not; why, in a word.
    Refused(String),
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// By itself.
    Exited(Exit),
    /// Nobody knows.
    Lost,
}

/// What is told of a running command while it is read.
pub(super) struct News {
    /// How it ended.
    pub(super) end: watch::Sender<Option<End>>,
    /// Whether something of it is left after its end.
    pub(super) left: watch::Sender<Option<bool>>,
    /// Nobody takes its output, so its end may be hidden behind it.
    pub(super) stalled: AtomicBool,
    /// KILL was sent to the runner's own group.
    pub(super) killed: AtomicBool,
}

/// See the module.
pub(super) struct Runner {
    /// In the keeper's folder.
    pub(super) name: String,
    /// Under whose eyes it runs.
    pub(super) keeper: Arc<Keeper>,
    stdin: Option<Input>,
    stdout: Source,
    stderr: Source,
    _hold: Box<dyn std::any::Any + Send>,
}

impl Runner {
    /// On a channel on which [`Keeper::runner_command`] was started.
    pub(super) fn new(name: String, keeper: Arc<Keeper>, channel: Channel) -> Self {
        let source = |pipe| Source { pipe, buffer: BytesMut::new(), flood: 0, emptied: true };
        Self {
            name,
            keeper,
            stdin: Some(channel.stdin),
            stdout: source(channel.stdout),
            stderr: source(channel.stderr),
            _hold: channel.hold,
        }
    }

    /// Sends a request, `mark` at its beginning, and waits until the command runs.
    pub(super) async fn start(&mut self, request: &[u8], mark: &str) -> Result<Begun, Broken> {
        let stdin = self.stdin.as_mut().ok_or(Broken)?;
        stdin.write_all(request).await.map_err(|_| Broken)?;
        stdin.flush().await.map_err(|_| Broken)?;
        // What long files of a login shell print is dropped.
        let said = self.stdout.line_after(&Scan::new(&format!("S{mark} ")), &Taker::nobody()).await?;
        let words: Vec<_> = said.split(' ').collect();
        match words[..] {
            ["!", why] => Ok(Begun::Refused(why.to_owned())),
            [pid, group] => {
                let number = |word: &str| word.parse().map_err(|_| Broken);
                Ok(Begun::Runs { pid: number(pid)?, group: number(group)? })
            }
            _ => Err(Broken),
        }
    }

    /// Hands over the channel's stdin to a command that was started with it.
    pub(super) fn take_stdin(&mut self) -> Option<Input> {
        self.stdin.take()
    }

    /// Reads a started command to its end. Answers whether nothing of it holds the pipes, and the runner has a last
    /// word to say, see [`Runner::settle`].
    pub(super) async fn read(&mut self, mark: &str, outlets: &Outlets, news: &News) -> bool {
        let begin = Scan::new(&format!("S{mark}\n"));
        let end = Scan::new(&format!("E{mark} "));
        let taker = |to: &mpsc::Sender<Bytes>| Taker { to: Some((to.clone(), &news.stalled)) };
        let (out, error) = (taker(&outlets.stdout), taker(&outlets.stderr));
        let (stdout, stderr, name, keeper) = (&mut self.stdout, &mut self.stderr, &self.name, &self.keeper);
        let first = async {
            let said = stdout.line_after(&end, &out).await;
            let told = said.as_deref().ok().and_then(Told::parse);
            let verdict = match &told {
                Some(told) => told.end(),
                None => Self::ask(keeper, name, news).await,
            };
            news.end.send_if_modified(|known| known.is_none() && known.replace(verdict).is_none());
            let clean = told.is_some_and(|told| !told.left);
            if !clean {
                stdout.pass(&out).await;
            }
            clean
        };
        let second = async {
            if stderr.line_after(&begin, &Taker::nobody()).await.is_err() {
                return false;
            }
            let said = stderr.line_after(&end, &error).await;
            let clean = said.is_ok_and(|said| Told::parse(&said).is_some_and(|told| !told.left));
            if !clean {
                stderr.pass(&error).await;
            }
            clean
        };
        let both = async { tokio::join!(first, second) };
        tokio::select! {
            (first, second) = both => first && second,
            () = keeper.dead().cancelled() => {
                news.end.send_if_modified(|known| known.is_none() && known.replace(End::Lost).is_none());
                false
            }
        }
    }

    /// Waits for the runner to have looked around: whether something of the command is left, and whether the runner can
    /// be used again.
    pub(super) async fn settle(&mut self, mark: &str) -> (bool, bool) {
        let mark = Scan::new(&format!("R{mark} "));
        let taker = Taker::nobody();
        let said = tokio::select! {
            said = timeout(SETTLE, self.stdout.line_after(&mark, &taker)) => said,
            () = self.keeper.dead().cancelled() => Ok(Err(Broken)),
        };
        match said {
            Ok(Ok(said)) => (!said.starts_with('0'), said == "0 stay" && self.stdin.is_some()),
            _ => (true, false),
        }
    }

    /// The channel is gone: perhaps the runner has written down how it ended.
    async fn ask(keeper: &Keeper, name: &str, news: &News) -> End {
        match keeper.void(name).await {
            Ok(Some(Record { status: Some(status), .. })) => End::Exited(Exit::Code(status)),
            Ok(_) if news.killed.load(Ordering::Acquire) => End::Exited(Exit::Code(128 + 9)),
            _ => End::Lost,
        }
    }
}

/// Where the output of a command goes.
pub(super) struct Outlets {
    /// Standard output.
    pub(super) stdout: mpsc::Sender<Bytes>,
    /// Nothing comes when it was merged.
    pub(super) stderr: mpsc::Sender<Bytes>,
}

struct Told {
    status: i32,
    left: bool,
}

impl Told {
    fn parse(said: &str) -> Option<Self> {
        let (status, left) = said.split_once(' ')?;
        Some(Self { status: status.parse().ok()?, left: left != "0" })
    }

    fn end(&self) -> End {
        End::Exited(Exit::Code(self.status))
    }
}

/// Who takes the bytes that were read.
struct Taker<'a> {
    to: Option<(mpsc::Sender<Bytes>, &'a AtomicBool)>,
}

impl Taker<'_> {
    fn nobody() -> Self {
        Self { to: None }
    }

    /// Waits until there is room. Who has gone takes everything.
    async fn take(&self, data: Bytes) {
        let Some((to, stalled)) = &self.to else { return };
        if data.is_empty() {
            return;
        }
        if let Err(mpsc::error::TrySendError::Full(data)) = to.try_send(data) {
            stalled.store(true, Ordering::Release);
            let _ = to.send(data).await;
            stalled.store(false, Ordering::Release);
        }
    }
}

impl Source {
    async fn more(&mut self) -> Result<(), Broken> {
        if self.buffer.capacity() - self.buffer.len() < ROOM {
            self.buffer.reserve(CHUNK);
        }
        if self.emptied && self.flood >= FLOOD {
            // What comes meanwhile waits in the pipe, and then comes in one go: else everybody on the way is woken for
            // each packet.
            let _ = timeout(PACE, std::future::pending::<()>()).await;
        }
        let began = Instant::now();
        match self.pipe.read_buf(&mut self.buffer).await {
            Ok(bytes @ 1..) => {
                self.flood = if began.elapsed() > LULL { 0 } else { self.flood.saturating_add(bytes) };
                self.emptied = self.buffer.len() < self.buffer.capacity();
                Ok(())
            }
            Ok(0) | Err(_) => Err(Broken),
        }
    }

    /// Hands over what comes before a mark, and answers the rest of the line that the mark begins; empty when the mark
    /// ends its line itself. What is handed over at the end of a broken stream is all there was.
    async fn line_after(&mut self, mark: &Scan, taker: &Taker<'_>) -> Result<String, Broken> {
        loop {
            let (data, found) = mark.split(&mut self.buffer);
            taker.take(data).await;
            if found {
                break;
            }
            if self.more().await.is_err() {
                taker.take(self.buffer.split().freeze()).await;
                return Err(Broken);
            }
        }
        if mark.is_line() {
            return Ok(String::new());
        }
        loop {
            if let Some(line) = scan::line(&mut self.buffer) {
                return Ok(line);
            }
            self.more().await?;
        }
    }

    /// Hands over all that comes.
    async fn pass(&mut self, taker: &Taker<'_>) {
        loop {
            taker.take(self.buffer.split().freeze()).await;
            if self.more().await.is_err() {
                return;
            }
        }
    }
}

/// Our end of an outlet: what the caller reads.
pub(super) struct Outlet {
    chunks: mpsc::Receiver<Bytes>,
    chunk: Bytes,
}

impl Outlet {
    /// Reads what comes from there.
    pub(super) fn new(chunks: mpsc::Receiver<Bytes>) -> Self {
        Self { chunks, chunk: Bytes::new() }
    }
}

impl AsyncRead for Outlet {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if self.chunk.is_empty() {
            match std::task::ready!(self.chunks.poll_recv(cx)) {
                Some(chunk) => self.chunk = chunk,
                None => return std::task::Poll::Ready(Ok(())),
            }
        }
        let length = self.chunk.len().min(buffer.remaining());
        buffer.put_slice(&self.chunk[..length]);
        self.chunk.advance(length);
        std::task::Poll::Ready(Ok(()))
    }
}
