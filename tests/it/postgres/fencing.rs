//! A call that was let in by its daemon before the lease ended, and a step that was begun before its claim lapsed, go on
//! afterwards: the host refuses them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use drydock::blueprint::{self, Blueprint, Context, Endpoint, Registry, Step};
use drydock::clock::{Clock as _, HeardClock, SystemClock};
use drydock::engine::{Acquire, BlueprintDraft, Engine, Settings};
use drydock::error::Reason;
use drydock::host::local::LocalHost;
use drydock::host::{Command, Host};
use drydock::interface::command::exec;
use drydock::interface::filesystem::{Begun, Filesystem, Finish, WriteStart, files};
use drydock::model::{Kind, LeaseState, Limits, Shares, StringMap};
use drydock::store::{Location, Remote};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tokio::sync::Notify;

use super::{database, is_installed};
use crate::place::argv;
use crate::queue::kit::{PATIENCE, admin, eventually, folder};

static KIND: Kind = Kind {
    kind: "slow",
    resource_type: "slow",
    interfaces: &[],
    needs: &["host"],
    config: &[],
    attributes: &[],
    leases_per_resource: 1,
    max_resources: None,
    rank: 0,
    stays: false,
    reused_by_attributes: false,
    instant: false,
    registration: None,
};

/// Its first build stops in the middle, with a command that runs on, until it is told to go on; what it can do then is noted.
#[derive(Default)]
struct Slow {
    builds: AtomicUsize,
    go_on: Notify,
    late: Mutex<Vec<Reason>>,
    pid: Mutex<i64>,
    beside: Mutex<PathBuf>,
}

impl Slow {
    async fn begin(&self, ctx: &Context) -> Result<Step, Step> {
        ctx.host()?;
        let place = ctx.place_of("host")?.clone();
        let note = ctx.folder(&place).join("note");
        if self.builds.fetch_add(1, Ordering::SeqCst) > 0 {
            // The claim of the first one has lapsed, and this is the one that took it over.
            place.host.write_text(&note, "second").await?;
            return Ok(Step::done());
        }
        place.host.make_folder(&ctx.folder(&place)).await?;
        let argv = ["sleep", "1000"].map(str::to_owned).to_vec();
        let sleep = Command { argv, cwd: "/".into(), lease_id: ctx.resource.id.to_string(), ..Command::default() };
        let process = place.host.spawn(sleep.clone()).await?;
        *self.pid.lock().unwrap() = process.pid;
        *self.beside.lock().unwrap() = note.clone();
        self.go_on.notified().await;
        let late = [
            place.host.write_text(&note, "first").await.map(drop),
            place.host.spawn(sleep).await.map(drop),
            place.host.remove_folder(&ctx.folder(&place)).await.map(drop),
            ctx.effects.begin("late", Value::Null).await.map(drop),
        ];
        *self.late.lock().unwrap() = late.into_iter().filter_map(|late| late.err().map(|error| error.reason)).collect();
        self.go_on.notify_one();
        Ok(Step::done())
    }
}

#[async_trait]
impl Blueprint for Slow {
    fn describe(&self) -> &'static Kind {
        &KIND
    }

    async fn build(&self, ctx: &Context) -> Step {
        match self.begin(ctx).await {
            Ok(step) | Err(step) => step,
        }
    }

    async fn destroy(&self, ctx: &Context) -> Step {
        match ctx.remove_from_host(&[]).await {
            Ok(()) => Step::done(),
            Err(step) => step,
        }
    }

    fn endpoint(&self, _ctx: &Context, _interface: &str) -> Option<Endpoint> {
        None
    }
}

