//! What must hold in every committed state, looked up by SQL on the database itself, through a connection of our own.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr as _;

use sqlx::any::AnyConnectOptions;
use sqlx::{AnyConnection, ConnectOptions as _, Row as _};

/// Statements that find what must not be: each row is one breach, in words.
pub(crate) const BREACHES: &[(&str, &str)] = &[
    (
        "a live lease or resource has exactly one task that is not DONE",
        "SELECT s.id || ' (' || s.state || ') has ' || (SELECT count(*) FROM task t WHERE t.subject = s.id AND t.state <> 'DONE') AS breach \
         FROM (SELECT id, state FROM lease UNION ALL SELECT id, state FROM resource) s WHERE s.state <> 'DESTROYED' \
         AND 1 <> (SELECT count(*) FROM task t WHERE t.subject = s.id AND t.state <> 'DONE')",
    ),
    (
        "RUNNING if and only if claimed",
        "SELECT id || ' is ' || state AS breach FROM task \
         WHERE (state = 'RUNNING') <> (claimed_by IS NOT NULL) OR (state = 'RUNNING') <> (claim_until IS NOT NULL)",
    ),
    (
        "a PARKED task has a timer, or a wait, or belongs to something ACTIVE",
        "SELECT t.id || ' of ' || t.subject AS breach FROM task t WHERE t.state = 'PARKED' AND t.run_at IS NULL \
         AND NOT EXISTS (SELECT 1 FROM wait w WHERE w.task_id = t.id) AND t.subject NOT LIKE 'bp_%' \
         AND NOT EXISTS (SELECT 1 FROM lease l WHERE l.id = t.subject AND l.state = 'ACTIVE') \
         AND NOT EXISTS (SELECT 1 FROM resource r WHERE r.id = t.subject AND r.state = 'ACTIVE')",
    ),
    (
        "what is waited for can still change",
        "SELECT w.task_id || ' waits for ' || w.on_id AS breach FROM wait w WHERE w.on_id NOT LIKE 'pool:%' \
         AND NOT EXISTS (SELECT 1 FROM lease l WHERE l.id = w.on_id AND l.state <> 'DESTROYED') \
         AND NOT EXISTS (SELECT 1 FROM resource r WHERE r.id = w.on_id AND r.state <> 'DESTROYED')",
    ),
    (
        "a finished task waits for nothing",
        "SELECT w.task_id || ' waits for ' || w.on_id AS breach FROM wait w JOIN task t ON t.id = w.task_id WHERE t.state = 'DONE'",
    ),
    (
        "only the living hold slots, and of this epoch",
        "SELECT s.scope || '/' || s.place || ' is held by ' || s.holder AS breach FROM slot s \
         WHERE NOT EXISTS (SELECT 1 FROM lease l WHERE l.id = s.holder AND l.epoch = s.epoch AND l.state IN ('ACQUIRED', 'ACTIVE', 'RELEASED', 'BROKEN')) \
         AND NOT EXISTS (SELECT 1 FROM resource r WHERE r.id = s.holder AND r.state <> 'DESTROYED')",
    ),
    (
        "a lease on a resource holds one of its places, below its limit",
        "SELECT l.id || ' on ' || l.resource_id AS breach FROM lease l WHERE l.resource_id IS NOT NULL AND l.state <> 'DESTROYED' \
         AND 1 <> (SELECT count(*) FROM slot s JOIN resource r ON r.id = s.scope WHERE s.holder = l.id AND s.scope = l.resource_id AND s.place < r.lease_limit)",
    ),
    (
        "a resource is leased only while it is not PENDING and not DESTROYED",
        "SELECT l.id || ' on ' || r.id AS breach FROM lease l JOIN resource r ON r.id = l.resource_id \
         WHERE l.state <> 'DESTROYED' AND l.cleaned = 0 AND r.state IN ('PENDING', 'DESTROYED')",
    ),
    (
        "a sub-lease does not outlive the resource that needs it",
        "SELECT l.id || ' of ' || l.parent_id AS breach FROM lease l JOIN resource r ON r.id = l.parent_id \
         WHERE l.state <> 'DESTROYED' AND r.state = 'DESTROYED'",
    ),
    (
        "no effect outlives its resource",
        "SELECT e.subject || ' ' || e.name AS breach FROM effect e \
         WHERE NOT EXISTS (SELECT 1 FROM resource r WHERE r.id = e.subject AND r.state <> 'DESTROYED')",
    ),
];

/// Who waits for what.
pub(crate) const EDGES: &str = "SELECT t.subject AS waiter, w.on_id AS awaited FROM wait w JOIN task t ON t.id = w.task_id WHERE t.state = 'PARKED'";

/// A connection that only reads, beside the engine's own.
pub(crate) async fn reader(database: &str) -> AnyConnection {
    sqlx::any::install_default_drivers();
    let read_only = if database.starts_with("sqlite:") { "?mode=ro" } else { "" };
    let options = AnyConnectOptions::from_str(&format!("{database}{read_only}")).unwrap();
    options.connect().await.unwrap()
}

/// All breaches, as of one moment.
pub(crate) async fn breaches(reader: &mut AnyConnection) -> Vec<String> {
    let mut found = Vec::new();
    let one_moment =
        if reader.backend_name() == "PostgreSQL" { "BEGIN ISOLATION LEVEL REPEATABLE READ" } else { "BEGIN" };
    sqlx::query(one_moment).execute(&mut *reader).await.unwrap();
    for (rule, statement) in BREACHES {
        for row in sqlx::query(*statement).fetch_all(&mut *reader).await.unwrap() {
            found.push(format!("{rule}: {}", row.get::<String, _>("breach")));
        }
    }
    let edges = sqlx::query(EDGES);
    let mut graph: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in edges.fetch_all(&mut *reader).await.unwrap() {
        graph.entry(row.get("waiter")).or_default().push(row.get("awaited"));
    }
    sqlx::query("COMMIT").execute(&mut *reader).await.unwrap();
    found.extend(circles(&graph));
    found
}

/// Those who wait for themselves.
pub(crate) fn circles(graph: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut done = BTreeSet::new();
    let circles = graph.keys().filter_map(|start| walk(start, graph, &mut Vec::new(), &mut done));
    circles.map(|circle| format!("nobody waits for himself: {circle}")).collect()
}

/// One look at the file, without any breach.
pub(crate) async fn assert_hold(database: &str) {
    let found = breaches(&mut reader(database).await).await;
    assert!(found.is_empty(), "{found:#?}");
}

fn walk<'g>(
    at: &'g str,
    graph: &'g BTreeMap<String, Vec<String>>,
    path: &mut Vec<&'g str>,
    done: &mut BTreeSet<&'g str>,
) -> Option<String> {
    if path.contains(&at) {
        return Some(format!("{} → {at}", path.join(" → ")));
    }
    if !done.insert(at) {
        return None;
    }
    path.push(at);
    let circle = graph.get(at).into_iter().flatten().find_map(|next| walk(next, graph, path, done));
    path.pop();
    circle
}
