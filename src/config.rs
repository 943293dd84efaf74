//! Settings of a daemon: flags beat environment beat `--config` beat `/etc/drydock/drydock.toml` beat defaults.

mod database;
mod file;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::model::kind::parse_span;
use crate::model::share::Shares;
pub use database::{DatabaseUrl, secret, without_password};

/// The file that is read when it exists.
pub const SYSTEM_FILE: &str = "/etc/drydock/drydock.toml";
/// Name of the socket in its folder.
pub const SOCKET_NAME: &str = "drydock.sock";
/// Workers of the queue unless told otherwise: a cascade of a few branches goes on in parallel.
const DEFAULT_WORKERS: &str = "4";
const DEFAULT_RETENTION: &str = "30d";
/// Longest path of a unix socket on Linux, less the closing NUL.
const SOCKET_PATH_LIMIT: usize = 107;

/// Settings of a daemon, resolved.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Absolute; made 0700 when missing.
    pub data_dir: PathBuf,
    /// The unix socket; its folder is made 0700 when missing.
    pub socket: PathBuf,
    /// TCP addresses, for example `127.0.0.1:7420`; port 0 takes a free one. Others than loopback need `tls`.
    pub listen: Vec<String>,
    /// With it every address of `listen` speaks TLS.
    pub tls: Option<TlsFiles>,
    /// The loopback address of the metrics page; off unless given.
    pub metrics_listen: Option<String>,
    /// Where other daemons on the same database reach this one; without it, those on this machine at a port that is free.
    pub peer_listen: Option<String>,
    /// How the daemon's log is written.
    pub log_format: LogFormat,
    /// Where traces go, over OTLP; nowhere unless given.
    pub otlp_endpoint: Option<String>,
    /// `--tokens FILE`; without it, `listen` makes one admin token in `token` in the data folder.
    pub tokens: Option<PathBuf>,
    /// `sqlite:PATH`, by default `drydock.db` in the data folder, or `postgres://…`, which may hold a password.
    pub database: DatabaseUrl,
    /// Workers of the queue, at least 1.
    pub workers: usize,
    /// How long ended leases and events are kept.
    pub retention: Duration,
    /// Whether the local host and the stock kinds become blueprints on first start.
    pub stock_blueprints: bool,
    /// The slow sweep of the queue; only tests switch it off.
    pub sweep: bool,
    /// What each owner may have: lines of `OWNER [weight=N] [max_leases=N] [max_queued=N]`.
    pub owners: Shares,
    /// This binary, for the supervisor and the built-in web server.
    pub executable: PathBuf,
}

/// The daemon's certificate and its key, both PEM; read again on SIGHUP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The daemon's own certificate first, then those that lead to its CA.
    pub cert: PathBuf,
    /// 0600, or 0640.
    pub key: PathBuf,
}

/// How a log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people on a terminal, else as JSON.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// A variable of the environment; passed in, so that tests need not change their own.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What a setting looks like in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Path,
    Text,
    Number,
    Span,
    Switch,
    List,
}

/// A setting by its key in a file; the flag is `--` and the key with hyphens.
#[derive(Debug)]
struct Key {
    name: &'static str,
    env: &'static str,
    shape: Shape,
}

const fn key(name: &'static str, env: &'static str, shape: Shape) -> Key {
    Key { name, env, shape }
}

const KEYS: [Key; 18] = [
    key("data_dir", "DRYDOCK_DATA_DIR", Shape::Path),
    key("socket", "DRYDOCK_SOCKET", Shape::Path),
    key("listen", "DRYDOCK_LISTEN", Shape::List),
    key("tls_cert", "DRYDOCK_TLS_CERT", Shape::Path),
    key("tls_key", "DRYDOCK_TLS_KEY", Shape::Path),
    key("metrics_listen", "DRYDOCK_METRICS_LISTEN", Shape::Text),
    key("peer_listen", "DRYDOCK_PEER_LISTEN", Shape::Text),
    key("log_format", "DRYDOCK_LOG_FORMAT", Shape::Text),
    key("otlp_endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT", Shape::Text),
    key("tokens", "DRYDOCK_TOKENS", Shape::Path),
    key("database", "DRYDOCK_DATABASE_URL", Shape::Text),
    key("database_file", "DRYDOCK_DATABASE_URL_FILE", Shape::Path),
    key("database_password_file", "DRYDOCK_DATABASE_PASSWORD_FILE", Shape::Path),
    key("workers", "DRYDOCK_WORKERS", Shape::Number),
    key("retention", "DRYDOCK_RETENTION", Shape::Span),
    key("stock_blueprints", "DRYDOCK_STOCK_BLUEPRINTS", Shape::Switch),
    key("sweep", "DRYDOCK_SWEEP", Shape::Switch),
    key("owners", "DRYDOCK_OWNERS", Shape::List),
];

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// This flag.
    Flag(String),
    /// This variable.
    Env(&'static str),
    /// This line, from 1, of this file.
    File(PathBuf, usize),
    /// Nobody said anything.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => f.write_str(flag),
            Self::Env(name) => f.write_str(name),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value as it was said: lists keep their items, everything else is one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    items: Vec<String>,
    origin: Origin,
}

