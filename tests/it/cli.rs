//! The command line without a daemon: words, exit codes, settings, help.

use std::path::Path;
use std::process::{Command, Output};

/// The program with an environment of its own, so that no daemon of the user is met.
fn drydock(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drydock"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", home).current_dir(home);
    command
}

fn run(args: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    drydock(home.path()).args(args).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn last_line(output: &Output) -> String {
    stderr(output).lines().last().unwrap_or_default().to_owned()
}

#[test]
fn wrong_words_exit_with_64() {
    for args in [
        &["frobnicate"][..],
        &["lease", "acquire"],
        &["lease", "acquire", "host", "--attr", "novalue"],
        &["lease", "acquire", "host", "--ttl", "soon"],
        &["lease", "acquire", "host", "--priority", "1000"],
        &["lease", "acquire", "host", "--wait", "1m", "--no-wait"],
        &["lease", "release"],
        &["run", "host"],
        &["exec", "lease_x", "true"],
        &["fs", "mkdir", "lease_x", "d", "--mode", "999"],
        &["blueprint", "apply"],
        &["-o", "yaml", "version"],
    ] {
        let output = run(args);
        assert_eq!(code(&output), 64, "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{args:?}: usage errors are talk");
    }
}

#[test]
fn wrong_input_exits_with_64_before_a_daemon_is_asked_for() {
    for args in [
        &["lease", "get", "@"][..],
        &["lease", "acquire", "host", "--attr", "a=1", "--attr", "a=2"],
        &["cp", "a", "b"],
        &["cp", "lease_a:x", "lease_b:y"],
        &["--addr", "nonsense", "health"],
    ] {
        let output = run(args);
        assert_eq!(code(&output), 64, "{args:?}: {}", stderr(&output));
        assert!(last_line(&output).starts_with("drydock: error: "), "{args:?}");
    }
}

#[test]
fn what_is_not_built_yet_is_not_offered() {
    for args in [
        &["exec", "lease_x", "-t", "--", "true"][..],
        &["exec", "lease_x", "--detach", "--", "true"],
        &["cp", "-r", "a", "lease_x:b"],
        &["httpd", "log", "lease_x"],
        &["forward", "lease_x", "1:2"],
        &["with-lease", "host", "--", "true"],
        &["process", "list"],
    ] {
        assert_eq!(code(&run(args)), 64, "{args:?}");
    }
}

#[test]
fn no_daemon_is_69_and_says_what_to_do() {
    let output = run(&["lease", "list"]);
    assert_eq!(code(&output), 69);
    let line = last_line(&output);
    assert!(line.starts_with("drydock: error: NO_DAEMON no daemon answers at unix:/"), "{line}");
    assert!(line.ends_with("start one with `drydock up`"), "{line}");

    let output = run(&["--addr", "unix:/nowhere/a.sock,http://127.0.0.1:1", "lease", "list"]);
    assert_eq!(code(&output), 69);
    assert!(last_line(&output).contains("unix:/nowhere/a.sock") && last_line(&output).contains("http://127.0.0.1:1"));
}

#[test]
fn where_the_exit_code_is_the_commands_own_failures_are_125() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("code");
    std::fs::write(&file, "0\n").unwrap();
    let output = drydock(home.path()).args(["run", "host", "--exit-code-file", "code", "--", "true"]).output().unwrap();
    assert_eq!(code(&output), 125);
    assert!(last_line(&output).starts_with("drydock: error: NO_DAEMON "), "{}", stderr(&output));
    assert!(!file.exists(), "an old exit code is not left to be mistaken for this one's");
    assert_eq!(code(&run(&["exec", "@", "--", "true"])), 125);
}

#[test]
fn a_bad_token_file_is_77() {
    let home = tempfile::tempdir().unwrap();
    let output = drydock(home.path()).args(["lease", "list"]).env("DRYDOCK_TOKEN_FILE", "missing").output().unwrap();
    assert_eq!(code(&output), 77, "{}", stderr(&output));
}

