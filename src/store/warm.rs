//! What pools, pauses and reclaims write: beside the rows' own versions, so that no etag changes with them.

use super::Tx;
use super::claiming::Level;
use super::queue::NewTask;
use super::row::{Columns, json};
use super::statement::sql;
use crate::clock::Micros;
use crate::error::Result;
use crate::model::id::{BlueprintId, LeaseId, ResourceId, Subject, TaskId};
use crate::model::task::{BAND_ALLOCATING, LAST};
use crate::model::upkeep::Warmth;
use crate::model::{Breaker, Lease, Resource};

impl Tx {
    /// Makes the task of a blueprint, in the last place of the queue, or wakes it.
    pub async fn rouse(&mut self, blueprint: &BlueprintId) -> Result<()> {
        let subject = Subject::from(blueprint.clone());
        let done = sql("DELETE FROM task WHERE subject = $1 AND state = 'DONE'").bind(subject.to_string());
        self.execute(done).await?;
        let known = sql("SELECT id FROM task WHERE subject = $1").bind(subject.to_string());
        if self.fetch_one(known).await?.is_some() {
            return self.wake_task(&subject).await;
        }
        let id = TaskId::new(self.now());
        let task = NewTask {
            id,
            subject,
            root_id: None,
            band: BAND_ALLOCATING,
            ord: LAST,
            depth: 0,
            timer: None,
            ready: true,
        };
        self.insert_task(&task).await
    }

    /// The task of a blueprint that is gone goes too.
    pub async fn forget_blueprint(&mut self, blueprint: &BlueprintId) -> Result<()> {
        let statement = sql("DELETE FROM task WHERE subject = $1").bind(blueprint.to_string());
        self.execute(statement).await.map(|_| ())
    }

    /// What a pool wanted lately.
    pub async fn warmth(&mut self, blueprint: &BlueprintId) -> Result<Warmth> {
        let statement = sql("SELECT warmth FROM blueprint WHERE id = $1").bind(blueprint.to_string());
        self.fetch_one(statement).await?.map_or(Ok(Warmth::default()), |row| Columns::of(&row).json("warmth"))
    }

    /// Writes what a pool wanted lately.
    pub async fn put_warmth(&mut self, blueprint: &BlueprintId, warmth: &Warmth) -> Result<()> {
        let statement =
            sql("UPDATE blueprint SET warmth = $1 WHERE id = $2").bind(json(warmth)).bind(blueprint.to_string());
        self.execute(statement).await.map(|_| ())
    }

    /// Writes whether building pauses.
    pub async fn put_breaker(&mut self, blueprint: &BlueprintId, breaker: &Breaker) -> Result<()> {
        let statement =
            sql("UPDATE blueprint SET breaker = $1 WHERE id = $2").bind(json(breaker)).bind(blueprint.to_string());
        self.execute(statement).await.map(|_| ())
    }

    /// A resource that was just inserted is nobody's.
    pub async fn mark_warm(&mut self, id: &ResourceId) -> Result<()> {
        let statement = sql("UPDATE resource SET warm = 1 WHERE id = $1").bind(id.to_string());
        self.execute(statement).await.map(|_| ())
    }

    /// A resource that is nobody's becomes this lease's, and moves to its place in the queue.
    pub async fn claim_resource(&mut self, id: &ResourceId, lease: &Lease) -> Result<()> {
        let statement = sql("UPDATE resource SET owner = $1, made_for = $2, ord = $3 WHERE id = $4")
            .bind(lease.owner.clone())
            .bind(lease.id.to_string())
            .bind(lease.ord)
            .bind(id.to_string());
        self.execute(statement).await?;
        self.move_task(id.as_str(), lease.ord).await
    }

    /// What a resource that became somebody's has leased, or was made for that, becomes his too.
    pub async fn pass_on(&mut self, subject: &Subject, owner: &str, ord: Micros) -> Result<()> {
        let statement = match subject {
            Subject::Lease(_) => sql("UPDATE lease SET owner = $1, ord = $2 WHERE id = $3"),
            Subject::Resource(_) => sql("UPDATE resource SET owner = $1, ord = $2 WHERE id = $3"),
            Subject::Blueprint(_) => return Ok(()),
        };
        self.execute(statement.bind(owner.to_owned()).bind(ord).bind(subject.to_string())).await?;
        self.move_task(subject.as_str(), ord).await
    }

