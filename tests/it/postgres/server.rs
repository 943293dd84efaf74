//! One server for the whole run, in a temporary folder, on a unix socket; a database for each test.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, mpsc};

use drydock::clock::ManualClock;
use drydock::store::{Location, Remote, Store};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _};
use tokio::sync::OnceCell;

use crate::queue::kit::{NOON, eventually, folder};

/// A server refuses to run as root.
pub(crate) const NOBODY: u32 = 65534;
/// Speed before safety: these tests do not pull the plug.
const SETTINGS: [&str; 9] = [
    "listen_addresses=",
    "max_connections=400",
    "fsync=off",
    "full_page_writes=off",
    "synchronous_commit=on",
    "shared_buffers=64MB",
    "autovacuum_naptime=5min",
    "log_min_messages=error",
    "timezone=UTC",
];

/// A server, as long as this process lives.
pub(crate) struct Server {
    folder: PathBuf,
    /// Its end is the end of the server: it stops when we do, however that comes about.
    _life: Child,
}

/// A database of its own, as long as this lives.
pub(crate) struct Database {
    /// For the store.
    pub(crate) url: String,
    name: String,
    dropped: mpsc::Sender<String>,
}

impl Drop for Database {
    fn drop(&mut self) {
        // Nobody is left to do it when the process ends, and then the whole server goes.
        let _ = self.dropped.send(self.name.clone());
    }
}

/// Where the programs are; Debian does not put them into the PATH.
pub(crate) fn folder_of_programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = installed.map(|version| version.path().join("bin")).collect();
    versions.sort_by_key(|path| path.iter().nth(4).and_then(|name| name.to_str()?.parse::<u32>().ok()));
    versions
        .into_iter()
        .rev()
        .chain(std::env::split_paths(&path))
        .find(|folder| ["initdb", "postgres"].iter().all(|program| folder.join(program).exists()))
}

/// Whether there is one; says what is not run, which in CI is a failure.
pub(crate) fn is_installed() -> bool {
    let there = folder_of_programs().is_some();
    if !there {
        assert!(std::env::var_os("DRYDOCK_CI").is_none(), "PostgreSQL is missing; run .ci/tools test");
        let _ = writeln!(std::io::stderr(), "not run: PostgreSQL is missing; run .ci/tools test");
    }
    there
}

impl Server {
    fn start() -> Self {
        Self::start_with(&[], |_| {})
    }

    /// With more settings, and with what `prepare` puts into its data folder beforehand; the files are its own then.
    pub(super) fn start_with(more: &[String], prepare: impl FnOnce(&Path)) -> Self {
        let programs = folder_of_programs().expect("it is asked for where it is installed");
        let folder = folder().keep();
        let root = std::fs::metadata(&folder).unwrap().uid() == 0;
        if root {
            chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
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
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        prepare(&data);
        if root {
            for entry in std::fs::read_dir(&data).unwrap() {
                chown(entry.unwrap().path(), Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        // The shell waits for our end, which closes its stdin; then it stops the server and takes its files away.
        let script = r#"folder=$1; shift; "$@" 2>"$folder/log" & server=$!
            cat >/dev/null; kill -QUIT $server; wait $server; rm -rf "$folder""#;
        let mut life = run(Path::new("/bin/sh"));
        life.args(["-c", script, "sh"]).arg(&folder).arg(programs.join("postgres"));
        life.arg("-D").arg(&data).arg("-k").arg(&folder);
        for setting in SETTINGS.into_iter().chain(more.iter().map(String::as_str)) {
            life.args(["-c", setting]);
        }
        let life =
            life.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn().unwrap();
        Self { folder, _life: life }
    }

    fn url(&self, database: &str) -> String {
        let folder = self.folder.display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{folder}/{database}")
    }

    async fn admin(&self) -> PgConnection {
        self.admin_at(5432).await
    }

    /// A connection as the one who may do all, to a server that listens at this port.
    pub(super) async fn admin_at(&self, port: u16) -> PgConnection {
        let options = self.url("postgres").parse::<PgConnectOptions>().unwrap().port(port);
        eventually("the server answers", async || options.connect().await.ok()).await
    }
}

static SERVER: LazyLock<Server> = LazyLock::new(Server::start);
static TEMPLATE: OnceCell<()> = OnceCell::const_new();
static NUMBER: AtomicU64 = AtomicU64::new(0);
/// Drops databases, on a thread that has the time.
static DROPPER: LazyLock<mpsc::Sender<String>> = LazyLock::new(|| {
    let (sender, receiver) = mpsc::channel::<String>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut admin = SERVER.admin().await;
            while let Ok(name) = receiver.recv() {
                let drop = AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
                let _ = sqlx::raw_sql(drop).execute(&mut admin).await;
            }
        });
    });
    sender
});

/// A database that is of this version and empty.
pub(crate) async fn database() -> Database {
    let server = &*SERVER;
    let mut admin = server.admin().await;
    TEMPLATE
        .get_or_init(async || {
            sqlx::raw_sql("CREATE DATABASE template").execute(&mut admin).await.unwrap();
            let location = Location::Postgres(Remote::at(server.url("template")));
            drop(Store::open(&location, ManualClock::at(NOON)).await.unwrap());
        })
        .await;
    let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    // The connections of whoever made the template may not be closed yet.
    eventually("a database is made", async || {
        let make = AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE template"));
        sqlx::raw_sql(make).execute(&mut admin).await.ok()
    })
    .await;
    Database { url: server.url(&name), name, dropped: DROPPER.clone() }
}
