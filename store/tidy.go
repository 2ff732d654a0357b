package store

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// Retention is how long what nobody needs to serve is kept.
type Retention struct {
	// Changes of the feed: so long, and always those behind the last two snapshots.
	// Default 72 hours.
	Changes time.Duration
	// History: what items were. Default 400 days.
	History time.Duration
	// Jobs, also failed ones, since their last sign of life. Default 30 days.
	Jobs time.Duration
	// Tokens and sessions, since they expired. Default 7 days.
	Tokens time.Duration
	// Drafts, since they were published. Default 30 days.
	Drafts time.Duration
	// Snapshots keep changes of the feed for so long at the most. Default 7 days.
	Snapshots time.Duration
}

// Tidied is how much a Tidy removed.
type Tidied struct {
	Revisions  int64 // of the feed
	History    int64 // states of items
	Receipts   int64
	Changesets int64 // that were left over
	Jobs       int64
	Tokens     int64 // that had expired, sessions among them
	Drafts     int64 // that were published
	Snapshots  int64 // that two newer ones have replaced, or that were too old
}

// Tidy removes what is older than it has to be, in small transactions. One node
// calls it once in a while; two at once do no harm.
//
// Ages of content are measured back from the newest revision, all others from the
// newest entry of the audit, or from now if that is earlier: a clock that jumps ahead
// takes nothing along unless something is done meanwhile.
func (db *DB) Tidy(ctx context.Context, keep Retention) (done Tidied, err error) {
	if keep.Changes == 0 {
		keep.Changes = 72 * time.Hour
	}
	if keep.History == 0 {
		keep.History = 400 * 24 * time.Hour
	}
	if keep.Jobs == 0 {
		keep.Jobs = 30 * 24 * time.Hour
	}
	if keep.Tokens == 0 {
		keep.Tokens = 7 * 24 * time.Hour
	}
	if keep.Drafts == 0 {
		keep.Drafts = 30 * 24 * time.Hour
	}
	if keep.Snapshots == 0 {
		keep.Snapshots = 7 * 24 * time.Hour
	}
	h, err := db.Head(ctx)
	if err != nil {
		return done, err
	}
	newest, err := db.Revisions(ctx, 0, 1)
	if err != nil {
		return done, err
	}
	if len(newest) > 0 {
		base := db.now()
		if newest[0].At.Before(base) {
			base = newest[0].At
		}
		if done.Snapshots, err = db.tidySnapshots(ctx, h, base.Add(-keep.Snapshots)); err != nil {
			return done, err
		}
		if done.Revisions, err = db.compact(ctx, h, base.Add(-keep.Changes)); err != nil {
			return done, err
		}
		if done.History, err = db.forget(ctx, h, base.Add(-keep.History)); err != nil {
			return done, err
		}
	}
	base, err := db.lastDone(ctx)
	if err != nil {
		return done, err
	}
	if err := db.write(ctx, func(t tx) error {
		receipts := do(`DELETE FROM receipts WHERE at < $1`, micros(base.Add(-keepReceipts)))
		jobs := do(`DELETE FROM jobs WHERE updated < $1`, micros(base.Add(-keep.Jobs)))
		tokens := do(`DELETE FROM tokens WHERE expires > 0 AND expires < $1`, micros(base.Add(-keep.Tokens)))
		drafts := do(`DELETE FROM drafts WHERE state = 'published' AND updated < $1`, micros(base.Add(-keep.Drafts)))
		err := t.run(ctx, receipts, jobs, tokens, drafts)
		done.Receipts, done.Jobs, done.Tokens, done.Drafts = receipts.affected, jobs.affected, tokens.affected, drafts.affected
		return err
	}); err != nil {
		return done, err
	}
	done.Changesets, err = db.tidyChangesets(ctx)
	return done, err
}

// lastDone is when the newest entry of the audit was made, or now if that is earlier.
// What is not content comes with an entry: tokens, logins, drafts.
func (db *DB) lastDone(ctx context.Context) (time.Time, error) {
	var at int64
	var found bool
	err := db.read(ctx, false, func(t tx) error {
		return t.run(ctx, one(&found, []any{&at}, `SELECT at FROM audit ORDER BY seq DESC LIMIT 1`))
	})
	last, now := time.UnixMicro(at), db.now()
	if now.Before(last) {
		last = now
	}
	return last, err
}

