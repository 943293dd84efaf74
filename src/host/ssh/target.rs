//! Which machine, as whom, and how it proves that it is the one.
//!
//! All of it ends up in a configuration file and on a command line of ssh, so [`Target::check`] lets nothing through that
//! means something there: no line break, no quote, no option, no token that ssh expands.

use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use super::keys::HostKey;
use crate::error::{Error, Result};

/// A machine to be reached over ssh. Two equal targets are the same link.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// The id of the host's resource: names the link in control files and messages.
    pub id: String,
    /// A name or an address.
    pub address: String,
    /// TCP, 22 when nothing else is said.
    pub port: u16,
    /// Whom to be there.
    pub user: String,
    /// A private key, absolute; `None` leaves it to the agent.
    pub identity_file: Option<PathBuf>,
    /// Its certificate, absolute.
    pub certificate_file: Option<PathBuf>,
    /// The agent's socket, absolute; `None` uses none.
    pub identity_agent: Option<PathBuf>,
    /// `[user@]host[:port]`, through which the machine is reached. Its host key is looked up where the daemon's own user has
    /// it, or where `ssh_config` says.
    pub jump: Option<String>,
    /// A file of ssh's own configuration for names, addresses and jump hosts, absolute. What Drydock says itself wins; a
    /// port that is 22 here leaves the port to the file.
    pub ssh_config: Option<PathBuf>,
    /// The pinned host keys, each `ssh-ed25519 AAAA…`: nothing is sent to a machine that has none of them.
    pub host_keys: Vec<String>,
}

/// A jump host in its parts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Jump<'a> {
    pub(super) user: Option<&'a str>,
    pub(super) host: &'a str,
    pub(super) port: Option<u16>,
}

impl Target {
    /// Whether ssh may be given all of this.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`, which names the field and what is wrong with it.
    pub fn check(&self) -> Result<()> {
        self.check_way()?;
        if self.host_keys.is_empty() {
            return Err(wrong("host_keys", "is empty: at least one key must be pinned"));
        }
        for line in &self.host_keys {
            HostKey::parse(line).map_err(|why| wrong("host_keys", &why))?;
        }
        Ok(())
    }

    /// As [`Target::check`], without host keys: they are still to be scanned.
    ///
    /// # Errors
    /// As [`Target::check`].
    pub fn check_way(&self) -> Result<()> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if self.id.is_empty() || self.id.len() > 64 || self.id.starts_with(['-', '.']) || !self.id.chars().all(fits) {
            return Err(wrong("id", "is not 1 to 64 letters, digits, dots, dashes and underscores"));
        }
        check_host("address", &self.address)?;
        if self.port == 0 {
            return Err(wrong("port", "is 0"));
        }
        check_user("user", &self.user)?;
        let paths = [
            ("identity_file", &self.identity_file),
            ("certificate_file", &self.certificate_file),
            ("identity_agent", &self.identity_agent),
            ("ssh_config", &self.ssh_config),
        ];
        for (field, path) in paths {
            path.as_deref().map_or(Ok(()), |path| check_path(field, path))?;
        }
        // Include takes patterns.
        if self.ssh_config.as_deref().is_some_and(|path| path.to_string_lossy().contains(['*', '?', '[', ']'])) {
            return Err(wrong("ssh_config", "has one of * ? [ ] in its path, which ssh takes for a pattern"));
        }
        self.jump().map(|_| ())
    }

    /// The jump host, taken apart and checked.
    pub(super) fn jump(&self) -> Result<Option<Jump<'_>>> {
        let Some(text) = self.jump.as_deref() else { return Ok(None) };
        let (user, rest) = text.split_once('@').map_or((None, text), |(user, rest)| (Some(user), rest));
        // [::1]:22, ::1, host:22, host.
        let (host, port) = if let Some(inner) = rest.strip_prefix('[') {
            let (host, after) = inner.split_once(']').ok_or_else(|| wrong("jump", "has a [ without ]"))?;
            match after {
                "" => (host, None),
                _ => {
                    (host, Some(after.strip_prefix(':').ok_or_else(|| wrong("jump", "has more than a port after ]"))?))
                }
            }
        } else if rest.parse::<Ipv6Addr>().is_ok() {
            (rest, None)
        } else {
            rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port)))
        };
        if let Some(user) = user {
            check_user("jump", user)?;
        }
        check_host("jump", host)?;
        let digits = |port: &&str| port.bytes().all(|byte| byte.is_ascii_digit());
        let number = |port: &str| Some(port).filter(digits)?.parse::<u16>().ok().filter(|port| *port > 0);
        let port = port.map(|port| number(port).ok_or_else(|| wrong("jump", "has a port that is not 1 to 65535")));
        Ok(Some(Jump { user, host, port: port.transpose()? }))
    }
}

fn wrong(field: &str, what: &str) -> Error {
    Error::invalid(format!("{field} {what}")).with("field", field)
}

/// An IP address, or a name of letters, digits, dots, dashes and underscores.
///
/// # Errors
/// `INVALID_ARGUMENT`, which names the field.
pub fn check_host(field: &str, host: &str) -> Result<()> {
    if host.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let label = |label: &str| (1..=63).contains(&label.len()) && !label.starts_with('-') && label.chars().all(fits);
    if host.len() > 253 || !host.strip_suffix('.').unwrap_or(host).split('.').all(label) {
        return Err(wrong(field, "is neither an IP address nor a host name"));
    }
    Ok(())
}

