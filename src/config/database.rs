//! Where everything is kept: a URL that may hold a password, and what it takes to show it without.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::str::FromStr;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{Origin, Said, absolute, first};
use crate::error::{Error, Result};

/// A file with more is no secret of ours.
const MAX_FILE: u64 = 64 * 1024;
/// What may follow the question mark of a server's URL. Anything else is most likely a slip, and might be meant to be a secret.
const PARAMETERS: [&str; 14] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "host",
    "port",
    "dbname",
    "user",
    "password",
];

/// A database's URL. Whatever prints it, prints it without a password; who connects takes it by [`Deref`].
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

impl Deref for DatabaseUrl {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for DatabaseUrl {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<String> for DatabaseUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl FromStr for DatabaseUrl {
    type Err = std::convert::Infallible;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        Ok(Self(url.to_owned()))
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_password(&self.0))
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&without_password(&self.0), f)
    }
}

/// A database's URL as it may be shown: whatever stands between the user and the host, and what is asked for as a parameter,
/// is left out.
#[must_use]
pub fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    // A password may hold anything that a URL should not: the host begins behind the last @ of all.
    let (user, rest) = rest.rsplit_once('@').map_or((None, rest), |(user, rest)| (Some(user), rest));
    let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
    match user {
        Some(user) => format!("{scheme}://{}@{rest}", user.split_once(':').map_or(user, |(user, _)| user)),
        None => format!("{scheme}://{rest}"),
    }
}

/// The database that was said, out of the setting itself, the file that holds it, and the file with the password.
pub(super) fn resolve(url: &Said, url_file: &Said, password_file: &Said) -> Result<DatabaseUrl> {
    let held = match url_file.items.first() {
        None => None,
        Some(_) if rank(&url.origin) > rank(&url_file.origin) => None,
        // Neither beats the other, and one of them would be passed over in silence.
        Some(_) if rank(&url.origin) == rank(&url_file.origin) => {
            return Err(Error::invalid(format!(
                "database ({}) and database_file ({}) are two answers to one question; say one of them",
                url.origin, url_file.origin
            )));
        }
        Some(path) => {
            let text = secret("database_file", path)?;
            let said = Said { items: vec![text], origin: url_file.origin.clone() };
            Some(check(&said)?)
        }
    };
    let url = held.map_or_else(|| check(url), Ok)?;
    let Some(path) = password_file.items.first() else { return Ok(url) };
    with_password(&url, &secret("database_password_file", path)?).ok_or_else(|| {
        let origin = &password_file.origin;
        let why = "needs a database of the form postgres://USER@HOST/NAME, with a user and without a password";
        Error::invalid(format!("database_password_file ({origin}) {why}"))
    })
}

/// Flags beat the environment beats files.
const fn rank(origin: &Origin) -> u8 {
    match origin {
        Origin::Default => 0,
        Origin::File(..) => 1,
        Origin::Env(_) => 2,
        Origin::Flag(_) => 3,
    }
}

fn check(said: &Said) -> Result<DatabaseUrl> {
    let url = first(said);
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        check_parameters(url, said)?;
        return Ok(DatabaseUrl(url.to_owned()));
    }
    match url.strip_prefix("sqlite:") {
        Some(path) if !path.is_empty() => {
            Ok(DatabaseUrl(format!("sqlite:{}", absolute(path.strip_prefix("//").unwrap_or(path))?.display())))
        }
        _ => Err(Error::invalid(format!(
            "database {:?} ({}) is not of the form sqlite:PATH or postgres://USER@HOST/NAME",
            without_password(url),
            said.origin
        ))),
    }
}

/// Names only keys: a value may be a password.
fn check_parameters(url: &str, said: &Said) -> Result<()> {
    let behind_host = url.rsplit_once('@').map_or(url, |(_, rest)| rest);
    let Some((_, parameters)) = behind_host.split_once('?') else { return Ok(()) };
    for pair in parameters.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !PARAMETERS.contains(&key) {
            let known = "sslmode, sslrootcert, sslcert, sslkey, host, port, dbname, user, password";
            return Err(Error::invalid(format!(
                "database ({}): the URL has a parameter that is not known here, {key:?}; there are {known}",
                said.origin
            )));
        }
        let file = percent_decode_str(value).decode_utf8_lossy();
        if key.starts_with("ssl") && !key.ends_with("mode") && !file.starts_with("-----BEGIN") {
            readable(key, Path::new(&*file), said)?;
        }
        let modes = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
        if matches!(key, "sslmode" | "ssl-mode") && !modes.contains(&value) {
            let why = format!("sslmode {value:?} is none of {}", modes.join(", "));
            return Err(Error::invalid(format!("database ({}): {why}", said.origin)));
        }
    }
    Ok(())
}

/// Of the files that TLS to a server needs: without their names, what goes wrong later is hard to place.
fn readable(key: &str, path: &Path, said: &Said) -> Result<()> {
    let which = format!("database ({}): {key} {}", said.origin, path.display());
    let failed = |error: std::io::Error| Error::invalid(format!("{which} cannot be read")).because(error);
    let mode = File::open(path).and_then(|file| file.metadata()).map_err(failed)?.mode();
    if key.ends_with("key") && mode & 0o037 != 0 {
        let why = "it must be 0600, or 0640 for a group that may read it (chmod 600)";
        return Err(Error::invalid(format!("{which} has mode {:04o}; {why}", mode & 0o7777)));
    }
    Ok(())
}

