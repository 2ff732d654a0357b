package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// MaxChanges is how many changes one Batch may have, and how many of several
// batches share a transaction.
const MaxChanges = 1000

// What one revision tells its followers at the most: more than MaxTold changes, or
// MaxBytes of keys and values, are told as one Reload, and a Batch of more bytes is
// ErrTooLarge. A follower has a revision in memory as a whole. Variables for tests.
var (
	MaxTold  int64 = 100_000
	MaxBytes       = 32 << 20
)

// Op is what a change does.
type Op string

const (
	Put    Op = "put"
	Delete Op = "delete"
	// Reload stands alone in its revision: more changed than the feed tells one by
	// one. Followers fetch a snapshot.
	Reload Op = "snapshot"
)

// Absent as a precondition: there must be no such item.
const Absent int64 = -1

// Change puts or deletes one item.
type Change struct {
	Op   Op    `json:"op"`
	Item Item  `json:"item"`         // of a Delete only Kind, Key and Source count. A zero Since is now, for a new item
	If   int64 `json:"if,omitempty"` // the revision that the item must have, or Absent; 0 for any
	// Take allows the change of an item that another source owns. A Delete
	// without a Source takes too.
	Take bool `json:"take,omitempty"`
}

// Actor is who does a thing, for the audit.
type Actor struct {
	Who   string `json:"who"`             // a user, or a source's label
	Token string `json:"token,omitempty"` // the id of the token it came with
}

// Batch is changes that come into force together or not at all, as one revision.
type Batch struct {
	// Key resolves a repeated call: within 24 hours the same Key with the same
	// content gives the first receipt and changes nothing. It is the caller's to make it
	// unique, for example by putting the user's name before what a client sent. Empty: the
	// call is one of a kind, and only its own retries are resolved.
	Key string `json:"-"`
	// Sum tells another use of the Key where the caller knows better than the content
	// does what a repeated call is: the hash of a request. Empty: that of the content.
	Sum     string   `json:"-"`
	Changes []Change `json:"changes"` // at most MaxChanges and MaxBytes, each of another item
	// The conditions, which are no content: a repeated call has others.
	Base  int64 `json:"-"` // if not 0: fail with ErrMoved unless it is the newest revision
	Since int64 `json:"-"` // if not 0: fail with ErrStale if a later revision changed hosts or redirects; Absent stands for revision 0
	// Source, if not empty, is whose changes these are: fail with ErrPaused while it is paused.
	Source string `json:"-"`
	Actor  Actor  `json:"actor"`
	Note   string `json:"note,omitempty"` // why, for people

	// Records are put and deleted with the changes. They may come alone: then there
	// is no revision.
	Records []Record `json:"records,omitempty"` // at most MaxChanges
	// Lease, if not nil, must still be its holder's, or ErrFenced: only Name and
	// Fence count.
	Lease *Lease `json:"-"`
}

// Receipt is what a write has come to.
type Receipt struct {
	Epoch    string    `json:"epoch"`
	Rev      int64     `json:"rev"` // the new revision, or the newest one if nothing changed
	At       time.Time `json:"at"`
	Added    int64     `json:"added"`
	Changed  int64     `json:"changed"`
	Removed  int64     `json:"removed"`
	Repeated bool      `json:"-"` // an earlier call with the same key did it
}

// Changes is how many items are different now.
func (r *Receipt) Changes() int64 { return r.Added + r.Changed + r.Removed }

