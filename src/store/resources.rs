//! Resources in the store.

use super::row::{Columns, Row, map};
use super::statement::{Statement, sql};
use super::{Store, Tx};
use crate::error::{Error, Reason, Result};
use crate::model::id::{BlueprintId, LeaseId, ResourceId, Subject, TaskId};
use crate::model::task::{BAND_ALLOCATING, BAND_FREEING};
use crate::model::{Drain, Resource, ResourceState};

pub(super) fn resource(row: &Row) -> Result<Resource> {
    let c = Columns::of(row);
    let drain = match c.maybe_integer("drain_time")? {
        None => None,
        Some(time) => Some(Drain {
            comment: c.maybe_text("drain_comment")?.unwrap_or_default(),
            actor: c.maybe_text("drain_actor")?.unwrap_or_default(),
            time,
        }),
    };
    Ok(Resource {
        id: ResourceId::from_stored(c.text("id")?),
        name: c.text("name")?,
        resource_type: c.text("resource_type")?,
        blueprint_id: BlueprintId::from_stored(c.text("blueprint_id")?),
        state: c.state("state", ResourceState::parse)?,
        state_reason: c.text("state_reason")?,
        state_message: c.text("state_message")?,
        facts: c.json("facts")?,
        attributes: c.json("attributes")?,
        labels: c.json("labels")?,
        owner: c.text("owner")?,
        made_for: c.maybe_text("made_for")?.map(LeaseId::from_stored),
        root_id: c.maybe_text("root_id")?.map(LeaseId::from_stored),
        placed_on: c.maybe_text("placed_on")?.map(LeaseId::from_stored),
        lease_limit: c.integer("lease_limit")?,
        depth: c.integer("depth")?,
        ord: c.integer("ord")?,
        drain,
        problem: c.text("problem")?,
        cleanup_failures: c.integer("cleanup_failures")?,
        create_time: c.integer("create_time")?,
        active_time: c.maybe_integer("active_time")?,
        check_time: c.maybe_integer("check_time")?,
        end_time: c.maybe_integer("end_time")?,
        permanent: c.flag("permanent")?,
        torn_down: c.flag("torn_down")?,
        warm: c.flag("warm")?,
        uses: c.integer("uses")?,
        idle_since: c.maybe_integer("idle_since")?,
        abandoned: c.flag("abandoned")?,
        version: c.integer("version")?,
    })
}

fn by_id(id: &ResourceId) -> Statement {
    sql("SELECT * FROM resource WHERE id = $1").bind(id.to_string())
}

fn placed(lease: &LeaseId) -> Statement {
    sql("SELECT * FROM resource WHERE placed_on = $1 AND state <> 'DESTROYED' ORDER BY id").bind(lease.to_string())
}

impl Store {
    /// A resource, or `None`.
    pub async fn find_resource(&self, id: &ResourceId) -> Result<Option<Resource>> {
        by_id(id).fetch_optional(self.readers()).await?.as_ref().map(resource).transpose()
    }

    /// Resources placed on a caller's host lease that are not DESTROYED.
    pub async fn placed_on(&self, lease: &LeaseId) -> Result<Vec<Resource>> {
        placed(lease).fetch_all(self.readers()).await?.iter().map(resource).collect()
    }

    /// How many leases on a resource are not cleaned up yet.
    pub async fn leases_left_on(&self, id: &ResourceId) -> Result<i64> {
        let row = sql(
            "SELECT count(*) AS n FROM lease WHERE resource_id = $1 AND state IN ('ACQUIRED', 'ACTIVE', 'RELEASED', 'BROKEN') AND cleaned = 0",
        )
        .bind(id.to_string())
        .fetch_one(self.readers()).await?;
        Columns::of(&row).integer("n")
    }

    /// How many leases sit on a resource now.
    pub async fn lease_count(&self, id: &ResourceId) -> Result<i64> {
        let row = sql("SELECT count(DISTINCT holder) AS n FROM slot WHERE scope = $1")
            .bind(id.to_string())
            .fetch_one(self.readers())
            .await?;
        Columns::of(&row).integer("n")
    }
}

impl Tx {
    /// A resource, or `None`.
    pub async fn find_resource(&mut self, id: &ResourceId) -> Result<Option<Resource>> {
        self.fetch_one(by_id(id)).await?.as_ref().map(resource).transpose()
    }

    /// A resource that must be there.
    pub async fn get_resource(&mut self, id: &ResourceId) -> Result<Resource> {
        self.find_resource(id)
            .await?
            .ok_or_else(|| Error::new(Reason::ResourceNotFound, format!("there is no resource {id}")))
    }

    /// Resources placed on a caller's host lease that are not DESTROYED.
    pub async fn placed_on(&mut self, lease: &LeaseId) -> Result<Vec<Resource>> {
        self.fetch(placed(lease)).await?.iter().map(resource).collect()
    }

