//! A configuration that is being tried. The last one that passed is kept in the site's folder, so that one that does not
//! pass is taken back, also when the daemon was killed in between.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::found::{last_words, run};
use super::{Report, Seat, tell};
use crate::error::{Error, Reason, Result};
use crate::host::Ran;

/// The last configuration that passed: paths and texts.
const GOOD: &str = "good.json";

/// Writes its input to `$1`, by way of a sibling that no pattern for files of sites takes in.
const PUT: &str = r#"umask 022; new="${1%/*}/.${1##*/}.new"; cat >"$new" && mv -f "$new" "$1""#;

/// Files of a configuration, by path.
pub(super) struct Draft(pub(super) BTreeMap<PathBuf, String>);

impl Draft {
    /// Writes them, has them tested, and keeps them; or puts back what was there.
    ///
    /// # Errors
    /// `HTTPD_CONFIG_INVALID` with what the test said.
    pub(super) async fn adopt(&self, seat: &Seat, test: &[String], report: &Report) -> Result<()> {
        let tried = self.attempt(seat, test).await;
        match tried {
            Ok(words) => {
                let good = serde_json::to_string(&self.0)
                    .map_err(|error| Error::internal("the configuration cannot be written down", error))?;
                seat.host.write_text(&seat.folder.join(GOOD), &good).await?;
                tell(report, "config-test", words);
                Ok(())
            }
            Err(error) => {
                self.roll_back(seat).await?;
                Err(error)
            }
        }
    }

    async fn attempt(&self, seat: &Seat, test: &[String]) -> Result<String> {
        for (path, text) in &self.0 {
            put(seat, path, text).await?;
        }
        let ran = run(seat.host.as_ref(), &seat.site.owner, test.iter().map(String::as_str), "").await?;
        let words = last_words(&ran.stderr_tail);
        if ran.succeeded() {
            return Ok(words);
        }
        let kept = if good(seat).await?.is_empty() { "" } else { ", the last good one is kept" };
        let why = format!("the web server's configuration is not valid{kept}: {words}");
        Err(Error::new(Reason::HttpdConfigInvalid, why).with("stderr_tail", ran.stderr_tail))
    }

    /// Puts the last good one back; files that it does not have go.
    ///
    /// # Errors
    /// Those of the host.
    pub(super) async fn roll_back(&self, seat: &Seat) -> Result<()> {
        let good = good(seat).await?;
        for path in self.0.keys() {
            match good.get(path) {
                Some(text) => put(seat, path, text).await?,
                None => remove(seat, path).await?,
            }
        }
        Ok(())
    }
}

/// Forgets the last good one.
///
/// # Errors
/// Those of the host.
pub(super) async fn forget(seat: &Seat) -> Result<()> {
    seat.host.write_text(&seat.folder.join(GOOD), "{}").await
}

/// The last configuration that passed; empty when none did.
///
/// # Errors
/// Those of the host.
pub(super) async fn good(seat: &Seat) -> Result<BTreeMap<PathBuf, String>> {
    let text = seat.host.read_text(&seat.folder.join(GOOD)).await?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}

/// Removes a file; gone is fine.
///
/// # Errors
/// `PERMISSION_DENIED` with the words of rm(1).
pub(super) async fn remove(seat: &Seat, path: &Path) -> Result<()> {
    let path = path.to_string_lossy();
    let ran = run(seat.host.as_ref(), &seat.site.owner, ["rm", "-f", "--", &path], "").await?;
    refuse(&ran, &format!("{path} cannot be removed"))
}

async fn put(seat: &Seat, path: &Path, text: &str) -> Result<()> {
    if path.starts_with(&seat.folder) {
        return seat.host.write_text(path, text).await;
    }
    let path = path.to_string_lossy();
    let ran = run(seat.host.as_ref(), &seat.site.owner, ["sh", "-c", PUT, "sh", &path], text).await?;
    refuse(
        &ran,
        &format!(
            "{path} cannot be written, which sites of the host's server need: be root there, or name a sites_folder of your own in the blueprint"
        ),
    )
}

fn refuse(ran: &Ran, what: &str) -> Result<()> {
    if ran.succeeded() {
        return Ok(());
    }
    Err(Error::new(Reason::PermissionDenied, format!("{what}: {}", last_words(&ran.stderr_tail))))
}
