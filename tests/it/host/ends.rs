//! The conformance suite, how commands end: the same for every machine.

use std::time::{Duration, Instant};

use drydock::error::Reason;
use drydock::host::{Command, Exit, Run};
use drydock::interface::command::{EndReason, ExecSpec, Frame, Input, OutputStream, Payload};
use futures::StreamExt as _;

use super::{Machine, Shell, Yard, code_or_signal, everywhere, sshd};
use crate::place::{TREE, argv, listen, lives, pid_in, shell, soon, until};

everywhere!(
    a_cancel_ends_the_whole_tree,
    a_cancel_right_after_the_start_ends_it_too,
    dropping_a_process_kills_its_tree,
    last_words_after_term_are_heard,
    whoever_keeps_the_pipes_holds_up_nobody,
    what_is_left_does_not_talk_into_the_next_command,
    late_words_are_heard,
    signals_reach_the_group,
    a_launched_process_is_only_stopped_in_its_leases_name,
    strays_are_found_by_their_lease,
    a_blueprints_command_is_run_to_its_end,
    an_end_is_known_although_nobody_reads,
);

async fn pids(yard: &Yard) -> [i32; 3] {
    let mut pids = [0; 3];
    for (pid, file) in pids.iter_mut().zip(["away", "deaf", "leader"]) {
        *pid = pid_in(&yard.path(file)).await;
    }
    assert!(pids.iter().all(|pid| lives(*pid)));
    pids
}

async fn a_cancel_ends_the_whole_tree(yard: Yard) {
    for _ in 0..3 {
        let execution = yard.exec(shell(TREE), None).await.unwrap();
        let pids = pids(&yard).await;
        drop(execution);
        let took = until("the tree's end", || !pids.iter().any(|pid| lives(*pid))).await;
        assert!(took < Duration::from_secs(15), "{took:?}");
        for file in ["away", "deaf", "leader"] {
            std::fs::remove_file(yard.path(file)).unwrap();
        }
    }
}

async fn a_cancel_right_after_the_start_ends_it_too(yard: Yard) {
    for _ in 0..20 {
        let mut execution = yard.exec(argv(&["sleep", "1000"]), None).await.unwrap();
        let Some(Ok(Frame::Started(started))) = execution.next().await else { panic!("started comes first") };
        drop(execution);
        let pid = i32::try_from(started.pid).unwrap();
        until("its end", || !lives(pid)).await;
    }
}

async fn dropping_a_process_kills_its_tree(yard: Yard) {
    yard.host.make_folder(&yard.place.root).await.unwrap();
    let command = Command {
        argv: ["sh", "-c", TREE].map(str::to_owned).into(),
        cwd: yard.place.root.clone(),
        lease_id: yard.lease.clone(),
        ..Command::default()
    };
    let process = yard.host.spawn(command).await.unwrap();
    let pids = pids(&yard).await;
    drop(process);
    until("the tree's end", || !pids.iter().any(|pid| lives(*pid))).await;
}

async fn last_words_after_term_are_heard(yard: Yard) {
    let script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.01; done";
    let spec = ExecSpec { timeout: Some(Duration::from_millis(700)), ..shell(script) };
    let said = yard.run(spec).await;
    assert_eq!((said.text(), said.outcome()), ("ready\nbye\n", (Exit::Code(7), EndReason::Timeout)));
}

async fn whoever_keeps_the_pipes_holds_up_nobody(yard: Yard) {
    let scripts = [
        "sleep 1000 & echo $! > left; echo done",
        "setsid sleep 1000 & echo $! > left; echo done",
        "yes & echo $! > left",
        "(trap '' TERM; while :; do sleep 1000; done) & echo $! > left",
        "setsid sh -c 'echo $$ > left; exec sleep 1000' </dev/null >/dev/null 2>&1 & while ! test -s left; do :; done",
    ];
    for script in scripts {
        let said = yard.run(shell(script)).await;
        assert_eq!(said.outcome(), (Exit::Code(0), EndReason::Exited), "{script}");
        let left = pid_in(&yard.path("left")).await;
        until("the end of what was left", || !lives(left)).await;
        std::fs::remove_file(yard.path("left")).unwrap();
    }
}

