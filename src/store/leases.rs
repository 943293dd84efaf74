//! Leases in the store.

use super::row::{Columns, Row, from_json, json, map};
use super::statement::{Statement, sql};
use super::{Store, Tx};
use crate::error::{Error, Reason, Result};
use crate::model::id::{BlueprintId, LeaseId, ResourceId, Subject, TaskId};
use crate::model::task::{BAND_ALLOCATING, BAND_FREEING};
use crate::model::{Lease, LeaseSpec, LeaseState, Waiting};

pub(super) fn lease(row: &Row) -> Result<Lease> {
    let c = Columns::of(row);
    let waiting: Option<Waiting> = c.maybe_text("waiting")?.map(|text| from_json("waiting", &text)).transpose()?;
    let blueprints: Vec<String> = c.json("blueprints")?;
    let parent = c.maybe_text("parent_id")?.zip(c.maybe_text("need")?);
    Ok(Lease {
        id: LeaseId::from_stored(c.text("id")?),
        spec: LeaseSpec {
            resource_type: c.text("resource_type")?,
            attributes: c.json("attributes")?,
            blueprints: blueprints.into_iter().map(BlueprintId::from_stored).collect(),
            resource_labels: c.json("resource_labels")?,
            exclusive: c.flag("exclusive")?,
            apart_from: c.json("apart")?,
        },
        state: c.state("state", LeaseState::parse)?,
        state_reason: c.text("state_reason")?,
        state_message: c.text("state_message")?,
        facts: c.json("facts")?,
        labels: c.json("labels")?,
        owner: c.text("owner")?,
        resource_id: c.maybe_text("resource_id")?.map(ResourceId::from_stored),
        blueprint_id: c.maybe_text("blueprint_id")?.map(BlueprintId::from_stored),
        parent: parent.map(|(id, need)| (ResourceId::from_stored(id), need)),
        root_id: LeaseId::from_stored(c.text("root_id")?),
        depth: c.integer("depth")?,
        priority: c.integer("priority")?,
        ord: c.integer("ord")?,
        gang: c.maybe_text("gang")?.map(LeaseId::from_stored),
        epoch: c.integer("epoch")?,
        ttl: c.maybe_integer("ttl")?,
        max_ttl: c.integer("max_ttl")?,
        create_time: c.integer("create_time")?,
        queue_expire_time: c.maybe_integer("queue_expire_time")?,
        build_time: c.maybe_integer("build_time")?,
        acquire_time: c.maybe_integer("acquire_time")?,
        active_time: c.maybe_integer("active_time")?,
        expire_time: c.maybe_integer("expire_time")?,
        renew_time: c.maybe_integer("renew_time")?,
        use_time: c.maybe_integer("use_time")?,
        end_time: c.maybe_integer("end_time")?,
        destroy_time: c.maybe_integer("destroy_time")?,
        allocating: c.maybe_text("allocating")?.map(ResourceId::from_stored),
        reacquires: c.integer("reacquires")?,
        cleaned: c.flag("cleaned")?,
        reclaimed: c.maybe_text("reclaimed")?.map(ResourceId::from_stored),
        abandoned: c.flag("abandoned")?,
        waiting,
        version: c.integer("version")?,
    })
}

fn by_id(id: &LeaseId) -> Statement {
    sql("SELECT * FROM lease WHERE id = $1").bind(id.to_string())
}

impl Store {
    /// A lease, or `None`.
    pub async fn find_lease(&self, id: &LeaseId) -> Result<Option<Lease>> {
        by_id(id).fetch_optional(self.readers()).await?.as_ref().map(lease).transpose()
    }

    /// The leases that a resource needs, also ended ones, in order of birth.
    pub async fn needs_of(&self, resource: &ResourceId) -> Result<Vec<Lease>> {
        needs(resource).fetch_all(self.readers()).await?.iter().map(lease).collect()
    }

    /// The leases of a gang, in the order in which they were asked for.
    pub async fn gang(&self, first: &LeaseId) -> Result<Vec<Lease>> {
        gang(first).fetch_all(self.readers()).await?.iter().map(lease).collect()
    }

    /// A whole tree of leases, root first.
    pub async fn tree(&self, root: &LeaseId) -> Result<Vec<Lease>> {
        sql("SELECT * FROM lease WHERE root_id = $1 ORDER BY depth, id")
            .bind(root.to_string())
            .fetch_all(self.readers())
            .await?
            .iter()
            .map(lease)
            .collect()
    }

