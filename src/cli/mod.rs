//! The command line: a client of the public API, and the starter of daemons.
//!
//! One file per group of commands. Data goes to stdout, talk to stderr; exit codes are in [`exit`].

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser};

pub mod acquire;
pub mod blueprint;
pub mod connect;
pub mod copy;
pub mod daemon;
pub mod database;
pub mod doctor;
pub mod event;
pub mod exec;
pub mod exit;
mod explain;
pub mod fs;
pub mod host;
pub mod httpd;
pub mod interrupt;
pub mod lease;
pub mod objects;
pub mod output;
pub mod process;
pub mod quickstart;
pub mod resource;
pub mod run;
pub mod settings;
pub mod task;
pub mod trace;
pub mod words;

use exit::{Failure, Result};

/// Leases resources: hosts, webroots, working copies, whole sandboxes.
#[derive(Debug, Parser)]
#[command(name = "drydock", version, max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Globals {
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value = "table", value_name = "FORMAT")]
    output: output::Format,
    #[arg(
        long,
        global = true,
        env = "DRYDOCK_ADDR",
        hide_env_values = true,
        value_name = "ADDR",
        help = "Where the daemon is; several by comma are tried in turn: unix:/PATH, http://127.0.0.1:7420, https://HOST:7420 \
                [default: the socket of this user's daemon]"
    )]
    addr: Option<String>,
}

impl Globals {
    /// The daemon that the command is for.
    ///
    /// # Errors
    /// 69 when none answers.
    async fn connect(&self) -> Result<connect::Daemon> {
        connect::connect(self.addr.as_deref().filter(|list| !list.trim().is_empty())).await
    }
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Start a daemon, lease a cascade, use its interfaces, show it, give it back.
    Quickstart(quickstart::Quickstart),
    /// A daemon for this user, in the foreground, with the local host and the stock blueprints.
    Up(settings::Flags),
    /// A daemon as configured.
    Serve(settings::Flags),
    /// Lease a resource, run a command on it, give it back; with the command's exit code.
    Run(run::Run),
    /// Acquire, look at, wait for, renew, explain and give back leases.
    #[command(subcommand)]
    Lease(lease::Lease),
    /// Run a command on a lease; with the command's exit code.
    Exec(exec::Exec),
    /// Files under a lease's root.
    #[command(subcommand)]
    Fs(fs::Fs),
    /// Copy a file to or from a lease.
    Cp(copy::Copy),
    /// The web server of a webroot.
    #[command(subcommand)]
    Httpd(httpd::Httpd),
    /// Scripts for creating and deleting resources.
    #[command(subcommand)]
    Blueprint(blueprint::Blueprint),
    /// Machines of your own, reached over ssh.
    #[command(subcommand)]
    Host(host::Host),
    /// What blueprints have made, and what is registered with them.
    #[command(subcommand)]
    Resource(resource::Resource),
    /// What happened.
    #[command(subcommand)]
    Event(event::Event),
    /// The queue, for operators.
    #[command(subcommand)]
    Task(task::Task),
    /// The daemons on this database.
    #[command(subcommand)]
    Daemon(task::Daemons),
    /// The database itself, while no daemon uses it.
    #[command(subcommand)]
    Database(database::Database),
    /// Whether the daemon serves; exits 69 when it does not.
    Health,
    /// Whether this machine has what a daemon needs.
    Doctor(settings::Flags),
    /// The settings that a daemon would have.
    #[command(subcommand)]
    Config(settings::Config),
    /// A completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// The version of this program.
    Version,
}

impl Command {
    /// Whether the exit code is that of the caller's own command.
    const fn is_wrapper(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Exec(_))
    }
}

/// Runs a command line, the program's name first, and answers with what to exit with.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody reads it: nothing can be done about it.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::OK });
        }
    };
    let wrapper = cli.command.is_wrapper();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            exit::say(&Failure::io("the runtime", &error));
            return ExitCode::from(if wrapper { exit::DRYDOCK } else { exit::FAILURE });
        }
    };
    let outcome = runtime.block_on(run(cli));
    // A thread that still reads a terminal must not hold the process.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            exit::say(&failure);
            ExitCode::from(failure.exit_code(wrapper))
        }
    }
}

async fn run(cli: Cli) -> Result<u8> {
    let globals = &cli.globals;
    match cli.command {
        Command::Quickstart(args) => Box::pin(quickstart::run(args)).await,
        Command::Up(flags) => Box::pin(daemon::run(&flags, true)).await,
        Command::Serve(flags) => Box::pin(daemon::run(&flags, false)).await,
        Command::Run(args) => Box::pin(run::run(globals, args)).await,
        Command::Lease(command) => Box::pin(lease::run(globals, command)).await,
        Command::Exec(args) => Box::pin(exec::run(globals, args)).await,
        Command::Fs(command) => Box::pin(fs::run(globals, command)).await,
        Command::Cp(args) => Box::pin(copy::run(globals, args)).await,
        Command::Httpd(command) => Box::pin(httpd::run(globals, command)).await,
        Command::Blueprint(command) => Box::pin(blueprint::run(globals, command)).await,
        Command::Host(command) => Box::pin(host::run(globals, command)).await,
        Command::Resource(command) => Box::pin(resource::run(globals, command)).await,
        Command::Event(command) => Box::pin(event::run(globals, command)).await,
        Command::Task(command) => Box::pin(task::run(globals, command)).await,
        Command::Daemon(command) => Box::pin(task::daemons(globals, command)).await,
        Command::Database(command) => Box::pin(database::run(globals.output, command)).await,
        Command::Health => Box::pin(doctor::health(globals)).await,
        Command::Doctor(flags) => Box::pin(doctor::run(globals, &flags)).await,
        Command::Config(command) => settings::run(globals.output, &command),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "drydock", &mut script);
            output::print(&String::from_utf8_lossy(&script))?;
            Ok(exit::OK)
        }
        Command::Version => {
            let version = env!("CARGO_PKG_VERSION");
            output::print(&match globals.output {
                output::Format::Table => format!("drydock {version}"),
                output::Format::Name => version.to_owned(),
                output::Format::Json | output::Format::Jsonl => serde_json::json!({"version": version}).to_string(),
            })?;
            Ok(exit::OK)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_two_hyphens_is_the_command_word_by_word() {
        let line = ["drydock", "run", "host", "--attr", "a=b", "--", "sh", "-c", "echo \"$1\"", "--", "-x", ""];
        let cli = Cli::try_parse_from(line).unwrap();
        assert!(cli.command.is_wrapper());
        assert!(format!("{cli:?}").contains(r#"["sh", "-c", "echo \"$1\"", "--", "-x", ""]"#), "{cli:?}");
    }
}