// Commit brings b into force. On nil the revision is on disk, with its changes,
// its history and its audit, and every later read sees it. What is equal to what
// is there is left out; if all is, there is no new revision.
//
// Each batch has a revision of its own, even where several share a transaction.
// Batches of one handle come into force in the order of the calls.
//
// Errors: [ErrFenced]; a [Conflict] if a precondition does not hold, or the item is another
// source's; [ErrNotFound] for the delete of what is not there; [ErrMoved];
// [ErrStale]; [ErrPaused]; [ErrTooLarge]; [ErrInvalid]; [ErrKeyReused]: nothing has
// changed.
// [ErrUnavailable], [ErrFull]: nothing has changed, the database cannot be reached or
// has no room.
// [ErrUnknown]: the database was lost at the commit and did not come back, or ctx
// ended meanwhile; repeat with the same Key.
func (db *DB) Commit(ctx context.Context, b Batch) (Receipt, error) {
	p := &pending{ctx: ctx, Batch: b, done: make(chan struct{})}
	if err := p.prepare(); err != nil {
		return Receipt{}, err
	}
	if err := db.queue.add(p); err != nil {
		return Receipt{}, err
	}
	select {
	case <-p.done:
		return p.receipt, p.err
	case <-ctx.Done():
		if db.queue.withdraw(p) {
			return Receipt{}, ctx.Err()
		}
		return Receipt{}, fmt.Errorf("%w: %w", ErrUnknown, ctx.Err())
	}
}

// pending is a batch on its way. The committer alone touches it once it has left
// the queue, until done is closed.
type pending struct {
	Batch
	ctx     context.Context
	ownKey  bool   // the key was made for this call
	hash    string // of the content, to tell another use of the key
	touched touched
	fence   int64 // of the lease, as the database has it
	paused  bool
	receipt Receipt
	err     error
	done    chan struct{}
}

type itemName struct{ kind, key string }

func (p *pending) prepare() error {
	if len(p.Changes) > MaxChanges || len(p.Records) > MaxChanges {
		return ErrTooLarge
	}
	for i := range p.Records {
		if err := p.Records[i].check(); err != nil {
			return err
		}
	}
	if len(p.Key) > MaxKey || !isText(p.Key) {
		return invalid("the idempotency key is over %d bytes or no text", MaxKey)
	}
	if !isText(p.Note) || !isText(p.Actor.Who) || !isText(p.Actor.Token) || !isText(p.Sum) || !isText(p.Source) {
		return invalid("note, actor, sum or source is no text")
	}
	seen := make(map[itemName]bool, len(p.Changes))
	bytes := 0
	for i := range p.Changes {
		c := &p.Changes[i]
		if bytes += len(c.Item.Key) + len(c.Item.Value); bytes > MaxBytes {
			return fmt.Errorf("%w: over %d bytes in one batch; stage it", ErrTooLarge, MaxBytes)
		}
		if c.Op != Put && c.Op != Delete {
			return invalid("the change of %s %s has the op %q", c.Item.Kind, c.Item.Key, c.Op)
		}
		if err := c.Item.check(c.Op == Put); err != nil {
			return err
		}
		name := itemName{c.Item.Kind, c.Item.Key}
		if seen[name] {
			return invalid("%s %s is changed twice in one batch", name.kind, name.key)
		}
		seen[name] = true
	}
	if p.ownKey = p.Key == ""; p.ownKey {
		p.Key = newKey()
		return nil
	}
	if p.hash = p.Sum; p.hash != "" {
		return nil
	}
	content, err := json.Marshal(&p.Batch)
	if err != nil {
		return err
	}
	p.hash = hashOf(content)
	return nil
}

func hashOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// newKey names one call. It cannot meet a caller's key by accident.
func newKey() string { return "call:" + newEpoch() }

// queue holds the batches that wait for the committer, in the order they came.
type queue struct {
	mu      sync.Mutex // guards waiting and closed
	waiting []*pending
	closed  bool
	more    chan struct{} // there may be something waiting, or the end has come; holds one
	drained chan struct{} // closed by the committer at its end
}

func (q *queue) add(p *pending) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return ErrClosed
	}
	q.waiting = append(q.waiting, p)
	q.poke()
	return nil
}

func (q *queue) poke() {
	select {
	case q.more <- struct{}{}:
	default:
	}
}

// withdraw takes p out if it still waits.
func (q *queue) withdraw(p *pending) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, p)
	if i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	return i >= 0
}

