//! The page of a real daemon.

use std::process::Command;

use drydock::error::Reason;
use drydock::proto::v1::lease::State;
use drydock::proto::v1::lease_service_client::LeaseServiceClient;
use drydock::proto::v1::{AcquireLeaseRequest, GetLeaseRequest, ReleaseLeaseRequest, WatchLeaseRequest};

use super::{get, samples, whole};
use crate::harness::{Daemon, settings};
use crate::queue::kit::eventually;

const PLAIN: &str = "text/plain";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_what_happened_and_names_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::on(drydock::config::Settings { sweep: true, ..settings(folder.path()) }).await.unwrap();
    let address = daemon.ready.metrics.clone().unwrap();
    let link = daemon.caller("alice").await;
    let mut client = LeaseServiceClient::new(link.clone());
    let wait = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let ask = AcquireLeaseRequest { resource_type: "storage".to_owned(), wait, ..AcquireLeaseRequest::default() };
    let lease = client.acquire_lease(ask).await.unwrap().into_inner().lease.unwrap();
    assert_eq!(lease.state(), State::Active, "{lease:?}");
    let watch = WatchLeaseRequest { lease_id: lease.id.clone(), ..WatchLeaseRequest::default() };
    let mut watching = client.watch_lease(watch).await.unwrap().into_inner();
    watching.message().await.unwrap().unwrap();
    client.get_lease(GetLeaseRequest { lease_id: "lease_nonsense".to_owned() }).await.unwrap_err();

    let (head, page) = get(&address, "/metrics", PLAIN).await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"), "{head}");
    let now = samples(&page);
    let value = |series: &str| *now.get(series).unwrap_or_else(|| panic!("no {series} in\n{page}"));
    assert_eq!(whole(value("drydock_store_up")), 1);
    assert_eq!(whole(value(r#"drydock_leases{resource_type="storage",state="ACTIVE"}"#)), 1);
    assert_eq!(whole(value(r#"drydock_leases{resource_type="host",state="ACTIVE"}"#)), 1);
    assert_eq!(whole(value(r#"drydock_resources{blueprint="storage",resource_type="storage",state="ACTIVE"}"#)), 1);
    assert_eq!(whole(value(r#"drydock_lease_wait_seconds_count{blueprint="storage"}"#)), 1);
    assert_eq!(whole(value(r#"drydock_lease_phase_seconds_count{blueprint="storage",phase="build"}"#)), 1);
    assert_eq!(whole(value(r#"drydock_resource_build_seconds_count{blueprint="storage"}"#)), 1);
    assert_eq!(whole(value(r#"drydock_streams_open{method="drydock.v1.LeaseService/WatchLease"}"#)), 1);
    assert_eq!(whole(value(r#"drydock_rpcs_total{method="drydock.v1.LeaseService/AcquireLease",code="OK"}"#)), 1);
    assert_eq!(whole(value(r#"drydock_rpcs_total{method="drydock.v1.LeaseService/GetLease",code="NOT_FOUND"}"#)), 1);
    assert!(value(r#"drydock_steps_total{of="lease",outcome="done"}"#) >= 1.0);
    assert!(value("drydock_store_commits_total") >= 3.0 && value("drydock_store_batch_operations_count") >= 3.0);
    assert!(value(r#"drydock_wakes_total{cause="event"}"#) >= 2.0);
    assert_eq!(whole(value(r#"drydock_wakes_total{cause="sweep"}"#)), 0, "a healthy run needs no sweep");
    assert!(value("drydock_start_time_seconds") > 1.7e9);
    for word in ["lease_0", "res_0", "alice", "uid:", folder.path().to_str().unwrap()] {
        assert!(!page.contains(word), "{word} is no label:\n{page}");
    }

    drop(watching);
    let release = ReleaseLeaseRequest { lease_id: lease.id, wait, ..ReleaseLeaseRequest::default() };
    client.release_lease(release).await.unwrap();
    eventually("the stream is counted as ended", async || {
        let after = samples(&get(&address, "/metrics", PLAIN).await.1);
        let open = after.get(r#"drydock_streams_open{method="drydock.v1.LeaseService/WatchLease"}"#)?;
        let gone = !after.keys().any(|series| series.starts_with("drydock_leases{"));
        (*open < 1.0 && gone).then_some(())
    })
    .await;
    let (head, page) = get(&address, "/metrics", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5").await;
    assert!(head.contains("application/openmetrics-text; version=1.0.0") && page.ends_with("# EOF\n"), "{head}");
    assert!(get(&address, "/", PLAIN).await.0.starts_with("HTTP/1.1 404"));
    drop((client, link));
    daemon.drain().await.unwrap();
}

#[tokio::test]
async fn it_is_off_unless_asked_for_and_stays_on_loopback() {
    let folder = tempfile::tempdir().unwrap();
    let plain = drydock::config::Settings { metrics_listen: None, ..settings(folder.path()) };
    let daemon = Daemon::on(plain.clone()).await.unwrap();
    assert_eq!(daemon.ready.metrics, None);
    daemon.drain().await.unwrap();
    let wide = drydock::config::Settings { metrics_listen: Some("0.0.0.0:0".to_owned()), ..plain.clone() };
    let Err(error) = Daemon::on(wide).await else { panic!("it listens everywhere") };
    assert_eq!(error.reason, Reason::InvalidArgument);
    assert!(error.message.contains("metrics_listen") && error.message.contains("loopback"), "{error}");
    // One that is taken is told before anything else begins.
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let Err(error) = Daemon::on(drydock::config::Settings { metrics_listen: Some(address), ..plain }).await else {
        panic!("two listen at one address");
    };
    assert!(error.message.contains("--metrics-listen"), "{error}");
}

#[test]
fn flag_environment_and_file_say_where() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("drydock.toml");
    std::fs::write(&file, "metrics_listen = \"127.0.0.1:9464\"\n").unwrap();
    let drydock = |args: &[&str], env: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drydock"));
        command.env_clear().env("HOME", folder.path()).args(args).envs(env.iter().copied());
        command.output().unwrap()
    };
    let shown = |args: &[&str], env: &[(&str, &str)]| String::from_utf8(drydock(args, env).stdout).unwrap();
    let show = ["config", "show", "--config", file.to_str().unwrap()];
    assert!(shown(&show, &[]).contains("127.0.0.1:9464"));
    assert!(shown(&show, &[("DRYDOCK_METRICS_LISTEN", "127.0.0.1:1")]).contains("127.0.0.1:1 "));
    let flag = [&show[..], &["--metrics-listen", "127.0.0.1:2"]].concat();
    assert!(shown(&flag, &[("DRYDOCK_METRICS_LISTEN", "127.0.0.1:1")]).contains("--metrics-listen"));
    let refused = drydock(&["serve", "--data-dir", "d", "--metrics-listen", "192.0.2.1:9464"], &[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(78), "{said}");
    assert!(said.contains("metrics_listen"), "{said}");
}
