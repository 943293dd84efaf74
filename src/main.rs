//! The `drydock` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Roles in which this binary starts itself; they are no commands.
    let mut words = std::env::args_os().skip(1);
    match words.next() {
        Some(word) if word == drydock::host::local::SUBCOMMAND => drydock::host::local::supervise(),
        Some(word) if word == drydock::httpd::serve::SUBCOMMAND => drydock::httpd::serve::main(words),
        _ => drydock::cli::main(std::env::args_os()),
    }
}
