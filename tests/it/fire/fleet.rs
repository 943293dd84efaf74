//! Four daemons, a server that they share, machines that they lease, and the journal.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use drydock::proto::v1::{ListResourcesRequest, ListTasksRequest, RegisterResourceRequest, RetryTaskRequest, resource};
use sqlx::Row as _;
use tempfile::TempDir;

use super::daemon::{Api, Daemon};
use super::journal::Journal;
use super::server::Server;
use crate::queue::invariants::{breaches, reader};
use crate::queue::kit::eventually;
use crate::ssh::sshd::Sshd;

const DAEMONS: [&str; 4] = ["a", "b", "c", "d"];

/// What is leased: a machine on which each berth makes itself known, from its creation to its end.
const DOCUMENTS: &str = r#"
name: remote-host
kind: remote-host
limits: {leases_per_resource: 1, shared: true}
config: {check_interval: 5s}
---
name: berth
kind: composite
config:
  type: berth
  needs:
    host: {type: host}
  steps:
    - name: create
      part: host
      run: [sh, -c, 'exec "$HOME/tell" create "$HOLDER"']
      undo: [sh, -c, 'exec "$HOME/tell" destroy "$HOLDER"']
      env: {HOLDER: "${host.lease_id}"}
      timeout: 60s
  exports: {command: host}
  facts: {holder: "${host.lease_id}"}
"#;

pub(super) struct Fleet {
    pub(super) daemons: Vec<Daemon>,
    pub(super) server: Server,
    pub(super) boxes: Vec<Sshd>,
    pub(super) journal: Journal,
    pub(super) folder: TempDir,
}

impl Fleet {
    /// With so many machines; `more` is environment of all daemons.
    pub(super) async fn start(boxes: usize, more: &[(&str, &str)]) -> Self {
        let folder = crate::queue::kit::folder();
        let journal = Journal::start(folder.path());
        let server = Server::start().await;
        let mut daemons = Vec::new();
        for name in DAEMONS {
            daemons.push(Daemon::new(name, folder.path(), &server, more).await);
        }
        // Its machine's clock is wrong by an hour, and later by an hour the other way.
        daemons[3].set_clock(3600);
        let started = tokio::task::spawn_blocking(move || (0..boxes).map(|_| Sshd::start()).collect());
        // The first makes the tables; the others find them.
        for daemon in &mut daemons {
            daemon.start();
            eventually("it serves", async || daemon.drydock(&["health"]).status.success().then_some(())).await;
        }
        let fleet = Self { daemons, server, boxes: started.await.unwrap(), journal, folder };
        fleet.furnish().await;
        fleet
    }

    async fn furnish(&self) {
        let file = self.folder.path().join("blueprints.yaml");
        std::fs::write(&file, DOCUMENTS).unwrap();
        let applied = self.daemons[0].drydock(&["blueprint", "apply", "-f", &file.display().to_string()]);
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
        for (number, machine) in self.boxes.iter().enumerate() {
            let name = format!("box-{number}");
            self.journal.equip(&machine.home(), &name);
            let request = RegisterResourceRequest {
                blueprint: "remote-host".to_owned(),
                name,
                attributes: machine.attributes().into_iter().collect(),
                ..RegisterResourceRequest::default()
            };
            self.daemons[0].api().resources().register_resource(request).await.unwrap();
        }
        eventually("all machines can be leased", async || {
            let live = self.live_resources(&self.daemons[1].api()).await?;
            (live.len() == self.boxes.len() && live.iter().all(|of| of.state() == resource::State::Active))
                .then_some(())
        })
        .await;
    }

    pub(super) fn apis(&self) -> Vec<Api> {
        self.daemons.iter().map(Daemon::api).collect()
    }

    async fn live_resources(&self, api: &Api) -> Option<Vec<drydock::proto::v1::Resource>> {
        let request = ListResourcesRequest { page_size: 500, ..ListResourcesRequest::default() };
        let all = api.resources().list_resources(request).await.ok()?.into_inner().resources;
        Some(all.into_iter().filter(|of| of.state() != resource::State::Destroyed).collect())
    }