/// What was said on the command line: values by key; an absent key says nothing.
#[derive(Clone, Default)]
pub struct Flags {
    /// `--config FILE`.
    pub config: Option<PathBuf>,
    /// For example `("workers", ["4"])`.
    pub values: BTreeMap<&'static str, Vec<String>>,
    /// What `stock_blueprints` is when nobody says anything: `up` brings them, `serve` does not.
    pub stock_blueprints: bool,
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A value may be a database's URL with a password.
        let values: BTreeMap<_, Vec<_>> = self
            .values
            .iter()
            .map(|(name, items)| (name, items.iter().map(|it| without_password(it)).collect()))
            .collect();
        let Self { config, stock_blueprints, .. } = self;
        f.debug_struct("Flags")
            .field("config", config)
            .field("values", &values)
            .field("stock_blueprints", stock_blueprints)
            .finish()
    }
}

/// Settings, and where each one comes from.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// For the daemon.
    pub settings: Settings,
    /// Key, value as text, origin; in the order of the documentation.
    pub origins: Vec<(&'static str, String, Origin)>,
}

/// Puts all sources together.
///
/// # Errors
/// `INVALID_ARGUMENT` that names the source, for files also the line: an unknown key, a value that cannot be.
pub fn resolve(flags: &Flags, env: Env<'_>) -> Result<Resolved> {
    let mut layers = vec![said_by_flags(flags), said_by_env(env)];
    let explicit = flags.config.clone().or_else(|| value(env, "DRYDOCK_CONFIG").map(PathBuf::from));
    if let Some(path) = &explicit {
        layers.push(file::read(path)?);
    }
    if Path::new(SYSTEM_FILE).exists() {
        layers.push(file::read(Path::new(SYSTEM_FILE))?);
    }
    let said = |name: &str| layers.iter().find_map(|layer| layer.get(name));

    let mut origins = Vec::new();
    let mut take = |name: &'static str, default: &str| -> Said {
        let found = said(name).cloned().unwrap_or_else(|| Said {
            items: if default.is_empty() { Vec::new() } else { vec![default.to_owned()] },
            origin: Origin::Default,
        });
        origins.push((name, found.items.join(","), found.origin.clone()));
        found
    };

    let state = default_data_dir(env).map(|path| path.display().to_string()).unwrap_or_default();
    let data = take("data_dir", &state);
    let data_dir = absolute(data.items.first().ok_or_else(|| {
        Error::invalid("there is neither a home folder nor XDG_STATE_HOME; say --data-dir or DRYDOCK_DATA_DIR")
    })?)?;
    let beside = match runtime_dir(env) {
        Some(folder) if data.origin == Origin::Default => folder,
        _ => data_dir.clone(),
    };
    let socket = take("socket", &beside.join(SOCKET_NAME).display().to_string());
    let listen = take("listen", "");
    let (tls_cert, tls_key) = (take("tls_cert", ""), take("tls_key", ""));
    let metrics_listen = take("metrics_listen", "");
    let peer_listen = take("peer_listen", "");
    let log_format = take("log_format", "auto");
    let otlp_endpoint = take("otlp_endpoint", "");
    let tokens = take("tokens", "");
    let database = take("database", &format!("sqlite:{}", data_dir.join("drydock.db").display()));
    let (database_file, password_file) = (take("database_file", ""), take("database_password_file", ""));
    let workers = take("workers", DEFAULT_WORKERS);
    let retention = take("retention", DEFAULT_RETENTION);
    let stock = take("stock_blueprints", if flags.stock_blueprints { "true" } else { "false" });
    let sweep = take("sweep", "true");
    let owners = take("owners", "");

    let settings = Settings {
        data_dir,
        socket: check_socket(&socket)?,
        listen: listen.items.clone(),
        tls: check_tls(&tls_cert, &tls_key)?,
        metrics_listen: metrics_listen.items.first().cloned(),
        peer_listen: peer_listen.items.first().cloned(),
        log_format: check_log_format(&log_format)?,
        otlp_endpoint: otlp_endpoint.items.first().cloned(),
        tokens: tokens.items.first().map(|path| absolute(path)).transpose()?,
        database: database::resolve(&database, &database_file, &password_file)?,
        workers: check_workers(&workers)?,
        retention: check_retention(&retention)?,
        stock_blueprints: check_switch("stock_blueprints", &stock)?,
        sweep: check_switch("sweep", &sweep)?,
        owners: check_owners(&owners)?,
        executable: std::env::current_exe()
            .map_err(|error| Error::invalid("the path of this program is unknown").because(error))?,
    };
    for (name, shown, _) in &mut origins {
        match *name {
            "data_dir" => *shown = settings.data_dir.display().to_string(),
            "socket" => *shown = settings.socket.display().to_string(),
            "database" => *shown = settings.database.to_string(),
            _ => {}
        }
    }
    Ok(Resolved { settings, origins })
}

