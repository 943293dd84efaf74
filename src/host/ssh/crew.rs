//! Who works for us on a machine: one keeper, one clerk, some runners; started when needed, replaced when lost, sent home
//! when nothing is to be done.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::clerk::{Clerk, refused};
use super::host::nameless;
use super::keeper::Keeper;
use super::link::Link;
use super::runner::{Begun, News, Outlet, Outlets, Runner};
use super::runners::{Counted, Runners};
use super::talk::silent;
use super::tree::{Running, Tree};
use super::words::{lines, mark, spec};
use crate::error::{Error, Reason, Result};
use crate::host::{Command, Process};

/// From a request to the command's start, on a slow machine.
const START: Duration = Duration::from_secs(10);
/// A longer text goes through a file: a shell reads requests byte by byte.
const SHORT: usize = 16 * 1024;
/// Chunks of output between the channel and its reader.
const AHEAD: usize = 8;
/// So often the crew is looked after.
const ROUND: Duration = Duration::from_millis(500);
/// How long after its last use a machine is still asked whether it lives.
const WATCHED: Duration = Duration::from_secs(10);
/// When nothing was to be done for so long, all go home.
const IDLE: Duration = Duration::from_mins(2);
/// Channels that were lost while nobody used them.
const TRIES: usize = 40;