    /// Whoever was at work in five deaths is suspected of them; it gets another life. How many there were.
    async fn acquit(&self) -> Option<usize> {
        let mut tasks = self.daemons[0].api().tasks();
        let request = ListTasksRequest { filter: "state = DEAD".to_owned(), ..ListTasksRequest::default() };
        let dead = tasks.list_tasks(request).await.ok()?.into_inner().tasks;
        for task in &dead {
            let retry = RetryTaskRequest { task_id: task.id.clone(), ..RetryTaskRequest::default() };
            tasks.retry_task(retry).await.ok()?;
        }
        Some(dead.len())
    }

    /// Waits until everything has ended; what has not, in words, and how many tasks were suspected of deaths.
    pub(super) async fn left_over(&self) -> (Vec<String>, usize) {
        let suspected = AtomicUsize::new(0);
        let settle = eventually("all is given back", async || {
            suspected.fetch_add(self.acquit().await?, Ordering::Relaxed);
            let left = self.leftovers().await;
            left.is_empty().then_some(())
        });
        let settled =
            tokio::time::timeout(crate::harness::LONG.saturating_sub(std::time::Duration::from_secs(5)), settle).await;
        let left = if settled.is_ok() { Vec::new() } else { self.leftovers().await };
        (left, suspected.into_inner())
    }

    async fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let mut admin = self.server.admin().await;
        let looks = [
            "SELECT id || ' is ' || state AS what FROM lease WHERE state <> 'DESTROYED'",
            "SELECT id || ' is ' || state AS what FROM resource WHERE state <> 'DESTROYED' AND resource_type <> 'host'",
            "SELECT 'slot ' || scope || ' of ' || holder AS what FROM slot WHERE scope LIKE 'res_%'",
            "SELECT 'effect ' || name || ' of ' || subject AS what FROM effect",
        ];
        for look in looks {
            let rows = sqlx::query(look).fetch_all(&mut admin).await.unwrap();
            left.extend(rows.iter().map(|row| row.get::<String, _>("what")));
        }
        left.extend(breaches(&mut reader(&self.server.url()).await).await);
        for machine in &self.boxes {
            for folder in ["leases", "resources"] {
                let folder = machine.home().join(".drydock").join(folder);
                let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
                left.extend(entries.map(|entry| entry.path().display().to_string()));
            }
            left.extend(
                machine.commands().into_iter().filter(|pid| is_leased(*pid)).map(|pid| format!("process {pid}")),
            );
        }
        left
    }

    /// Leases that got a machine though at least as many had waited for one before them, by `ord`, as machines were free: each of those
    /// may be a moment behind, as when its daemon has died, and finds one all the same. Who gave way is not counted, and a second is
    /// nothing, since the times are those at which transactions began.
    pub(super) async fn inversions(&self) -> Vec<String> {
        let mut admin = self.server.admin().await;
        let look = "WITH host AS (SELECT id, ord, create_time, acquire_time, destroy_time FROM lease WHERE resource_type = 'host' \
             AND id NOT IN (SELECT subject FROM event WHERE kind IN ('lease.gave_way', 'lease.requeued'))), \
             served AS (SELECT b.id, (SELECT count(*) FROM host a WHERE a.ord < b.ord AND a.create_time + 1000000 < b.acquire_time \
             AND b.acquire_time + 1000000 < a.acquire_time) AS ahead, (SELECT count(*) FROM host c WHERE c.id <> b.id \
             AND c.acquire_time <= b.acquire_time AND (c.destroy_time IS NULL OR c.destroy_time > b.acquire_time + 1000000)) AS taken FROM host b) \
             SELECT id || ' before ' || ahead || ' others' AS what FROM served WHERE ahead > 0 AND ahead >= $1 - taken";
        let boxes = i64::try_from(self.boxes.len()).unwrap();
        let rows = sqlx::query(look).bind(boxes).fetch_all(&mut admin).await.unwrap();
        rows.iter().map(|row| row.get("what")).collect()
    }

    /// Claims for each lease of a machine.
    pub(super) async fn claims_per_lease(&self) -> f64 {
        let mut admin = self.server.admin().await;
        let look = "SELECT (SELECT sum(attempt) FROM task)::float8 / greatest(1, (SELECT count(*) FROM lease WHERE resource_type = 'host')) AS n";
        sqlx::query(look).fetch_one(&mut admin).await.unwrap().get("n")
    }

    /// Where the daemons' words are.
    pub(super) fn logs(&self) -> Vec<PathBuf> {
        self.daemons.iter().map(Daemon::log).collect()
    }
}

fn is_leased(pid: u32) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(b"DRYDOCK_LEASE_ID="))
}
