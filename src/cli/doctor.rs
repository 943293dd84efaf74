//! `drydock health` and `drydock doctor`: is it well, and could it be.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;

use super::Globals;
use super::connect::soon;
use super::exit::{FAILURE, OK, Result, UNAVAILABLE};
use super::output::{self, Format, Paint};
use super::settings::Flags;
use crate::clock::{Clock as _, SystemClock};
use crate::config::Settings;
use crate::error::report;
use crate::proto::v1;
use crate::rpc::server;

const PATIENCE: Duration = Duration::from_secs(10);

/// Prints what the daemon says of its health.
///
/// # Errors
/// 69 when none answers.
pub async fn health(globals: &Globals) -> Result<u8> {
    let daemon = globals.connect().await?;
    let request = HealthCheckRequest { service: String::new() };
    let answer = daemon.health().check(soon(request)).await?.into_inner();
    let serving = answer.status() == ServingStatus::Serving;
    let word = answer.status().as_str_name();
    match globals.output {
        Format::Table | Format::Name => output::print(word)?,
        Format::Json | Format::Jsonl => output::print(&serde_json::json!({ "status": word }).to_string())?,
    }
    Ok(if serving { OK } else { UNAVAILABLE })
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    /// Not needed for everything.
    Missing,
    Bad,
}

struct Finding {
    what: &'static str,
    verdict: Verdict,
    words: String,
}

/// Checks what a daemon needs here; exits 1 when something must be mended.
///
/// # Errors
/// When stdout cannot be written.
pub async fn run(globals: &Globals, flags: &Flags) -> Result<u8> {
    let mut findings =
        vec![finding("version", Verdict::Good, concat!("drydock ", env!("CARGO_PKG_VERSION")).to_owned())];
    match flags.resolve(true) {
        Ok(resolved) => {
            findings.push(finding("settings", Verdict::Good, "valid; `drydock config show` lists them".to_owned()));
            findings.push(data_folder(&resolved.settings));
            findings.extend(doors(&resolved.settings));
        }
        Err(failure) => findings.push(finding("settings", Verdict::Bad, failure.message)),
    }
    findings.push(daemon(globals).await);
    findings.push(program("git", "working copies need it").await);
    findings.push(program("make", "the example's build step needs it").await);
    print(globals.output, &findings)?;
    Ok(if findings.iter().any(|finding| finding.verdict == Verdict::Bad) { FAILURE } else { OK })
}

fn finding(what: &'static str, verdict: Verdict, words: String) -> Finding {
    Finding { what, verdict, words }
}

fn print(format: Format, findings: &[Finding]) -> Result<()> {
    let paint = Paint::for_stdout();
    let lines = findings.iter().map(|finding| {
        let (word, mark) = match finding.verdict {
            Verdict::Good => ("ok", paint.good("ok  ")),
            Verdict::Missing => ("missing", paint.slow("--  ")),
            Verdict::Bad => ("bad", paint.bad("BAD ")),
        };
        match format {
            Format::Table | Format::Name => format!("{mark} {:<12} {}", finding.what, finding.words),
            Format::Json | Format::Jsonl => {
                serde_json::json!({"check": finding.what, "verdict": word, "message": finding.words}).to_string()
            }
        }
    });
    output::print(&lines.collect::<Vec<_>>().join("\n"))
}

/// Whether the data folder, or the nearest folder above that exists, takes a file.
fn data_folder(settings: &Settings) -> Finding {
    let folder = settings.data_dir.as_path();
    let existing = folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    match tempfile::tempfile_in(existing) {
        Ok(_) if existing == folder => finding("data folder", Verdict::Good, folder.display().to_string()),
        Ok(_) => finding("data folder", Verdict::Good, format!("{}, made on first start", folder.display())),
        Err(error) => finding(
            "data folder",
            Verdict::Bad,
            format!("{}: {} cannot be written: {error}", folder.display(), existing.display()),
        ),
    }
}

/// What callers over TCP would be shown; nothing when there is no such door.
fn doors(settings: &Settings) -> Vec<Finding> {
    match server::inspect(settings, SystemClock.now()) {
        Ok((facts, concerns)) => {
            let facts = facts.into_iter().map(|words| finding("certificate", Verdict::Good, words));
            facts.chain(concerns.into_iter().map(|words| finding("certificate", Verdict::Bad, words))).collect()
        }
        Err(error) => vec![finding("doors", Verdict::Bad, report(&error))],
    }
}

async fn daemon(globals: &Globals) -> Finding {
    let daemon = match globals.connect().await {
        Ok(daemon) => daemon,
        Err(failure) => return finding("daemon", Verdict::Missing, failure.message),
    };
    match daemon.system().get_server_info(soon(v1::GetServerInfoRequest {})).await {
        Ok(answer) => {
            let info = answer.into_inner();
            let caller = info.caller.unwrap_or_default();
            let words = format!("{} at {}; you are {}", info.version, daemon.address(), caller.principal);
            let same = info.version == env!("CARGO_PKG_VERSION");
            finding("daemon", if same { Verdict::Good } else { Verdict::Missing }, words)
        }
        Err(status) => {
            let failure = super::exit::Failure::from(status);
            finding("daemon", Verdict::Bad, format!("{}: {failure}", daemon.address()))
        }
    }
}

async fn program(name: &'static str, why: &str) -> Finding {
    let mut command = Command::new(name);
    command.arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(Ok(output)) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            finding(name, Verdict::Good, text.lines().next().unwrap_or_default().to_owned())
        }
        Ok(Ok(output)) => finding(name, Verdict::Bad, format!("`{name} --version` ended with {}", output.status)),
        Ok(Err(error)) => finding(name, Verdict::Missing, format!("{error}; {why}")),
        Err(_) => finding(name, Verdict::Bad, format!("`{name} --version` did not end")),
    }
}