/// `$XDG_STATE_HOME/drydock`, else `~/.local/state/drydock`.
#[must_use]
pub fn default_data_dir(env: Env<'_>) -> Option<PathBuf> {
    absolute_value(env, "XDG_STATE_HOME")
        .or_else(|| absolute_value(env, "HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("drydock"))
}

/// `$XDG_RUNTIME_DIR/drydock`.
#[must_use]
pub fn runtime_dir(env: Env<'_>) -> Option<PathBuf> {
    absolute_value(env, "XDG_RUNTIME_DIR").map(|folder| folder.join("drydock"))
}

/// A variable that is set to something.
fn value(env: Env<'_>, name: &str) -> Option<String> {
    env(name).filter(|text| !text.is_empty())
}

/// The XDG rules say that a relative path is to be ignored.
fn absolute_value(env: Env<'_>, name: &str) -> Option<PathBuf> {
    value(env, name).map(PathBuf::from).filter(|path| path.is_absolute())
}

type Layer = BTreeMap<&'static str, Said>;

fn said_by_flags(flags: &Flags) -> Layer {
    let say = |(name, items): (&&'static str, &Vec<String>)| {
        let origin = Origin::Flag(format!("--{}", name.replace('_', "-")));
        (*name, Said { items: items.clone(), origin })
    };
    flags.values.iter().filter(|(_, items)| !items.is_empty()).map(say).collect()
}

fn said_by_env(env: Env<'_>) -> Layer {
    let say = |key: &Key| {
        let text = value(env, key.env)?;
        let items = match key.shape {
            Shape::List => text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect(),
            _ => vec![text],
        };
        Some((key.name, Said { items, origin: Origin::Env(key.env) }))
    };
    KEYS.iter().filter_map(say).collect()
}

fn absolute(path: &str) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Error::invalid(format!("{path:?} is not a path")).because(error))
}

fn first(said: &Said) -> &str {
    said.items.first().map_or("", String::as_str)
}

fn check_socket(said: &Said) -> Result<PathBuf> {
    let path = absolute(first(said))?;
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_LIMIT {
        return Err(Error::invalid(format!(
            "socket {} ({}): {length} bytes, and the system takes {SOCKET_PATH_LIMIT}; say a shorter --socket",
            path.display(),
            said.origin
        )));
    }
    Ok(path)
}

fn check_tls(cert: &Said, key: &Said) -> Result<Option<TlsFiles>> {
    match (cert.items.first(), key.items.first()) {
        (None, None) => Ok(None),
        (Some(cert), Some(key)) => Ok(Some(TlsFiles { cert: absolute(cert)?, key: absolute(key)? })),
        (Some(_), None) => Err(Error::invalid(format!("tls_cert ({}) needs its key; say tls_key too", cert.origin))),
        (None, Some(_)) => {
            Err(Error::invalid(format!("tls_key ({}) needs its certificate; say tls_cert too", key.origin)))
        }
    }
}

fn check_workers(said: &Said) -> Result<usize> {
    let text = first(said);
    match text.parse() {
        Ok(workers) if (1..=1024).contains(&workers) => Ok(workers),
        _ => Err(Error::invalid(format!("workers {text:?} ({}) is not a number from 1 to 1024", said.origin))),
    }
}

