-- What is asked for often and is few among many. A query finds its index by having the same literals.
CREATE INDEX resource_registered ON resource (id) WHERE state IN ('PENDING', 'ACTIVE') AND made_for IS NULL;
CREATE INDEX lease_active ON lease (owner, id) WHERE state = 'ACTIVE';
