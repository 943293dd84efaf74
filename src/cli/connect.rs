//! Finding and calling a daemon.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_health::pb::health_client::HealthClient;

use super::exit::{Failure, PERMISSION, Result, UNAVAILABLE};
use crate::config;
use crate::proto::v1::blueprint_service_client::BlueprintServiceClient;
use crate::proto::v1::command_service_client::CommandServiceClient;
use crate::proto::v1::event_service_client::EventServiceClient;
use crate::proto::v1::filesystem_service_client::FilesystemServiceClient;
use crate::proto::v1::httpd_service_client::HttpdServiceClient;
use crate::proto::v1::lease_service_client::LeaseServiceClient;
use crate::proto::v1::resource_service_client::ResourceServiceClient;
use crate::proto::v1::system_service_client::SystemServiceClient;
use crate::proto::v1::task_service_client::TaskServiceClient;

/// Answers may be this large: a page of 500 leases with long facts stays far below.
const MESSAGE_LIMIT: usize = 32 * 1024 * 1024;
/// Largest HTTP/2 frame taken, in bytes: a chunk of output comes in one, not in several of the default size of 16 KiB.
const MAX_FRAME: u32 = 256 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(20);
/// How long an answer may take beyond the patience that the request itself asks for.
const MARGIN: Duration = Duration::from_secs(30);

/// A channel that shows the caller's token.
pub type Link = InterceptedService<Channel, Bearer>;

/// Adds `authorization: Bearer …` to each call, if there is a token.
#[derive(Debug, Clone, Default)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// A daemon that answers.
#[derive(Debug, Clone)]
pub struct Daemon {
    link: Link,
    /// Where, for people: `unix:/path` or `http://127.0.0.1:7420`.
    pub address: String,
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

/// Connects to the first address that answers: `--addr` or `DRYDOCK_ADDR`, else the default sockets.
///
/// # Errors
/// 69 when none answers, 64 for an address that cannot be, 77 for a token file that cannot be read.
pub async fn connect(addresses: Option<&str>) -> Result<Daemon> {
    let addresses = match addresses {
        Some(list) => parse(list)?,
        None => sockets(&|name| env::var(name).ok()).into_iter().map(Address::Unix).collect(),
    };
    let bearer = token()?;
    let mut tried = Vec::new();
    for address in addresses {
        match dial(&address).await {
            Ok(channel) => {
                return Ok(Daemon { link: InterceptedService::new(channel, bearer), address: address.to_string() });
            }
            Err(why) => tried.push(format!("{address} ({why})")),
        }
    }
    Err(Failure::new(
        UNAVAILABLE,
        "NO_DAEMON",
        format!("no daemon answers at {}; start one with `drydock up`", tried.join(" or ")),
    ))
}

/// Connects to a socket, without a token: its peer credentials say who we are.
///
/// # Errors
/// 69 when nobody answers there.
pub async fn connect_socket(socket: PathBuf) -> Result<Daemon> {
    let address = Address::Unix(socket);
    match dial(&address).await {
        Ok(channel) => {
            Ok(Daemon { link: InterceptedService::new(channel, Bearer::default()), address: address.to_string() })
        }
        Err(why) => Err(Failure::new(UNAVAILABLE, "NO_DAEMON", format!("no daemon answers at {address} ({why})"))),
    }
}

/// Where a daemon may be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Unix(PathBuf),
    Http(String),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Http(url) => f.write_str(url),
        }
    }
}

/// Reads a list such as `unix:/run/drydock.sock,http://127.0.0.1:7420`.
fn parse(list: &str) -> Result<Vec<Address>> {
    let addresses = list
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .map(|word| {
            if let Some(path) = word.strip_prefix("unix:") {
                return Ok(Address::Unix(PathBuf::from(path.strip_prefix("//").unwrap_or(path))));
            }
            if word.starts_with("https://") {
                return Err(Failure::usage(format!(
                    "{word}: TLS is not built yet; use unix:/PATH or http://127.0.0.1:PORT"
                )));
            }
            let uri: Option<Uri> = word.parse().ok();
            match uri {
                Some(uri) if uri.scheme_str() == Some("http") && uri.host().is_some() => {
                    // A token must not cross a network in clear.
                    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
                    let loopback = host == "localhost"
                        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
                    if loopback {
                        Ok(Address::Http(word.trim_end_matches('/').to_owned()))
                    } else {
                        Err(Failure::usage(format!("{word}: plain http is for loopback addresses only")))
                    }
                }
                _ => Err(Failure::usage(format!(
                    "{word:?} is not an address such as unix:/PATH or http://127.0.0.1:7420"
                ))),
            }
        })
        .collect::<Result<Vec<_>>>()?;
    if addresses.is_empty() {
        return Err(Failure::usage("DRYDOCK_ADDR names no address"));
    }
    Ok(addresses)
}