    /// Live resources of a blueprint: not DESTROYED.
    pub async fn resources_of(&mut self, blueprint: &BlueprintId) -> Result<Vec<Resource>> {
        self.lock_pool_of(blueprint).await?;
        let statement = sql("SELECT * FROM resource WHERE blueprint_id = $1 AND state <> 'DESTROYED' ORDER BY id")
            .bind(blueprint.to_string());
        self.fetch(statement).await?.iter().map(resource).collect()
    }

    /// Writes a new resource, PENDING, with its task.
    pub async fn insert_resource(&mut self, resource: &Resource) -> Result<()> {
        let statement = bind_resource(
            sql(
                "INSERT INTO resource (state, state_reason, state_message, facts, drain_comment, drain_actor, drain_time, problem, \
                 cleanup_failures, active_time, check_time, end_time, permanent, labels, torn_down, version, id, name, resource_type, blueprint_id, \
                 attributes, owner, made_for, root_id, placed_on, lease_limit, depth, ord, create_time) VALUES ($1, $2, $3, $4, $5, $6, $7, \
                 $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29)",
            ),
            resource,
        )
        .bind(resource.id.to_string())
        .bind(resource.name.clone())
        .bind(resource.resource_type.clone())
        .bind(resource.blueprint_id.to_string())
        .bind(map(&resource.attributes))
        .bind(resource.owner.clone())
        .bind(resource.made_for.as_ref().map(ToString::to_string))
        .bind(resource.root_id.as_ref().map(ToString::to_string))
        .bind(resource.placed_on.as_ref().map(ToString::to_string))
        .bind(resource.lease_limit)
        .bind(resource.depth)
        .bind(resource.ord)
        .bind(resource.create_time);
        self.execute(statement).await?;
        let task = super::queue::NewTask {
            id: TaskId::new(self.now()),
            subject: resource.id.clone().into(),
            root_id: resource.root_id.clone(),
            band: BAND_ALLOCATING,
            ord: resource.ord,
            depth: resource.depth,
            timer: None,
            ready: true,
        };
        self.insert_task(&task).await?;
        // Its pool counts what is being built.
        self.wake_task(&Subject::from(resource.blueprint_id.clone())).await
    }

    /// Writes a resource's new state and whatever else changed, and wakes whoever waits for it. As [`Tx::put_lease`].
    ///
    /// # Errors
    /// `INTERNAL` for a change that is not allowed, `ETAG_MISMATCH` for one that came too late.
    pub async fn put_resource(&mut self, before: &Resource, after: &Resource) -> Result<()> {
        let moved = before.state != after.state;
        if moved && !before.state.may_become(after.state) {
            return Err(Error::new(
                Reason::Internal,
                format!(
                    "the resource {} cannot go from {} to {}",
                    after.id,
                    before.state.as_str(),
                    after.state.as_str()
                ),
            ));
        }
        if let Some(root) = &after.root_id {
            self.lock_tree(root).await?;
        }
        let statement = bind_resource(
            sql(
                "UPDATE resource SET state = $1, state_reason = $2, state_message = $3, facts = $4, drain_comment = $5, drain_actor = $6, \
                 drain_time = $7, problem = $8, cleanup_failures = $9, active_time = $10, check_time = $11, end_time = $12, permanent = $13, \
                 labels = $14, torn_down = $15, version = $16 + 1 WHERE id = $17 AND version = $18",
            ),
            after,
        )
        .bind(after.id.to_string())
        .bind(before.version);
        if self.execute(statement).await? == 0 {
            return Err(self.stale(after.id.as_str()));
        }
        if moved {
            self.counts().built(after);
            self.wake(after.id.as_str()).await?;
            self.wake_task(&Subject::from(after.blueprint_id.clone())).await?;
            if before.state.is_live() && !after.state.is_live() {
                self.hurry(&Subject::from(after.id.clone()), BAND_FREEING).await?;
            }
        }
        Ok(())
    }
}

/// The columns that change in a life, in the order of both statements.
fn bind_resource(statement: Statement, resource: &Resource) -> Statement {
    let drain = resource.drain.as_ref();
    statement
        .bind(resource.state.as_str())
        .bind(resource.state_reason.clone())
        .bind(resource.state_message.clone())
        .bind(map(&resource.facts))
        .bind(drain.map(|drain| drain.comment.clone()))
        .bind(drain.map(|drain| drain.actor.clone()))
        .bind(drain.map(|drain| drain.time))
        .bind(resource.problem.clone())
        .bind(resource.cleanup_failures)
        .bind(resource.active_time)
        .bind(resource.check_time)
        .bind(resource.end_time)
        .bind(i64::from(resource.permanent))
        .bind(map(&resource.labels))
        .bind(i64::from(resource.torn_down))
        .bind(resource.version)
}
