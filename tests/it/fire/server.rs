//! A `PostgreSQL` of its own, which can be stopped in two ways and started again.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _};

use crate::postgres::{NOBODY, folder_of_programs};
use crate::queue::kit::{eventually, folder};

/// Nobody pulls the plug of the machine: what the server has written is there after each of its ends. And a server goes down only when each
/// connection that has not said who it is (that of a daemon that stands still, say) has run out of time, which is a minute unless set.
const SETTINGS: [&str; 9] = [
    "authentication_timeout=2",
    "listen_addresses=",
    "max_connections=200",
    "fsync=off",
    "full_page_writes=off",
    "shared_buffers=64MB",
    "log_min_messages=fatal",
    "timezone=UTC",
    "restart_after_crash=on",
];

/// The name of the database that the daemons share.
const DATABASE: &str = "fire";

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Open transactions are rolled back.
    Fast,
    /// As after a crash: the next start recovers.
    Immediate,
}

/// A server. Dropped, or when this process ends, it goes with its files.
pub(super) struct Server {
    folder: PathBuf,
    /// A shell that waits for a word on its stdin, or for its end, and stops the server.
    life: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end("KEEP QUIT");
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Server {
    /// A new one, with an empty database.
    pub(super) async fn start() -> Self {
        let folder = folder().keep();
        if is_root() {
            chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
        let programs = folder_of_programs().expect("it is asked for where it is installed");
        let made = command(&programs.join("initdb"), &folder)
            .args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--pgdata"])
            .arg(folder.join("data"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let life = launch(&folder);
        let server = Self { folder, life };
        let mut admin = server.connect("postgres").await;
        sqlx::raw_sql("CREATE DATABASE fire").execute(&mut admin).await.unwrap();
        admin.close().await.unwrap();
        server
    }

    /// Its socket, to which proxies connect.
    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join(".s.PGSQL.5432")
    }

    /// For the test's own looks: by the socket, past all proxies.
    pub(super) fn url(&self) -> String {
        self.url_of(DATABASE)
    }

    /// The daemons' database by way of a proxy.
    pub(super) fn url_through(port: u16) -> String {
        format!("postgres://postgres@127.0.0.1:{port}/{DATABASE}?sslmode=disable")
    }

    fn url_of(&self, database: &str) -> String {
        let folder = self.folder.display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{folder}/{database}")
    }

    /// A connection to the daemons' database.
    pub(super) async fn admin(&self) -> PgConnection {
        self.connect(DATABASE).await
    }

    async fn connect(&self, database: &str) -> PgConnection {
        let options: PgConnectOptions = self.url_of(database).parse().unwrap();
        eventually("the server answers", async || options.connect().await.ok()).await
    }

    /// Stops it, and starts it again on the same files.
    pub(super) async fn restart(&mut self, how: Stop) {
        self.end(match how {
            Stop::Fast => "KEEP INT",
            Stop::Immediate => "KEEP QUIT",
        });
        self.life = launch(&self.folder);
        drop(self.admin().await);
    }

    fn end(&mut self, word: &str) {
        if let Some(mut stdin) = self.life.stdin.take() {
            let _ = writeln!(stdin, "{word}");
        }
        let _ = self.life.wait();
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command of the server's user.
fn command(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("HOME", folder).env("LC_ALL", "C").current_dir(folder).stdin(Stdio::null());
    // A server refuses to run as root.
    if std::fs::metadata(folder).unwrap().uid() == NOBODY {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn launch(folder: &Path) -> Child {
    // Without a word, we have gone: then its files go too.
    let script = r#"folder=$1; shift; "$@" 2>>"$folder/log" & server=$!
        read -r keep how || how=QUIT; kill -$how $server; wait $server; test "$keep" || rm -rf "$folder""#;
    let programs = folder_of_programs().expect("it is asked for where it is installed");
    let mut life = command(Path::new("/bin/sh"), folder);
    life.args(["-c", script, "sh"]).arg(folder).arg(programs.join("postgres"));
    life.arg("-D").arg(folder.join("data")).arg("-k").arg(folder);
    for setting in SETTINGS {
        life.args(["-c", setting]);
    }
    life.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn().unwrap()
}
