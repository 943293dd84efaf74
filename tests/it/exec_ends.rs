//! How commands end: by signal, timeout, cancel, the lease's end, the daemon's death; and that nothing is left of them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use drydock::error::Reason;
use drydock::host::{Command, Exit, Host as _};
use drydock::interface::command::{EndReason, ExecSpec, Execution, Frame, Input, OutputStream};
use futures::StreamExt as _;

use crate::place::{Ground, TREE, argv, listen, lives, local_host, pid_in, shell, soon, until};

async fn tree(ground: &Ground, spec: ExecSpec) -> (Execution, [i32; 3]) {
    let execution = ground.exec(spec, None).await.unwrap();
    let mut pids = [0; 3];
    for (pid, file) in pids.iter_mut().zip(["away", "deaf", "leader"]) {
        *pid = pid_in(&ground.path(file)).await;
    }
    assert!(pids.iter().all(|pid| lives(*pid)));
    (execution, pids)
}

#[tokio::test]
async fn a_cancel_ends_the_whole_tree() {
    let ground = Ground::new();
    for _ in 0..5 {
        let (execution, pids) = tree(&ground, shell(TREE)).await;
        drop(execution);
        let took = until("the tree's end", || !pids.iter().any(|pid| lives(*pid))).await;
        assert!(took < Duration::from_secs(15), "{took:?}");
        for file in ["away", "deaf", "leader"] {
            std::fs::remove_file(ground.path(file)).unwrap();
        }
    }
}

#[tokio::test]
async fn a_timeout_ends_the_tree_and_says_so() {
    let ground = Ground::new();
    let spec = ExecSpec {
        timeout: Some(Duration::from_millis(600)),
        kill_grace: Some(Duration::from_millis(100)),
        ..shell(TREE)
    };
    let (execution, pids) = tree(&ground, spec).await;
    let said = soon("the end", listen(execution)).await;
    assert_eq!(said.outcome(), (Exit::Signal(15), EndReason::Timeout));
    assert!(!pids.iter().any(|pid| lives(*pid)), "exited comes when the tree is gone");
}

#[tokio::test]
async fn last_words_after_term_are_heard() {
    let ground = Ground::new();
    let script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.01; done";
    let spec = ExecSpec { timeout: Some(Duration::from_millis(500)), ..shell(script) };
    let said = ground.run(spec).await;
    assert_eq!((said.text(), said.outcome()), ("ready\nbye\n", (Exit::Code(7), EndReason::Timeout)));
}

#[tokio::test]
async fn the_leases_end_ends_the_tree_whatever_its_grace() {
    let ground = Ground::new();
    let spec = ExecSpec { kill_grace: Some(Duration::from_hours(1)), ..shell(TREE) };
    let (execution, pids) = tree(&ground, spec).await;
    let start = Instant::now();
    ground.ended.cancel();
    let said = soon("the end", listen(execution)).await;
    assert_eq!(said.outcome().1, EndReason::LeaseEnded);
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    assert!(!pids.iter().any(|pid| lives(*pid)));
}

#[tokio::test]
async fn whoever_keeps_the_pipes_holds_up_nobody() {
    let ground = Ground::new();
    let scripts = [
        "sleep 1000 & echo $! > left; echo done",
        "setsid sleep 1000 & echo $! > left; echo done",
        "yes & echo $! > left",
        "(trap '' TERM; while :; do sleep 1000; done) & echo $! > left",
    ];
    for script in scripts {
        let said = ground.run(shell(script)).await;
        assert_eq!(said.outcome(), (Exit::Code(0), EndReason::Exited), "{script}");
        let left = pid_in(&ground.path("left")).await;
        until("the end of what was left", || !lives(left)).await;
    }
}

#[tokio::test]
async fn who_left_the_group_quietly_is_found_too() {
    let ground = Ground::new();
    let script =
        "setsid sh -c 'echo $$ > left; exec sleep 1000' </dev/null >/dev/null 2>&1 & while ! test -s left; do :; done";
    assert_eq!(ground.run(shell(script)).await.outcome().0, Exit::Code(0));
    let left = pid_in(&ground.path("left")).await;
    until("the end of what was left", || !lives(left)).await;
}

#[tokio::test]
async fn signals_reach_the_group() {
    let ground = Ground::new();
    let (say, hear) = futures::channel::mpsc::unbounded();
    let script = "trap 'echo usr1' USR1; echo ready; while :; do sleep 0.01; done";
    let mut execution = ground.exec(shell(script), Some(hear.boxed())).await.unwrap();
    let mut text = Vec::new();
    let exited = loop {
        match soon("a frame", execution.next()).await.unwrap().unwrap() {
            // The shell tells on stderr how its child died.
            Frame::Output(output) if output.stream == OutputStream::Stdout => {
                if let drydock::interface::command::Payload::Data(data) = output.payload {
                    text.extend_from_slice(&data);
                }
                let number = if text.ends_with(b"usr1\n") { 15 } else { 10 };
                say.unbounded_send(Ok(Input::Signal(number))).unwrap();
            }
            Frame::Exited(exited) => break exited,
            _ => {}
        }
    };
    assert_eq!(text, b"ready\nusr1\n");
    assert_eq!((exited.exit, exited.reason), (Exit::Signal(15), EndReason::Cancelled));
}

