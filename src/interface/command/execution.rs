//! A running command as its caller reads it: a stream of frames, straight from the pipes.
//!
//! There is no buffer between pipe and caller. Who reads slowly leaves the pipe full, and the command waits.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::Stream;
use tokio::io::AsyncRead;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};
use tokio_util::io::poll_read_buf;
use tokio_util::sync::DropGuard;

use super::spec::ExecSpec;
use super::steward::Reports;
use crate::clock::Micros;
use crate::error::{Error, Reason, Result};
use crate::host::Exit;
use crate::host::run::{keep_tail, repaired_tail};
use crate::interface::text::Repair;
use crate::model::id::ProcessId;

/// A chunk of bytes at most.
const CHUNK: usize = 64 * 1024;
/// A chunk of text at most, in bytes before repair, which may treble it.
const TEXT_CHUNK: usize = 20 * 1024;
/// Silence after which the caller is told that the command still runs.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Who still holds the pipes this long after the command's end, without a word, is ended.
const SILENCE: Duration = Duration::from_millis(200);
/// And who goes on talking is ended after this time.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// More than any pipe holds: what comes beyond it after the tree's end is from somebody who hides.
const LEFT_IN_PIPE: u64 = 2 * 1024 * 1024;
/// Bytes of stderr that go into an error.
const TAIL: usize = 2048;

/// Which output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output, or both when merged.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Why a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// By itself.
    Exited,
    /// By a signal that Drydock did not send.
    Signaled,
    /// Its timeout.
    Timeout,
    /// The caller left, or sent the signal that ended it.
    Cancelled,
    /// The lease ended.
    LeaseEnded,
}

/// One piece of news.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// First.
    Started(Started),
    /// Any number.
    Output(Output),
    /// Last.
    Exited(Exited),
    /// Nothing else for 15 s.
    Heartbeat,
}

/// It runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Its id in the API.
    pub process_id: ProcessId,
    /// On the host.
    pub pid: i64,
    /// When.
    pub start_time: Micros,
}

/// Output as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Which.
    pub stream: OutputStream,
    /// Of the first byte, counted per stream.
    pub offset: u64,
    /// At most 64 KiB.
    pub payload: Payload,
}

/// Bytes, or text when asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// As they came.
    Data(Bytes),
    /// Repaired UTF-8.
    Text(String),
}

/// The end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exited {
    /// How.
    pub exit: Exit,
    /// Why.
    pub reason: EndReason,
    /// All that came.
    pub stdout_bytes: u64,
    /// All that came.
    pub stderr_bytes: u64,
}

type Pipe = Box<dyn AsyncRead + Send + Unpin>;

/// One of the two outputs.
struct Outlet {
    stream: OutputStream,
    pipe: Option<Pipe>,
    buffer: BytesMut,
    read: u64,
    repair: Option<Repair>,
    /// The end of it, when an error will want to show it.
    tail: Option<Vec<u8>>,
}

impl Outlet {
    fn new(stream: OutputStream, pipe: Option<Pipe>, text: bool, tail: bool) -> Self {
        let repair = text.then(Repair::default);
        Self { stream, pipe, buffer: BytesMut::new(), read: 0, repair, tail: tail.then(Vec::new) }
    }

    /// `None` when there is nothing more to come.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Output>> {
        let limit = if self.repair.is_some() { TEXT_CHUNK } else { CHUNK };
        while let Some(pipe) = &mut self.pipe {
            if self.buffer.capacity() < limit / 4 {
                self.buffer.reserve(limit);
            }
            match ready!(poll_read_buf(Pin::new(pipe), cx, &mut (&mut self.buffer).limit(limit))) {
                Ok(length @ 1..) => {
                    let offset = self.read;
                    self.read += length as u64;
                    let data = self.buffer.split().freeze();
                    if let Some(tail) = &mut self.tail {
                        keep_tail(tail, &data, TAIL);
                    }
                    let Some(repair) = &mut self.repair else {
                        return Poll::Ready(Some(self.output(offset, Payload::Data(data))));
                    };
                    let (before, text) = repair.push(&data);
                    if !text.is_empty() {
                        return Poll::Ready(Some(self.output(offset - before as u64, Payload::Text(text))));
                    }
                }
                // A pipe that breaks has no more to say either.
                Ok(0) | Err(_) => self.pipe = None,
            }
        }
        let rest = self.repair.as_mut().and_then(Repair::finish);
        Poll::Ready(rest.map(|(length, text)| self.output(self.read - length as u64, Payload::Text(text))))
    }

    fn output(&self, offset: u64, payload: Payload) -> Output {
        Output { stream: self.stream, offset, payload }
    }
}

