//! The smallest command: what Drydock adds to a spawn.

use std::process::Stdio;

use anyhow::{Result, ensure};

use crate::daemon::{self, ROOMY, Up};
use crate::figures::{ms, p50, timed};
use crate::table::Table;

const ROUNDS: usize = 300;
const WARM_UP: usize = 30;
const MARGIN_MS: f64 = 1.5;

pub(crate) async fn measure(table: &mut Table) -> Result<()> {
    let up = Up::start(4, &[ROOMY]).await?;
    let lease = daemon::acquire(&up.client, "host").await?;
    let (mut bare, mut served) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS + WARM_UP {
        let (spawn, ()) = timed(spawn()).await?;
        let (exec, _) = timed(daemon::exec(&up.client, &lease, &["true"])).await?;
        if round >= WARM_UP {
            bare.push(spawn);
            served.push(exec);
        }
    }
    let (bare, served) = (p50(&bare), p50(&served));
    table.line(
        "Exec true, p50",
        "<= bare spawn + 1.5 ms",
        &format!("{}; bare spawn {}: + {}", ms(served), ms(bare), ms(served - bare)),
        served <= bare + MARGIN_MS,
    );
    Ok(())
}

async fn spawn() -> Result<()> {
    let mut command = tokio::process::Command::new("true");
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().await?;
    ensure!(status.success(), "true: {status}");
    Ok(())
}
