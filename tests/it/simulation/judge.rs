//! What must hold: rules in SQL on every state that is looked at, and, when all is over, how the queue was served.

use std::collections::BTreeMap;
use std::path::Path;

use drydock::clock::Micros;
use drydock::model::share::may_pass;
use drydock::model::task::head_start;
use rusqlite::{Connection, OpenFlags, Row};

use super::stage::{Stage, TRY};
use super::workload::{Plan, Workload};
use crate::queue::invariants::{BREACHES, EDGES, circles};

/// Looks at the file beside the engine.
pub(super) struct Judge {
    file: Connection,
}

/// A lease that was asked for by a job.
struct Served {
    id: String,
    owner: String,
    priority: i64,
    ord: Micros,
    asked: Micros,
    /// When it left the queue: for a resource, or to have one built.
    left: Micros,
}

impl Served {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        // What was built for it first may have gone to one ahead of it; then it has not been passed by those who came later.
        let build: Option<Micros> = row.get::<_, Option<Micros>>("first_build")?.or(row.get("build_time")?);
        let acquire: Option<Micros> = row.get("acquire_time")?;
        Ok(Self {
            id: row.get("id")?,
            owner: row.get("owner")?,
            priority: row.get("priority")?,
            ord: row.get("ord")?,
            asked: row.get("create_time")?,
            left: build.or(acquire).unwrap_or(Micros::MAX),
        })
    }

    fn place(&self) -> (Micros, &str) {
        (self.ord, &self.id)
    }
}

impl Judge {
    pub(super) fn of(path: &Path) -> Self {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let file = Connection::open_with_flags(path, flags).unwrap();
        file.set_prepared_statement_cache_capacity(64);
        Self { file }
    }

    fn texts(&self, statement: &str) -> Vec<String> {
        let mut prepared = self.file.prepare_cached(statement).unwrap();
        let rows = prepared.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }

    fn count(&self, statement: &str, of: &str) -> i64 {
        self.file.prepare_cached(statement).unwrap().query_row([of], |row| row.get(0)).unwrap()
    }

    /// What somebody has claimed.
    pub(super) fn claimed(&self) -> Vec<String> {
        self.texts("SELECT subject FROM task WHERE state = 'RUNNING'")
    }

    /// What must not be, as of now.
    pub(super) fn breaches(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (rule, statement) in BREACHES {
            found.extend(self.texts(statement).into_iter().map(|breach| format!("{rule}: {breach}")));
        }
        let mut prepared = self.file.prepare_cached(EDGES).unwrap();
        let edges = prepared.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let mut graph: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (waiter, awaited) in edges.map(Result::unwrap) {
            graph.entry(waiter).or_default().push(awaited);
        }
        found.extend(circles(&graph));
        found
    }

    /// When nothing moves but what takes its time: whoever waits for one of these has no room.
    pub(super) fn waits_in_vain(&self, plan: &Plan, stage: &Stage) -> Vec<String> {
        let running = self.count("SELECT count(*) FROM task WHERE state = 'RUNNING' AND id <> $1", "");
        let ready = self.count("SELECT count(*) FROM task WHERE state = 'READY' AND id <> $1", "");
        if ready > 0 || usize::try_from(running).ok() != Some(stage.under_way()) {
            return Vec::new();
        }
        let mut found = Vec::new();
        for of in plan.orderly {
            let queued =
                "SELECT count(*) FROM lease WHERE resource_type = $1 AND state = 'PENDING' AND allocating IS NULL";
            let live = "SELECT count(*) FROM resource WHERE resource_type = $1 AND state <> 'DESTROYED'";
            let roomy = "SELECT count(*) FROM resource r WHERE resource_type = $1 AND state = 'ACTIVE' \
                         AND (SELECT count(*) FROM slot s WHERE s.scope = r.id) < r.lease_limit";
            let (queued, live, roomy) = (self.count(queued, of), self.count(live, of), self.count(roomy, of));
            let most = stage.most.get(of).map_or(0, |most| most.resources);
            if queued > 0 && (roomy > 0 || usize::try_from(live).is_ok_and(|live| live < most)) {
                found
                    .push(format!("{queued} wait in vain: {live} {of} of {most} are there, {roomy} of them with room"));
            }
        }
        for (make, _) in plan.blueprints.iter().filter(|(make, _)| make.kind.stays && make.kind.reused_by_attributes) {
            found.extend(self.waits_beside(make.kind.kind));
        }
        found
    }

