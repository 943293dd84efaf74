//! The conformance suite: the same for every machine.

use std::time::{Duration, Instant};

use bytes::Bytes;
use drydock::error::Reason;
use drydock::host::{Command, Exit, Run};
use drydock::interface::command::{EndReason, ExecSpec, Frame, Input, OutputStream, Payload};
use futures::StreamExt as _;

use super::{Machine, Shell, Yard, sshd};
use crate::place::{argv, listen, lives, pid_in, shell, soon, until};

macro_rules! conformance {
    ($($test:ident),+ $(,)?) => {
        conformance!(@ local Yard::local() => $($test),+);
        conformance!(@ dash Yard::sham(Shell::Dash) => $($test),+);
        conformance!(@ bash Yard::sham(Shell::Bash) => $($test),+);
        conformance!(@ busybox Yard::sham(Shell::Busybox) => $($test),+);

        /// The same over real ssh, one after the other.
        async fn over_ssh(shell: sshd::Shell) {
            let machine = Machine::shell(shell).await;
            $(
                println!("{}", stringify!($test));
                $test(machine.yard()).await;
            )+
        }
    };
    (@ $machine:ident $yard:expr => $($test:ident),+) => {
        mod $machine {
            use super::*;
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test($yard).await;
                }
            )+
        }
    };
}

conformance!(
    exit_codes_are_exact,
    a_program_that_cannot_run_ends_as_in_a_shell,
    words_arrive_byte_for_byte,
    long_words_arrive_too,
    the_environment_is_scrubbed,
    names_that_shells_keep_for_themselves_arrive,
    a_working_directory_must_be_one,
    what_no_program_can_get_is_refused,
    stdin_arrives_and_ends,
    ten_megabytes_go_through_stdin_and_back,
    streams_are_told_apart_or_merged,
    much_output_on_both_streams_is_whole,
    what_looks_like_a_mark_is_output,
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
    a_reader_who_stalls_holds_up_nobody_else,
    secrets_are_in_no_argv,
);

#[tokio::test]
async fn over_ssh_to_dash() {
    over_ssh(sshd::Shell::Dash).await;
}

#[tokio::test]
async fn over_ssh_to_bash() {
    over_ssh(sshd::Shell::Bash).await;
}

#[tokio::test]
async fn over_ssh_to_busybox() {
    over_ssh(sshd::Shell::Busybox).await;
}

#[tokio::test]
async fn a_leases_own_folders_are_looked_up_over_ssh() {
    let machine = Machine::shell(sshd::Shell::Dash).await;
    let yard = machine.yard();
    std::fs::create_dir_all(yard.path("a/b")).unwrap();
    std::os::unix::fs::symlink("/", yard.path("out")).unwrap();
    let at = |cwd: &str| ExecSpec { cwd: cwd.to_owned(), ..argv(&["pwd", "-P"]) };
    assert!(yard.run(at("a/b")).await.text().ends_with("/a/b\n"));
    for (cwd, reason) in
        [("..", Reason::PathOutsideRoot), ("out", Reason::PathOutsideRoot), ("missing", Reason::FileNotFound)]
    {
        assert_eq!(yard.exec(at(cwd), None).await.err().map(|error| error.reason), Some(reason), "{cwd}");
    }
}

fn code_or_signal(yard: &Yard, number: i32) -> Exit {
    if yard.remote { Exit::Code(128 + number) } else { Exit::Signal(number) }
}

async fn exit_codes_are_exact(yard: Yard) {
    for code in [0, 1, 2, 126, 127, 128, 137, 254, 255] {
        let said = yard.run(shell(&format!("exit {code}"))).await;
        assert_eq!(said.outcome(), (Exit::Code(code), EndReason::Exited));
        assert_eq!((said.text(), said.stderr.as_slice()), ("", b"".as_slice()));
    }
    for number in [9, 15, 11] {
        let said = yard.run(shell(&format!("kill -{number} $$"))).await;
        assert_eq!(said.outcome().0, code_or_signal(&yard, number));
        // No shell tells of it.
        assert_eq!(said.stderr, b"");
    }
    let said = yard.run(argv(&["true"])).await;
    assert_eq!(said.outcome(), (Exit::Code(0), EndReason::Exited));
    assert!(said.started.pid > 1);
}

