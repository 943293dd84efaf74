//! The snapshot that an allocation is decided on: one lease, and all that could serve it.

use std::collections::BTreeMap;

use super::Tx;
use super::row::{Columns, Row};
use super::statement::{composed, numbered, sql};
use super::step::pool_of;
use crate::clock::Micros;
use crate::error::Result;
use crate::model::Lease;
use crate::model::id::{BlueprintId, LeaseId};
use crate::model::pool::{Candidate, Neighbour, PoolView};

/// So many waiters before a lease are looked at; when there are more, nothing is left for it anyway.
const AHEAD: i64 = 256;

const BLUEPRINTS: &str = "SELECT * FROM blueprint WHERE resource_type = $1 ORDER BY name";
const CANDIDATES: &str = "SELECT r.*, (SELECT group_concat(place || '=' || holder, ' ') FROM slot WHERE scope = r.id) AS taken FROM resource r \
                          WHERE r.resource_type = $1 AND r.state IN ('PENDING', 'ACTIVE') ORDER BY r.id";
const CANDIDATES_ON_POSTGRES: &str = "SELECT r.*, (SELECT string_agg(place || '=' || holder, ' ') FROM slot WHERE scope = r.id) AS taken FROM resource r \
     WHERE r.resource_type = $1 AND r.state IN ('PENDING', 'ACTIVE') ORDER BY r.id";
const BUILT: &str = "SELECT s.scope, s.place FROM blueprint b JOIN slot s ON s.scope = b.id WHERE b.resource_type = $1";
/// Who queues, and for whom something was built that is ready: it is about to take its place there.
pub(super) const QUEUE: &str = "SELECT * FROM lease WHERE resource_type = $1 AND state = 'PENDING' \
                     AND (allocating IS NULL OR EXISTS (SELECT 1 FROM resource r WHERE r.id = allocating AND r.state = 'ACTIVE')) \
                     AND (ord < $2 OR (ord = $2 AND id < $3)) ORDER BY ord, id LIMIT $4";

fn candidate(row: &Row) -> Result<Candidate> {
    let taken: Option<String> = Columns::of(row).maybe_text("taken")?;
    Ok(Candidate { resource: super::resources::resource(row)?, taken: places(taken.as_deref()) })
}

fn places(text: Option<&str>) -> Vec<(i64, LeaseId)> {
    let read = |entry: &str| {
        let (place, holder) = entry.split_once('=')?;
        Some((place.parse().ok()?, LeaseId::from_stored(holder.to_owned())))
    };
    text.into_iter().flat_map(|text| text.split(' ')).filter_map(read).collect()
}

fn built(rows: &[Row]) -> Result<BTreeMap<BlueprintId, Vec<i64>>> {
    let mut built: BTreeMap<BlueprintId, Vec<i64>> = BTreeMap::new();
    for row in rows {
        let columns = Columns::of(row);
        built.entry(BlueprintId::from_stored(columns.text("scope")?)).or_default().push(columns.integer("place")?);
    }
    Ok(built)
}

impl Tx {
    /// What could serve this lease, as of now and until the commit.
    pub async fn pool_view(&mut self, lease: &Lease) -> Result<PoolView> {
        self.view_of(&lease.spec.resource_type, lease.ord, lease.id.as_str()).await
    }

    /// What there is of a type, and who queues for it before this place in the queue.
    pub async fn view_of(&mut self, resource_type: &str, ord: Micros, id: &str) -> Result<PoolView> {
        self.lock_pool(&pool_of(resource_type)).await?;
        let of = || resource_type.to_owned();
        let blueprints = self.fetch(sql(BLUEPRINTS).bind(of())).await?;
        let candidates = self.fetch(sql(CANDIDATES).on_postgres(CANDIDATES_ON_POSTGRES).bind(of())).await?;
        let limited = self.fetch(sql(BUILT).bind(of())).await?;
        let queue = sql(QUEUE).bind(of()).bind(ord).bind(id.to_owned()).bind(AHEAD);
        let ahead = self.fetch(queue).await?;
        Ok(PoolView {
            blueprints: blueprints.iter().map(super::blueprints::blueprint).collect::<Result<_>>()?,
            candidates: candidates.iter().map(candidate).collect::<Result<_>>()?,
            built: built(&limited)?,
            ahead: ahead.iter().map(super::leases::lease).collect::<Result<_>>()?,
            now: self.now(),
            ..PoolView::default()
        })
    }

    /// Whether the task of one of these leases is at work, or about to be. Then one of them carries the baton of the pool from now on,
    /// so that whoever lets them go first hears when they took nothing.
    pub async fn let_go_first(&mut self, leases: &[LeaseId], pool: &str) -> Result<bool> {
        let text = format!(
            "SELECT id, baton FROM task WHERE subject IN ({}) AND state IN ('READY', 'RUNNING') ORDER BY band, ord, depth DESC, id",
            numbered(leases.len())
        );
        let values = leases.iter().map(|lease| lease.to_string().into()).collect();
        let moving = self.fetch(composed(text, values)).await?;
        let Some(first) = moving.first() else { return Ok(false) };
        for row in &moving {
            if Columns::of(row).maybe_text("baton")?.is_some() {
                return Ok(true);
            }
        }
        let hand = sql("UPDATE task SET baton = $1, signal = signal + 1 WHERE id = $2");
        self.execute(hand.bind(pool.to_owned()).bind(Columns::of(first).text("id")?)).await?;
        Ok(true)
    }

    /// Who holds which places of these scopes.
    pub async fn held_slots(&mut self, scopes: &[String]) -> Result<BTreeMap<String, Vec<(i64, String)>>> {
        let text = format!(
            "SELECT scope, place, holder FROM slot WHERE scope IN ({}) ORDER BY scope, place",
            numbered(scopes.len())
        );
        let values = scopes.iter().cloned().map(Into::into).collect();
        let mut held: BTreeMap<String, Vec<(i64, String)>> = BTreeMap::new();
        for row in self.fetch(composed(text, values)).await? {
            let columns = Columns::of(&row);
            let slot = (columns.integer("place")?, columns.text("holder")?);
            held.entry(columns.text("scope")?).or_default().push(slot);
        }
        Ok(held)
    }

    /// Whether a lease on this type that has not gone keeps apart from others.
    pub async fn anybody_keeps_apart(&mut self, resource_type: &str) -> Result<bool> {
        let statement = sql(
            "SELECT 1 AS found FROM lease WHERE resource_type = $1 AND apart <> '{}' AND state <> 'DESTROYED' LIMIT 1",
        );
        Ok(self.fetch_one(statement.bind(resource_type.to_owned())).await?.is_some())
    }

    /// The leases on resources of this type, as others on the same resource see them.
    pub async fn neighbours(&mut self, resource_type: &str) -> Result<BTreeMap<LeaseId, Neighbour>> {
        let statement = sql(
            "SELECT DISTINCT l.id, l.labels, l.apart FROM resource r JOIN slot s ON s.scope = r.id JOIN lease l ON l.id = s.holder \
             WHERE r.resource_type = $1 AND r.state IN ('PENDING', 'ACTIVE')",
        );
        let rows = self.fetch(statement.bind(resource_type.to_owned())).await?;
        rows.iter()
            .map(|row| {
                let columns = Columns::of(row);
                let neighbour = Neighbour { labels: columns.json("labels")?, apart_from: columns.json("apart")? };
                Ok((LeaseId::from_stored(columns.text("id")?), neighbour))
            })
            .collect()
    }
}
