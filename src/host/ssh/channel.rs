//! A channel as long as it lives: its place is free when it has ended on the machine, not when nobody looks any more.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use openssh::{Child, ChildStderr, ChildStdin, ChildStdout, Session};
use tokio::io::{AsyncRead, ReadBuf};
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

/// An output pipe that tells when it is at its end, or dropped.
struct Output<R> {
    pipe: R,
    end: Option<oneshot::Sender<()>>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Output<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        let read = Pin::new(&mut self.pipe).poll_read(cx, buf);
        let nothing = room > 0 && buf.filled().len() == before;
        if matches!(read, Poll::Ready(Err(_))) || (nothing && read.is_ready()) {
            self.end = None;
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
        stdin: Box::new(parts.stdin),
        stdout: Box::new(Output { pipe: parts.stdout, end: Some(out) }),
        stderr: Box::new(Output { pipe: parts.stderr, end: Some(err) }),
        hold: Box::new(hold),
    }
}
