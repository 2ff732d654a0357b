-- +goose NO TRANSACTION
-- Each statement may run twice: a node that dies half-way leaves the rest to the
-- next. Only what SQLite and PostgreSQL share: no sequences, foreign keys or
-- triggers. Times are microseconds since 1970, JSON is text.

-- +goose Up
CREATE TABLE IF NOT EXISTS feed (
	shard BIGINT NOT NULL PRIMARY KEY,
	rev BIGINT NOT NULL,           -- of the newest change; +1 for each revision, no gaps
	floor BIGINT NOT NULL,         -- changes up to here are compacted away
	history_floor BIGINT NOT NULL, -- states before this revision are not known any more
	epoch TEXT NOT NULL            -- another one after a restore
);

CREATE TABLE IF NOT EXISTS items (
	kind TEXT NOT NULL,
	key TEXT NOT NULL,
	rev BIGINT NOT NULL,
	since BIGINT NOT NULL,
	source TEXT NOT NULL,
	team TEXT NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY (kind, key)
);
CREATE INDEX IF NOT EXISTS items_rev ON items (rev);
CREATE INDEX IF NOT EXISTS items_source ON items (source, kind, key);

CREATE TABLE IF NOT EXISTS changes (
	shard BIGINT NOT NULL,
	rev BIGINT NOT NULL,
	seq BIGINT NOT NULL,
	kind TEXT NOT NULL,
	op TEXT NOT NULL, -- put, delete, snapshot
	key TEXT NOT NULL,
	since BIGINT NOT NULL,
	source TEXT NOT NULL,
	team TEXT NOT NULL,
	value TEXT NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (shard, rev, seq)
);

-- What an item was from revision rev until (not at) revision until. What it is
-- now stands in items alone.
CREATE TABLE IF NOT EXISTS history (
	kind TEXT NOT NULL,
	key TEXT NOT NULL,
	rev BIGINT NOT NULL,
	until BIGINT NOT NULL,
	since BIGINT NOT NULL,
	source TEXT NOT NULL,
	team TEXT NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY (kind, key, until)
);
CREATE INDEX IF NOT EXISTS history_until ON history (until);
CREATE INDEX IF NOT EXISTS history_rev ON history (rev);

CREATE TABLE IF NOT EXISTS revisions (
	rev BIGINT NOT NULL PRIMARY KEY,
	at BIGINT NOT NULL,
	who TEXT NOT NULL,
	token TEXT NOT NULL,
	note TEXT NOT NULL,
	added BIGINT NOT NULL,
	changed BIGINT NOT NULL,
	removed BIGINT NOT NULL
);

CREATE TABLE IF NOT EXISTS versions (
	name TEXT NOT NULL PRIMARY KEY,
	rev BIGINT NOT NULL,
	at BIGINT NOT NULL,
	who TEXT NOT NULL,
	note TEXT NOT NULL
);

CREATE TABLE IF NOT EXISTS receipts (
	key TEXT NOT NULL PRIMARY KEY,
	hash TEXT NOT NULL,
	result TEXT NOT NULL,
	at BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS receipts_at ON receipts (at);

CREATE TABLE IF NOT EXISTS changesets (
	id TEXT NOT NULL PRIMARY KEY,
	state TEXT NOT NULL, -- open, published, cancelled
	mode TEXT NOT NULL,
	source TEXT NOT NULL,
	kinds TEXT NOT NULL,
	take BOOLEAN NOT NULL,
	who TEXT NOT NULL,
	token TEXT NOT NULL,
	note TEXT NOT NULL,
	count BIGINT NOT NULL, -- staged rows
	chunk BIGINT NOT NULL, -- transactions that staged them
	seen BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS staged (
	changeset TEXT NOT NULL,
	kind TEXT NOT NULL,
	key TEXT NOT NULL,
	op TEXT NOT NULL,
	since BIGINT NOT NULL,
	source TEXT NOT NULL,
	team TEXT NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY (changeset, kind, key)
);

CREATE TABLE IF NOT EXISTS audit (
	seq BIGINT NOT NULL PRIMARY KEY,
	at BIGINT NOT NULL,
	rev BIGINT NOT NULL,
	who TEXT NOT NULL,
	token TEXT NOT NULL,
	action TEXT NOT NULL,
	kind TEXT NOT NULL,
	key TEXT NOT NULL,
	before TEXT NOT NULL,
	after TEXT NOT NULL,
	hash TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS audit_item ON audit (kind, key, seq);
CREATE TABLE IF NOT EXISTS audit_head (
	id BIGINT NOT NULL PRIMARY KEY,
	seq BIGINT NOT NULL,
	hash TEXT NOT NULL
);

CREATE TABLE IF NOT EXISTS teams (
	name TEXT NOT NULL PRIMARY KEY,
	title TEXT NOT NULL,
	review BOOLEAN NOT NULL,
	created BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS users (
	name TEXT NOT NULL PRIMARY KEY,
	email TEXT NOT NULL,
	password TEXT NOT NULL,
	subject TEXT NOT NULL,
	roles TEXT NOT NULL,
	disabled BOOLEAN NOT NULL,
	created BIGINT NOT NULL,
	seen BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS tokens (
	id TEXT NOT NULL PRIMARY KEY,
	hash TEXT NOT NULL,
	name TEXT NOT NULL,
	owner TEXT NOT NULL,
	scope TEXT NOT NULL,
	role TEXT NOT NULL,
	team TEXT NOT NULL,
	created BIGINT NOT NULL,
	expires BIGINT NOT NULL,
	used BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS tokens_hash ON tokens (hash);
CREATE TABLE IF NOT EXISTS nodes (
	id TEXT NOT NULL PRIMARY KEY,
	region TEXT NOT NULL,
	addresses TEXT NOT NULL,
	roles TEXT NOT NULL,
	version TEXT NOT NULL,
	health TEXT NOT NULL,
	epoch TEXT NOT NULL,
	rev BIGINT NOT NULL,
	seen BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS sources (
	label TEXT NOT NULL PRIMARY KEY,
	kind TEXT NOT NULL,
	url TEXT NOT NULL,
	settings TEXT NOT NULL,
	team TEXT NOT NULL,
	state TEXT NOT NULL,
	error TEXT NOT NULL,
	rev BIGINT NOT NULL,
	version TEXT NOT NULL,
	paused BOOLEAN NOT NULL,
	checked BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS leases (
	name TEXT NOT NULL PRIMARY KEY,
	holder TEXT NOT NULL,
	fence BIGINT NOT NULL,
	expires BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS drafts (
	id TEXT NOT NULL PRIMARY KEY,
	team TEXT NOT NULL,
	state TEXT NOT NULL,
	author TEXT NOT NULL,
	reviewer TEXT NOT NULL,
	note TEXT NOT NULL,
	changeset TEXT NOT NULL,
	base BIGINT NOT NULL,
	created BIGINT NOT NULL,
	updated BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS jobs (
	id TEXT NOT NULL PRIMARY KEY,
	kind TEXT NOT NULL,
	state TEXT NOT NULL,
	owner TEXT NOT NULL,
	done BIGINT NOT NULL,
	total BIGINT NOT NULL,
	result TEXT NOT NULL,
	created BIGINT NOT NULL,
	updated BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS snapshots (
	id TEXT NOT NULL PRIMARY KEY,
	epoch TEXT NOT NULL,
	rev BIGINT NOT NULL,
	sha256 TEXT NOT NULL,
	bytes BIGINT NOT NULL,
	at BIGINT NOT NULL
);

INSERT INTO audit_head (id, seq, hash) VALUES (0, 0, '') ON CONFLICT (id) DO NOTHING;
