//! Medians, and how they are written.

use std::time::{Duration, Instant};

use anyhow::Result;

/// The middle of what was measured; zero of nothing.
pub(crate) fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}

/// The middle of spans, in milliseconds.
pub(crate) fn p50(all: &[Duration]) -> f64 {
    median(all.iter().map(|span| span.as_secs_f64() * 1000.0).collect())
}

/// How long it took.
pub(crate) async fn timed<T>(work: impl Future<Output = Result<T>>) -> Result<(Duration, T)> {
    let started = Instant::now();
    let result = work.await?;
    Ok((started.elapsed(), result))
}

/// Milliseconds as people read them.
pub(crate) fn ms(millis: f64) -> String {
    if millis >= 100.0 { format!("{millis:.0} ms") } else { format!("{millis:.3} ms") }
}

/// A count as a number to reckon with.
pub(crate) fn number(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Bytes in MiB.
pub(crate) fn mib(bytes: u64) -> f64 {
    number(bytes / 1024) / 1024.0
}

/// Lets a moment pass in which nothing is measured.
pub(crate) async fn pause(span: Duration) {
    let _ = tokio::time::timeout(span, std::future::pending::<()>()).await;
}
