//! What the shells on the far side are for: they keep what runs there from outliving us.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use drydock::error::Reason;
use drydock::host::{Command, Exit, Host as _};

use super::{Machine, Sham, Shell, Yard, sshd};
use crate::place::{TREE, argv, listen, lives, pid_in, shell, soon, until};
use crate::ssh::kit::{masters, strike};

const SHELLS: [Shell; 3] = [Shell::Dash, Shell::Bash, Shell::Busybox];

/// The pids of all keepers that have a folder there.
fn keepers(data: &Path) -> Vec<i32> {
    let Ok(folders) = std::fs::read_dir(data.join("run")) else { return Vec::new() };
    folders
        .filter_map(|folder| std::fs::read_to_string(folder.unwrap().path().join("who")).ok())
        .filter_map(|who| who.split(' ').next().and_then(|pid| pid.parse().ok()))
        .collect()
}

fn kill(pid: i32) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
}

async fn pids(yard: &Yard) -> Vec<i32> {
    let mut pids = Vec::new();
    for file in ["away", "deaf", "leader"] {
        pids.push(pid_in(&yard.path(file)).await);
    }
    pids
}

#[tokio::test]
async fn nothing_survives_the_end_of_the_channels() {
    for shell_kind in SHELLS {
        let yard = Yard::sham(shell_kind);
        let data = yard.host.data_dir().to_owned();
        let root = yard.place.root.clone();
        // A runtime of its own: when it goes, all channels break at once, as they do when a daemon is killed.
        let (say, hear) = std::sync::mpsc::channel();
        let Yard { data: _kept, host, place, lease, remote } = yard;
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let pids = runtime.block_on(async {
                host.make_folder(&root).await.unwrap();
                let command = Command {
                    argv: ["sh", "-c", TREE].map(str::to_owned).into(),
                    cwd: root.clone(),
                    lease_id: lease.clone(),
                    ..Command::default()
                };
                let process = host.spawn(command).await.unwrap();
                let yard = Yard { data: tempfile::tempdir().unwrap(), host, place, lease, remote };
                let pids = pids(&yard).await;
                std::mem::forget(process);
                pids
            });
            say.send(pids).unwrap();
            runtime.shutdown_background();
        });
        let pids = hear.recv().unwrap();
        thread.join().unwrap();
        let took = until("the end of all", || !pids.iter().any(|pid| lives(*pid))).await;
        assert!(took < Duration::from_secs(15), "{shell_kind:?} {took:?}");
        let names: Vec<_> = std::fs::read_dir(data.join("run")).map_or_else(
            |_| Vec::new(),
            |run| run.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect(),
        );
        until("the keeper's own end", || !data.join("run").exists()).await;
        let kept = |name: &String| Path::new("/dev/shm").join(format!("drydock.{name}")).exists();
        assert!(!names.iter().any(kept), "records stay in memory: {names:?}");
    }
}

#[tokio::test]
async fn nothing_survives_the_death_of_the_masters_and_then_it_goes_on() {
    for kind in sshd::Shell::ALL {
        let machine = Machine::shell(kind).await;
        let yard = machine.yard();
        let execution = yard.exec(shell(TREE), None).await.unwrap();
        let pids = pids(&yard).await;
        strike(&masters(&machine.link), rustix::process::Signal::KILL);
        let took = until("the end of all", || !pids.iter().any(|pid| lives(*pid))).await;
        assert!(took < Duration::from_secs(15), "{kind:?} {took:?}");
        let said = soon("the end", listen(execution)).await;
        assert_eq!(said.error.unwrap().reason, Reason::OutcomeUnknown);
        assert_eq!(yard.run(argv(&["echo", "on"])).await.text(), "on\n");
    }
}

