-- +goose NO TRANSACTION
-- What control nodes have to remember of their own work, such as orders of
-- certificates: no node follows it, and it has no revisions.

-- +goose Up
CREATE TABLE IF NOT EXISTS records (
	kind TEXT NOT NULL,
	key TEXT NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY (kind, key)
);
