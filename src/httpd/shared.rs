//! A site as a file of the host's own server: tested with all its others, taken in by a graceful reload.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::OwnedRwLockWriteGuard;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::draft::{self, Draft};
use super::found::{Found, last_words, run};
use super::installed::{Server, check_root, extra};
use super::instance::EXTRA;
use super::{Report, Seat, StartError, TURNS, tell};
use crate::error::{Error, Reason, Result};
use crate::host::Ran;

/// Until the server answers on a new port, or no longer on an old one.
const LIMIT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(20);

/// What the blueprint says of the host's server; empty is what its installation has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    /// Where it reads sites from.
    pub sites_folder: Option<PathBuf>,
    /// Tests all of its configuration.
    pub test_command: Vec<String>,
    /// Has it take the configuration in.
    pub reload_command: Vec<String>,
}

/// Where sites are, and the commands.
pub(super) struct Ways {
    /// Absolute; `None` when there is no such folder.
    pub(super) folder: Option<String>,
    /// The test.
    pub(super) test: Vec<String>,
    /// The graceful reload.
    pub(super) reload: Vec<String>,
}

/// Words: the folder of resources, the document root.
const OPEN: &str = include_str!("open.sh");
/// Words: the port in hex, the document root.
const READABLE: &str = include_str!("readable.sh");

/// What was written down when the site was put up: all that taking it down needs.
#[derive(Debug, Serialize, Deserialize)]
struct Put {
    file: PathBuf,
    test: Vec<String>,
    reload: Vec<String>,
}

/// In the site's folder, from before the file of the site is there until after it is gone.
const PUT: &str = "shared.json";

/// Whether the site is put up.
///
/// # Errors
/// Those of the host.
pub(super) async fn is_up(seat: &Seat) -> Result<bool> {
    Ok(!draft::good(seat).await?.is_empty())
}

/// Tests what would be put up, in the place of what is up. A site that is not up is tested when it is put up.
///
/// # Errors
/// `HTTPD_CONFIG_INVALID`: the one before is back.
pub(super) async fn test(
    server: &dyn Server,
    seat: &Seat,
    shared: &Shared,
    found: &Found,
    report: &Report,
) -> Result<()> {
    check_root(&seat.site)?;
    if !is_up(seat).await? {
        return Ok(());
    }
    let put = ways(server, seat, shared, found)?;
    let _turn = turn(seat, &put).await;
    draft(server, seat, &put).await?.adopt(seat, &put.test, report).await
}

/// Puts the site up, or what changed of it.
///
/// # Errors
/// `HTTPD_CONFIG_INVALID`: the one before is back; [`StartError::PortTaken`].
pub(super) async fn put(
    server: &dyn Server,
    seat: &Seat,
    shared: &Shared,
    found: &Found,
    report: &Report,
) -> Result<(), StartError> {
    check_root(&seat.site)?;
    let put = ways(server, seat, shared, found)?;
    let _turn = turn(seat, &put).await;
    if !is_up(seat).await? && !seat.host.port_is_free(seat.site.port).await {
        return Err(StartError::PortTaken(seat.site.port));
    }
    let written =
        serde_json::to_string(&put).map_err(|error| Error::internal("the site cannot be written down", error))?;
    seat.host.write_text(&seat.folder.join(PUT), &written).await?;
    let draft = draft(server, seat, &put).await?;
    // What is up and unchanged has just been tested.
    if draft.0 != draft::good(seat).await? {
        draft.adopt(seat, &put.test, report).await?;
    }
    let ran = command(seat, &put.reload).await?;
    if !ran.succeeded() {
        let words = last_words(&ran.stderr_tail);
        withdraw(seat, &put).await?;
        return Err(Error::new(
            Reason::CommandFailed,
            format!("the host's {} was not reloaded, the site is withdrawn: {words}", server.name()),
        )
        .into());
    }
    tell(report, "reload", format!("{} is taken in", put.file.display()));
    if !waited(seat, true).await {
        let why = format!(
            "the host's {} does not answer on {}; look into its error log",
            server.name(),
            seat.site.listens_on()
        );
        return Err(Error::new(Reason::CommandFailed, why).into());
    }
    let (resources, root) = (seat.host.data_dir().join("resources"), &seat.site.document_root);
    let words = ["sh", "-c", OPEN, "sh", &resources.to_string_lossy(), &root.to_string_lossy()];
    run(seat.host.as_ref(), &seat.site.owner, words, "").await?;
    if let Some(error) = closed(server, seat).await? {
        withdraw(seat, &put).await?;
        return Err(error.into());
    }
    tell(report, "probe", format!("{} answers", seat.site.listens_on()));
    Ok(())
}

