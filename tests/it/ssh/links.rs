//! The registry, jump hosts and scans.

use std::fs;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use drydock::error::Reason;
use drydock::host::ssh::keys::{HostKey, scan};
use drydock::host::ssh::link::{Link as _, Purpose};
use drydock::host::ssh::target::Target;

use super::kit::{LONG, Quay, drain, fails, linked, say, until};
use super::sshd::Sshd;

#[tokio::test]
async fn the_same_target_has_the_same_link() {
    let machine = Sshd::start();
    let (quay, link) = linked(&machine).await;
    assert!(Arc::ptr_eq(&link, &quay.link(&machine.target())));
    let channel = link.open("sleep 1000", Purpose::Command).await.unwrap();
    // A changed target has a new link, and what went over the old one ends.
    let changed = Target { address: "localhost".to_owned(), ..machine.target() };
    let after = quay.link(&changed);
    assert!(!Arc::ptr_eq(&link, &after));
    drain(channel).await;
    assert_eq!(fails(&link).await.reason, Reason::HostUnreachable);
    assert_eq!(say(&after, "echo in").await.unwrap(), "in\n");
    until("the old masters are gone", || quay.sshs().len() == 1).await;
    quay.links.forget(&changed.id);
    until("no master is left", || quay.sshs().is_empty()).await;
    assert!(quay.links.diagnostics(&changed.id).is_none());
}

#[tokio::test]
async fn no_master_is_left_after_the_end() {
    let machine = Sshd::start();
    let (quay, link) = linked(&machine).await;
    let _small = link.open("sleep 1000", Purpose::Command).await.unwrap();
    let _bulk = link.open("sleep 1000", Purpose::Bulk).await.unwrap();
    assert_eq!(quay.sshs().len(), 2);
    quay.links.close().await;
    assert!(quay.sshs().is_empty());
    assert_eq!(fs::read_dir(quay.folder.path()).unwrap().count(), 0);
    assert_eq!(link.diagnostics()["state"], "closed");
}

#[tokio::test]
async fn a_link_that_is_dropped_takes_its_masters_along() {
    let machine = Sshd::start();
    let (quay, link) = linked(&machine).await;
    say(&link, ":").await.unwrap();
    let Quay { folder, links } = quay;
    drop((link, links));
    until("no master is left", || super::kit::sshs(folder.path()).is_empty()).await;
}

#[tokio::test]
async fn a_bad_target_has_no_link() {
    let machine = Sshd::start();
    let quay = Quay::new().await;
    for address in ["-oProxyCommand=touch x", "127.0.0.1\nProxyCommand touch x"] {
        let error = quay.links.of(&Target { address: address.to_owned(), ..machine.target() }).err().unwrap();
        assert_eq!(error.reason, Reason::InvalidArgument);
    }
    let error = quay.links.of(&Target { host_keys: Vec::new(), ..machine.target() }).err().unwrap();
    assert!(error.message.contains("host_keys"), "{error}");
}

#[tokio::test]
async fn an_ssh_config_knows_names_and_ports() {
    let machine = Sshd::start();
    let quay = Quay::new().await;
    let path = machine.folder().join("config");
    fs::write(&path, format!("Host crate\n  HostName 127.0.0.1\n  Port {}\n  User nobody\n", machine.port())).unwrap();
    let target = Target { address: "crate".to_owned(), port: 22, ssh_config: Some(path), ..machine.target() };
    // The user is ours to say.
    assert_eq!(say(&quay.link(&target), "id -un").await.unwrap(), format!("{}\n", machine.target().user));
    assert_eq!(scan(&target, LONG).await.unwrap()[0].line(), machine.host_key());
}

/// A jump host, the machine behind it, and the configuration that knows the jump host.
fn behind(gate: &Sshd, machine: &Sshd) -> Target {
    let known = gate.folder().join("known");
    fs::write(&known, format!("[127.0.0.1]:{} {}\n", gate.port(), gate.host_key())).unwrap();
    let config = gate.folder().join("config");
    let key = gate.folder().join("key");
    let text = format!(
        "UserKnownHostsFile {}\nIdentityFile {}\nHost gate\n  HostName 127.0.0.1\n",
        known.display(),
        key.display()
    );
    fs::write(&config, text).unwrap();
    let jump = format!("{}@gate:{}", gate.target().user, gate.port());
    Target { jump: Some(jump), ssh_config: Some(config), ..machine.target() }
}

#[tokio::test]
async fn a_machine_is_reached_through_a_jump_host() {
    let (gate, machine) = (Sshd::start(), Sshd::start());
    let quay = Quay::new().await;
    let target = behind(&gate, &machine);
    let link = quay.link(&target);
    assert_eq!(say(&link, "echo $HOME").await.unwrap(), format!("{}\n", machine.home().display()));
    assert!(gate.log().contains("Accepted publickey"));
    // It is scanned the same way, and nobody is logged in for it.
    let before = machine.log().matches("Accepted publickey").count();
    let keys = scan(&target, LONG).await.unwrap();
    assert_eq!(keys, [HostKey::parse(&machine.host_key()).unwrap()]);
    assert_eq!(machine.log().matches("Accepted publickey").count(), before);
    quay.links.close().await;
    assert!(quay.sshs().is_empty());
}

#[tokio::test]
async fn what_is_wrong_with_a_jump_host_is_said_of_the_jump_host() {
    let (mut gate, machine) = (Sshd::start(), Sshd::start());
    let quay = Quay::new().await;
    let target = behind(&gate, &machine);
    let target = |id: &str| Target { id: id.to_owned(), ..target.clone() };
    fs::remove_file(gate.folder().join("known")).unwrap();
    let error = fails(&quay.link(&target("unknown"))).await;
    assert_eq!(error.reason, Reason::HostUnreachable, "its own pin has nothing to do with it: {error}");
    assert!(error.message.contains("jump host") && error.message.contains("known_hosts"), "{error}");
    behind(&gate, &machine);
    fs::copy(machine.folder().join("key"), gate.folder().join("key")).unwrap();
    let error = fails(&quay.link(&target("stranger"))).await;
    assert_eq!(error.reason, Reason::HostAuthFailed, "{error}");
    assert!(error.message.contains("jump host"), "{error}");
    gate.end();
    let error = fails(&quay.link(&target("down"))).await;
    assert_eq!(error.reason, Reason::HostUnreachable);
    assert!(error.message.contains("jump host") && error.message.contains("nothing listens"), "{error}");
}

#[tokio::test]
async fn a_machine_is_scanned_for_its_keys() {
    let mut machine = Sshd::start();
    let target = Target { host_keys: Vec::new(), ..machine.target() };
    let keys = scan(&target, LONG).await.unwrap();
    assert_eq!(keys, [HostKey::parse(&machine.host_key()).unwrap()]);
    assert_eq!(keys[0].line(), machine.host_key());
    machine.end();
    let error = scan(&target, LONG).await.unwrap_err();
    assert_eq!(error.reason, Reason::HostUnreachable, "{error}");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let error = scan(&Target { port, ..target.clone() }, Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(error.reason, Reason::HostUnreachable, "{error}");
    let error = scan(&Target { address: "-D".to_owned(), ..target }, LONG).await.unwrap_err();
    assert_eq!(error.reason, Reason::InvalidArgument);
}
