//! A site of the host's own server, whose daemon is killed while the configuration is tested.

use std::process::{Command, Stdio};

use drydock::proto::v1::{AcquireLeaseRequest, GetLeaseRequest, lease};
use serde_json::json;

use super::boundaries::{apply, ports};
use super::daemon::Daemon;
use crate::blueprints::servers::is_installed;
use crate::queue::kit::{eventually, folder};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_on_trial_is_taken_back_by_the_next_daemon() {
    if !is_installed("nginx") {
        return;
    }
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let [sites, hold, begun] = ["sites", "hold", "begun"].map(path);
    std::fs::create_dir(&sites).unwrap();
    std::fs::write(&hold, "").unwrap();
    let test = format!(
        "if [ -e {} ]; then : >{}; sleep 1000; fi; ! grep -rq nonsense {}",
        hold.display(),
        begun.display(),
        // Where the site's file includes it from.
        path("data").join("resources").display()
    );
    let mut daemon = Daemon::on(&path("data"));
    assert!(daemon.start(None).await);
    apply(&daemon, "port", "port", ports()).await;
    let config = json!({
        "driver": "nginx",
        "mode": "site",
        "sites_folder": sites,
        "test_command": ["sh", "-c", test],
        "reload_command": ["true"],
        "config_snippet": "nonsense here;",
    });
    apply(&daemon, "site", "webroot", config).await;
    let wanted = AcquireLeaseRequest {
        resource_type: "webroot".to_owned(),
        blueprints: vec!["site".to_owned()],
        ..AcquireLeaseRequest::default()
    };
    let asked = daemon.leases().await.unwrap().acquire_lease(wanted).await.unwrap().into_inner().lease.unwrap();
    eventually("it is tested", async || begun.exists().then_some(())).await;
    let there = || std::fs::read_dir(&sites).unwrap().count();
    assert_eq!(there(), 1, "it is on trial");
    daemon.kill().await;
    assert_eq!(there(), 1, "nobody was there to take it back");
    std::fs::remove_file(&hold).unwrap();

    assert!(daemon.start(None).await);
    let request = GetLeaseRequest { lease_id: asked.id.clone() };
    let broken = eventually("it is given up", async || {
        let mut leases = daemon.leases().await.ok()?;
        let now = leases.get_lease(request.clone()).await.ok()?.into_inner().lease?;
        matches!(now.state(), lease::State::Broken | lease::State::Destroyed).then_some(now)
    })
    .await;
    assert_eq!(there(), 0, "{broken:?}");
    assert!(broken.state_message.contains("configuration is not valid"), "{broken:?}");
    // What the killed daemon ran is gone as well.
    let left = Command::new("pgrep").args(["-f", &path("sites").display().to_string()]).stdout(Stdio::null()).status();
    assert!(!left.is_ok_and(|status| status.success()));
    daemon.assert_nothing_left(&[].into()).await;
}
