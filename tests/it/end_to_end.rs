//! The real daemon and the real command line: acquire, exec, release, exit codes, what is left.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Nothing in here takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// `drydock up` in a folder of its own; ended with it.
pub(crate) struct Up {
    pub(crate) folder: TempDir,
    child: Child,
}

impl Up {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_by(&[], args)
    }

    /// With words before the program, which run it.
    pub(crate) fn start_by(before: &[&str], args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut words = before.iter().copied().chain([env!("CARGO_BIN_EXE_drydock"), "up"]).chain(args.iter().copied());
        let mut child = as_user(Command::new(words.next().unwrap()), folder.path())
            .args(words)
            .env("DRYDOCK_LOG", "warn")
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with(concat!("drydock ", env!("CARGO_PKG_VERSION"), " ready  socket: ")), "{line:?}");
        Self { folder, child }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn drydock(&self, args: &[&str]) -> Output {
        program(self.folder.path()).args(args).stdin(Stdio::null()).output().unwrap()
    }

    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.drydock(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ok(&[args, &["-o", "json"]].concat())).unwrap()
    }

    /// All leases are gone, and so are their folders.
    pub(crate) fn assert_nothing_left(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let live = self.json(&["lease", "list", "--sub-leases"]);
            let folders = ["leases", "resources"].map(|name| entries(&self.data().join(name)));
            let hosts = self.json(&["resource", "list", "--filter", "resource_type = host"]);
            let host_folders: Vec<String> = hosts["resources"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|host| host["id"].as_str().map(str::to_owned))
                .collect();
            let left: Vec<_> = folders
                .concat()
                .into_iter()
                .filter(|name| !host_folders.iter().any(|host| name.contains(host)))
                .collect();
            if live["leases"].as_array().is_none_or(Vec::is_empty) && left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left: {left:?}, {live:#}");
        }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program(folder: &Path) -> Command {
    as_user(Command::new(env!("CARGO_BIN_EXE_drydock")), folder)
}

fn as_user(mut command: Command, folder: &Path) -> Command {
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder)
        .env("DRYDOCK_DATA_DIR", folder.join("data"))
        .current_dir(folder);
    command
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn repository(folder: &Path) -> String {
    let path = folder.join("repository");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("hello.txt"), "hello\n").unwrap();
    for words in [&["init", "-q"][..], &["add", "."], &["commit", "-q", "-m", "The first commit"]] {
        let identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"];
        let done = Command::new("git").arg("-C").arg(&path).args(identity).args(words).status().unwrap();
        assert!(done.success());
    }
    path.display().to_string()
}

#[test]
fn a_command_on_a_working_copy_prints_the_real_log_and_the_cascade() {
    for workers in ["1", "4"] {
        let up = Up::start(&["--workers", workers]);
        let attribute = format!("repository={}", repository(up.folder.path()));
        let output = up.drydock(&["run", "working-copy", "--attr", &attribute, "--trace", "--", "git", "log", "-1"]);
        let trace = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{trace}");
        assert!(text(&output.stdout).contains("The first commit"), "{}", text(&output.stdout));
        assert!(trace.contains("working-copy/host"), "the host is a part of it: {trace}");
        assert!(trace.contains("└─ host"), "the tree comes at the end: {trace}");
        up.assert_nothing_left();
    }
}

