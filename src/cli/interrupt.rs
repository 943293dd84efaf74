//! SIGINT and SIGTERM while a command holds something: the first one asks it to let go, the second one leaves at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::exit::{Failure, Result};

const SIGINT: u8 = 2;
const SIGTERM: u8 = 15;
/// Signals that come this close together are one.
const ONE_WORD: Duration = Duration::from_millis(500);

/// Whether the user wants out.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    first: CancellationToken,
    number: Arc<AtomicU8>,
}

impl Interrupt {
    /// Listens from now on; until the process ends, the signals no longer end it by themselves.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn listen() -> Result<Self> {
        let refused = |error| Failure::io("signals", &error);
        let mut int = signal(SignalKind::interrupt()).map_err(refused)?;
        let mut term = signal(SignalKind::terminate()).map_err(refused)?;
        let interrupt = Self::default();
        let heard = interrupt.clone();
        tokio::spawn(async move {
            let mut since: Option<Instant> = None;
            loop {
                let number = tokio::select! {
                    Some(()) = int.recv() => SIGINT,
                    Some(()) = term.recv() => SIGTERM,
                    else => return,
                };
                // `timeout` and shells signal the process and then its group: that is one word, not two.
                if since.is_some_and(|first| first.elapsed() < ONE_WORD) {
                    continue;
                }
                if since.replace(Instant::now()).is_some() {
                    std::process::exit(i32::from(128 + number));
                }
                heard.number.store(number, Ordering::SeqCst);
                heard.first.cancel();
            }
        });
        Ok(interrupt)
    }

    /// Returns when the first signal came, with its number.
    pub async fn heard(&self) -> u8 {
        self.first.cancelled().await;
        self.number.load(Ordering::SeqCst)
    }

    /// Runs `work` unless a signal comes first.
    ///
    /// # Errors
    /// 130 or 143 when interrupted.
    pub async fn or<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            number = self.heard() => Err(Failure::interrupted(number)),
            done = work => done,
        }
    }
}
