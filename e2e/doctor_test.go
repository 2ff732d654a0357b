package e2e

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fingerpost/internal/testacme"
	"fingerpost/internal/testdns"
)

// TestDoctorFindsWhatIsWrong makes each line of the doctor good and bad, against a node
// with a resolver and a CA that are the test's.
func TestDoctorFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	dns := testdns.New(t)
	var off atomic.Int64 // seconds by which the CA's clock is ahead
	directory := &testacme.CA{}
	acme := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().Add(time.Duration(off.Load())*time.Second).UTC().Format(http.TimeFormat))
		if r.URL.Path == "/login" {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, "<html>please log in</html>")
			return
		}
		directory.ServeHTTP(w, r)
	}))
	defer acme.Close()
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	write("roots.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: acme.Certificate().Raw})))
	httpAddr, httpsAddr := freeAddr(t), freeAddr(t)
	config := func(name, http, directory, resolver, more string) string {
		return write(name, fmt.Sprintf("listen: {http: %q, https: %q}\nacme: {directory: %q, email: ops@example.com, caRoots: roots.pem, private: true%s}\nresolvers: [%q]\naddresses: [127.0.0.1]\n",
			http, httpsAddr, directory, more, resolver))
	}
	good := config("good.yaml", httpAddr, acme.URL+"/dir", dns.Addr(), ", preflight: off")
	foreign := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://parked.example/", http.StatusFound)
	}))
	defer foreign.Close()
	_, foreignPort, _ := strings.Cut(foreign.Listener.Addr().String(), ":")
	foreignConfig := config("foreign.yaml", foreign.Listener.Addr().String(), acme.URL+"/dir", dns.Addr(), "")
	n := newNode(t, t.TempDir(), "--config", good, "--http", httpAddr, "--https", httpsAddr)
	for _, host := range []string{"good.example", "new.example", "caa.example", "away.example"} {
		dns.Set(host, "A", "127.0.0.1")
	}
	dns.Set("away.example", "A", "127.0.0.1", "127.0.0.9") // where nobody answers
	dns.Set("caa.example", "CAA", `0 issue "other.net"`)
	n.run("hosts", "set", "good.example", "--to", "https://www.example.com/", "--certificate", "good")
	n.run("hosts", "set", "new.example", "--to", "https://www.example.com/", "--certificate", "none")
	chain, key := ca.Issue("good.example")
	n.run("certs", "import", "good", write("good.pem", string(chain)+string(key)))
	if !eventually(startLimit, func() bool { return n.verb("doctor", "--config", good, "--host", "good.example").status == 0 }) {
		got := n.verb("doctor", "--config", good, "--host", "good.example")
		t.Fatalf("%d\n%s%s", got.status, got.stdout, got.stderr)
	}
	_, port80, _ := strings.Cut(httpAddr, ":")
	_, port443, _ := strings.Cut(httpsAddr, ":")
	for _, tt := range []struct {
		name, config, host string
		ahead              time.Duration
		server             string // the node's, if empty
		status             int
		lines              []string // as they begin, PORT80 and PORT443 replaced
	}{
		{name: "all is well", config: good, host: "good.example", lines: []string{"ok config: ", "ok clock: the same as that of the server", "ok server: ", "ok resolvers: ", "ok clock: the same as that of 127.0.0.1",
			"ok ca: 127.0.0.1 can be reached", "ok caa: good.example may have a certificate of ca.test", "ok dns: good.example points to 127.0.0.1", "ok port PORT80: good.example answers at 127.0.0.1:PORT80: a node of ours", "ok port PORT443: good.example answers at 127.0.0.1:PORT443, with a certificate until "}},
		{name: "no server", config: good, host: "good.example", server: "http://" + freeAddr(t), status: 1, lines: []string{"fail server: no answer from "}},
		{name: "another clock", config: good, host: "good.example", ahead: time.Hour, status: 1, lines: []string{"fail clock: this machine's clock and that of 127.0.0.1 differ by 1h0m"}},
		{name: "nearly another clock", config: good, host: "good.example", ahead: time.Minute, lines: []string{"warn clock: "}},
		{name: "a CA that is none", config: config("html.yaml", httpAddr, acme.URL+"/login", dns.Addr(), ""), host: "good.example", status: 1, lines: []string{"fail ca: " + acme.URL + "/login answers 200 OK, which is no ACME directory"}},
		{name: "no CA", config: config("noca.yaml", httpAddr, "https://"+freeAddr(t)+"/dir", dns.Addr(), ""), host: "good.example", status: 1, lines: []string{"fail ca: 127.0.0.1 cannot be reached: "}},
		{name: "no resolver", config: config("nodns.yaml", httpAddr, acme.URL+"/dir", freeAddr(t), ""), host: "good.example", status: 1, lines: []string{"fail resolvers: ", "ok ca: "}},
		{name: "CAA", config: good, host: "caa.example", status: 1, lines: []string{"fail caa: the CAA records of caa.example allow other.net to issue for caa.example, not ca.test"}},
		{name: "no address", config: good, host: "none.example", status: 1, lines: []string{"fail dns: none.example has no address in DNS"}},
		{name: "an address elsewhere", config: good, host: "away.example", status: 1, lines: []string{"warn dns: away.example points to 127.0.0.9, which is not among addresses", "fail port PORT80: away.example does not answer at 127.0.0.9:PORT80"}},
		{name: "somebody else's server at our address", config: foreignConfig, host: "good.example", status: 1, lines: []string{"ok dns: ", "fail port " + foreignPort + ": another server answers for good.example at 127.0.0.1:" + foreignPort + " (HTTP 302, to https://parked.example/)"}},
		{name: "no certificate", config: good, host: "new.example", lines: []string{"ok port PORT80: ", "warn port PORT443: new.example is reached at 127.0.0.1:PORT443, and has no certificate yet"}},
		{name: "a wildcard", config: good, host: "*.good.example", status: 1, lines: []string{"fail host: *.good.example cannot be looked at by itself"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			off.Store(int64(tt.ahead.Seconds()))
			args := []string{"doctor", "--config", tt.config, "--host", tt.host, "--data", n.dir, "--server", "http://" + n.admin}
			if tt.server != "" {
				args[len(args)-1] = tt.server
			}
			got := runs(t, args...)
			if got.status != tt.status {
				t.Errorf("exit status %d, want %d", got.status, tt.status)
			}
			text := regexp.MustCompile(` +`).ReplaceAllString(got.stdout, " ")
			for _, line := range tt.lines {
				line = strings.NewReplacer("PORT80", port80, "PORT443", port443).Replace(line)
				if !strings.Contains("\n"+text, "\n"+line) {
					t.Errorf("no line begins with %q", line)
				}
			}
			for _, fail := range regexp.MustCompile(`(?m)^fail .*\n.*`).FindAllString(text, -1) {
				if !strings.Contains(fail, "\n hint: ") {
					t.Errorf("no hint behind %q", fail)
				}
			}
			if t.Failed() {
				t.Logf("it printed\n%s%s", got.stdout, got.stderr)
			}
		})
	}
	off.Store(0)
	var list []struct{ Level, Check, Message, Hint string }
	got := n.verb("doctor", "--config", good, "--host", "caa.example", "-o", "json")
	if err := json.Unmarshal([]byte(got.stdout), &list); err != nil || got.status != 1 || len(list) < 8 {
		t.Errorf("-o json: %d %v\n%s", got.status, err, got.stdout)
	}
	// Nobody listens on http.
	n.stop()
	got = runs(t, "doctor", "--config", good, "--host", "good.example")
	if want := "fail  port " + port80 + ": good.example does not answer at " + httpAddr + ": the connection is refused\n      hint: "; got.status != 1 || !strings.Contains(got.stdout, want) {
		t.Errorf("%d, want %q in\n%s", got.status, want, got.stdout)
	}
	if want := "fail  port " + port443 + ": good.example does not answer at " + httpsAddr; !strings.Contains(got.stdout, want) {
		t.Errorf("want %q in\n%s", want, got.stdout)
	}
}
