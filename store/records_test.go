package store

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPeople(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, c *clock) {
		ctx, root := t.Context(), Actor{Who: "root", Token: "t0"}
		check := func(what string, err, want error) {
			t.Helper()
			if !errors.Is(err, want) {
				t.Errorf("%s: %v", what, err)
			}
		}
		at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
		team := Team{Name: "web", Title: "The web", Review: true, Created: at}
		check("team", db.PutTeam(ctx, root, team), nil)
		if got, err := db.Team(ctx, "web"); err != nil || got != team {
			t.Errorf("%+v, %v", got, err)
		}
		check("a name that is no text", db.PutTeam(ctx, root, Team{Name: "a\x00"}), ErrInvalid)
		check("no name", db.PutTeam(ctx, root, Team{}), ErrInvalid)

		ann := User{Name: "ann", Email: "ann@example.com", Password: "$argon2id$secret", Subject: "iss|1", Roles: map[string]string{"web": "editor", "*": "viewer"}, Created: at}
		check("user", db.AddUser(ctx, root, ann), nil)
		check("user again", db.AddUser(ctx, root, ann), ErrExists)
		if got, err := db.UserBySubject(ctx, "iss|1"); err != nil || !reflect.DeepEqual(got, ann) {
			t.Errorf("%+v, %v", got, err)
		}
		_, err := db.UserBySubject(ctx, "")
		check("no subject", err, ErrNotFound)
		check("seen", db.SeeUser(ctx, "ann"), nil)
		if got, err := db.User(ctx, "ann"); err != nil || got.Seen.IsZero() {
			t.Errorf("%+v, %v", got, err)
		}

		token := Token{ID: "t1", Hash: "h1", Owner: "ann", Scope: "api", Role: "editor", Team: "web", Created: at, Expires: c.now().Add(time.Hour)}
		check("token", db.AddToken(ctx, root, token), nil)
		check("token without a hash", db.AddToken(ctx, root, Token{ID: "t2"}), ErrInvalid)
		got, err := db.TokenByHash(ctx, "h1")
		if err != nil || got.ID != "t1" || !got.Used.IsZero() {
			t.Errorf("%+v, %v", got, err)
		}
		db.UseToken(&got)
		db.cleaning.Wait()
		if got, _ = db.TokenByHash(ctx, "h1"); got.Used.IsZero() {
			t.Error("the use of a token was not noted")
		}
		c.jump(2 * time.Hour)
		_, err = db.TokenByHash(ctx, "h1")
		check("expired token", err, ErrNotFound)
		_, err = db.TokenByHash(ctx, "h2")
		check("unknown token", err, ErrNotFound)
		check("delete user", db.DeleteUser(ctx, root, "ann"), nil)
		check("delete user again", db.DeleteUser(ctx, root, "ann"), ErrNotFound)
		if all, err := db.Tokens(ctx); err != nil || len(all) != 0 {
			t.Errorf("tokens of a deleted user: %+v, %v", all, err)
		}
		check("delete team", db.DeleteTeam(ctx, root, "web"), nil)
		if all, err := db.Teams(ctx); err != nil || len(all) != 0 {
			t.Errorf("%+v, %v", all, err)
		}
		var lines []string
		if err := db.Audit(ctx, AuditQuery{}, func(e *Entry) error {
			lines = append(lines, e.Action+" "+e.Kind+" "+e.Key)
			if strings.Contains(e.Before+e.After, "secret") || strings.Contains(e.Before+e.After, "h1") {
				t.Errorf("the audit tells a hash: %+v", e)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if got, want := strings.Join(lines, ", "), "put team web, put user ann, put token t1, delete token t1, delete user ann, delete team web"; got != want {
			t.Errorf("audit: %s", got)
		}
	})
}

func TestCluster(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, c *clock) {
		ctx, root := t.Context(), Actor{Who: "root"}
		ok := func(err error) {
			t.Helper()
			if err != nil {
				t.Error(err)
			}
		}
		node := Node{ID: "n1", Region: "eu", Addresses: []string{"192.0.2.1", "2001:db8::1"}, Roles: []string{"edge"}, Version: "1", Health: "ok", Epoch: "e", Rev: 7}
		ok(db.ReportNode(ctx, node))
		ok(db.ReportNode(ctx, node))
		all, err := db.Nodes(ctx)
		if err != nil || len(all) != 1 || all[0].Seen.IsZero() {
			t.Fatalf("%+v, %v", all, err)
		}
		all[0].Seen = time.Time{}
		if !reflect.DeepEqual(all[0], node) {
			t.Errorf("%+v", all[0])
		}
		ok(db.DeleteNode(ctx, "n1"))

		ok(db.PutSource(ctx, root, Source{Label: "git:shop", Kind: "git", URL: "https://git.example/shop", Settings: []byte(`{"branch":"main"}`), Team: "web", Paused: true}))
		ok(db.ReportSource(ctx, Source{Label: "git:shop", Kind: "git", URL: "https://git.example/shop", State: "ok", Version: "abc", Rev: 4}))
		ok(db.ReportSource(ctx, Source{Label: "git:shop", Kind: "git", State: "failing", Error: "no such branch", Version: "abc", Checked: time.Unix(5, 0)}))
		if s, err := db.Source(ctx, "git:shop"); err != nil || s.State != "failing" || s.Rev != 4 || !s.Paused || string(s.Settings) != `{"branch":"main"}` || s.Team != "web" || !s.Checked.Equal(time.Unix(5, 0)) {
			t.Errorf("%+v, %v", s, err)
		}
		ok(db.ReportSource(ctx, Source{Label: "git:other", Kind: "git", State: "ok"}))
		if all, err := db.Sources(ctx); err != nil || len(all) != 2 || all[0].Label != "git:other" || all[0].Paused {
			t.Errorf("%+v, %v", all, err)
		}
		ok(db.DeleteSource(ctx, root, "git:shop"))

		ok(db.PutDraft(ctx, root, Draft{ID: "d1", Team: "web", State: "open", Author: "ann", Changeset: "cs-1", Base: 3}))
		if d, err := db.Draft(ctx, "d1"); err != nil || d.Base != 3 || d.Updated.IsZero() {
			t.Errorf("%+v, %v", d, err)
		}
		ok(db.DeleteDraft(ctx, root, "d1"))

		ok(db.PutJob(ctx, Job{ID: "j1", Kind: "import", State: "running", Done: 5, Total: 10}))
		ok(db.PutJob(ctx, Job{ID: "j1", Kind: "import", State: "done", Done: 10, Total: 10, Result: []byte(`{"rev":3}`)}))
		if j, err := db.Job(ctx, "j1"); err != nil || j.Done != 10 || string(j.Result) != `{"rev":3}` {
			t.Errorf("%+v, %v", j, err)
		}
		if all, err := db.Jobs(ctx); err != nil || len(all) != 1 {
			t.Errorf("%+v, %v", all, err)
		}
		ok(db.DeleteJob(ctx, "j1"))

		ok(db.AddSnapshot(ctx, Snapshot{ID: "s1", Epoch: "e", Rev: 3, SHA256: "00", Bytes: 5 << 30}))
		if all, err := db.Snapshots(ctx); err != nil || len(all) != 1 || all[0].Bytes != 5<<30 {
			t.Errorf("%+v, %v", all, err)
		}
		ok(db.DeleteSnapshot(ctx, "s1"))
	})
}

