//! Blueprints in the store.

use super::row::{Columns, Row, json, map};
use super::statement::{Statement, sql};
use super::{Store, Tx};
use crate::error::Result;
use crate::model::id::BlueprintId;
use crate::model::{Blueprint, Limits, Placement, Upkeep};

pub(super) fn blueprint(row: &Row) -> Result<Blueprint> {
    let c = Columns::of(row);
    Ok(Blueprint {
        id: BlueprintId::from_stored(c.text("id")?),
        name: c.text("name")?,
        kind: c.text("kind")?,
        resource_type: c.text("resource_type")?,
        config: c.json("config")?,
        labels: c.json("labels")?,
        enabled: c.flag("enabled")?,
        limits: Limits {
            max_resources: c.maybe_integer("max_resources")?,
            leases_per_resource: c.maybe_integer("leases_per_resource")?,
            default_ttl: c.maybe_integer("default_ttl")?,
            max_ttl: c.maybe_integer("max_ttl")?,
            placement: if c.text("placement")? == "spread" { Placement::Spread } else { Placement::Pack },
            rank: c.maybe_integer("rank")?,
            shared: c.flag("shared")?,
            max_builds: c.maybe_integer("max_builds")?,
            leases_per_owner: c.maybe_integer("leases_per_owner")?,
            exclusive_by: c.json("exclusive_by")?,
            upkeep: c.json("upkeep")?,
        },
        breaker: c.json("breaker")?,
        create_time: c.integer("create_time")?,
        update_time: c.integer("update_time")?,
        version: c.integer("version")?,
    })
}

fn by_id_or_name(key: &str) -> Statement {
    sql("SELECT * FROM blueprint WHERE id = $1 OR name = $1").bind(key.to_owned())
}

impl Store {
    /// A blueprint by its id or its name.
    pub async fn find_blueprint(&self, key: &str) -> Result<Option<Blueprint>> {
        by_id_or_name(key).fetch_optional(self.readers()).await?.as_ref().map(blueprint).transpose()
    }

    /// All blueprints, by name.
    pub async fn all_blueprints(&self) -> Result<Vec<Blueprint>> {
        sql("SELECT * FROM blueprint ORDER BY name").fetch_all(self.readers()).await?.iter().map(blueprint).collect()
    }
}

impl Tx {
    /// A blueprint by its id or its name.
    pub async fn find_blueprint(&mut self, key: &str) -> Result<Option<Blueprint>> {
        self.fetch_one(by_id_or_name(key)).await?.as_ref().map(blueprint).transpose()
    }

    /// Writes a new blueprint; whether the name was free.
    pub async fn insert_blueprint(&mut self, blueprint: &Blueprint) -> Result<bool> {
        let statement = bind_blueprint(
            sql(
                "INSERT INTO blueprint (config, labels, enabled, max_resources, leases_per_resource, default_ttl, max_ttl, placement, rank, \
                 shared, resource_type, update_time, max_builds, leases_per_owner, exclusive_by, upkeep, id, name, kind, create_time, version) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21) \
                 ON CONFLICT (name) DO NOTHING",
            ),
            blueprint,
        )
        .bind(blueprint.id.to_string())
        .bind(blueprint.name.clone())
        .bind(blueprint.kind.clone())
        .bind(blueprint.create_time)
        .bind(blueprint.version);
        Ok(self.execute(statement).await? == 1)
    }

    /// Replaces a blueprint that nobody has written since `version` was read.
    ///
    /// # Errors
    /// `ETAG_MISMATCH`.
    pub async fn put_blueprint(&mut self, version: i64, after: &Blueprint) -> Result<()> {
        let statement = bind_blueprint(
            sql(
                "UPDATE blueprint SET config = $1, labels = $2, enabled = $3, max_resources = $4, leases_per_resource = $5, default_ttl = $6, \
                 max_ttl = $7, placement = $8, rank = $9, shared = $10, resource_type = $11, update_time = $12, max_builds = $13, \
                 leases_per_owner = $14, exclusive_by = $15, upkeep = $16, version = version + 1 WHERE id = $17 AND version = $18",
            ),
            after,
        )
        .bind(after.id.to_string())
        .bind(version);
        if self.execute(statement).await? == 0 { Err(self.stale(after.id.as_str())) } else { Ok(()) }
    }

    /// Takes a blueprint away.
    pub async fn delete_blueprint(&mut self, id: &BlueprintId) -> Result<()> {
        let statement = sql("DELETE FROM blueprint WHERE id = $1").bind(id.to_string());
        self.execute(statement).await.map(|_| ())
    }
}

fn bind_blueprint(statement: Statement, blueprint: &Blueprint) -> Statement {
    let limits = &blueprint.limits;
    statement
        .bind(json(&blueprint.config))
        .bind(map(&blueprint.labels))
        .bind(i64::from(blueprint.enabled))
        .bind(limits.max_resources)
        .bind(limits.leases_per_resource)
        .bind(limits.default_ttl)
        .bind(limits.max_ttl)
        .bind(if limits.placement == Placement::Spread { "spread" } else { "pack" })
        .bind(limits.rank)
        .bind(i64::from(limits.shared))
        .bind(blueprint.resource_type.clone())
        .bind(blueprint.update_time)
        .bind(limits.max_builds)
        .bind(limits.leases_per_owner)
        .bind(json(&limits.exclusive_by))
        .bind(if limits.upkeep == Upkeep::default() { "{}".to_owned() } else { json(&limits.upkeep) })
}
