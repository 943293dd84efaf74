//! How sessions begin and end: what a machine without sftp says, servers that die or hang, and what is left open.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use drydock::error::{Error, Reason};
use drydock::host::ssh::link::{Link, Purpose};
use drydock::host::ssh::sftp::{Patience, Sftp};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt as _;

use super::over::{Pipes, Remote, server};
use crate::place::{lives, soon, until};

/// Short enough for a test, long enough for a busy machine that works.
const SHORT: Duration = Duration::from_secs(2);

fn words(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}

async fn refusal(script: &str) -> Error {
    let sftp = Sftp::new(Pipes::new(words(script)), "box-1");
    soon("an answer", sftp.files(Path::new("/"))).await.map(|_| ()).unwrap_err()
}

fn strike(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn open_files(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[tokio::test]
async fn a_machine_without_sftp_says_what_to_do() {
    for script in ["echo subsystem request failed on channel 2 >&2", "exit 1", "head -c 9 >/dev/null; exit 1"] {
        let error = refusal(script).await;
        assert_eq!(error.reason, Reason::InterfaceNotSupported, "{script}: {error}");
        assert!(error.message.contains("box-1") && error.message.contains("Subsystem sftp"), "{error}");
    }
    let error = refusal("echo Welcome to the machine; exec cat").await;
    assert_eq!(error.reason, Reason::InterfaceNotSupported);
    assert!(error.message.contains("\"Welcome to the machine\"") && error.message.contains(".bashrc"), "{error}");
    // Version 6 of the protocol.
    let error = refusal(r"printf '\0\0\0\5\2\0\0\0\6'; exec cat >/dev/null").await;
    assert!(error.message.contains("version 6"), "{error}");
}

#[tokio::test]
async fn a_server_that_died_is_started_again() {
    let remote = Remote::new().await;
    std::fs::write(remote.path("a"), "a").unwrap();
    let path = Path::new("a");
    for round in 1..4 {
        assert_eq!(remote.files.stat(path, false).await.unwrap().size, 1);
        assert_eq!(remote.link.opened[Purpose::Command as usize].load(Ordering::Relaxed), round);
        let pid = *remote.link.pids.lock().unwrap().last().unwrap();
        strike(pid, Signal::KILL);
    }
    *remote.link.cut.lock().unwrap() = true;
    assert_eq!(remote.files.stat(path, false).await.unwrap_err().reason, Reason::HostUnreachable);
    *remote.link.cut.lock().unwrap() = false;
    remote.files.stat(path, false).await.unwrap();
}

#[tokio::test]
async fn nobody_knows_how_a_change_ended_whose_server_died() {
    let remote = Remote::new().await;
    let pid = remote.link.pids.lock().unwrap()[0];
    let path = Path::new("d");
    strike(pid, Signal::STOP);
    let (made, ()) = tokio::join!(remote.files.make_directory(path, 0o755, false), async {
        tokio::task::yield_now().await;
        strike(pid, Signal::KILL);
    });
    let error = made.unwrap_err();
    assert_eq!(error.reason, Reason::OutcomeUnknown, "{error}");
    // What can be done again says so.
    let pid = *remote.link.pids.lock().unwrap().last().unwrap();
    remote.files.make_directory(path, 0o755, true).await.unwrap();
    assert!(!lives(pid) || remote.path("d").exists());
}

#[tokio::test]
async fn a_server_that_hangs_holds_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let link = Pipes::new(server());
    let patience = Patience { answer: SHORT, ..Patience::default() };
    let sftp = Sftp::patient(Arc::clone(&link) as Arc<dyn Link>, "box-1", patience);
    let files = sftp.files(folder.path()).await.unwrap();
    let file = files.append(Path::new("a"), 0).await.unwrap();
    drop(file);
    std::fs::write(folder.path().join("large"), vec![0; 1 << 20]).unwrap();
    let (_, mut large) = files.read(Path::new("large"), 0).await.unwrap();
    link.pids.lock().unwrap().iter().for_each(|pid| strike(*pid, Signal::STOP));
    let start = Instant::now();
    let remove = files.remove(Path::new("a"), false);
    let mut buffer = Vec::new();
    let (removed, read) = soon("answers", async { tokio::join!(remove, large.read_to_end(&mut buffer)) }).await;
    assert!(start.elapsed() < 10 * SHORT, "{:?}", start.elapsed());
    assert!(matches!(removed.unwrap_err().reason, Reason::OutcomeUnknown | Reason::HostUnreachable));
    let error = Error::from_stream("read", read.unwrap_err());
    assert_eq!(error.reason, Reason::HostUnreachable, "{error}");
    // The next call has a server of its own.
    files.stat(Path::new("large"), false).await.unwrap();
    // One that hangs from the start.
    let silent = Patience { greeting: Duration::from_millis(100), ..Patience::default() };
    let sftp = Sftp::patient(Pipes::new(words("exec sleep 1000")), "box-1", silent);
    let error = soon("an answer", sftp.files(folder.path())).await.map(|_| ()).unwrap_err();
    assert_eq!(error.reason, Reason::HostUnreachable);
}

#[tokio::test]
async fn what_nobody_uses_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let link = Pipes::new(server());
    let patience = Patience { idle: Duration::from_millis(100), ..Patience::default() };
    let sftp = Sftp::patient(Arc::clone(&link) as Arc<dyn Link>, "box-1", patience);
    let files = sftp.files(folder.path()).await.unwrap();
    let file = files.append(Path::new("a"), 0).await.unwrap();
    assert_eq!(sftp.open_sessions().await, 2);
    let pids = link.pids.lock().unwrap().clone();
    until("the end of the shared session", || !lives(pids[0])).await;
    // The other one is in use.
    assert!(lives(pids[1]));
    drop(file);
    until("the end of the other session", || !lives(pids[1])).await;
    assert_eq!(sftp.open_sessions().await, 0);
    files.stat(Path::new("a"), false).await.unwrap();
    drop((files, sftp));
    until("the end of all", || link.pids.lock().unwrap().iter().all(|pid| !lives(*pid))).await;
}

#[tokio::test]
async fn calls_that_are_given_up_leave_nothing_open() {
    let remote = Remote::new().await;
    std::fs::write(remote.path("a"), vec![1; 100_000]).unwrap();
    let path = Path::new("a");
    let pid = remote.link.pids.lock().unwrap()[0];
    remote.files.stat(path, false).await.unwrap();
    let before = open_files(pid);
    for steps in 0..200 {
        let mut call = Box::pin(async {
            let (_, mut file) = remote.files.read(path, 0).await.unwrap();
            file.read_u8().await.unwrap()
        });
        let mut left = steps % 40;
        std::future::poll_fn(|cx| {
            left -= 1;
            match call.as_mut().poll(cx) {
                std::task::Poll::Pending if left > 0 => std::task::Poll::Pending,
                _ => std::task::Poll::Ready(()),
            }
        })
        .await;
    }
    until("the closing of all handles", || open_files(pid) == before).await;
    assert_eq!(remote.files.stat(path, false).await.unwrap().size, 100_000);
    assert_eq!(remote.sftp.open_sessions().await, 1);
}
