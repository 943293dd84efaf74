//! What a command is given, and what comes back.

use std::time::Duration;

use bytes::Bytes;
use drydock::error::Reason;
use drydock::host::Exit;
use drydock::interface::command::{EndReason, ExecSpec, Frame, Input, Payload};
use futures::StreamExt as _;

use crate::place::{Ground, argv, listen, shell, soon};

#[tokio::test]
async fn exit_codes_are_exact() {
    let ground = Ground::new();
    for code in [0, 1, 2, 126, 127, 128, 137, 254, 255] {
        let said = ground.run(shell(&format!("exit {code}"))).await;
        assert_eq!(said.outcome(), (Exit::Code(code), EndReason::Exited));
    }
    let said = ground.run(shell("kill -9 $$")).await;
    assert_eq!(said.outcome(), (Exit::Signal(9), EndReason::Signaled));
    let said = ground.run(argv(&["true"])).await;
    assert_eq!(said.outcome(), (Exit::Code(0), EndReason::Exited));
    assert!(said.started.pid > 1 && said.started.process_id.as_str().starts_with("proc_"));
}

#[tokio::test]
async fn a_program_that_cannot_run_ends_as_in_a_shell() {
    let ground = Ground::new();
    let said = ground.run(argv(&["no-such-program", "x"])).await;
    assert_eq!(said.outcome(), (Exit::Code(127), EndReason::Exited));
    assert_eq!(String::from_utf8(said.stderr).unwrap(), "drydock: no-such-program: not found\n");
    std::fs::write(ground.path("data"), "x").unwrap();
    assert_eq!(ground.run(argv(&["./data"])).await.outcome().0, Exit::Code(126));
    assert_eq!(ground.run(argv(&["./missing"])).await.outcome().0, Exit::Code(127));
    assert_eq!(ground.run(argv(&["/"])).await.outcome().0, Exit::Code(126));
    let script = ground.path("script");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(ground.run(argv(&["./script"])).await.outcome().0, Exit::Code(127));
    std::fs::write(&script, "no program at all").unwrap();
    assert_eq!(ground.run(argv(&["./script"])).await.outcome().0, Exit::Code(126));
    let merged = ExecSpec { merge_stderr: true, ..argv(&["no-such-program"]) };
    assert_eq!(ground.run(merged).await.text(), "drydock: no-such-program: not found\n");
}

