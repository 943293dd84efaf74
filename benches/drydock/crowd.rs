//! Many cascades on few workers beside long tasks that nobody can hurry: the real daemon beside a simulation of this very
//! scheduler over the same trace, and beside a simulation in which the queue is served first in, first out.
//!
//! A second of the story lasts some milliseconds in reality, so that a step is long against a commit.

#[path = "../../tests/it/simulation/ground.rs"]
#[expect(clippy::unwrap_used, reason = "shared with the tests, where what cannot go on panics")]
mod ground;
#[path = "../../tests/it/simulation/stage.rs"]
#[expect(clippy::unwrap_used, dead_code, reason = "shared with the tests, which have more questions to it")]
mod stage;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use drydock::blueprint::{Blueprint, Registry};
use drydock::clock::{HeardClock, SharedClock, SystemClock, span};
use drydock::engine::{Acquire, BlueprintDraft, Engine, Settings};
use drydock::model::id::LeaseId;
use drydock::model::{Limits, Shares, StringMap};
use drydock::store::Location;
use fastrand::Rng;
use ground::{Ground, NOON, pass};
use stage::{Make, NAME, Stage, Timed};
use tokio::time::{Instant, timeout};

use crate::daemon::PATIENCE;
use crate::figures::number;
use crate::table::Table;

const SEED: u64 = 3;
const WORKERS: usize = 16;
const ROOTS: usize = 200;
/// Seconds between two cascades, in the mean.
const GAP: f64 = 12.0;
const LONG_TASKS: usize = 60;
const BESIDE_SIMULATION: f64 = 1.1;
const BESIDE_FIFO: f64 = 0.7;

/// In reality a second of the crowd lasts so long.
const CROWDED_SECOND: Duration = Duration::from_millis(12);
/// And one of the errands so long.
const ERRANDS_SECOND: Duration = Duration::from_millis(50);
const ERRANDS: usize = 20;
/// How long an errand is, in seconds.
const ERRAND: f64 = 1.0;
const BESIDE_ITSELF: f64 = 2.0;

// A cascade of seven tasks, four deep: some 165 s of work, 90 s of them one after the other.
static SANDCASTLE: Make = Make::new("sandcastle", &["web", "mysql"], (10_000, 20_000));
static WEB: Make = Make::new("web", &["storage"], (2000, 2000));
static STORAGE: Make = Make::new("storage", &["vm"], (3000, 8000));
static MYSQL: Make = Make::new("mysql", &["tables"], (2000, 2000));
static TABLES: Make = Make::new("tables", &["vm"], (5000, 10_000));
static VM: Make = Make::new("vm", &[], (40_000, 80_000));
static LONG: Make = Make::new("long", &[], (600_000, 600_000));
// Trees that wait for one slow part.
static SLOW: Make = Make::new("slow", &["errand", "middle"], (1000, 1000));
static MIDDLE: Make = Make::new("middle", &["errand", "boot"], (1000, 1000));
static BOOT: Make = Make::new("boot", &[], (300_000, 300_000));
static ONE_ERRAND: Make = Make::new("errand", &[], (1000, 1000));
static KINDS: [&Make; 11] =
    [&SANDCASTLE, &WEB, &STORAGE, &MYSQL, &TABLES, &VM, &LONG, &SLOW, &MIDDLE, &BOOT, &ONE_ERRAND];

/// Serves the queue in the order in which tasks became ready, whatever they are for.
const FIRST_IN_FIRST_OUT: &str = "
    CREATE TABLE arrival (number INTEGER);
    INSERT INTO arrival VALUES (0);
    CREATE TRIGGER arrives AFTER INSERT ON task WHEN NEW.state = 'READY' BEGIN
        UPDATE arrival SET number = number + 1;
        UPDATE task SET band = 1, depth = 0, ord = (SELECT number FROM arrival) WHERE id = NEW.id;
    END;
    CREATE TRIGGER returns AFTER UPDATE OF state ON task WHEN NEW.state = 'READY' AND OLD.state <> 'READY' BEGIN
        UPDATE arrival SET number = number + 1;
        UPDATE task SET band = 1, depth = 0, ord = (SELECT number FROM arrival) WHERE id = NEW.id;
    END;";

/// Who asks for what, and when, in seconds of the story.
struct Asked {
    at: f64,
    of: &'static str,
    /// Whether it is waited for and counted.
    counts: bool,
}

/// What is asked for, in the order of time.
struct Trace {
    workers: usize,
    asked: Vec<Asked>,
}

impl Trace {
    fn crowd() -> Self {
        let mut dice = Rng::with_seed(SEED);
        let (mut at, mut asked) = (0.0, Vec::new());
        for _ in 0..ROOTS {
            asked.push(Asked { at, of: "sandcastle", counts: true });
            at += -GAP * (1.0 - dice.f64()).ln();
        }
        let long = (0..LONG_TASKS).map(|_| Asked { at: dice.f64() * at, of: "long", counts: false });
        asked.extend(long);
        asked.sort_by(|one, other| one.at.total_cmp(&other.at));
        Self { workers: WORKERS, asked }
    }

    fn errands() -> Self {
        let slow = (0..2).map(|_| Asked { at: 0.0, of: "slow", counts: false });
        let errands =
            (0..ERRANDS).map(|index| Asked { at: 10.0 + number(index as u64) / 2.0, of: "errand", counts: true });
        Self { workers: 6, asked: slow.chain(errands).collect() }
    }
}