// take gives what goes into the next transaction, and whether there is an end.
func (q *queue) take() (group []*pending, end bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, changes := 0, 0
	for n < len(q.waiting) && changes+len(q.waiting[n].Changes) <= MaxChanges {
		changes += len(q.waiting[n].Changes)
		n++
	}
	group = slices.Clone(q.waiting[:n])
	q.waiting = slices.Delete(q.waiting, 0, n)
	return group, q.closed && n == 0
}

// close reports whether it was open.
func (q *queue) close() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.closed = true
	q.poke()
	return true
}

// committer commits what waits, at once when idle; what comes meanwhile shares
// the next transaction.
func (db *DB) committer() {
	defer close(db.queue.drained)
	for range db.queue.more {
		for {
			group, end := db.queue.take()
			if end {
				return
			}
			if len(group) == 0 {
				break
			}
			db.commitGroup(group)
			for _, p := range group {
				close(p.done)
			}
		}
	}
}

// commitGroup sets receipt or err of each batch.
func (db *DB) commitGroup(group []*pending) {
	err := db.retry(db.ctx, func(attempt int) error {
		return db.engine.write(db.ctx, func(t tx) error { return db.apply(t, group, attempt) })
	})
	switch {
	case err == nil || errors.Is(err, errNothing):
		db.announce()
	case len(group) == 1 || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrUnknown):
		for _, p := range group {
			p.receipt, p.err = Receipt{}, err
		}
	default: // one that the database does not take must not fail the others
		for i := range group {
			db.commitGroup(group[i : i+1])
		}
	}
}

// errNothing ends a transaction that has nothing to write.
var errNothing = errors.New("nothing to write")

// applying is one transaction of the committer.
type applying struct {
	db      *DB
	now     time.Time
	head    Head
	began   int64 // the newest revision before this transaction
	rev     int64 // the newest, counting those of this transaction
	chain   chain
	items   map[itemName]*Item  // as they are now, counting this transaction; nil: absent
	earlier map[string]*receipt // by key
	write   []*statement
}

// apply is one try at a group. It is a function of the database alone, so that
// it may run again.
func (db *DB) apply(t tx, group []*pending, attempt int) error {
	a := &applying{db: db, now: db.now().UTC().Truncate(time.Microsecond), items: map[itemName]*Item{}, earlier: map[string]*receipt{}}
	if err := lockFeed(db.ctx, t, &a.head, +1); err != nil { // first of all: the order of revisions rests on it
		return err
	}
	a.began = a.head.Rev - 1
	a.rev = a.began
	if err := a.read(t, group, attempt); err != nil {
		return err
	}
	written := a.rev + 1
	for _, p := range group {
		p.receipt, p.err = a.batch(p)
	}
	if len(a.write) == 0 {
		return errNothing
	}
	if a.rev != written {
		a.write = append(a.write, do(`UPDATE feed SET rev = $1 WHERE shard = 0`, a.rev))
	}
	a.write = append(a.write, a.chain.save())
	return t.run(db.ctx, a.write...)
}

// lockFeed takes the counter's row until the transaction ends, and adds to it.
func lockFeed(ctx context.Context, t tx, h *Head, add int64) error {
	var found bool
	err := t.run(ctx, one(&found, h.dest(), `UPDATE feed SET rev = rev + $1 WHERE shard = 0 RETURNING `+headColumns, add))
	if err == nil && !found {
		err = errors.New("table feed has lost its row")
	}
	return err
}

