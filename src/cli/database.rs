//! `drydock database`: brings a database to this version, and moves it from a file to a server.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::exit::{Failure, OK, Result};
use super::output::{self, Format};
use super::settings::Flags;
use crate::config::{DatabaseUrl, secret};
use crate::error::{Error, Reason, report};
use crate::rpc::server::location;
use crate::store::{Location, Store};

/// What to do with a database, while no daemon uses it.
#[derive(Debug, clap::Subcommand)]
pub enum Database {
    /// Bring the database to the version of this program, made when missing.
    Migrate(Flags),
    /// Copy the database in a file to an empty one on a server; the file stays as it is.
    Copy {
        /// Where it is, as for the daemon that used it.
        #[command(flatten)]
        from: Flags,
        /// Where to: `postgres://USER@HOST/NAME`; a password is better kept in the file that PGPASSFILE names.
        #[arg(long, value_name = "URL", env = "DRYDOCK_COPY_TO", hide_env_values = true)]
        to: Option<DatabaseUrl>,
        /// A file with that URL, 0600 or 0640.
        #[arg(
            long,
            value_name = "FILE",
            env = "DRYDOCK_COPY_TO_FILE",
            conflicts_with = "to",
            required_unless_present = "to"
        )]
        to_file: Option<PathBuf>,
    },
}

/// Does it.
///
/// # Errors
/// 78 for a database that another daemon has or that is newer, and for a target that is not empty.
pub async fn run(format: Format, command: Database) -> Result<u8> {
    match command {
        Database::Migrate(flags) => {
            let settings = flags.resolve(false)?.settings;
            Store::migrate(&location(&settings)).await.map_err(failure)?;
            output::print(&format!("{} is of version {}", settings.database, env!("CARGO_PKG_VERSION")))?;
        }
        Database::Copy { from, to, to_file } => {
            let to = match (to, to_file) {
                (Some(to), _) => to,
                (None, Some(path)) => secret("--to-file", &path).map_err(failure)?.into(),
                (None, None) => return Err(Failure::usage("say --to or --to-file")),
            };
            let mut settings = from.resolve(false)?.settings;
            let Location::Sqlite { path } = location(&settings) else {
                return Err(Failure::configuration("copy goes from a file: say --database sqlite:PATH, or --data-dir"));
            };
            settings.database = to;
            let Location::Postgres(remote) = location(&settings) else {
                return Err(Failure::configuration("copy goes to a server: say --to postgres://USER@HOST/NAME"));
            };
            let copied = Store::copy(&path, &remote).await.map_err(failure)?;
            let lines: Vec<String> = copied.iter().map(|(table, rows)| format!("{rows:>8} {table}")).collect();
            let object: Map<String, Value> =
                copied.iter().map(|(table, rows)| ((*table).to_owned(), (*rows).into())).collect();
            output::print(&match format {
                Format::Json | Format::Jsonl => Value::from(object).to_string(),
                Format::Table | Format::Name => lines.join("\n"),
            })?;
        }
    }
    Ok(OK)
}

fn failure(error: Error) -> Failure {
    if error.reason == Reason::InvalidArgument { Failure::configuration(report(&error)) } else { error.into() }
}
