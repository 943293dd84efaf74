//! Killed before and after each commit of a whole life: the same lease becomes ACTIVE after the restart, and nothing of it is
//! left after its release.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use drydock::proto::v1::{AcquireLeaseRequest, ApplyBlueprintRequest, Blueprint, Lease, lease};
use futures::StreamExt as _;
use futures::stream;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tempfile::TempDir;
use tonic::Status;

use super::daemon::Daemon;
use crate::queue::kit::folder;

/// So many daemons at once.
const SIDE_BY_SIDE: usize = 3;
/// More commits than any life here has; a test that gets there does not end by itself.
const FAR: usize = 400;

fn value(json: serde_json::Value) -> Value {
    let kind = match json {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(flag) => Kind::BoolValue(flag),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap()),
        serde_json::Value::String(text) => Kind::StringValue(text),
        serde_json::Value::Array(items) => {
            Kind::ListValue(prost_types::ListValue { values: items.into_iter().map(value).collect() })
        }
        serde_json::Value::Object(fields) => {
            let fields = fields.into_iter().map(|(key, item)| (key, value(item))).collect();
            Kind::StructValue(Struct { fields })
        }
    };
    Value { kind: Some(kind) }
}

fn config(json: serde_json::Value) -> Option<Struct> {
    match value(json).kind {
        Some(Kind::StructValue(config)) => Some(config),
        _ => None,
    }
}

/// A range of ports for one daemon: those that run at the same time do not get in each other's way.
pub(super) fn ports() -> serde_json::Value {
    static RANGES: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 97).unwrap();
    let nth = start.wrapping_add(RANGES.fetch_add(1, Ordering::Relaxed)) % 800;
    let first = 11_000 + nth * 10;
    serde_json::json!({"first": first, "last": first + 9})
}

pub(super) async fn apply(daemon: &Daemon, name: &str, kind: &str, with: serde_json::Value) {
    let blueprint =
        Blueprint { name: name.to_owned(), kind: kind.to_owned(), config: config(with), ..Blueprint::default() };
    let request = ApplyBlueprintRequest { blueprint: Some(blueprint), ..ApplyBlueprintRequest::default() };
    daemon.blueprints().await.unwrap().apply_blueprint(request).await.unwrap();
}

/// A data folder of a daemon that has its blueprints and has never leased anything, and a repository beside it.
async fn template(folder: &TempDir) {
    let repository = folder.path().join("repository");
    std::fs::create_dir_all(repository.join("public")).unwrap();
    std::fs::write(repository.join("public/index.html"), "hello").unwrap();
    for words in [&["init", "-q"][..], &["add", "."], &["commit", "-q", "-m", "The first commit"]] {
        let identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"];
        let git = Command::new("git").arg("-C").arg(&repository).args(identity).args(words).status().unwrap();
        assert!(git.success());
    }
    let mut daemon = Daemon::on(&folder.path().join("template"));
    assert!(daemon.start(None).await);
    let needs = serde_json::json!({
        "host": {"type": "host"},
        "copy": {"type": "working-copy", "attributes": {"host": "${host.lease_id}", "repository": "${parameters.repository}"}},
        "site": {"type": "webroot", "attributes": {"host": "${host.lease_id}", "document_root": "${copy.path}/public"}},
    });
    let castle = serde_json::json!({
        "type": "sandcastle",
        "parameters": {"repository": {"type": "string"}},
        "needs": needs,
        "exports": {"command": "copy", "filesystem": "copy", "httpd": "site"},
        "facts": {"port": "${site.port}"},
    });
    apply(&daemon, "sandcastle", "composite", castle).await;
    daemon.kill().await;
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

fn sandcastle(folder: &Path) -> AcquireLeaseRequest {
    let repository = folder.join("repository").to_string_lossy().into_owned();
    AcquireLeaseRequest {
        resource_type: "sandcastle".to_owned(),
        attributes: [("repository".to_owned(), repository)].into(),
        request_id: "castle".to_owned(),
        ..AcquireLeaseRequest::default()
    }
}

/// It dies by its own hand, and another is started without that intent.
async fn start_again(daemon: &mut Daemon, why: &str) {
    let status = daemon.death().await;
    assert_eq!(status.signal(), Some(9), "{why}");
    assert!(daemon.start(None).await, "it starts again: {why}");
}

/// One life, with a death at that place; `false` when it was never reached.
async fn life(data: &Path, wanted: &AcquireLeaseRequest, place: &str) -> bool {
    let mut daemon = Daemon::on(data);
    let mut died = !daemon.start(Some(place)).await;
    if died {
        start_again(&mut daemon, place).await;
    }
    let lease = match daemon.acquire(wanted).await {
        Ok(lease) => lease,
        Err(status) => {
            assert!(!died, "{place}: {status}");
            start_again(&mut daemon, &format!("{place}: {status}")).await;
            died = true;
            daemon.acquire(wanted).await.unwrap()
        }
    };
    assert_eq!(lease.state(), lease::State::Active, "{place}: {lease:?}");
    let gone: Result<Lease, Status> = daemon.release(&lease.id).await;
    let gone = match gone {
        Ok(gone) => gone,
        Err(status) => {
            assert!(!died, "{place}: {status}");
            start_again(&mut daemon, &format!("{place}: {status}")).await;
            died = true;
            daemon.release(&lease.id).await.unwrap()
        }
    };
    assert_eq!(gone.state(), lease::State::Destroyed, "{place}: {gone:?}");
    // What is left of the tree is taken down after its root has gone; it may die in that too.
    if !daemon.takes_all_down().await {
        assert!(!died, "{place}");
        start_again(&mut daemon, place).await;
        died = true;
    }
    // Whoever listens is a process, and those are looked for; its port may be another daemon's by now.
    daemon.assert_nothing_left(&BTreeSet::new()).await;
    daemon.kill().await;
    died
}

/// Lives with a death at 1, 2, 3 …, until one is over before its death.
async fn all_lives(at: &str, template: Option<&Path>, wanted: &AcquireLeaseRequest) -> usize {
    let folder = folder();
    let end = AtomicUsize::new(FAR);
    stream::iter(1..FAR)
        .take_while(|number| futures::future::ready(*number < end.load(Ordering::SeqCst)))
        .map(|number| {
            let (folder, end) = (folder.path().join(number.to_string()), &end);
            async move {
                if let Some(template) = template {
                    copy(template, &folder);
                }
                if !life(&folder, wanted, &format!("{at}:{number}")).await {
                    end.fetch_min(number, Ordering::SeqCst);
                }
                let _ = std::fs::remove_dir_all(&folder);
            }
        })
        .buffer_unordered(SIDE_BY_SIDE)
        .collect::<()>()
        .await;
    end.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_each_commit_of_a_sandcastle_it_goes_on_and_leaves_nothing() {
    let folder = folder();
    template(&folder).await;
    let end = all_lives("before", Some(&folder.path().join("template")), &sandcastle(folder.path())).await;
    assert!((20..FAR).contains(&end), "a whole life has {end} commits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_each_commit_since_its_first_start_it_goes_on_and_leaves_nothing() {
    let wanted = AcquireLeaseRequest {
        resource_type: "storage".to_owned(),
        attributes: [("quota".to_owned(), "1MiB".to_owned())].into(),
        request_id: "storage".to_owned(),
        ..AcquireLeaseRequest::default()
    };
    let end = all_lives("after", None, &wanted).await;
    assert!((15..FAR).contains(&end), "a whole life has {end} commits");
}

/// Applies a range of ports of its own.
pub(super) async fn own_ports(daemon: &Daemon) {
    apply(daemon, "port", "port", ports()).await;
}
