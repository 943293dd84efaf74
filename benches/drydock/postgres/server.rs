//! A `PostgreSQL` of its own for a part: in a temporary folder, on a unix socket, as durable as it is out of the box.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _};

use crate::daemon::PATIENCE;
use crate::figures::pause;

/// A server refuses to run as root.
const NOBODY: u32 = 65534;
/// Every commit is flushed. Checkpoints come at no odd moment; both sides of each ratio have that.
const SETTINGS: [&str; 10] = [
    "listen_addresses=",
    "max_connections=200",
    "fsync=on",
    "full_page_writes=on",
    "synchronous_commit=on",
    "shared_buffers=512MB",
    "max_wal_size=8GB",
    "checkpoint_timeout=1h",
    "log_line_prefix=%d %p ",
    "timezone=UTC",
];

/// A server, as long as this lives.
pub(crate) struct Server {
    folder: PathBuf,
    /// Its end is the end of the server: it stops when we do, however that comes about.
    life: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.life.stdin.take());
        // What is measured next is not to be disturbed by its end.
        let _ = self.life.wait();
    }
}

/// Where the programs are; Debian does not put them into the PATH.
fn folder_of_programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let installed = installed.map(|version| version.path().join("bin"));
    installed
        .chain(std::env::split_paths(&path))
        .find(|folder| ["initdb", "postgres"].iter().all(|program| folder.join(program).exists()))
}

impl Server {
    /// Starts one; `None` where none is installed.
    pub(crate) fn start() -> Result<Option<Self>> {
        let Some(programs) = folder_of_programs() else { return Ok(None) };
        let folder = tempfile::tempdir()?.keep();
        let root = std::fs::metadata(&folder)?.uid() == 0;
        if root {
            chown(&folder, Some(NOBODY), Some(NOBODY))?;
        }
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700))?;
        let run = |program: &Path| {
            let mut command = Command::new(program);
            command.env("HOME", &folder).env("LC_ALL", "C").current_dir(&folder).stdin(Stdio::null());
            if root {
                command.uid(NOBODY).gid(NOBODY);
            }
            command
        };
        let data = folder.join("data");
        let made = run(&programs.join("initdb"))
            .args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--pgdata"])
            .arg(&data)
            .output()?;
        ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        // The shell waits for our end, which closes its stdin; then it stops the server and takes its files away.
        let script = r#"folder=$1; shift; "$@" 2>"$folder/log" & server=$!
            cat >/dev/null; kill -QUIT $server; wait $server; rm -rf "$folder""#;
        let mut life = run(Path::new("/bin/sh"));
        life.args(["-c", script, "sh"]).arg(&folder).arg(programs.join("postgres"));
        life.arg("-D").arg(&data).arg("-k").arg(&folder);
        for setting in SETTINGS {
            life.args(["-c", setting]);
        }
        let life = life.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn()?;
        Ok(Some(Self { folder, life }))
    }

    /// Where a database of it is.
    pub(crate) fn url(&self, database: &str) -> String {
        let folder = self.folder.display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{folder}/{database}")
    }

    /// Makes an empty database; where it is.
    pub(crate) async fn database(&self, name: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut admin = loop {
            match connect(&self.url("postgres")).await {
                Ok(admin) => break admin,
                Err(error) if Instant::now() >= deadline => return Err(error).context("the server does not answer"),
                Err(_) => pause(Duration::from_millis(20)).await,
            }
        };
        run(&mut admin, format!("CREATE DATABASE {name}")).await?;
        Ok(self.url(name))
    }

    /// What the server has logged.
    pub(crate) fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.folder.join("log"))?)
    }
}

/// A connection that nothing else uses.
pub(crate) async fn connect(url: &str) -> Result<PgConnection> {
    Ok(PgConnectOptions::from_str(url)?.disable_statement_logging().connect().await?)
}

/// Runs statements of which we have no need to know how they went.
pub(crate) async fn run(connection: &mut PgConnection, text: String) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(text)).execute(connection).await?;
    Ok(())
}