// read gets all that the batches are to be compared with.
func (a *applying) read(t tx, group []*pending, attempt int) error {
	var list []*statement
	if !a.chain.found {
		list = append(list, a.chain.load())
	}
	for _, p := range group {
		if (!p.ownKey || attempt > 0) && a.earlier[p.Key] == nil {
			r := new(receipt)
			a.earlier[p.Key] = r
			list = append(list, r.load(p.Key))
		}
		if p.Since != 0 {
			list = append(list, p.touched.load(p.Since)...)
		}
		if p.Lease != nil {
			var found bool
			p.fence = 0
			// Written, so that nobody acquires it before this transaction has ended.
			list = append(list, one(&found, []any{&p.fence}, `UPDATE leases SET fence = fence WHERE name = $1 RETURNING fence`, p.Lease.Name))
		}
		if p.paused = false; p.Source != "" {
			var found bool
			list = append(list, one(&found, []any{&p.paused}, `SELECT paused FROM sources WHERE label = $1`, p.Source))
		}
		for i := range p.Changes {
			name := itemName{p.Changes[i].Item.Kind, p.Changes[i].Item.Key}
			if _, ok := a.items[name]; ok {
				continue
			}
			a.items[name] = nil
			list = append(list, &statement{sql: selectItem, args: []any{name.kind, name.key}, row: func(r rows) error {
				it := new(Item)
				a.items[name] = it
				return scanItem(r, it)
			}})
		}
	}
	return t.run(a.db.ctx, list...)
}

const selectItem = `SELECT ` + itemColumns + ` FROM items WHERE kind = $1 AND key = $2`

// batch decides about p, and adds what it writes.
func (a *applying) batch(p *pending) (Receipt, error) {
	if r := a.earlier[p.Key]; r != nil && (r.known(a.now) || r.found && p.ownKey) {
		return r.receipt(p.hash)
	}
	if p.Lease != nil && p.Lease.Fence != p.fence {
		return Receipt{}, fmt.Errorf("lease %s: %w: fence %d was given since", p.Lease.Name, ErrFenced, p.fence)
	}
	if p.Base != 0 && p.Base != a.rev {
		return Receipt{}, fmt.Errorf("%w: the newest revision is %d, not %d", ErrMoved, a.rev, p.Base)
	}
	if p.paused {
		return Receipt{}, fmt.Errorf("%w: %s", ErrPaused, p.Source)
	}
	if p.Since != 0 {
		if a.rev > a.began { // a batch before it, in this transaction
			p.touched.last = a.rev
		}
		if err := p.touched.check(p.Since, &a.head, a.rev); err != nil {
			return Receipt{}, err
		}
	}
	var doing []*Change
	for i := range p.Changes {
		c := &p.Changes[i]
		now := a.items[itemName{c.Item.Kind, c.Item.Key}]
		if err := c.Allowed(now); err != nil {
			return Receipt{}, err
		}
		if c.Op == Delete || now == nil || !now.sameAs(&c.Item) {
			doing = append(doing, c)
		}
	}
	r := Receipt{Epoch: a.head.Epoch, Rev: a.rev, At: a.now}
	for i := range p.Records {
		a.write = append(a.write, p.Records[i].write())
	}
	if len(doing) > 0 {
		a.rev++
		r.Rev = a.rev
		for seq, c := range doing {
			a.change(p, c, int64(seq), &r)
		}
		a.write = append(a.write, insertRevision(&r, p.Actor, p.Note))
	}
	if len(doing)+len(p.Records) > 0 || !p.ownKey {
		saved := saveReceipt(p.Key, p.hash, r, a.now)
		a.write = append(a.write, saved.statement)
		a.earlier[p.Key] = &saved.receipt // the same key may come again in this group
	}
	return r, nil
}