/// How far the end has come.
enum Stage {
    /// It runs.
    Running { verdict: oneshot::Receiver<Result<(Exit, EndReason)>> },
    /// It ended at that time; what it left in the pipes is read.
    Draining { exit: Exit, reason: EndReason, since: Instant },
    /// Nothing of its tree is left; the pipes held so many bytes before.
    Over { exit: Exit, reason: EndReason, read: u64 },
    /// The last frame is out; perhaps an error follows.
    Done(Option<Error>),
}

/// The frames of a running command. Dropping it ends the command's tree.
pub struct Execution {
    started: Option<Started>,
    outlets: [Outlet; 2],
    /// Which outlet has the first turn, so that neither starves.
    turn: usize,
    stage: Stage,
    drained: Option<oneshot::Sender<()>>,
    over: oneshot::Receiver<()>,
    last_news: Instant,
    timer: Pin<Box<Sleep>>,
    check: bool,
    _guard: DropGuard,
}

impl Execution {
    pub(super) fn new(
        started: Started,
        stdout: Pipe,
        stderr: Option<Pipe>,
        reports: Reports,
        guard: DropGuard,
        spec: &ExecSpec,
    ) -> Self {
        let now = Instant::now();
        let merged = stderr.is_none();
        Self {
            started: Some(started),
            outlets: [
                Outlet::new(OutputStream::Stdout, Some(stdout), spec.text, spec.check && merged),
                Outlet::new(OutputStream::Stderr, stderr, spec.text, spec.check && !merged),
            ],
            turn: 0,
            stage: Stage::Running { verdict: reports.verdict },
            drained: Some(reports.drained),
            over: reports.over,
            last_news: now,
            timer: Box::pin(tokio::time::sleep_until(now + HEARTBEAT)),
            check: spec.check,
            _guard: guard,
        }
    }

    fn bytes_read(&self) -> u64 {
        self.outlets.iter().map(|outlet| outlet.read).sum()
    }

    /// Whether `at` is reached; if not, the task is woken then.
    fn reached(&mut self, at: Instant, cx: &mut Context<'_>) -> bool {
        loop {
            if Instant::now() >= at {
                return true;
            }
            // Set back only when it must be: it is cheaper to wake up too early now and then.
            if self.timer.is_elapsed() || self.timer.deadline() > at {
                self.timer.as_mut().reset(at);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return false;
            }
        }
    }

