-- How resources are kept (upkeep, as JSON), what a pool wanted lately (warmth), and whether building pauses (breaker).
ALTER TABLE blueprint ADD COLUMN upkeep TEXT NOT NULL DEFAULT '{}';
ALTER TABLE blueprint ADD COLUMN warmth TEXT NOT NULL DEFAULT '{}';
ALTER TABLE blueprint ADD COLUMN breaker TEXT NOT NULL DEFAULT '{}';

ALTER TABLE resource ADD COLUMN warm BIGINT NOT NULL DEFAULT 0;
ALTER TABLE resource ADD COLUMN uses BIGINT NOT NULL DEFAULT 0;
ALTER TABLE resource ADD COLUMN idle_since BIGINT;
ALTER TABLE resource ADD COLUMN abandoned BIGINT NOT NULL DEFAULT 0;
CREATE INDEX resource_idle ON resource (id) WHERE state = 'ACTIVE' AND idle_since IS NOT NULL;
CREATE INDEX resource_building ON resource (blueprint_id) WHERE state = 'PENDING';

ALTER TABLE lease ADD COLUMN reclaimed TEXT;
ALTER TABLE lease ADD COLUMN abandoned BIGINT NOT NULL DEFAULT 0;