/// The sockets where a daemon of this user listens, likeliest first.
fn sockets(env: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    if let Some(socket) = env("DRYDOCK_SOCKET").filter(|path| !path.is_empty()) {
        return vec![PathBuf::from(socket)];
    }
    let mut places = Vec::new();
    let explicit = env("DRYDOCK_DATA_DIR").filter(|folder| !folder.is_empty());
    if explicit.is_none()
        && let Some(folder) = config::runtime_dir(env)
    {
        places.push(folder.join(config::SOCKET_NAME));
    }
    if let Some(folder) = explicit.map(PathBuf::from).or_else(|| config::default_data_dir(env)) {
        places.push(folder.join(config::SOCKET_NAME));
    }
    places
}

async fn dial(address: &Address) -> Result<Channel, String> {
    let endpoint = match address {
        // The HTTP/2 library refuses a path as authority.
        Address::Unix(path) => Endpoint::from_shared(format!("unix:{}", path.display()))
            .map(|it| it.origin(Uri::from_static("http://localhost"))),
        Address::Http(url) => Endpoint::from_shared(url.clone()),
    };
    let endpoint = endpoint
        .and_then(|it| it.user_agent(concat!("drydock-cli/", env!("CARGO_PKG_VERSION"))))
        .map_err(|error| error.to_string())?
        .max_frame_size(MAX_FRAME)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true);
    endpoint.connect().await.map_err(|error| {
        let mut deepest: &dyn std::error::Error = &error;
        while let Some(cause) = deepest.source() {
            deepest = cause;
        }
        deepest.to_string()
    })
}

/// The token of `DRYDOCK_TOKEN`, or of the file in `DRYDOCK_TOKEN_FILE`.
fn token() -> Result<Bearer> {
    let secret = match env::var("DRYDOCK_TOKEN") {
        Ok(token) if !token.is_empty() => token,
        _ => match env::var_os("DRYDOCK_TOKEN_FILE").filter(|path| !path.is_empty()) {
            None => return Ok(Bearer::default()),
            Some(path) => std::fs::read_to_string(&path).map_err(|error| {
                Failure::new(
                    PERMISSION,
                    "UNAUTHENTICATED",
                    format!("DRYDOCK_TOKEN_FILE {}: {error}", PathBuf::from(&path).display()),
                )
            })?,
        },
    };
    let mut value: MetadataValue<Ascii> = format!("Bearer {}", secret.trim())
        .parse()
        .map_err(|_| Failure::new(PERMISSION, "UNAUTHENTICATED", "the token holds characters that no token has"))?;
    value.set_sensitive(true);
    Ok(Bearer(Some(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_turn() {
        let list = parse("unix:/run/d.sock, http://127.0.0.1:7420/,unix:///x").unwrap();
        let shown: Vec<_> = list.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["unix:/run/d.sock", "http://127.0.0.1:7420", "unix:/x"]);
        for wrong in ["", "https://localhost:1", "ftp://x", "127.0.0.1:7420", "http://10.0.0.7:7420"] {
            assert_eq!(parse(wrong).unwrap_err().code, 64, "{wrong}");
        }
    }

    #[test]
    fn sockets_follow_the_daemon_rule() {
        let full = |name: &str| match name {
            "XDG_RUNTIME_DIR" => Some("/run/user/7".to_owned()),
            "HOME" => Some("/home/x".to_owned()),
            _ => None,
        };
        let expected = ["/run/user/7/drydock/drydock.sock", "/home/x/.local/state/drydock/drydock.sock"];
        assert_eq!(sockets(&full), expected.map(PathBuf::from));
        let explicit = |name: &str| if name == "DRYDOCK_DATA_DIR" { Some("/d".to_owned()) } else { full(name) };
        assert_eq!(sockets(&explicit), [PathBuf::from("/d/drydock.sock")]);
        let said = |name: &str| if name == "DRYDOCK_SOCKET" { Some("/s/own.sock".to_owned()) } else { explicit(name) };
        assert_eq!(sockets(&said), [PathBuf::from("/s/own.sock")]);
    }
}
