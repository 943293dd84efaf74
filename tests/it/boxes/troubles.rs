//! What happens to a box while it is used: looks, drains, a clock that is wrong, a connection that stands still.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use drydock::proto::v1::resource::State;
use prost_types::value::Kind;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::commands::{drydock, said};
use super::cut_off::{begin, end};
use super::files::{noise, read, start, write};
use super::fleet::Fleet;
use super::sites::left;
use crate::harness::reason;
use crate::ssh::kit::until;
use crate::ssh::sshd::{Options, Sshd};

/// Runs until it finds a file.
const WAITS: &str = "echo on; until [ -e go ]; do sleep 0.1; done; exit 7";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looks_and_drains_leave_what_runs_alone() {
    let (fleet, machine) = (Fleet::start(json!({}), 2).await, Sshd::start());
    let known = fleet.register("one", &machine, &[]).await;
    let lease = fleet.acquire("host", &[], &[]).await;
    let running = begin(&fleet, &lease.id, WAITS).await;
    for _ in 0..2 {
        let check = drydock(&fleet, &["resource", "check", &known.id]).await;
        assert_eq!((check.status.code(), said(&check.stdout)), (Some(0), "healthy".to_owned()));
    }
    let drained = drydock(&fleet, &["resource", "drain", &known.id, "--comment", "new disk"]).await;
    assert!(drained.status.success(), "{}", said(&drained.stderr));
    let now = fleet.resource(&known.id).await;
    assert_eq!((now.state(), now.drain.unwrap().comment.as_str()), (State::Active, "new disk"));
    let waiting = fleet.queue("host", &[], &[]).await;
    let told = fleet
        .lease_until(&waiting.id, "told", |now| now.waiting.as_ref().is_some_and(|why| why.reason != "QUEUED"))
        .await;
    let why = told.waiting.unwrap();
    assert_eq!(why.reason, "NO_HEALTHY_RESOURCE", "{why:?}");
    assert!(why.message.contains("drain"), "{why:?}");
    // The lease on it goes on, and its command with it; it is still looked at.
    assert_eq!(fleet.exec(&lease.id, "echo on").await.unwrap(), (0, "on\n".to_owned()));
    assert!(fleet.check(&known.id).await.findings.is_empty());
    let undrained = drydock(&fleet, &["resource", "undrain", &known.id]).await;
    assert!(undrained.status.success(), "{}", said(&undrained.stderr));
    fleet.lease_until(&waiting.id, "ACTIVE", |now| now.active_time.is_some()).await;
    write(&fleet, start(&lease.id, "go", ""), 0, b"").await.unwrap();
    assert_eq!(end(running).await.unwrap(), 7);
    fleet.end().await;
}

