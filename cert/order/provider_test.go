package order

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fingerpost/cert/planner"
	"fingerpost/internal/testacme"
)

// TestPreflightByARecordThatStays looks for the record of dns-persist-01, and says
// which to set.
func TestPreflightByARecordThatStays(t *testing.T) {
	const account, value = "https://ca.test/1", `ca.test; accounturi=https://ca.test/1`
	ns := newNameServer(t,
		`_validation-persist.set.example.com. TXT "`+value+`"`,
		`_validation-persist.among.example.com. TXT "other.test; accounturi=x"`, `_validation-persist.among.example.com. TXT "CA.test ;accounturi=https://ca.test/1 ; policy=wildcard"`,
		`_validation-persist.theirs.example.com. TXT "ca.test; accounturi=https://ca.test/2"`,
		`_validation-persist.nobodys.example.com. TXT "ca.test"`,
		`_validation-persist.past.example.com. TXT "`+value+`; persistUntil=1000000000"`,
		`_validation-persist.future.example.com. TXT "`+value+`; persistUntil=99999999999"`,
		`_validation-persist.caa.example.com. TXT "`+value+`"`, `caa.example.com. CAA 0 issue "ca.test; validationmethods=http-01"`,
	)
	for _, tt := range []struct{ name, account, reason, hint string }{
		{"set.example.com", account, "", ""},
		{"*.set.example.com", account, "_validation-persist.set.example.com is not set", `set _validation-persist.set.example.com TXT "` + value + `; policy=wildcard"`},
		{"among.example.com", account, "", ""},
		{"*.among.example.com", account, "", ""},
		{"theirs.example.com", account, "is not set", `TXT "` + value + `"`},
		{"nobodys.example.com", account, "is not set", `point here, or set _validation-persist.nobodys`},
		{"past.example.com", account, "is not set", value},
		{"future.example.com", account, "", ""},
		{"caa.example.com", account, "no address in DNS", "point here"},
		{"set.example.com", "", "before the CA has given its name and our account", "once its value is shown"},
		{"broken.example.com", account, "gives no answer", "DNSSEC"},
	} {
		p := &Preflight{Resolver: ns.resolver(), Private: true, Persist: true}
		v := p.Check(t.Context(), Question{Name: tt.name, CAs: []Authority{{Issuers: []string{"ca.test"}, Account: tt.account}}})
		switch {
		case tt.reason == "":
			if strings.Join(v.Methods, " ") != DNSPersist01 {
				t.Errorf("%s: methods %v, %v, %v", tt.name, v.Methods, v.Failure, v.Unsure)
			}
		case v.Failure == nil || !strings.Contains(v.Failure.Reason, tt.reason) || !strings.Contains(v.Failure.Hint, tt.hint):
			t.Errorf("%s: %+v (%v), want …%s…, hint …%s…", tt.name, v.Failure, v.Unsure, tt.reason, tt.hint)
		}
		if v.Failure != nil && strings.HasPrefix(tt.name, "caa.") && strings.Contains(v.Failure.Hint, "persist") {
			t.Errorf("%s: a record that CAA does not allow is to be set: %s", tt.name, v.Failure.Hint)
		}
	}
}

// TestPreflightCallsTheProviderLast: who is proven by a CNAME never comes to the
// provider.
func TestPreflightCallsTheProviderLast(t *testing.T) {
	ns := newNameServer(t, "_acme-challenge.cname.example.com. CNAME label.acme.example.net.",
		`caa.example.com. CAA 0 issue "ca.test; validationmethods=http-01"`)
	for name, want := range map[string]string{"cname.example.com": DNS01, "*.cname.example.com": DNS01, "none.example.com": DNSProvider01, "*.none.example.com": DNSProvider01, "*.caa.example.com": ""} {
		var calls atomic.Int64
		shown := &shown{values: map[string]int{}, fault: func(what string, after bool) error {
			if what == "present" && !after {
				calls.Add(1)
			}
			return nil
		}}
		p := &Preflight{Resolver: ns.resolver(), Solver: shown, Private: true, Provider: true}
		v := p.Check(t.Context(), Question{Name: name, CNAME: "label.acme.example.net", CAs: []Authority{{Issuers: []string{"ca.test"}}}})
		if got := strings.Join(v.Methods, " "); got != want {
			t.Errorf("%s: methods %q, %v, %v; want %q", name, got, v.Failure, v.Unsure, want)
		}
		if (calls.Load() > 0) != (want == DNSProvider01) || shown.left() > 0 {
			t.Errorf("%s: %d calls, %d left", name, calls.Load(), shown.left())
		}
	}
}

// TestWhatAProviderSaysIsShownAndNotLogged until the certificate runs out, which is
// when logs have reasons.
func TestWhatAProviderSaysIsShownAndNotLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, &testacme.CA{}, "a.example")
		o.open()
		time.Sleep(time.Minute)
		if o.state("a.example").State != planner.Live {
			t.Fatalf("%+v", o.state("a.example"))
		}
		o.mu.Lock()
		o.refusal = &Failure{Name: "a.example", Code: CodeProvider, Reason: "the hook ended with exit status 1", Detail: "401: token s3cr3t", Hint: "try it by hand"}
		o.mu.Unlock()
		time.Sleep(100 * 24 * time.Hour)
		if s := o.state("a.example"); !strings.Contains(s.Sentence, "exit status 1, which says: 401: token s3cr3t") || !strings.Contains(s.NextStep, "try it by hand") {
			t.Errorf("%q, %q", s.Sentence, s.NextStep)
		}
		o.close()
		if len(o.alarms) == 0 || !strings.Contains(o.log.String(), "exit status 1") {
			t.Errorf("%d alarms, no reason in the log: the test proves nothing", len(o.alarms))
		}
		if strings.Contains(o.log.String(), "s3cr3t") {
			t.Errorf("the log has what the provider says")
		}
	})
}
