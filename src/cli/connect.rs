//! Finding and calling a daemon, and another one when it goes.

mod address;
mod dial;
mod link;

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use tonic::{Request, Status};
use tonic_health::pb::health_client::HealthClient;

use super::exit::Result;
use crate::proto::v1::blueprint_service_client::BlueprintServiceClient;
use crate::proto::v1::command_service_client::CommandServiceClient;
use crate::proto::v1::event_service_client::EventServiceClient;
use crate::proto::v1::filesystem_service_client::FilesystemServiceClient;
use crate::proto::v1::httpd_service_client::HttpdServiceClient;
use crate::proto::v1::lease_service_client::LeaseServiceClient;
use crate::proto::v1::resource_service_client::ResourceServiceClient;
use crate::proto::v1::system_service_client::SystemServiceClient;
use crate::proto::v1::task_service_client::TaskServiceClient;
use address::{Address, parse, sockets};
use dial::Trust;
pub use link::Link;

/// Answers may be this large: a page of 500 leases with long facts stays far below.
const MESSAGE_LIMIT: usize = 32 * 1024 * 1024;
/// How long an answer may take beyond the patience that the request itself asks for.
const MARGIN: Duration = Duration::from_secs(30);

/// A daemon that answers, or after its end another one of those that were named.
#[derive(Debug, Clone)]
pub struct Daemon {
    link: Link,
}

impl Daemon {
    /// Where, for people: `unix:/path` or `https://host:7420`.
    #[must_use]
    pub fn address(&self) -> String {
        self.link.address()
    }

    /// Whether there are others to go on with.
    #[must_use]
    pub fn has_others(&self) -> bool {
        self.link.has_others()
    }

    /// Whether a call that ended so should be made again, what is left of it: the daemon was lost or goes down, and there are
    /// others. The next call finds one that serves.
    pub async fn goes_on(&self, status: &Status) -> bool {
        self.link.has_others() && link::is_lost(status) && {
            link::pause().await;
            true
        }
    }
}

macro_rules! clients {
    ($($(#[$doc:meta])* $name:ident: $client:ident),+ $(,)?) => {
        impl Daemon {
            $($(#[$doc])*
            #[must_use]
            pub fn $name(&self) -> $client<Link> {
                $client::new(self.link.clone()).max_decoding_message_size(MESSAGE_LIMIT)
            })+
        }
    };
}

clients! {
    /// Leases.
    leases: LeaseServiceClient,
    /// Resources.
    resources: ResourceServiceClient,
    /// Blueprints.
    blueprints: BlueprintServiceClient,
    /// Commands.
    commands: CommandServiceClient,
    /// Files.
    files: FilesystemServiceClient,
    /// Web servers.
    httpd: HttpdServiceClient,
    /// Events.
    events: EventServiceClient,
    /// Tasks.
    tasks: TaskServiceClient,
    /// The daemon itself.
    system: SystemServiceClient,
    /// Its health.
    health: HealthClient,
}

/// A request with a deadline a little beyond `patience`, so that a daemon that hangs is noticed.
pub fn within<T>(patience: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(patience.saturating_add(MARGIN));
    request
}

/// A request whose answer should come at once.
pub fn soon<T>(message: T) -> Request<T> {
    within(Duration::ZERO, message)
}

/// Connects to the first address that answers: `--addr` or `DRYDOCK_ADDR`, else the default sockets. When that daemon goes, calls
/// go on with the next one.
///
/// # Errors
/// 69 when none answers, 64 for an address that cannot be, 77 for a token file that cannot be read, 78 for a file of CAs that
/// cannot be.
pub async fn connect(addresses: Option<&str>) -> Result<Daemon> {
    let said = |name: &str| env::var(name).ok();
    let (addresses, named) = match addresses {
        Some(list) => (parse(list)?, true),
        None => (sockets(&said).into_iter().map(Address::Unix).collect(), false),
    };
    let trust = Trust::of(&addresses, &said)?;
    let link = Link::open(addresses, trust, dial::token(&said)?, named).await?;
    Ok(Daemon { link })
}

/// Connects to a socket, without a token: its peer credentials say who we are.
///
/// # Errors
/// 69 when nobody answers there.
pub async fn connect_socket(socket: PathBuf) -> Result<Daemon> {
    Ok(Daemon { link: Link::open(vec![Address::Unix(socket)], Trust::System, None, false).await? })
}