#[test]
fn exit_codes_are_exact() {
    let up = Up::start(&[]);
    let lease = up.ok(&["lease", "acquire", "host"]).trim().to_owned();
    for (script, expected) in
        [("exit 0", 0), ("exit 1", 1), ("exit 127", 127), ("exit 254", 254), ("exit 255", 255), ("kill -9 $$", 137)]
    {
        for check in [&[][..], &["--check"]] {
            let args = [&["exec", &lease][..], check, &["--", "sh", "-c", script]].concat();
            assert_eq!(up.drydock(&args).status.code(), Some(expected), "{args:?}");
        }
    }
    assert_eq!(up.drydock(&["exec", &lease, "--", "no-such-program"]).status.code(), Some(127));
    let file = up.folder.path().join("code");
    let path = file.display().to_string();
    let output = up.drydock(&["run", "host", "--exit-code-file", &path, "--", "sh", "-c", "exit 125"]);
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "125\n", "this 125 is the command's own");
    up.ok(&["lease", "release", "--wait", &lease]);
    let output = up.drydock(&["exec", &lease, "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).lines().last().unwrap().starts_with("drydock: error: LEASE_NOT_ACTIVE "));
    up.assert_nothing_left();
}

#[test]
fn words_arrive_as_they_were_given() {
    let up = Up::start(&[]);
    let odd = ["", " ", "a b", "\"", "'", "$HOME", "*", "--", "-x", "é\n\t"];
    let args = [&["run", "host", "--", "printf", "%s\\0"][..], &odd].concat();
    let output = up.drydock(&args);
    let expected = odd.map(|word| word.to_owned() + "\0").concat();
    assert_eq!(text(&output.stdout), expected);
}

#[test]
fn stdin_passes_through_and_back_unchanged() {
    let up = Up::start(&[]);
    let data: Vec<u8> = (0..20_000_000_u32).map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let mut child = program(up.folder.path())
        .args(["run", "host", "-i", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let sent = data.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let mut back = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut back).unwrap();
    writer.join().unwrap();
    assert!(child.wait().unwrap().success());
    assert!(back == data, "{} bytes came back of {}", back.len(), data.len());
}

#[test]
fn a_signal_releases_what_run_holds() {
    let up = Up::start(&[]);
    let mut child = program(up.folder.path())
        .args(["run", "host", "--", "sh", "-c", "echo started; sleep 600"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "started\n");
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    up.assert_nothing_left();
}

#[test]
fn a_signal_gives_up_what_acquire_waits_for() {
    let up = Up::start(&[]);
    std::fs::write(
        up.folder.path().join("one.yaml"),
        "name: one\nkind: storage\nlimits: {max_resources: 1, leases_per_resource: 1}\n",
    )
    .unwrap();
    up.ok(&["blueprint", "apply", "-f", "one.yaml"]);
    let ask = ["lease", "acquire", "storage", "--attr", "quota=1MiB", "--blueprint", "one"];
    let first = up.ok(&ask).trim().to_owned();
    let mut child = program(up.folder.path())
        .args(ask)
        .arg("--trace")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut id = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut id).unwrap();
    let mut trace = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("waits for") {
        line.clear();
        assert!(trace.read_line(&mut line).unwrap() > 0, "the trace tells what it waits for");
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let mut rest = String::new();
    trace.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    up.ok(&["lease", "wait", id.trim(), "--until", "destroyed"]);
    up.ok(&["lease", "release", "--wait", &first]);
    up.assert_nothing_left();
}

#[test]
fn what_is_not_served_in_time_is_75_and_leaves_nothing() {
    let up = Up::start(&[]);
    std::fs::write(
        up.folder.path().join("one.yaml"),
        "name: one\nkind: storage\nlimits: {max_resources: 1, leases_per_resource: 1}\n",
    )
    .unwrap();
    up.ok(&["blueprint", "apply", "-f", "one.yaml"]);
    let ask = ["lease", "acquire", "storage", "--attr", "quota=1MiB", "--blueprint", "one"];
    let first = up.ok(&ask).trim().to_owned();
    let late = up.drydock(&[&ask[..], &["--wait", "1s"]].concat());
    assert_eq!(late.status.code(), Some(75), "{}", text(&late.stderr));
    let id = text(&late.stdout).trim().to_owned();
    assert!(id.starts_with("lease_"), "the id is printed in any case");
    assert_eq!(up.json(&["lease", "get", &id])["stateReason"], "QUEUE_TIMEOUT");

    let kept = up.drydock(&[&ask[..], &["--wait", "1s", "--keep-queued"]].concat());
    assert_eq!(kept.status.code(), Some(75));
    let kept = text(&kept.stdout).trim().to_owned();
    assert_eq!(up.json(&["lease", "get", &kept])["state"], "STATE_PENDING");
    assert!(up.ok(&["lease", "explain", &kept]).contains(&first), "the one that is in the way is named");
    up.ok(&["lease", "release", "--wait", &first]);
    up.ok(&["lease", "wait", &kept]);
    up.ok(&["lease", "release", "--wait", &kept]);
    up.assert_nothing_left();
}

#[test]
fn files_go_there_and_back() {
    let up = Up::start(&[]);
    let lease = up.ok(&["lease", "acquire", "host"]).trim().to_owned();
    let source = up.folder.path().join("source.bin");
    let data: Vec<u8> = (0..300_000_u32).map(|number| number.to_be_bytes()[3]).collect();
    std::fs::write(&source, &data).unwrap();
    let there = format!("{lease}:deep/down/");
    up.ok(&["cp", "-p", "source.bin", &there]);
    up.ok(&["cp", &format!("{lease}:deep/down/source.bin"), "back.bin"]);
    assert_eq!(std::fs::read(up.folder.path().join("back.bin")).unwrap(), data);
    assert!(up.ok(&["fs", "ls", &lease, "deep/down"]).contains("source.bin"));
    up.ok(&["fs", "mv", &lease, "deep/down/source.bin", "moved.bin"]);
    assert_eq!(up.json(&["fs", "stat", &lease, "moved.bin"])["size"], "300000");
    let output = up.drydock(&["fs", "read", &lease, "../../drydock.db"]);
    assert_eq!(output.status.code(), Some(64), "{}", text(&output.stderr));
    up.ok(&["fs", "rm", "-r", &lease, "deep"]);
    assert_eq!(up.drydock(&["fs", "stat", &lease, "deep"]).status.code(), Some(1));
    up.ok(&["lease", "release", "--wait", &lease]);
    up.assert_nothing_left();
}

#[test]
fn the_output_formats_say_the_same() {
    let up = Up::start(&[]);
    let lease = up.ok(&["lease", "acquire", "host", "--label", "job=7", "-o", "name"]).trim().to_owned();
    assert_eq!(up.json(&["lease", "get", &lease])["id"], lease.as_str());
    assert_eq!(up.json(&["lease", "list"])["leases"][0]["id"], lease.as_str());
    let line = up.ok(&["lease", "list", "-o", "jsonl"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap()["labels"]["job"], "7");
    assert_eq!(up.ok(&["lease", "list", "-o", "name"]).trim(), lease);
    assert!(up.ok(&["lease", "list"]).contains(&lease));
    assert!(up.ok(&["event", "list", "--lease", &lease]).contains("lease.activated"));
    assert!(up.ok(&["blueprint", "kinds"]).contains("working-copy"));
    assert_eq!(up.ok(&["health"]), "SERVING\n");
    up.ok(&["lease", "release", "--label", "job=7", "--wait"]);
    up.assert_nothing_left();
}

#[test]
fn blueprints_are_applied_once_and_exported_as_they_were() {
    let up = Up::start(&[]);
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/sandcastle.yaml");
    assert_eq!(up.ok(&["blueprint", "apply", "--dry-run", "-f", example]), "sandcastle created (dry run)\n");
    assert_eq!(up.ok(&["blueprint", "apply", "-f", example]), "sandcastle created\n");
    assert_eq!(up.ok(&["blueprint", "apply", "-f", example]), "sandcastle unchanged\n");
    let exported = up.ok(&["blueprint", "export", "sandcastle"]);
    std::fs::write(up.folder.path().join("exported.yaml"), &exported).unwrap();
    assert_eq!(up.ok(&["blueprint", "apply", "-f", "exported.yaml"]), "sandcastle unchanged\n", "{exported}");
    up.ok(&["blueprint", "disable", "sandcastle"]);
    let refused = up.drydock(&["lease", "acquire", "sandcastle", "--attr", "repository=/x"]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stderr));
    up.ok(&["blueprint", "delete", "sandcastle"]);
}

#[test]
fn a_second_daemon_on_the_same_data_is_refused_with_78() {
    let up = Up::start(&[]);
    let output = program(up.folder.path()).args(["up", "--socket", "other.sock"]).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{}", text(&output.stderr));
}

#[test]
fn the_first_signal_drains_and_the_daemon_ends_with_0() {
    let mut up = Up::start(&[]);
    let pid = up.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(up.child.wait().unwrap().code(), Some(0));
    assert_eq!(up.drydock(&["health"]).status.code(), Some(69));
}

#[test]
fn the_quickstart_shows_the_page_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = program(folder.path()).arg("quickstart").env("TMPDIR", folder.path()).output().unwrap();
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{shown}{}", text(&output.stderr));
    assert!(shown.contains("<h1>Hello from a leased web server</h1>"), "{shown}");
    assert!(shown.contains("written over gRPC"), "{shown}");
    assert!(shown.trim_end().ends_with("nothing left"), "{shown}");
    assert!(entries(folder.path()).is_empty(), "{:?}", entries(folder.path()));
}

#[test]
fn the_quickstart_serves_on_until_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = program(folder.path())
        .args(["quickstart", "--keep"])
        .env("TMPDIR", folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut shown = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("export DRYDOCK_ADDR=") {
        line.clear();
        assert!(shown.read_line(&mut line).unwrap() > 0, "it says how to reach it");
    }
    let value = |name: &str| {
        let rest = line.split(&format!("{name}=")).nth(1).unwrap();
        rest.split_whitespace().next().unwrap().to_owned()
    };
    let output = program(folder.path())
        .args(["exec", "@", "--", "cat", "public/note.txt"])
        .env("DRYDOCK_ADDR", value("DRYDOCK_ADDR"))
        .env("DRYDOCK_LEASE_ID", value("DRYDOCK_LEASE_ID"))
        .output()
        .unwrap();
    assert!(text(&output.stdout).contains("written over gRPC"), "{}", text(&output.stderr));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let mut rest = String::new();
    shown.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest}");
    assert!(rest.trim_end().ends_with("nothing left"), "{rest}");
}