    /// The same for those whom not everything suits: nobody waits beside a free one that is as he wants it.
    fn waits_beside(&self, of: &str) -> Vec<String> {
        let statement = "SELECT count(*) FROM lease l JOIN resource r ON r.resource_type = l.resource_type AND r.attributes = l.attributes \
                         WHERE l.resource_type = $1 AND l.state = 'PENDING' AND l.allocating IS NULL AND r.state = 'ACTIVE' \
                         AND (SELECT count(*) FROM slot s WHERE s.scope = r.id) < r.lease_limit";
        let pairs = self.count(statement, of);
        if pairs == 0 { Vec::new() } else { vec![format!("somebody waits beside a free {of} that suits")] }
    }

    /// What was brought about by somebody whose claim was lost.
    pub(super) fn came_late(&self, stage: &Stage) -> Vec<String> {
        let made = format!(
            "SELECT id, CAST(facts ->> '{TRY}' AS INTEGER) AS made_by FROM resource WHERE state = 'ACTIVE' AND made_by IS NOT NULL \
             UNION ALL SELECT id, CAST(facts ->> '{TRY}' AS INTEGER) AS made_by FROM lease WHERE state = 'ACTIVE' AND made_by IS NOT NULL"
        );
        let mut prepared = self.file.prepare_cached(&made).unwrap();
        let rows = prepared.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let rows = rows.map(Result::<(String, i64), _>::unwrap);
        let late = rows.filter(|(id, by)| stage.is_overtaken(id, u64::try_from(*by).unwrap()));
        late.map(|(id, by)| format!("try {by} of {id} was taken over, and has been written")).collect()
    }

    /// The task of a subject that runs now, and its attempt.
    pub(super) fn running(&self, subject: &str) -> Option<(String, i64)> {
        let statement = "SELECT id, attempt FROM task WHERE subject = $1 AND state = 'RUNNING'";
        let mut prepared = self.file.prepare_cached(statement).unwrap();
        prepared.query_row([subject], |row| Ok((row.get(0)?, row.get(1)?))).ok()
    }

    /// Who was told to go on while it ran must not have parked after that.
    pub(super) fn deaf(&self, told: &[(String, i64)]) -> Vec<String> {
        let statement = "SELECT count(*) FROM task WHERE id || ' ' || attempt = $1 AND state = 'PARKED'";
        let parked = |(task, attempt): &&(String, i64)| self.count(statement, &format!("{task} {attempt}")) > 0;
        told.iter()
            .filter(parked)
            .map(|(task, _)| format!("{task} was signalled while it ran, and has parked"))
            .collect()
    }

    /// How many there are of a type.
    pub(super) fn active(&self, of: &str) -> i64 {
        self.count("SELECT count(*) FROM resource WHERE resource_type = $1 AND state = 'ACTIVE'", of)
    }

    /// What is left of it all.
    pub(super) fn left(&self) -> Vec<String> {
        self.texts(
            "SELECT id || ' is ' || state FROM lease WHERE state <> 'DESTROYED' \
             UNION ALL SELECT id || ' is ' || state FROM resource WHERE state <> 'DESTROYED' \
             UNION ALL SELECT scope || ' is held by ' || holder FROM slot UNION ALL SELECT task_id || ' waits for ' || on_id FROM wait \
             WHERE task_id NOT IN (SELECT id FROM task WHERE subject LIKE 'bp_%') \
             UNION ALL SELECT id || ' of ' || subject || ' is ' || state FROM task WHERE state <> 'DONE' AND subject NOT LIKE 'bp_%'",
        )
    }

