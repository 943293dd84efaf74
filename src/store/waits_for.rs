//! Which trees wait for what other trees hold.

use super::Tx;
use super::row::Columns;
use super::statement::sql;
use crate::error::Result;
use crate::model::id::{LeaseId, ResourceId};

/// Capacity of a pool in the hands of a tree that is not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Root of the tree.
    pub root: LeaseId,
    /// The lease that sits on a resource of the pool, or for which one is being built.
    pub lease: LeaseId,
    /// The resource that is being built for it.
    pub building: Option<ResourceId>,
}

impl Tx {
    /// Resource types that a tree has parked for.
    pub async fn pools_waited_for(&mut self, root: &LeaseId) -> Result<Vec<String>> {
        self.lock_circles().await?;
        let statement = sql("SELECT DISTINCT w.on_id FROM task t JOIN wait w ON w.task_id = t.id \
             WHERE t.root_id = $1 AND t.state = 'PARKED' AND w.on_id >= 'pool:' AND w.on_id < 'pool;' ORDER BY w.on_id")
        .bind(root.to_string());
        let pool = |row| Ok(Columns::of(row).text("on_id")?.trim_start_matches("pool:").to_owned());
        self.fetch(statement).await?.iter().map(pool).collect()
    }

    /// What trees whose root is still PENDING hold of a resource type, other than that of `root`.
    pub async fn held_by_unfinished(&mut self, resource_type: &str, root: &LeaseId) -> Result<Vec<Held>> {
        let seats = sql(
            "SELECT DISTINCT l.root_id, l.id, NULL AS building FROM resource r JOIN slot s ON s.scope = r.id JOIN lease l ON l.id = s.holder \
             JOIN lease t ON t.id = l.root_id WHERE r.resource_type = $1 AND r.state IN ('PENDING', 'ACTIVE') AND t.state = 'PENDING' \
             AND l.root_id <> $2 ORDER BY l.root_id, l.id",
        );
        let built = sql(
            "SELECT DISTINCT r.root_id, r.made_for AS id, r.id AS building FROM blueprint b JOIN slot s ON s.scope = b.id \
             JOIN resource r ON r.id = s.holder JOIN lease t ON t.id = r.root_id WHERE b.resource_type = $1 AND r.state = 'PENDING' \
             AND r.made_for IS NOT NULL AND t.state = 'PENDING' AND r.root_id <> $2 ORDER BY r.root_id, r.id",
        );
        let mut held = Vec::new();
        for statement in [seats, built] {
            let rows = self.fetch(statement.bind(resource_type.to_owned()).bind(root.to_string())).await?;
            for row in &rows {
                let columns = Columns::of(row);
                held.push(Held {
                    root: LeaseId::from_stored(columns.text("root_id")?),
                    lease: LeaseId::from_stored(columns.text("id")?),
                    building: columns.maybe_text("building")?.map(ResourceId::from_stored),
                });
            }
        }
        Ok(held)
    }
}