async fn what_is_left_does_not_talk_into_the_next_command(yard: Yard) {
    for script in ["while :; do echo noise; done &", "setsid sh -c 'while :; do echo noise; done' &"] {
        let execution = yard.exec(shell(script), None).await.unwrap();
        let next = yard.exec(argv(&["echo", "clean"]), None);
        let (_, next) = tokio::join!(soon("the end", listen(execution)), next);
        assert_eq!(soon("the end", listen(next.unwrap())).await.text(), "clean\n");
        for _ in 0..5 {
            assert_eq!(yard.run(argv(&["echo", "clean"])).await.text(), "clean\n");
        }
    }
}

async fn late_words_are_heard(yard: Yard) {
    let said = yard.run(shell("(sleep 0.05; echo late) & echo early")).await;
    assert_eq!(said.text(), "early\nlate\n");
}

async fn signals_reach_the_group(yard: Yard) {
    let (say, hear) = futures::channel::mpsc::unbounded();
    let script = "trap 'echo usr1' USR1; echo ready; while :; do sleep 0.01; done";
    let mut execution = yard.exec(shell(script), Some(hear.boxed())).await.unwrap();
    let mut text = Vec::new();
    let exited = loop {
        match soon("a frame", execution.next()).await.unwrap().unwrap() {
            // The shell tells on stderr how its child died.
            Frame::Output(output) if output.stream == OutputStream::Stdout => {
                if let Payload::Data(data) = output.payload {
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
    assert_eq!(exited.exit, code_or_signal(&yard, 15));
    for number in [0, 99] {
        let inputs = futures::stream::iter([Ok(Input::Signal(number))]).chain(futures::stream::pending());
        let execution = yard.exec(argv(&["sleep", "1000"]), Some(inputs.boxed())).await.unwrap();
        let said = soon("the end", listen(execution)).await;
        assert_eq!(said.error.unwrap().reason, Reason::InvalidArgument);
    }
    // INT is not ignored, as it is in the background of a shell.
    let said = yard.run(shell("kill -INT $$; echo survived")).await;
    assert_eq!((said.text(), said.outcome().0), ("", code_or_signal(&yard, 2)));
}

async fn a_launched_process_is_only_stopped_in_its_leases_name(yard: Yard) {
    let host = &yard.host;
    host.make_folder(&yard.place.root).await.unwrap();
    let command = Command {
        argv: ["sh", "-c", "echo up \"$TOKEN\"; setsid sleep 1000 & exec sleep 1000"].map(str::to_owned).into(),
        cwd: yard.place.root.clone(),
        env: [("TOKEN".to_owned(), "it's".to_owned())].into(),
        lease_id: yard.lease.clone(),
        ..Command::default()
    };
    let log = yard.path("log");
    let pid = host.launch(command.clone(), &log).await.unwrap();
    until("the log", || std::fs::read_to_string(&log).is_ok_and(|text| text == "up it's\n")).await;
    let sleeps = || std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words.starts_with(b"sleep"));
    until("its second program", sleeps).await;
    assert!(host.is_running(pid, &yard.lease).await);
    assert!(!host.is_running(pid, "lease_other").await);
    host.stop(pid, "lease_other", Duration::ZERO).await.unwrap();
    host.end_strays("lease_other").await.unwrap();
    assert!(host.is_running(pid, &yard.lease).await);
    host.stop(pid, &yard.lease, Duration::from_secs(5)).await.unwrap();
    assert!(!host.is_running(pid, &yard.lease).await);
    host.stop(pid, &yard.lease, Duration::ZERO).await.unwrap();

    let pid = host.launch(command.clone(), &log).await.unwrap();
    host.end_strays(&yard.lease).await.unwrap();
    assert!(!host.is_running(pid, &yard.lease).await);
    let missing = Command { argv: vec!["no-such".to_owned()], cwd: yard.place.root.clone(), ..Command::default() };
    assert_eq!(host.launch(missing, &log).await.unwrap_err().reason, Reason::FileNotFound);
    let nowhere = Command { cwd: yard.path("nowhere"), ..command.clone() };
    assert_eq!(host.launch(nowhere, &log).await.unwrap_err().reason, Reason::FileNotFound);
    // INT and QUIT reach it.
    let waiting = Command { argv: ["sh", "-c", "kill -INT $$; echo survived"].map(str::to_owned).into(), ..command };
    let second = yard.path("second");
    let pid = host.launch(waiting, &second).await.unwrap();
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    while host.is_running(pid, &yard.lease).await {
        tick.tick().await;
    }
    assert_eq!(std::fs::read_to_string(&second).unwrap(), "");
}

async fn strays_are_found_by_their_lease(yard: Yard) {
    yard.host.end_strays(&yard.lease).await.unwrap();
    let stray = |lease: &str, mark: Option<&str>| {
        let mut command = std::process::Command::new("sleep");
        command.arg("1000").env("DRYDOCK_LEASE_ID", lease);
        if let Some(mark) = mark {
            command.env("DRYDOCK_PROCESS_ID", mark);
        }
        command.spawn().unwrap()
    };
    let mut ours = stray(&yard.lease, Some("run_x"));
    let longer = format!("{}0", yard.lease);
    let mut others = [stray(&longer, Some("run_x")), stray(&yard.lease, None)];
    let known = |child: &std::process::Child| {
        std::fs::read_to_string(format!("/proc/{}/environ", child.id())).is_ok_and(|text| text.contains(&yard.lease))
    };
    until("their start", || known(&ours) && others.iter().all(known)).await;
    let start = Instant::now();
    yard.host.end_strays(&yard.lease).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(15));
    let ended = until("its end", || ours.try_wait().unwrap().is_some()).await;
    assert!(ended < Duration::from_secs(15));
    for other in &mut others {
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}

async fn a_blueprints_command_is_run_to_its_end(yard: Yard) {
    yard.host.make_folder(&yard.place.root).await.unwrap();
    let run = |script: &str, timeout: u64| Run {
        command: Command {
            argv: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
            cwd: yard.place.root.clone(),
            lease_id: yard.lease.clone(),
            ..Command::default()
        },
        input: b"in".to_vec(),
        timeout: Duration::from_millis(timeout),
    };
    let ran = yard.host.run(run("cat; echo err >&2; exit 3", 20_000)).await.unwrap();
    assert_eq!(
        (ran.exit, ran.stdout.as_slice(), ran.stderr_tail.as_str()),
        (Some(Exit::Code(3)), b"in".as_slice(), "err\n")
    );
    let ran = yard.host.run(run("yes | head -c 3000000; sleep 1000 &", 20_000)).await.unwrap();
    assert_eq!((ran.exit, ran.stdout.len()), (Some(Exit::Code(0)), 1024 * 1024));
    let ran = yard.host.run(run("sleep 1000 & echo $! > left; wait", 500)).await.unwrap();
    assert_eq!(ran.exit, None);
    assert!(!lives(pid_in(&yard.path("left")).await));
}

async fn an_end_is_known_although_nobody_reads(yard: Yard) {
    let command = |script: &str| Command {
        argv: ["sh", "-c", script].map(str::to_owned).into(),
        cwd: "/".into(),
        lease_id: yard.lease.clone(),
        ..Command::default()
    };
    let process = yard.host.spawn(command("echo x; echo y >&2; exit 6")).await.unwrap();
    assert_eq!(soon("the end", process.control.wait()).await.unwrap(), Exit::Code(6));
    // Again, and twice.
    assert_eq!(soon("the end", process.control.wait()).await.unwrap(), Exit::Code(6));
    let process = yard.host.spawn(command("yes")).await.unwrap();
    let killed = soon("the kill", async {
        process.control.end(Duration::ZERO).await;
        process.control.wait().await
    });
    assert!(!matches!(killed.await, Ok(Exit::Code(0))));
}
