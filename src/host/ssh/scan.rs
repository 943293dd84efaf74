//! Finds a mark in a stream without holding up what cannot be part of it.

use bytes::{Buf as _, Bytes, BytesMut};
use memchr::memmem::Finder;

/// A mark that is looked for.
pub(super) struct Scan {
    finder: Finder<'static>,
}

impl Scan {
    /// Looks for `mark`.
    pub(super) fn new(mark: &str) -> Self {
        Self { finder: Finder::new(mark.as_bytes()).into_owned() }
    }

    /// Whether the mark is a whole line, or the end of one.
    pub(super) fn is_line(&self) -> bool {
        self.finder.needle().ends_with(b"\n")
    }

    /// What comes before the mark, and whether the mark was there: then it is gone from the buffer, and what follows is
    /// left. Else the buffer keeps what may be the beginning of it.
    pub(super) fn split(&self, buffer: &mut BytesMut) -> (Bytes, bool) {
        let mark = self.finder.needle();
        if let Some(at) = self.finder.find(buffer) {
            let before = buffer.split_to(at).freeze();
            buffer.advance(mark.len());
            return (before, true);
        }
        let longest = mark.len().saturating_sub(1).min(buffer.len());
        let kept = (1..=longest).rev().find(|length| mark.starts_with(&buffer[buffer.len() - length..])).unwrap_or(0);
        (buffer.split_to(buffer.len() - kept).freeze(), false)
    }
}

/// Takes a line off the buffer, without its end.
pub(super) fn line(buffer: &mut BytesMut) -> Option<String> {
    let end = memchr::memchr(b'\n', buffer)?;
    let line = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.advance(end + 1);
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `stream` in pieces of `size`; answers what came before the mark and what after it.
    fn run(stream: &[u8], size: usize) -> (Vec<u8>, Option<Vec<u8>>) {
        let scan = Scan::new("EabcEabd");
        let (mut buffer, mut before) = (BytesMut::new(), Vec::new());
        let mut pieces = stream.chunks(size);
        for piece in pieces.by_ref() {
            buffer.extend_from_slice(piece);
            let (data, found) = scan.split(&mut buffer);
            before.extend_from_slice(&data);
            if found {
                let rest = pieces.flatten().copied();
                return (before, Some(buffer.iter().copied().chain(rest).collect()));
            }
            assert!(buffer.len() < 8, "only what may be the mark is held up");
        }
        (before, None)
    }

    #[test]
    fn a_mark_is_found_however_the_stream_is_cut() {
        let stream = b"EabcEabEabcEabcEabdafter";
        for size in 1..=stream.len() {
            assert_eq!(run(stream, size), (b"EabcEabEabc".to_vec(), Some(b"after".to_vec())), "{size}");
        }
        for size in 1..10 {
            assert_eq!(run(b"xEabcx", size), (b"xEabcx".to_vec(), None), "{size}");
        }
    }

    #[test]
    fn lines_are_taken_whole() {
        let mut buffer = BytesMut::from(&b"a b\nrest"[..]);
        assert_eq!(line(&mut buffer).as_deref(), Some("a b"));
        assert_eq!((line(&mut buffer), &buffer[..]), (None, &b"rest"[..]));
    }
}
