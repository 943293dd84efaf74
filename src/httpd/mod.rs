//! Web servers on leased hosts: one file per driver.
//!
//! What a site is lies in `site.json` in a folder beside the webroot, out of reach of the lease's own file calls. So an
//! interface call needs nothing but the webroot's place, and whoever takes the webroot down cannot be overtaken by a
//! restart: without `site.json` nothing is started.

mod address;
mod apache2;
mod builtin;
mod draft;
mod found;
mod installed;
mod instance;
mod nginx;
pub mod serve;
mod shared;

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::error::{Error, Reason, Result};
use crate::host::turns::Turns;
use crate::host::{Host, Place};

pub use builtin::Builtin;
pub use shared::Shared;

use installed::{Installed, Server};

/// The drivers; without a choice the first one that the host has.
const DRIVERS: [(&str, &dyn Httpd, Option<&dyn Server>); 3] = [
    (Builtin::NAME, &Builtin, None),
    ("nginx", &Installed(&nginx::Nginx), Some(&nginx::Nginx)),
    ("apache2", &Installed(&apache2::Apache2), Some(&apache2::Apache2)),
];

/// One operation at a time on a site, and none while it is taken down.
static TURNS: LazyLock<Turns> = LazyLock::new(Turns::default);

/// A site, as written down in its folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// `builtin`, `nginx`, `apache2`.
    pub driver: String,
    /// What is served; it may not exist yet.
    pub document_root: PathBuf,
    /// Links may lead anywhere in here, and not out of it.
    pub within: PathBuf,
    /// The IP address it listens on, for example `127.0.0.1`.
    pub address: String,
    /// TCP.
    pub port: u16,
    /// Other names are refused when it is set.
    pub server_name: Option<String>,
    /// Whom its processes belong to: the webroot's id.
    pub owner: String,
    /// More for the server's configuration, in the driver's language, within the site.
    #[serde(default)]
    pub config_snippet: String,
    /// A file on the host with more of it, read at each test.
    #[serde(default)]
    pub config_file: Option<PathBuf>,
    /// A site of the host's own server; else it has one of its own.
    #[serde(default)]
    pub shared: Option<Shared>,
}

/// What runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// `builtin`, `nginx`, `apache2`.
    pub driver: &'static str,
    /// Of the driver.
    pub version: String,
    /// Answers on its socket.
    pub running: bool,
    /// On the host; `None` when nothing runs.
    pub pid: Option<i64>,
    /// For example `127.0.0.1:8081`.
    pub listen_addresses: Vec<String>,
}

/// A step of an operation that was just finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// `config-test`, `stop`, `start`, `reload`, `probe`.
    pub step: &'static str,
    /// For people: what the tool said.
    pub message: String,
}

/// Where finished steps are told; nobody needs to listen.
pub type Report = mpsc::UnboundedSender<Stage>;

/// A site on its host: what a driver works on.
#[derive(Clone)]
pub struct Seat {
    /// Where.
    pub host: Arc<dyn Host>,
    /// `resources/<id>.httpd`.
    pub folder: PathBuf,
    /// What.
    pub site: Site,
}

/// A web server.
#[async_trait]
pub trait Httpd: Send + Sync {
    /// What runs.
    async fn status(&self, seat: &Seat) -> Result<Status>;

    /// Checks the configuration.
    ///
    /// # Errors
    /// `HTTPD_CONFIG_INVALID`.
    async fn test(&self, seat: &Seat, report: &Report) -> Result<()>;

    /// Returns when the socket answers; running already is fine.
    ///
    /// # Errors
    /// `COMMAND_FAILED` with what the server said.
    async fn start(&self, seat: &Seat, report: &Report) -> Result<(), StartError>;

    /// Returns when nothing of it runs any more.
    async fn stop(&self, seat: &Seat, report: &Report) -> Result<()>;

    /// Takes changed configuration in.
    ///
    /// # Errors
    /// `COMMAND_FAILED` when it does not run.
    async fn reload(&self, seat: &Seat, report: &Report) -> Result<()>;
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Somebody else listens there: another port helps.
    #[error("the port {0} is taken by somebody else")]
    PortTaken(u16),
    /// All else.
    #[error(transparent)]
    Other(#[from] Error),
}

impl From<StartError> for Error {
    fn from(error: StartError) -> Self {
        match error {
            StartError::PortTaken(_) => Self::new(Reason::CommandFailed, error.to_string()),
            StartError::Other(error) => error,
        }
    }
}

/// An operation on a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Config test, start.
    Start,
    /// Stop.
    Stop,
    /// Config test, stop, start.
    Restart,
    /// Config test, reload.
    Reload,
}

