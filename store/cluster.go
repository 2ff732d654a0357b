package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Node is one running program, as it reports itself.
type Node struct {
	ID        string    `json:"id"`
	Region    string    `json:"region,omitempty"`
	Addresses []string  `json:"addresses,omitempty"`
	Roles     []string  `json:"roles,omitempty"` // control, edge
	Version   string    `json:"version,omitempty"`
	Health    string    `json:"health,omitempty"`
	Epoch     string    `json:"epoch,omitempty"`
	Rev       int64     `json:"rev"` // that it serves
	Seen      time.Time `json:"seen,omitzero"`
}

var nodes = table[Node]{name: "nodes", what: "node",
	columns: []string{"id", "region", "addresses", "roles", "version", "health", "epoch", "rev", "seen"},
	fields: func(v *Node) []any {
		return []any{&v.ID, &v.Region, (*words)(&v.Addresses), (*words)(&v.Roles), &v.Version, &v.Health, &v.Epoch, &v.Rev, (*instant)(&v.Seen)}
	}}

// ReportNode puts what a node says of itself, with the time.
func (db *DB) ReportNode(ctx context.Context, v Node) error {
	v.Seen = db.now()
	return nodes.set(ctx, db, &v)
}

// Nodes lists all nodes by id, also those that were not seen for long.
func (db *DB) Nodes(ctx context.Context) ([]Node, error) { return nodes.list(ctx, db) }

// DeleteNode forgets a node; if it lives, it reports itself again.
func (db *DB) DeleteNode(ctx context.Context, id string) error { return nodes.remove(ctx, db, id) }

// Source is where content comes from, and how that goes.
type Source struct {
	Label    string          `json:"label"` // of its items
	Kind     string          `json:"kind"`  // git, url, s3, file, …
	URL      string          `json:"url,omitempty"`
	Settings json.RawMessage `json:"settings,omitempty"`
	Team     string          `json:"team,omitempty"`
	State    string          `json:"state,omitempty"`
	Error    string          `json:"error,omitempty"`
	Rev      int64           `json:"rev,omitempty"`     // of its last publication
	Version  string          `json:"version,omitempty"` // of what was read: a commit, an ETag
	Paused   bool            `json:"paused,omitempty"`  // it is not applied
	Checked  time.Time       `json:"checked,omitzero"`
}

var sources = table[Source]{name: "sources", what: "source",
	columns: []string{"label", "kind", "url", "settings", "team", "state", "error", "rev", "version", "paused", "checked"},
	fields: func(v *Source) []any {
		return []any{&v.Label, &v.Kind, &v.URL, (*document)(&v.Settings), &v.Team, &v.State, &v.Error, &v.Rev, &v.Version, &v.Paused, (*instant)(&v.Checked)}
	},
	public: func(v *Source) any { // nothing of what may hold a secret
		p := *v
		p.Settings, p.URL = nil, withoutSecrets(v.URL)
		return p
	}}

