//! Driver `builtin`: the static server in our own binary, so only where that is installed.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::installed::check_root;
use super::{Httpd, Report, Seat, StartError, Status, tell};
use crate::error::{Error, Reason, Result};
use crate::host::Command;

/// The driver.
pub struct Builtin;

impl Builtin {
    /// Its name.
    pub const NAME: &str = "builtin";
}

const START_LIMIT: Duration = Duration::from_secs(10);
const STOP_GRACE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

#[async_trait]
impl Httpd for Builtin {
    async fn status(&self, seat: &Seat) -> Result<Status> {
        let pid = running_pid(seat).await?;
        let running = pid.is_some() && seat.answers().await;
        Ok(Status {
            driver: Self::NAME,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            running,
            pid,
            listen_addresses: vec![seat.site.listens_on()],
        })
    }

    async fn test(&self, seat: &Seat, report: &Report) -> Result<()> {
        if seat.host.executable().is_none() {
            let why = "the driver builtin needs drydock on the leased host, which is only so on the local host: choose nginx \
                       or apache2 in the blueprint";
            return Err(Error::new(Reason::HttpdConfigInvalid, why));
        }
        check_root(&seat.site)?;
        tell(report, "config-test", format!("serves {}", seat.site.document_root.display()));
        Ok(())
    }

    async fn start(&self, seat: &Seat, report: &Report) -> Result<(), StartError> {
        if let Some(pid) = running_pid(seat).await? {
            tell(report, "start", format!("runs already, pid {pid}"));
        } else {
            let pid = launch(seat).await?;
            tell(report, "start", format!("pid {pid}"));
            wait_for_answer(seat, pid).await?;
        }
        if !seat.answers().await {
            let why = format!("the server on port {} runs and does not answer; restart it", seat.site.port);
            return Err(Error::new(Reason::CommandFailed, why).into());
        }
        tell(report, "probe", format!("{} answers", seat.site.listens_on()));
        Ok(())
    }

    async fn stop(&self, seat: &Seat, report: &Report) -> Result<()> {
        let message = match running_pid(seat).await? {
            Some(pid) => {
                seat.host.stop(pid, &seat.site.owner, STOP_GRACE).await?;
                format!("pid {pid} ended")
            }
            None => "did not run".to_owned(),
        };
        // One that was launched and did not come to write its pid down.
        seat.host.end_strays(&seat.site.owner).await?;
        tell(report, "stop", message);
        Ok(())
    }

    async fn reload(&self, seat: &Seat, report: &Report) -> Result<()> {
        match running_pid(seat).await? {
            Some(pid) => {
                tell(report, "reload", format!("pid {pid} reads every file afresh: there is nothing to take in"));
                Ok(())
            }
            None => Err(Error::new(Reason::CommandFailed, "the web server does not run; start it")),
        }
    }
}

/// The server that wrote its pid down, if it still runs.
async fn running_pid(seat: &Seat) -> Result<Option<i64>> {
    let text = seat.host.read_text(&seat.folder.join("pid")).await?;
    let Some(pid) = text.and_then(|text| text.trim().parse().ok()) else { return Ok(None) };
    Ok(seat.host.is_running(pid, &seat.site.owner).await.then_some(pid))
}

async fn launch(seat: &Seat) -> Result<i64, StartError> {
    let site = &seat.site;
    // Whatever an earlier start left: it would hold the port.
    seat.host.end_strays(&site.owner).await?;
    if !seat.host.port_is_free(site.port).await {
        return Err(StartError::PortTaken(site.port));
    }
    let Some(executable) = seat.host.executable() else {
        return Err(Error::new(Reason::HttpdConfigInvalid, "drydock is not installed on the leased host").into());
    };
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let mut argv = vec![
        text(executable),
        super::serve::SUBCOMMAND.to_owned(),
        format!("--root={}", text(&site.document_root)),
        format!("--within={}", text(&site.within)),
        format!("--listen={}", site.listens_on()),
        format!("--pid-file={}", text(&seat.folder.join("pid"))),
    ];
    argv.extend(site.server_name.as_ref().map(|name| format!("--server-name={name}")));
    let command = Command { argv, cwd: seat.folder.clone(), lease_id: site.owner.clone(), ..Command::default() };
    Ok(seat.host.launch(command, &seat.folder.join("log")).await?)
}

/// Until it has written its pid down and answers. A stranger on the port is not taken for it.
async fn wait_for_answer(seat: &Seat, pid: i64) -> Result<(), StartError> {
    let until = Instant::now() + START_LIMIT;
    let mut poll = interval(POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        poll.tick().await;
        if running_pid(seat).await?.is_some() && seat.answers().await {
            return Ok(());
        }
        let died = !seat.host.is_running(pid, &seat.site.owner).await;
        if died || Instant::now() > until {
            let log = seat.host.read_text(&seat.folder.join("log")).await?.unwrap_or_default();
            let last = log.lines().last().unwrap_or("it said nothing").to_owned();
            seat.host.end_strays(&seat.site.owner).await?;
            if died && !seat.host.port_is_free(seat.site.port).await {
                return Err(StartError::PortTaken(seat.site.port));
            }
            let how = if died { "ended at once" } else { "did not answer in 10 s" };
            return Err(Error::new(Reason::CommandFailed, format!("the web server {how}: {last}")).into());
        }
    }
}
