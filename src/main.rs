//! The `drydock` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == drydock::host::local::SUBCOMMAND) {
        return drydock::host::local::supervise();
    }
    ExitCode::SUCCESS
}