fn check_retention(said: &Said) -> Result<Duration> {
    let text = first(said);
    parse_span(text).ok_or_else(|| {
        Error::invalid(format!("retention {text:?} ({}) is not a duration such as 90s or 30d", said.origin))
    })
}

fn check_log_format(said: &Said) -> Result<LogFormat> {
    match first(said) {
        "auto" => Ok(LogFormat::Auto),
        "json" => Ok(LogFormat::Json),
        "text" => Ok(LogFormat::Text),
        other => Err(Error::invalid(format!("log_format {other:?} ({}) is none of auto, json, text", said.origin))),
    }
}

fn check_owners(said: &Said) -> Result<Shares> {
    Shares::parse(&said.items).map_err(|why| Error::invalid(format!("owners ({}): {why}", said.origin)))
}

fn check_switch(name: &str, said: &Said) -> Result<bool> {
    match first(said) {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(Error::invalid(format!("{name} {other:?} ({}) is neither true nor false", said.origin))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOME" => Some("/home/x".to_owned()),
            "XDG_RUNTIME_DIR" => Some("/run/user/7".to_owned()),
            _ => None,
        }
    }

    fn flags(values: &[(&'static str, &str)]) -> Flags {
        let values = values.iter().map(|(name, value)| (*name, vec![(*value).to_owned()])).collect();
        Flags { values, ..Flags::default() }
    }

    #[test]
    fn defaults_follow_xdg() {
        let settings = resolve(&Flags::default(), &env).unwrap().settings;
        assert_eq!(settings.data_dir, Path::new("/home/x/.local/state/drydock"));
        assert_eq!(settings.socket, Path::new("/run/user/7/drydock/drydock.sock"));
        assert_eq!(&*settings.database, "sqlite:/home/x/.local/state/drydock/drydock.db");
        assert_eq!(settings.retention, Duration::from_hours(30 * 24));
        assert!(settings.sweep && !settings.stock_blueprints);
    }

    #[test]
    fn an_explicit_data_folder_takes_the_socket_along() {
        let settings = resolve(&flags(&[("data_dir", "/d")]), &env).unwrap().settings;
        assert_eq!(settings.socket, Path::new("/d/drydock.sock"));
        let settings = resolve(&flags(&[("data_dir", "/d"), ("socket", "/s")]), &env).unwrap().settings;
        assert_eq!(settings.socket, Path::new("/s"));
    }

    #[test]
    fn flags_beat_the_environment_beats_the_file_and_each_origin_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("drydock.toml");
        std::fs::write(&path, "workers = 2\nretention = \"7d\"\ndata_dir = \"/file\"\n").unwrap();
        let env = |name: &str| if name == "DRYDOCK_DATA_DIR" { Some("/env".to_owned()) } else { env(name) };
        let said = Flags { config: Some(path.clone()), ..flags(&[("workers", "8")]) };
        let resolved = resolve(&said, &env).unwrap();
        assert_eq!((resolved.settings.workers, resolved.settings.data_dir.as_path()), (8, Path::new("/env")));
        let origin = |name: &str| resolved.origins.iter().find(|(key, ..)| *key == name).unwrap().2.to_string();
        assert_eq!(origin("workers"), "--workers");
        assert_eq!(origin("data_dir"), "DRYDOCK_DATA_DIR");
        assert_eq!(origin("retention"), format!("{}:2", path.display()));
        assert_eq!(origin("socket"), "default");
    }

    #[test]
    fn values_that_cannot_be_are_refused_with_their_origin() {
        for (name, value, word) in [
            ("workers", "0", "--workers"),
            ("workers", "many", "1 to 1024"),
            ("retention", "30", "90s"),
            ("database", "mysql:x", "sqlite:PATH"),
            ("sweep", "maybe", "neither"),
            ("log_format", "xml", "none of auto"),
            ("owners", "ci weight=none", "--owners"),
            ("tls_cert", "/cert.pem", "say tls_key too"),
            ("tls_key", "/key.pem", "say tls_cert too"),
        ] {
            let message = resolve(&flags(&[(name, value)]), &env).unwrap_err().message;
            assert!(message.contains(word) && !message.contains("secret"), "{message}");
        }
        let long = format!("/{}", "x".repeat(200));
        assert!(resolve(&flags(&[("socket", &long)]), &env).unwrap_err().message.contains("107"));
    }
}