#[tokio::test]
async fn words_arrive_byte_for_byte() {
    let ground = Ground::new();
    let odd = ["a b", "it's", "\"q\"", "$(id)", "`id`", "*", "a\nb", "", "-n", "--", "!x", "\\", "ä€😀", "\t;|&<>"];
    let mut words = vec!["sh", "-c", r#"for w in "$@"; do printf '%s\0' "$w"; done"#, "name"];
    words.extend(odd);
    let said = ground.run(argv(&words)).await;
    let got: Vec<_> = said.text().split_terminator('\0').collect();
    assert_eq!(got, odd);
}

#[tokio::test]
async fn the_environment_is_scrubbed() {
    let ground = Ground::new();
    let spec = ExecSpec {
        env: [("GIVEN".to_owned(), "a b\n$x".to_owned())].into(),
        secret_env: [("TOKEN".to_owned(), "hunter2".to_owned())].into(),
        ..argv(&["env", "-0"])
    };
    let said = ground.run(spec).await;
    let names: Vec<_> = said.text().split_terminator('\0').map(|line| line.split('=').next().unwrap()).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    let expected =
        ["DRYDOCK_LEASE_ID", "DRYDOCK_PROCESS_ID", "GIVEN", "HOME", "LANG", "PATH", "TMPDIR", "TOKEN", "USER"];
    assert_eq!(sorted, expected);
    assert!(said.text().contains("GIVEN=a b\n$x\0") && said.text().contains("TOKEN=hunter2\0"));
    assert!(said.text().contains(&format!("DRYDOCK_LEASE_ID={}\0", ground.lease)));
    assert!(said.text().contains(&format!("DRYDOCK_PROCESS_ID={}\0", said.started.process_id)));
}

#[tokio::test]
async fn the_working_directory_stays_under_the_root() {
    let ground = Ground::new();
    let root = ground.run(argv(&["pwd", "-P"])).await;
    assert_eq!(root.text().trim_end(), ground.place.root.canonicalize().unwrap().to_str().unwrap());
    std::fs::create_dir_all(ground.path("a/b")).unwrap();
    std::os::unix::fs::symlink("/", ground.path("out")).unwrap();
    std::os::unix::fs::symlink("a", ground.path("in")).unwrap();
    std::fs::write(ground.path("file"), "").unwrap();
    let at = |cwd: &str| ExecSpec { cwd: cwd.to_owned(), ..argv(&["pwd", "-P"]) };
    for cwd in ["a/b", "in/b", "a/../a/b"] {
        assert!(ground.run(at(cwd)).await.text().trim_end().ends_with("/a/b"), "{cwd}");
    }
    for (cwd, reason) in [
        ("..", Reason::PathOutsideRoot),
        ("a/../..", Reason::PathOutsideRoot),
        ("/", Reason::PathOutsideRoot),
        ("out", Reason::PathOutsideRoot),
        ("out/tmp", Reason::PathOutsideRoot),
        ("missing", Reason::FileNotFound),
        ("file", Reason::NotADirectory),
        ("a\0b", Reason::InvalidArgument),
    ] {
        assert_eq!(ground.exec(at(cwd), None).await.err().map(|error| error.reason), Some(reason), "{cwd}");
    }
}

#[tokio::test]
async fn what_the_kernel_finds_too_long_is_the_callers_mistake() {
    let ground = Ground::new();
    let error = ground.exec(argv(&["true", &"x".repeat(200_000)]), None).await.err().unwrap();
    assert_eq!(error.reason, Reason::InvalidArgument);
}

#[tokio::test]
async fn inline_stdin_arrives_and_ends() {
    let ground = Ground::new();
    let data: Vec<u8> = (0..1024 * 1024_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let said = ground.run(ExecSpec { stdin: Bytes::from(data.clone()), ..argv(&["cat"]) }).await;
    assert!(said.stdout == data);
    assert_eq!(ground.run(argv(&["cat"])).await.stdout, b"");
    // A program need not read what it is given.
    let said = ground.run(ExecSpec { stdin: Bytes::from(data), ..argv(&["true"]) }).await;
    assert_eq!(said.outcome(), (Exit::Code(0), EndReason::Exited));
}

#[tokio::test]
async fn ten_megabytes_go_through_stdin_and_back() {
    let ground = Ground::new();
    let chunk = |number: u32| Bytes::from(number.to_le_bytes().repeat(4096));
    let inputs = futures::stream::iter((0..640).map(move |number| Ok(Input::Data(chunk(number)))));
    let execution = ground.exec(argv(&["cat"]), Some(inputs.boxed())).await.unwrap();
    let said = soon("the end of cat", listen(execution)).await;
    assert_eq!(said.outcome(), (Exit::Code(0), EndReason::Exited));
    assert_eq!(said.stdout.len(), 640 * 16 * 1024);
    assert!(said.stdout.chunks(16 * 1024).zip(0..).all(|(got, number)| got == chunk(number)));
}

#[tokio::test]
async fn streams_are_told_apart_or_merged() {
    let ground = Ground::new();
    let script = "echo one; echo two >&2; echo three";
    let said = ground.run(shell(script)).await;
    assert_eq!((said.text(), said.stderr.as_slice()), ("one\nthree\n", b"two\n".as_slice()));
    let said = ground.run(ExecSpec { merge_stderr: true, ..shell(script) }).await;
    assert_eq!((said.text(), said.stderr.len()), ("one\ntwo\nthree\n", 0));
}

#[tokio::test]
async fn text_is_repaired_across_chunks() {
    let ground = Ground::new();
    let script = r"printf 'a\342'; read x; printf '\202\254b\377c\303'";
    let (say, hear) = futures::channel::mpsc::unbounded();
    let spec = ExecSpec { text: true, ..shell(script) };
    let mut execution = ground.exec(spec, Some(hear.boxed())).await.unwrap();
    let mut text = String::new();
    let mut offsets = Vec::new();
    while let Some(frame) = soon("a frame", execution.next()).await {
        if let Frame::Output(output) = frame.unwrap() {
            let Payload::Text(part) = output.payload else { panic!("text was asked for") };
            offsets.push(output.offset);
            text.push_str(&part);
            if text == "a" {
                say.unbounded_send(Ok(Input::Data(Bytes::from("\n")))).unwrap();
            }
        }
    }
    assert_eq!(text, "a€b\u{FFFD}c\u{FFFD}");
    assert_eq!((offsets.first(), offsets.last()), (Some(&0), Some(&7)));
}

#[tokio::test]
async fn check_tells_how_it_failed() {
    let ground = Ground::new();
    let checked = |script: &str| ExecSpec { check: true, ..shell(script) };
    assert!(ground.run(checked("exit 0")).await.error.is_none());
    let said = ground.run(checked("seq 1 10000 >&2; echo gone >&2; exit 3")).await;
    assert_eq!(said.outcome().0, Exit::Code(3));
    let error = said.error.unwrap();
    assert_eq!((error.reason, error.metadata["exit_code"].as_str()), (Reason::CommandFailed, "3"));
    let tail = &error.metadata["stderr_tail"];
    assert!(tail.ends_with("10000\ngone\n") && tail.len() <= 2048 && tail.len() > 2000);
    let error = ground.run(checked("kill -TERM $$")).await.error.unwrap();
    assert_eq!(error.metadata["exit_code"], "143");
}

#[tokio::test]
async fn a_reader_who_stalls_holds_up_the_command_and_nobody_else() {
    let ground = Ground::new();
    let mut stalled = ground.exec(argv(&["yes"]), None).await.unwrap();
    stalled.next().await.unwrap().unwrap();
    let start = std::time::Instant::now();
    for _ in 0..20 {
        assert_eq!(ground.run(argv(&["true"])).await.outcome().0, Exit::Code(0));
    }
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(matches!(stalled.next().await, Some(Ok(Frame::Output(_)))));
}
