-- Understood by SQLite and PostgreSQL. Columns are TEXT or BIGINT; times are microseconds since the epoch; maps and lists are JSON in TEXT.

CREATE TABLE blueprint (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, resource_type TEXT NOT NULL, config TEXT NOT NULL, labels TEXT NOT NULL,
    enabled BIGINT NOT NULL, max_resources BIGINT, leases_per_resource BIGINT, default_ttl BIGINT, max_ttl BIGINT,
    placement TEXT NOT NULL CHECK (placement IN ('pack', 'spread')), rank BIGINT, shared BIGINT NOT NULL,
    create_time BIGINT NOT NULL, update_time BIGINT NOT NULL, version BIGINT NOT NULL);
CREATE INDEX blueprint_type ON blueprint (resource_type);

CREATE TABLE resource (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, resource_type TEXT NOT NULL, blueprint_id TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('PENDING', 'ACTIVE', 'RELEASED', 'BROKEN', 'DESTROYED')),
    state_reason TEXT NOT NULL, state_message TEXT NOT NULL, facts TEXT NOT NULL, attributes TEXT NOT NULL, labels TEXT NOT NULL, owner TEXT NOT NULL,
    made_for TEXT, root_id TEXT, placed_on TEXT, lease_limit BIGINT NOT NULL, depth BIGINT NOT NULL, ord BIGINT NOT NULL,
    drain_comment TEXT, drain_actor TEXT, drain_time BIGINT, problem TEXT NOT NULL, cleanup_failures BIGINT NOT NULL, permanent BIGINT NOT NULL, torn_down BIGINT NOT NULL,
    create_time BIGINT NOT NULL, active_time BIGINT, check_time BIGINT, end_time BIGINT, version BIGINT NOT NULL);
CREATE INDEX resource_live ON resource (resource_type, id) WHERE state IN ('PENDING', 'ACTIVE');
CREATE INDEX resource_of ON resource (blueprint_id) WHERE state <> 'DESTROYED';
CREATE INDEX resource_placed ON resource (placed_on) WHERE placed_on IS NOT NULL;
CREATE UNIQUE INDEX resource_name ON resource (blueprint_id, name) WHERE state <> 'DESTROYED';
CREATE INDEX resource_ended ON resource (end_time) WHERE state = 'DESTROYED';

CREATE TABLE lease (
    id TEXT PRIMARY KEY, resource_type TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('PENDING', 'ACQUIRED', 'ACTIVE', 'RELEASED', 'BROKEN', 'DESTROYED')),
    state_reason TEXT NOT NULL, state_message TEXT NOT NULL, attributes TEXT NOT NULL, resource_labels TEXT NOT NULL, blueprints TEXT NOT NULL,
    facts TEXT NOT NULL, labels TEXT NOT NULL, owner TEXT NOT NULL, resource_id TEXT, blueprint_id TEXT, parent_id TEXT, need TEXT, root_id TEXT NOT NULL,
    depth BIGINT NOT NULL, priority BIGINT NOT NULL, ord BIGINT NOT NULL, epoch BIGINT NOT NULL, ttl BIGINT, max_ttl BIGINT NOT NULL,
    create_time BIGINT NOT NULL, queue_expire_time BIGINT, build_time BIGINT, acquire_time BIGINT, active_time BIGINT, expire_time BIGINT, renew_time BIGINT,
    use_time BIGINT, end_time BIGINT, destroy_time BIGINT, allocating TEXT, reacquires BIGINT NOT NULL, cleaned BIGINT NOT NULL, waiting TEXT, version BIGINT NOT NULL);
CREATE INDEX lease_queue ON lease (resource_type, ord, id) WHERE state = 'PENDING';
CREATE INDEX lease_on ON lease (resource_id) WHERE state IN ('ACQUIRED', 'ACTIVE', 'RELEASED', 'BROKEN');
CREATE INDEX lease_parent ON lease (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX lease_roots ON lease (owner, id) WHERE parent_id IS NULL;
CREATE INDEX lease_alive ON lease (id) WHERE state <> 'DESTROYED';
CREATE INDEX lease_root ON lease (root_id);
CREATE INDEX lease_ended ON lease (destroy_time) WHERE state = 'DESTROYED';

-- The one arbiter of exclusivity. Limits are slots too, never counts.
CREATE TABLE slot (scope TEXT NOT NULL, place BIGINT NOT NULL, holder TEXT NOT NULL, epoch BIGINT NOT NULL, PRIMARY KEY (scope, place));
CREATE INDEX slot_holder ON slot (holder);

-- One row per lease or resource: a dirty bit with a place in the queue, not a job log.
CREATE TABLE task (
    id TEXT PRIMARY KEY, subject TEXT NOT NULL UNIQUE, root_id TEXT,
    state TEXT NOT NULL CHECK (state IN ('READY', 'RUNNING', 'PARKED', 'DONE', 'DEAD')),
    band BIGINT NOT NULL, ord BIGINT NOT NULL, depth BIGINT NOT NULL, run_at BIGINT, attempt BIGINT NOT NULL, signal BIGINT NOT NULL,
    claimed_by TEXT, claim_until BIGINT, crashes BIGINT NOT NULL, failures BIGINT NOT NULL, last_error TEXT NOT NULL, baton TEXT,
    CHECK ((state = 'RUNNING') = (claimed_by IS NOT NULL)));
CREATE INDEX task_ready ON task (band, ord, depth DESC, id) WHERE state = 'READY';
CREATE INDEX task_timer ON task (run_at) WHERE state = 'PARKED' AND run_at IS NOT NULL;
CREATE INDEX task_dead ON task (subject) WHERE state = 'DEAD';
CREATE INDEX task_claims ON task (claim_until) WHERE state = 'RUNNING';
CREATE INDEX task_root ON task (root_id) WHERE state <> 'DONE';

-- Durable wake edges: a task parks until something it waits for changes.
CREATE TABLE wait (task_id TEXT NOT NULL, on_id TEXT NOT NULL, PRIMARY KEY (task_id, on_id));
CREATE INDEX wait_on ON wait (on_id);

-- Intents and outcomes of external side effects.
CREATE TABLE effect (
    subject TEXT NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL CHECK (state IN ('BEGUN', 'DONE')), request TEXT NOT NULL, outcome TEXT NOT NULL,
    time BIGINT NOT NULL, PRIMARY KEY (subject, name));

CREATE TABLE event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, time BIGINT NOT NULL, kind TEXT NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL,
    actor TEXT NOT NULL, subject TEXT NOT NULL, subjects TEXT NOT NULL, root_id TEXT, owner TEXT NOT NULL, details TEXT NOT NULL);
CREATE INDEX event_subject ON event (subject, seq);
CREATE INDEX event_root ON event (root_id, seq);
CREATE INDEX event_time ON event (time);

-- Answers to mutations that carried a request_id.
CREATE TABLE request (
    principal TEXT NOT NULL, method TEXT NOT NULL, request_id TEXT NOT NULL, body TEXT NOT NULL, object TEXT NOT NULL, expire_time BIGINT NOT NULL,
    PRIMARY KEY (principal, method, request_id));
CREATE INDEX request_expire ON request (expire_time);

CREATE TABLE daemon (
    id TEXT PRIMARY KEY, version TEXT NOT NULL, machine TEXT NOT NULL, address TEXT NOT NULL, start_time BIGINT NOT NULL, seen_time BIGINT NOT NULL,
    draining BIGINT NOT NULL);