    /// ACTIVE leases of `owner` that sit on the same machine are found by their resources; this is all of them.
    pub async fn active_leases_of(&self, owner: &str) -> Result<Vec<Lease>> {
        sql(ACTIVE_OF).bind(owner.to_owned()).fetch_all(self.readers()).await?.iter().map(lease).collect()
    }

    /// 1 for the first in the queue of its type.
    pub async fn queue_position(&self, lease: &Lease) -> Result<i64> {
        let rows = sql(
            "SELECT count(*) AS n FROM lease WHERE resource_type = $1 AND state = 'PENDING' AND allocating IS NULL AND (ord < $2 OR (ord = $2 AND id < $3))",
        )
        .bind(lease.spec.resource_type.clone())
        .bind(lease.ord)
        .bind(lease.id.to_string())
        .search(self.readers())
        .await?;
        rows.first().map_or(Ok(0), |row| Columns::of(row).integer("n")).map(|before| before + 1)
    }
}

/// By an index of just the active ones.
pub(super) const ACTIVE_OF: &str = "SELECT * FROM lease WHERE owner = $1 AND state = 'ACTIVE' ORDER BY id";

fn gang(first: &LeaseId) -> Statement {
    sql("SELECT * FROM lease WHERE gang = $1 ORDER BY id").bind(first.to_string())
}

fn needs(resource: &ResourceId) -> Statement {
    sql("SELECT * FROM lease WHERE parent_id = $1 ORDER BY id").bind(resource.to_string())
}

impl Tx {
    /// The leases of a gang, in the order in which they were asked for.
    pub async fn gang(&mut self, first: &LeaseId) -> Result<Vec<Lease>> {
        self.fetch(gang(first)).await?.iter().map(lease).collect()
    }

    /// A lease, or `None`.
    pub async fn find_lease(&mut self, id: &LeaseId) -> Result<Option<Lease>> {
        self.fetch_one(by_id(id)).await?.as_ref().map(lease).transpose()
    }

    /// A lease that must be there.
    pub async fn get_lease(&mut self, id: &LeaseId) -> Result<Lease> {
        self.find_lease(id).await?.ok_or_else(|| Error::new(Reason::LeaseNotFound, format!("there is no lease {id}")))
    }

    /// The leases that a resource needs, also ended ones.
    pub async fn needs_of(&mut self, resource: &ResourceId) -> Result<Vec<Lease>> {
        self.fetch(needs(resource)).await?.iter().map(lease).collect()
    }

    /// Leases on a resource that are not DESTROYED.
    pub async fn leases_on(&mut self, resource: &ResourceId) -> Result<Vec<Lease>> {
        self.lock_resource(resource).await?;
        let statement = sql(
            "SELECT * FROM lease WHERE resource_id = $1 AND state IN ('ACQUIRED', 'ACTIVE', 'RELEASED', 'BROKEN') ORDER BY id",
        )
        .bind(resource.to_string());
        self.fetch(statement).await?.iter().map(lease).collect()
    }

