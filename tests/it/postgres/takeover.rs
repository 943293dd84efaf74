//! What a daemon was at work on when it went, and how soon another goes on with it.

use std::path::PathBuf;
use std::time::Duration;

use drydock::proto::v1::RegisterResourceRequest;
use drydock::proto::v1::resource_service_client::ResourceServiceClient;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::time::Instant;

use super::daemons::Daemon;
use super::{Database, database, is_installed};
use crate::queue::kit::eventually;
use crate::ssh::sshd::Sshd;

/// A thing whose build says that it has begun, and goes on until it is let.
const DOCUMENTS: &str = r#"
name: remote-host
kind: remote-host
limits: {shared: true}
---
name: slow
kind: composite
config:
  type: slow
  needs:
    host: {type: host, resource_labels: {at: far}}
  steps:
    - name: last
      part: host
      run: [sh, -c, 'echo >>"$HOME/begun"; until test -e "$HOME/go"; do sleep 0.05; done']
      timeout: 60s
"#;

struct Ground {
    daemons: Vec<Daemon>,
    machine: Sshd,
    look: PgConnection,
    _database: Database,
}

/// Two daemons, one of which is in the middle of a step; and which.
async fn at_work(more: &[(&str, &str)]) -> (Ground, usize, String) {
    let database = database().await;
    let machine = tokio::task::spawn_blocking(Sshd::start);
    let mut daemons = Vec::new();
    for _ in 0..2 {
        let daemon = Daemon::with(tempfile::tempdir().unwrap(), &database.url, more);
        daemon.serves().await;
        daemons.push(daemon);
    }
    let machine = machine.await.unwrap();
    let file = daemons[0].folder.path().join("blueprints.yaml");
    std::fs::write(&file, DOCUMENTS).unwrap();
    daemons[0].ok(&["blueprint", "apply", "-f", &file.display().to_string()]);
    let request = RegisterResourceRequest {
        blueprint: "remote-host".to_owned(),
        name: "machine".to_owned(),
        attributes: machine.attributes().into_iter().collect(),
        labels: [("at".to_owned(), "far".to_owned())].into(),
        ..RegisterResourceRequest::default()
    };
    ResourceServiceClient::new(daemons[0].channel().await).register_resource(request).await.unwrap();
    let lease = daemons[0].ok(&["lease", "acquire", "slow", "--no-wait"]).trim().to_owned();
    let look = PgConnection::connect(&database.url).await.unwrap();
    let mut ground = Ground { daemons, machine, look, _database: database };
    eventually("the step has begun", async || (ground.begun() == 1).then_some(())).await;
    let holder = ground.holder().await.expect("somebody is at work");
    let listed = ground.daemons[0].json(&["daemon", "list"]);
    let all = listed["daemons"].as_array().unwrap();
    let address = all.iter().find(|daemon| daemon["id"] == *holder).unwrap()["address"].as_str().unwrap();
    let at = ground.daemons.iter().position(|daemon| daemon.address() == address).unwrap();
    (ground, at, lease)
}

impl Ground {
    /// How often the step began.
    fn begun(&self) -> usize {
        let begun: PathBuf = self.machine.home().join("begun");
        std::fs::read_to_string(begun).unwrap_or_default().lines().count()
    }

    /// The daemon that has the claim of a build.
    async fn holder(&mut self) -> Option<String> {
        let of = "SELECT claimed_by FROM task WHERE state = 'RUNNING' AND subject LIKE 'res_%'";
        let row = sqlx::query(of).fetch_optional(&mut self.look).await.unwrap()?;
        row.get::<String, _>("claimed_by").split_once('/').map(|(daemon, _)| daemon.to_owned())
    }

    /// How long it takes until another daemon than this has begun the step anew.
    async fn taken_over(&mut self, since: Instant) -> Duration {
        eventually("another goes on", async || (self.begun() == 2).then_some(())).await;
        since.elapsed()
    }

    async fn ends_well(mut self, gone: usize, lease: &str) {
        std::fs::write(self.machine.home().join("go"), "").unwrap();
        self.daemons.remove(gone);
        let other = &self.daemons[0];
        other.ok(&["lease", "wait", lease]);
        other.ok(&["lease", "release", lease, "--wait"]);
        let crashes = sqlx::query("SELECT max(crashes) AS most FROM task").fetch_one(&mut self.look).await.unwrap();
        assert_eq!(crashes.get::<i64, _>("most"), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_daemon_that_is_told_to_go_is_at_work_on_is_handed_over_at_once() {
    if !is_installed() {
        return;
    }
    let (mut ground, at, lease) = at_work(&[]).await;
    let daemon = &ground.daemons[at];
    // A call through it goes on meanwhile: its end is not waited for.
    let busy = daemon.ok(&["lease", "acquire", "host", "--blueprint", "local-host"]).trim().to_owned();
    let mut call = std::process::Command::new(env!("CARGO_BIN_EXE_drydock"));
    call.env_clear().env("HOME", daemon.folder.path()).args(["--addr", &daemon.address()]);
    call.args(["exec", &busy, "--", "sh", "-c", "echo on; until test -e go; do sleep 0.05; done"]);
    let mut call = call.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut first = [0; 3];
    std::io::Read::read_exact(call.stdout.as_mut().unwrap(), &mut first).unwrap();

    let pid = Pid::from_raw(i32::try_from(daemon.child.id()).unwrap()).unwrap();
    let since = Instant::now();
    kill_process(pid, Signal::TERM).unwrap();
    let took = ground.taken_over(since).await;
    println!("taken over after {took:?}");
    // A claim holds for 30 s: it was told, on a machine that may have other things to do.
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert!(call.try_wait().unwrap().is_none(), "the call goes on");
    std::fs::write(ground.daemons[at].folder.path().join("leases").join(&busy).join("go"), "").unwrap();
    assert!(call.wait().unwrap().success());
    let ended = eventually("it ends", async || ground.daemons[at].child.try_wait().unwrap()).await;
    assert!(ended.success(), "{ended:?}");
    ground.ends_well(at, &lease).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_daemon_was_at_work_on_is_taken_over_when_its_claim_has_run_out() {
    if !is_installed() {
        return;
    }
    let (mut ground, at, lease) = at_work(&[("DRYDOCK_CLAIM_SECONDS", "1")]).await;
    let since = Instant::now();
    ground.daemons[at].child.kill().unwrap();
    ground.daemons[at].child.wait().unwrap();
    let took = ground.taken_over(since).await;
    println!("taken over after {took:?}");
    // The rest of the claim, a sweep, and a machine that has other things to do.
    assert!(took > Duration::from_millis(500) && took < Duration::from_secs(12), "{took:?}");
    ground.ends_well(at, &lease).await;
}
