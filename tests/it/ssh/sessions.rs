//! Channels and places: what was asked for runs, as often as it is asked, and everyone gets a place in the end.

use std::sync::Arc;
use std::time::Duration;

use drydock::error::Reason;
use drydock::host::ssh::link::{Channel, Link as _, Purpose};
use drydock::host::ssh::links::Patience;
use drydock::host::ssh::masters::{LONGEST_COMMAND, Masters};
use drydock::host::ssh::sftp::probe;
use futures::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::kit::{LONG, Quay, drain, linked, masters, say, until};
use super::sshd::{Options, Sftp, Shell, Sshd};

/// A command that runs until its channel is dropped.
async fn held(link: &Masters, purpose: Purpose) -> Channel {
    let mut channel = timeout(LONG, link.open("echo on; cat", purpose)).await.unwrap().unwrap();
    let mut on = [0; 3];
    timeout(LONG, channel.stdout.read_exact(&mut on)).await.unwrap().unwrap();
    channel
}

#[tokio::test]
async fn a_command_has_all_three_streams() {
    let machine = Sshd::start();
    let (_quay, link) = linked(&machine).await;
    let mut channel = link.open("cat; echo trouble >&2; echo $HOME", Purpose::Command).await.unwrap();
    channel.stdin.write_all(b"given\n").await.unwrap();
    let (out, err) = drain(channel).await;
    assert_eq!(out, format!("given\n{}\n", machine.home().display()));
    assert_eq!(err, "trouble\n");
}

/// The exit status comes before the last output; who heeds it too early loses the rest.
#[tokio::test]
async fn a_slow_reader_gets_every_byte() {
    let machine = Sshd::start();
    let (_quay, link) = linked(&machine).await;
    let size = 8 << 20;
    let mut channel = link.open(&format!("head -c {size} /dev/zero"), Purpose::Command).await.unwrap();
    // The command ends while nobody reads: what it wrote lies in windows and pipes.
    let mut first = [0; 10];
    channel.stdout.read_exact(&mut first).await.unwrap();
    let mut got = first.len();
    let mut buffer = vec![0; 4096];
    loop {
        let read = timeout(LONG, channel.stdout.read(&mut buffer)).await.unwrap().unwrap();
        if read == 0 {
            break;
        }
        got += read;
        tokio::task::yield_now().await;
    }
    assert_eq!(got, size);
}

async fn fifty(max_sessions: u32) -> (Sshd, Quay, Arc<Masters>) {
    let machine = Sshd::with(Options { max_sessions: Some(max_sessions), ..Options::default() });
    let (quay, link) = linked(&machine).await;
    let callers = (0..50).map(|number| {
        let link = Arc::clone(&link);
        tokio::spawn(async move { say(&link, &format!("sleep 0.3; echo {number}")).await })
    });
    for (number, answer) in join_all(callers).await.into_iter().enumerate() {
        assert_eq!(answer.unwrap().unwrap(), format!("{number}\n"));
    }
    assert!(masters(&link).len() <= 4, "{}", link.diagnostics());
    (machine, quay, link)
}

#[tokio::test]
async fn fifty_callers_fit_ten_sessions() {
    let (_machine, _quay, link) = fifty(10).await;
    let shown = link.diagnostics();
    assert_eq!(shown["state"], "up");
    assert_eq!(shown["session_limit"], 10, "no refusal was taken for a limit: {shown}");
    until("all places are free", || {
        link.diagnostics()["masters"].as_array().unwrap().iter().all(|master| master["sessions_open"] == 0)
    })
    .await;
}

#[tokio::test]
async fn fifty_callers_fit_one_session() {
    let (_machine, _quay, link) = fifty(1).await;
    let shown = link.diagnostics();
    assert_eq!(shown["session_limit"], 1, "{shown}");
    assert_eq!(shown["masters"].as_array().unwrap().len(), 4, "{shown}");
}