    /// Writes a new lease with its task, in one breath: a lease without a task would be forgotten. A lease that is still
    /// on its way has a task that is ready; one that is born ACTIVE has a timer.
    pub async fn insert_lease(&mut self, lease: &Lease) -> Result<()> {
        let statement = bind_lease(
            sql(
                "INSERT INTO lease (state, state_reason, state_message, facts, resource_id, epoch, ttl, queue_expire_time, acquire_time, \
                 active_time, expire_time, renew_time, use_time, end_time, destroy_time, allocating, reacquires, waiting, blueprint_id, build_time, cleaned, version, id, \
                 resource_type, attributes, resource_labels, blueprints, labels, owner, parent_id, need, root_id, depth, priority, ord, max_ttl, \
                 create_time, gang, exclusive, apart) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, \
                 $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36, $37, $38, $39, $40)",
            ),
            lease,
        )
        .bind(lease.id.to_string())
        .bind(lease.spec.resource_type.clone())
        .bind(map(&lease.spec.attributes))
        .bind(map(&lease.spec.resource_labels))
        .bind(json(&lease.spec.blueprints.iter().map(BlueprintId::as_str).collect::<Vec<_>>()))
        .bind(map(&lease.labels))
        .bind(lease.owner.clone())
        .bind(lease.parent.as_ref().map(|(id, _)| id.to_string()))
        .bind(lease.parent.as_ref().map(|(_, need)| need.clone()))
        .bind(lease.root_id.to_string())
        .bind(lease.depth)
        .bind(lease.priority)
        .bind(lease.ord)
        .bind(lease.max_ttl)
        .bind(lease.create_time)
        .bind(lease.gang.as_ref().map(ToString::to_string))
        .bind(i64::from(lease.spec.exclusive))
        .bind(map(&lease.spec.apart_from));
        self.execute(statement).await?;
        self.counts().served(lease);
        let task = super::queue::NewTask {
            id: TaskId::new(self.now()),
            subject: lease.id.clone().into(),
            root_id: Some(lease.root_id.clone()),
            band: BAND_ALLOCATING,
            ord: lease.ord,
            depth: lease.depth,
            timer: (lease.state == LeaseState::Active).then_some(lease.expire_time).flatten(),
            ready: lease.state != LeaseState::Active,
        };
        self.insert_task(&task).await
    }

    /// Writes a lease's new state and whatever else changed, and wakes whoever waits for it. The change must be allowed
    /// by the state table, and nobody may have written it since it was read.
    ///
    /// # Errors
    /// `INTERNAL` for a change that is not allowed or came too late: read again, decide again.
    pub async fn put_lease(&mut self, before: &Lease, after: &Lease) -> Result<()> {
        let moved = before.state != after.state;
        if moved && !before.state.reaches(after.state) {
            return Err(Error::new(
                Reason::Internal,
                format!("the lease {} cannot go from {} to {}", after.id, before.state.as_str(), after.state.as_str()),
            ));
        }
        self.lock_tree(&after.root_id).await?;
        let statement = bind_lease(
            sql(
                "UPDATE lease SET state = $1, state_reason = $2, state_message = $3, facts = $4, resource_id = $5, epoch = $6, ttl = $7, \
                 queue_expire_time = $8, acquire_time = $9, active_time = $10, expire_time = $11, renew_time = $12, use_time = $13, \
                 end_time = $14, destroy_time = $15, allocating = $16, reacquires = $17, waiting = $18, blueprint_id = $19, build_time = $20, \
                 cleaned = $21, version = $22 + 1 WHERE id = $23 AND version = $24",
            ),
            after,
        )
        .bind(after.id.to_string())
        .bind(before.version);
        if self.execute(statement).await? == 0 {
            return Err(self.stale(after.id.as_str()));
        }
        if moved {
            self.counts().served(after);
            self.wake(after.id.as_str()).await?;
            if after.state.has_ended() && before.state.is_live() {
                self.hurry(&Subject::from(after.id.clone()), BAND_FREEING).await?;
            }
        }
        Ok(())
    }

    /// Notes when an interface of the lease was last used.
    pub async fn touch_lease(&mut self, id: &LeaseId, at: crate::clock::Micros) -> Result<()> {
        let statement = sql("UPDATE lease SET use_time = $1 WHERE id = $2").bind(at).bind(id.to_string());
        self.execute(statement).await.map(|_| ())
    }
}

/// The columns that change in a life, in the order of both statements.
fn bind_lease(statement: Statement, lease: &Lease) -> Statement {
    statement
        .bind(lease.state.as_str())
        .bind(lease.state_reason.clone())
        .bind(lease.state_message.clone())
        .bind(map(&lease.facts))
        .bind(lease.resource_id.as_ref().map(ToString::to_string))
        .bind(lease.epoch)
        .bind(lease.ttl)
        .bind(lease.queue_expire_time)
        .bind(lease.acquire_time)
        .bind(lease.active_time)
        .bind(lease.expire_time)
        .bind(lease.renew_time)
        .bind(lease.use_time)
        .bind(lease.end_time)
        .bind(lease.destroy_time)
        .bind(lease.allocating.as_ref().map(ToString::to_string))
        .bind(lease.reacquires)
        .bind(lease.waiting.as_ref().map(json))
        .bind(lease.blueprint_id.as_ref().map(ToString::to_string))
        .bind(lease.build_time)
        .bind(i64::from(lease.cleaned))
        .bind(lease.version)
}
