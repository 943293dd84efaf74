//! An engine in this process, without gRPC.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use drydock::blueprint::{self, Registry, document};
use drydock::clock::SystemClock;
use drydock::engine::{Acquire, BlueprintDraft, Caller, Engine, Settings};
use drydock::host::Host;
use drydock::host::local::LocalHost;
use drydock::model::filter::{Field, Filter, Kind};
use drydock::model::{LeaseState, Limits};
use drydock::store::{ListQuery, Location};

use crate::daemon::PATIENCE;

/// What the filters in here use.
const FIELDS: &[Field] =
    &[Field { name: "state", kind: Kind::Enum(&["PENDING", "ACQUIRED", "ACTIVE", "RELEASED", "BROKEN", "DESTROYED"]) }];

/// Whoever asks in here.
pub(crate) fn caller() -> Caller {
    Caller { principal: "bench".to_owned(), admin: true }
}

/// Where the database is in a folder.
pub(crate) fn database(folder: &Path) -> PathBuf {
    folder.join("drydock.db")
}

/// Starts an engine over a folder, and applies a document.
pub(crate) async fn start(folder: &Path, document: &str) -> Result<Arc<Engine>> {
    let host = Arc::new(LocalHost::new(folder.to_owned(), PathBuf::from(env!("CARGO_BIN_EXE_drydock"))));
    let settings = Settings {
        database: Location::Sqlite { path: database(folder) },
        workers: 4,
        sweep: true,
        retention: Duration::from_hours(24 * 365 * 100),
        stock_blueprints: false,
        machine: "bench".to_owned(),
        address: String::new(),
        shares: drydock::model::Shares::default(),
    };
    let registry = Registry::new(blueprint::all(Arc::clone(&host) as Arc<dyn Host>));
    let engine = Engine::start(&settings, registry, Arc::new(SystemClock)).await?;
    host.inherits_up_to(engine.newest_inherited());
    for document in document::parse("bench", document)? {
        let draft = BlueprintDraft {
            name: document.name,
            kind: document.kind,
            config: document.config,
            labels: document.labels,
            limits: Limits {
                max_resources: document.limits.max_resources,
                leases_per_resource: document.limits.leases_per_resource,
                shared: document.limits.shared.unwrap_or(false),
                ..Limits::default()
            },
        };
        engine.apply_blueprint(&caller(), draft, false, None).await?;
    }
    Ok(engine)
}

/// Acquires a host and waits until it is ACTIVE; its id.
pub(crate) async fn acquire(engine: &Arc<Engine>) -> Result<String> {
    let ask = Acquire { resource_type: "host".to_owned(), ..Acquire::default() };
    let lease = engine.acquire(&caller(), ask, None, PATIENCE).await?.lease;
    ensure!(lease.state == LeaseState::Active, "{} is {:?}: {}", lease.id, lease.state, lease.state_message);
    Ok(lease.id.to_string())
}

/// Gives it back; with `wait`, returns when nothing of it is left.
pub(crate) async fn release(engine: &Arc<Engine>, lease_id: &str, wait: Duration) -> Result<()> {
    engine.release_lease(&caller(), lease_id, "", false, None, wait).await?;
    Ok(())
}

/// A first page of leases; how many are on it, one beyond it included.
pub(crate) async fn page(engine: &Arc<Engine>, filter: Option<&str>) -> Result<usize> {
    let filter = filter.map(|text| Filter::parse(text, FIELDS)).transpose()?.flatten();
    let query = ListQuery { filter, limit: 50, ..ListQuery::default() };
    Ok(engine.list_leases(&caller(), query, false).await?.len())
}