#[tokio::test]
async fn the_control_channel_never_waits_for_commands() {
    for max_sessions in [10, 3, 1] {
        let machine = Sshd::with(Options { max_sessions: Some(max_sessions), ..Options::default() });
        let (_quay, link) = linked(&machine).await;
        // Far more than there is room for; each ends only with the test.
        let crowd: Vec<_> = (0..40)
            .map(|_| {
                let link = Arc::clone(&link);
                tokio::spawn(async move { held(&link, Purpose::Command).await })
            })
            .collect();
        until("the machine is full", || {
            let shown = link.diagnostics();
            let masters = shown["masters"].as_array().unwrap();
            let commands: u64 = masters.iter().map(|master| master["sessions_open"].as_u64().unwrap()).sum();
            masters.len() == 4 && commands >= 3 && shown["waiting"].as_u64().unwrap() > 10
        })
        .await;
        // A successor may come before the first has gone.
        let _control = held(&link, Purpose::Control).await;
        if max_sessions == 10 {
            let _successor = held(&link, Purpose::Control).await;
            let _files = timeout(LONG, link.subsystem("sftp", Purpose::Command)).await.unwrap().unwrap();
            let _bulk = held(&link, Purpose::Bulk).await;
        }
        crowd.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

#[tokio::test]
async fn bulk_goes_over_a_connection_of_its_own() {
    let machine = Sshd::start();
    let (_quay, link) = linked(&machine).await;
    let _small = held(&link, Purpose::Command).await;
    let _bulk = held(&link, Purpose::Bulk).await;
    let _more = held(&link, Purpose::Command).await;
    let shown = link.diagnostics();
    let counts = |at: usize| (shown["masters"][at]["commands"].as_u64(), shown["masters"][at]["bulk"].as_u64());
    assert_eq!((counts(0), counts(1)), ((Some(2), Some(0)), (Some(0), Some(1))), "{shown}");
}

#[tokio::test]
async fn who_waits_too_long_is_told_so() {
    let machine = Sshd::with(Options { max_sessions: Some(1), ..Options::default() });
    let quay = Quay::patient(Patience { dial: LONG, wait: Duration::from_secs(2), ..Patience::default() }).await;
    let link = quay.link(&machine.target());
    let mut crowd = Vec::new();
    let error = loop {
        match link.open("cat", Purpose::Command).await {
            Ok(channel) => crowd.push(channel),
            Err(error) => break error,
        }
        assert!(crowd.len() <= 4, "{}", link.diagnostics());
    };
    assert_eq!(error.reason, Reason::SessionsExhausted, "{error}");
    assert!(error.retry_after.is_some());
    // One that goes makes room.
    crowd.pop();
    assert_eq!(say(&link, "echo room").await.unwrap(), "room\n");
}

#[tokio::test]
async fn a_caller_that_leaves_leaves_no_place_behind() {
    let machine = Sshd::start();
    let (_quay, link) = linked(&machine).await;
    say(&link, ":").await.unwrap();
    for _ in 0..60 {
        // Dropped when it has been polled once.
        let _ = timeout(Duration::ZERO, link.open("true", Purpose::Command)).await;
    }
    until("all places are free", || {
        let shown = link.diagnostics();
        let free = |master: &serde_json::Value| master["commands"] == 0 && master["sessions_open"] == 0;
        shown["waiting"] == 0 && shown["masters"].as_array().unwrap().iter().all(free)
    })
    .await;
}

#[tokio::test]
async fn a_command_line_has_a_longest() {
    let machine = Sshd::start();
    let (_quay, link) = linked(&machine).await;
    let long = format!("echo {}", "x".repeat(LONGEST_COMMAND - 5));
    assert_eq!(say(&link, &long).await.unwrap().len(), LONGEST_COMMAND - 4);
    assert_eq!(say(&link, &format!("{long}x")).await.unwrap_err().reason, Reason::InvalidArgument);
    assert_eq!(say(&link, "echo a\0b").await.unwrap_err().reason, Reason::InvalidArgument);
    assert_eq!(say(&link, "echo on").await.unwrap(), "on\n");
}

#[tokio::test]
async fn files_are_offered_or_missed_by_name() {
    for (shell, sftp) in [(Shell::Dash, Sftp::Internal), (Shell::Busybox, Sftp::Program)] {
        let machine = Sshd::with(Options { shell, sftp, ..Options::default() });
        let (_quay, link) = linked(&machine).await;
        let mut channel = link.subsystem("sftp", Purpose::Command).await.unwrap();
        channel.stdin.write_all(&[0, 0, 0, 5, 1, 0, 0, 0, 3]).await.unwrap();
        let mut head = [0; 5];
        timeout(LONG, channel.stdout.read_exact(&mut head)).await.unwrap().unwrap();
        assert_eq!(head[4], 2, "VERSION");
    }
    let machine = Sshd::with(Options { sftp: Sftp::Missing, ..Options::default() });
    let (_quay, link) = linked(&machine).await;
    let error = probe(link.as_ref(), "one").await.unwrap_err();
    assert_eq!(error.reason, Reason::InterfaceNotSupported);
    assert!(error.message.contains("Subsystem sftp"), "{error}");

    // The program is run by the login shell, and this one greets everybody.
    let machine = Sshd::with(Options { shell: Shell::Bash, sftp: Sftp::Program, ..Options::default() });
    std::fs::write(machine.home().join(".bashrc"), "echo welcome\n").unwrap();
    let (_quay, link) = linked(&machine).await;
    let error = probe(link.as_ref(), "one").await.unwrap_err();
    assert_eq!(error.reason, Reason::InterfaceNotSupported);
    assert!(error.message.contains("bashrc"), "{error}");
}