func TestLeases(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, c *clock) {
		ctx := t.Context()
		a, err := db.Acquire(ctx, "renew", "n1", time.Minute)
		if err != nil || a.Fence != 1 || a.Holder != "n1" {
			t.Fatalf("%+v, %v", a, err)
		}
		if l, err := db.Acquire(ctx, "renew", "n2", time.Minute); !errors.Is(err, ErrFenced) || l.Holder != "n1" {
			t.Errorf("another's lease: %+v, %v", l, err)
		}
		if l, err := db.Acquire(ctx, "renew", "n1", time.Minute); err != nil || l.Fence != 1 || !l.Expires.After(a.Expires) {
			t.Errorf("renewed: %+v, %v", l, err)
		}
		c.jump(2 * time.Minute)
		b, err := db.Acquire(ctx, "renew", "n2", time.Minute)
		if err != nil || b.Fence != 2 {
			t.Errorf("after it expired: %+v, %v", b, err)
		}
		if err := db.Release(ctx, a); !errors.Is(err, ErrFenced) {
			t.Errorf("release of an old lease: %v", err)
		}
		if err := db.Release(ctx, b); err != nil {
			t.Error(err)
		}
		if err := db.Release(ctx, b); err != nil { // as a retry would
			t.Errorf("released twice: %v", err)
		}
		if l, err := db.Acquire(ctx, "renew", "n1", time.Minute); err != nil || l.Fence != 3 {
			t.Errorf("after the release: %+v, %v", l, err)
		}
	})
}

