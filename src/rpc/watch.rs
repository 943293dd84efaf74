//! Streams of news: heartbeats in the silence, and an end when the server goes down.
//!
//! Nothing is read ahead: the next update is asked for when the client has room for it, so a slow reader costs one
//! update's memory, and a reader that left takes the stream, and what it holds, with it.

use std::future::Future;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{BoxStream, unfold};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::error::{Error, Reason, Result};

/// Silence after which a client hears that all is well.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(15);

/// What a watching RPC answers with.
pub(crate) type Updates<T> = BoxStream<'static, Result<T, Status>>;

/// Where updates come from.
pub(crate) trait Source: Send + 'static {
    /// As the client gets them.
    type Message: Send + 'static;

    /// The next update, `None` when the watch has come to its end. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = Result<Option<Self::Message>>> + Send;

    /// Says that nothing happened.
    fn heartbeat() -> Self::Message;
}

/// Updates of `source` until it ends, fails, or the server is `leaving`.
pub(crate) fn updates<S: Source>(source: S, silence: Duration, leaving: CancellationToken) -> Updates<S::Message> {
    unfold(Some(source), move |source| {
        let leaving = leaving.clone();
        async move {
            let mut source = source?;
            let next = tokio::select! {
                biased;
                () = leaving.cancelled() => Err(draining()),
                next = timeout(silence, source.next()) => next.unwrap_or_else(|_| Ok(Some(S::heartbeat()))),
            };
            match next {
                Ok(Some(message)) => Some((Ok(message), Some(source))),
                Ok(None) => None,
                Err(error) => Some((Err(error.into()), None)),
            }
        }
    })
    .boxed()
}

fn draining() -> Error {
    Error::new(Reason::ServerDraining, "this daemon is going down; watch again, from the last cursor, when it is back")
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tonic::Code;

    use super::*;

    /// Says what it is given, then nothing.
    struct Script(VecDeque<Result<Option<u32>>>);

    impl Source for Script {
        type Message = u32;

        async fn next(&mut self) -> Result<Option<u32>> {
            match self.0.pop_front() {
                Some(next) => next,
                None => std::future::pending().await,
            }
        }

        fn heartbeat() -> u32 {
            0
        }
    }

    fn watch(script: Vec<Result<Option<u32>>>, leaving: &CancellationToken) -> Updates<u32> {
        updates(Script(script.into()), Duration::from_millis(5), leaving.clone())
    }

    #[tokio::test]
    async fn silence_is_filled_and_a_farewell_ends_it() {
        let leaving = CancellationToken::new();
        let mut stream = watch(vec![Ok(Some(7))], &leaving);
        assert_eq!(stream.next().await.unwrap().unwrap(), 7);
        assert_eq!(stream.next().await.unwrap().unwrap(), 0);
        assert_eq!(stream.next().await.unwrap().unwrap(), 0);
        leaving.cancel();
        assert_eq!(stream.next().await.unwrap().unwrap_err().code(), Code::Unavailable);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn it_ends_with_its_source() {
        let leaving = CancellationToken::new();
        assert!(watch(vec![Ok(None)], &leaving).next().await.is_none());
        let mut failing = watch(vec![Err(Error::new(Reason::CursorExpired, "gone"))], &leaving);
        assert_eq!(failing.next().await.unwrap().unwrap_err().code(), Code::OutOfRange);
        assert!(failing.next().await.is_none());
    }
}
