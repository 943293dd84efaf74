-- Waiters carry their place in the queue, so that the best of a pool is the first in an index however many there are.
ALTER TABLE wait ADD COLUMN band BIGINT NOT NULL DEFAULT 0;
ALTER TABLE wait ADD COLUMN ord BIGINT NOT NULL DEFAULT 0;
ALTER TABLE wait ADD COLUMN depth BIGINT NOT NULL DEFAULT 0;
UPDATE wait SET band = (SELECT band FROM task WHERE id = task_id), ord = (SELECT ord FROM task WHERE id = task_id),
                depth = (SELECT depth FROM task WHERE id = task_id) WHERE task_id IN (SELECT id FROM task);
CREATE INDEX wait_queue ON wait (on_id, band, ord, depth DESC, task_id);
DROP INDEX wait_on;