/// `postgres://USER:PASSWORD@…`; `None` where there is no user, or a password already.
fn with_password(url: &str, password: &str) -> Option<DatabaseUrl> {
    let (scheme, rest) = url.split_once("://")?;
    let (user, rest) = rest.split_once('@')?;
    if user.is_empty() || user.contains([':', '/', '?']) {
        return None;
    }
    Some(DatabaseUrl(format!("{scheme}://{user}:{}@{rest}", utf8_percent_encode(password, NON_ALPHANUMERIC))))
}

/// A line of a file that nobody but us, root and perhaps a group of our choice can read.
///
/// # Errors
/// `INVALID_ARGUMENT`: it cannot be read, others can read it, it is empty. Never shows what is in it.
pub fn secret(setting: &str, path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let failed =
        |error: std::io::Error| Error::invalid(format!("{setting} {} cannot be read", path.display())).because(error);
    let file = File::open(path).map_err(failed)?;
    let facts = file.metadata().map_err(failed)?;
    if facts.mode() & 0o037 != 0 {
        return Err(Error::invalid(format!(
            "{setting} {} has mode {:04o}; it must be 0600, or 0640 for a group that may read it (chmod 600)",
            path.display(),
            facts.mode() & 0o7777
        )));
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(failed)?;
    let line = text.trim();
    if line.is_empty() || line.contains('\n') {
        return Err(Error::invalid(format!("{setting} {} must hold one line and nothing else", path.display())));
    }
    Ok(line.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::{Flags, resolve};
    use super::*;

    const NOWHERE: super::super::Env<'static> = &|name| (name == "HOME").then(|| "/home/x".to_owned());

    fn flags(values: &[(&'static str, &str)]) -> Flags {
        let values = values.iter().map(|(name, value)| (*name, vec![(*value).to_owned()])).collect();
        Flags { values, ..Flags::default() }
    }

    fn file(folder: &Path, name: &str, text: &str, mode: u32) -> String {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    }

    #[test]
    fn no_password_is_shown_by_anything_that_prints_settings() {
        for url in [
            "postgres://ann:s3cret@db/drydock",
            "postgres://ann:s3c@ret/s3cret?s3cret@db/drydock?sslmode=require",
            "postgres://ann@db/drydock?password=s3cret",
        ] {
            let said = flags(&[("database", url)]);
            let resolved = resolve(&said, NOWHERE).unwrap();
            assert_eq!(&*resolved.settings.database, url);
            let shown = format!("{resolved:?} {said:?} {}", resolved.settings.database);
            assert!(!shown.contains("s3c") && shown.contains("postgres://ann@db/drydock"), "{shown}");
        }
        for wrong in ["mysql://ann:s3cret@db", "postgre://ann:s3cret@db/x", "postgres://ann@db/x?passwort=s3cret"] {
            let error = resolve(&flags(&[("database", wrong)]), NOWHERE).unwrap_err();
            let said = format!("{} {error:?}", crate::error::report(&error));
            assert!(!said.contains("s3cret"), "{said}");
        }
    }

    #[test]
    fn secrets_come_from_files_that_others_cannot_read() {
        let folder = tempfile::tempdir().unwrap();
        let password = file(folder.path(), "password", "s3 cr:e@t/\n", 0o600);
        let whole = file(folder.path(), "url", "postgres://ann:s3cret@db/drydock\n", 0o640);
        let open = file(folder.path(), "open", "s3cret\n", 0o644);
        let url = "postgres://ann@db/drydock?sslmode=verify-full";
        let settings =
            resolve(&flags(&[("database", url), ("database_password_file", &password)]), NOWHERE).unwrap().settings;
        assert_eq!(&*settings.database, "postgres://ann:s3%20cr%3Ae%40t%2F@db/drydock?sslmode=verify-full");
        let settings = resolve(&flags(&[("database_file", &whole)]), NOWHERE).unwrap().settings;
        assert_eq!(&*settings.database, "postgres://ann:s3cret@db/drydock");
        for (wrong, word) in [
            (flags(&[("database", url), ("database_password_file", &open)]), "chmod 600"),
            (flags(&[("database", url), ("database_file", &whole)]), "two answers"),
            (flags(&[("database_file", &whole), ("database_password_file", &password)]), "without a password"),
            (flags(&[("database", "sqlite:/x"), ("database_password_file", &password)]), "postgres://USER@HOST"),
            (flags(&[("database_file", "/nowhere")]), "cannot be read"),
            (flags(&[("database", "postgres://a@b/c?sslmode=verify_full")]), "verify-full"),
            (
                flags(&[("database", "postgres://a@b/c?sslrootcert=/no%20where")]),
                "sslrootcert /no where cannot be read",
            ),
            (flags(&[("database", &format!("postgres://a@b/c?sslkey={open}"))]), "chmod 600"),
        ] {
            let message = resolve(&wrong, NOWHERE).unwrap_err().message;
            assert!(message.contains(word) && !message.contains("s3"), "{message}");
        }
    }
}
