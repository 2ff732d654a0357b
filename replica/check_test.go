package replica

import (
	"testing"

	"fingerpost"
)

// TestCheckNamesTheItem: what the API has to tell is which change is at fault.
func TestCheckNamesTheItem(t *testing.T) {
	f := newFake(t, "e1")
	f.commit(putHost("a.x", fingerpost.Host{Also: []string{"b.x"}}), putRedirect("r1", fingerpost.Redirect{From: "a.x/p", To: "https://t.test/"}))
	r := open(t, Options{})
	load(t, r, f)
	tests := []struct {
		name    string
		changes []Change
		code    string // empty: accepted
		at      string
	}{
		{"another path", []Change{putRedirect("r2", fingerpost.Redirect{From: "a.x/q", To: "https://t.test/"})}, "", ""},
		{"the same again", []Change{putRedirect("r1", fingerpost.Redirect{From: "a.x/p", To: "https://t.test/2"})}, "", ""},
		{"duplicate", []Change{putRedirect("r2", fingerpost.Redirect{From: "a.x/p/", To: "https://t.test/2"})}, "duplicate", "redirect a.x/r2"},
		{"moved within one change", []Change{putRedirect("r2", fingerpost.Redirect{From: "a.x/p", To: "https://t.test/2"}), remove(KindRedirect, "a.x/r1")}, "", ""},
		{"self", []Change{putRedirect("r3", fingerpost.Redirect{From: "a.x/s", To: "/s"})}, "self_redirect", "redirect a.x/r3"},
		{"circle", []Change{putRedirect("r3", fingerpost.Redirect{From: "a.x/1", To: "/2"}), putRedirect("r4", fingerpost.Redirect{From: "a.x/2", To: "/1"})}, "cycle", "redirect a.x/r3"},
		{"host twice", []Change{putHost("b.x", fingerpost.Host{})}, "duplicate", "host b.x"},
		{"rule for an alias", []Change{putRedirect("r9", fingerpost.Redirect{From: "b.x/p", To: "https://t.test/"})}, "bad_from", "redirect b.x/r9"},
		{"unreadable", []Change{{Put, Item{Kind: KindRedirect, Key: "a.x/r9", Value: []byte(`[]`)}}}, "bad_item", "redirect a.x/r9"},
		{"other host in key", []Change{{Put, Item{Kind: KindRedirect, Key: "c.x/r9", Value: []byte(`{"from":"a.x/z","to":"/"}`)}}}, "bad_item", "redirect c.x/r9"},
		{"another kind", []Change{{Put, Item{Kind: "zone", Key: "x", Value: []byte(`{}`)}}}, "", ""},
	}
	for _, tt := range tests {
		errs := fingerpost.Errors(r.Check(tt.changes))
		switch {
		case tt.code == "" && len(errs) > 0:
			t.Errorf("%s: refused: %v", tt.name, errs)
		case tt.code != "" && (len(errs) == 0 || errs[0].Code != tt.code || errs[0].At.File != tt.at):
			t.Errorf("%s: got %+v, want %s at %s", tt.name, errs, tt.code, tt.at)
		}
	}
	if at, _ := r.Cursor(); at.Rev != 1 {
		t.Errorf("Check has moved the replica to %v", at)
	}
	compare(t, r.Table(), f.table(t))
}
