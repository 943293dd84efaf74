//! Web servers that are installed on the host. To add one: a file that implements [`Server`], and its line among the drivers.

use std::path::Path;

use async_trait::async_trait;

use super::found::Found;
use super::{Httpd, Report, Seat, Site, StartError, Status, instance, shared};
use crate::error::{Error, Reason, Result};

/// How one of them is told what to do.
pub(super) trait Server: Send + Sync {
    /// The driver's name.
    fn name(&self) -> &'static str;

    /// Names its program goes by.
    fn programs(&self) -> &'static [&'static str];

    /// What to install, on Debian.
    fn package(&self) -> &'static str;

    /// Paths whose existence matters for its configuration.
    fn marks(&self) -> &'static [&'static str];

    /// What stands before its version in what it says of itself.
    fn label(&self) -> &'static str;

    /// Will not serve as root.
    fn refuses_root(&self) -> bool {
        false
    }

    /// Name and text of an own instance's main file, which includes [`Server::site`].
    ///
    /// # Errors
    /// `HTTPD_CONFIG_INVALID` for what cannot be written into its language.
    fn main(&self, seat: &Seat, found: &Found) -> Result<(&'static str, String)>;

    /// The site alone, as a file for a server that serves others too; it includes the file `extra`.
    ///
    /// # Errors
    /// `HTTPD_CONFIG_INVALID` for what cannot be written into its language.
    fn site(&self, seat: &Seat, extra: &Path) -> Result<String>;

    /// The command that tests an own instance's configuration.
    fn test(&self, seat: &Seat, found: &Found) -> Vec<String>;

    /// The command that serves, in the foreground, and writes its pid to [`instance::SERVER_PID`].
    fn serve(&self, seat: &Seat, found: &Found) -> Vec<String>;

    /// The signal by which it takes in its configuration and finishes what it answers, for kill(1).
    fn graceful(&self) -> &'static str;

    /// Part of the command line of a worker that only finishes what it answers; `None` when that cannot be seen.
    fn retiring(&self) -> Option<&'static str>;

    /// Where the host's own server reads sites from (the first that is there), its test, and its graceful reload.
    fn shared(&self, found: &Found) -> shared::Ways;
}

/// The driver for a server that is installed on the host.
pub(super) struct Installed(pub(super) &'static dyn Server);

#[async_trait]
impl Httpd for Installed {
    async fn status(&self, seat: &Seat) -> Result<Status> {
        let pid = match seat.site.shared {
            Some(_) => None,
            None => instance::server_pid(seat).await?,
        };
        let is_up = if seat.site.shared.is_some() { shared::is_up(seat).await? } else { pid.is_some() };
        Ok(Status {
            driver: self.0.name(),
            version: seat.host.read_text(&seat.folder.join(VERSION)).await?.unwrap_or_default(),
            running: is_up && seat.answers().await,
            pid,
            listen_addresses: vec![seat.site.listens_on()],
        })
    }

    async fn test(&self, seat: &Seat, report: &Report) -> Result<()> {
        let found = Found::look(seat.host.as_ref(), self.0, &seat.site.owner).await?;
        seat.host.write_text(&seat.folder.join(VERSION), &found.version(self.0.label())).await?;
        match &seat.site.shared {
            Some(site) => shared::test(self.0, seat, site, &found, report).await,
            None => instance::test(self.0, seat, &found, report).await,
        }
    }

    async fn start(&self, seat: &Seat, report: &Report) -> Result<(), StartError> {
        let found = Found::look(seat.host.as_ref(), self.0, &seat.site.owner).await?;
        match &seat.site.shared {
            Some(site) => shared::put(self.0, seat, site, &found, report).await,
            None => instance::start(self.0, seat, &found, report).await,
        }
    }

    async fn stop(&self, seat: &Seat, report: &Report) -> Result<()> {
        match &seat.site.shared {
            Some(_) => shared::remove(self.0, seat, report).await,
            None => instance::stop(seat, report).await,
        }
    }

    async fn reload(&self, seat: &Seat, report: &Report) -> Result<()> {
        match &seat.site.shared {
            Some(site) if shared::is_up(seat).await? => {
                let found = Found::look(seat.host.as_ref(), self.0, &seat.site.owner).await?;
                Ok(shared::put(self.0, seat, site, &found, report).await?)
            }
            Some(_) => Err(Error::new(Reason::CommandFailed, "the site is stopped; start it")),
            None => instance::reload(self.0, seat, report).await,
        }
    }
}

/// The server's version as of the last test, so that a look at the status runs nothing.
const VERSION: &str = "version";

/// What is added to a site's configuration: the snippet, and the file as it is on the host now.
///
/// # Errors
/// `HTTPD_CONFIG_INVALID` when the file is not there.
pub(super) async fn extra(seat: &Seat) -> Result<String> {
    let mut text = seat.site.config_snippet.clone();
    if let Some(file) = &seat.site.config_file {
        let Some(more) = seat.host.read_text(file).await? else {
            let why = format!("the file {} that the blueprint's config_file names is not on the host", file.display());
            return Err(Error::new(Reason::HttpdConfigInvalid, why));
        };
        text.push('\n');
        text.push_str(&more);
    }
    text.push('\n');
    Ok(text)
}

/// A path between double quotes. The languages of the servers have no one way to write every character, and what is
/// written here may come from who asked for the lease: so what has a meaning in one of them is refused.
///
/// # Errors
/// `HTTPD_CONFIG_INVALID`.
pub(super) fn quoted(path: &Path) -> Result<String> {
    let odd = |c: char| c.is_control() || matches!(c, '"' | '\\' | '$' | '*' | '?' | '[' | ']' | '{' | '}' | '%');
    match path.to_str() {
        Some(text) if !text.contains(odd) => Ok(format!("\"{text}\"")),
        _ => {
            let why = format!(
                "the path {:?} cannot be written into a web server's configuration: it has one of \" \\ $ * ? [ ] {{ }} %, \
                 a control character, or is not UTF-8",
                path.display().to_string()
            );
            Err(Error::new(Reason::HttpdConfigInvalid, why))
        }
    }
}

/// The names that requests may be for, when there is one; others are answered with 421.
///
/// # Errors
/// `HTTPD_CONFIG_INVALID` for what is no name.
pub(super) fn names(site: &Site) -> Result<Option<String>> {
    let Some(name) = &site.server_name else { return Ok(None) };
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.')) {
        return Err(Error::new(Reason::HttpdConfigInvalid, format!("{name:?} is not a host name")));
    }
    let address = if site.address.contains(':') { format!("[{}]", site.address) } else { site.address.clone() };
    Ok(Some(format!("{name} localhost {address}")))
}

/// `Err` unless the document root lies where it may.
///
/// # Errors
/// `HTTPD_CONFIG_INVALID`.
pub(super) fn check_root(site: &Site) -> Result<()> {
    if site.document_root.starts_with(&site.within) {
        return Ok(());
    }
    let why = format!("{} is not under {}", site.document_root.display(), site.within.display());
    Err(Error::new(Reason::HttpdConfigInvalid, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_out_of_the_quotes() {
        assert_eq!(quoted(Path::new("/a b/c;d#e'f")).unwrap(), "\"/a b/c;d#e'f\"");
        for odd in ["/a\"b", "/a\nb", "/a\\", "/$uri", "/a*", "/[a]", "/a?", "/%{x}", "/a}"] {
            assert_eq!(quoted(Path::new(odd)).unwrap_err().reason, Reason::HttpdConfigInvalid, "{odd}");
        }
    }
}