// withoutSecrets takes user, password and query off an address.
func withoutSecrets(address string) string {
	if inner, ok := strings.CutPrefix(address, "git:"); ok {
		return "git:" + withoutSecrets(inner)
	}
	u, err := url.Parse(address)
	switch {
	case address == "":
		return ""
	case err != nil:
		return "(not readable)" // and so nobody knows what is in it
	case u.Scheme == "" || u.User == nil && u.RawQuery == "" && u.Fragment == "":
		return address
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

// ShownURL is the URL as it may be shown: without user, password and query.
func (v *Source) ShownURL() string { return withoutSecrets(v.URL) }

// PutSource makes or changes a source. What it reports of itself goes through
// [DB.ReportSource].
func (db *DB) PutSource(ctx context.Context, by Actor, v Source) error {
	return sources.save(ctx, db, by, &v, false)
}

// AddSource makes a source; ErrExists if the label is taken.
func (db *DB) AddSource(ctx context.Context, by Actor, v Source) error {
	return sources.save(ctx, db, by, &v, true)
}

// Sources lists all sources by label.
func (db *DB) Sources(ctx context.Context) ([]Source, error) { return sources.list(ctx, db) }

// Source reads one source; ErrNotFound if there is none.
func (db *DB) Source(ctx context.Context, label string) (Source, error) {
	return sources.get(ctx, db, "label", label)
}

// ReportSource notes what a source is and how reading it went: kind, url, state,
// error, version, when it was checked, and rev if it is not 0. It makes the
// source if need be, and leaves alone what people set: team, settings, paused.
func (db *DB) ReportSource(ctx context.Context, v Source) error {
	if err := sources.check(&v); err != nil {
		return err
	}
	return db.write(ctx, func(t tx) error {
		return t.run(ctx, do(`INSERT INTO sources (label, kind, url, settings, team, state, error, rev, version, paused, checked)
			VALUES ($1, $2, $3, '', '', $4, $5, $6, $7, $9, $8) ON CONFLICT (label) DO UPDATE SET kind = excluded.kind, url = excluded.url,
			state = excluded.state, error = excluded.error, version = excluded.version, checked = excluded.checked,
			rev = CASE WHEN excluded.rev > 0 THEN excluded.rev ELSE sources.rev END`,
			v.Label, v.Kind, v.URL, v.State, v.Error, v.Rev, v.Version, micros(v.Checked), false))
	})
}

// CountBySource gives how many items each source has, by label.
func (db *DB) CountBySource(ctx context.Context) (n map[string]int64, err error) {
	err = db.read(ctx, false, func(t tx) error {
		n = map[string]int64{}
		return each(ctx, t, func(r rows) error {
			var label string
			var count int64
			err := r.Scan(&label, &count)
			n[label] = count
			return err
		}, `SELECT source, count(*) FROM items GROUP BY source`)
	})
	return n, err
}

// HasItems reports whether a team has at least so many items of a kind. It looks no
// further than it needs to.
func (db *DB) HasItems(ctx context.Context, kind, team string, n int64) (enough bool, err error) {
	var found bool
	var count int64
	err = db.read(ctx, false, func(t tx) error {
		return t.run(ctx, one(&found, []any{&count}, `SELECT count(*) FROM (SELECT 1 FROM items WHERE kind = $1 AND team = $2 LIMIT $3) t`, kind, team, n))
	})
	return count >= n, err
}

// DeleteSource forgets a source, and leaves its items alone.
func (db *DB) DeleteSource(ctx context.Context, by Actor, label string) error {
	return sources.drop(ctx, db, by, label)
}

// Lease is a right that one holder has until it expires.
type Lease struct {
	Name    string    `json:"name"`
	Holder  string    `json:"holder"`
	Fence   int64     `json:"fence"` // grows with each change of the holder
	Expires time.Time `json:"expires"`
}

// Acquire takes a lease that is free, expired, or the holder's already, for so
// long. The clocks of the nodes may be apart by some seconds: whoever does what
// must not be done twice hands the fence along, and the receiver refuses one that
// is lower than it has seen. ErrFenced: another has it; the lease says who.
func (db *DB) Acquire(ctx context.Context, name, holder string, d time.Duration) (l Lease, err error) {
	if name == "" || holder == "" || !isText(name) || !isText(holder) {
		return l, invalid("a lease needs a name and a holder")
	}
	err = db.write(ctx, func(t tx) error {
		now := db.now()
		// Run again after a lost answer it renews, under the same fence.
		if err := t.run(ctx,
			do(`INSERT INTO leases (name, holder, fence, expires) VALUES ($1, '', 0, 0) ON CONFLICT (name) DO NOTHING`, name),
			do(`UPDATE leases SET fence = CASE WHEN holder = $2 THEN fence ELSE fence + 1 END, holder = $2, expires = $3
				WHERE name = $1 AND (holder = $2 OR expires <= $4)`, name, holder, micros(now.Add(d)), micros(now))); err != nil {
			return err
		}
		return db.readLease(ctx, t, name, &l)
	})
	if err == nil && l.Holder != holder {
		err = fmt.Errorf("lease %s: %w: %s has it", name, ErrFenced, l.Holder)
	}
	return l, err
}

func (db *DB) readLease(ctx context.Context, t tx, name string, l *Lease) error {
	var found bool
	err := t.run(ctx, one(&found, []any{&l.Name, &l.Holder, &l.Fence, (*instant)(&l.Expires)}, `SELECT name, holder, fence, expires FROM leases WHERE name = $1`, name))
	if err == nil && !found {
		err = fmt.Errorf("lease %s: %w", name, ErrNotFound)
	}
	return err
}

// Release gives a lease back before it expires. ErrFenced: it is not the
// holder's any more.
func (db *DB) Release(ctx context.Context, l Lease) error {
	err := db.write(ctx, func(t tx) error {
		given := do(`UPDATE leases SET holder = '', expires = 0 WHERE name = $1 AND fence = $2 AND (holder = $3 OR holder = '')`, l.Name, l.Fence, l.Holder)
		if err := t.run(ctx, given); err != nil || given.affected > 0 {
			return err
		}
		return ErrFenced
	})
	if errors.Is(err, ErrFenced) {
		err = fmt.Errorf("lease %s: %w", l.Name, err)
	}
	return err
}

// Draft is a change that waits for a reviewer. What it would do is a changeset,
// which lives as long as the draft.
type Draft struct {
	ID        string    `json:"id"`
	Team      string    `json:"team,omitempty"`
	State     string    `json:"state"` // once it is published, Tidy removes it
	Author    string    `json:"author"`
	Reviewer  string    `json:"reviewer,omitempty"`
	Note      string    `json:"note,omitempty"`
	Changeset string    `json:"changeset"`
	Base      int64     `json:"base,omitempty"` // the revision that it was made on
	Created   time.Time `json:"created,omitzero"`
	Updated   time.Time `json:"updated,omitzero"`
}

var drafts = table[Draft]{name: "drafts", what: "draft",
	columns: []string{"id", "team", "state", "author", "reviewer", "note", "changeset", "base", "created", "updated"},
	fields: func(v *Draft) []any {
		return []any{&v.ID, &v.Team, &v.State, &v.Author, &v.Reviewer, &v.Note, &v.Changeset, &v.Base, (*instant)(&v.Created), (*instant)(&v.Updated)}
	},
	public: func(v *Draft) any { return v }}

// PutDraft makes or changes a draft.
func (db *DB) PutDraft(ctx context.Context, by Actor, v Draft) error {
	v.Updated = db.now()
	return drafts.save(ctx, db, by, &v, false)
}

// ChangeDraft changes a draft that is still as v was read: ErrConflict if another
// has changed it since v.Updated, ErrNotFound if there is none.
func (db *DB) ChangeDraft(ctx context.Context, by Actor, v Draft) error {
	was := v.Updated
	v.Updated = db.now()
	if err := drafts.check(&v); err != nil {
		return err
	}
	_, _, err := once(ctx, db, "", "", func(t tx) (struct{}, error) {
		before, err := drafts.before(ctx, t, v.ID)
		if err == nil && before == "" {
			err = fmt.Errorf("draft %s: %w", v.ID, ErrNotFound)
		}
		if err != nil {
			return struct{}{}, err
		}
		after, err := json.Marshal(drafts.public(&v))
		if err != nil {
			return struct{}{}, err
		}
		change := do(`UPDATE drafts SET state = $2, reviewer = $3, note = $4, updated = $5 WHERE id = $1 AND updated = $6`,
			v.ID, v.State, v.Reviewer, v.Note, micros(v.Updated), micros(was))
		if err := t.run(ctx, change); err != nil {
			return struct{}{}, err
		}
		if change.affected == 0 {
			return struct{}{}, fmt.Errorf("%w: the draft %s was changed meanwhile", ErrConflict, v.ID)
		}
		return struct{}{}, db.record(ctx, t, Entry{Actor: by, Action: "put", Kind: drafts.what, Key: v.ID, Before: before, After: string(after)})
	})
	return err
}

// Drafts lists all drafts by id.
func (db *DB) Drafts(ctx context.Context) ([]Draft, error) { return drafts.list(ctx, db) }

// Draft reads one draft; ErrNotFound if there is none.
func (db *DB) Draft(ctx context.Context, id string) (Draft, error) {
	return drafts.get(ctx, db, "id", id)
}

// DeleteDraft takes a draft away; its changeset is cleaned up later.
func (db *DB) DeleteDraft(ctx context.Context, by Actor, id string) error {
	return drafts.drop(ctx, db, by, id)
}

// Job is work that takes longer than a request.
type Job struct {
	ID      string          `json:"id"`
	Kind    string          `json:"kind"`
	State   string          `json:"state"`
	Owner   string          `json:"owner,omitempty"` // the node that does it
	Done    int64           `json:"done"`
	Total   int64           `json:"total,omitempty"` // 0: not known
	Result  json.RawMessage `json:"result,omitempty"`
	Created time.Time       `json:"created,omitzero"`
	Updated time.Time       `json:"updated,omitzero"`
}

var jobs = table[Job]{name: "jobs", what: "job",
	columns: []string{"id", "kind", "state", "owner", "done", "total", "result", "created", "updated"},
	fields: func(v *Job) []any {
		return []any{&v.ID, &v.Kind, &v.State, &v.Owner, &v.Done, &v.Total, (*document)(&v.Result), (*instant)(&v.Created), (*instant)(&v.Updated)}
	}}

// PutJob makes a job or notes how far it is.
func (db *DB) PutJob(ctx context.Context, v Job) error {
	v.Updated = db.now()
	return jobs.set(ctx, db, &v)
}

// EndJob puts the end of a job of a node that was lost, unless somebody has noted
// something about the job since v.Updated.
func (db *DB) EndJob(ctx context.Context, v Job) (ended bool, err error) {
	if err := jobs.check(&v); err != nil {
		return false, err
	}
	err = db.write(ctx, func(t tx) error {
		end := do(`UPDATE jobs SET state = $2, result = $3, updated = $4 WHERE id = $1 AND updated = $5`,
			v.ID, v.State, string(v.Result), micros(db.now()), micros(v.Updated))
		err := t.run(ctx, end)
		ended = end.affected > 0
		return err
	})
	return ended, err
}

// Jobs lists all jobs by id.
func (db *DB) Jobs(ctx context.Context) ([]Job, error) { return jobs.list(ctx, db) }

// Job reads one job; ErrNotFound if there is none.
func (db *DB) Job(ctx context.Context, id string) (Job, error) { return jobs.get(ctx, db, "id", id) }

// DeleteJob forgets a job.
func (db *DB) DeleteJob(ctx context.Context, id string) error { return jobs.remove(ctx, db, id) }

// Snapshot is a file with all content as of a cursor, which nodes can fetch.
type Snapshot struct {
	ID     string    `json:"id"`
	Epoch  string    `json:"epoch"`
	Rev    int64     `json:"rev"`
	SHA256 string    `json:"sha256"`
	Bytes  int64     `json:"bytes"`
	At     time.Time `json:"at,omitzero"`
}

var snapshots = table[Snapshot]{name: "snapshots", what: "snapshot",
	columns: []string{"id", "epoch", "rev", "sha256", "bytes", "at"},
	fields: func(v *Snapshot) []any {
		return []any{&v.ID, &v.Epoch, &v.Rev, &v.SHA256, &v.Bytes, (*instant)(&v.At)}
	}}

// AddSnapshot makes a snapshot known. The changes behind the last two are kept.
func (db *DB) AddSnapshot(ctx context.Context, v Snapshot) error {
	v.At = db.now()
	return snapshots.set(ctx, db, &v)
}

// Snapshots lists all snapshots by id.
func (db *DB) Snapshots(ctx context.Context) ([]Snapshot, error) { return snapshots.list(ctx, db) }

// DeleteSnapshot forgets a snapshot.
func (db *DB) DeleteSnapshot(ctx context.Context, id string) error {
	return snapshots.remove(ctx, db, id)
}

// Version is a revision with a name.
type Version struct {
	Name string    `json:"name"`
	Rev  int64     `json:"rev"`
	At   time.Time `json:"at,omitzero"`
	Who  string    `json:"who,omitempty"`
	Note string    `json:"note,omitempty"`
}

var versions = table[Version]{name: "versions", what: "version", columns: []string{"name", "rev", "at", "who", "note"},
	fields: func(v *Version) []any { return []any{&v.Name, &v.Rev, (*instant)(&v.At), &v.Who, &v.Note} },
	public: func(v *Version) any { return v }}

// NameVersion names a revision; ErrExists if the name is taken, ErrNotFound and
// ErrTooOld as of [DB.ItemAt]. A name does not keep its revision from growing too
// old.
func (db *DB) NameVersion(ctx context.Context, by Actor, v Version) error {
	h, err := db.Head(ctx)
	if err == nil {
		err = checkRev(&h, v.Rev)
	}
	if err != nil {
		return err
	}
	v.At, v.Who = db.now(), by.Who
	return versions.save(ctx, db, by, &v, true)
}

// Versions lists all versions by name.
func (db *DB) Versions(ctx context.Context) ([]Version, error) { return versions.list(ctx, db) }

// Version reads one version; ErrNotFound if there is none.
func (db *DB) Version(ctx context.Context, name string) (Version, error) {
	return versions.get(ctx, db, "name", name)
}

// DeleteVersion takes a name away.
func (db *DB) DeleteVersion(ctx context.Context, by Actor, name string) error {
	return versions.drop(ctx, db, by, name)
}
