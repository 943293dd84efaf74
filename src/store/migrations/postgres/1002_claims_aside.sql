-- Every look at a claimed task by its id says that it is RUNNING too, and an index of just those is so small that PostgreSQL
-- would search that one instead of the ids: through all tasks that were claimed since the oldest transaction on the server
-- began. The same tasks in other words, which only those say who look for claims.
CREATE INDEX task_claimed ON task (claim_until) WHERE claim_until IS NOT NULL;
DROP INDEX task_claims;
