//! Sandcastles on a box: the examples, whose page the box's own nginx or apache2 serves.

use std::path::{Path, PathBuf};
use std::process::Command;

use drydock::proto::v1::httpd_service_client::HttpdServiceClient;
use drydock::proto::v1::{BlueprintLimits, GetHttpdRequest, Httpd, RestartHttpdRequest};
use serde_json::json;

use super::commands::{drydock, said};
use super::fleet::Fleet;
use crate::blueprints::servers::is_installed;
use crate::ssh::sshd::Sshd;
use crate::web_servers::fetch;

/// A repository on the machine whose `make site` makes a page.
fn repository(machine: &Sshd) -> String {
    let path = machine.folder().join("site");
    std::fs::create_dir(&path).unwrap();
    let makefile =
        "site:\n\tmkdir -p public\n\techo '<h1>built there</h1>' >public/index.html\nclean:\n\trm -rf public\n";
    std::fs::write(path.join("Makefile"), makefile).unwrap();
    for words in [&["init", "-q"][..], &["add", "."], &["commit", "-q", "-m", "The first commit"]] {
        let identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"];
        assert!(Command::new("git").arg("-C").arg(&path).args(identity).args(words).status().unwrap().success());
    }
    path.display().to_string()
}

/// What is there of leases: folders, and processes that work in one, name one, or run for one.
pub(super) fn left(machine: &Sshd) -> Vec<String> {
    let homes = ["leases", "resources"].map(|name| machine.home().join(".drydock").join(name));
    let folders = homes.iter().flat_map(|home| std::fs::read_dir(home).into_iter().flatten());
    let mut left: Vec<String> = folders.map(|entry| entry.unwrap().path().display().to_string()).collect();
    let marked = machine.commands();
    for process in std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()) {
        let read = |name: &str| {
            String::from_utf8_lossy(&std::fs::read(process.join(name)).unwrap_or_default()).replace('\0', " ")
        };
        let works_there = |home: &PathBuf| std::fs::read_link(process.join("cwd")).is_ok_and(|it| it.starts_with(home));
        let words = read("cmdline");
        let names_it = |home: &PathBuf| words.contains(home.to_str().unwrap());
        let pid = process.file_name().and_then(|name| name.to_str()?.parse().ok());
        let runs_for =
            pid.is_some_and(|pid: u32| marked.contains(&pid)) && read("environ").contains("DRYDOCK_LEASE_ID=");
        if runs_for || homes.iter().any(|home| works_there(home) || names_it(home)) {
            left.push(words);
        }
    }
    left
}

async fn status(fleet: &Fleet, lease: &str) -> Httpd {
    let request = GetHttpdRequest { lease_id: lease.to_owned() };
    HttpdServiceClient::new(fleet.link.clone()).get_httpd(request).await.unwrap().into_inner().httpd.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandcastle_stands_on_a_box_and_leaves_nothing() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    for (server, nth) in [("nginx", 0), ("apache2", 1)].into_iter().filter(|(server, _)| is_installed(server)) {
        let (fleet, machine) = (Fleet::start(json!({}), 1).await, Sshd::start());
        let first = 29_000 + (std::process::id() % 40) * 20 + nth * 10;
        let ports = json!({"first": first, "last": first + 9});
        fleet.apply("port", "port", &ports, BlueprintLimits::default()).await;
        let known = fleet.register("one", &machine, &[]).await;
        for words in [
            ["blueprint", "apply", "-f", &format!("{examples}/webroot-{server}.yaml")].as_slice(),
            &["blueprint", "apply", "-f", &format!("{examples}/sandcastle.yaml")],
            &["blueprint", "disable", "webroot"],
        ] {
            let done = drydock(&fleet, words).await;
            assert!(done.status.success(), "{words:?}: {}", said(&done.stderr));
        }
        assert_eq!(left(&machine), [""; 0]);
        let lease = fleet.acquire("sandcastle", &[("repository", &repository(&machine))], &[]).await;
        assert!(Path::new(&lease.facts["path"]).starts_with(machine.home()), "{:?}", lease.facts);
        assert_eq!(fleet.resource(&known.id).await.lease_count, 1);
        assert!(left(&machine).len() > 4, "a check of nothing proves nothing: {:?}", left(&machine));
        let uri = &lease.facts["uri"];
        let answer = fetch(uri).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("<h1>built there</h1>"), "{server}: {answer}");

        let before = status(&fleet, &lease.id).await;
        assert!(before.running && before.driver == server && before.pid > 0, "{before:?}");
        let request = RestartHttpdRequest { lease_id: lease.id.clone() };
        let mut steps = HttpdServiceClient::new(fleet.link.clone()).restart_httpd(request).await.unwrap().into_inner();
        let mut names = Vec::new();
        while let Some(step) = steps.message().await.unwrap() {
            names.push(step.progress.unwrap().step);
        }
        assert_eq!(names.join(" "), "config-test stop start probe done", "{server}");
        let after = status(&fleet, &lease.id).await;
        assert!(after.running && after.pid != before.pid, "{after:?}");
        fleet.exec(&lease.id, "echo '<h1>changed</h1>' >public/index.html").await.unwrap();
        assert!(fetch(uri).unwrap().contains("<h1>changed</h1>"), "{server}");

        fleet.release(&lease.id).await;
        assert_eq!(left(&machine), [""; 0], "{server}");
        assert!(fetch(uri).is_err(), "{server}: the port is free");
        let port: u16 = uri.trim_end_matches('/').rsplit(':').next().unwrap().parse().unwrap();
        std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        fleet.end().await;
    }
}
