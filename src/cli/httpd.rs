//! `drydock httpd`: the web server of a webroot.

use tokio_stream::StreamExt as _;
use tonic::{Request, Status};

use super::Globals;
use super::acquire::present;
use super::connect::{Daemon, soon};
use super::exit::{OK, Result};
use super::output::{self, Format};
use super::words;
use crate::proto::v1;

/// What to do with a web server.
#[derive(Debug, clap::Subcommand)]
pub enum Httpd {
    /// What runs.
    Status(Which),
    /// Start it; returns when its socket answers.
    Start(Which),
    /// Stop it; returns when its socket is closed.
    Stop(Which),
    /// Test its configuration, stop it, start it.
    Restart(Which),
    /// Test its configuration, reload it.
    Reload(Which),
    /// The absolute URI of a path.
    Uri {
        /// The lease; @ stands for the one in `DRYDOCK_LEASE_ID`.
        lease: String,
        /// Below the document root.
        #[arg(default_value = "/")]
        path: String,
    },
}

/// Which web server.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// The lease; @ stands for the one in `DRYDOCK_LEASE_ID`.
    lease: String,
}

/// Runs it.
///
/// # Errors
/// Those of the daemon.
pub async fn run(globals: &Globals, command: Httpd) -> Result<u8> {
    match command {
        Httpd::Status(which) => {
            let request = v1::GetHttpdRequest { lease_id: words::lease(&which.lease)? };
            let answer = globals.connect().await?.httpd().get_httpd(soon(request)).await?.into_inner();
            output::object(globals.output, &present(answer.httpd)?)?;
        }
        Httpd::Start(which) => operate(globals, Operation::Start, &which).await?,
        Httpd::Stop(which) => operate(globals, Operation::Stop, &which).await?,
        Httpd::Restart(which) => operate(globals, Operation::Restart, &which).await?,
        Httpd::Reload(which) => operate(globals, Operation::Reload, &which).await?,
        Httpd::Uri { lease, path } => {
            let request = v1::GetUriRequest { lease_id: words::lease(&lease)?, path };
            let answer = globals.connect().await?.httpd().get_uri(soon(request)).await?.into_inner();
            match globals.output {
                Format::Table | Format::Name => output::print(&answer.uri)?,
                format => output::print(&output::json("GetUriResponse", &answer, format == Format::Json)?)?,
            }
        }
    }
    Ok(OK)
}

/// What is done to a web server.
#[derive(Debug, Clone, Copy)]
pub enum Operation {
    /// Start.
    Start,
    /// Stop.
    Stop,
    /// Restart.
    Restart,
    /// Reload.
    Reload,
}

async fn operate(globals: &Globals, operation: Operation, which: &Which) -> Result<()> {
    let lease_id = words::lease(&which.lease)?;
    let daemon = globals.connect().await?;
    let httpd = operation.run(&daemon, lease_id, &mut |line| eprintln!("{line}")).await?;
    output::object(globals.output, &httpd)
}

impl Operation {
    /// Does it, tells each step, and answers with the server as it is then.
    ///
    /// # Errors
    /// Those of the daemon.
    pub async fn run(
        self,
        daemon: &Daemon,
        lease_id: String,
        tell: &mut (dyn FnMut(String) + Send),
    ) -> Result<v1::Httpd> {
        macro_rules! steps {
            ($method:ident, $request:ident) => {{
                let answers = daemon.httpd().$method(Request::new(v1::$request { lease_id })).await?.into_inner();
                last(answers.map(|answer| answer.map(|answer| answer.progress)), tell).await
            }};
        }
        match self {
            Self::Start => steps!(start_httpd, StartHttpdRequest),
            Self::Stop => steps!(stop_httpd, StopHttpdRequest),
            Self::Restart => steps!(restart_httpd, RestartHttpdRequest),
            Self::Reload => steps!(reload_httpd, ReloadHttpdRequest),
        }
    }
}

async fn last(
    mut steps: impl tokio_stream::Stream<Item = Result<Option<v1::HttpdProgress>, Status>> + Unpin,
    tell: &mut (dyn FnMut(String) + Send),
) -> Result<v1::Httpd> {
    let mut httpd = None;
    while let Some(step) = steps.next().await {
        let Some(step) = step? else { continue };
        let elapsed = step.elapsed.as_ref().map(|elapsed| words::spell(words::span(elapsed))).unwrap_or_default();
        tell(format!("  {:>6}  {:<12} {}", elapsed, step.step, step.message).trim_end().to_owned());
        httpd = step.httpd.or(httpd);
    }
    present(httpd)
}
