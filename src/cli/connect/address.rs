//! Where daemons may be: what `--addr` and `DRYDOCK_ADDR` say, and the places where a daemon of this user listens.

use std::path::PathBuf;

use http::Uri;

use crate::cli::exit::{Failure, Result};
use crate::config;

/// Where a daemon may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// A socket on this machine.
    Unix(PathBuf),
    /// Loopback, in clear.
    Http(String),
    /// TLS.
    Https(String),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Http(url) | Self::Https(url) => f.write_str(url),
        }
    }
}

/// Reads a list such as `unix:/run/drydock.sock,http://127.0.0.1:7420`.
pub(super) fn parse(list: &str) -> Result<Vec<Address>> {
    let addresses = list
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .map(|word| {
            if let Some(path) = word.strip_prefix("unix:") {
                return Ok(Address::Unix(PathBuf::from(path.strip_prefix("//").unwrap_or(path))));
            }
            let uri: Option<Uri> = word.parse().ok();
            match uri {
                Some(uri) if uri.scheme_str() == Some("https") && uri.host().is_some() => {
                    Ok(Address::Https(word.trim_end_matches('/').to_owned()))
                }
                Some(uri) if uri.scheme_str() == Some("http") && uri.host().is_some() => {
                    // A token must not cross a network in clear.
                    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
                    let loopback = host == "localhost"
                        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
                    if loopback {
                        Ok(Address::Http(word.trim_end_matches('/').to_owned()))
                    } else {
                        Err(Failure::usage(format!(
                            "{word}: plain http is for loopback addresses only; a daemon that others can reach speaks TLS, \
                             https://HOST:PORT"
                        )))
                    }
                }
                _ => Err(Failure::usage(format!(
                    "{word:?} is not an address such as unix:/PATH, http://127.0.0.1:7420 or https://HOST:7420"
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
pub(super) fn sockets(env: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_turn() {
        let list = parse("unix:/run/d.sock, http://127.0.0.1:7420/,unix:///x,https://dock-1:7420").unwrap();
        let shown: Vec<_> = list.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["unix:/run/d.sock", "http://127.0.0.1:7420", "unix:/x", "https://dock-1:7420"]);
        for wrong in ["", "https://", "ftp://x", "127.0.0.1:7420", "http://10.0.0.7:7420"] {
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
