//! What breaks in the middle: the machine, its sshd, our masters, the network.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use drydock::error::Reason;
use drydock::host::ssh::link::{Link as _, Purpose};
use drydock::host::ssh::links::{Links, Patience};
use rustix::process::Signal;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::kit::{LONG, Quay, comes_back, drain, fails, linked, masters, say, sshs, strike, until};
use super::sshd::{Options, Sshd};

#[tokio::test]
async fn a_restarted_sshd_is_dialled_again() {
    let mut machine = Sshd::start();
    let (_quay, link) = linked(&machine).await;
    let channel = link.open("sleep 1000", Purpose::Command).await.unwrap();
    machine.restart();
    // What was open ends; it does not hang.
    drain(channel).await;
    comes_back(&link).await;
}

#[tokio::test]
async fn a_killed_master_is_replaced() {
    let machine = Sshd::start();
    let (quay, link) = linked(&machine).await;
    let channel = link.open("sleep 1000", Purpose::Command).await.unwrap();
    let before = masters(&link);
    strike(&before, Signal::KILL);
    drain(channel).await;
    assert_eq!(say(&link, "echo on").await.unwrap(), "on\n");
    assert!(masters(&link).iter().all(|pid| !before.contains(pid)));
    assert_eq!(quay.sshs().len(), 1);
}

#[tokio::test]
async fn a_stopped_master_is_found_out_and_ended() {
    let machine = Sshd::start();
    let patience = Patience { dial: LONG, open: Duration::from_secs(1), ..Patience::default() };
    let quay = Quay::patient(patience).await;
    let link = quay.link(&machine.target());
    say(&link, ":").await.unwrap();
    let before = masters(&link);
    strike(&before, Signal::STOP);
    // The machine is well: the call goes over a new connection.
    assert_eq!(say(&link, "echo on").await.unwrap(), "on\n");
    until("the stopped one is gone", || !quay.sshs().contains(&before[0])).await;
}

#[tokio::test]
async fn a_machine_that_hangs_is_told_from_one_that_is_slow() {
    let machine = Sshd::start();
    let patience = Patience { dial: Duration::from_secs(3), open: Duration::from_secs(1), ..Patience::default() };
    let quay = Quay::patient(patience).await;
    let link = quay.link(&machine.target());
    comes_back(&link).await;
    let mut channel = link.open("sleep 1000", Purpose::Control).await.unwrap();
    machine.signal(Signal::STOP);
    let begun = Instant::now();
    let error = fails(&link).await;
    assert_eq!(error.reason, Reason::HostUnreachable, "{error}");
    assert!(error.retry_after.is_some());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    // What was open ends as well.
    let mut byte = [0];
    assert_eq!(timeout(LONG, channel.stdout.read(&mut byte)).await.unwrap().unwrap(), 0);
    machine.signal(Signal::CONT);
    comes_back(&link).await;
}

#[tokio::test]
async fn a_dead_network_ends_what_is_open() {
    let machine = Sshd::start();
    let (_quay, link) = linked(&machine).await;
    let mut channel = link.open("echo on; sleep 1000", Purpose::Control).await.unwrap();
    let mut on = [0; 3];
    channel.stdout.read_exact(&mut on).await.unwrap();
    machine.signal(Signal::STOP);
    let begun = Instant::now();
    // Nothing is asked: the master itself finds out.
    assert_eq!(timeout(LONG, channel.stdout.read(&mut on)).await.unwrap().unwrap(), 0);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    machine.signal(Signal::CONT);
}

#[tokio::test]
async fn while_a_machine_is_down_calls_fail_at_once_and_then_it_is_tried() {
    let mut machine = Sshd::start();
    let (_quay, link) = linked(&machine).await;
    say(&link, ":").await.unwrap();
    machine.end();
    // Enough failures for a pause that a call falls into.
    let mut at_once = 0;
    for _ in 0..30 {
        let begun = Instant::now();
        let error = fails(&link).await;
        assert_eq!(error.reason, Reason::HostUnreachable, "{error}");
        let wait = error.retry_after.unwrap();
        assert!(wait <= Duration::from_secs(30));
        at_once += u32::from(begun.elapsed() < Duration::from_millis(100));
        if at_once > 3 {
            break;
        }
    }
    assert!(at_once > 3, "{}", link.diagnostics());
    let shown = link.diagnostics();
    assert_eq!(shown["state"], "down");
    assert_eq!(shown["last_error"]["reason"], "HOST_UNREACHABLE");
    machine.restart();
    comes_back(&link).await;
    assert!(link.diagnostics()["last_error"].is_null());
}

#[tokio::test]
async fn a_machine_that_takes_few_logins_at_once_is_reached() {
    let machine = Sshd::with(Options { max_startups: Some("2:100:2"), ..Options::default() });
    // Two that never log in.
    let crowd: Vec<_> = (0..2).map(|_| TcpStream::connect(("127.0.0.1", machine.port())).unwrap()).collect();
    until("sshd has taken them", || machine.connections() >= 2).await;
    let (_quay, link) = linked(&machine).await;
    let call = async {
        let link = std::sync::Arc::clone(&link);
        tokio::spawn(async move { say(&link, "echo in").await }).await.unwrap()
    };
    let leave = async {
        until("it was turned away", || machine.log().contains("MaxStartups")).await;
        drop(crowd);
    };
    let (said, ()) = tokio::join!(call, leave);
    assert_eq!(said.unwrap(), "in\n", "{}", machine.log());
}

#[tokio::test]
async fn a_reset_drops_what_was_open() {
    let machine = Sshd::start();
    let (quay, link) = linked(&machine).await;
    let channel = link.open("sleep 1000", Purpose::Control).await.unwrap();
    let before = masters(&link);
    link.reset().await;
    drain(channel).await;
    assert_eq!(say(&link, "echo on").await.unwrap(), "on\n");
    assert!(quay.sshs().iter().all(|pid| !before.contains(pid)));
}

#[tokio::test]
async fn what_a_dead_daemon_left_is_ended_at_the_next_start() {
    let machine = Sshd::start();
    let folder = tempfile::tempdir().unwrap();
    let links = Links::open(folder.path()).await.unwrap();
    let mut other = machine.target();
    other.id = "other".to_owned();
    let (one, two) = (links.of(&machine.target()).unwrap(), links.of(&other).unwrap());
    say(&one, ":").await.unwrap();
    say(&two, ":").await.unwrap();
    // One of them cannot be asked to go.
    strike(&masters(&two), Signal::STOP);
    assert_eq!(sshs(folder.path()).len(), 2);
    // A daemon that is killed runs no destructors.
    std::mem::forget((links, one, two));
    let links = Links::open(folder.path()).await.unwrap();
    until("no master is left", || sshs(folder.path()).is_empty()).await;
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    assert_eq!(say(&links.of(&other).unwrap(), "echo on").await.unwrap(), "on\n");
    links.close().await;
}