    /// Output, or whether both pipes are at their end.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Result<Output, bool> {
        let mut open = false;
        for turn in [self.turn, 1 - self.turn] {
            match self.outlets[turn].poll(cx) {
                Poll::Ready(Some(output)) => {
                    self.turn = 1 - turn;
                    return Ok(output);
                }
                Poll::Ready(None) => {}
                Poll::Pending => open = true,
            }
        }
        Err(!open)
    }

    /// Takes note of what the steward tells.
    fn advance(&mut self, cx: &mut Context<'_>) -> Result<()> {
        if let Stage::Running { verdict } = &mut self.stage
            && let Poll::Ready(verdict) = Pin::new(verdict).poll(cx)
        {
            let lost = |_| Err(Error::new(Reason::OutcomeUnknown, "nobody knows how the command ended"));
            let (exit, reason) = verdict.unwrap_or_else(lost)?;
            let since = Instant::now();
            self.last_news = since;
            self.stage = Stage::Draining { exit, reason, since };
        }
        if let Stage::Draining { since, .. } = self.stage {
            if self.drained.is_some() && since.elapsed() >= LAST_WORDS {
                self.drained = None;
            }
            self.poll_over(cx);
        }
        Ok(())
    }

    /// Has the steward end what still holds the pipes.
    fn end_rest(&mut self, cx: &mut Context<'_>) {
        self.drained = None;
        self.poll_over(cx);
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) {
        if let Stage::Draining { exit, reason, .. } = self.stage
            && Pin::new(&mut self.over).poll(cx).is_ready()
        {
            self.last_news = Instant::now();
            self.stage = Stage::Over { exit, reason, read: self.bytes_read() };
        }
    }

    /// Whether the output cannot be the tree's any more.
    fn hides(&self) -> bool {
        matches!(self.stage, Stage::Over { read, .. } if self.bytes_read() - read > LEFT_IN_PIPE)
    }

    fn exited(&mut self, exit: Exit, reason: EndReason) -> Frame {
        // What the steward ends now, if anything is left, holds up nobody.
        self.drained = None;
        let failed = self.check && (exit != Exit::Code(0) || !matches!(reason, EndReason::Exited));
        self.stage = Stage::Done(failed.then(|| self.failure(exit, reason)));
        let [stdout_bytes, stderr_bytes] = [self.outlets[0].read, self.outlets[1].read];
        Frame::Exited(Exited { exit, reason, stdout_bytes, stderr_bytes })
    }

    fn failure(&self, exit: Exit, reason: EndReason) -> Error {
        let (how, code) = match exit {
            Exit::Code(code) => (format!("exited with code {code}"), code),
            Exit::Signal(number) => (format!("was ended by signal {number}"), 128 + number),
        };
        let why = match reason {
            EndReason::Exited | EndReason::Signaled => "",
            EndReason::Timeout => " after its timeout",
            EndReason::Cancelled => " after a cancel",
            EndReason::LeaseEnded => " because the lease ended",
        };
        let kept = self.outlets.iter().find_map(|outlet| outlet.tail.as_deref()).unwrap_or_default();
        Error::new(Reason::CommandFailed, format!("the command {how}{why}"))
            .with("exit_code", code.to_string())
            .with("stderr_tail", repaired_tail(kept, TAIL))
    }
}

impl Stream for Execution {
    type Item = Result<Frame>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(started) = this.started.take() {
            return Poll::Ready(Some(Ok(Frame::Started(started))));
        }
        if let Stage::Done(error) = &mut this.stage {
            return Poll::Ready(error.take().map(Err));
        }
        // First, so that a flood of output delays no end.
        if let Err(error) = this.advance(cx) {
            this.stage = Stage::Done(None);
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            let closed = match this.poll_output(cx) {
                Ok(output) if !this.hides() => {
                    this.last_news = Instant::now();
                    return Poll::Ready(Some(Ok(Frame::Output(output))));
                }
                Ok(_) => true,
                Err(closed) => closed,
            };
            match this.stage {
                Stage::Running { .. } => {
                    if !this.reached(this.last_news + HEARTBEAT, cx) {
                        return Poll::Pending;
                    }
                    this.last_news = Instant::now();
                    return Poll::Ready(Some(Ok(Frame::Heartbeat)));
                }
                Stage::Draining { exit, reason, since } => {
                    if closed {
                        return Poll::Ready(Some(Ok(this.exited(exit, reason))));
                    }
                    if this.drained.is_none() || !this.reached((this.last_news + SILENCE).min(since + LAST_WORDS), cx) {
                        return Poll::Pending;
                    }
                    this.end_rest(cx);
                }
                Stage::Over { exit, reason, .. } => {
                    if closed || this.reached(this.last_news + SILENCE, cx) {
                        return Poll::Ready(Some(Ok(this.exited(exit, reason))));
                    }
                    return Poll::Pending;
                }
                Stage::Done(_) => return Poll::Ready(None),
            }
        }
    }
}
