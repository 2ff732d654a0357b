package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fingerpost/source"
)

// fetched tells what a Fetch gave in one line.
func fetched(f *source.Fetched, err error) string {
	if errors.Is(err, source.ErrUnchanged) {
		return "unchanged"
	}
	if err != nil {
		return "error: " + err.Error()
	}
	var files []string
	for _, file := range f.Files {
		files = append(files, fmt.Sprintf("%s%s=%s", f.Prefix, file.Name, file.Data))
	}
	return strings.Join(files, " ")
}

// check compares a line; want may be its beginning.
func check(t *testing.T, what, got, want string) {
	t.Helper()
	if !strings.HasPrefix(got, want) || want == "" {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// server is a web server whose answers a test changes.
func server(t *testing.T, tls bool, answer http.HandlerFunc) (string, *httptest.Server) {
	s := httptest.NewUnstartedServer(answer)
	if tls {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s.URL, s
}

func TestAURLIsFetchedOnceUntilItChanges(t *testing.T) {
	for _, validator := range []string{"ETag", "Last-Modified", ""} {
		body, stamp, conditional := "[1]", "Sun, 15 Nov 2026 10:00:00 GMT", 0
		if validator == "ETag" {
			stamp = `"one"`
		}
		address, _ := server(t, false, func(w http.ResponseWriter, r *http.Request) {
			if validator != "" {
				w.Header().Set(validator, stamp)
			}
			if stamp == r.Header.Get("If-None-Match") || stamp == r.Header.Get("If-Modified-Since") {
				conditional++
				w.WriteHeader(http.StatusNotModified)
				return
			}
			io.WriteString(w, body)
		})
		s := New(source.Elsewhere{URL: address + "/d/r.json", MaxMiB: 1})
		first, err := s.Fetch(t.Context(), "")
		check(t, validator, fetched(first, err), address+"/d/r.json=[1]")
		check(t, validator, fetched(s.Fetch(t.Context(), first.Version)), "unchanged")
		check(t, validator, fetched(s.Fetch(t.Context(), "")), address+"/d/r.json=[1]") // a caller that knows nothing
		if want := map[bool]int{true: 0, false: 1}[validator == ""]; conditional != want {
			t.Errorf("%s: %d conditional answers, want %d", validator, conditional, want)
		}
		if body, stamp = "[2]", strings.NewReplacer("10:00", "11:00", "one", "two").Replace(stamp); validator == "Last-Modified" && first.Modified.IsZero() {
			t.Error("the time of the version was lost")
		}
		check(t, validator, fetched(s.Fetch(t.Context(), first.Version)), address+"/d/r.json=[2]")
	}
}

func TestWhatAURLMayNot(t *testing.T) {
	plain, _ := server(t, false, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "[]") })
	address, tlsServer := server(t, true, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/down":
			http.Redirect(w, r, plain, http.StatusFound)
		case "/again":
			http.Redirect(w, r, "/again", http.StatusFound)
		case "/other":
			http.Redirect(w, r, "/good.json", http.StatusFound)
		case "/large":
			w.Write(make([]byte, 1<<20+1))
		case "/endless":
			for w.(http.Flusher).Flush(); r.Context().Err() == nil; {
				w.Write(make([]byte, 1<<16))
			}
		case "/good.json":
			io.WriteString(w, "[]")
		default:
			http.NotFound(w, r)
		}
	})
	for path, want := range map[string]string{
		"/down":      "error: it redirects from https to http",
		"/again":     "error: more than 5 redirects",
		"/large":     "error: it is larger than 1 MiB (maxMiB)",
		"/endless":   "error: it is larger than 1 MiB (maxMiB)",
		"/none":      "error: the answer is 404 Not Found",
		"/other":     address + "/other=[]",
		"/good.json": address + "/good.json=[]",
	} {
		s := newURL(source.Elsewhere{URL: address + path, MaxMiB: 1})
		s.client.Transport = tlsServer.Client().Transport
		check(t, path, fetched(s.Fetch(t.Context(), "")), want)
	}
	s := New(source.Elsewhere{URL: address + "/good.json?sig=hunter2", MaxMiB: 1}) // of an unknown authority
	got := fetched(s.Fetch(t.Context(), ""))
	check(t, "verification", got, "error: tls: failed to verify certificate")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	got += fetched(s.Fetch(ctx, ""))
	if strings.Contains(got, "hunter2") {
		t.Errorf("an error tells the query: %s", got)
	}
}

func TestTheTokenOfAURL(t *testing.T) {
	var got string
	address, _ := server(t, false, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Get("Authorization")
		io.WriteString(w, "[]")
	})
	t.Setenv("TEST_TOKEN", "hunter2")
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("hunter3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		e          source.Elsewhere
		auth, want string
	}{
		{source.Elsewhere{TokenEnv: "TEST_TOKEN"}, "Bearer hunter2", address},
		{source.Elsewhere{TokenFile: file}, "Bearer hunter3", address},
		{source.Elsewhere{}, "", address},
		{source.Elsewhere{TokenEnv: "TEST_NONE"}, "", "error: tokenEnv: the environment has no TEST_NONE"},
		{source.Elsewhere{TokenFile: file + "x"}, "", "error: tokenFile: open "},
	} {
		got = ""
		tt.e.URL, tt.e.MaxMiB = address+"/r.json", 1
		check(t, tt.want, fetched(New(tt.e).Fetch(t.Context(), "")), tt.want)
		if got != tt.auth {
			t.Errorf("Authorization %q, want %q", got, tt.auth)
		}
	}
}

func TestTheFormatOfAURL(t *testing.T) {
	for _, tt := range []struct{ name, contentType, text, want string }{
		{"/r.yml", "text/plain", "{}", "yaml"},
		{"/r.hujson", "text/plain", "x", "json"},
		{"/export", "application/json; charset=utf-8", "x", "json"},
		{"/export", "application/x-yaml", "{}", "yaml"},
		{"/export", "text/plain", "\ufeff\n [1]", "json"},
		{"/export", "", "// c\n[1]", "json"},
		{"/export", "", "redirects: []", "yaml"},
	} {
		if got := formatOf(tt.name, tt.contentType, []byte(tt.text)); got != tt.want {
			t.Errorf("%+v: got %q", tt, got)
		}
	}
}
