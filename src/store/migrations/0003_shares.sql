-- Fair shares, see model::share: virtual time of each owner that has queued lately, and of the queue (the owner without a name).
CREATE TABLE share (owner TEXT PRIMARY KEY, vtime BIGINT NOT NULL);

-- Leases that are taken all at once or not at all; what a lease wants for itself alone, and with whom it will not share.
ALTER TABLE lease ADD COLUMN gang TEXT;
ALTER TABLE lease ADD COLUMN exclusive BIGINT NOT NULL DEFAULT 0;
ALTER TABLE lease ADD COLUMN apart TEXT NOT NULL DEFAULT '{}';
CREATE INDEX lease_apart ON lease (resource_type) WHERE apart <> '{}' AND state <> 'DESTROYED';
CREATE INDEX lease_gang ON lease (gang) WHERE gang IS NOT NULL;

ALTER TABLE blueprint ADD COLUMN max_builds BIGINT;
ALTER TABLE blueprint ADD COLUMN leases_per_owner BIGINT;
ALTER TABLE blueprint ADD COLUMN exclusive_by TEXT NOT NULL DEFAULT '[]';
