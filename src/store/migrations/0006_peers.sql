-- Where the other daemons on this database reach a daemon: the machine and data folder that it is, the address of its door, and
-- the certificate by which both ends of a connection know each other. Empty: it has no such door.
ALTER TABLE daemon ADD COLUMN home TEXT NOT NULL DEFAULT '';
ALTER TABLE daemon ADD COLUMN peer_address TEXT NOT NULL DEFAULT '';
ALTER TABLE daemon ADD COLUMN peer_certificate TEXT NOT NULL DEFAULT '';
