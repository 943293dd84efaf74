//! Other people's clients against the real daemon: grpcurl as README.md shows it, and stock gRPC for Python.
//!
//! `.ci/tools test` sets them up in `target/tools`. Where one is missing its tests say so and end; in CI they fail.

mod grpcurl;
mod python;
mod tls;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Nothing in here takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// `drydock up` with both doors open, for a user of its own.
struct Up {
    folder: TempDir,
    child: Child,
    /// `127.0.0.1:PORT`.
    listen: String,
}

impl Up {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = user(folder.path(), env!("CARGO_BIN_EXE_drydock"));
        command.args(["up", "--listen", "127.0.0.1:0"]).env("DRYDOCK_LOG", "warn").stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        let listen = ready.split("  http://").nth(1).and_then(|rest| rest.split("  ").next()).unwrap().to_owned();
        let up = Self { folder, child, listen };
        assert!(ready.contains(&format!("socket: {}  ", up.socket().display())), "{ready}");
        assert!(ready.ends_with(&format!("token: {}", up.token_file().display())), "{ready}");
        up
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("run/drydock/drydock.sock")
    }

    fn token_file(&self) -> PathBuf {
        self.folder.path().join(".local/state/drydock/token")
    }

    /// A program of the same user; its stdout and stderr are to be read.
    fn user(&self, program: impl AsRef<Path>) -> Command {
        user(self.folder.path(), program)
    }

    async fn stop(mut self) {
        self.child.start_kill().unwrap();
        self.child.wait().await.unwrap();
    }
}

/// A program of a user who lives in `home`.
fn user(home: &Path, program: impl AsRef<Path>) -> Command {
    let ours = Path::new(env!("CARGO_BIN_EXE_drydock")).parent().unwrap().to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = [tools().join("bin"), ours].into_iter().chain(std::env::split_paths(&path));
    let mut command = Command::new(program.as_ref());
    command
        .env_clear()
        .env("PATH", std::env::join_paths(path).unwrap())
        .env("HOME", home)
        .env("XDG_RUNTIME_DIR", home.join("run"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Where `.ci/tools` puts things.
fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools")
}

/// A tool that is there; otherwise says that `what` is not run.
fn tool(what: &str, path: &str) -> Option<PathBuf> {
    let path = tools().join(path);
    if path.exists() {
        return Some(path);
    }
    let in_ci = ["CI", "DRYDOCK_CI"].into_iter().any(|name| std::env::var_os(name).is_some_and(|it| !it.is_empty()));
    assert!(!in_ci, "{what}: {} is missing; run .ci/tools test", path.display());
    // Not by println!, which the test harness would keep to itself.
    let _ = writeln!(std::io::stderr(), "not run: {what}: {} is missing; run .ci/tools test", path.display());
    None
}

/// All that a program printed; it must end with 0.
async fn output_of(mut command: Command) -> String {
    let output = timeout(PATIENCE, command.output()).await.expect("it ends in time").unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    out
}