/// The claim of a step lapses in its middle, as that of a daemon that is paused does; another worker builds the same resource,
/// and the first one goes on where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_was_taken_over_does_nothing_any_more() {
    if !is_installed() {
        return;
    }
    let (database, folder, slow) = (database().await, folder(), Arc::new(Slow::default()));
    let engine = engine(&database.url, folder.path(), Some(Arc::clone(&slow))).await;
    let draft = BlueprintDraft {
        name: "slow".to_owned(),
        kind: "slow".to_owned(),
        config: json!({}),
        labels: StringMap::new(),
        limits: Limits::default(),
    };
    engine.apply_blueprint(&admin(), draft, false, None).await.unwrap();
    let asked = Acquire { resource_type: "slow".to_owned(), ..Acquire::default() };
    let lease = engine.acquire(&admin(), asked, None, Duration::ZERO).await.unwrap().lease;
    let note = eventually("the first build stops", async || {
        let note = slow.beside.lock().unwrap().clone();
        (!note.as_os_str().is_empty()).then_some(note)
    })
    .await;
    let mut look = PgConnection::connect(&database.url).await.unwrap();
    let lapse = "UPDATE task SET claim_until = 0 WHERE subject LIKE 'res%' AND state = 'RUNNING'";
    assert_eq!(sqlx::query(lapse).execute(&mut look).await.unwrap().rows_affected(), 1);
    eventually("another one has built it", async || {
        let lease = engine.store().find_lease(&lease.id).await.unwrap().unwrap();
        (lease.state == LeaseState::Active).then_some(())
    })
    .await;
    assert_eq!(std::fs::read_to_string(&note).unwrap(), "second");
    assert!(
        !crate::place::lives(i32::try_from(*slow.pid.lock().unwrap()).unwrap()),
        "the command of the first runs on"
    );
    slow.go_on.notify_one();
    eventually("the first has tried all", async || (!slow.late.lock().unwrap().is_empty()).then_some(())).await;
    let (refused, lost) = (Reason::LeaseNotActive, Reason::EtagMismatch);
    assert_eq!(*slow.late.lock().unwrap(), [refused, refused, refused, lost]);
    assert_eq!(std::fs::read_to_string(&note).unwrap(), "second");
    let done = engine.release_lease(&admin(), lease.id.as_str(), "", false, None, PATIENCE).await.unwrap();
    assert_eq!(done.lease.state, LeaseState::Destroyed);
    engine.stop().await;
}

async fn engine(database: &str, folder: &Path, slow: Option<Arc<Slow>>) -> Arc<Engine> {
    let host = LocalHost::new(folder.to_owned(), PathBuf::from(env!("CARGO_BIN_EXE_drydock"))).fenced();
    let mut kinds = blueprint::all(Arc::new(host) as Arc<dyn Host>);
    kinds.extend(slow.map(|slow| slow as Arc<dyn Blueprint>));
    let home = format!("here:{}", folder.display());
    let settings = Settings {
        database: Location::Postgres(Remote { home, ..Remote::at(database) }),
        workers: 3,
        sweep: true,
        retention: Duration::from_hours(24),
        stock_blueprints: true,
        machine: "here".to_owned(),
        address: String::new(),
        shares: Shares::default(),
    };
    Engine::start(&settings, Registry::new(kinds), HeardClock::at(SystemClock.now())).await.unwrap()
}

fn host_lease() -> Acquire {
    Acquire { resource_type: "host".to_owned(), ..Acquire::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_opened_before_the_end_does_nothing_after_it() {
    if !is_installed() {
        return;
    }
    let (database, folder) = (database().await, folder());
    let engine = engine(&database.url, folder.path(), None).await;

    let first = engine.acquire(&admin(), host_lease(), None, PATIENCE).await.unwrap().lease;
    assert_eq!(first.state, LeaseState::Active);
    // As a daemon that is paused right here.
    let paused = engine.open(&admin(), first.id.as_str(), "command").await.unwrap();
    let filesystem = Filesystem::default();
    let start = WriteStart { lease_id: first.id.to_string(), path: "file".into(), ..WriteStart::default() };
    let Ok(Begun::Open(mut upload)) = filesystem.begin(&paused.place, start).await else { panic!("it is not begun") };
    upload.write(0, b"late").await.unwrap();
    let done = engine.release_lease(&admin(), first.id.as_str(), "", false, None, PATIENCE).await.unwrap();
    assert_eq!(done.lease.state, LeaseState::Destroyed);
    let second = engine.acquire(&admin(), host_lease(), None, PATIENCE).await.unwrap().lease;

    let token = paused.ended.clone();
    let ran = exec(&paused.place, first.id.as_str(), argv(&["touch", "late"]), None, token, 1_000_000).await;
    assert_eq!(ran.map(drop).unwrap_err().reason, Reason::LeaseNotActive);
    let written = filesystem.finish(upload, &Finish::default()).await;
    assert!(written.is_err(), "it was written into a lease that has ended");
    assert_eq!(files(&paused.place).await.map(drop).unwrap_err().reason, Reason::LeaseNotActive);
    assert!(!paused.place.root.exists(), "{}", paused.place.root.display());
    // The next one on the same machine comes in.
    let opened = engine.open(&admin(), second.id.as_str(), "filesystem").await.unwrap();
    files(&opened.place).await.map(drop).unwrap();
    assert!(opened.place.root.exists());
    engine.release_lease(&admin(), second.id.as_str(), "", false, None, PATIENCE).await.unwrap();
    engine.stop().await;
}
