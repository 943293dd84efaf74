//! Reading a file in pieces, as fast as the caller takes them.

use std::path::Path;

use bytes::{BufMut as _, BytesMut};
use futures::Stream;
use futures::stream::unfold;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::sync::CancellationToken;

use super::{files, unless_ended};
use crate::error::{Error, Result};
use crate::host::Place;
use crate::host::files::Entry;
use crate::interface::command::Payload;
use crate::interface::text::Repair;

const PIECE: usize = 64 * 1024;
/// Repair may treble it.
const TEXT_PIECE: usize = 20 * 1024;

/// A piece of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Of its first byte in the file.
    pub offset: u64,
    /// At most 64 KiB.
    pub payload: Payload,
}

struct Reading {
    file: Box<dyn AsyncRead + Send + Unpin>,
    buffer: BytesMut,
    offset: u64,
    /// Bytes that are still wanted.
    left: u64,
    repair: Option<Repair>,
    ended: CancellationToken,
}

/// Opens a file to read `length` bytes from `offset`, to its end when `length` is 0.
///
/// # Errors
/// `FILE_NOT_FOUND`, `IS_A_DIRECTORY`, `PATH_OUTSIDE_ROOT`, `OFFSET_UNAVAILABLE` past the end; in the stream
/// `LEASE_NOT_ACTIVE` when the lease ends meanwhile.
pub async fn read(
    place: &Place,
    path: &Path,
    offset: u64,
    length: u64,
    text: bool,
    ended: CancellationToken,
) -> Result<(Entry, impl Stream<Item = Result<Part>> + Send + use<>)> {
    let (entry, file) = files(place).await?.read(path, offset).await?;
    let left = if length == 0 { u64::MAX } else { length };
    let repair = text.then(Repair::default);
    let reading = Reading { file, buffer: BytesMut::new(), offset, left, repair, ended };
    let parts = unfold(Some(reading), async |reading| {
        let mut reading = reading?;
        match reading.next().await {
            Ok(Some(part)) => Some((Ok(part), Some(reading))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok((entry, parts))
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Part>> {
        let piece = if self.repair.is_some() { TEXT_PIECE } else { PIECE };
        while self.left > 0 {
            self.buffer.reserve(piece);
            let wanted = usize::try_from(self.left).unwrap_or(piece).min(piece);
            let mut space = (&mut self.buffer).limit(wanted);
            let file = &mut self.file;
            let read = async {
                file.read_buf(&mut space).await.map_err(|error| Error::from_stream("the file cannot be read", error))
            };
            let length = unless_ended(&self.ended, read).await?;
            if length == 0 {
                break;
            }
            let data = self.buffer.split().freeze();
            let offset = self.offset;
            self.offset += length as u64;
            self.left -= length as u64;
            let Some(repair) = &mut self.repair else {
                return Ok(Some(Part { offset, payload: Payload::Data(data) }));
            };
            let (before, text) = repair.push(&data);
            if !text.is_empty() {
                return Ok(Some(Part { offset: offset - before as u64, payload: Payload::Text(text) }));
            }
        }
        self.left = 0;
        let rest = self.repair.as_mut().and_then(Repair::finish);
        Ok(rest.map(|(length, text)| Part { offset: self.offset - length as u64, payload: Payload::Text(text) }))
    }
}
