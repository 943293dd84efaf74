//! Ways to a box: through a jump host, with a key that an agent holds, with a certificate, by the names of an `ssh_config`.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use drydock::proto::v1::resource::State;
use serde_json::json;

use super::files::{read, start, write};
use super::fleet::{Fleet, Words, words};
use super::sites::left;
use crate::harness::reason;
use crate::ssh::kit::until;
use crate::ssh::sshd::{Options, Sshd};

/// The words for a file of ssh's configuration by which a machine has another name.
fn entry(name: &str, machine: &Sshd, known: &Path) -> String {
    let key = machine.folder().join("key");
    let user = machine.target().user;
    format!(
        "Host {name}\n  HostName 127.0.0.1\n  Port {}\n  User {user}\n  IdentityFile {}\n  HostKeyAlias {name}\n  \
         UserKnownHostsFile {}\n",
        machine.port(),
        key.display(),
        known.display()
    )
}

/// What a box is for: a command, a file, and nothing left of both.
async fn used(fleet: &Fleet, machine: &Sshd) {
    let lease = fleet.acquire("host", &[], &[]).await;
    assert_eq!(fleet.exec(&lease.id, "echo $HOME").await.unwrap(), (0, format!("{}\n", machine.home().display())));
    write(fleet, start(&lease.id, "file", ""), 0, b"words").await.unwrap();
    assert_eq!(read(fleet, &lease.id, "file").await.unwrap(), b"words");
    fleet.release(&lease.id).await;
    assert_eq!(left(machine), [""; 0]);
}

