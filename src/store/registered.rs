//! Resources that were registered by hand, in the store.

use super::resources::resource;
use super::row::{Columns, map};
use super::statement::{Statement, sql};
use super::{Store, Tx};
use crate::clock::Micros;
use crate::error::Result;
use crate::model::id::{BlueprintId, ResourceId};
use crate::model::{Resource, StringMap};

fn named(blueprint: &BlueprintId, name: &str) -> Statement {
    sql("SELECT * FROM resource WHERE blueprint_id = $1 AND name = $2 AND state <> 'DESTROYED'")
        .bind(blueprint.to_string())
        .bind(name.to_owned())
}

/// By an index of just these.
pub(super) const REGISTERED: &str =
    "SELECT * FROM resource WHERE state IN ('PENDING', 'ACTIVE') AND made_for IS NULL AND warm = 0 ORDER BY id";

impl Store {
    /// Live resources that were registered by hand, oldest first.
    pub async fn registered_resources(&self) -> Result<Vec<Resource>> {
        sql(REGISTERED).fetch_all(self.readers()).await?.iter().map(resource).collect()
    }

    /// The resource of this name that is not gone, or `None`.
    pub async fn resource_named(&self, blueprint: &BlueprintId, name: &str) -> Result<Option<Resource>> {
        named(blueprint, name).fetch_optional(self.readers()).await?.as_ref().map(resource).transpose()
    }
}

impl Tx {
    /// The resource of this name that is not gone, or `None`.
    pub async fn resource_named(&mut self, blueprint: &BlueprintId, name: &str) -> Result<Option<Resource>> {
        self.fetch_one(named(blueprint, name)).await?.as_ref().map(resource).transpose()
    }

    /// Places of a blueprint's limit that are taken.
    pub async fn places_of(&mut self, blueprint: &BlueprintId) -> Result<Vec<i64>> {
        let statement = sql("SELECT place FROM slot WHERE scope = $1").bind(blueprint.to_string());
        self.fetch(statement).await?.iter().map(|row| Columns::of(row).integer("place")).collect()
    }

    /// Replaces what a resource was registered with. Call [`Tx::put_resource`] in the same transaction: that one checks
    /// that nobody wrote in between.
    pub async fn set_attributes(&mut self, id: &ResourceId, attributes: &StringMap) -> Result<()> {
        let statement =
            sql("UPDATE resource SET attributes = $1 WHERE id = $2").bind(map(attributes)).bind(id.to_string());
        self.execute(statement).await.map(|_| ())
    }

    /// Notes that a resource was examined; that is no change of it, so its etag stays.
    pub async fn note_check(&mut self, id: &ResourceId, at: Micros) -> Result<()> {
        let statement = sql("UPDATE resource SET check_time = $1 WHERE id = $2").bind(at).bind(id.to_string());
        self.execute(statement).await.map(|_| ())
    }
}
