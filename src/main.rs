//! The `drydock` program: the command line, and two roles that only Drydock itself starts.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    // Before clap: these roles have their own words, and must be small and quick to start.
    match args.get(1).and_then(|word| word.to_str()) {
        Some(role @ ("__supervise" | "__httpd")) => {
            eprintln!("drydock: error: INTERNAL the role {role} is not built yet");
            ExitCode::FAILURE
        }
        _ => drydock::cli::main(args),
    }
}
