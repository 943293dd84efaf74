//! The git repository that the quickstart leases a working copy of.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use crate::cli::exit::{FAILURE, Failure, Result};

const MAKEFILE: &str = "\
.PHONY: site clean

site:
\tmkdir -p public
\tsed \"s/@COMMIT@/$$(git rev-parse --short HEAD)/\" page.html > public/index.html

clean:
\trm -rf public
";

const PAGE: &str = "\
<!doctype html>
<title>A sandcastle</title>
<h1>Hello from a leased web server</h1>
<p>Built by make from commit @COMMIT@.</p>
";

/// Makes it in `folder` and answers with its commit, abbreviated.
///
/// # Errors
/// When git is missing or fails.
pub(super) async fn make(folder: &Path) -> Result<String> {
    let write = |name: &str, text: &str| {
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(folder.join(name), text))
            .map_err(|error| Failure::io(folder.join(name).display(), &error))
    };
    write("Makefile", MAKEFILE)?;
    write("page.html", PAGE)?;
    write(".gitignore", "public/\n")?;
    git(folder, &["init", "--quiet"]).await?;
    git(folder, &["add", "."]).await?;
    git(folder, &["commit", "--quiet", "--message", "Say hello"]).await?;
    git(folder, &["rev-parse", "--short", "HEAD"]).await
}

/// Runs git as nobody in particular, whatever the user has configured.
async fn git(folder: &Path, words: &[&str]) -> Result<String> {
    let mut command = Command::new("git");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GIT_") {
            command.env_remove(name);
        }
    }
    let output = command
        .arg("-C")
        .arg(folder)
        .args(["-c", "user.name=Drydock", "-c", "user.email=drydock@localhost"])
        .args(["-c", "init.defaultBranch=main", "-c", "commit.gpgSign=false"])
        .args(words)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| Failure::io("git", &error))?;
    if !output.status.success() {
        let tail = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let message = format!("git {} ended with {}", words[0], output.status);
        return Err(Failure { tail, ..Failure::new(FAILURE, "COMMAND_FAILED", message) });
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
