//! A request's body that is read here and, as long as nothing but its first message was, can be sent elsewhere as a whole.
//!
//! Whether a lease is ours is found out by the service that is called, with the first message: to look before would mean to
//! look twice, for each call.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use tonic::Status;
use tonic::body::Body;

/// In front of each message: a flag, and its length in four bytes.
const PREFIX: usize = 5;

/// What is left of a body and what was read of it.
struct Reel {
    /// Gone when it is played elsewhere.
    rest: Option<Body>,
    over: bool,
    /// The first message, in the pieces in which it came; `None` when more than it was read.
    kept: Option<Vec<Bytes>>,
}

impl Reel {
    fn note(&mut self, data: &Bytes) {
        let Some(kept) = &mut self.kept else { return };
        if data.is_empty() {
            return;
        }
        if is_whole(kept) {
            self.kept = None;
        } else {
            kept.push(data.clone());
        }
    }
}

/// Whether the first message is in there.
fn is_whole(kept: &[Bytes]) -> bool {
    let length: usize = kept.iter().map(Bytes::len).sum();
    let prefix: Vec<u8> = kept.iter().flatten().take(PREFIX).copied().collect();
    match prefix[..] {
        [_, a, b, c, d] => length - PREFIX >= u32::from_be_bytes([a, b, c, d]) as usize,
        _ => false,
    }
}

type Shared = Arc<Mutex<Reel>>;

/// The end at which a body is played again.
pub(super) struct Tape(Shared);

/// Gives a body that is read here, and what plays it again.
pub(super) fn record(body: Body) -> (Body, Tape) {
    let reel = Arc::new(Mutex::new(Reel { rest: Some(body), over: false, kept: Some(Vec::new()) }));
    (Body::new(Recorded(Arc::clone(&reel))), Tape(reel))
}

impl Tape {
    /// The whole body once more; `None` when too much of it was read here. Who reads it here finds it broken off.
    pub(super) fn rewound(self) -> Option<Body> {
        let mut reel = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = reel.kept.take()?;
        let rest = reel.rest.take().filter(|_| !reel.over);
        Some(Body::new(Rewound { kept: kept.into_iter(), rest }))
    }
}

struct Recorded(Shared);

impl HttpBody for Recorded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut reel = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if reel.over {
            return Poll::Ready(None);
        }
        let Some(rest) = &mut reel.rest else {
            return Poll::Ready(Some(Err(Status::cancelled("the call goes on elsewhere"))));
        };
        let frame = ready!(Pin::new(rest).poll_frame(cx));
        match &frame {
            None | Some(Err(_)) => reel.over = true,
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    reel.note(data);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let reel = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reel.over || reel.rest.as_ref().is_some_and(HttpBody::is_end_stream)
    }
}

struct Rewound {
    kept: std::vec::IntoIter<Bytes>,
    rest: Option<Body>,
}

impl HttpBody for Rewound {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(data) = self.kept.next() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(rest).poll_frame(cx));
        if frame.as_ref().is_none_or(Result::is_err) {
            self.rest = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.kept.len() == 0 && self.rest.as_ref().is_none_or(HttpBody::is_end_stream)
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    fn body(pieces: &[&'static [u8]]) -> Body {
        let pieces: Vec<_> =
            pieces.iter().map(|piece| Ok::<_, Status>(Frame::data(Bytes::from_static(piece)))).collect();
        Body::new(StreamBody::new(stream::iter(pieces)))
    }

    async fn next(body: &mut Body) -> Option<Bytes> {
        body.frame().await.map(|frame| frame.unwrap().into_data().unwrap())
    }

    const FIRST: &[u8] = b"\0\0\0\0\x03abc";

    #[tokio::test]
    async fn what_was_read_for_the_first_message_is_played_again() {
        // The prefix is cut in two, and what comes in the frame of its end belongs to the next message.
        let pieces: [&[u8]; 4] = [b"\0\0", b"\0\0\x03a", b"bc\0\0\0", b"\0\x01d"];
        for read in 0..=3 {
            let (mut here, tape) = record(body(&pieces));
            for _ in 0..read {
                next(&mut here).await.unwrap();
            }
            let again = tape.rewound().unwrap().collect().await.unwrap().to_bytes();
            assert_eq!(&again[..], pieces.concat(), "{read}");
            assert!(here.frame().await.unwrap().is_err());
        }
    }

    #[tokio::test]
    async fn a_body_that_was_read_to_its_end_is_played_to_its_end() {
        let (mut here, tape) = record(body(&[FIRST, b""]));
        while next(&mut here).await.is_some() {}
        assert!(here.is_end_stream());
        assert_eq!(tape.rewound().unwrap().collect().await.unwrap().to_bytes(), FIRST);
    }

    #[tokio::test]
    async fn after_the_second_message_it_is_too_late_and_nothing_is_kept() {
        let (mut here, tape) = record(body(&[FIRST, FIRST, FIRST]));
        next(&mut here).await.unwrap();
        next(&mut here).await.unwrap();
        assert!(tape.0.lock().unwrap().kept.is_none());
        assert!(tape.rewound().is_none());
        assert_eq!(next(&mut here).await.unwrap(), FIRST);
    }
}
