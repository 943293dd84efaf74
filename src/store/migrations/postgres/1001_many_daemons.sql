-- What several daemons on one PostgreSQL need beside what both databases have.

-- Numbers of events are made of those of transactions: `base` lifts them over those of a cluster that the database was moved
-- from, `purged` is the highest that was taken away.
CREATE TABLE event_origin (base BIGINT NOT NULL, purged BIGINT NOT NULL);
INSERT INTO event_origin (base, purged) VALUES (0, 0);

-- The daemon, by machine and data folder, that alone can take a task's steps: what they are about is on its machine.
ALTER TABLE task ADD COLUMN home TEXT COLLATE "C";

-- Rows that change all the time: room for their next version on the same page, and no long wait for a clean-up.
ALTER TABLE task SET (fillfactor = 60, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
ALTER TABLE wait SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
ALTER TABLE slot SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
ALTER TABLE lease SET (fillfactor = 80);
ALTER TABLE resource SET (fillfactor = 80);
