//! Time and new ids are passed in, so that tests turn the clock by hand and never sleep.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

/// Microseconds since the Unix epoch. All times in the model and the store are of this kind.
pub type Micros = i64;

/// A span in microseconds, saturating.
#[must_use]
pub fn micros(span: Duration) -> Micros {
    Micros::try_from(span.as_micros()).unwrap_or(Micros::MAX)
}

/// A span from microseconds; what is negative is zero.
#[must_use]
pub fn span(micros: Micros) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// A time as people read it: UTC, to the second, as in `2026-01-31T12:00:00Z`.
#[must_use]
pub fn utc(at: Micros) -> String {
    prost_types::Timestamp { seconds: at.div_euclid(1_000_000), nanos: 0 }.to_string()
}

/// Where time comes from.
#[async_trait]
pub trait Clock: Send + Sync {
    /// The wall clock now.
    fn now(&self) -> Micros;

    /// Returns when the clock shows `until`, at once when it already does.
    async fn sleep_until(&self, until: Micros);

    /// A database that several daemons share has just told the time: answers the time to write. A clock that does not
    /// follow the database goes on as it does.
    fn hear(&self, told: Micros) -> Micros {
        let _ = told;
        self.now()
    }
}

/// A clock that everyone shares.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock.
#[derive(Debug, Default)]
pub struct SystemClock;

/// How far a debug build takes the machine's clock to be set wrong: `DRYDOCK_CLOCK_OFFSET` in seconds, for tests.
fn off() -> Micros {
    static OFF: OnceLock<Micros> = OnceLock::new();
    if cfg!(debug_assertions) {
        let seconds = || std::env::var("DRYDOCK_CLOCK_OFFSET").ok()?.parse::<Micros>().ok();
        return *OFF.get_or_init(|| seconds().unwrap_or(0) * 1_000_000);
    }
    0
}

#[async_trait]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the machine's clock")]
    fn now(&self) -> Micros {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, micros) + off()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that waits for the machine's clock")]
    async fn sleep_until(&self, until: Micros) {
        // In slices, so that a wall clock that is set forward is noticed.
        loop {
            let left = span(until.saturating_sub(self.now()));
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(Duration::from_secs(30))).await;
        }
    }
}

/// The clock of a database that several daemons share, as it was last heard, carried on by our own monotonic clock: what a
/// machine's wall clock shows does not matter.
#[derive(Debug)]
pub struct HeardClock {
    begun: tokio::time::Instant,
    /// What to add to the time since `begun`.
    ahead: AtomicI64,
}

impl HeardClock {
    /// A clock that shows `now` until it hears better.
    #[must_use]
    pub fn at(now: Micros) -> Arc<Self> {
        Arc::new(Self { begun: tokio::time::Instant::now(), ahead: AtomicI64::new(now) })
    }

    fn passed(&self) -> Micros {
        micros(self.begun.elapsed())
    }
}

#[async_trait]
impl Clock for HeardClock {
    fn now(&self) -> Micros {
        self.ahead.load(Ordering::Relaxed) + self.passed()
    }

    #[expect(clippy::disallowed_methods, reason = "it waits for time that goes by, as the machine's clock does")]
    async fn sleep_until(&self, until: Micros) {
        loop {
            let left = span(until.saturating_sub(self.now()));
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(Duration::from_secs(30))).await;
        }
    }

    fn hear(&self, told: Micros) -> Micros {
        self.ahead.store(told - self.passed(), Ordering::Relaxed);
        told
    }
}

/// A clock that only moves when told to: for tests and simulations.
#[derive(Debug)]
pub struct ManualClock {
    now: AtomicI64,
    moved: watch::Sender<()>,
}

impl ManualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn at(now: Micros) -> Arc<Self> {
        Arc::new(Self { now: AtomicI64::new(now), moved: watch::Sender::new(()) })
    }

    /// Moves it forward and wakes whoever waits for a time that is now reached.
    pub fn advance(&self, by: Duration) {
        self.now.fetch_add(micros(by), Ordering::SeqCst);
        self.moved.send_replace(());
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Micros {
        self.now.load(Ordering::SeqCst)
    }

    async fn sleep_until(&self, until: Micros) {
        let mut moved = self.moved.subscribe();
        while self.now() < until {
            if moved.changed().await.is_err() {
                return;
            }
        }
    }
}
