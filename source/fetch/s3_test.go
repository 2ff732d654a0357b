package fetch

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fingerpost/source"
)

// fakeS3 is a bucket named "rules" behind the S3 protocol: signatures (version 4),
// HEAD and GET with conditions, and lists in pages of two.
type fakeS3 struct {
	t      *testing.T
	key    string // the secret; empty for a public bucket
	mu     sync.Mutex
	bodies map[string]string
	calls  []string
	before func(call string) // of tests: changes things in between
}

func (s *fakeS3) put(key, body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bodies[key] = body
}

func etag(body string) string { return fmt.Sprintf(`"%x"`, md5.Sum([]byte(body))) }

func (s *fakeS3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key, ok := strings.CutPrefix(r.URL.Path, "/rules/")
	call := r.Method + " " + key
	if ok && key == "" {
		call = "LIST " + r.URL.Query().Get("prefix")
	}
	if s.before != nil {
		s.before(call)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fail := func(status int, code string) {
		s.calls = append(s.calls, call+" "+strconv.Itoa(status))
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		if status != http.StatusNotModified && r.Method != http.MethodHead {
			fmt.Fprintf(w, "<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>Not as asked.</Message></Error>", code)
		}
	}
	switch body, there := s.bodies[key]; {
	case s.key != "" && !s.signed(r):
		fail(http.StatusForbidden, "SignatureDoesNotMatch")
	case !ok:
		fail(http.StatusNotFound, "NoSuchBucket")
	case key == "" && r.URL.Query().Get("list-type") == "2":
		s.calls = append(s.calls, call)
		s.list(w, r.URL.Query())
	case !there:
		fail(http.StatusNotFound, "NoSuchKey")
	case r.Header.Get("If-Match") != "" && !same(r.Header.Get("If-Match"), etag(body)):
		fail(http.StatusPreconditionFailed, "PreconditionFailed")
	case same(r.Header.Get("If-None-Match"), etag(body)):
		fail(http.StatusNotModified, "")
	default:
		s.calls = append(s.calls, call+" 200")
		w.Header().Set("ETag", etag(body))
		w.Header().Set("Last-Modified", "Sun, 15 Nov 2026 10:00:00 GMT")
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		if r.Method == http.MethodGet {
			w.Write([]byte(body))
		}
	}
}

func same(a, b string) bool { return strings.Trim(a, `"`) == strings.Trim(b, `"`) }

func (s *fakeS3) list(w http.ResponseWriter, query url.Values) {
	type object struct{ Key, LastModified, ETag, Size string }
	var result struct {
		XMLName               xml.Name `xml:"ListBucketResult"`
		Name, Prefix          string
		IsTruncated           bool
		NextContinuationToken string
		Contents              []object
	}
	result.Name, result.Prefix = "rules", query.Get("prefix")
	for _, key := range slices.Sorted(maps.Keys(s.bodies)) {
		if !strings.HasPrefix(key, result.Prefix) || key <= query.Get("continuation-token") {
			continue
		}
		if len(result.Contents) == 2 {
			result.IsTruncated, result.NextContinuationToken = true, result.Contents[1].Key
			break
		}
		result.Contents = append(result.Contents, object{key, "2026-11-15T10:00:00.000Z", etag(s.bodies[key]), strconv.Itoa(len(s.bodies[key]))})
	}
	w.Header().Set("Content-Type", "application/xml")
	if err := xml.NewEncoder(w).Encode(result); err != nil {
		s.t.Error(err)
	}
}

// signed checks the signature as AWS describes it ("Signature Version 4").
func (s *fakeS3) signed(r *http.Request) bool {
	fields := map[string]string{}
	auth, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	for field := range strings.SplitSeq(auth, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		fields[name] = value
	}
	scope := strings.Split(fields["Credential"], "/")
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if !ok || err != nil || len(scope) != 5 || scope[0] != "KEYID" || scope[2] != "eu-north-1" || scope[3] != "s3" || time.Since(at).Abs() > 15*time.Minute {
		return false
	}
	var canonical strings.Builder
	fmt.Fprintf(&canonical, "%s\n%s\n%s\n", r.Method, r.URL.EscapedPath(), strings.ReplaceAll(r.URL.Query().Encode(), "+", "%20"))
	for name := range strings.SplitSeq(fields["SignedHeaders"], ";") {
		value := r.Header.Get(name)
		if name == "host" {
			value = r.Host
		}
		fmt.Fprintf(&canonical, "%s:%s\n", name, strings.TrimSpace(value))
	}
	fmt.Fprintf(&canonical, "\n%s\n%s", fields["SignedHeaders"], r.Header.Get("X-Amz-Content-Sha256"))
	text := fmt.Sprintf("AWS4-HMAC-SHA256\n%s\n%s\n%x", r.Header.Get("X-Amz-Date"), strings.Join(scope[1:], "/"), sha256.Sum256([]byte(canonical.String())))
	key := []byte("AWS4" + s.key)
	for _, part := range append(scope[1:], text) {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(part))
		key = h.Sum(nil)
	}
	return hex.EncodeToString(key) == fields["Signature"]
}

