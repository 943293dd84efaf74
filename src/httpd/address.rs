//! Where a site listens, and where it is reached from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Seat, Site};

impl Site {
    /// For example `127.0.0.1:8081`.
    #[must_use]
    pub fn listens_on(&self) -> String {
        match self.address.parse() {
            Ok(ip) => SocketAddr::new(ip, self.port).to_string(),
            Err(_) => format!("{}:{}", self.address, self.port),
        }
    }

    /// Where it is asked from the host itself.
    pub(super) fn own_address(&self) -> String {
        match self.address.parse() {
            Ok(IpAddr::V4(ip)) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.to_string(),
            Ok(IpAddr::V6(ip)) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.to_string(),
            _ => self.address.clone(),
        }
    }
}

impl Seat {
    /// The absolute URI of a path; what a URI cannot hold is escaped.
    #[must_use]
    pub fn uri(&self, path: &str) -> String {
        let path = path.strip_prefix('/').unwrap_or(path);
        let path = percent_encoding::utf8_percent_encode(path, ESCAPED);
        let host = match self.reached_at().parse() {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
            _ => self.reached_at().to_owned(),
        };
        format!("http://{host}:{}/{path}", self.site.port)
    }

    /// The address under which it is reached: the one it listens on, or the host's when it listens on all.
    #[must_use]
    pub fn reached_at(&self) -> &str {
        let is_all = self.site.address.parse().is_ok_and(|address: IpAddr| address.is_unspecified());
        if is_all { self.host.address() } else { &self.site.address }
    }

    /// Whether only the leased host itself reaches it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.site.address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }
}

/// All but what a path may hold as it is; `?`, `#` and `%` of a file's name must not be read as more than that.
const ESCAPED: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');
