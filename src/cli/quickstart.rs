//! `drydock quickstart`: the whole way of a lease, on a daemon of its own that leaves nothing behind.

mod page;
mod proof;
mod repository;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use prost::bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::acquire::{self, present};
use super::connect::{self, Daemon, soon, within};
use super::exit::{FAILURE, Failure, OK, Result};
use super::httpd::Operation;
use super::interrupt::Interrupt;
use super::output::{self, Paint};
use super::run::renew;
use super::trace::{self, Sink};
use super::{blueprint, copy, daemon, fs, process, words};
use crate::blueprint::document;
use crate::config::Settings;
use crate::error::Error;
use crate::model::Shares;
use crate::proto::v1;
use crate::proto::v1::lease::State;
use crate::rpc::server::{self, Shutdown};

const SANDCASTLE: &str = include_str!("../../examples/sandcastle.yaml");
const PATIENCE: Duration = Duration::from_mins(2);
/// How long the daemon may take to stop when nothing runs any more.
const DRAIN: Duration = Duration::from_secs(10);

/// Starts a daemon with its state in a temporary folder, leases a sandcastle on it (a working copy, built, and a web
/// server for it), uses its interfaces, gives it back and shows that nothing of it is left.
#[derive(Debug, clap::Args)]
pub struct Quickstart {
    /// Keep the lease and go on serving until a signal comes.
    #[arg(long)]
    keep: bool,
}

/// Runs it.
///
/// # Errors
/// What did not work, with the reason.
pub async fn run(args: Quickstart) -> Result<u8> {
    if std::env::var_os("DRYDOCK_LOG").is_some() {
        daemon::log(crate::config::LogFormat::Auto)?;
    }
    let interrupt = Interrupt::listen()?;
    let folder = tempfile::Builder::new()
        .prefix("drydock-quickstart-")
        .tempdir()
        .map_err(|error| Failure::io("a temporary folder", &error))?;
    let harbour = Harbour::open(folder.path()).await?;
    let shown = Box::pin(tour(&harbour, folder.path(), args.keep, &interrupt)).await;
    let closed = harbour.close().await;
    shown?;
    closed?;
    Ok(OK)
}

/// A daemon of our own.
struct Harbour {
    daemon: Daemon,
    settings: Settings,
    shutdown: Shutdown,
    serving: JoinHandle<Result<(), Error>>,
}

impl Harbour {
    async fn open(folder: &Path) -> Result<Self> {
        let data_dir = folder.join("data");
        let executable = std::env::current_exe().map_err(|error| Failure::io("the path of this program", &error))?;
        let settings = Settings {
            socket: folder.join(crate::config::SOCKET_NAME),
            listen: Vec::new(),
            tls: None,
            metrics_listen: None,
            peer_listen: None,
            log_format: crate::config::LogFormat::Auto,
            otlp_endpoint: None,
            tokens: None,
            database: format!("sqlite:{}", data_dir.join("drydock.db").display()).into(),
            workers: 4,
            retention: Duration::from_hours(24),
            stock_blueprints: true,
            sweep: true,
            owners: Shares::default(),
            executable,
            data_dir,
        };
        let shutdown = Shutdown::default();
        let (tell, ready) = oneshot::channel();
        let mut serving = tokio::spawn(server::run(settings.clone(), tell, shutdown.clone()));
        let ready = tokio::select! {
            Ok(ready) = ready => ready,
            ended = &mut serving => {
                daemon::over(ended)?;
                return Err(Failure::new(FAILURE, "INTERNAL", "the daemon ended before it was ready"));
            }
        };
        let daemon = connect::connect_socket(ready.socket).await?;
        Ok(Self { daemon, settings, shutdown, serving })
    }

    async fn close(mut self) -> Result<()> {
        self.shutdown.drain.cancel();
        if let Ok(ended) = tokio::time::timeout(DRAIN, &mut self.serving).await {
            return daemon::over(ended).map(drop);
        }
        self.shutdown.stop.cancel();
        match tokio::time::timeout(DRAIN, &mut self.serving).await {
            Ok(ended) => daemon::over(ended).map(drop),
            Err(_) => Err(Failure::new(FAILURE, "INTERNAL", "the daemon does not stop")),
        }
    }
}