async fn a_program_that_cannot_run_ends_as_in_a_shell(yard: Yard) {
    let said = yard.run(argv(&["no-such-program", "x"])).await;
    assert_eq!(said.outcome(), (Exit::Code(127), EndReason::Exited));
    assert_eq!(String::from_utf8(said.stderr).unwrap(), "drydock: no-such-program: not found\n");
    std::fs::write(yard.path("data"), "x").unwrap();
    assert_eq!(yard.run(argv(&["./data"])).await.outcome().0, Exit::Code(126));
    assert_eq!(yard.run(argv(&["./missing"])).await.outcome().0, Exit::Code(127));
    assert_eq!(yard.run(argv(&["/"])).await.outcome().0, Exit::Code(126));
    assert_eq!(yard.run(argv(&[""])).await.outcome().0, Exit::Code(127));
    let script = yard.path("script");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(yard.run(argv(&["./script"])).await.outcome().0, Exit::Code(127));
    std::fs::write(&script, "no program at all").unwrap();
    assert_eq!(yard.run(argv(&["./script"])).await.outcome().0, Exit::Code(126));
    let merged = ExecSpec { merge_stderr: true, ..argv(&["no-such-program"]) };
    assert_eq!(yard.run(merged).await.text(), "drydock: no-such-program: not found\n");
    // A name like an option is a name.
    std::fs::write(yard.path("-odd"), "#!/bin/sh\necho odd \"$@\"\n").unwrap();
    std::fs::set_permissions(yard.path("-odd"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let env = [("PATH".to_owned(), format!("{}:/usr/bin:/bin", yard.place.root.display()))].into();
    assert_eq!(yard.run(ExecSpec { env, ..argv(&["-odd", "-x"]) }).await.text(), "odd -x\n");
}

async fn words_arrive_byte_for_byte(yard: Yard) {
    let odd = [
        "a b",
        "it's",
        "''",
        "\"q\"",
        "$(id)",
        "$HOME",
        "`id`",
        "*",
        "a\nb",
        "\n",
        "",
        "-n",
        "--",
        "!x",
        "\\",
        "\\n",
        "ä€😀Á…",
        "\t;|&<>",
        "\u{1}\u{7f}",
        "%s%d",
        "~",
        "#x",
        "{a,b}",
        "a=b",
    ];
    let mut words = vec!["sh", "-c", r#"for w in "$@"; do printf '%s\0' "$w"; done"#, "name"];
    words.extend(odd);
    let said = yard.run(argv(&words)).await;
    let got: Vec<_> = said.text().split_terminator('\0').collect();
    assert_eq!(got, odd);
}

async fn long_words_arrive_too(yard: Yard) {
    let many: Vec<_> = (0..20_000).map(|number| format!("'{number}\n")).collect();
    let long = "y".repeat(128 * 1024 - 1);
    let mut words = vec!["sh", "-c", r#"printf '%s' "$@""#, "name", &long];
    words.extend(many.iter().map(String::as_str));
    assert_eq!(yard.run(argv(&words)).await.text(), long.clone() + &many.concat());
    let error = yard.exec(argv(&["true", &"x".repeat(200_000)]), None).await.err().unwrap();
    assert_eq!(error.reason, Reason::InvalidArgument);
}

async fn the_environment_is_scrubbed(yard: Yard) {
    let spec = || ExecSpec {
        env: [("GIVEN".to_owned(), "a b\n$x'é".to_owned())].into(),
        secret_env: [("TOKEN".to_owned(), "hunter2".to_owned())].into(),
        ..argv(&["env", "-0"])
    };
    for _ in 0..2 {
        let said = yard.run(spec()).await;
        let mut names: Vec<_> =
            said.text().split_terminator('\0').map(|line| line.split('=').next().unwrap()).collect();
        names.sort_unstable();
        let expected =
            ["DRYDOCK_LEASE_ID", "DRYDOCK_PROCESS_ID", "GIVEN", "HOME", "LANG", "PATH", "TMPDIR", "TOKEN", "USER"];
        assert_eq!(names, expected);
        assert!(said.text().contains("GIVEN=a b\n$x'é\0") && said.text().contains("TOKEN=hunter2\0"));
        assert!(said.text().contains(&format!("DRYDOCK_LEASE_ID={}\0", yard.lease)));
        assert!(said.text().contains(&format!("DRYDOCK_PROCESS_ID={}\0", said.started.process_id)));
    }
    // What one command is given, the next is not.
    let said = yard.run(argv(&["env"])).await;
    assert!(!said.text().contains("GIVEN") && !said.text().contains("TOKEN"));
}

async fn names_that_shells_keep_for_themselves_arrive(yard: Yard) {
    let env = [
        ("UID", "77"),
        ("PPID", "5"),
        ("RANDOM", "x"),
        ("IFS", "/"),
        ("PWD", "/else"),
        ("OPTIND", "no"),
        ("SHLVL", "9"),
        ("dd_mark", "x"),
        ("LC_ALL", "xx_XX"),
        ("PS4", "p"),
        ("HOME", "/root/x"),
    ];
    let env: std::collections::BTreeMap<_, _> = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let said = yard.run(ExecSpec { env: env.clone(), ..argv(&["env", "-0"]) }).await;
    for (name, value) in env {
        assert!(said.text().split('\0').any(|line| line == format!("{name}={value}")), "{name} in {}", said.text());
    }
    assert_eq!(said.stderr, b"");
}

async fn a_working_directory_must_be_one(yard: Yard) {
    let root = yard.run(argv(&["pwd", "-P"])).await;
    assert_eq!(root.text().trim_end(), yard.place.root.canonicalize().unwrap().to_str().unwrap());
    let odd = yard.path("o'dd $x\n-é");
    std::fs::create_dir(&odd).unwrap();
    std::fs::write(yard.path("file"), "").unwrap();
    let at = |cwd: std::path::PathBuf| Command { argv: vec!["pwd".to_owned()], cwd, ..Command::default() };
    let run = |command| yard.host.run(Run { command, input: Vec::new(), timeout: Duration::from_secs(20) });
    let ran = run(at(odd.clone())).await.unwrap();
    assert_eq!(ran.stdout, format!("{}\n", odd.canonicalize().unwrap().display()).into_bytes());
    for (name, reason) in [("missing", Reason::FileNotFound), ("file", Reason::NotADirectory)] {
        assert_eq!(run(at(yard.path(name))).await.unwrap_err().reason, reason);
        // And the runner goes on.
        assert!(run(at(odd.clone())).await.unwrap().succeeded());
    }
}

async fn what_no_program_can_get_is_refused(yard: Yard) {
    for command in [
        Command { argv: vec!["a\0b".to_owned()], ..Command::default() },
        Command { argv: Vec::new(), ..Command::default() },
        Command {
            argv: vec!["true".to_owned()],
            env: [("A".to_owned(), "\0".to_owned())].into(),
            ..Command::default()
        },
    ] {
        let command = Command { cwd: "/".into(), ..command };
        assert_eq!(yard.host.spawn(command).await.err().unwrap().reason, Reason::InvalidArgument);
    }
}

async fn stdin_arrives_and_ends(yard: Yard) {
    let data: Vec<u8> = (0..1024 * 1024_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let said = yard.run(ExecSpec { stdin: Bytes::from(data.clone()), ..argv(&["cat"]) }).await;
    assert!(said.stdout == data);
    assert_eq!(yard.run(argv(&["cat"])).await.stdout, b"");
    // A program need not read what it is given.
    let said = yard.run(ExecSpec { stdin: Bytes::from(data), ..argv(&["true"]) }).await;
    assert_eq!(said.outcome(), (Exit::Code(0), EndReason::Exited));
    // The end of stdin is not the end of the command.
    let late = "cat; test -e no-such || echo after; exit 4";
    let said = yard.run(ExecSpec { stdin: Bytes::from("in\n"), ..shell(late) }).await;
    assert_eq!((said.text(), said.outcome().0), ("in\nafter\n", Exit::Code(4)));
}

async fn ten_megabytes_go_through_stdin_and_back(yard: Yard) {
    let chunk = |number: u32| Bytes::from(number.to_le_bytes().repeat(4096));
    let inputs = futures::stream::iter((0..640).map(move |number| Ok(Input::Data(chunk(number)))));
    let execution = yard.exec(argv(&["cat"]), Some(inputs.boxed())).await.unwrap();
    let said = soon("the end of cat", listen(execution)).await;
    assert_eq!(said.outcome(), (Exit::Code(0), EndReason::Exited));
    assert_eq!(said.stdout.len(), 640 * 16 * 1024);
    assert!(said.stdout.chunks(16 * 1024).zip(0..).all(|(got, number)| got == chunk(number)));
}

async fn streams_are_told_apart_or_merged(yard: Yard) {
    let script = "echo one; echo two >&2; echo three";
    let said = yard.run(shell(script)).await;
    assert_eq!((said.text(), said.stderr.as_slice()), ("one\nthree\n", b"two\n".as_slice()));
    let said = yard.run(ExecSpec { merge_stderr: true, ..shell(script) }).await;
    assert_eq!((said.text(), said.stderr.len()), ("one\ntwo\nthree\n", 0));
    let said = yard.run(ExecSpec { merge_stderr: true, stdin: Bytes::from("x"), ..shell("cat; echo y >&2") }).await;
    assert_eq!(said.text(), "xy\n");
}

async fn much_output_on_both_streams_is_whole(yard: Yard) {
    let script = "i=0; while [ $i -lt 40 ]; do head -c 100003 /dev/zero | tr '\\0' a; \
                  head -c 70001 /dev/zero | tr '\\0' b >&2; i=$((i+1)); done; printf end";
    let said = yard.run(shell(script)).await;
    assert_eq!((said.stdout.len(), said.stderr.len()), (40 * 100_003 + 3, 40 * 70_001));
    assert!(said.stdout.ends_with(b"aend") && said.stderr.iter().all(|byte| *byte == b'b'));
}

async fn what_looks_like_a_mark_is_output(yard: Yard) {
    let script = "i=0; while [ $i -lt 500 ]; do printf 'E%032x 0 0\\nS%032x 1 1\\n' $i $i; i=$((i+1)); done";
    let said = yard.run(shell(script)).await;
    assert_eq!(said.text().lines().count(), 1000);
    assert!(said.text().starts_with("E00000000000000000000000000000000 0 0\nS"));
}

/// A tree of three: the leader, a child in its group that ignores TERM, and one that left the group.
const TREE: &str = r#"
setsid sh -c 'echo $$ > away; exec sleep 1000' >/dev/null 2>&1 &
sh -c 'trap "" TERM; echo $$ > deaf; while :; do sleep 1000; done' &
echo $$ > leader
wait
wait
"#;

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
        assert!(took < Duration::from_secs(5), "{took:?}");
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
    assert!(start.elapsed() < Duration::from_secs(3));
    let ended = until("its end", || ours.try_wait().unwrap().is_some()).await;
    assert!(ended < Duration::from_secs(1));
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

async fn a_reader_who_stalls_holds_up_nobody_else(yard: Yard) {
    let mut stalled = yard.exec(argv(&["yes"]), None).await.unwrap();
    stalled.next().await.unwrap().unwrap();
    for _ in 0..10 {
        assert_eq!(yard.run(argv(&["true"])).await.outcome().0, Exit::Code(0));
    }
    assert!(matches!(stalled.next().await, Some(Ok(Frame::Output(_)))));
}

async fn secrets_are_in_no_argv(yard: Yard) {
    let secret = format!("hunter-{:016x}", fastrand::u64(..));
    let spec = ExecSpec {
        secret_env: [("TOKEN".to_owned(), secret.clone())].into(),
        // All command lines of all processes, while it runs; nobody who looks may have it among its own words.
        ..shell(
            "printf '%s\\n' \"$TOKEN\" >pattern; cat /proc/[0-9]*/cmdline >all 2>/dev/null; \
             grep -c -a -f pattern all; test -n \"$TOKEN\" && echo set",
        )
    };
    assert_eq!(yard.run(spec).await.text(), "0\nset\n");
}
