//! A lease's place on this machine, without a daemon.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use drydock::error::Error;
use drydock::host::local::LocalHost;
use drydock::host::ssh::sftp::Sftp;
use drydock::host::{Exit, Host, Place};
use drydock::interface::command::{
    EndReason, ExecSpec, Execution, Exited, Frame, Inputs, OutputStream, Payload, Started, exec,
};
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

use crate::sftp::over::{OverSftp, Pipes, server};
use crate::ssh::kit::{Quay, linked};
use crate::ssh::sshd::Sshd;

/// For what must happen soon; generous, since machines are slow at times.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A tree of three: the leader, a child in its group that ignores TERM, and one that left the group.
pub(crate) const TREE: &str = r#"
setsid sh -c 'echo $$ > away; exec sleep 1000' >/dev/null 2>&1 &
sh -c 'trap "" TERM; echo $$ > deaf; while :; do sleep 1000; done' &
echo $$ > leader
wait
wait
"#;

/// A place, and all that must live as long.
pub(crate) struct Ground {
    pub(crate) data: tempfile::TempDir,
    pub(crate) host: Arc<LocalHost>,
    pub(crate) place: Place,
    pub(crate) lease: String,
    pub(crate) ended: CancellationToken,
    /// What the host needs to live.
    kept: Option<(Sshd, Quay)>,
}

/// All that a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) started: Started,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) exited: Option<Exited>,
    pub(crate) error: Option<Error>,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let lease = drydock::model::id::LeaseId::new(1_000_000).to_string();
        let host = local_host(data.path());
        let root = data.path().join("leases").join(&lease);
        let place = Place { host: Arc::clone(&host) as Arc<dyn Host>, root, quota: None };
        Self { data, host, place, lease, ended: CancellationToken::new(), kept: None }
    }

    /// The same, but its files go over sftp.
    pub(crate) fn over_sftp() -> Self {
        let mut ground = Self::new();
        let local = Arc::clone(&ground.host);
        let sftp = Sftp::new(Pipes::new(server()), "box-1");
        ground.place.host = Arc::new(OverSftp { local, sftp });
        ground
    }

    /// The same, over the sftp of a real sshd.
    pub(crate) async fn over_ssh() -> Self {
        let mut ground = Self::new();
        let machine = Sshd::start();
        let (quay, link) = linked(&machine).await;
        let local = Arc::clone(&ground.host);
        ground.place.host = Arc::new(OverSftp { local, sftp: Sftp::new(link, "box-1") });
        ground.kept = Some((machine, quay));
        ground
    }

    pub(crate) async fn exec(&self, spec: ExecSpec, inputs: Option<Inputs>) -> Result<Execution, Error> {
        exec(&self.place, &self.lease, spec, inputs, self.ended.clone(), 1_000_000).await
    }

    pub(crate) async fn run(&self, spec: ExecSpec) -> Said {
        let execution = self.exec(spec, None).await.unwrap();
        soon("the command's end", listen(execution)).await
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.root.join(name)
    }
}

pub(crate) fn local_host(data: &Path) -> Arc<LocalHost> {
    Arc::new(LocalHost::new(data.to_owned(), env!("CARGO_BIN_EXE_drydock").into()))
}

pub(crate) fn argv(words: &[&str]) -> ExecSpec {
    ExecSpec { argv: words.iter().map(|word| (*word).to_owned()).collect(), ..ExecSpec::default() }
}

pub(crate) fn shell(script: &str) -> ExecSpec {
    ExecSpec { shell: script.to_owned(), ..ExecSpec::default() }
}

/// Reads all frames, and checks what holds for every command: the order of frames, and offsets without a gap.
pub(crate) async fn listen(mut execution: Execution) -> Said {
    let Some(Ok(Frame::Started(started))) = execution.next().await else { panic!("started must come first") };
    let mut said = Said { started, stdout: Vec::new(), stderr: Vec::new(), exited: None, error: None };
    while let Some(frame) = execution.next().await {
        assert!(said.error.is_none(), "an error is the last");
        match frame {
            Ok(Frame::Output(output)) => {
                assert!(said.exited.is_none(), "exited comes after all output");
                let (Payload::Data(data), all) = (
                    output.payload,
                    match output.stream {
                        OutputStream::Stdout => &mut said.stdout,
                        OutputStream::Stderr => &mut said.stderr,
                    },
                ) else {
                    panic!("text was not asked for")
                };
                assert_eq!(output.offset, all.len() as u64);
                assert!(data.len() <= 64 * 1024);
                all.extend_from_slice(&data);
            }
            Ok(Frame::Exited(exited)) => assert!(said.exited.replace(exited).is_none()),
            Ok(Frame::Heartbeat) => {}
            Ok(Frame::Started(_)) => panic!("started came twice"),
            Err(error) => said.error = Some(error),
        }
    }
    if let Some(exited) = &said.exited {
        assert_eq!((exited.stdout_bytes, exited.stderr_bytes), (said.stdout.len() as u64, said.stderr.len() as u64));
    }
    said
}

impl Said {
    pub(crate) fn outcome(&self) -> (Exit, EndReason) {
        let exited = self.exited.unwrap_or_else(|| panic!("no exited frame: {:?}", self.error));
        (exited.exit, exited.reason)
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }
}

pub(crate) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, work).await.unwrap_or_else(|_| panic!("{what} does not come"))
}

/// Waits until it holds; answers how long that took.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(2));
    soon(what, async {
        while !holds() {
            tick.tick().await;
        }
    })
    .await;
    start.elapsed()
}

/// Whether a process lives; a zombie does not.
pub(crate) fn lives(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with(['Z', 'X']))
}

/// The number in a file, once a command has written it.
pub(crate) async fn pid_in(file: &Path) -> i32 {
    let mut pid = None;
    until("a pid file", || {
        pid = std::fs::read_to_string(file)
            .ok()
            .filter(|text| text.ends_with('\n'))
            .and_then(|text| text.trim().parse().ok());
        pid.is_some()
    })
    .await;
    pid.unwrap()
}