// newFakeS3 serves a bucket; the environment has the right credentials.
func newFakeS3(t *testing.T) (*fakeS3, string) {
	s := &fakeS3{t: t, key: "hunter2", bodies: map[string]string{}}
	for _, name := range []string{"AWS_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "KEYID")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
	address, _ := server(t, false, s.ServeHTTP)
	return s, address
}

func TestAnObjectIsFetchedByItsETag(t *testing.T) {
	s, address := newFakeS3(t)
	s.put("d/r.json", "[1]")
	o := New(source.Elsewhere{S3: &source.S3{Bucket: "rules", Key: "d/r.json", Region: "eu-north-1", Endpoint: address}, MaxMiB: 1})
	f, err := o.Fetch(t.Context(), "")
	check(t, "first", fetched(f, err), "s3://rules/d/r.json=[1]")
	if err == nil && (f.Modified.IsZero() || f.Version != strings.Trim(etag("[1]"), `"`)) {
		t.Errorf("version %s of %v", f.Version, f.Modified)
	}
	check(t, "again", fetched(o.Fetch(t.Context(), f.Version)), "unchanged")
	s.put("d/r.json", "[2]")
	check(t, "changed", fetched(o.Fetch(t.Context(), f.Version)), "s3://rules/d/r.json=[2]")
	s.put("d/r.json", strings.Repeat("x", 1<<20+1))
	check(t, "large", fetched(o.Fetch(t.Context(), "")), "error: it is larger than 1 MiB (maxMiB)")
	s.mu.Lock()
	delete(s.bodies, "d/r.json")
	s.mu.Unlock()
	check(t, "gone", fetched(o.Fetch(t.Context(), f.Version)), "error: the answer is 404 NoSuchKey: ")
	if got, want := strings.Join(s.calls, ", "), "GET d/r.json 200, GET d/r.json 304, GET d/r.json 200, GET d/r.json 200, GET d/r.json 404"; got != want {
		t.Errorf("calls %s, want %s", got, want)
	}
}

func TestObjectsBelowAPrefixAreAsFilesInAFolder(t *testing.T) {
	s, address := newFakeS3(t)
	s.put("live/a.json", "[1]")
	s.put("live/b.yaml", "{}")
	s.put("live/", "")
	s.put("live/notes.txt", "x")
	s.put("live/p/gone.html", "<p>")
	s.put("lively.json", "[]")
	o := New(source.Elsewhere{S3: &source.S3{Bucket: "rules", Prefix: "live", Region: "eu-north-1", Endpoint: address}, MaxMiB: 1})
	f, err := o.Fetch(t.Context(), "")
	check(t, "first", fetched(f, err), "s3://rules/live/a.json=[1] s3://rules/live/b.yaml={}")
	if err != nil {
		t.Fatal(err)
	}
	if page, err := f.Beside("p/gone.html", 10); string(page) != "<p>" || err != nil {
		t.Errorf("the page is %q, %v", page, err)
	}
	if _, err := f.Beside("none.html", 10); err != fs.ErrNotExist {
		t.Errorf("no page gives %v", err)
	}
	check(t, "again", fetched(o.Fetch(t.Context(), f.Version)), "unchanged")
	s.put("live/p/gone.html", "<p>other") // a page is a part of the version
	second, err := o.Fetch(t.Context(), f.Version)
	check(t, "page", fetched(second, err), "s3://rules/live/a.json=[1]")
	s.before = func(call string) {
		if call == "GET live/b.yaml" {
			s.put("live/b.yaml", "{ }")
		}
	}
	check(t, "in between", fetched(o.Fetch(t.Context(), "")), "error: b.yaml: it changed while the objects were read")
	if want := "GET live/b.yaml 412"; s.calls[len(s.calls)-1] != want {
		t.Errorf("the last call was %s, want %s", s.calls[len(s.calls)-1], want)
	}
}

func TestCredentialsOfS3(t *testing.T) {
	s, address := newFakeS3(t)
	s.put("r.json", "[1]")
	e := source.Elsewhere{S3: &source.S3{Bucket: "rules", Key: "r.json", Endpoint: address}, MaxMiB: 1}
	t.Setenv("AWS_REGION", "eu-north-1")
	check(t, "the environment's region", fetched(New(e).Fetch(t.Context(), "")), "s3://rules/r.json=[1]")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "hunter3")
	got := fetched(New(e).Fetch(t.Context(), ""))
	check(t, "wrong", got, "error: the answer is 403 SignatureDoesNotMatch: ")
	if strings.Contains(got, "hunter") || strings.Contains(got, "KEYID") {
		t.Errorf("an error tells credentials: %s", got)
	}
	e.S3.Bucket = "others"
	t.Setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
	check(t, "no bucket", fetched(New(e).Fetch(t.Context(), "")), "error: the answer is 404 NoSuchBucket: ")
	e.S3.Endpoint = "http://127.0.0.1:1"
	check(t, "no server", fetched(New(e).Fetch(t.Context(), "")), "error: dial tcp 127.0.0.1:1: ")
}
