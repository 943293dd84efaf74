-- Whether a task was alone at work in its daemon when its claim lapsed: how many of its crashes were in company, and of the last one the
-- daemon, the attempt and whether it was in company, so that it can be taken back when that daemon turns out to be alive.
ALTER TABLE task ADD COLUMN company BIGINT NOT NULL DEFAULT 0;
ALTER TABLE task ADD COLUMN lapsed TEXT;
ALTER TABLE task ADD COLUMN lapsed_attempt BIGINT;
ALTER TABLE task ADD COLUMN lapsed_company BIGINT NOT NULL DEFAULT 0;
CREATE INDEX task_lapsed ON task (lapsed) WHERE lapsed IS NOT NULL;