/// Numbered headings, and the commands that would do the same.
struct Guide {
    step: u32,
    paint: Paint,
}

impl Guide {
    fn step(&mut self, words: &str) -> Result<()> {
        self.step += 1;
        output::print(&format!("\n{}", self.paint.bold(&format!("{}. {words}", self.step))))
    }

    fn command(&self, command: &str) -> Result<()> {
        output::print(&self.paint.dim(&format!("   $ {command}")))
    }
}

/// Talk, indented below its heading.
fn say(words: &str) -> Result<()> {
    let lines: Vec<_> = words.lines().map(|line| format!("   {line}").trim_end().to_owned()).collect();
    output::print(&lines.join("\n"))
}

async fn tour(harbour: &Harbour, folder: &Path, keep: bool, interrupt: &Interrupt) -> Result<()> {
    let mut guide = Guide { step: 0, paint: Paint::for_stdout() };
    guide.step("A daemon of its own")?;
    say(&format!("socket {}, data in {}", harbour.settings.socket.display(), harbour.settings.data_dir.display()))?;
    say("A local host isolates nothing from its own user.")?;

    guide.step("A git repository, and a blueprint that knows what to do with it")?;
    let source = folder.join("site");
    let commit = interrupt.or(repository::make(&source)).await?;
    say(&format!("{} at {commit}: a Makefile whose target `site` writes public/index.html", source.display()))?;
    guide.command("drydock blueprint apply -f examples/sandcastle.yaml")?;
    for document in document::parse("examples/sandcastle.yaml", SANDCASTLE)? {
        let blueprint = blueprint::document::to_message(document)?;
        say(&interrupt.or(blueprint::apply(&harbour.daemon, blueprint, false)).await?.0)?;
    }

    guide.step("Lease a sandcastle: a host, a working copy on it, a web server for what it builds")?;
    let repository = source.display().to_string();
    guide.command(&format!("drydock lease acquire sandcastle --attr repository={repository} --trace"))?;
    let request = v1::AcquireLeaseRequest {
        resource_type: "sandcastle".to_owned(),
        attributes: [("repository".to_owned(), repository)].into(),
        queue_timeout: Some(words::proto(PATIENCE)),
        ..v1::AcquireLeaseRequest::default()
    };
    let started = Instant::now();
    let lease = acquire::place(&harbour.daemon, request).await?;
    let id = lease.id.clone();
    let used = use_it(harbour, lease, started, &mut guide, interrupt).await;
    if used.is_err() {
        // Nothing stays behind of a tour that went wrong, either.
        let _ = acquire::release(&harbour.daemon, &id, "the quickstart failed").await;
    }
    let lease = used?;

    if keep {
        serve_on(harbour, &lease, &mut guide, interrupt).await?;
    }
    give_back(harbour, &lease, &mut guide).await
}

