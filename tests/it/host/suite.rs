//! The conformance suite: the same for every machine.

use std::time::Duration;

use bytes::Bytes;
use drydock::error::Reason;
use drydock::host::{Command, Exit, Run};
use drydock::interface::command::{EndReason, ExecSpec, Frame, Input};
use futures::StreamExt as _;

use super::{Machine, Shell, Yard, code_or_signal, everywhere, sshd};
use crate::place::{argv, listen, shell, soon};

everywhere!(
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
    a_reader_who_stalls_holds_up_nobody_else,
    secrets_are_in_no_argv,
);

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