/// See the module.
pub(super) struct Crew {
    link: Arc<dyn Link>,
    data_dir: PathBuf,
    /// By which keepers of ours know one another.
    owner: String,
    keepers: AtomicU64,
    keeper: Mutex<Option<Arc<Keeper>>>,
    hiring: tokio::sync::Mutex<()>,
    clerk: tokio::sync::Mutex<Option<Arc<Clerk>>>,
    runners: Arc<Runners>,
    busy: AtomicUsize,
    used: Mutex<Instant>,
    looked_after: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Crew {
    /// Nobody yet.
    pub(super) fn new(link: Arc<dyn Link>, data_dir: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            runners: Runners::new(Arc::clone(&link)),
            link,
            data_dir,
            owner: format!("{:016x}", fastrand::u64(..)),
            keepers: AtomicU64::new(1),
            keeper: Mutex::default(),
            hiring: tokio::sync::Mutex::default(),
            clerk: tokio::sync::Mutex::default(),
            busy: AtomicUsize::new(0),
            used: Mutex::new(Instant::now()),
            looked_after: AtomicBool::new(false),
        })
    }

    fn living(&self) -> Option<Arc<Keeper>> {
        lock(&self.keeper).clone().filter(|keeper| !keeper.dead().is_cancelled())
    }

    /// The keeper; started when there is none.
    ///
    /// # Errors
    /// As [`Keeper::start`].
    pub(super) async fn keeper(self: &Arc<Self>) -> Result<Arc<Keeper>> {
        *lock(&self.used) = Instant::now();
        if let Some(keeper) = self.living() {
            return Ok(keeper);
        }
        let _hiring = self.hiring.lock().await;
        if let Some(keeper) = self.living() {
            return Ok(keeper);
        }
        self.runners.clear();
        let name = format!("{}.{}", self.owner, self.keepers.fetch_add(1, Ordering::Relaxed));
        let keeper = Arc::new(Keeper::start(self.link.as_ref(), &self.data_dir, &self.owner, &name).await?);
        *lock(&self.keeper) = Some(Arc::clone(&keeper));
        if !self.looked_after.swap(true, Ordering::AcqRel) {
            tokio::spawn(look_after(Arc::downgrade(self)));
        }
        Ok(keeper)
    }

    /// The clerk; started when there is none.
    ///
    /// # Errors
    /// As [`Clerk::start`].
    pub(super) async fn clerk(self: &Arc<Self>) -> Result<Arc<Clerk>> {
        // Whose answers tell that the network lives.
        let keeper = self.keeper().await?;
        let mut place = self.clerk.lock().await;
        if let Some(clerk) = place.as_ref().filter(|clerk| !clerk.is_dead()) {
            return Ok(Arc::clone(clerk));
        }
        let clerk = tokio::select! {
            clerk = Clerk::start(self.link.as_ref()) => Arc::new(clerk?),
            () = keeper.dead().cancelled() => return Err(silent("the connection to the host was lost")),
        };
        *place = Some(Arc::clone(&clerk));
        Ok(clerk)
    }

    /// For operators: whether the keeper and the clerk are there, when the keeper was last heard, and how many commands run
    /// and wait.
    pub(super) fn diagnostics(&self) -> Value {
        let keeper = self.living().map(|keeper| {
            let (heard, silence) = keeper.silence();
            json!({"heard_seconds_ago": heard.as_secs_f32(), "unanswered_for_seconds": silence.as_secs_f32()})
        });
        // While it is being started or asked, it is there in a moment.
        let clerk = self.clerk.try_lock().map(|clerk| clerk.as_ref().is_some_and(|clerk| !clerk.is_dead()));
        let (idle, waiting) = self.runners.counts();
        json!({
            "keeper": keeper,
            "clerk": match clerk {
                Ok(true) => "up",
                Ok(false) => "away",
                Err(_) => "starting",
            },
            "runners": {"busy": self.busy.load(Ordering::Acquire), "idle": idle, "waited_for_by": waiting},
        })
    }

    /// Starts a command; see [`Host::spawn`](crate::host::Host::spawn).
    pub(super) async fn spawn(self: &Arc<Self>, mut command: Command) -> Result<Process> {
        if command.process_id.is_empty() {
            command.process_id = nameless();
        }
        let spec = spec(&command, &self.data_dir)?;
        let mut gone = silent("no process could be started on the host; nothing ran");
        for _ in 0..TRIES {
            let keeper = self.keeper().await?;
            let long = spec.len() > SHORT;
            let spec = if long { self.leave_words(&keeper, &spec).await? } else { spec.clone() };
            let (mut runner, fresh) = tokio::select! {
                taken = self.runners.take(&keeper, &command.lease_id) => taken?,
                () = keeper.dead().cancelled() => return Err(silent("the connection to the host was lost")),
            };
            let mark = mark()?;
            let mode = match (command.stdin, command.merge_stderr) {
                (false, false) => "none",
                (false, true) => "none+merge",
                (true, false) => "pipe",
                (true, true) => "pipe+merge",
            };
            let mut request = format!("{mark} {} {mode} {}\n", command.process_id, lines(&spec)).into_bytes();
            request.extend_from_slice(&spec);
            // Should we be dropped now, nobody knows whether it began.
            let guard = Abort::new(&runner, &command.process_id);
            let begun = tokio::select! {
                begun = timeout(START, runner.start(&request, &mark)) => begun,
                () = keeper.dead().cancelled() => {
                    guard.disarm();
                    return Err(unknown(&command.process_id));
                }
            };
            match begun {
                Ok(Ok(Begun::Runs { pid, group })) => {
                    guard.disarm();
                    return Ok(self.watch(runner, command, mark, pid, group));
                }
                Ok(Ok(Begun::Refused(why))) => {
                    guard.disarm();
                    self.discard(runner, &command, mark);
                    gone = refused(&why, &command.cwd);
                    if why != "keeper" {
                        return Err(gone);
                    }
                    // It said that it is not there any more.
                    keeper.dead().cancel();
                }
                Err(_) => return Err(unknown(&command.process_id)),
                Ok(Err(_)) => {
                    guard.disarm();
                    let record = keeper.void(&runner.name).await;
                    keeper.forget(&runner.name);
                    match record {
                        Ok(record) if record.as_ref().is_none_or(|record| record.id != command.process_id) => {}
                        _ => {
                            keeper.abort(&runner.name, &command.process_id).await;
                            return Err(unknown(&command.process_id));
                        }
                    }
                    if fresh {
                        return Err(gone);
                    }
                }
            }
        }
        Err(gone)
    }

    /// Puts a long text where a runner finds it; answers the short one.
    async fn leave_words(self: &Arc<Self>, keeper: &Keeper, spec: &[u8]) -> Result<Vec<u8>> {
        let file = keeper.words();
        let command = Command {
            argv: ["sh", "-c", "umask 077 && exec cat >\"$1\"", "drydock", &file.to_string_lossy()]
                .map(str::to_owned)
                .into(),
            cwd: "/".into(),
            stdin: true,
            process_id: nameless(),
            ..Command::default()
        };
        let mut process = Box::pin(self.spawn(command)).await?;
        if let Some(mut stdin) = process.stdin.take() {
            let written = async {
                tokio::io::AsyncWriteExt::write_all(&mut stdin, spec).await?;
                tokio::io::AsyncWriteExt::shutdown(&mut stdin).await
            };
            written.await.map_err(|error| silent("the connection to the host was lost").because(error))?;
        }
        let exit = process.control.wait().await?;
        if exit != crate::host::Exit::Code(0) {
            return Err(Error::new(Reason::NoSpace, format!("{} cannot be written on the host", file.display())));
        }
        let mut short = b"dd_take ".to_vec();
        short.extend_from_slice(&super::words::quoted_path(&file));
        short.push(b'\n');
        Ok(short)
    }

    fn watch(self: &Arc<Self>, mut runner: Runner, command: Command, mark: String, pid: i64, group: i64) -> Process {
        let (stdout_in, stdout) = mpsc::channel(AHEAD);
        let (stderr_in, stderr) = mpsc::channel(AHEAD);
        let news = Arc::new(News {
            end: watch::Sender::new(None),
            left: watch::Sender::new(None),
            stalled: AtomicBool::new(false),
            killed: AtomicBool::new(false),
        });
        let running = Running {
            keeper: Arc::clone(&runner.keeper),
            runner: runner.name.clone(),
            id: command.process_id,
            group,
            news: Arc::clone(&news),
        };
        let stdin = if command.stdin { runner.take_stdin() } else { None };
        let stdin: Option<Box<dyn AsyncWrite + Send + Unpin>> =
            if command.stdin { Some(stdin.unwrap_or_else(|| Box::new(tokio::io::sink()))) } else { None };
        let crew = Arc::clone(self);
        let lease = command.lease_id;
        tokio::spawn(async move {
            let _busy = Counted::new(&crew.busy);
            let outlets = Outlets { stdout: stdout_in, stderr: stderr_in };
            let clean = runner.read(&mark, &outlets, &news).await;
            drop(outlets);
            let (left, stays) = if clean { runner.settle(&mark).await } else { (true, false) };
            news.left.send_replace(Some(left));
            if stays {
                crew.runners.give_back(runner, &lease);
            } else if !left {
                runner.keeper.forget(&runner.name);
            }
            *lock(&crew.used) = Instant::now();
        });
        let stderr: Option<Box<dyn AsyncRead + Send + Unpin>> =
            if command.merge_stderr { None } else { Some(Box::new(Outlet::new(stderr))) };
        Process { pid, stdin, stdout: Box::new(Outlet::new(stdout)), stderr, control: Box::new(Tree::new(running)) }
    }

    /// Reads what a runner says that started nothing.
    fn discard(self: &Arc<Self>, runner: Runner, command: &Command, mark: String) {
        let command = Command { lease_id: command.lease_id.clone(), stdin: command.stdin, ..Command::default() };
        drop(self.watch(runner, command, mark, 0, 0));
    }
}