fn check_user(field: &str, user: &str) -> Result<()> {
    let first = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let fits = |c: char| first(c) || matches!(c, '.' | '-');
    if !user.starts_with(first) || user.len() > 32 || !user.chars().all(fits) {
        return Err(wrong(field, "has a user that is not 1 to 32 letters, digits, dots, dashes and underscores"));
    }
    Ok(())
}

/// Absolute, and without what ssh's configuration takes for something else, even in quotes.
pub(super) fn check_path(field: &str, path: &Path) -> Result<()> {
    let Some(text) = path.to_str() else { return Err(wrong(field, "has a path that is not UTF-8")) };
    if !path.is_absolute() {
        return Err(wrong(field, "has a path that is not absolute"));
    }
    let forbidden = |c: char| c.is_control() || matches!(c, '"' | '\'' | '\\' | '%' | '$');
    if let Some(c) = text.chars().find(|c| forbidden(*c)) {
        return Err(wrong(field, &format!("has a path with {c:?}, which ssh's configuration cannot hold")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIlKZkdJUgPmSHqDvGNY4O6ybvN4pDYNkCqrmvOLqLHt";

    fn target() -> Target {
        Target {
            id: "box-1".to_owned(),
            address: "box.example".to_owned(),
            port: 22,
            user: "root".to_owned(),
            identity_file: Some("/keys/with space/id".into()),
            certificate_file: None,
            identity_agent: None,
            jump: None,
            ssh_config: None,
            host_keys: vec![KEY.to_owned()],
        }
    }

    fn refused(field: &str, target: &Target) {
        let error = target.check().expect_err(&format!("{target:?}"));
        assert_eq!(error.reason, Reason::InvalidArgument);
        assert!(error.message.starts_with(field), "{error} for {field}");
    }

    #[test]
    fn what_people_have_passes() {
        target().check().unwrap();
        for address in ["10.0.0.1", "::1", "fe80::1", "web_1", "a-b.example.org."] {
            Target { address: address.to_owned(), ..target() }.check().unwrap();
        }
        for user in ["root", "ec2-user", "_www", "j.doe"] {
            Target { user: user.to_owned(), ..target() }.check().unwrap();
        }
    }

    #[test]
    fn nothing_injects_an_option_or_a_line() {
        let hosts = [
            "",
            "-oProxyCommand=x",
            "a b",
            "a\nUser root",
            "a%h",
            "${HOME}",
            "a;id",
            "`id`",
            "a..b",
            "user@a",
            "a\"b",
            "a/b",
            "a,b",
        ];
        for host in hosts {
            refused("address", &Target { address: host.to_owned(), ..target() });
            refused("jump", &Target { jump: Some(host.replace('@', "@-")), ..target() });
        }
        for user in ["", "-l", "a b", "a\nHost *", "%r", "${USER}", "a@b", "a'b", "root;id", "ü"] {
            refused("user", &Target { user: user.to_owned(), ..target() });
        }
        for id in ["", "-x", ".hidden", "a/b", "a*", "!a", "a,b", "a b", "a\nb", "@revoked", "|1|x"] {
            refused("id", &Target { id: id.to_owned(), ..target() });
        }
        for path in ["id", "~/id", "/a\nProxyCommand id", "/a\"", "/a%d", "/${HOME}/id", "/a\\b", "/a'b", "/a\0b"] {
            let path = || Some(PathBuf::from(path));
            refused("identity_file", &Target { identity_file: path(), ..target() });
            refused("certificate_file", &Target { certificate_file: path(), ..target() });
            refused("identity_agent", &Target { identity_agent: path(), ..target() });
            refused("ssh_config", &Target { ssh_config: path(), ..target() });
        }
        refused("ssh_config", &Target { ssh_config: Some("/etc/ssh/*".into()), ..target() });
        refused("port", &Target { port: 0, ..target() });
        let keys = [
            "",
            "ssh-ed25519",
            "ssh-ed25519 ????",
            "x AAAA",
            &KEY.replace("ed25519", "rsa"),
            &format!("{KEY}\n* {KEY}"),
            &format!("* {KEY}"),
        ];
        for key in keys {
            refused("host_keys", &Target { host_keys: vec![key.to_owned()], ..target() });
        }
        refused("host_keys", &Target { host_keys: Vec::new(), ..target() });
    }

    #[test]
    fn a_jump_host_is_taken_apart() {
        let parts = |text: &str| {
            let target = Target { jump: Some(text.to_owned()), ..target() };
            target.jump().unwrap().map(|jump| (jump.user.map(str::to_owned), jump.host.to_owned(), jump.port)).unwrap()
        };
        assert_eq!(parts("gate"), (None, "gate".to_owned(), None));
        assert_eq!(parts("me@gate:2222"), (Some("me".to_owned()), "gate".to_owned(), Some(2222)));
        assert_eq!(parts("::1"), (None, "::1".to_owned(), None));
        assert_eq!(parts("me@[::1]:22"), (Some("me".to_owned()), "::1".to_owned(), Some(22)));
        for jump in ["a,b", "a:0", "a:+1", "a:99999", "[::1", "[::1]x", "-J", "a -oX=y", "@a", "a:22 b"] {
            refused("jump", &Target { jump: Some(jump.to_owned()), ..target() });
        }
    }
}