/// Why nobody would get anything but 403: the server's workers are somebody else, and the folder of all resources is closed
/// to others. The way from there to what is served was opened; that folder itself is not, since with it go all others.
async fn closed(server: &dyn Server, seat: &Seat) -> Result<Option<Error>> {
    let (port, root) = (format!("{:04X}", seat.site.port), seat.site.document_root.to_string_lossy());
    let ran = run(seat.host.as_ref(), &seat.site.owner, ["sh", "-c", READABLE, "sh", &port, &root], "").await?;
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let Some((user, folder)) = said.lines().next().and_then(|line| line.split_once(' ')) else { return Ok(None) };
    let why = format!(
        "the host's {} serves as {user}, who may not go into {folder}: every request would be answered with 403, so the site \
         is withdrawn. Use mode instance, or let {user} through {} and each folder above it: setfacl -m u:{user}:x, or chmod o+x",
        server.name(),
        seat.host.data_dir().join("resources").display(),
    );
    Ok(Some(Error::new(Reason::HttpdConfigInvalid, why)))
}

/// Takes the site down.
///
/// # Errors
/// `COMMAND_FAILED` when the server goes on serving it; may be tried again.
pub(super) async fn remove(server: &dyn Server, seat: &Seat, report: &Report) -> Result<()> {
    let Some(text) = seat.host.read_text(&seat.folder.join(PUT)).await? else {
        tell(report, "stop", "was not put up".to_owned());
        return Ok(());
    };
    let put: Put = serde_json::from_str(&text).map_err(|error| Error::internal("shared.json is damaged", error))?;
    let _turn = turn(seat, &put).await;
    let ran = withdraw(seat, &put).await?;
    // A server that is down cannot be reloaded, and serves nothing.
    let is_gone = if ran.succeeded() { waited(seat, false).await } else { !seat.answers().await };
    if !is_gone {
        let words = last_words(&ran.stderr_tail);
        let why = format!(
            "{} is removed, and the host's {} still answers on {}: {words}",
            put.file.display(),
            server.name(),
            seat.site.listens_on()
        );
        return Err(Error::new(Reason::CommandFailed, why));
    }
    tell(report, "stop", format!("{} is removed", put.file.display()));
    Ok(())
}

/// Removes the file and reloads; the test comes first, so that others' mistakes do not end a server that runs.
async fn withdraw(seat: &Seat, put: &Put) -> Result<Ran> {
    draft::remove(seat, &put.file).await?;
    draft::forget(seat).await?;
    let tested = command(seat, &put.test).await?;
    if tested.succeeded() { command(seat, &put.reload).await } else { Ok(tested) }
}

/// The server's test reads everybody's sites, so only one may be on trial.
async fn turn(seat: &Seat, put: &Put) -> OwnedRwLockWriteGuard<()> {
    TURNS.alone(seat.host.as_ref(), put.file.parent().unwrap_or(&seat.folder)).await
}

async fn draft(server: &dyn Server, seat: &Seat, put: &Put) -> Result<Draft> {
    let own = seat.folder.join(EXTRA);
    Ok(Draft(BTreeMap::from([(put.file.clone(), server.site(seat, &own)?), (own, extra(seat).await?)])))
}

fn ways(server: &dyn Server, seat: &Seat, shared: &Shared, found: &Found) -> Result<Put> {
    let ways = server.shared(found);
    let has_own = shared.sites_folder.is_some() && !shared.test_command.is_empty() && !shared.reload_command.is_empty();
    if !found.is_root && !has_own {
        let why = "a site of the host's own server needs root there, or sites_folder, test_command and reload_command in the \
                   blueprint; mode instance needs neither";
        return Err(Error::new(Reason::HttpdConfigInvalid, why));
    }
    let Some(folder) = shared.sites_folder.clone().or_else(|| ways.folder.map(PathBuf::from)) else {
        let why =
            format!("no folder for sites of {} was found; name it as sites_folder in the blueprint", server.name());
        return Err(Error::new(Reason::HttpdConfigInvalid, why));
    };
    let or = |given: &[String], default: Vec<String>| if given.is_empty() { default } else { given.to_vec() };
    Ok(Put {
        file: folder.join(format!("drydock-{}.conf", seat.site.owner)),
        test: or(&shared.test_command, ways.test),
        reload: or(&shared.reload_command, ways.reload),
    })
}

async fn command(seat: &Seat, words: &[String]) -> Result<Ran> {
    run(seat.host.as_ref(), &seat.site.owner, words.iter().map(String::as_str), "").await
}

/// Waits until it answers, or no longer does.
async fn waited(seat: &Seat, wanted: bool) -> bool {
    let until = Instant::now() + LIMIT;
    let mut poll = interval(POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        poll.tick().await;
        if seat.answers().await == wanted {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
    }
}