impl Seat {
    /// The site of the webroot whose root is `place.root`.
    ///
    /// # Errors
    /// `INTERFACE_NOT_SUPPORTED` when there is no site.
    pub async fn open(place: &Place) -> Result<Self> {
        let folder = folder_of(&place.root);
        let Some(text) = place.host.read_text(&folder.join("site.json")).await? else {
            return Err(Error::new(Reason::InterfaceNotSupported, "there is no web server; lease a webroot"));
        };
        let site = serde_json::from_str(&text).map_err(|error| Error::internal("site.json is damaged", error))?;
        Ok(Self { host: Arc::clone(&place.host), folder, site })
    }

    /// Writes the site down.
    ///
    /// # Errors
    /// Those of the host.
    pub async fn write(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.site)
            .map_err(|error| Error::internal("the site cannot be written", error))?;
        self.host.make_folder(&self.folder).await?;
        self.host.write_text(&self.folder.join("site.json"), &text).await
    }

    /// Takes the server and its folder away.
    ///
    /// # Errors
    /// Those of the host; may be tried again.
    pub async fn take_down(place: &Place) -> Result<()> {
        let _turn = TURNS.alone(place.host.as_ref(), &folder_of(&place.root)).await;
        let Ok(seat) = Self::open(place).await else {
            return place.host.remove_folder(&folder_of(&place.root)).await;
        };
        let (report, _) = mpsc::unbounded_channel();
        seat.driver()?.stop(&seat, &report).await?;
        seat.host.remove_folder(&seat.folder).await
    }

    /// Tests the configuration and starts it for the first time.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(&self) -> Result<(), StartError> {
        let _turn = TURNS.alone(self.host.as_ref(), &self.folder).await;
        let (report, _) = mpsc::unbounded_channel();
        let driver = self.driver()?;
        driver.test(self, &report).await?;
        driver.start(self, &report).await
    }

    /// What runs.
    ///
    /// # Errors
    /// Those of the driver.
    pub async fn status(&self) -> Result<Status> {
        self.driver()?.status(self).await
    }

    /// Whether it answers now.
    async fn answers(&self) -> bool {
        self.host.answers(&self.site.own_address(), self.site.port).await
    }

    fn driver(&self) -> Result<&'static dyn Httpd> {
        let known = DRIVERS.iter().find(|(name, _, _)| *name == self.site.driver);
        known
            .map(|(_, driver, _)| *driver)
            .ok_or_else(|| Error::new(Reason::HttpdConfigInvalid, format!("there is no driver {:?}", self.site.driver)))
    }
}

/// The driver for a host where none was asked for: `builtin` where Drydock's binary is, else `nginx`, else `apache2`.
///
/// # Errors
/// `HTTPD_CONFIG_INVALID` when there is none; those of the host.
pub async fn choose(host: &dyn Host, owner: &str) -> Result<&'static str> {
    for (name, _, server) in DRIVERS {
        let is_there = match server {
            None => host.executable().is_some(),
            Some(server) => found::Found::seek(host, server, owner).await?.is_some(),
        };
        if is_there {
            return Ok(name);
        }
    }
    let why =
        "there is no web server on the leased host: install one (Debian: apt-get install nginx-light, or apache2-bin)";
    Err(Error::new(Reason::HttpdConfigInvalid, why))
}

fn tell(report: &Report, step: &'static str, message: String) {
    // Nobody may be listening any more; the operation goes on.
    let _ = report.send(Stage { step, message });
}

/// Runs an operation on the webroot at `place`, alone; the site is read when it is its turn.
///
/// # Errors
/// Those of [`Httpd`], `INTERFACE_NOT_SUPPORTED` when the webroot was taken down meanwhile.
pub async fn operate(place: &Place, operation: Operation, report: &Report) -> Result<Status> {
    let _turn = TURNS.alone(place.host.as_ref(), &folder_of(&place.root)).await;
    let seat = Seat::open(place).await?;
    let driver = seat.driver()?;
    if operation != Operation::Stop {
        // A configuration that does not pass must not cost a server that runs.
        driver.test(&seat, report).await?;
    }
    match operation {
        Operation::Start => driver.start(&seat, report).await?,
        Operation::Stop => driver.stop(&seat, report).await?,
        Operation::Reload => driver.reload(&seat, report).await?,
        Operation::Restart => {
            driver.stop(&seat, report).await?;
            driver.start(&seat, report).await?;
        }
    }
    driver.status(&seat).await
}

/// The folder of the site of the webroot with this root.
#[must_use]
pub fn folder_of(root: &Path) -> PathBuf {
    let mut name = root.file_name().unwrap_or_default().to_owned();
    name.push(".httpd");
    root.with_file_name(name)
}