#[test]
fn settings_that_cannot_be_are_78_with_file_line_and_suggestion() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("drydock.toml"), "# mine\nworkres = 4\n").unwrap();
    for command in [&["config", "check"][..], &["config", "show"], &["serve"], &["up"]] {
        let output = drydock(home.path()).args(command).args(["--config", "drydock.toml"]).output().unwrap();
        assert_eq!(code(&output), 78, "{command:?}");
        let line = last_line(&output);
        assert!(line.contains("drydock.toml:2: unknown key \"workres\", did you mean \"workers\"?"), "{line}");
    }
    for (args, word) in [
        (["up", "--workers", "0"], "--workers"),
        (["up", "--retention", "often"], "--retention"),
        (["serve", "--config", "missing.toml"], "missing.toml"),
    ] {
        let output = drydock(home.path()).args(args).output().unwrap();
        assert_eq!(code(&output), 78, "{args:?}: {}", stderr(&output));
        assert!(last_line(&output).contains(word), "{args:?}: {}", stderr(&output));
    }
    let nobody = ["serve", "--database", "postgres://u:hunter2@127.0.0.1:1/d"];
    let output = drydock(home.path()).args(nobody).output().unwrap();
    assert_eq!(code(&output), 69, "{}", stderr(&output));
    assert!(last_line(&output).contains("STORE_UNAVAILABLE") && !stderr(&output).contains("hunter2"));
}

#[test]
fn settings_are_shown_with_their_origin() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("drydock.toml"), "retention = \"7d\"\nworkers = 2\n").unwrap();
    let output = drydock(home.path())
        .args(["config", "show", "--workers", "9", "--config", "drydock.toml", "-o", "jsonl"])
        .env("DRYDOCK_DATA_DIR", "state")
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let rows: Vec<serde_json::Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let row = |name: &str| rows.iter().find(|row| row["setting"] == name).unwrap();
    assert_eq!((row("workers")["value"].as_str(), row("workers")["from"].as_str()), (Some("9"), Some("--workers")));
    assert_eq!(row("data_dir")["from"], "DRYDOCK_DATA_DIR");
    assert_eq!(row("data_dir")["value"], home.path().join("state").display().to_string());
    assert_eq!(row("socket")["value"], home.path().join("state/drydock.sock").display().to_string());
    assert!(row("retention")["from"].as_str().unwrap().ends_with("drydock.toml:1"));
    assert_eq!(row("database")["from"], "default");
}

#[test]
fn a_slip_in_a_document_needs_no_daemon() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("b.yaml"), "name: x\nkind: port\nlimts: {}\n").unwrap();
    let output = drydock(home.path()).args(["blueprint", "apply", "-f", "b.yaml"]).output().unwrap();
    assert_eq!(code(&output), 64, "{}", stderr(&output));
    assert!(last_line(&output).contains("b.yaml:3:1:"), "{}", stderr(&output));
}

#[test]
fn completions_and_version_and_help_need_nothing() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        assert_eq!(code(&output), 0);
        assert!(stdout(&output).contains("quickstart"), "{shell}");
    }
    assert_eq!(stdout(&run(&["version"])), format!("drydock {}\n", env!("CARGO_PKG_VERSION")));
    let help = run(&["--help"]);
    assert_eq!(code(&help), 0);
    assert!(stdout(&help).contains("quickstart") && help.stderr.is_empty());
    assert!(!stdout(&help).contains("__"), "roles of the binary are no commands");
}

#[test]
fn the_doctor_looks_at_what_is_there() {
    let home = tempfile::tempdir().unwrap();
    let output = drydock(home.path()).arg("doctor").output().unwrap();
    assert_eq!(code(&output), 0, "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("data folder") && stdout(&output).contains("git version"), "{}", stdout(&output));
    let broken = drydock(home.path()).args(["doctor", "--workers", "none"]).output().unwrap();
    assert_eq!(code(&broken), 1);
}