async fn leave(fleet: Fleet, id: &str, machine: &Sshd) {
    fleet.release_resource(id, false).await.unwrap();
    fleet.until(id, "DESTROYED", |now| now.state() == State::Destroyed).await;
    assert!(!machine.home().join(".drydock").exists());
    fleet.end().await;
    until("nothing runs there", || machine.commands().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_jump_host() {
    let (fleet, mut gate, machine) = (Fleet::start(json!({}), 1).await, Sshd::start(), Sshd::start());
    let (known_hosts, config) = (gate.folder().join("known"), gate.folder().join("config"));
    fs::write(&known_hosts, format!("gate {}\n", gate.host_key())).unwrap();
    fs::write(&config, entry("gate", &gate, &known_hosts)).unwrap();
    let by = |config: &Path| {
        let mut by = machine.attributes();
        by.extend(words(&[("jump", "gate"), ("ssh_config", config.to_str().unwrap())]));
        by
    };

    // The key of a box is seen through the jump host, too.
    let mut unpinned = by(&config);
    unpinned.remove("host_key");
    let refused = fleet.ask_in("one", unpinned, words(&[])).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_ATTRIBUTE");
    assert!(refused.message().contains(&machine.host_key()), "{refused:?}");
    let asked = fleet.ask_in("one", by(&config), words(&[])).await.unwrap();
    fleet.until(&asked.id, "ACTIVE", |now| now.state() == State::Active).await;
    used(&fleet, &machine).await;

    // Whatever is wrong with the jump host is said of it, and never stands against the box's own key.
    let strange = gate.folder().join("strange");
    fs::write(&strange, entry("gate", &gate, &gate.folder().join("nothing"))).unwrap();
    let closed = gate.folder().join("closed");
    fs::write(&closed, entry("gate", &gate, &known_hosts).replace("/key\n", "/none\n")).unwrap();
    for (name, config, why) in [("two", &strange, "HOST_UNREACHABLE"), ("three", &closed, "HOST_AUTH_FAILED")] {
        let asked = fleet.ask_in(name, by(config), words(&[])).await.unwrap();
        let stuck = fleet.until(&asked.id, "a problem", |now| !now.problem.is_empty()).await;
        assert!(stuck.problem.starts_with(why) && stuck.problem.contains("jump host gate"), "{}", stuck.problem);
        fleet.release_resource(&asked.id, true).await.unwrap();
    }

    gate.end();
    let down = fleet.until(&asked.id, "unreachable", |now| now.problem.starts_with("HOST_UNREACHABLE: ")).await;
    let told = fleet.until(&asked.id, "named", |now| now.problem.contains("jump host gate")).await;
    assert_eq!((down.state(), told.state()), (State::Active, State::Active));
    gate.restart();
    fleet.until(&asked.id, "well", |now| now.problem.is_empty()).await;
    used(&fleet, &machine).await;
    leave(fleet, &asked.id, &machine).await;
    until("nothing is left on the jump host", || gate.connections() == 0 && gate.commands().is_empty()).await;
}

/// Ended with the test.
struct Agent(Child);

impl Agent {
    async fn start(socket: &Path, key: &Path) -> Self {
        let _ = fs::remove_file(socket);
        let agent = Command::new("ssh-agent").arg("-D").arg("-a").arg(socket).stdout(Stdio::null()).spawn().unwrap();
        let agent = Self(agent);
        until("the agent listens", || socket.exists()).await;
        let mut add = Command::new("ssh-add");
        add.arg("-q").arg(key).env("SSH_AUTH_SOCK", socket);
        assert!(add.status().unwrap().success());
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_key_that_an_agent_holds() {
    let (fleet, mut machine) = (Fleet::start(json!({}), 1).await, Sshd::start());
    let (socket, key) = (machine.folder().join("agent"), machine.folder().join("key"));
    let agent = Agent::start(&socket, &key).await;
    let mut by = machine.attributes();
    by.remove("identity_file");
    by.insert("identity_agent".to_owned(), socket.display().to_string());
    let asked = fleet.ask_in("one", by, words(&[])).await.unwrap();
    fleet.until(&asked.id, "ACTIVE", |now| now.state() == State::Active).await;
    used(&fleet, &machine).await;

    // Connections that stand do without it; the next one does not.
    drop(agent);
    used(&fleet, &machine).await;
    machine.restart();
    let stuck = fleet.until(&asked.id, "not let in", |now| now.problem.starts_with("HOST_AUTH_FAILED: ")).await;
    assert!(stuck.problem.contains(socket.to_str().unwrap()), "{}", stuck.problem);
    let _agent = Agent::start(&socket, &key).await;
    fleet.until(&asked.id, "well", |now| now.problem.is_empty()).await;
    used(&fleet, &machine).await;
    leave(fleet, &asked.id, &machine).await;
}

fn keygen(words: &[&str], path: &Path) {
    assert!(Command::new("ssh-keygen").arg("-q").args(words).arg(path).status().unwrap().success(), "{words:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    for name in ["authority", "mine"] {
        keygen(&["-t", "ed25519", "-N", "", "-f"], Path::new(&path(name)));
    }
    let extra = vec![format!("TrustedUserCAKeys {}", path("authority.pub"))];
    let machine = Sshd::with(Options { extra, ..Options::default() });
    let fleet = Fleet::start(json!({}), 1).await;
    let user = machine.target().user;
    let sign = |validity: &str| {
        let words = ["-s", &path("authority"), "-I", "test", "-n", &user, "-V", validity];
        keygen(&words, Path::new(&path("mine.pub")));
    };
    sign("20200101:20200102");
    let mut by: Words = machine.attributes();
    by.extend(words(&[("identity_file", &path("mine")), ("certificate_file", &path("mine-cert.pub"))]));
    let asked = fleet.ask_in("one", by, words(&[])).await.unwrap();
    let stuck = fleet.until(&asked.id, "a problem", |now| !now.problem.is_empty()).await;
    assert!(stuck.problem.starts_with("HOST_AUTH_FAILED: "), "{}", stuck.problem);
    assert!(stuck.problem.contains("mine-cert.pub"), "{}", stuck.problem);
    // A new one is taken as soon as it is there.
    sign("-1m:+1h");
    fleet.until(&asked.id, "ACTIVE", |now| now.state() == State::Active && now.problem.is_empty()).await;
    used(&fleet, &machine).await;
    leave(fleet, &asked.id, &machine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_the_name_that_an_ssh_config_gives_it() {
    let (fleet, machine) = (Fleet::start(json!({}), 1).await, Sshd::start());
    let config = machine.folder().join("config");
    fs::write(&config, entry("build-box", &machine, &machine.folder().join("nothing"))).unwrap();
    // Neither address nor port nor key are said but there.
    let target = machine.target();
    let said = [("address", "build-box"), ("user", &target.user), ("ssh_config", config.to_str().unwrap())];
    let refused = fleet.ask_in("one", words(&said), words(&[])).await.unwrap_err();
    assert!(refused.message().contains(&machine.host_key()), "{refused:?}");
    let mut by = words(&said);
    by.insert("host_key".to_owned(), machine.host_key());
    let asked = fleet.ask_in("one", by, words(&[])).await.unwrap();
    let known = fleet.until(&asked.id, "ACTIVE", |now| now.state() == State::Active).await;
    assert_eq!(known.facts["address"], "build-box");
    used(&fleet, &machine).await;
    leave(fleet, &asked.id, &machine).await;
}
