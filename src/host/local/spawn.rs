//! Starting processes on this machine.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command as StdCommand, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustix::io::Errno;
use rustix::pipe::fcntl_setpipe_size;
use rustix::process::Pid;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::pipe;

use super::marks::Marks;
use super::process_table::{Candidate, LEASE_VARIABLE};
use super::program::{CannotRun, Environment, find};
use super::supervisor::Supervisor;
use super::sweep::Sweep;
use super::tree::{Tree, TreeControl, leader, wait};
use crate::error::{Error, Reason, Result};
use crate::host::{Command, Control, Exit, Process};

/// Fewer, longer turns between a process that writes much and us; the default is 64 KiB.
const PIPE: usize = 256 * 1024;

/// Starts processes.
pub(super) struct Spawner {
    environment: Environment,
    supervisor: Arc<Supervisor>,
    sweep: Arc<Sweep>,
    marks: Arc<Marks>,
}

enum Started {
    Child(Child),
    CannotRun(CannotRun),
}

/// A moment passes between a program's start and its environment's being there to be read, by which it is known.
async fn until_known(child: &Child, lease_id: &str) {
    let pid = Pid::from_child(child).as_raw_nonzero().get();
    for _ in 0..1000 {
        if Candidate::read(pid).is_none_or(|mut process| process.names(LEASE_VARIABLE, lease_id)) {
            return;
        }
        wait(Duration::from_millis(1)).await;
    }
}

impl Spawner {
    /// The supervisor is started with the first process.
    pub(super) fn new(supervisor: Supervisor, marks: Arc<Marks>) -> Self {
        let supervisor = Arc::new(supervisor);
        let sweep = Sweep::new(Arc::clone(&supervisor));
        Self { environment: Environment::read(), supervisor, sweep, marks }
    }

    /// Starts a process that dies with the daemon.
    pub(super) async fn spawn(&self, mut command: Command) -> Result<Process> {
        if command.process_id.is_empty() {
            command.process_id = nameless();
        }
        let mut streams = Streams::open(&command).map_err(|error| cannot_start(&command, error))?;
        let stdio = streams.take_far_ends();
        // Told before it exists, so that no moment is left in which it could be lost.
        self.supervisor.expect(&command.process_id)?;
        let started = self.start(&command, stdio).await;
        let adopted = started.and_then(|started| match started {
            Started::Child(child) => self.adopt(child, &command).map(Ok),
            Started::CannotRun(why) => Ok(Err(why)),
        });
        match adopted {
            Ok(Ok((pid, control))) => streams.into_process(pid, control),
            Ok(Err(why)) => {
                self.supervisor.forget(&command.process_id);
                Ok(never_ran(&command, &why))
            }
            Err(error) => {
                self.supervisor.forget(&command.process_id);
                Err(error)
            }
        }
    }

    fn adopt(&self, mut child: Child, command: &Command) -> Result<(i64, TreeControl)> {
        let pid = i64::from(child.id());
        let watched = self.supervisor.watch(&command.process_id, Pid::from_child(&child));
        if let Err(error) = watched {
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
        let id = command.process_id.clone();
        let tree = Tree::new(child, id, Arc::clone(&self.supervisor), Arc::clone(&self.sweep))
            .map_err(|error| cannot_start(command, error))?;
        Ok((pid, TreeControl::new(tree)))
    }

    /// Starts a process that outlives the daemon; its output is appended to `log`.
    pub(super) async fn launch(&self, mut command: Command, log: &Path) -> Result<i64> {
        if command.process_id.is_empty() {
            command.process_id = nameless();
        }
        let open = || -> io::Result<[Stdio; 3]> {
            let log = OpenOptions::new().append(true).create(true).mode(0o600).open(log)?;
            Ok([Stdio::null(), log.try_clone()?.into(), log.into()])
        };
        let stdio =
            open().map_err(|error| Error::internal(format!("the log {} cannot be opened", log.display()), error))?;
        match self.start(&command, stdio).await? {
            Started::Child(mut child) => {
                let pid = i64::from(child.id());
                until_known(&child, &command.lease_id).await;
                // Waited for as any other event, so that neither a thread nor a zombie is left.
                let leader = leader(Pid::from_child(&child)).map_err(|error| cannot_start(&command, error))?;
                tokio::spawn(async move {
                    let _ = leader.readable().await;
                    let _ = child.wait();
                });
                Ok(pid)
            }
            Started::CannotRun(why) => {
                let program = command.argv.first().cloned().unwrap_or_default();
                Err(Error::new(Reason::FileNotFound, format!("program {program:?}: {}", why.why)))
            }
        }
    }

    async fn start(&self, command: &Command, [stdin, stdout, stderr]: [Stdio; 3]) -> Result<Started> {
        let Some((program, arguments)) = command.argv.split_first() else {
            return Err(Error::invalid("argv is empty; it needs at least the program"));
        };
        let environment = self.environment.of(command);
        let words = command.argv.iter().chain(command.env.keys()).chain(command.env.values());
        if words.into_iter().any(|word| word.contains('\0')) {
            return Err(Error::invalid(
                "a word of the command or its environment holds a NUL byte, which no program can get",
            ));
        }
        match std::fs::metadata(&command.cwd) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => {
                let cwd = command.cwd.display();
                return Err(Error::new(Reason::NotADirectory, format!("working directory {cwd} is not a directory")));
            }
            Err(error) => {
                let cwd = command.cwd.display();
                return Err(
                    Error::new(Reason::FileNotFound, format!("working directory {cwd} cannot be used")).because(error)
                );
            }
        }
        let path = environment.get(std::ffi::OsStr::new("PATH")).and_then(|path| path.to_str()).unwrap_or_default();
        let file = match find(program, &command.cwd, path) {
            Ok(file) => file,
            Err(why) => return Ok(Started::CannotRun(why)),
        };
        let mut child = StdCommand::new(file);
        child.arg0(program).args(arguments).env_clear().envs(&environment).current_dir(&command.cwd).process_group(0);
        child.stdin(stdin).stdout(stdout).stderr(stderr);
        let mut tries = 0;
        self.marks.note(&command.lease_id);
        loop {
            let error = match child.spawn() {
                Ok(child) => {
                    self.marks.note(&command.lease_id);
                    return Ok(Started::Child(child));
                }
                Err(error) => error,
            };
            match error.raw_os_error().map(Errno::from_raw_os_error) {
                // Another child that is just being started still holds the file, open for writing, for a moment.
                Some(Errno::TXTBSY) if tries < 50 => {
                    tries += 1;
                    wait(Duration::from_millis(2)).await;
                }
                Some(Errno::NOENT | Errno::NOTDIR) => return Ok(Started::CannotRun(CannotRun::MISSING)),
                Some(Errno::ACCESS | Errno::ISDIR) => return Ok(Started::CannotRun(CannotRun::FORBIDDEN)),
                Some(Errno::NOEXEC) => return Ok(Started::CannotRun(CannotRun::MALFORMED)),
                Some(Errno::TOOBIG) => {
                    let what =
                        "the command and its environment are longer than the host takes; pass data in stdin or files";
                    return Err(Error::invalid(what));
                }
                _ => return Err(cannot_start(command, error)),
            }
        }
    }
}

