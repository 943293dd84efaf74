//! `drydock run`: acquire, exec, release, with the command's exit code.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Globals;
use super::acquire::{self, Demand};
use super::connect::{Daemon, soon};
use super::exec::Shape;
use super::exit::{Failure, Result};
use super::interrupt::Interrupt;
use super::process;
use super::trace::Sink;
use super::words;
use crate::proto::v1;

/// Leases a resource, runs a command on it, gives it back; renews the lease while the command runs.
#[derive(Debug, clap::Args)]
pub struct Run {
    #[command(flatten)]
    demand: Demand,
    /// Give up when the lease is not ACTIVE by then.
    #[arg(long, value_name = "D", default_value = "5m", value_parser = words::duration)]
    wait: Duration,
    /// Show on stderr how the lease comes to be.
    #[arg(long)]
    trace: bool,
    /// Write the command's exit code here; the file is missing when the command never ended by its own.
    #[arg(long, value_name = "F")]
    exit_code_file: Option<PathBuf>,
    #[command(flatten)]
    shape: Shape,
}

/// Runs it.
///
/// # Errors
/// Drydock's own failures.
pub async fn run(globals: &Globals, args: Run) -> Result<u8> {
    if let Some(path) = &args.exit_code_file {
        forget(path)?;
    }
    let interrupt = Interrupt::listen()?;
    let daemon = globals.connect().await?;
    let request = args.demand.request(Some(args.wait))?;
    let lease = acquire::place(&daemon, request).await?;
    let id = lease.id.clone();

    let outcome = on_lease(&daemon, lease, &args, &interrupt).await;
    // Whatever happened: nothing stays behind.
    if let Err(failure) = acquire::release(&daemon, &id, "drydock run has ended").await {
        eprintln!("drydock: {id} could not be released, it ends when its ttl does: {failure}");
    }
    let exited = outcome?;
    if let Some(why) = process::cut_short(&exited) {
        eprintln!("drydock: {why}");
    }
    let code = process::code(&exited);
    if let Some(path) = &args.exit_code_file {
        write_code(path, code)?;
    }
    Ok(code)
}

async fn on_lease(daemon: &Daemon, lease: v1::Lease, args: &Run, interrupt: &Interrupt) -> Result<v1::ProcessExited> {
    let trace = args.trace.then_some(Sink::Stderr);
    let patience = acquire::patience(args.wait, Some(args.wait));
    let settled = acquire::settle(daemon, lease, Some(patience), trace, interrupt).await?;
    let lease = acquire::served(settled)?;
    let renewing = tokio::spawn(renew(daemon.clone(), lease.clone()));
    let ended = process::run(daemon, args.shape.request(&lease.id), args.shape.input, interrupt).await;
    renewing.abort();
    ended
}

/// Renews the lease at each third of its ttl, until it is aborted or the lease is lost.
pub(super) async fn renew(daemon: Daemon, lease: v1::Lease) {
    let Some(ttl) = lease.ttl.as_ref().map(words::span).filter(|ttl| !ttl.is_zero()) else { return };
    let period = (ttl / 3).max(Duration::from_millis(100));
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let request = v1::RenewLeaseRequest { lease_id: lease.id.clone(), ttl: None };
        if let Err(status) = daemon.leases().renew_lease(soon(request)).await {
            let failure = Failure::from(status);
            eprintln!("drydock: {} could not be renewed: {failure}", lease.id);
            if failure.code != super::exit::UNAVAILABLE {
                return;
            }
        }
    }
}

/// Takes an old exit code away, so that it is not mistaken for ours.
///
/// # Errors
/// When the file is there and stays there.
pub(super) fn forget(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Failure::io(path.display(), &error)),
        _ => Ok(()),
    }
}

/// Writes the exit code as a line.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn write_code(path: &Path, code: u8) -> Result<()> {
    std::fs::write(path, format!("{code}\n")).map_err(|error| Failure::io(path.display(), &error))
}
