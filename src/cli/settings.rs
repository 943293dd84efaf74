//! `drydock config`, and the flags of everything that reads a daemon's settings.

use std::path::PathBuf;

use super::exit::{Failure, OK, Result};
use super::output::{self, Format};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, DatabaseUrl, Resolved};
use crate::error::report;
use crate::rpc::server;

/// What to do with settings.
#[derive(Debug, clap::Subcommand)]
pub enum Config {
    /// Whether a daemon would start with them; exits 78 when not.
    Check(Flags),
    /// Each setting of `serve`, and where it comes from.
    Show(Flags),
}

/// Settings of a daemon.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Flags {
    #[arg(long, value_name = "FILE", help = "A TOML file [env: DRYDOCK_CONFIG]")]
    config: Option<PathBuf>,
    /// Where everything is kept [default: drydock in the XDG state folder].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    #[arg(
        long,
        value_name = "PATH",
        help = "The unix socket [default: in XDG_RUNTIME_DIR, or in the data folder when that is given]"
    )]
    socket: Option<String>,
    /// Also listen on a TCP address, for callers with a token; other than loopback with TLS alone; may be repeated.
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// The certificate (PEM) that callers over TCP are shown; with it all of --listen speaks TLS.
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<String>,
    /// The certificate's key (PEM), 0600 or 0640.
    #[arg(long, value_name = "FILE")]
    tls_key: Option<String>,
    /// Serve metrics for Prometheus on this loopback address, at /metrics [default: off].
    #[arg(long, value_name = "ADDR")]
    metrics_listen: Option<String>,
    #[arg(
        long,
        value_name = "ADDR",
        help = "Where other daemons on the same PostgreSQL reach this one [default: a free port, for those on this machine]"
    )]
    peer_listen: Option<String>,
    #[arg(long, value_name = "FILE", help = "Who may call with which token: a line each, PRINCIPAL TOKEN [admin]")]
    tokens: Option<String>,
    #[arg(
        long,
        value_name = "URL",
        help = "sqlite:PATH, or postgres://USER@HOST/NAME for several daemons [default: drydock.db in the data folder]"
    )]
    database: Option<DatabaseUrl>,
    /// A file with that URL, 0600 or 0640: what is in it does not show in `ps`.
    #[arg(long, value_name = "FILE")]
    database_file: Option<String>,
    /// A file with the password alone, 0600 or 0640.
    #[arg(long, value_name = "FILE")]
    database_password_file: Option<String>,
    /// How many tasks are worked on at once [default: 4].
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// json, or text for people [default: text on a terminal, else json].
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// How long ended leases and events are kept [default: 30d].
    #[arg(long, value_name = "D")]
    retention: Option<String>,
    #[arg(
        long = "owner",
        value_name = "LINE",
        help = "What an owner may have: OWNER [weight=N] [max_leases=N] [max_queued=N]; * is everybody else; may be repeated"
    )]
    owners: Vec<String>,
}

impl Flags {
    /// All sources together; `stock_blueprints` is the default of that setting.
    ///
    /// # Errors
    /// 78, with the source of what is wrong.
    pub fn resolve(&self, stock_blueprints: bool) -> Result<Resolved> {
        let one = |value: &Option<String>| value.iter().cloned().collect::<Vec<_>>();
        let values = [
            ("data_dir", one(&self.data_dir)),
            ("socket", one(&self.socket)),
            ("listen", self.listen.clone()),
            ("tls_cert", one(&self.tls_cert)),
            ("tls_key", one(&self.tls_key)),
            ("metrics_listen", one(&self.metrics_listen)),
            ("peer_listen", one(&self.peer_listen)),
            ("tokens", one(&self.tokens)),
            ("database", self.database.iter().map(|url| url.as_ref().to_owned()).collect()),
            ("database_file", one(&self.database_file)),
            ("database_password_file", one(&self.database_password_file)),
            ("workers", one(&self.workers)),
            ("log_format", one(&self.log_format)),
            ("retention", one(&self.retention)),
            ("owners", self.owners.clone()),
        ];
        let flags = config::Flags { config: self.config.clone(), values: values.into(), stock_blueprints };
        config::resolve(&flags, &|name| std::env::var(name).ok())
            .map_err(|error| Failure::configuration(report(&error)))
    }
}

/// Runs it.
///
/// # Errors
/// 78 for settings that cannot be.
pub fn run(format: Format, command: &Config) -> Result<u8> {
    match command {
        Config::Check(flags) => {
            let settings = flags.resolve(false)?.settings;
            let (facts, concerns) = server::inspect(&settings, SystemClock.now())
                .map_err(|error| Failure::configuration(report(&error)))?;
            for concern in concerns {
                eprintln!("drydock: warning: {concern}");
            }
            for fact in facts {
                eprintln!("drydock: {fact}");
            }
            output::print("the settings are valid")?;
        }
        Config::Show(flags) => output::print(&show(format, &flags.resolve(false)?))?,
    }
    Ok(OK)
}

fn show(format: Format, resolved: &Resolved) -> String {
    let rows =
        resolved.origins.iter().map(|(key, value, origin)| [(*key).to_owned(), value.clone(), origin.to_string()]);
    match format {
        Format::Table => {
            let rows: Vec<_> = rows.map(Vec::from).collect();
            output::table(&["SETTING", "VALUE", "FROM"], &rows)
        }
        Format::Name => rows.map(|[key, ..]| key).collect::<Vec<_>>().join("\n"),
        Format::Json | Format::Jsonl => {
            let objects: Vec<_> = rows
                .map(|[key, value, origin]| serde_json::json!({"setting": key, "value": value, "from": origin}))
                .collect();
            if format == Format::Json {
                format!("{:#}", serde_json::Value::from(objects))
            } else {
                objects.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
            }
        }
    }
}