fn cannot_start(command: &Command, error: io::Error) -> Error {
    let program = command.argv.first().map_or("", String::as_str);
    Error::new(Reason::HostUnreachable, format!("no process could be started for {program:?}; nothing ran"))
        .because(error)
        .retry_after(Duration::from_secs(1))
}

/// A process that no caller will ever name still needs a mark.
fn nameless() -> String {
    format!("run_{:016x}", fastrand::u64(..))
}

/// Our ends of a child's pipes, and for a while the child's.
struct Streams {
    stdin: Option<io::PipeWriter>,
    stdout: io::PipeReader,
    stderr: Option<io::PipeReader>,
    far: Option<[Stdio; 3]>,
}

impl Streams {
    fn open(command: &Command) -> io::Result<Self> {
        let (far_stdin, stdin) = if command.stdin {
            let (reader, writer) = io::pipe()?;
            let _ = fcntl_setpipe_size(&writer, PIPE);
            (reader.into(), Some(writer))
        } else {
            (Stdio::null(), None)
        };
        let (stdout, far_stdout) = io::pipe()?;
        // Refused when the user's share is used up; the default does as well.
        let _ = fcntl_setpipe_size(&far_stdout, PIPE);
        let (stderr, far_stderr) = if command.merge_stderr {
            (None, far_stdout.try_clone()?)
        } else {
            let (reader, writer) = io::pipe()?;
            (Some(reader), writer)
        };
        Ok(Self { stdin, stdout, stderr, far: Some([far_stdin, far_stdout.into(), far_stderr.into()]) })
    }

    fn take_far_ends(&mut self) -> [Stdio; 3] {
        self.far.take().unwrap_or_else(|| [Stdio::null(), Stdio::null(), Stdio::null()])
    }

    fn into_process(self, pid: i64, control: TreeControl) -> Result<Process> {
        let watched = |error| Error::internal("a pipe cannot be watched", error);
        let read = |end: io::PipeReader| -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
            Ok(Box::new(pipe::Receiver::from_owned_fd(OwnedFd::from(end))?))
        };
        let write = |end: io::PipeWriter| -> io::Result<Box<dyn AsyncWrite + Send + Unpin>> {
            Ok(Box::new(pipe::Sender::from_owned_fd(OwnedFd::from(end))?))
        };
        Ok(Process {
            pid,
            stdin: self.stdin.map(write).transpose().map_err(watched)?,
            stdout: read(self.stdout).map_err(watched)?,
            stderr: self.stderr.map(read).transpose().map_err(watched)?,
            control: Box::new(control),
        })
    }
}

/// What stands for a program that cannot run: it says so where a shell would, and ends with the shell's code.
fn never_ran(command: &Command, why: &CannotRun) -> Process {
    let program = command.argv.first().map_or("", String::as_str);
    let message = io::Cursor::new(format!("drydock: {program}: {}\n", why.why).into_bytes());
    let (stdout, stderr): (Box<dyn AsyncRead + Send + Unpin>, Option<Box<dyn AsyncRead + Send + Unpin>>) =
        if command.merge_stderr {
            (Box::new(message), None)
        } else {
            (Box::new(tokio::io::empty()), Some(Box::new(message)))
        };
    let stdin: Option<Box<dyn AsyncWrite + Send + Unpin>> =
        if command.stdin { Some(Box::new(tokio::io::sink())) } else { None };
    Process { pid: 0, stdin, stdout, stderr, control: Box::new(NeverRan(why.code)) }
}

struct NeverRan(i32);

#[async_trait]
impl Control for NeverRan {
    async fn signal(&self, _number: i32) -> Result<()> {
        Ok(())
    }

    async fn wait(&self) -> Result<Exit> {
        Ok(Exit::Code(self.0))
    }

    async fn end(&self, _grace: Duration) {}
}
