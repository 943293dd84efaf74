//! A channel as long as it lives: its place is free when it has ended on the machine, not when nobody looks any more.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use openssh::{Child, ChildStderr, ChildStdin, ChildStdout, Session};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::link::Channel;
use super::pool::Place;

/// How long the machine may take to end a channel that we have closed, until its place is given up as lost.
const LINGERS: Duration = Duration::from_secs(30);

/// The pipes of a channel.
pub(super) struct Parts {
    pub(super) stdin: ChildStdin,
    pub(super) stdout: ChildStdout,
    pub(super) stderr: ChildStderr,
}

/// Bytes after which a pipe is held to carry a flood.
const FLOOD: usize = 1024 * 1024;
/// Bytes that the pipe of a flood holds: with the usual 64 KiB both sides are woken for every few packets. Only then, since
/// the kernel bounds what the pipes of one user hold together.
const WIDE: usize = 512 * 1024;

/// Counts what a pipe has carried, and widens it once when that is much.
#[derive(Default)]
struct Width {
    carried: usize,
}

impl Width {
    fn count(&mut self, bytes: usize, pipe: &impl AsFd) {
        let before = self.carried;
        self.carried = self.carried.saturating_add(bytes);
        if before < FLOOD && self.carried >= FLOOD {
            // Where it may not, it stays as it is.
            let _ = rustix::pipe::fcntl_setpipe_size(pipe, WIDE);
        }
    }
}

/// An input pipe that is widened when much goes through it.
struct Input<W> {
    pipe: W,
    width: Width,
}

impl<W: AsyncWrite + AsFd + Unpin> AsyncWrite for Input<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = Pin::new(&mut this.pipe).poll_write(cx, data);
        if let Poll::Ready(Ok(bytes)) = written {
            this.width.count(bytes, &this.pipe);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

/// An output pipe that tells when it is at its end, or dropped.
struct Output<R> {
    pipe: R,
    width: Width,
    end: Option<oneshot::Sender<()>>,
}

impl<R: AsyncRead + AsFd + Unpin> AsyncRead for Output<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let (before, room) = (buf.filled().len(), buf.remaining());
        let read = Pin::new(&mut this.pipe).poll_read(cx, buf);
        let bytes = buf.filled().len() - before;
        this.width.count(bytes, &this.pipe);
        let nothing = room > 0 && bytes == 0;
        if matches!(read, Poll::Ready(Err(_))) || (nothing && read.is_ready()) {
            this.end = None;
        }
        read
    }
}

/// Makes a channel that keeps its place until the machine has closed it.
pub(super) fn hold(parts: Parts, child: Child<Arc<Session>>, place: Place) -> Channel {
    let (out, out_ended) = oneshot::channel();
    let (err, err_ended) = oneshot::channel();
    let (hold, dropped) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let ended = async {
            // A master that sees us leave throws away what it has not delivered yet. The exit status comes before the last
            // output, and waiting for the status means to leave: so first the output.
            let _ = out_ended.await;
            let _ = err_ended.await;
            let _ = child.wait().await;
        };
        tokio::pin!(ended);
        tokio::select! {
            () = &mut ended => {}
            _ = dropped => { let _ = timeout(LINGERS, ended).await; }
        }
        drop(place);
    });
    Channel {
        stdin: Box::new(Input { pipe: parts.stdin, width: Width::default() }),
        stdout: Box::new(Output { pipe: parts.stdout, width: Width::default(), end: Some(out) }),
        stderr: Box::new(Output { pipe: parts.stderr, width: Width::default(), end: Some(err) }),
        hold: Box::new(hold),
    }
}
