package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// TestWildcardByDNSHook gets a wildcard and its base, whose addresses lead nowhere,
// by a hook that calls the API of a DNS provider, and a host that is not at the
// provider by nothing: it says why.
func TestWildcardByDNSHook(t *testing.T) {
	t.Parallel()
	httpAddr, httpsAddr := freeAddr(t), freeAddr(t)
	var mu sync.Mutex
	values := map[string][]string{}
	var a *authority
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		action, record, value := r.FormValue("action"), r.FormValue("record"), r.FormValue("value")
		mu.Lock()
		defer mu.Unlock()
		if !strings.HasSuffix(record, ".hooked.example") {
			http.Error(w, "no such zone", http.StatusNotFound)
			return
		}
		values[record] = slices.DeleteFunc(values[record], func(v string) bool { return v == value })
		if action == "present" {
			values[record] = append(values[record], value)
		}
		a.dns.Set(record, "TXT", values[record]...)
	}))
	t.Cleanup(provider.Close)
	hook := filepath.Join(t.TempDir(), "hook")
	text := fmt.Sprintf("#!/bin/sh\necho key-on-stdout\ncurl -sS --fail-with-body -d \"action=$2\" -d \"record=$3\" --data-urlencode \"value=$4\" %s/\"$1\" >&2\n", provider.URL)
	if err := os.WriteFile(hook, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	a = newAuthority(t, httpAddr, httpsAddr, fmt.Sprintf(", dnsHook: [%q, example]", hook))
	n := newNode(t, t.TempDir(), "--config", a.config, "--http", httpAddr, "--https", httpsAddr)
	n.run("hosts", "set", "elsewhere.example", "--to", "https://www.example.com/")
	n.run("hosts", "set", ".hooked.example", "--to", "https://www.example.com/h")
	leaf := a.leads(t, httpsAddr, "any.hooked.example", "https://www.example.com/h")
	if leaf.VerifyHostname("other.hooked.example") != nil {
		t.Errorf("names %v", leaf.DNSNames)
	}
	a.leads(t, httpsAddr, "hooked.example", "https://www.example.com/h")
	if !eventually(startLimit, func() bool {
		return strings.Contains(n.nameStates()["elsewhere.example"].Sentence, "no such zone")
	}) {
		t.Errorf("the name that is not at the provider: %+v", n.nameStates()["elsewhere.example"])
	}
	if !eventually(startLimit, func() bool {
		mu.Lock()
		defer mu.Unlock()
		left := 0
		for _, list := range values {
			left += len(list)
		}
		return left == 0
	}) {
		t.Errorf("left at the provider: %v", values)
	}
	n.stop()
	if log := n.stderr.String(); strings.Contains(log, "key-on-stdout") || strings.Contains(log, "no such zone") {
		t.Errorf("the log has what the hook prints:\n%s", log)
	}
}

// TestARecordThatStays sets what the name's next step says, once.
func TestARecordThatStays(t *testing.T) {
	t.Parallel()
	httpAddr, httpsAddr := freeAddr(t), freeAddr(t)
	a := newAuthority(t, httpAddr, httpsAddr, ", dnsPersist: true")
	n := newNode(t, t.TempDir(), "--config", a.config, "--http", httpAddr, "--https", httpsAddr)
	n.run("hosts", "set", "*.persist.example", "--to", "https://www.example.com/p")
	record := regexp.MustCompile(`set (_validation-persist\.persist\.example) TXT "([^"]+; policy=wildcard)"`)
	var found []string
	if !eventually(startLimit, func() bool {
		found = record.FindStringSubmatch(n.nameStates()["*.persist.example"].NextStep)
		return found != nil
	}) {
		t.Fatalf("no record is to be set: %+v", n.nameStates()["*.persist.example"])
	}
	a.dns.Set(found[1], "TXT", found[2])
	n.run("certs", "request", "*.persist.example")
	a.leads(t, httpsAddr, "any.persist.example", "https://www.example.com/p")
}
