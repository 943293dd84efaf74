//! A daemon that has worked and has nothing to do.

use std::time::Duration;

use anyhow::Result;

use crate::daemon::{self, PATIENCE, ROOMY, Up};
use crate::figures::{mib, number, pause};
use crate::in_process;
use crate::table::Table;

const MOST_MIB: f64 = 30.0;
const MOST_STATEMENTS: f64 = 1.0;
/// Longer than the rounds of the sweep and of the housekeeper, so that both are seen.
const WINDOW: Duration = Duration::from_secs(35);

pub(crate) async fn measure(table: &mut Table) -> Result<()> {
    let up = Up::start(4, &[ROOMY]).await?;
    let folder = tempfile::tempdir()?;
    let engine = in_process::start(folder.path(), ROOMY).await?;
    for _ in 0..20 {
        let lease = daemon::acquire(&up.client, "host").await?;
        daemon::exec(&up.client, &lease, &["true"]).await?;
        daemon::release(&up.client, &lease, PATIENCE).await?;
        let lease = in_process::acquire(&engine).await?;
        in_process::release(&engine, &lease, PATIENCE).await?;
    }
    let held = in_process::acquire(&engine).await?;
    pause(Duration::from_secs(1)).await;
    let before = engine.store().statements();
    pause(WINDOW).await;
    let rate = number(engine.store().statements() - before) / WINDOW.as_secs_f64();
    let resident = mib(up.resident()?);
    in_process::release(&engine, &held, PATIENCE).await?;
    engine.stop().await;
    table.line("idle daemon, resident", "< 30 MiB", &format!("{resident:.1} MiB"), resident < MOST_MIB);
    table.line("idle engine with a lease, statements/s", "< 1", &format!("{rate:.2}"), rate < MOST_STATEMENTS);
    Ok(())
}