/// The masters that a box has now.
async fn masters(fleet: &Fleet, id: &str) -> Vec<Pid> {
    let shown = fleet.resource(id).await.diagnostics.unwrap();
    let Some(Kind::ListValue(masters)) = &shown.fields["masters"].kind else { panic!("{shown:?}") };
    let pid = |master: &prost_types::Value| {
        let Some(Kind::StructValue(fields)) = &master.kind else { panic!("{master:?}") };
        let Some(Kind::NumberValue(pid)) = fields.fields["pid"].kind else { panic!("{fields:?}") };
        Pid::from_raw(format!("{pid:.0}").parse().unwrap()).unwrap()
    };
    masters.values.iter().map(pid).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_stand_still_are_given_up() {
    let (fleet, machine) = (Fleet::start(json!({}), 1).await, Sshd::start());
    let known = fleet.register("one", &machine, &[]).await;
    let lease = fleet.acquire("host", &[], &[]).await;
    let lost = begin(&fleet, &lease.id, "echo on; sleep 600").await;
    let stopped = masters(&fleet, &known.id).await;
    assert!(!stopped.is_empty());
    for pid in &stopped {
        kill_process(*pid, Signal::STOP).unwrap();
    }
    let begun = Instant::now();
    let ended = end(lost).await.unwrap_err();
    assert!(["OUTCOME_UNKNOWN", "HOST_UNREACHABLE"].contains(&reason(&ended).as_str()), "{ended:?}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    let back = fleet.exec(&lease.id, "echo back").await;
    assert_eq!(back.unwrap(), (0, "back\n".to_owned()));
    let old =
        |pid: &Pid| fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_pid())).is_ok_and(|it| !it.is_empty());
    until("the old ones are gone", || !stopped.iter().any(old)).await;
    fleet.until(&known.id, "well", |now| now.problem.is_empty()).await;
    fleet.release(&lease.id).await;
    // What ran over them has ended there, too.
    until("nothing is left", || left(&machine).is_empty()).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_wrong_is_told_and_hinders_nothing() {
    let programs = tempfile::tempdir().unwrap();
    let date = programs.path().join("date");
    fs::write(&date, "#!/bin/sh\nexec /bin/date -d '3 hours ago' \"$@\"\n").unwrap();
    fs::set_permissions(&date, fs::Permissions::from_mode(0o755)).unwrap();
    let machine = Sshd::with(Options { programs: Some(programs.path().to_owned()), ..Options::default() });
    let fleet = Fleet::start(json!({}), 1).await;
    let known = fleet.register("one", &machine, &[]).await;
    let check = fleet.check(&known.id).await;
    assert!(
        check.findings.iter().any(|it| it.contains("clock skew: its clock is 10") && it.contains("behind")),
        "{check:?}"
    );
    assert!(check.resource.unwrap().problem.is_empty(), "it can be leased");
    let lease = fleet.acquire("host", &[], &[]).await;
    // Files that are older or younger than our clock: an upload that is begun goes on, and is finished.
    let bytes = noise(300_000);
    write(&fleet, start(&lease.id, "file", "up-1"), 0, &bytes).await.unwrap();
    for when in ["1970-01-02", "2099-01-01"] {
        let touched = fleet.exec(&lease.id, &format!("/usr/bin/touch -d {when} file . .. && echo $?")).await.unwrap();
        assert_eq!(touched.1, "0\n");
        assert_eq!(read(&fleet, &lease.id, "file").await.unwrap(), bytes);
        write(&fleet, start(&lease.id, "file", ""), 0, &bytes).await.unwrap();
    }
    fleet.release(&lease.id).await;
    assert_eq!(left(&machine), [""; 0]);
    fleet.end().await;
}

/// How `drydock host add` is typed.
fn adding(machine: &Sshd, name: &str) -> String {
    let target = machine.target();
    format!(
        "{} host add {name} --address 127.0.0.1 --port {} --user {} --identity-file {}",
        env!("CARGO_BIN_EXE_drydock"),
        target.port,
        target.user,
        target.identity_file.unwrap().display()
    )
}

/// Runs a line on a terminal of its own, and types an answer when it is asked; what it showed, and its exit code.
async fn on_a_terminal(fleet: &Fleet, line: &str, answer: impl Fn(&str) -> String) -> (String, i32) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut child = tokio::process::Command::new("script")
        .args(["-q", "-e", "-c", line, "/dev/null"])
        .env("DRYDOCK_ADDR", format!("unix:{}", fleet.daemon.ready.socket.display()))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("script, of Debian's bsdutils");
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (mut shown, mut typed) = (Vec::new(), false);
    let all = async {
        while let Ok(1..) = screen.read_buf(&mut shown).await {
            let text = String::from_utf8_lossy(&shown).into_owned();
            if !typed && text.contains("fingerprints: ") {
                typed = true;
                keys.write_all(format!("{}\n", answer(&text)).as_bytes()).await.unwrap();
            }
        }
        child.wait().await.unwrap().code().unwrap()
    };
    let code = tokio::time::timeout(crate::harness::LONG, all).await.unwrap();
    (String::from_utf8_lossy(&shown).into_owned(), code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_is_shown_the_key_and_asked() {
    let (fleet, machine) = (Fleet::start(json!({}), 1).await, Sshd::start());
    let fingerprint = {
        let key = std::process::Command::new("ssh-keygen")
            .args(["-l", "-f"])
            .arg(machine.folder().join("host.pub"))
            .output()
            .unwrap();
        String::from_utf8(key.stdout).unwrap().split(' ').nth(1).unwrap().to_owned()
    };
    for no in ["no", "", "SHA256:another"] {
        let (shown, code) = on_a_terminal(&fleet, &adding(&machine, "one"), |_| no.to_owned()).await;
        assert!(shown.contains(&fingerprint), "{shown}");
        assert!(shown.contains("nothing was registered"), "{no:?}: {shown}");
        assert_eq!(code, 1, "{shown}");
    }
    assert_eq!(said(&drydock(&fleet, &["host", "list", "-o", "name"]).await.stdout), "");
    assert!(!machine.log().contains("publickey"), "nobody has tried to log in: {}", machine.log());
    let (shown, code) = on_a_terminal(&fleet, &adding(&machine, "one"), |_| "yes".to_owned()).await;
    assert_eq!(code, 0, "{shown}");
    let id = shown.lines().rev().find(|line| line.starts_with("res_")).unwrap().trim().to_owned();
    let known = fleet.resource(&id).await;
    assert_eq!((known.state(), known.attributes["host_key"].clone()), (State::Active, machine.host_key()));
    let mine = fingerprint.clone();
    let (shown, code) = on_a_terminal(&fleet, &adding(&machine, "two"), move |_| mine.clone()).await;
    assert_eq!(code, 0, "{shown}");
    fleet.end().await;
}