/// Waits for the lease and shows each interface.
async fn use_it(
    harbour: &Harbour,
    lease: v1::Lease,
    started: Instant,
    guide: &mut Guide,
    interrupt: &Interrupt,
) -> Result<v1::Lease> {
    let daemon = &harbour.daemon;
    let patience = acquire::patience(PATIENCE, Some(PATIENCE));
    let lease = acquire::settle(daemon, lease, Some(patience), Some(Sink::Stdout), interrupt).await?;
    let lease = acquire::served(lease)?;
    say(&format!("{} is ACTIVE after {}", lease.id, words::spell(started.elapsed())))?;
    let id = lease.id.as_str();

    guide.step("Run a command on it; with execx, a failing one fails the call")?;
    guide.command(&format!("drydock exec --check {id} -- git log -1 --stat"))?;
    let exited =
        process::run(daemon, execx(id, &["git", "--no-pager", "log", "-1", "--stat"]), false, interrupt).await?;
    say(&format!("exit code {}", process::code(&exited)))?;
    if process::code(&exited) != 0 {
        return Err(Failure::new(FAILURE, "COMMAND_FAILED", "git log did not work on the working copy"));
    }

    guide.step("Write a file next to the page that was built")?;
    guide.command(&format!("date | drydock fs write {id} public/note.txt"))?;
    let note = format!("written over gRPC, beside a page built from {}\n", fact(&lease, "commit"));
    let target = copy::start(id, "public/note.txt", &fs::Target::default());
    let entry = interrupt.or(copy::upload(daemon, std::io::Cursor::new(Bytes::from(note)), target)).await?;
    say(&format!("{} bytes", entry.size))?;

    guide.step("Restart its web server")?;
    guide.command(&format!("drydock httpd restart {id}"))?;
    let mut tell = |line: String| drop(output::print(&format!(" {line}")));
    let httpd = interrupt.or(Operation::Restart.run(daemon, id.to_owned(), &mut tell)).await?;
    say(&format!("{} listens on {}", httpd.driver, httpd.listen_addresses.join(", ")))?;

    guide.step("Fetch the page through the leased URI")?;
    for path in ["/", "/note.txt"] {
        let request = v1::GetUriRequest { lease_id: id.to_owned(), path: path.to_owned() };
        let uri = daemon.httpd().get_uri(soon(request)).await?.into_inner().uri;
        guide.command(&format!("curl {uri}"))?;
        let body = interrupt.or(page::get(&uri)).await?;
        say(&body)?;
    }

    guide.step("What was made, and what it took")?;
    let story = trace::read(daemon, id).await?;
    output::print(&story.render(guide.paint))?;
    Ok(lease)
}

fn execx(lease_id: &str, argv: &[&str]) -> v1::ExecRequest {
    let argv = argv.iter().map(ToString::to_string).collect();
    let command = v1::Command { argv, ..v1::Command::default() };
    v1::ExecRequest { lease_id: lease_id.to_owned(), command: Some(command), check: true, ..Default::default() }
}

fn fact(lease: &v1::Lease, name: &str) -> String {
    lease.facts.get(name).cloned().unwrap_or_else(|| "the commit".to_owned())
}

/// Keeps the lease alive until a signal comes.
async fn serve_on(harbour: &Harbour, lease: &v1::Lease, guide: &mut Guide, interrupt: &Interrupt) -> Result<()> {
    guide.step("Serving on; Ctrl-C gives it all back")?;
    guide.command(&format!("export DRYDOCK_ADDR={} DRYDOCK_LEASE_ID={}", harbour.daemon.address(), lease.id))?;
    guide.command("drydock exec @ -- ls -l")?;
    let renewing = tokio::spawn(renew(harbour.daemon.clone(), lease.clone()));
    interrupt.heard().await;
    renewing.abort();
    Ok(())
}

/// Releases the lease and proves that nothing of it is left.
async fn give_back(harbour: &Harbour, lease: &v1::Lease, guide: &mut Guide) -> Result<()> {
    let data_dir: PathBuf = harbour.settings.data_dir.clone();
    let holdings = proof::Holdings::of(&harbour.daemon, &lease.id).await?;
    guide.step("Give it back")?;
    guide.command(&format!("drydock lease release --wait {}", lease.id))?;
    let started = Instant::now();
    let request = v1::ReleaseLeaseRequest {
        lease_id: lease.id.clone(),
        wait: Some(words::proto(PATIENCE)),
        comment: "the quickstart is over".to_owned(),
        ..v1::ReleaseLeaseRequest::default()
    };
    let answer = harbour.daemon.leases().release_lease(within(PATIENCE, request)).await?.into_inner();
    let ended = present(answer.lease)?;
    if ended.state() != State::Destroyed {
        return Err(Failure::new(FAILURE, "INTERNAL", format!("{} is not gone: {}", ended.id, ended.state_message)));
    }
    say(&format!("gone after {}", words::spell(started.elapsed())))?;
    let findings = holdings.prove_gone(&harbour.daemon, &data_dir).await?;
    for finding in findings {
        say(&format!("{} {finding}", guide.paint.good("✓")))?;
    }
    output::print(&format!("\n{}", guide.paint.bold("nothing left")))
}
