package admin

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestBadInputIsAProblemAndChangesNothing sends what is wrong each in one way.
func TestBadInputIsAProblemAndChangesNothing(t *testing.T) {
	a := newTestAPI(t)
	a.put("redirects/x?host=a.example", `{"from": "a.example/x", "to": "https://t.example/"}`)
	a.put("redirects/y?host=a.example", `{"from": "a.example/y", "to": "https://a.example/z"}`)
	other := a.must(nil, "GET", "hosts?limit=1", "")
	_, cursor, _ := strings.Cut(other.body, `"next":"`)
	cursor, _, _ = strings.Cut(cursor, `"`)
	const good = `{"from": "a.example/new", "to": "https://t.example/"}`
	tests := []struct {
		name, who, method, path, body string
		headers                       []string
		status                        int
		code, pointer, text           string
	}{
		{"unknown field", "root", "POST", "redirects", `{"from": "a.example/new", "too": ""}`, nil, 422, "invalid", "/too", "unexpected property"},
		{"unknown field in another case", "root", "POST", "redirects", `{"From": "a.example/new", "from": "a.example/new", "to": "https://t.example/"}`, nil, 422, "invalid", "/From", "unexpected property"},
		{"unknown field inside", "root", "POST", "redirects", `{"from": "a.example/new", "to": "https://t.example/", "when": {"headers": {}}}`, nil, 422, "invalid", "/when/headers", "unexpected property"},
		{"wrong type", "root", "POST", "redirects", `{"from": "a.example/new", "to": "https://t.example/", "status": "301"}`, nil, 422, "invalid", "/status", "expected integer"},
		{"missing field", "root", "POST", "redirects", `{"to": "https://t.example/"}`, nil, 422, "invalid", "", "from"},
		{"no JSON", "root", "POST", "redirects", `{"from": `, nil, 400, "bad_request", "", ""},
		{"no body", "root", "POST", "redirects", ``, nil, 400, "bad_request", "", ""},
		{"another media type", "root", "POST", "redirects", good, []string{"Content-Type: text/plain"}, 415, "bad_media_type", "", ""},
		{"another media type of rows", "root", "POST", "changesets", good, []string{"Content-Type: text/plain"}, 415, "bad_media_type", "", ""},
		{"bad value", "root", "POST", "redirects", `{"from": "a.example/new", "to": "nowhere", "when": {"percent": 101}}`, nil, 422, "invalid", "/to", ""},
		{"duplicate", "root", "POST", "redirects", `{"id": "other", "from": "a.example/x", "to": "https://t.example/"}`, nil, 422, "invalid", "", ""},
		{"circle", "root", "POST", "redirects", `{"from": "a.example/z", "to": "https://a.example/y"}`, nil, 422, "invalid", "", ""},
		{"id of another path", "root", "PUT", "redirects/x?host=a.example", `{"id": "y", "from": "a.example/x", "to": "https://t.example/"}`, nil, 422, "invalid", "/id", ""},
		{"from of another host", "root", "PUT", "redirects/x?host=a.example", `{"from": "b.example/x", "to": "https://t.example/"}`, nil, 422, "invalid", "/from", ""},
		{"no host", "root", "GET", "redirects/x", "", nil, 422, "invalid", "?host", "required"},
		{"bad host", "root", "GET", "hosts/a%20b", "", nil, 400, "bad_parameter", "host", "space"},
		{"it exists", "root", "POST", "redirects", `{"id": "x", "from": "a.example/x", "to": "https://t.example/"}`, nil, 412, "precondition_failed", "", ""},
		{"stale ETag", "root", "PUT", "redirects/x?host=a.example", `{"from": "a.example/x", "to": "https://t.example/2"}`, []string{`If-Match: "1"`}, 412, "precondition_failed", "", ""},
		{"stale ETag of a delete", "root", "DELETE", "redirects/x?host=a.example", "", []string{`If-Match: "1"`}, 412, "precondition_failed", "", ""},
		{"ETag of nothing", "root", "PUT", "redirects/none?host=a.example", `{"from": "a.example/none", "to": "https://t.example/2"}`, []string{`If-Match: *`}, 412, "precondition_failed", "", ""},
		{"another's ETag", "root", "PUT", "redirects/x?host=a.example", `{"from": "a.example/x", "to": "https://t.example/2"}`, []string{`If-Match: W/"x"`}, 412, "precondition_failed", "", ""},
		{"unknown parameter", "root", "GET", "redirects?hosts=x", "", nil, 422, "invalid", "?hosts", "unknown query parameter"},
		{"limit too high", "root", "GET", "redirects?limit=5000", "", nil, 422, "invalid", "?limit", ""},
		{"cursor of another list", "root", "GET", "redirects?cursor=" + cursor, "", nil, 400, "bad_parameter", "?cursor", "another list"},
		{"cursor of other filters", "root", "GET", "hosts?team=a&cursor=" + cursor, "", nil, 400, "bad_parameter", "?cursor", "another list"},
		{"no cursor", "root", "GET", "hosts?cursor=%21", "", nil, 400, "bad_parameter", "?cursor", ""},
		{"nobody", "", "GET", "hosts", "", nil, 401, "unauthorized", "", ""},
		{"unknown token", "", "GET", "hosts", "", []string{"Authorization: Bearer fpt_x"}, 401, "unauthorized", "", ""},
		{"another scheme", "", "GET", "hosts", "", []string{"Authorization: Basic eA=="}, 401, "unauthorized", "", ""},
		{"a token of another team", "admin-b", "PUT", "redirects/x?host=a.example", `{"from": "a.example/x", "to": "https://t.example/2"}`, nil, 403, "forbidden", "", ""},
		{"a host of another team", "admin-b", "DELETE", "hosts/a.example?redirects=delete", "", nil, 403, "forbidden", "", ""},
		{"rows of another team", "admin-b", "POST", "changesets", `{"from": "b.example/new", "to": "https://t.example/"}` + "\n" + good, []string{asNDJSON}, 403, "forbidden", "", ""},
		{"an unfinished line", "root", "POST", "changesets", good + "\n" + `{"from": "a.example/new2", "to": "https://t`, []string{asNDJSON}, 422, "invalid", "", "not finished"},
		{"an unfinished line of many", "root", "POST", "changesets", ruleRows("a.example", 1200) + `{"from": "a.example/new2"`, []string{asNDJSON}, 422, "invalid", "", "not finished"},
		{"an unfinished array", "root", "POST", "changesets", `[` + good, nil, 422, "invalid", "", ""},
		{"an unknown field of a row", "root", "POST", "changesets", good + "\n" + `{"from": "a.example/new2", "too": "https://t.example/"}`, []string{asNDJSON}, 422, "invalid", "/too", ""},
		{"a wrong type in a row", "root", "POST", "changesets", good + "\n" + `{"from": "a.example/new2", "to": "https://t.example/", "status": "301"}`, []string{asNDJSON}, 422, "invalid", "/status", ""},
		{"a limited token", "reader", "POST", "redirects", good, nil, 403, "forbidden", "", ""},
		{"a page of another origin", "root", "POST", "redirects", good, []string{"Sec-Fetch-Site: cross-site"}, 403, "forbidden", "", ""},
		{"redirects go with a host", "root", "DELETE", "hosts/a.example", "", nil, 409, "has_redirects", "", ""},
		{"no route", "root", "GET", "nothing", "", nil, 404, "no_route", "", ""},
		{"no method", "root", "PATCH", "hosts", "", nil, 405, "bad_method", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := a.state()
			r := a.do(tt.who, tt.method, tt.path, tt.body, tt.headers...)
			p := r.problem(t)
			if r.StatusCode != tt.status || p.Code != tt.code {
				t.Fatalf("got %d %s", r.StatusCode, r.body)
			}
			pointers, details, hints := "", p.Detail, p.Hint
			for _, f := range p.Errors {
				pointers += f.Pointer + " "
				details += "\n" + f.Detail
				hints += f.Hint
			}
			if hints == "" {
				t.Errorf("nothing says what to do: %s", r.body)
			}
			if tt.pointer != "" && !strings.Contains(pointers, tt.pointer+" ") || !strings.Contains(details, tt.text) {
				t.Errorf("no %q at %s: %s", tt.text, tt.pointer, r.body)
			}
			if !p.hinted() {
				t.Errorf("without a hint: %s", r.body)
			}
			if after := a.state(); after != before {
				t.Errorf("something has changed from\n%s\nto\n%s", before, after)
			}
		})
	}
}