fn unknown(id: &str) -> Error {
    let what = format!("the link to the host was lost while process {id} was started; nobody knows whether it ran");
    Error::new(Reason::OutcomeUnknown, what)
}

/// Kills what may have begun, when it is dropped armed.
struct Abort(Option<(Arc<Keeper>, String, String)>);

impl Abort {
    fn new(runner: &Runner, id: &str) -> Self {
        Self(Some((Arc::clone(&runner.keeper), runner.name.clone(), id.to_owned())))
    }

    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Abort {
    fn drop(&mut self) {
        if let Some((keeper, runner, id)) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { keeper.abort(&runner, &id).await });
        }
    }
}

/// Asks the keeper whether it lives, and sends home who has nothing to do.
async fn look_after(crew: Weak<Crew>) {
    let mut tick = tokio::time::interval(ROUND);
    let Some(link) = crew.upgrade().map(|crew| Arc::clone(&crew.link)) else { return };
    loop {
        let wanted = tokio::select! {
            _ = tick.tick() => false,
            () = link.wanted() => true,
        };
        let Some(crew) = crew.upgrade() else { return };
        if wanted {
            crew.runners.evict();
            continue;
        }
        crew.runners.trim();
        let idle = if crew.busy.load(Ordering::Acquire) > 0 { Duration::ZERO } else { lock(&crew.used).elapsed() };
        let keeper = lock(&crew.keeper).clone();
        if let Some(keeper) = keeper.filter(|keeper| !keeper.dead().is_cancelled())
            && !keeper.check(idle < WATCHED)
        {
            tracing::warn!(folder = %crew.data_dir.display(), "a host does not answer any more");
            crew.link.reset().await;
        }
        if idle > IDLE {
            lock(&crew.keeper).take();
            crew.runners.clear();
            if let Ok(mut clerk) = crew.clerk.try_lock() {
                clerk.take();
            }
        }
    }
}
