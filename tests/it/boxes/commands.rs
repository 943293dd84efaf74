//! `drydock host`, over a whole daemon and a real machine.

use std::process::{Output, Stdio};

use serde_json::json;

use super::cut_off::{begin, end};
use super::files::{start, write};
use super::fleet::Fleet;
use crate::ssh::sshd::Sshd;

pub(super) async fn drydock(fleet: &Fleet, args: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_drydock"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", "/nowhere")
        .env("DRYDOCK_ADDR", format!("unix:{}", fleet.daemon.ready.socket.display()))
        .args(args)
        .stdin(Stdio::null());
    command.output().await.unwrap()
}

pub(super) fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_never_trusted_unseen() {
    let (fleet, mut machine) = (Fleet::start(json!({}), 1).await, Sshd::start());
    let target = machine.target();
    let (port, key) = (target.port.to_string(), target.identity_file.unwrap().display().to_string());
    let add = ["host", "add", "one", "--address", "127.0.0.1", "--port", &port, "--user", &target.user];
    let add = [&add[..], &["--identity-file", &key, "--label", "arch=arm64"]].concat();
    for more in [&[][..], &["-y"]] {
        let refused = drydock(&fleet, &[&add, more].concat()).await;
        assert_eq!(refused.status.code(), Some(64), "{}", said(&refused.stderr));
        assert!(said(&refused.stderr).contains("SHA256:"), "{}", said(&refused.stderr));
    }
    let wrong = drydock(&fleet, &[&add[..], &["--accept-host-key", "SHA256:nonsense"]].concat()).await;
    assert_eq!(wrong.status.code(), Some(1), "{}", said(&wrong.stderr));
    assert!(said(&wrong.stderr).contains("HOST_KEY_MISMATCH"), "{}", said(&wrong.stderr));
    assert_eq!(said(&drydock(&fleet, &["host", "list", "-o", "name"]).await.stdout), "");

    let shown = said(&drydock(&fleet, &add).await.stderr);
    let fingerprint = shown.split_whitespace().find(|word| word.starts_with("SHA256:")).unwrap();
    let added = drydock(&fleet, &[&add[..], &["--accept-host-key", fingerprint]].concat()).await;
    let id = said(&added.stdout);
    assert!(added.status.success() && id.starts_with("res_"), "{id}: {}", said(&added.stderr));
    let got = said(&drydock(&fleet, &["resource", "get", &id]).await.stdout);
    for word in ["arch=arm64", "identity_file=/", "session_limit", "ACTIVE"] {
        assert!(got.contains(word), "{word}: {got}");
    }
    let healthy = drydock(&fleet, &["resource", "check", &id]).await;
    assert_eq!((healthy.status.code(), said(&healthy.stdout)), (Some(0), "healthy".to_owned()));
    let ran =
        drydock(&fleet, &["run", "host", "--blueprint", "remote-host", "--", "sh", "-c", "echo $HOME; exit 3"]).await;
    assert_eq!(ran.status.code(), Some(3), "{}", said(&ran.stderr));
    assert_eq!(said(&ran.stdout), machine.home().display().to_string());

    machine.rekey();
    machine.restart();
    let sick = drydock(&fleet, &["host", "check", "one"]).await;
    assert_eq!(sick.status.code(), Some(1));
    let fingerprint = said(&sick.stdout);
    let fingerprint = fingerprint.split([' ', ';', ',', '(', ')']).find(|word| word.starts_with("SHA256:"));
    // The first check may only have met the other key; the next one shows it.
    let shown = said(&drydock(&fleet, &["host", "check", "one"]).await.stdout);
    let shown = shown.split([' ', ';', ',']).find(|word| word.starts_with("SHA256:")).or(fingerprint).unwrap();
    let pinned = drydock(&fleet, &["host", "update", "one", "--accept-host-key", shown]).await;
    assert!(pinned.status.success(), "{}", said(&pinned.stderr));
    fleet.until(&id, "well", |now| now.problem.is_empty()).await;
    let gone = drydock(&fleet, &["host", "remove", "one"]).await;
    assert!(gone.status.success(), "{}", said(&gone.stderr));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_cannot_be_reached_says_so_and_stays() {
    let (fleet, mut machine) = (Fleet::start(json!({}), 1).await, Sshd::start());
    machine.end();
    let (port, key) = (machine.port().to_string(), machine.host_key());
    let add = ["host", "add", "one", "--address", "127.0.0.1", "--port", &port, "--host-key", &key];
    let failed = drydock(&fleet, &add).await;
    assert_eq!(failed.status.code(), Some(69), "{}", said(&failed.stderr));
    assert!(said(&failed.stderr).contains("HOST_UNREACHABLE"), "{}", said(&failed.stderr));
    assert!(said(&failed.stdout).starts_with("res_"));
    let removed = drydock(&fleet, &["host", "remove", "one"]).await;
    assert!(removed.status.success(), "{}", said(&removed.stderr));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_that_was_pinned_can_be_pinned_again() {
    let (fleet, mut machine) = (Fleet::start(json!({}), 1).await, Sshd::start());
    let known = fleet.register("one", &machine, &[]).await;
    let pinned = fleet.resource(&known.id).await.attributes;
    // As if another had answered in between.
    let other = Sshd::start();
    let mut elsewhere = pinned.clone();
    elsewhere.insert("host_key".to_owned(), other.host_key());
    let update = drydock::proto::v1::UpdateResourceRequest {
        resource_id: known.id.clone(),
        attributes: elsewhere,
        ..Default::default()
    };
    fleet.resources().update_resource(update).await.unwrap();
    fleet.until(&known.id, "blocked", |now| now.problem.starts_with("HOST_KEY_MISMATCH: ")).await;
    drop(other);
    let nothing = drydock(&fleet, &["host", "update", "one"]).await;
    assert_eq!(nothing.status.code(), Some(64), "{}", said(&nothing.stderr));
    // What is pinned is given once more, and shown again only then.
    let key = fleet.resource(&known.id).await.attributes["host_key"].clone();
    let again = drydock(&fleet, &["host", "update", "one", "--host-key", &key]).await;
    assert!(again.status.success(), "{}", said(&again.stderr));
    fleet.until(&known.id, "blocked", |now| now.problem.starts_with("HOST_KEY_MISMATCH: ")).await;
    let right = drydock(&fleet, &["host", "update", "one", "--host-key", &machine.host_key()]).await;
    assert!(right.status.success(), "{}", said(&right.stderr));
    fleet.until(&known.id, "well", |now| now.problem.is_empty()).await;
    machine.end();
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_as_nothing_is_taken_away() {
    let (fleet, machine) = (Fleet::start(json!({}), 1).await, Sshd::start());
    let known = fleet.register("one", &machine, &[]).await;
    // A way that leads nowhere, so that it is seen whether it is taken.
    let given = ["--jump", "nowhere.invalid", "--ssh-config", "/dev/null", "--agent", "/nowhere/agent"];
    let given = [&given[..], &["--reachable-address", "198.51.100.7"]].concat();
    let done = drydock(&fleet, &[&["host", "update", "one"], &given[..]].concat()).await;
    assert!(done.status.success(), "{}", said(&done.stderr));
    let stuck = fleet.until(&known.id, "a problem", |now| !now.problem.is_empty()).await;
    assert_eq!(stuck.attributes["jump"], "nowhere.invalid");
    let nothing = ["--jump", "", "--ssh-config", "", "--agent", "", "--reachable-address", ""];
    let done = drydock(&fleet, &[&["host", "update", "one"], &nothing[..]].concat()).await;
    assert!(done.status.success(), "{}", said(&done.stderr));
    let well = fleet.until(&known.id, "well", |now| now.problem.is_empty()).await;
    assert_eq!(well.attributes, known.attributes);
    let again = drydock(&fleet, &[&["host", "update", "one"], &nothing[..]].concat()).await;
    assert_eq!(again.status.code(), Some(64), "{}", said(&again.stderr));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_is_kept_for_a_box_is_shown() {
    let (fleet, machine) = (Fleet::start(json!({}), 1).await, Sshd::start());
    let known = fleet.register("one", &machine, &[]).await;
    let lease = fleet.acquire("host", &[], &[]).await;
    let running = begin(&fleet, &lease.id, "echo on; until [ -e go ]; do sleep 0.1; done").await;
    write(&fleet, start(&lease.id, "file", ""), 0, b"words").await.unwrap();
    let shown = said(&drydock(&fleet, &["resource", "get", &known.id, "-o", "json"]).await.stdout);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let kept = &shown["diagnostics"];
    assert!(kept["keeper"]["heard_seconds_ago"].is_number() && kept["clerk"] == "up", "{kept:#}");
    assert!(kept["runners"]["busy"].as_f64() >= Some(1.0) && kept["runners"]["waited_for_by"] == 0.0, "{kept:#}");
    assert!(kept["sftp"]["small"]["open"] == 1.0 && kept["sftp"]["transfers"]["at_most"] == 4.0, "{kept:#}");
    assert!(kept["masters"].as_array().is_some_and(|masters| !masters.is_empty()), "{kept:#}");
    write(&fleet, start(&lease.id, "go", ""), 0, b"").await.unwrap();
    assert_eq!(end(running).await.unwrap(), 0);
    fleet.end().await;
}
