-- What was served lately, for estimates; and what should be gone, for the metrics. A query finds its index by having the same literals.
CREATE INDEX lease_served ON lease (resource_type, active_time) WHERE active_time IS NOT NULL;
CREATE INDEX resource_stuck ON resource (id) WHERE cleanup_failures > 0 AND state <> 'DESTROYED';