#[tokio::test]
async fn fifty_callers_get_their_turn_on_ten_sessions() {
    let machine = Machine::shell(sshd::Shell::Dash).await;
    let yard = machine.yard();
    yard.run(argv(&["true"])).await;
    let start = Instant::now();
    let runs = (0..50).map(|_| yard.run(argv(&["sleep", "2"])));
    let all = futures::future::join_all(runs).await;
    assert!(all.iter().all(|said| said.outcome().0 == Exit::Code(0)));
    // Three turns, on a machine that does much else.
    println!("50 callers: {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_keeper_that_is_killed_is_replaced_and_its_commands_are_ended() {
    for kind in SHELLS {
        let yard = Yard::sham(kind);
        let execution = yard.exec(shell(TREE), None).await.unwrap();
        let pids = pids(&yard).await;
        let [keeper] = keepers(yard.host.data_dir())[..] else { panic!("one keeper") };
        kill(keeper);
        let said = soon("the end", listen(execution)).await;
        assert_eq!(said.error.unwrap().reason, Reason::OutcomeUnknown);
        // The next one cleans up.
        assert_eq!(yard.run(argv(&["echo", "on"])).await.text(), "on\n");
        until("the end of all", || !pids.iter().any(|pid| lives(*pid))).await;
        assert_eq!(keepers(yard.host.data_dir()).len(), 1);
    }
}

#[tokio::test]
async fn a_runner_without_a_keeper_starts_nothing() {
    let yard = Yard::sham(Shell::Dash);
    yard.run(argv(&["true"])).await;
    let run = yard.host.data_dir().join("run");
    let folder = std::fs::read_dir(&run).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(folder.join("alive")).unwrap();
    // It notices, and gets another keeper.
    let said = yard.run(argv(&["echo", "on"])).await;
    assert_eq!(said.text(), "on\n");
    assert!(!folder.join("alive").exists());
}

#[tokio::test]
async fn a_login_shell_that_prints_and_takes_its_time_is_paid_for_once() {
    for kind in SHELLS {
        let data = tempfile::tempdir().unwrap();
        let mut sham = Sham::new(kind, data.path());
        sham.rc = "echo noise; echo 'S0 1 1'; echo noise >&2; sleep 0.3; ".to_owned();
        let (link, host) = sham.host();
        let yard = Yard::of(data, Arc::new(host), true);
        let said = yard.run(shell("echo out; echo err >&2")).await;
        assert_eq!((said.text(), said.stderr.as_slice()), ("out\n", b"err\n".as_slice()));
        for _ in 0..20 {
            assert_eq!(yard.run(argv(&["true"])).await.outcome().0, Exit::Code(0));
        }
        // Keeper, clerk, and few runners: mostly two, and one more whenever a runner is back later than the next command
        // comes. Were each command to pay, there would be more than twenty.
        let opened = link.opened.load(Ordering::SeqCst);
        assert!(opened <= 10, "{opened} channels for 21 commands");
    }
}

#[tokio::test]
async fn fifty_callers_share_the_places_there_are() {
    let yard = Yard::sham(Shell::Dash);
    let start = Instant::now();
    let runs = (0..50).map(|_| yard.run(argv(&["sleep", "0.5"])));
    let all = futures::future::join_all(runs).await;
    assert!(all.iter().all(|said| said.outcome().0 == Exit::Code(0)));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[tokio::test]
async fn without_setsid_commands_run_in_the_channels_own_session() {
    for kind in SHELLS {
        let data = tempfile::tempdir().unwrap();
        let (_, host) = Sham::new(kind, data.path()).without_setsid().host();
        let yard = Yard::of(data, Arc::new(host), true);
        for _ in 0..2 {
            let said = yard.run(shell("echo out; echo err >&2; exit 5")).await;
            assert_eq!((said.text(), said.stderr.as_slice()), ("out\n", b"err\n".as_slice()));
            assert_eq!(said.outcome().0, Exit::Code(5));
        }
        let script =
            "sh -c 'echo $$ > deaf; trap \"\" TERM; while :; do sleep 1000; done' & echo $$ > leader; wait; wait";
        for _ in 0..2 {
            let execution = yard.exec(shell(script), None).await.unwrap();
            let (deaf, leader) = (pid_in(&yard.path("deaf")).await, pid_in(&yard.path("leader")).await);
            drop(execution);
            until("the tree's end", || !lives(deaf) && !lives(leader)).await;
            std::fs::remove_file(yard.path("deaf")).unwrap();
            std::fs::remove_file(yard.path("leader")).unwrap();
        }
        let command = Command {
            argv: ["sleep", "1000"].map(str::to_owned).into(),
            cwd: yard.place.root.clone(),
            lease_id: yard.lease.clone(),
            ..Command::default()
        };
        let process = yard.host.spawn(command).await.unwrap();
        process.control.signal(15).await.unwrap();
        assert_eq!(soon("the end", process.control.wait()).await.unwrap(), Exit::Code(143));
    }
}

#[tokio::test]
async fn a_machine_that_is_down_is_unreachable() {
    let data = tempfile::tempdir().unwrap();
    let sham = Sham::new(Shell::Dash, data.path());
    sham.down.store(true, Ordering::SeqCst);
    let (link, host) = sham.host();
    let command = Command { argv: vec!["true".to_owned()], cwd: "/".into(), ..Command::default() };
    assert_eq!(host.spawn(command.clone()).await.err().unwrap().reason, Reason::HostUnreachable);
    assert_eq!(host.make_folder(data.path()).await.unwrap_err().reason, Reason::HostUnreachable);
    link.down.store(false, Ordering::SeqCst);
    let process = host.spawn(command).await.unwrap();
    assert_eq!(soon("the end", process.control.wait()).await.unwrap(), Exit::Code(0));
}

#[tokio::test]
async fn a_machine_that_falls_silent_is_given_up_in_six_seconds() {
    let yard = Yard::sham(Shell::Dash);
    let execution = yard.exec(argv(&["sleep", "1000"]), None).await.unwrap();
    let [keeper] = keepers(yard.host.data_dir())[..] else { panic!("one keeper") };
    let keeper = rustix::process::Pid::from_raw(keeper).unwrap();
    rustix::process::kill_process(keeper, rustix::process::Signal::STOP).unwrap();
    let start = Instant::now();
    let stray = yard.host.end_strays(&yard.lease);
    let (said, stray) = soon("the end", async { tokio::join!(listen(execution), stray) }).await;
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!(said.error.unwrap().reason, Reason::OutcomeUnknown);
    assert_eq!(stray.unwrap_err().reason, Reason::HostUnreachable);
    let pid = i32::try_from(said.started.pid).unwrap();
    // The next keeper ends the one that does not know yet, and what it kept.
    assert_eq!(yard.run(argv(&["echo", "on"])).await.text(), "on\n");
    until("its end", || !lives(pid)).await;
}
