//! `examples/three-daemons.sh`, as docs/operations.md tells people to run it.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use super::{database, is_installed};
use crate::queue::kit::PATIENCE;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_daemons_start_one_is_killed_and_the_others_go_on() {
    if !is_installed() {
        return;
    }
    let (home, database) = (tempfile::tempdir().unwrap(), database().await);
    let mut script = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/three-daemons.sh"));
    script.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", home.path());
    script.env("TMPDIR", home.path()).env("DRYDOCK", env!("CARGO_BIN_EXE_drydock")).env("DRYDOCK_LOG", "error");
    script.env("DRYDOCK_DATABASE_URL", &database.url).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut script = script.spawn().unwrap();
    let mut lines = BufReader::new(script.stdout.take().unwrap()).lines();
    let (mut first, mut addresses) = (None, None);
    while addresses.is_none() {
        let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().expect("it says where they are");
        let pid = line.strip_prefix("daemon one: pid ").and_then(|rest| rest.split(',').next());
        first = first.or(pid.map(|pid| pid.parse::<i32>().unwrap()));
        addresses = line.strip_prefix("export DRYDOCK_ADDR=").map(str::to_owned);
    }
    let drydock = async |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drydock"));
        command.env_clear().env("HOME", home.path()).env("DRYDOCK_ADDR", addresses.as_ref().unwrap()).args(words);
        let output = timeout(PATIENCE, command.stdin(Stdio::null()).output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let lease = drydock(&["lease", "acquire", "host"]).await.trim().to_owned();
    let pid = |number| rustix::process::Pid::from_raw(number).unwrap();
    rustix::process::kill_process(pid(first.unwrap()), rustix::process::Signal::KILL).unwrap();
    assert!(drydock(&["lease", "get", &lease, "-o", "json"]).await.contains("STATE_ACTIVE"));
    drydock(&["lease", "acquire", "port", "--no-wait"]).await;

    rustix::process::kill_process(pid(script.id().unwrap().cast_signed()), rustix::process::Signal::TERM).unwrap();
    timeout(PATIENCE, script.wait()).await.expect("it takes everything away").unwrap();
    assert_eq!(
        std::fs::read_dir(home.path())
            .unwrap()
            .filter(|entry| { entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("tmp.") })
            .count(),
        0
    );
}
