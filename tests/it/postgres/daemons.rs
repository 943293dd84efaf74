//! Real daemons on one database: the one that allocates is killed, and the others go on.

use std::process::{Child, Command, Output, Stdio};

use drydock::proto::v1;
use drydock::proto::v1::lease::State;
use drydock::proto::v1::lease_service_client::LeaseServiceClient;
use hyper_util::rt::TokioIo;
use sqlx::{Connection as _, PgConnection, Row as _};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint, Uri};

use super::{Database, database, is_installed};
use crate::queue::kit::{PATIENCE, eventually};

/// `drydock serve` on the common database, with a data folder of its own.
pub(super) struct Daemon {
    pub(super) folder: TempDir,
    pub(super) child: Child,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Daemon {
    pub(super) fn start(database: &Database) -> Self {
        Self::on(tempfile::tempdir().unwrap(), &database.url)
    }

    pub(super) fn on(folder: TempDir, database: &str) -> Self {
        Self::with(folder, database, &[])
    }

    /// With more in its environment.
    pub(super) fn with(folder: TempDir, database: &str, more: &[(&str, &str)]) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_drydock"))
            .args(["serve", "--workers", "2", "--database", database, "--data-dir"])
            .arg(folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", folder.path())
            .env("DRYDOCK_STOCK_BLUEPRINTS", "true")
            .env("DRYDOCK_LOG", "error")
            .envs(more.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        Self { folder, child }
    }

    pub(super) fn address(&self) -> String {
        format!("unix:{}", self.folder.path().join("drydock.sock").display())
    }

    pub(super) fn drydock(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drydock"));
        command.env_clear().env("HOME", self.folder.path()).args(["--addr", &self.address()]).args(words);
        command.stdin(Stdio::null()).output().unwrap()
    }

    pub(super) fn ok(&self, words: &[&str]) -> String {
        let output = self.drydock(words);
        assert!(output.status.success(), "{words:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    pub(super) fn json(&self, words: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ok(&[words, &["-o", "json"]].concat())).unwrap()
    }

    pub(super) async fn channel(&self) -> Channel {
        let socket = self.folder.path().join("drydock.sock");
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        endpoint.connect_with_connector(connector).await.unwrap()
    }

    async fn leases(&self) -> LeaseServiceClient<Channel> {
        LeaseServiceClient::new(self.channel().await)
    }
}

impl Daemon {
    pub(super) async fn serves(&self) {
        eventually("it serves", async || self.drydock(&["health"]).status.success().then_some(())).await;
    }
}

/// Three that answer.
async fn three(database: &Database) -> Vec<Daemon> {
    let daemons: Vec<Daemon> = (0..3).map(|_| Daemon::start(database)).collect();
    for daemon in &daemons {
        daemon.serves().await;
    }
    daemons
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_daemon_s_lease_becomes_active_on_another_and_a_third_sees_it_without_a_gap() {
    if !is_installed() {
        return;
    }
    let database = database().await;
    let mut daemons = three(&database).await;
    let listed = daemons[2].json(&["daemon", "list"]);
    assert_eq!(listed["daemons"].as_array().unwrap().len(), 3, "{listed:#}");

    // Nobody gets on with a build as long as this is held.
    let mut held = PgConnection::connect(&database.url).await.unwrap();
    let mut look = PgConnection::connect(&database.url).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE resource IN SHARE MODE").execute(&mut held).await.unwrap();
    let lease = daemons[0].ok(&["lease", "acquire", "host", "--no-wait"]).trim().to_owned();
    let holder = eventually("a daemon allocates", async || {
        let of = "SELECT claimed_by FROM task WHERE subject = $1 AND state = 'RUNNING'";
        let row = sqlx::query(of).bind(&lease).fetch_optional(&mut look).await.unwrap()?;
        row.get::<String, _>("claimed_by").split_once('/').map(|(daemon, _)| daemon.to_owned())
    })
    .await;
    let all = listed["daemons"].as_array().unwrap();
    let address = all.iter().find(|daemon| daemon["id"] == *holder).unwrap()["address"].as_str().unwrap();
    let at = daemons.iter().position(|daemon| daemon.address() == address).unwrap();
    let mut killed = daemons.remove(at);

    // Through a third: neither the one that was asked and is killed nor, perhaps, the one that goes on.
    let watch = v1::WatchLeaseRequest { lease_id: lease.clone(), until: State::Active.into(), ..Default::default() };
    let mut changes = daemons[1].leases().await.watch_lease(watch).await.unwrap().into_inner();
    let first = timeout(PATIENCE, changes.message()).await.unwrap().unwrap().unwrap();
    let since: i64 = first.cursor.strip_prefix("c1.").unwrap().parse().unwrap();
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    // As if the time of its claims had gone by.
    let lapse = "UPDATE task SET claim_until = 0 WHERE claimed_by LIKE $1 || '/%'";
    sqlx::raw_sql("COMMIT").execute(&mut held).await.unwrap();
    assert_ne!(sqlx::query(lapse).bind(&holder).execute(&mut look).await.unwrap().rows_affected(), 0);
    let mut seen = Vec::new();
    let read = async {
        let mut last = State::Unspecified;
        while let Some(change) = changes.message().await.unwrap() {
            seen.extend(change.events.into_iter().map(|event| event.id));
            last = change.lease.map_or(last, |lease| lease.state());
        }
        last
    };
    assert_eq!(timeout(PATIENCE, read).await.expect("it becomes ACTIVE in time"), State::Active);
    let written = sqlx::query("SELECT id, kind FROM event WHERE root_id = $1 AND seq > $2 ORDER BY seq");
    let written = written.bind(&lease).bind(since).fetch_all(&mut look).await.unwrap();
    let written: Vec<String> = written.iter().map(|row| row.get("id")).collect();
    assert!(!seen.is_empty() && written.starts_with(&seen), "{seen:?} of {written:?}");

    // The machine is that of the daemon that built it; the other asks that one, and gives it back all the same.
    let owned = daemons[0].json(&["lease", "get", &lease])["facts"]["daemon"].as_str().unwrap().to_owned();
    let (own, others): (Vec<_>, Vec<_>) =
        daemons.into_iter().partition(|daemon| owned.ends_with(&format!(":{}", daemon.folder.path().display())));
    assert_eq!(own[0].ok(&["exec", &lease, "--", "echo", "here"]), "here\n");
    assert_eq!(others[0].ok(&["exec", &lease, "--", "echo", "here"]), "here\n");
    let folder = own[0].folder.path().join("leases").join(&lease);
    assert!(folder.exists(), "{}", folder.display());
    others[0].ok(&["lease", "release", &lease, "--wait"]);
    assert!(!folder.exists(), "{}", folder.display());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_database_ends_a_daemon_with_78() {
    if !is_installed() {
        return;
    }
    let database = database().await;
    let mut admin = PgConnection::connect(&database.url).await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'later', true, '', 0)";
    sqlx::query(newer).execute(&mut admin).await.unwrap();
    let mut daemon = Daemon::start(&database);
    let ended = timeout(PATIENCE, tokio::task::spawn_blocking(move || daemon.child.wait().unwrap()));
    assert_eq!(ended.await.unwrap().unwrap().code(), Some(78));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_in_a_file_moves_to_a_server_with_all_that_is_leased() {
    if !is_installed() {
        return;
    }
    let database = database().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let file = format!("sqlite:{}", path.join("drydock.db").display());
    let mut before = Daemon::on(folder, &file);
    before.serves().await;
    let lease = before.ok(&["lease", "acquire", "host"]).trim().to_owned();
    before.ok(&["exec", &lease, "--", "sh", "-c", "echo kept >kept"]);
    let to = ["database", "copy", "--to", &database.url, "--data-dir"];
    let copy = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drydock"));
        command.env_clear().env("HOME", &path).args(to).arg(&path).output().unwrap()
    };
    let refused = copy();
    assert_eq!(refused.status.code(), Some(78), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("another daemon has the database"), "{}", text(&refused.stderr));
    before.child.kill().unwrap();
    before.child.wait().unwrap();
    let copied = copy();
    assert!(copied.status.success() && text(&copied.stdout).contains(" 1 lease\n"), "{copied:?}");
    let again = copy();
    assert_eq!(again.status.code(), Some(78), "{}", text(&again.stderr));
    assert!(text(&again.stderr).contains("not empty"), "{}", text(&again.stderr));

    let kept = std::mem::replace(&mut before.folder, tempfile::tempdir().unwrap());
    let (after, other) = (Daemon::on(kept, &database.url), Daemon::start(&database));
    after.serves().await;
    other.serves().await;
    assert_eq!(after.ok(&["exec", &lease, "--", "cat", "kept"]), "kept\n");
    assert_eq!(other.ok(&["exec", &lease, "--", "cat", "kept"]), "kept\n");
    let told = other.json(&["event", "list", "--filter", &format!("subject_id = {lease}")]);
    assert!(told["events"].as_array().is_some_and(|events| events.len() >= 2), "{told:#}");
    other.ok(&["lease", "release", &lease, "--wait"]);
}
