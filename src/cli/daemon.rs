//! `drydock up` and `drydock serve`: a daemon in the foreground.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

use super::exit::{FAILURE, Failure, OK, Result};
use super::output;
use super::settings::Flags;
use crate::config::{LogFormat, Settings};
use crate::error::{Error, Reason, report};
use crate::rpc::server::{self, Ready, Shutdown};

/// How long the daemon may take to stop at once.
const LAST_MOMENT: Duration = Duration::from_secs(5);

/// Runs a daemon until it is told to stop; `up` brings the stock blueprints.
///
/// # Errors
/// 78 for settings that cannot be, or a database of a newer version.
pub async fn run(flags: &Flags, up: bool) -> Result<u8> {
    let settings = flags.resolve(up)?.settings;
    log(settings.log_format)?;
    let shutdown = Shutdown::default();
    let (tell, ready) = oneshot::channel();
    let mut daemon = tokio::spawn(server::run(settings.clone(), tell, shutdown.clone()));
    let refused = |error| Failure::io("signals", &error);
    let mut int = signal(SignalKind::interrupt()).map_err(refused)?;
    let mut term = signal(SignalKind::terminate()).map_err(refused)?;
    let mut hup = signal(SignalKind::hangup()).map_err(refused)?;
    let announce = async {
        if let Ok(ready) = ready.await {
            announce(&settings, &ready)?;
        }
        Ok::<_, Failure>(())
    };
    tokio::pin!(announce);

    let (mut announced, mut number) = (false, 0_u8);
    loop {
        number = tokio::select! {
            ended = &mut daemon => return over(ended),
            told = &mut announce, if !announced => {
                announced = true;
                // Nobody reads our stdout: that is no reason not to serve.
                told.or_else(|failure| if failure.is_broken_pipe() { Ok(()) } else { Err(failure) })?;
                continue;
            }
            Some(()) = hup.recv() => {
                shutdown.reload.notify_one();
                continue;
            }
            Some(()) = int.recv() => 2,
            Some(()) = term.recv() => 15,
        }
        .max(number);
        if shutdown.drain.is_cancelled() {
            break;
        }
        tracing::info!("draining: running calls may go on for 30 s, a second signal stops at once");
        shutdown.drain.cancel();
    }
    shutdown.stop.cancel();
    // In vain or not: the user said it twice.
    let _ = tokio::time::timeout(LAST_MOMENT, daemon).await;
    Ok(128 + number)
}

/// What the end of the daemon means.
///
/// # Errors
/// 78 for settings that cannot be, else what went wrong.
pub(super) fn over(ended: Result<Result<(), Error>, tokio::task::JoinError>) -> Result<u8> {
    match ended {
        Ok(Ok(())) => Ok(OK),
        Ok(Err(error)) if error.reason == Reason::InvalidArgument => Err(Failure::configuration(report(&error))),
        Ok(Err(error)) => Err(error.into()),
        Err(error) => Err(Failure::new(FAILURE, "INTERNAL", format!("the daemon: {error}"))),
    }
}

/// The one line that says that all doors are open.
fn announce(settings: &Settings, ready: &Ready) -> Result<()> {
    let mut line = format!(
        "drydock {} ready  socket: {}  (only uid {} can connect)  data: {}",
        env!("CARGO_PKG_VERSION"),
        ready.socket.display(),
        rustix::process::getuid().as_raw(),
        settings.data_dir.display()
    );
    let scheme = if ready.tls { "https" } else { "http" };
    for address in &ready.listen {
        let _ = write!(line, "  {scheme}://{address}");
    }
    if let Some(address) = &ready.metrics {
        let _ = write!(line, "  metrics: http://{address}/metrics");
    }
    if let Some(file) = &ready.token_file {
        let _ = write!(line, "  token: {}", file.display());
    }
    output::print(&line)?;
    eprintln!(
        "drydock: a local host isolates nothing from its own user: whoever leases it can do what you can do here"
    );
    Ok(())
}

/// Logs to stderr: for people on a terminal, else one JSON object a line. `DRYDOCK_LOG` or `RUST_LOG` say how much.
///
/// # Errors
/// 78 for a filter that cannot be.
pub(super) fn log(format: LogFormat) -> Result<()> {
    let words = ["DRYDOCK_LOG", "RUST_LOG"].into_iter().find_map(|name| {
        let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
        Some((name, value))
    });
    let filter = match &words {
        None => EnvFilter::new("info"),
        Some((name, value)) => {
            EnvFilter::try_new(value).map_err(|error| Failure::configuration(format!("{name} {value:?}: {error}")))?
        }
    };
    let human = match format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Json => false,
        LogFormat::Text => true,
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second subscriber is refused: the first one, of whoever embeds us, stays.
    let _ = if human { log.compact().try_init() } else { log.json().flatten_event(true).try_init() };
    Ok(())
}
