//! Writing a file with several requests under way. A flush returns when the server has written all of them.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::io::AsyncWrite;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep};

use super::packet::{Packet, Reply, WRITE, code};
use super::session::{Fault, Handle};
use crate::error::Error;

/// Bytes under way at most. OpenSSH's channels have a window of 2 MiB.
const WINDOW: usize = 3 * 1024 * 1024;

/// Turns a refusal to write so many bytes into an error.
pub(in crate::host::ssh) type Explain = Box<dyn Fn(Fault, usize) -> BoxFuture<'static, Error> + Send>;

struct Writing {
    handle: Handle,
    /// Where the next piece goes.
    offset: u64,
    /// The piece that is being filled, and where its data begin.
    open: Option<(Packet, usize)>,
    under_way: VecDeque<(usize, oneshot::Receiver<Reply>)>,
    bytes_under_way: usize,
    patience: Pin<Box<Sleep>>,
    explain: Explain,
    failing: Option<BoxFuture<'static, Error>>,
    failed: bool,
}

/// Writes from `offset` on.
pub(in crate::host::ssh) fn writer(
    handle: Handle,
    offset: u64,
    explain: Explain,
) -> Box<dyn AsyncWrite + Send + Unpin> {
    let patience = Box::pin(sleep(handle.session.patience.answer));
    Box::new(Writing {
        handle,
        offset,
        open: None,
        under_way: VecDeque::new(),
        bytes_under_way: 0,
        patience,
        explain,
        failing: None,
        failed: false,
    })
}

impl Writing {
    fn largest(&self) -> usize {
        usize::try_from(self.handle.session.limits.write).unwrap_or(usize::MAX)
    }

    fn wait_anew(&mut self) {
        let answer = self.handle.session.patience.answer;
        self.patience.as_mut().reset(Instant::now() + answer);
    }

    /// Sends the piece that is being filled.
    fn send(&mut self) {
        let Some((mut packet, start)) = self.open.take() else { return };
        let length = packet.len() - start;
        packet.seal_data(start);
        if self.under_way.is_empty() {
            self.wait_anew();
        }
        self.under_way.push_back((length, self.handle.session.send(packet)));
        self.bytes_under_way += length;
        self.offset += length as u64;
    }

    fn fail(&mut self, fault: Fault, length: usize) {
        self.failed = true;
        self.under_way.clear();
        self.failing = Some((self.explain)(fault, length));
    }

    /// Takes the answers that are there; returns when at most `rest` bytes are under way.
    fn poll_answers(&mut self, cx: &mut Context<'_>, rest: usize) -> Poll<io::Result<()>> {
        while self.failing.is_none()
            && let Some((length, answer)) = self.under_way.front_mut()
        {
            let length = *length;
            match answer.poll_unpin(cx) {
                Poll::Ready(Ok(Reply::Status { code: code::OK, .. })) => {
                    self.under_way.pop_front();
                    self.bytes_under_way -= length;
                    self.wait_anew();
                }
                Poll::Ready(Ok(Reply::Status { code, message })) => self.fail(Fault::Refused { code, message }, length),
                Poll::Ready(Ok(_)) => {
                    let fault = self.handle.session.lose("the sftp server answers a write with something else");
                    self.fail(fault, length);
                }
                Poll::Ready(Err(_)) => self.fail(self.handle.session.fault(), length),
                Poll::Pending if self.bytes_under_way <= rest => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    ready!(self.patience.as_mut().poll(cx));
                    let fault = self.handle.session.lose("the sftp server does not answer");
                    self.fail(fault, length);
                }
            }
        }
        if let Some(failing) = &mut self.failing {
            let error = ready!(failing.poll_unpin(cx));
            self.failing = None;
            return Poll::Ready(Err(io::Error::other(error)));
        }
        if self.failed {
            return Poll::Ready(Err(io::Error::other("an earlier write has failed")));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Writing {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let largest = this.largest();
        ready!(this.poll_answers(cx, WINDOW.saturating_sub(largest)))?;
        let handle = &this.handle;
        let offset = this.offset;
        let (packet, start) = this.open.get_or_insert_with(|| {
            let packet =
                handle.packet_with_room(WRITE, largest.min(data.len().next_power_of_two())).long(offset).number(0);
            let start = packet.len();
            (packet, start)
        });
        let taken = data.len().min(largest - (packet.len() - *start));
        packet.extend(&data[..taken]);
        // While others are under way, small pieces wait to go together.
        if packet.len() - *start == largest || this.under_way.is_empty() {
            this.send();
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.failed {
            self.send();
        }
        self.poll_answers(cx, 0)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
