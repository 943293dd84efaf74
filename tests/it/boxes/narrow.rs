//! Boxes that are short of something: sessions, logins at once, room on the disk, a folder to write to.

use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use drydock::proto::v1::resource::State;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::cut_off::{begin, end};
use super::files::{read, start, write};
use super::fleet::{Fleet, words};
use super::sites::left;
use crate::chaos::full_disk::fill;
use crate::harness::reason;
use crate::queue::kit::eventually;
use crate::ssh::kit::until;
use crate::ssh::sshd::{Options, Sshd};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_session_on_each_connection_is_enough_for_everything() {
    let machine = Sshd::with(Options { max_sessions: Some(1), ..Options::default() });
    let fleet = Fleet::start(json!({}), 1).await;
    fleet.register("one", &machine, &[]).await;
    let source = machine.folder().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("hello.txt"), "hello\n").unwrap();
    for line in [&["init", "-q"][..], &["add", "."], &["commit", "-q", "-m", "The first commit"]] {
        let who = ["-c", "user.name=Test", "-c", "user.email=test@localhost"];
        assert!(Command::new("git").arg("-C").arg(&source).args(who).args(line).status().unwrap().success());
    }
    let host = fleet.acquire("host", &[], &[]).await;
    let begun = std::time::Instant::now();
    // One after the other what each wants sessions of another kind for.
    for round in 0..2 {
        assert_eq!(fleet.exec(&host.id, "echo on").await.unwrap(), (0, "on\n".to_owned()));
        let data = vec![7; 3 << 20];
        write(&fleet, start(&host.id, &format!("file-{round}"), ""), 0, &data).await.unwrap();
        assert_eq!(read(&fleet, &host.id, &format!("file-{round}")).await.unwrap(), data);
    }
    let on = [("host", host.id.as_str()), ("repository", source.to_str().unwrap())];
    let copy = fleet.acquire("working-copy", &on, &[]).await;
    assert_eq!(fleet.exec(&copy.id, "cat hello.txt").await.unwrap(), (0, "hello\n".to_owned()));
    assert_eq!(read(&fleet, &copy.id, "hello.txt").await.unwrap(), b"hello\n");
    println!("took {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(15), "who has nothing to do makes room: {:?}", begun.elapsed());
    for lease in [&copy, &host] {
        fleet.release(&lease.id).await;
    }
    assert_eq!(left(&machine), [""; 0]);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_sessions_are_all_taken_is_not_sick() {
    let machine = Sshd::with(Options { max_sessions: Some(1), ..Options::default() });
    let fleet = Fleet::start(json!({}), 1).await;
    let known = fleet.register("one", &machine, &[]).await;
    let lease = fleet.acquire("host", &[], &[]).await;
    // Keeper and clerk have the other two.
    let script = "echo on; until [ -e go ]; do sleep 0.1; done; exit 7";
    let busy = [begin(&fleet, &lease.id, script).await, begin(&fleet, &lease.id, script).await];
    let check = fleet.check(&known.id).await;
    assert!(check.findings.iter().any(|finding| finding.contains("sessions are busy")), "{:?}", check.findings);
    let now = check.resource.unwrap();
    assert_eq!((now.problem.as_str(), now.state()), ("", State::Active));
    // Who comes now waits for a place, and gets one.
    let waiting = async { fleet.exec(&lease.id, "echo in").await };
    let going = async {
        std::fs::write(format!("{}/go", lease.facts["path"]), "").unwrap();
    };
    let (said, ()) = tokio::join!(waiting, going);
    assert_eq!(said.unwrap(), (0, "in\n".to_owned()));
    for stream in busy {
        assert_eq!(end(stream).await.unwrap(), 7);
    }
    assert!(fleet.events("resource.unhealthy", &known.id).await.is_empty());
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_takes_few_logins_at_once_is_registered_all_the_same() {
    let machine = Sshd::with(Options { max_startups: Some("2:100:2"), ..Options::default() });
    let crowd: Vec<_> = (0..2).map(|_| TcpStream::connect(("127.0.0.1", machine.port())).unwrap()).collect();
    until("sshd has taken them", || machine.connections() >= 2).await;
    let fleet = Fleet::start(json!({}), 1).await;
    let asked = fleet.ask_in("one", machine.attributes(), words(&[])).await.unwrap();
    until("it was turned away", || machine.log().contains("MaxStartups")).await;
    drop(crowd);
    fleet.until(&asked.id, "ACTIVE", |now| now.state() == State::Active && now.problem.is_empty()).await;
    let lease = fleet.acquire("host", &[], &[]).await;
    assert_eq!(fleet.exec(&lease.id, "echo in").await.unwrap(), (0, "in\n".to_owned()));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_that_cannot_be_written_is_told_and_mended() {
    let mounts =
        r#"[ ! -e "$1/closed" ] || { mount --bind "$1/home" "$1/home" && mount -o remount,ro,bind "$1/home"; }"#;
    let mut machine = Sshd::with(Options { mounts, ..Options::default() });
    let fleet = Fleet::start(json!({}), 1).await;
    let known = fleet.register("one", &machine, &[]).await;
    let lease = fleet.acquire("host", &[], &[]).await;
    fleet.exec(&lease.id, "echo kept >file").await.unwrap();
    let closed = machine.folder().join("closed");
    std::fs::write(&closed, "").unwrap();
    machine.restart();
    let sick = fleet.until(&known.id, "told", |now| now.problem.starts_with("PERMISSION_DENIED: ")).await;
    assert!(sick.problem.contains("folder on the host cannot be used"), "{}", sick.problem);
    let refused = fleet.exec(&lease.id, "true").await.unwrap_err();
    assert_eq!(reason(&refused), "PERMISSION_DENIED", "{refused:?}");
    let refused = write(&fleet, start(&lease.id, "other", ""), 0, b"words").await.unwrap_err();
    assert_eq!(reason(&refused), "PERMISSION_DENIED", "{refused:?}");
    let check = fleet.check(&known.id).await;
    assert!(check.findings.iter().any(|finding| finding.contains("give it to the user")), "{:?}", check.findings);
    // One that is registered while it is so waits.
    let asked = fleet.ask_in("two", machine.attributes(), words(&[])).await.unwrap();
    let stuck = fleet.until(&asked.id, "a problem", |now| !now.problem.is_empty()).await;
    assert!(stuck.problem.starts_with("PERMISSION_DENIED: "), "{}", stuck.problem);
    fleet.release_resource(&asked.id, true).await.unwrap();

    std::fs::remove_file(&closed).unwrap();
    machine.restart();
    fleet.until(&known.id, "well", |now| now.problem.is_empty()).await;
    assert_eq!(fleet.exec(&lease.id, "cat file").await.unwrap(), (0, "kept\n".to_owned()));
    fleet.release(&lease.id).await;
    assert_eq!(left(&machine), [""; 0]);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_to_each_who_needs_room() {
    let mounts = r#"mount -t tmpfs -o size=512k tmpfs "$1/home" && mount -t tmpfs -o size=64k tmpfs /dev/shm"#;
    let machine = Sshd::with(Options { mounts, ..Options::default() });
    let fleet = Fleet::start(json!({}), 1).await;
    let known = fleet.register("one", &machine, &[]).await;
    let lease = fleet.acquire("host", &[], &[]).await;
    let home = machine.home().display().to_string();
    let script = format!("cat /dev/zero >{home}/filler; cat /dev/zero >/dev/shm/filler; true");
    assert_eq!(fleet.exec(&lease.id, &script).await.unwrap().0, 0);
    let full = fleet.until(&known.id, "told", |now| now.problem.starts_with("NO_SPACE: ")).await;
    assert_eq!(full.state(), State::Active);
    let refused = write(&fleet, start(&lease.id, "big", ""), 0, &vec![7; 100_000]).await.unwrap_err();
    assert_eq!(reason(&refused), "NO_SPACE", "{refused:?}");
    let told = fleet.check(&known.id).await;
    assert!(told.findings.iter().any(|finding| finding.contains("make room there")), "{:?}", told.findings);
    // Those that need a new runner cannot be written down; those that find one run.
    let all = (0..6).map(|_| fleet.exec(&lease.id, "sleep 0.3; echo ran"));
    let (ran, refused): (Vec<_>, Vec<_>) = futures::future::join_all(all).await.into_iter().partition(Result::is_ok);
    assert!(ran.iter().all(|ran| ran.as_ref().unwrap() == &(0, "ran\n".to_owned())), "{ran:?}");
    assert!(!refused.is_empty(), "the disk is not full: {ran:?}");
    for refused in refused {
        let refused = refused.unwrap_err();
        assert_eq!(reason(&refused), "NO_SPACE", "{refused:?}");
    }
    // A keeper that is to be replaced finds no room either.
    let fillers = [format!("{home}/filler"), "/dev/shm/filler".to_owned()].map(|filler| machine.inside(&filler));
    for filler in &fillers {
        fill(filler);
    }
    for keeper in std::fs::read_dir(machine.inside(&format!("{home}/.drydock/run"))).unwrap() {
        let who = std::fs::read_to_string(keeper.unwrap().path().join("who")).unwrap();
        let pid = Pid::from_raw(who.split(' ').next().unwrap().parse().unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
    }
    let refused = eventually("NO_SPACE", async || {
        let refused = fleet.exec(&lease.id, "true").await.unwrap_err();
        (reason(&refused) != "HOST_UNREACHABLE" && reason(&refused) != "OUTCOME_UNKNOWN").then_some(refused)
    })
    .await;
    assert_eq!(reason(&refused), "NO_SPACE", "{refused:?}");

    for filler in &fillers {
        std::fs::remove_file(filler).unwrap();
    }
    fleet.until(&known.id, "well", |now| now.problem.is_empty()).await;
    let (_, there) = fleet.exec(&lease.id, "ls -A; ls -A /dev/shm | wc -l").await.unwrap();
    assert_eq!(there, "1\n", "nothing half-done, and one keeper's records");
    fleet.release(&lease.id).await;
    fleet.release_resource(&known.id, false).await.unwrap();
    fleet.until(&known.id, "DESTROYED", |now| now.state() == State::Destroyed).await;
    for place in [home.as_str(), "/dev/shm"] {
        let names: Vec<_> = std::fs::read_dir(machine.inside(place)).unwrap().flatten().map(|it| it.path()).collect();
        assert!(names.is_empty(), "{names:?}");
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_a_keeper_that_is_no_more_are_swept() {
    let machine = Sshd::with(Options { mounts: "mount -t tmpfs tmpfs /dev/shm", ..Options::default() });
    let fleet = Fleet::start(json!({}), 1).await;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let (boot, own) = (boot.trim(), std::process::id());
    let stat = std::fs::read_to_string(format!("/proc/{own}/stat")).unwrap();
    let born = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().to_owned();
    let home = machine.home();
    let all = [
        ("dead", format!("{own} {boot} 1 /nowhere"), false),
        ("before", format!("{own} another-boot {born} /nowhere"), false),
        ("living", format!("{own} {boot} {born} /nowhere"), true),
        // Whoever keeps that folder reaps both, and what is recorded in them.
        ("kept", format!("{own} {boot} 1 {}", home.display()), true),
    ];
    for (name, whose, _) in &all {
        let folder = machine.inside(&format!("/dev/shm/drydock.{name}"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("whose"), format!("{whose}\n")).unwrap();
    }
    fleet.register("one", &machine, &[]).await;
    let lease = fleet.acquire("host", &[], &[]).await;
    fleet.exec(&lease.id, "true").await.unwrap();
    for (name, whose, stays) in &all {
        assert_eq!(machine.inside(&format!("/dev/shm/drydock.{name}")).exists(), *stays, "{name}: {whose}");
    }
    fleet.end().await;
}
