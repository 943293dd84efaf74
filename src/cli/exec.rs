//! `drydock exec`: a command on a lease that is there already.

use std::path::PathBuf;
use std::time::Duration;

use super::Globals;
use super::exit::Result;
use super::interrupt::Interrupt;
use super::run::{forget, write_code};
use super::{process, words};
use crate::proto::v1;

/// Runs a command on a lease, with the command's exit code.
#[derive(Debug, clap::Args)]
pub struct Exec {
    /// The lease; @ stands for the one in `DRYDOCK_LEASE_ID`.
    lease: String,
    /// Let the daemon fail the call when the command fails (execx); the exit code is the command's all the same.
    #[arg(long)]
    check: bool,
    /// Write the command's exit code here; the file is missing when the command never ended by its own.
    #[arg(long, value_name = "F")]
    exit_code_file: Option<PathBuf>,
    #[command(flatten)]
    shape: Shape,
}

/// The command itself.
#[derive(Debug, Clone, clap::Args)]
pub struct Shape {
    /// Give our stdin to the command.
    #[arg(short = 'i', long = "interactive")]
    pub input: bool,
    /// Hand the words, joined by spaces, to `sh -c`.
    #[arg(long)]
    shell: bool,
    /// Where, relative to the lease's root.
    #[arg(long, value_name = "DIR", default_value = "", hide_default_value = true)]
    cwd: String,
    /// A variable of its environment; may be repeated.
    #[arg(long = "env", value_name = "K=V", value_parser = words::pair)]
    env: Vec<(String, String)>,
    /// Kill it after this long.
    #[arg(long, value_name = "D", value_parser = words::duration)]
    timeout: Option<Duration>,
    /// From TERM to KILL.
    #[arg(long, value_name = "D", value_parser = words::duration)]
    kill_grace: Option<Duration>,
    /// Its stderr into its stdout.
    #[arg(long)]
    merge_stderr: bool,
    /// The command, word by word.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

impl Shape {
    /// The request for a lease.
    #[must_use]
    pub fn request(&self, lease_id: &str) -> v1::ExecRequest {
        let (argv, shell) =
            if self.shell { (Vec::new(), self.command.join(" ")) } else { (self.command.clone(), String::new()) };
        let command = v1::Command {
            argv,
            shell,
            cwd: self.cwd.clone(),
            // As in a shell, the last one counts.
            env: self.env.iter().cloned().collect(),
            timeout: self.timeout.map(words::proto),
            kill_grace: self.kill_grace.map(words::proto),
            merge_stderr: self.merge_stderr,
            ..v1::Command::default()
        };
        v1::ExecRequest { lease_id: lease_id.to_owned(), command: Some(command), ..v1::ExecRequest::default() }
    }
}

/// Runs it.
///
/// # Errors
/// Drydock's own failures.
pub async fn run(globals: &Globals, args: Exec) -> Result<u8> {
    if let Some(path) = &args.exit_code_file {
        forget(path)?;
    }
    let lease = words::lease(&args.lease)?;
    let interrupt = Interrupt::listen()?;
    let daemon = globals.connect().await?;
    let request = v1::ExecRequest { check: args.check, ..args.shape.request(&lease) };
    let exited = process::run(&daemon, request, args.shape.input, &interrupt).await?;
    if let Some(why) = process::cut_short(&exited) {
        eprintln!("drydock: {why}");
    }
    let code = process::code(&exited);
    if let Some(path) = &args.exit_code_file {
        write_code(path, code)?;
    }
    Ok(code)
}