    async fn move_task(&mut self, subject: &str, ord: Micros) -> Result<()> {
        let statement = sql("UPDATE task SET ord = $1 WHERE subject = $2 RETURNING band, ord");
        let moved = self.execute_returning(statement.bind(ord).bind(subject.to_owned())).await?;
        for row in &moved {
            self.note_level(Level::of(row)?);
        }
        let statement = sql("UPDATE wait SET ord = $1 WHERE task_id IN (SELECT id FROM task WHERE subject = $2)");
        self.execute(statement.bind(ord).bind(subject.to_owned())).await.map(|_| ())
    }

    /// Nobody has a resource from now on: its last lease went, or it was built ahead.
    pub async fn note_idle(&mut self, id: &ResourceId) -> Result<()> {
        let statement = sql("UPDATE resource SET idle_since = $1 WHERE id = $2").bind(self.now()).bind(id.to_string());
        self.execute(statement).await.map(|_| ())
    }

    /// One more lease on a resource; how many there were with it.
    pub async fn note_use(&mut self, id: &ResourceId) -> Result<i64> {
        let statement = sql("UPDATE resource SET uses = uses + 1 WHERE id = $1 RETURNING uses").bind(id.to_string());
        let rows = self.execute_returning(statement).await?;
        rows.first().map_or(Ok(0), |row| Columns::of(row).integer("uses"))
    }

    /// Drydock itself lets no new lease onto a resource; whether one could have come before.
    pub async fn retire(&mut self, id: &ResourceId, comment: &str) -> Result<bool> {
        let statement = sql(
            "UPDATE resource SET drain_comment = $1, drain_actor = 'drydock', drain_time = $2, version = version + 1 \
             WHERE id = $3 AND drain_time IS NULL",
        )
        .bind(comment.to_owned())
        .bind(self.now())
        .bind(id.to_string());
        Ok(self.execute(statement).await? > 0)
    }

    /// Remembers what was taken down for a lease.
    pub async fn note_reclaimed(&mut self, lease: &LeaseId, victim: &ResourceId) -> Result<()> {
        let statement =
            sql("UPDATE lease SET reclaimed = $1 WHERE id = $2").bind(victim.to_string()).bind(lease.to_string());
        self.execute(statement).await.map(|_| ())
    }

    /// An operator gives a clean-up up: its next failure is the last.
    pub async fn abandon(&mut self, subject: &Subject) -> Result<()> {
        let statement = match subject {
            Subject::Lease(_) => sql("UPDATE lease SET abandoned = 1 WHERE id = $1"),
            Subject::Resource(_) => sql("UPDATE resource SET abandoned = 1 WHERE id = $1"),
            Subject::Blueprint(_) => return Ok(()),
        };
        self.execute(statement.bind(subject.to_string())).await?;
        self.wake_task(subject).await
    }

    /// Whether any resource was leased before, or built ahead, and is nobody's now.
    pub async fn is_any_idle(&mut self) -> Result<bool> {
        let statement = sql("SELECT 1 AS n FROM resource r WHERE r.state = 'ACTIVE' AND r.idle_since IS NOT NULL \
             AND NOT EXISTS (SELECT 1 FROM slot s WHERE s.scope = r.id) LIMIT 1");
        Ok(self.fetch_one(statement).await?.is_some())
    }

    /// Resources of a blueprint that are being built.
    pub async fn builds_of(&mut self, blueprint: &BlueprintId) -> Result<Vec<Resource>> {
        let statement = sql("SELECT * FROM resource WHERE blueprint_id = $1 AND state = 'PENDING' ORDER BY id")
            .bind(blueprint.to_string());
        self.fetch(statement).await?.iter().map(super::resources::resource).collect()
    }
}