    /// What happened, a line each.
    pub(super) fn events(&self) -> Vec<String> {
        self.texts("SELECT ((time - 1700000000000000) / 1000) || ' ms '  || kind || ' ' || subject || ' ' || reason || ' ' || message FROM event ORDER BY seq")
    }

    /// How the queue was served, when all is over.
    pub(super) fn verdict(&self, workload: Workload, plan: &Plan) -> Vec<String> {
        let mut found = Vec::new();
        if !plan.is_disturbed() {
            for of in plan.orderly {
                let served = self.served(of);
                found.extend(inversions(&served));
                found.extend(starved(&served, plan));
                if workload == Workload::Owners {
                    found.extend(shares(&served));
                }
            }
            if plan.trouble.stumbles == 0 {
                let often = "SELECT subject || ' had ' || count(*) || ' taken down for it' FROM event WHERE kind = 'lease.reclaims' \
                             GROUP BY subject HAVING count(*) > 1";
                found.extend(self.texts(often));
            }
        }
        let fresh = "SELECT id || ' was taken down to make room ' || (end_time - active_time) / 1000000 || ' s after it was built' \
                     FROM resource WHERE state_reason = 'RECLAIMED' AND active_time IS NOT NULL \
                     AND end_time - active_time < 180000000 AND resource_type = 'paint'";
        found.extend(self.texts(fresh));
        found
    }

    fn served(&self, of: &str) -> Vec<Served> {
        let served = "SELECT *, (SELECT min(time) FROM event WHERE kind = 'resource.created' \
                      AND json_extract(details, '$.made_for') = lease.id) AS first_build FROM lease WHERE resource_type = $1 ORDER BY build_time IS NULL, coalesce(build_time, acquire_time), id";
        let mut prepared = self.file.prepare_cached(served).unwrap();
        let rows = prepared.query_map([of], Served::of).unwrap();
        rows.map(Result::unwrap).filter(|one| one.left != Micros::MAX).collect()
    }
}

/// Leases that left the queue after one with a later place, although they queued before that one left.
fn inversions(served: &[Served]) -> Vec<String> {
    let mut found = Vec::new();
    for late in served {
        let passed =
            |early: &&Served| late.place() < early.place() && late.left > early.left && late.asked < early.left;
        if let Some(early) = served.iter().find(passed) {
            found.push(format!("{} was passed by {}, which had a later place", late.id, early.id));
        }
    }
    found
}

/// Nobody is passed more often by those who came later than `model::share` says.
fn starved(served: &[Served], plan: &Plan) -> Vec<String> {
    let mut found = Vec::new();
    for late in served {
        let mut passed: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
        for early in served.iter().filter(|early| early.asked > late.asked && early.left < late.left) {
            let entry = passed.entry(&early.owner).or_insert((0, early.priority));
            *entry = (entry.0 + 1, entry.1.max(early.priority));
        }
        for (owner, (times, priority)) in passed.into_iter().filter(|(owner, _)| *owner != late.owner) {
            let weight = plan.shares.of(owner).weight;
            // Its own earlier leases put its turn off, and are its own doing.
            let own = served.iter().filter(|one| one.owner == late.owner && one.asked <= late.asked).count();
            let own = i64::try_from(own).unwrap() * weight;
            let bound = may_pass(head_start(priority) - head_start(late.priority), weight) + own;
            if times > bound {
                found.push(format!("{} was passed {times} times by {owner}, and the bound is {bound}", late.id));
            }
        }
    }
    found
}

/// As long as both want more, the one of weight 3 is served three times as often, give or take one turn.
fn shares(served: &[Served]) -> Vec<String> {
    let (mut heavy, mut light) = (0_i64, 0_i64);
    for one in served {
        if one.owner == "heavy" {
            heavy += 1;
        } else {
            light += 1;
        }
        // The first ones found no queue.
        if heavy < 5 && (heavy - 3 * light).abs() > 6 {
            return vec![format!("{heavy} of the heavy owner and {light} of the light one were served")];
        }
    }
    Vec::new()
}