// tidySnapshots forgets snapshots but the last two, and those from before a time:
// a feed that nobody fetches snapshots of would keep its changes for ever.
func (db *DB) tidySnapshots(ctx context.Context, h Head, before time.Time) (n int64, err error) {
	all, err := db.Snapshots(ctx)
	if err != nil {
		return 0, err
	}
	slices.SortFunc(all, func(a, b Snapshot) int { return cmp.Compare(b.Rev, a.Rev) })
	kept := 0
	for _, s := range all {
		if s.Epoch == h.Epoch && !s.At.Before(before) && kept < 2 {
			kept++
			continue
		}
		if err := db.DeleteSnapshot(ctx, s.ID); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// lastBefore gives the revision before the first one that was made at or after a
// time, looking at those behind from.
func (db *DB) lastBefore(ctx context.Context, from int64, at time.Time) (rev int64, err error) {
	var found bool
	err = db.read(ctx, false, func(t tx) error {
		return t.run(ctx, one(&found, []any{&rev}, `SELECT rev FROM revisions WHERE rev > $1 AND at >= $2 ORDER BY rev LIMIT 1`, from, micros(at)))
	})
	if err != nil || !found {
		return from, err
	}
	return rev - 1, nil
}

// compact moves the floor of the feed up. The floor moves first: a follower that
// comes between is told to fetch a snapshot, and never sees a gap.
func (db *DB) compact(ctx context.Context, h Head, before time.Time) (int64, error) {
	floor, err := db.lastBefore(ctx, h.Floor, before)
	if err != nil {
		return 0, err
	}
	all, err := db.Snapshots(ctx)
	if err != nil {
		return 0, err
	}
	all = slices.DeleteFunc(all, func(s Snapshot) bool { return s.Epoch != h.Epoch })
	slices.SortFunc(all, func(a, b Snapshot) int { return int(b.Rev - a.Rev) })
	if n := min(len(all), 2); n > 0 {
		floor = min(floor, all[n-1].Rev)
	}
	if floor <= h.Floor {
		return 0, nil
	}
	if err := db.write(ctx, func(t tx) error {
		return t.run(ctx, do(`UPDATE feed SET floor = $1 WHERE shard = 0 AND floor < $1`, floor))
	}); err != nil {
		return 0, err
	}
	const together = 100 // revisions in one transaction
	// From the beginning, not from the former floor: an earlier Tidy may have died
	// between the floor and the rows.
	var first int64
	var found bool
	if err := db.read(ctx, false, func(t tx) error {
		return t.run(ctx, one(&found, []any{&first}, `SELECT rev FROM changes WHERE shard = 0 ORDER BY shard, rev LIMIT 1`))
	}); err != nil || !found {
		return 0, err
	}
	for from := first - 1; from < floor; from += together {
		if err := db.write(ctx, func(t tx) error {
			return t.run(ctx, do(`DELETE FROM changes WHERE shard = 0 AND rev > $1 AND rev <= $2`, from, min(from+together, floor)))
		}); err != nil {
			return 0, err
		}
	}
	return floor - h.Floor, nil
}

// forget moves the beginning of history up.
func (db *DB) forget(ctx context.Context, h Head, before time.Time) (n int64, err error) {
	floor, err := db.lastBefore(ctx, h.HistoryFloor, before)
	if err != nil || floor <= h.HistoryFloor {
		return 0, err
	}
	if err := db.write(ctx, func(t tx) error {
		return t.run(ctx, do(`UPDATE feed SET history_floor = $1 WHERE shard = 0 AND history_floor < $1`, floor))
	}); err != nil {
		return 0, err
	}
	for {
		var until int64
		var found bool
		var removed *statement
		// One revision's at a time: it is the smallest part that an index finds.
		err := db.write(ctx, func(t tx) error {
			found = false
			if err := t.run(ctx, one(&found, []any{&until}, `SELECT until FROM history WHERE until <= $1 ORDER BY until LIMIT 1`, floor)); err != nil || !found {
				return err
			}
			removed = do(`DELETE FROM history WHERE until = $1`, until)
			return t.run(ctx, removed)
		})
		if err != nil {
			return n, err
		}
		if !found {
			break
		}
		n += removed.affected
	}
	return n, db.write(ctx, func(t tx) error { return t.run(ctx, do(`DELETE FROM revisions WHERE rev < $1`, floor)) })
}

// tidyChangesets cancels what a node that died has left, and removes what is
// over.
func (db *DB) tidyChangesets(ctx context.Context) (n int64, err error) {
	all, err := db.Changesets(ctx)
	if err != nil {
		return 0, err
	}
	waiting, err := db.Drafts(ctx)
	if err != nil {
		return 0, err
	}
	now := db.now()
	for _, c := range all {
		if now.Sub(c.Seen) < keepStaged || slices.ContainsFunc(waiting, func(d Draft) bool { return d.Changeset == c.ID }) {
			continue
		}
		// Only if nobody has touched it since it was read.
		var gone *statement
		if err := db.write(ctx, func(t tx) error {
			gone = do(`DELETE FROM changesets WHERE id = $1 AND seen = $2`, c.ID, micros(c.Seen))
			return t.run(ctx, gone)
		}); err != nil {
			return n, err
		}
		if gone.affected == 0 {
			continue
		}
		if err := db.dropStaged(ctx, c.ID); err != nil {
			return n, err
		}
		n++
	}
	return n, db.dropOrphans(ctx)
}

// dropOrphans removes staged rows without a changeset: a node died between the
// two.
func (db *DB) dropOrphans(ctx context.Context) error {
	for last := ""; ; {
		var found, has bool
		var id string
		if err := db.read(ctx, false, func(t tx) error {
			found, has = false, false
			if err := t.run(ctx, one(&found, []any{&last}, `SELECT changeset FROM staged WHERE changeset > $1 ORDER BY changeset LIMIT 1`, last)); err != nil || !found {
				return err
			}
			return t.run(ctx, one(&has, []any{&id}, `SELECT id FROM changesets WHERE id = $1 AND state = 'open'`, last))
		}); err != nil || !found {
			return err
		}
		if has {
			continue
		}
		if err := db.dropStaged(ctx, last); err != nil {
			return err
		}
	}
}
