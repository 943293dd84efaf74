//! Drydock, the command.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Roles of this binary that are no commands: it starts itself in them.
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == drydock::httpd::serve::SUBCOMMAND) {
        return drydock::httpd::serve::main(words);
    }
    ExitCode::SUCCESS
}