// state is all that a request may change: content, history, people, drafts, and what
// the audit says. That a job has failed is told, and changes nothing.
func (a *testAPI) state() string {
	a.Helper()
	var b strings.Builder
	for _, list := range []string{"hosts", "redirects", "changes", "drafts", "versions", "sources", "teams", "users", "audit"} {
		b.WriteString(list + " " + a.must(nil, "GET", list, "").body + "\n")
	}
	return b.String()
}

// endless is a body that must not be read to its end.
type endless struct{ read atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.read.Add(int64(len(p)))
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// TestLargeBodyIsRefusedEarly streams 2 GB at routes that take one item, and as one
// row without an end at the one that takes many.
func TestLargeBodyIsRefusedEarly(t *testing.T) {
	a := newTestAPI(t)
	const size = 2 << 30
	for _, tt := range []struct {
		path, media string
		known       bool // the length is said first
		status      int
		code        string
	}{
		{"redirects", mediaJSON, true, 413, "body_too_large"},
		{"redirects", mediaJSON, false, 413, "body_too_large"},
		{"changesets", mediaNDJSON, true, 422, "invalid"},
		{"changesets", mediaNDJSON, false, 422, "invalid"},
		{"changesets", mediaCSV, false, 422, "invalid"},
		{"changesets", mediaJSON, false, 422, "invalid"},
		{"drafts?team=a", mediaNDJSON, false, 422, "invalid"},
	} {
		t.Run(fmt.Sprint(tt.path, " ", tt.media, " ", tt.known), func(t *testing.T) {
			before := a.state()
			memory := residentMiB(t)
			body := new(endless)
			req, _ := http.NewRequest("POST", a.url+Prefix+"/"+tt.path, io.LimitReader(body, size))
			req.Header.Set("Authorization", "Bearer "+a.tokens["root"])
			req.Header.Set("Content-Type", tt.media)
			if tt.known {
				req.ContentLength = size
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Log(err) // the server may hang up before the client has sent what it wants
			} else {
				text, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != tt.status || !strings.Contains(string(text), tt.code) || !strings.Contains(string(text), `"hint"`) {
					t.Errorf("%d %s", resp.StatusCode, text)
				}
			}
			if n := body.read.Load(); n > 8*maxRow {
				t.Errorf("%d bytes were sent", n)
			}
			if more := residentMiB(t) - memory; more > 100 {
				t.Errorf("it took %d MiB of memory", more)
			}
			if after := a.state(); after != before {
				t.Errorf("something has changed from\n%s\nto\n%s", before, after)
			}
		})
	}
}

func TestIdempotencyKeyMakesARequestOnce(t *testing.T) {
	a := newTestAPI(t)
	key := "Idempotency-Key: k"
	const body = `{"from": "a.example/x", "to": "https://t.example/"}`
	first := a.must(nil, "POST", "redirects", body, key)
	rev := a.rev()
	again := a.must(nil, "POST", "redirects", body, key)
	if again.StatusCode != 201 || again.body != first.body || a.rev() != rev {
		t.Errorf("again: %d %s, first %s", again.StatusCode, again.body, first.body)
	}
	if other := a.do("root", "POST", "redirects", `{"from": "a.example/y", "to": "https://t.example/"}`, key); other.problem(t).Code != "key_reused" {
		t.Errorf("the key for something else: %s", other.body)
	}
	// Keys of others are others.
	if r := a.do("publisher-a", "POST", "redirects", `{"from": "a.example/z", "to": "https://t.example/"}`, key); r.StatusCode != 201 {
		t.Errorf("another's: %d %s", r.StatusCode, r.body)
	}
	var made RedirectResource
	a.must(&made, "POST", "redirects", `{"from": "a.example/d", "to": "https://t.example/"}`)
	path := "redirects/" + made.ID + "?host=a.example"
	for range 2 {
		if r := a.must(nil, "DELETE", path, "", "Idempotency-Key: d"); !strings.Contains(r.body, `"removed":1`) {
			t.Errorf("delete: %s", r.body)
		}
	}
	if r := a.do("root", "DELETE", path, ""); r.StatusCode != 404 {
		t.Errorf("delete again without a key: %d", r.StatusCode)
	}
}

// TestConcurrentWritesAreCheckedOneAfterTheOther races rules that are right each
// by itself, of which one only can be in force.
func TestConcurrentWritesAreCheckedOneAfterTheOther(t *testing.T) {
	a := newTestAPI(t)
	const n = 16
	status := make(chan int, n)
	for i := range n {
		go func() {
			r := a.do("root", "POST", "redirects", fmt.Sprintf(`{"id": "x%d", "from": "a.example/same", "to": "https://t.example/"}`, i))
			status <- r.StatusCode
		}()
	}
	made := 0
	for range n {
		switch s := <-status; s {
		case 201:
			made++
		case 422:
		default:
			t.Errorf("got %d", s)
		}
	}
	if made != 1 {
		t.Errorf("%d of the rules are in force, want 1", made)
	}
}

func TestPagesHaveEachItemOnce(t *testing.T) {
	a := newTestAPI(t)
	a.must(nil, "POST", "changesets", ruleRows("a.example", 25), asNDJSON)
	a.must(nil, "POST", "changesets", ruleRows("b.example", 5), asNDJSON)
	for _, tt := range []struct {
		filter string
		want   int
	}{{"", 30}, {"&host=a.example", 25}, {"&team=b", 5}, {"&source=api", 30}, {"&source=git:x", 0}, {"&text=/P1", 12}} {
		seen := map[string]bool{}
		for next, pages := "", 0; ; pages++ {
			var page Page[RedirectResource]
			a.must(&page, "GET", "redirects?limit=4"+tt.filter+"&cursor="+next, "")
			for _, r := range page.Items {
				if seen[r.Host+r.ID] {
					t.Errorf("%s: %s comes twice", tt.filter, r.From)
				}
				seen[r.Host+r.ID] = true
			}
			if next = page.Next; next == "" || pages > 20 {
				break
			}
		}
		if len(seen) != tt.want {
			t.Errorf("%s: %d items, want %d", tt.filter, len(seen), tt.want)
		}
	}
}

func TestForeignSourceIsTakenOverByPublishersOnly(t *testing.T) {
	a := newTestAPI(t)
	a.must(nil, "POST", "changesets?source=git:x", `{"id": "g", "from": "a.example/g", "to": "https://t.example/"}`, asNDJSON)
	const path, body = "redirects/g?host=a.example", `{"from": "a.example/g", "to": "https://t.example/2"}`
	if r := a.do("editor-a", "PUT", path, body); r.StatusCode != 409 || r.problem(t).Code != "foreign_source" {
		t.Errorf("without take: %d %s", r.StatusCode, r.body)
	}
	if r := a.do("editor-a", "PUT", path+"&take=true", body); r.StatusCode != 403 {
		t.Errorf("taken by an editor: %d %s", r.StatusCode, r.body)
	}
	if r := a.do("publisher-a", "PUT", path+"&take=true", body); r.StatusCode != 200 || !strings.Contains(r.body, `"source":"api"`) {
		t.Errorf("taken by a publisher: %d %s", r.StatusCode, r.body)
	}
}

func TestLoginsAreLimited(t *testing.T) {
	now := time.Unix(0, 0)
	var l limiter
	for i := range loginTries + 1 {
		err := l.allow(now, loginTries, "user x")
		if (err != nil) != (i == loginTries) {
			t.Fatalf("try %d: %v", i, err)
		}
	}
	if err := l.allow(now.Add(time.Minute/loginTries), loginTries, "user x"); err != nil {
		t.Errorf("after a while: %v", err)
	}
	if err := l.allow(now, loginTries, "user y"); err != nil {
		t.Errorf("another: %v", err)
	}
}