// execAll runs statements beside the API, as somebody with the database's
// password could.
func execAll(t testing.TB, db *DB, list ...string) {
	t.Helper()
	if err := db.engine.write(context.Background(), func(x tx) error {
		for _, sql := range list {
			if err := x.run(context.Background(), do(sql)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestAuditShowsTampering(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, _ *clock) {
		for i := range 5 {
			commit(t, db, put("a/1", fmt.Sprint(i)))
		}
		if err := db.Record(t.Context(), Entry{Actor: Actor{Who: "ann"}, Action: "login", Kind: "user", Key: "ann"}); err != nil {
			t.Fatal(err)
		}
		seq, hash, err := db.VerifyAudit(t.Context())
		if err != nil || seq != 6 || len(hash) != 64 {
			t.Fatal(seq, hash, err)
		}
		var seqs []int64
		if err := db.Audit(t.Context(), AuditQuery{Kind: KindRedirect, Key: "a/1", Who: "ann", Newest: true, After: 5, Limit: 2}, func(e *Entry) error {
			seqs = append(seqs, e.Seq)
			if e.Seq == 4 && (e.Before != `{"rev":3,"source":"api","team":"web","value":{"to":"2"}}` || e.After != `{"rev":4,"source":"api","team":"web","value":{"to":"3"}}` || e.Token != "t1" || e.Rev != 4) {
				t.Errorf("%+v", e)
			}
			return nil
		}); err != nil || !slices.Equal(seqs, []int64{4, 3}) {
			t.Errorf("%v, %v", seqs, err)
		}
		for _, tt := range []struct{ name, change, undo string }{
			{"a field", `UPDATE audit SET who = 'bob' WHERE seq = 3`, `UPDATE audit SET who = 'ann' WHERE seq = 3`},
			{"moved text", `UPDATE audit SET who = 'a', token = 'nnt1' WHERE seq = 3`, `UPDATE audit SET who = 'ann', token = 't1' WHERE seq = 3`},
			{"the time", `UPDATE audit SET at = at + 1 WHERE seq = 2`, `UPDATE audit SET at = at - 1 WHERE seq = 2`},
			{"the end", `UPDATE audit_head SET seq = 5`, `UPDATE audit_head SET seq = 6`},
			{"an entry removed", `DELETE FROM audit WHERE seq = 4`, ``},
		} {
			execAll(t, db, tt.change)
			if _, _, err := db.VerifyAudit(t.Context()); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s: %v", tt.name, err)
			}
			if tt.undo != "" {
				execAll(t, db, tt.undo)
			}
		}
	})
}

// fillAll makes a store with something in each table of a backup.
func fillAll(t testing.TB, db *DB) {
	t.Helper()
	ctx, root := t.Context(), Actor{Who: "root", Token: "t0"}
	r := commit(t, db, put("a/1", "x"), put("a/2", "\u2028<&>\\\" é"))
	commit(t, db, put("a/1", "y"), remove("a/2"), Change{Op: Put, Item: Item{Kind: KindHost, Key: "a", Value: []byte(`{"https":"allow-all"}`), Source: "file:x"}})
	c := stage(t, db, StageOptions{Source: "api"}, many("b", 1500, "x"))
	publish(t, c)
	db.cleaning.Wait()
	draft := stage(t, db, StageOptions{Source: "api"}, many("d", 3, "x"))
	_, lease := db.Acquire(ctx, "renew", "n1", time.Hour)
	for _, err := range []error{
		db.NameVersion(ctx, root, Version{Name: "first", Rev: r.Rev}),
		db.PutTeam(ctx, root, Team{Name: "web", Review: true}),
		db.PutUser(ctx, root, User{Name: "ann", Password: "$argon2id$", Roles: map[string]string{"web": "editor"}}),
		db.AddToken(ctx, root, Token{ID: "t1", Hash: "h1", Scope: "api"}),
		db.PutSource(ctx, root, Source{Label: "git:x", Kind: "git", Settings: []byte(`{}`)}),
		db.PutDraft(ctx, root, Draft{ID: "d1", State: "open", Changeset: draft.ID}),
		db.PutJob(ctx, Job{ID: "j1", Kind: "import", State: "done"}),
		lease,
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestBackupGoesAnywhere restores from each engine into each, and gets the same.
func TestBackupGoesAnywhere(t *testing.T) {
	all := places(t)
	for _, from := range all {
		db := open(t, from.dsn(t), Options{Now: newClock().now})
		fillAll(t, db)
		var file bytes.Buffer
		head, err := db.Backup(t.Context(), &file)
		if err != nil {
			t.Fatal(err)
		}
		for _, to := range all {
			t.Run(from.name+" to "+to.name, func(t *testing.T) {
				other := open(t, to.dsn(t), Options{Now: newClock().now})
				if err := other.PutTeam(t.Context(), Actor{}, Team{Name: "of the first start"}); err != nil {
					t.Fatal(err)
				}
				got, err := other.ReadBackup(t.Context(), bytes.NewReader(file.Bytes()))
				if err != nil {
					t.Fatal(err)
				}
				if got.Rev != head.Rev || got.Floor != head.Rev || got.Epoch == head.Epoch {
					t.Errorf("the head is %+v, of a backup at %+v", got, head)
				}
				if _, err := other.Changes(t.Context(), head.Cursor(), 10); !errors.Is(err, ErrTooOld) {
					t.Errorf("a cursor from before: %v", err)
				}
				if content(t, other) != content(t, db) {
					t.Error("the content differs")
				}
				if contentAt(t, other, 1, []string{"a/1", "a/2"}) != contentAt(t, db, 1, []string{"a/1", "a/2"}) {
					t.Error("the history differs")
				}
				if _, _, err := other.VerifyAudit(t.Context()); err != nil {
					t.Error(err)
				}
				if l, err := other.Acquire(t.Context(), "renew", "n2", time.Hour); err != nil || l.Fence != 2 {
					t.Errorf("lease: %+v, %v", l, err)
				}
				var again bytes.Buffer
				if _, err := other.Backup(t.Context(), &again); err != nil {
					t.Fatal(err)
				}
				if _, err := other.ReadBackup(t.Context(), &again); !errors.Is(err, ErrExists) {
					t.Errorf("into a store with content: %v", err)
				}
				if r := commit(t, other, put("z/1", "x")); r.Rev != head.Rev+1 {
					t.Errorf("the first commit is revision %d", r.Rev)
				}
				d, err := other.Draft(t.Context(), "d1")
				if err != nil {
					t.Fatal(err)
				}
				c, err := other.Changeset(t.Context(), d.Changeset)
				if err != nil {
					t.Fatal(err)
				}
				if r := publish(t, c); r.Added != 3 {
					t.Errorf("the draft's changeset: %+v", r)
				}
			})
		}
	}
}

// TestDamagedBackupsChangeNothing cuts and flips a backup at many places.
func TestDamagedBackupsChangeNothing(t *testing.T) {
	onEach(t, func(t *testing.T, db *DB, _ *clock) {
		from := open(t, "sqlite:"+t.TempDir(), Options{})
		commit(t, from, put("a/1", "x"), put("a/2", "y"))
		var file bytes.Buffer
		if _, err := from.Backup(t.Context(), &file); err != nil {
			t.Fatal(err)
		}
		whole := file.Bytes()
		try := func(what string, data []byte) {
			t.Helper()
			if _, err := db.ReadBackup(t.Context(), bytes.NewReader(data)); err == nil {
				t.Fatalf("%s: no error", what)
			}
			if got := content(t, db); got != "" {
				t.Fatalf("%s: it left\n%s", what, got)
			}
		}
		for n := 0; n < len(whole); n += 1 + len(whole)/40 {
			try(fmt.Sprintf("cut at %d", n), whole[:n])
		}
		for n := 10; n < len(whole); n += 1 + len(whole)/40 {
			flipped := bytes.Clone(whole)
			flipped[n] ^= 0x10
			try(fmt.Sprintf("flipped at %d", n), flipped)
		}
		try("cut by a byte", whole[:len(whole)-1])
		try("changed and packed again", repack(t, whole, `"a/2"`, `"a/3"`))
		try("no backup", []byte("PK\x03\x04"))
		if _, err := db.ReadBackup(t.Context(), bytes.NewReader(whole)); err != nil {
			t.Errorf("whole: %v", err)
		}
	})
}

// repack changes the text of a backup.
func repack(t *testing.T, file []byte, from, to string) []byte {
	t.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(zip)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte(from)) {
		t.Fatalf("the backup has no %s", from)
	}
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(bytes.Replace(text, []byte(from), []byte(to), 1)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestBackupHasEveryColumn holds the list of a backup's tables to the schema.
func TestBackupHasEveryColumn(t *testing.T) {
	left := []string{"changes", "receipts", "nodes", "snapshots", "goose_db_version", "sqlite_sequence"}
	db := open(t, "sqlite:"+t.TempDir(), Options{})
	want := map[string][]string{}
	if err := db.read(t.Context(), false, func(x tx) error {
		return each(t.Context(), x, func(r rows) error {
			var name, column string
			err := r.Scan(&name, &column)
			if !slices.Contains(left, name) {
				want[name] = append(want[name], column)
			}
			return err
		}, `SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'`)
	}); err != nil {
		t.Fatal(err)
	}
	for _, d := range dumped {
		names, _ := d.fields()
		slices.Sort(names)
		slices.Sort(want[d.name])
		if !slices.Equal(names, want[d.name]) {
			t.Errorf("table %s has the columns %v, a backup has %v", d.name, want[d.name], names)
		}
		delete(want, d.name)
	}
	for name := range want {
		t.Errorf("table %s is not in a backup", name)
	}
}
