//! Clients that were given several addresses: when the daemon that they talk to dies or goes down, they go on with the next.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use sqlx::{Connection as _, PgConnection, Row as _};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::{Database, database, is_installed};
use crate::queue::kit::{PATIENCE, eventually};

/// A daemon on the common database, in a folder whose socket is known before it listens there.
struct Daemon {
    child: Child,
}

/// Where the daemons of a test are.
struct Harbour {
    folder: TempDir,
    database: Database,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Harbour {
    async fn new() -> Option<Self> {
        if !is_installed() {
            return None;
        }
        Some(Self { folder: tempfile::tempdir().unwrap(), database: database().await })
    }

    fn folder(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn address(&self, names: &[&str]) -> String {
        let addresses = names.iter().map(|name| format!("unix:{}", self.folder(name).join("drydock.sock").display()));
        addresses.collect::<Vec<_>>().join(",")
    }

    /// Starts the daemon of this name and waits until it serves.
    async fn start(&self, name: &str) -> Daemon {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drydock"));
        command
            .args(["serve", "--workers", "2", "--database", &self.database.url, "--data-dir"])
            .arg(self.folder(name))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path())
            .env("DRYDOCK_STOCK_BLUEPRINTS", "true")
            .env("DRYDOCK_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        let daemon = Daemon { child: command.spawn().unwrap() };
        eventually("it serves", async || self.ask(&[name], &["health"]).await.status.success().then_some(())).await;
        daemon
    }

    fn command(&self, names: &[&str], words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drydock"));
        command.env_clear().env("HOME", self.folder.path()).args(["--addr", &self.address(names)]).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    async fn ask(&self, names: &[&str], words: &[&str]) -> Output {
        timeout(PATIENCE, self.command(names, words).output()).await.expect("it ends in time").unwrap()
    }

    async fn ok(&self, names: &[&str], words: &[&str]) -> String {
        let output = self.ask(names, words).await;
        assert!(output.status.success(), "{words:?}: {output:?}");
        text(&output.stdout)
    }

    async fn connection(&self) -> PgConnection {
        PgConnection::connect(&self.database.url).await.unwrap()
    }

    /// The id of a daemon that serves.
    async fn id(&self, name: &str) -> String {
        let listed = self.ok(&[name], &["daemon", "list", "-o", "json"]).await;
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let (own, all) = (self.address(&[name]), listed["daemons"].as_array().unwrap());
        all.iter().find(|daemon| daemon["address"] == *own).unwrap()["id"].as_str().unwrap().to_owned()
    }

    /// As if the time of the claims of whoever is dead had gone by.
    async fn let_claims_lapse(&self, living: &str) {
        let lapse = "UPDATE task SET claim_until = 0 WHERE state = 'RUNNING' AND claimed_by NOT LIKE $1 || '/%'";
        sqlx::query(lapse).bind(self.id(living).await).execute(&mut self.connection().await).await.unwrap();
    }
}

impl Daemon {
    async fn kill(mut self) {
        self.child.start_kill().unwrap();
        self.child.wait().await.unwrap();
    }

    fn terminate(&self) {
        let pid = rustix::process::Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
}

fn lines(child: &mut Child) -> Lines<BufReader<ChildStdout>> {
    BufReader::new(child.stdout.take().unwrap()).lines()
}

async fn line(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    timeout(PATIENCE, lines.next_line()).await.expect("a line in time").unwrap().expect("a line")
}

async fn ended(child: Child) -> Output {
    timeout(PATIENCE, child.wait_with_output()).await.expect("it ends in time").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_and_who_watches_go_on_with_the_next_daemon() {
    let Some(harbour) = Harbour::new().await else { return };
    let (one, _two) = (harbour.start("one").await, harbour.start("two").await);
    let both = ["one", "two"];

    let past: serde_json::Value =
        serde_json::from_str(&harbour.ok(&both, &["event", "list", "-o", "json"]).await).unwrap();
    let words = ["event", "watch", "--cursor", past["cursor"].as_str().unwrap(), "-o", "jsonl"];
    let mut telling = harbour.command(&both, &words).spawn().unwrap();
    let mut told = lines(&mut telling);
    // Nobody gets on with a build as long as this is held.
    let mut held = harbour.connection().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE resource IN SHARE MODE").execute(&mut held).await.unwrap();
    let mut acquiring =
        harbour.command(&both, &["lease", "acquire", "host", "--wait", "60s", "--label", "job=x"]).spawn().unwrap();
    let mut acquired = lines(&mut acquiring);
    let lease = line(&mut acquired).await;
    let words = ["lease", "watch", &lease, "--until", "active", "-o", "jsonl"];
    let mut watching = harbour.command(&both, &words).spawn().unwrap();
    let mut watched = lines(&mut watching);
    let first: serde_json::Value = serde_json::from_str(&line(&mut watched).await).unwrap();
    assert_ne!(first["state"], "STATE_ACTIVE", "{first:#}");

    one.kill().await;
    sqlx::raw_sql("COMMIT").execute(&mut held).await.unwrap();
    harbour.let_claims_lapse("two").await;

    let output = ended(acquiring).await;
    let said = text(&output.stderr);
    assert!(output.status.success() && said.contains("going on with"), "{said}");
    let mut states = vec![first];
    while let Some(next) = timeout(PATIENCE, watched.next_line()).await.unwrap().unwrap() {
        states.push(serde_json::from_str(&next).unwrap());
    }
    let output = ended(watching).await;
    assert!(output.status.success() && states.last().unwrap()["state"] == "STATE_ACTIVE", "{states:#?} {output:?}");
    assert!(states.windows(2).all(|pair| pair[0] != pair[1]), "told twice: {states:#?}");
    // One was asked for, and one there is.
    let listed = harbour.ok(&["two"], &["lease", "list", "--filter", "labels.job = x", "-o", "name"]).await;
    assert_eq!(listed.trim(), lease);

    // The watch of events has gone over too; each is told once and in order.
    let mut seen: Vec<serde_json::Value> = Vec::new();
    while !seen.iter().any(|event| event["type"] == "lease.activated" && event["subjectIds"][0] == *lease) {
        seen.push(serde_json::from_str(&line(&mut told).await).unwrap());
    }
    let ids: Vec<&str> = seen.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert!(ids.iter().enumerate().all(|(at, id)| !ids[..at].contains(id)), "{ids:?}");
    telling.start_kill().unwrap();
    telling.wait().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_passes_waiters_on_and_gives_its_claims_back() {
    let Some(harbour) = Harbour::new().await else { return };
    let (one, _two) = (harbour.start("one").await, harbour.start("two").await);
    let mut held = harbour.connection().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE resource IN SHARE MODE").execute(&mut held).await.unwrap();
    let words = ["lease", "acquire", "host", "--wait", "60s"];
    let mut acquiring = harbour.command(&["one", "two"], &words).spawn().unwrap();
    let lease = line(&mut lines(&mut acquiring)).await;
    let id = harbour.id("one").await;
    one.terminate();
    sqlx::raw_sql("COMMIT").execute(&mut held).await.unwrap();
    // No claim is made to lapse here: what the daemon held it brings to its end or gives back.
    let output = ended(acquiring).await;
    assert!(output.status.success(), "{lease}: {output:?}");
    let Daemon { mut child } = one;
    assert!(timeout(PATIENCE, child.wait()).await.unwrap().unwrap().success());
    let left = sqlx::query("SELECT count(*) FROM task WHERE claimed_by LIKE $1 || '/%'").bind(id);
    assert_eq!(left.fetch_one(&mut harbour.connection().await).await.unwrap().get::<i64, _>(0), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_daemon_dies_is_not_run_again_and_its_lease_is_given_back() {
    let Some(harbour) = Harbour::new().await else { return };
    let one = harbour.start("one").await;
    let runs = harbour.folder("runs");
    let script = format!("echo begun >>{}; exec tail -f /dev/null", runs.display());
    // A ttl that asks for renewals at short intervals.
    let words = ["run", "host", "--ttl", "6s", "--label", "job=y", "--", "sh", "-c", &script];
    let running = harbour.command(&["one", "two"], &words).spawn().unwrap();
    let begun = |path: &Path| std::fs::read_to_string(path).unwrap_or_default().lines().count();
    eventually("the command runs", async || (begun(&runs) == 1).then_some(())).await;
    let expires = async || {
        let of = "SELECT expire_time FROM lease WHERE labels LIKE '%\"y\"%'";
        sqlx::query(of).fetch_one(&mut harbour.connection().await).await.unwrap().get::<i64, _>(0)
    };
    let (first, _two) = (expires().await, harbour.start("two").await);
    eventually("it is renewed", async || (expires().await > first).then_some(())).await;
    one.kill().await;
    let output = ended(running).await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.lines().last().unwrap().starts_with("drydock: error: OUTCOME_UNKNOWN"), "{said}");
    assert_eq!(begun(&runs), 1, "it was run again");
    let listed = harbour.ok(&["two"], &["lease", "list", "--all", "--filter", "labels.job = y", "-o", "jsonl"]).await;
    let lease: serde_json::Value = serde_json::from_str(listed.trim()).unwrap();
    assert_eq!(lease["stateReason"], "RELEASED_BY_CALLER", "{lease:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_go_on_with_the_next_daemon_and_so_does_every_call_that_may_be_repeated() {
    let Some(harbour) = Harbour::new().await else { return };
    let (one, two) = (harbour.start("one").await, harbour.start("two").await);
    let both = ["one", "two"];
    let lease = harbour.ok(&both, &["lease", "acquire", "host", "--request-id", "same"]).await.trim().to_owned();
    one.kill().await;
    // The first address is dead: found so at once, in turn.
    assert_eq!(harbour.ok(&both, &["lease", "acquire", "host", "--request-id", "same"]).await.trim(), lease);
    harbour.ok(&both, &["lease", "renew", &lease]).await;
    two.kill().await;
    let refused = timeout(Duration::from_secs(20), harbour.command(&both, &["lease", "list"]).output()).await;
    let refused = refused.expect("it is noticed soon").unwrap();
    assert_eq!(refused.status.code(), Some(69), "{refused:?}");
    assert!(text(&refused.stderr).contains("NO_DAEMON") && text(&refused.stderr).contains(" or unix:"), "{refused:?}");
}