#[tokio::test]
async fn a_callers_mistake_ends_the_command() {
    let ground = Ground::new();
    for mistakes in [
        vec![Err(drydock::error::Error::invalid("a second start"))],
        vec![Ok(Input::Eof), Ok(Input::Data(Bytes::from("x")))],
        vec![Ok(Input::Signal(0))],
        vec![Ok(Input::Signal(99))],
    ] {
        let inputs = futures::stream::iter(mistakes).chain(futures::stream::pending());
        let execution = ground.exec(argv(&["sleep", "1000"]), Some(inputs.boxed())).await.unwrap();
        let said = soon("the end", listen(execution)).await;
        assert_eq!(said.error.unwrap().reason, Reason::InvalidArgument);
        let pid = i32::try_from(said.started.pid).unwrap();
        assert!(!lives(pid));
    }
}

#[tokio::test]
async fn a_launched_process_is_only_stopped_in_its_leases_name() {
    let ground = Ground::new();
    let host = &ground.host;
    host.make_folder(&ground.place.root).await.unwrap();
    let command = Command {
        argv: ["sh", "-c", "echo up; setsid sleep 1000 & exec sleep 1000"].map(str::to_owned).into(),
        cwd: ground.place.root.clone(),
        lease_id: ground.lease.clone(),
        ..Command::default()
    };
    let log = ground.path("log");
    let pid = host.launch(command.clone(), &log).await.unwrap();
    until("the log", || std::fs::read_to_string(&log).is_ok_and(|text| text == "up\n")).await;
    assert!(host.is_running(pid, &ground.lease).await);
    assert!(!host.is_running(pid, "lease_other").await);
    host.stop(pid, "lease_other", Duration::ZERO).await.unwrap();
    host.end_strays("lease_other").await.unwrap();
    assert!(host.is_running(pid, &ground.lease).await);
    host.stop(pid, &ground.lease, Duration::from_secs(5)).await.unwrap();
    assert!(!host.is_running(pid, &ground.lease).await);
    host.stop(pid, &ground.lease, Duration::ZERO).await.unwrap();
    let zombie = format!("/proc/{pid}");
    until("the zombie's end", || !std::path::Path::new(&zombie).exists()).await;

    let pid = host.launch(command, &log).await.unwrap();
    host.end_strays(&ground.lease).await.unwrap();
    assert!(!host.is_running(pid, &ground.lease).await);
    let missing = Command { argv: vec!["no-such".to_owned()], cwd: ground.place.root.clone(), ..Command::default() };
    assert_eq!(host.launch(missing, &log).await.unwrap_err().reason, Reason::FileNotFound);
}

const VICTIM: &str = "DRYDOCK_TEST_VICTIM";

/// Not a test of its own: the process that [`what_runs_dies_with_the_daemon_kill_9_too`] kills.
#[tokio::test]
async fn victim() {
    let Some(data) = std::env::var_os(VICTIM) else { return };
    let host = local_host(std::path::Path::new(&data));
    let command = Command {
        argv: vec!["sh".to_owned(), "-c".to_owned(), TREE.to_owned()],
        cwd: data.into(),
        lease_id: "lease_victim".to_owned(),
        process_id: "proc_victim".to_owned(),
        ..Command::default()
    };
    let process = host.spawn(command).await.unwrap();
    process.control.wait().await.unwrap();
}

#[tokio::test]
async fn what_runs_dies_with_the_daemon_kill_9_too() {
    let data = tempfile::tempdir().unwrap();
    let mut daemon = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["exec_ends::victim", "--exact"])
        .env(VICTIM, data.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut pids = [0; 3];
    for (pid, file) in pids.iter_mut().zip(["away", "deaf", "leader"]) {
        *pid = pid_in(&data.path().join(file)).await;
    }
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let took = until("the end of all it ran", || !pids.iter().any(|pid| lives(*pid))).await;
    assert!(took < Duration::from_secs(15), "{took:?}");
}

#[tokio::test]
async fn a_blueprints_command_is_run_to_its_end() {
    let ground = Ground::new();
    ground.host.make_folder(&ground.place.root).await.unwrap();
    let run = |script: &str, timeout: u64| drydock::host::Run {
        command: Command {
            argv: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
            cwd: ground.place.root.clone(),
            lease_id: ground.lease.clone(),
            ..Command::default()
        },
        input: b"in".to_vec(),
        timeout: Duration::from_millis(timeout),
    };
    let ran = ground.host.run(run("cat; echo err >&2; exit 3", 20_000)).await.unwrap();
    assert_eq!(
        (ran.exit, ran.stdout.as_slice(), ran.stderr_tail.as_str()),
        (Some(Exit::Code(3)), b"in".as_slice(), "err\n")
    );
    let ran = ground.host.run(run("yes | head -c 3000000; sleep 1000 &", 20_000)).await.unwrap();
    assert_eq!((ran.exit, ran.stdout.len()), (Some(Exit::Code(0)), 1024 * 1024));
    let ran = ground.host.run(run("sleep 1000 & echo $! > left; wait", 500)).await.unwrap();
    assert_eq!(ran.exit, None);
    assert!(!lives(pid_in(&ground.path("left")).await));
}