/// Seconds of the story from the request to the usable lease, for each that counts.
struct Latencies(Vec<f64>);

impl Latencies {
    fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / number(self.0.len() as u64)
    }

    fn longest(&self) -> f64 {
        self.0.iter().copied().fold(0.0, f64::max)
    }
}

pub(crate) async fn measure(table: &mut Table) -> Result<()> {
    let ours = simulated(false).await?;
    let fifo = simulated(true).await?;
    let real = real(Trace::crowd(), CROWDED_SECOND).await?;
    let (beside, fifo_beside) = (real.mean() / ours.mean(), real.mean() / fifo.mean());
    table.line(
        &format!("{ROOTS} cascades of 7 on {WORKERS} workers, mean latency"),
        "<= 1.1 x the simulation's",
        &format!("{:.0} s of the story; {:.0} s: {beside:.3} x", real.mean(), ours.mean()),
        beside <= BESIDE_SIMULATION,
    );
    table.line(
        "the same beside first in, first out",
        "<= 0.7 x",
        &format!("{:.0} s; {:.0} s: {fifo_beside:.3} x", real.mean(), fifo.mean()),
        fifo_beside <= BESIDE_FIFO,
    );
    let [ours, fifo, real] = [ours, fifo, real].map(|all| format!("{:.0} s", all.longest()));
    table.note(&format!(
        "{LONG_TASKS} long tasks beside them; the longest: real {real}, simulated {ours}, in order of arrival {fifo}"
    ));
    let errands = Box::pin(self::real(Trace::errands(), ERRANDS_SECOND)).await?;
    table.line(
        "short errands beside trees that wait, request to ACTIVE",
        "<= 2 x their own length",
        &format!("{:.2} s of the story in the mean, the longest {:.2} s", errands.mean(), errands.longest()),
        errands.mean() <= BESIDE_ITSELF * ERRAND,
    );
    Ok(())
}

/// The crowd over virtual time, on a thread of its own.
async fn simulated(first_in_first_out: bool) -> Result<Latencies> {
    let simulation = tokio::task::spawn_blocking(move || {
        let ground = Ground::new();
        let path = ground.fresh();
        if first_in_first_out {
            rusqlite::Connection::open(&path)?.execute_batch(FIRST_IN_FIRST_OUT)?;
        }
        let trace = Trace::crowd();
        ground::runtime().block_on(async {
            let clock = HeardClock::at(NOON);
            let settings = ground::settings(&path, trace.workers, false, Shares::default());
            play(&settings, clock, &trace, Duration::from_secs(1)).await
        })
    });
    simulation.await?
}

/// A trace in real time, on a disk.
async fn real(trace: Trace, second: Duration) -> Result<Latencies> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("drydock.db");
    let settings = Settings {
        database: Location::Sqlite { path: path.clone() },
        ..ground::settings(Path::new(&path), trace.workers, true, Shares::default())
    };
    play(&settings, Arc::new(SystemClock), &trace, second).await
}

async fn play(settings: &Settings, clock: SharedClock, trace: &Trace, second: Duration) -> Result<Latencies> {
    let stage = Arc::new(Stage::new(SEED, second));
    let timed = KINDS.iter().map(|make| {
        let stage = Arc::clone(&stage);
        Arc::new(Timed { make, stage }) as Arc<dyn Blueprint>
    });
    let engine = Engine::start(settings, Registry::new(timed.collect()), clock).await?;
    for make in KINDS {
        let name = make.kind.kind.to_owned();
        let (config, labels, limits) = (serde_json::json!({}), StringMap::new(), Limits::default());
        let draft = BlueprintDraft { kind: name.clone(), name, config, labels, limits };
        engine.apply_blueprint(&ground::admin(), draft, false, None).await?;
    }
    let begun = Instant::now();
    let mut counted = Vec::new();
    for (index, asked) in trace.asked.iter().enumerate() {
        pass(second.mul_f64(asked.at).saturating_sub(begun.elapsed())).await;
        let ask = Acquire {
            resource_type: asked.of.to_owned(),
            attributes: StringMap::from([(NAME.to_owned(), format!("{index}"))]),
            ttl: Some(Duration::from_hours(24)),
            ..Acquire::default()
        };
        let lease = engine.acquire(&ground::admin(), ask, None, Duration::ZERO).await?.lease.id;
        if asked.counts {
            counted.push(lease);
        }
    }
    let latencies = timeout(PATIENCE.max(second * 20_000), served(&engine, &counted, second)).await;
    engine.stop().await;
    Ok(Latencies(latencies.context("the crowd is not served in time")??))
}

/// Waits until all of these are ACTIVE; how long each took.
async fn served(engine: &Arc<Engine>, leases: &[LeaseId], second: Duration) -> Result<Vec<f64>> {
    let mut latencies = Vec::new();
    for id in leases {
        loop {
            let lease = engine.store().find_lease(id).await?.context("a lease that is kept")?;
            ensure!(lease.state.is_live(), "{id} is {:?}: {}", lease.state, lease.state_message);
            if let Some(at) = lease.active_time {
                latencies.push(span(at - lease.create_time).as_secs_f64() / second.as_secs_f64());
                break;
            }
            pass(second * 5).await;
        }
    }
    Ok(latencies)
}
