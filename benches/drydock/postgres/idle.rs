//! Daemons that have nothing to do: what the server hears of them, alone and four together.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use drydock::cli::connect::Daemon as Client;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::server;
use super::server::{connect, run};
use crate::daemon::{self, PATIENCE};
use crate::figures::{number, pause};
use crate::table::Table;

const ALONE: (&str, &str) = ("idle daemon on PostgreSQL, statements/s", "< 1");
const FLEET: (&str, &str) = ("each of 4 idle daemons, statements/s", "< 1");
const MOST: f64 = 1.0;
/// Longer than the rounds of the sweep and of the housekeeper, so that both are seen.
const WINDOW: Duration = Duration::from_secs(35);

pub(crate) async fn measure(table: &mut Table) -> Result<()> {
    let Some(server) = server(table, &[ALONE, FLEET])? else { return Ok(()) };
    let mut daemons = Vec::new();
    for (name, many) in [("alone", 1), ("fleet", 4)] {
        let url = server.database(name).await?;
        // What is said on connections made from now on is written down.
        run(&mut connect(&url).await?, format!("ALTER DATABASE {name} SET log_statement = 'all'")).await?;
        for _ in 0..many {
            daemons.push(Daemon::start(&url).await?);
        }
    }
    for daemon in &daemons {
        daemon.work().await?;
    }
    pause(Duration::from_secs(2)).await;
    let before = [statements(&server.log()?, "alone"), statements(&server.log()?, "fleet")];
    pause(WINDOW).await;
    let log = server.log()?;
    for ((line, bound), name, many, before) in [(ALONE, "alone", 1.0, before[0]), (FLEET, "fleet", 4.0, before[1])] {
        let rate = number(statements(&log, name) - before) / WINDOW.as_secs_f64() / many;
        table.line(line, bound, &format!("{rate:.2}"), rate < MOST);
    }
    Ok(())
}

/// Statements that the server was given in a database, each of a text that holds several by itself.
fn statements(log: &str, database: &str) -> u64 {
    let heard = |line: &&str| {
        line.strip_prefix(database).is_some_and(|rest| rest.starts_with(' '))
            && (line.contains(" LOG:  statement: ") || line.contains(" LOG:  execute "))
    };
    log.lines().filter(heard).map(|line| line.matches("; ").count() as u64 + 1).sum()
}

/// `drydock serve` on a common database.
struct Daemon {
    client: Client,
    _folder: TempDir,
    _child: Child,
}

impl Daemon {
    async fn start(url: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut command = Command::from(daemon::program(folder.path()));
        command.args(["serve", "--workers", "4", "--database", url]).env("DRYDOCK_LOG", "error");
        command.env("DRYDOCK_STOCK_BLUEPRINTS", "true").stdout(Stdio::null()).kill_on_drop(true);
        let child = command.spawn().context("a daemon cannot be started")?;
        let socket: PathBuf = folder.path().join("data/drydock.sock");
        let deadline = Instant::now() + PATIENCE;
        let client = loop {
            match daemon::dial(&socket).await {
                Ok(client) if daemon::noop(&client).await.is_ok() => break client,
                Err(error) if Instant::now() >= deadline => return Err(error),
                _ => pause(Duration::from_millis(20)).await,
            }
        };
        Ok(Self { client, _folder: folder, _child: child })
    }

    /// A lease, so that it has worked before it has nothing to do.
    async fn work(&self) -> Result<()> {
        let lease = daemon::acquire(&self.client, "host").await?;
        daemon::release(&self.client, &lease, PATIENCE).await
    }
}
