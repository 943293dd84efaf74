//! Reading a file with several requests under way. Nothing more is asked for while the reader stalls.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;
use futures::stream::{Stream, unfold};
use tokio::io::AsyncRead;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::io::StreamReader;

use super::packet::{READ, Reply, code};
use super::session::Handle;
use crate::error::{Error, Reason};

/// Bytes under way, or waiting for the reader, at most. OpenSSH's channels have a window of 2 MiB.
const WINDOW: u64 = 3 * 1024 * 1024;

struct Reading {
    handle: Handle,
    host: String,
    /// Where the next request begins.
    next: u64,
    /// Of the file when it was opened; it may have grown since.
    size: u64,
    /// In the order of the file.
    pieces: VecDeque<Piece>,
}

struct Piece {
    offset: u64,
    length: u32,
    answer: oneshot::Receiver<Reply>,
}

/// The file's bytes from `offset` to its end.
pub(in crate::host::ssh) fn reader(
    handle: Handle,
    host: &str,
    offset: u64,
    size: u64,
) -> Box<dyn AsyncRead + Send + Unpin> {
    let reading = Reading { handle, host: host.to_owned(), next: offset, size, pieces: VecDeque::new() };
    Box::new(StreamReader::new(Box::pin(reading.stream())))
}

impl Reading {
    fn stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        unfold(Some(self), async |reading| {
            let mut reading = reading?;
            match reading.step().await {
                Ok(Some(data)) => Some((Ok(data), Some(reading))),
                Ok(None) => None,
                Err(error) => Some((Err(io::Error::other(error)), None)),
            }
        })
    }

    fn ask(&self, offset: u64, length: u32) -> Piece {
        let packet = self.handle.packet(READ).long(offset).number(length);
        Piece { offset, length, answer: self.handle.session.send(packet) }
    }

    /// Asks for as much as the window has room for; behind the end for one piece, in case that the file grew.
    fn fill(&mut self) {
        let largest = u64::from(self.handle.session.limits.read);
        let mut under_way: u64 = self.pieces.iter().map(|piece| u64::from(piece.length)).sum();
        while under_way + largest <= WINDOW || self.pieces.is_empty() {
            if self.pieces.back().is_some_and(|last| last.offset >= self.size) {
                return;
            }
            let wanted = if self.next < self.size { (self.size - self.next).min(largest) } else { largest };
            let length = u32::try_from(wanted).unwrap_or(u32::MAX);
            let piece = self.ask(self.next, length);
            self.pieces.push_back(piece);
            self.next += wanted;
            under_way += wanted;
        }
    }

    /// The next bytes; `None` at the end.
    async fn step(&mut self) -> Result<Option<Bytes>, Error> {
        self.fill();
        let Some(mut piece) = self.pieces.pop_front() else { return Ok(None) };
        let lost = |why: &str| {
            let message =
                format!("the file cannot be read any further from {}: {why}; read on at the offset reached", self.host);
            Error::new(Reason::HostUnreachable, message)
        };
        let session = &self.handle.session;
        match timeout(session.patience.answer, &mut piece.answer).await {
            Ok(Ok(Reply::Data(data))) if !data.is_empty() => {
                let got = u32::try_from(data.len()).unwrap_or(u32::MAX);
                match piece.length.checked_sub(got) {
                    Some(0) => {}
                    // Less than asked for is no end.
                    Some(missing) => {
                        let rest = self.ask(piece.offset + u64::from(got), missing);
                        self.pieces.push_front(rest);
                    }
                    None => return Err(lost("the sftp server sent more than was asked for")),
                }
                Ok(Some(data))
            }
            Ok(Ok(Reply::Data(_) | Reply::Status { code: code::END, .. })) => Ok(None),
            Ok(Ok(Reply::Status { code, message })) => {
                let message = format!("the file cannot be read on {}: {message} (sftp status {code})", self.host);
                Err(Error::new(Reason::Internal, message))
            }
            Ok(Ok(_)) => Err(lost("the sftp server answers with something else than data")),
            Ok(Err(_)) => Err(lost(&session.fault().to_string())),
            Err(_) => Err(lost(&session.lose("the sftp server does not answer").to_string())),
        }
    }
}
