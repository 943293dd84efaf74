//! Machines that are not reached at all: each failure has its reason, says what to do, and sends nothing where it must not.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use drydock::error::Reason;
use drydock::host::ssh::links::Patience;
use drydock::host::ssh::target::Target;

use super::kit::{Quay, fails, linked, say, until};
use super::sshd::Sshd;

fn keygen(path: &std::path::Path, passphrase: &str) {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", passphrase, "-f"]).arg(path);
    assert!(command.status().unwrap().success());
}

#[tokio::test]
async fn a_key_that_is_not_let_in() {
    let machine = Sshd::start();
    let stranger = machine.folder().join("stranger");
    keygen(&stranger, "");
    let quay = Quay::new().await;
    let link = quay.link(&Target { identity_file: Some(stranger.clone()), ..machine.target() });
    let error = fails(&link).await;
    assert_eq!(error.reason, Reason::HostAuthFailed, "{error}");
    for word in [stranger.to_str().unwrap(), &machine.target().user, "authorized_keys"] {
        assert!(error.message.contains(word), "{word} in {error}");
    }
    assert!(error.retry_after.is_none(), "it does not help to try again");
}

#[tokio::test]
async fn a_key_file_that_cannot_be_used() {
    let machine = Sshd::start();
    let quay = Quay::new().await;
    let path = machine.folder().join("mine");
    let target = Target { identity_file: Some(path.clone()), ..machine.target() };
    let refused = async |word: &str| {
        // Of another id each time: a failure is kept for a while.
        let target = Target { id: format!("box-{}", word.len()), ..target.clone() };
        let error = fails(&quay.link(&target)).await;
        assert_eq!(error.reason, Reason::HostAuthFailed, "{error}");
        assert!(error.message.contains(word) && error.message.contains(path.to_str().unwrap()), "{word} in {error}");
    };
    refused("cannot be read").await;
    fs::copy(machine.folder().join("key"), &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    refused("chmod 600").await;
    fs::remove_file(&path).unwrap();
    keygen(&path, "a passphrase");
    refused("passphrase").await;
}

#[tokio::test]
async fn an_agent_holds_the_key() {
    let machine = Sshd::start();
    let socket = machine.folder().join("agent");
    let quay = Quay::new().await;
    let target = Target { identity_file: None, identity_agent: Some(socket.clone()), ..machine.target() };
    let error = fails(&quay.link(&target)).await;
    assert_eq!(error.reason, Reason::HostAuthFailed);
    assert!(error.message.contains(socket.to_str().unwrap()), "{error}");
    let mut agent = Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().unwrap();
    until("the agent listens", || socket.exists()).await;
    let mut add = Command::new("ssh-add");
    add.arg("-q").arg(machine.folder().join("key")).env("SSH_AUTH_SOCK", &socket);
    assert!(add.status().unwrap().success());
    let said = say(&quay.link(&Target { id: "again".to_owned(), ..target }), "echo in").await;
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert_eq!(said.unwrap(), "in\n");
}

#[tokio::test]
async fn another_host_key_is_told_nothing() {
    let mut machine = Sshd::start();
    let (quay, link) = linked(&machine).await;
    say(&link, ":").await.unwrap();
    let logins = |machine: &Sshd| machine.log().matches("Accepted publickey").count();
    let before = logins(&machine);
    machine.end();
    machine.rekey();
    machine.restart();
    quay.links.forget(&machine.target().id);
    let pinned = link.target().clone();
    // A configuration of the user's own does not open the door either.
    let lax = machine.folder().join("lax");
    fs::write(&lax, "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nHostKeyAlias other\nUser nobody\n")
        .unwrap();
    for target in [pinned.clone(), Target { id: "lax".to_owned(), ssh_config: Some(lax), ..pinned }] {
        let error = fails(&quay.link(&target)).await;
        assert_eq!(error.reason, Reason::HostKeyMismatch, "{error}");
        assert!(error.message.contains("SHA256:"), "{error}");
    }
    assert_eq!(logins(&machine), before, "{}", machine.log());
    assert!(!machine.log().contains("Failed"), "no key was even offered: {}", machine.log());
    assert!(machine.commands().is_empty());
    // Pinned again, it is another target, and goes.
    let link = quay.link(&machine.target());
    assert_eq!(say(&link, "echo in").await.unwrap(), "in\n");
}

#[tokio::test]
async fn nothing_listens() {
    let mut machine = Sshd::start();
    machine.end();
    let (_quay, link) = linked(&machine).await;
    let error = fails(&link).await;
    assert_eq!(error.reason, Reason::HostUnreachable);
    assert!(error.message.contains("nothing listens"), "{error}");
    assert!(error.message.contains(&machine.port().to_string()), "{error}");
}

#[tokio::test]
async fn something_listens_and_never_speaks() {
    let machine = Sshd::start();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let quay = Quay::patient(Patience { dial: Duration::from_secs(2), ..Patience::default() }).await;
    let link = quay.link(&Target { port: silent.local_addr().unwrap().port(), ..machine.target() });
    let begun = Instant::now();
    let error = fails(&link).await;
    assert_eq!(error.reason, Reason::HostUnreachable, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    assert!(quay.sshs().is_empty(), "nothing is left of the attempt");
}

#[tokio::test]
async fn ssh_says_itself_that_its_configuration_is_bad() {
    let machine = Sshd::start();
    let quay = Quay::new().await;
    let path = machine.folder().join("bad");
    fs::write(&path, "NoSuchOption yes\n").unwrap();
    let error = fails(&quay.link(&Target { ssh_config: Some(path), ..machine.target() })).await;
    assert_eq!(error.reason, Reason::HostUnreachable);
    assert!(error.message.contains("ssh_config"), "{error}");
}