// Allowed reports why c may not be done to what the item is now, nil if there is
// none: a [Conflict], or [ErrNotFound].
func (c *Change) Allowed(now *Item) error {
	conflict := func(format string, args ...any) error {
		return &Conflict{Kind: c.Item.Kind, Key: c.Item.Key, Want: c.If, Now: now, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case now == nil && c.If > 0:
		return conflict("it is gone; revision %d was expected", c.If)
	case now == nil && c.Op == Delete:
		return fmt.Errorf("%s %s: %w", c.Item.Kind, c.Item.Key, ErrNotFound)
	case now == nil:
		return nil
	case c.If == Absent:
		return conflict("it exists, since revision %d", now.Rev)
	case c.If > 0 && c.If != now.Rev:
		return conflict("it was changed in revision %d; revision %d was expected", now.Rev, c.If)
	case !c.Take && c.Item.Source != now.Source && !(c.Op == Delete && c.Item.Source == ""):
		return conflict("it belongs to the source %s", now.Source)
	}
	return nil
}

// change adds what c writes, as the change seq of revision a.rev.
func (a *applying) change(p *pending, c *Change, seq int64, r *Receipt) {
	name := itemName{c.Item.Kind, c.Item.Key}
	before := a.items[name]
	if before != nil && isContent(name.kind) {
		a.write = append(a.write, do(`INSERT INTO history (kind, key, rev, until, since, source, team, value) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			name.kind, name.key, before.Rev, a.rev, micros(before.Since), before.Source, before.Team, string(before.Value)))
	}
	after := Item{Kind: name.kind, Key: name.key, Rev: a.rev}
	switch {
	case c.Op == Delete:
		after.Since, after.Source, after.Team = before.Since, before.Source, before.Team
		a.items[name] = nil
		r.Removed++
		a.write = append(a.write, do(`DELETE FROM items WHERE kind = $1 AND key = $2`, name.kind, name.key))
	default:
		after.Value, after.Source, after.Team, after.Since = c.Item.Value, c.Item.Source, c.Item.Team, a.now
		switch {
		case before != nil:
			after.Since = before.Since
			r.Changed++
		default:
			if !c.Item.Since.IsZero() {
				after.Since = c.Item.Since
			}
			r.Added++
		}
		a.items[name] = &after
		a.write = append(a.write, do(upsertItem, after.Kind, after.Key, after.Rev, micros(after.Since), after.Source, after.Team, string(after.Value)))
	}
	a.write = append(a.write,
		do(`INSERT INTO changes (shard, rev, seq, kind, op, key, since, source, team, value, at) VALUES (0, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
			a.rev, seq, after.Kind, string(c.Op), after.Key, micros(after.Since), after.Source, after.Team, string(after.Value), micros(a.now)))
	if isContent(name.kind) || name.kind == KindCertificate {
		a.write = append(a.write, a.chain.add(Entry{At: a.now, Rev: a.rev, Actor: p.Actor, Action: string(c.Op), Kind: after.Kind, Key: after.Key, Before: itemJSON(before), After: itemJSON(a.items[name])}))
	}
}

// itemJSON is what the audit says of an item.
func itemJSON(it *Item) string {
	if it == nil {
		return ""
	}
	var b strings.Builder
	b.WriteString(`{"rev":` + strconv.FormatInt(it.Rev, 10))
	for _, field := range []struct{ name, text string }{{"source", it.Source}, {"team", it.Team}} {
		if field.text != "" {
			text, _ := json.Marshal(field.text) // a string always has a form in JSON
			b.WriteString(`,"` + field.name + `":`)
			b.Write(text)
		}
	}
	value := it.Value
	if it.Kind == KindCertificate {
		if c, err := it.Certificate(); err == nil { // the chain is public, but long
			c.Key, c.Chain = nil, nil
			value, _ = json.Marshal(c)
		}
	}
	b.WriteString(`,"value":`)
	b.Write(value)
	b.WriteString("}")
	return b.String()
}

const upsertItem = `INSERT INTO items (` + itemColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7)
	ON CONFLICT (kind, key) DO UPDATE SET rev = excluded.rev, since = excluded.since, source = excluded.source, team = excluded.team, value = excluded.value`

func insertRevision(r *Receipt, actor Actor, note string) *statement {
	return do(`INSERT INTO revisions (rev, at, who, token, note, added, changed, removed) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		r.Rev, micros(r.At), actor.Who, actor.Token, note, r.Added, r.Changed, r.Removed)
}
