package order

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fingerpost"
	"fingerpost/cert"
	"fingerpost/internal/testacme"
)

func TestOrderIsIssued(t *testing.T) {
	tests := []struct {
		name  string
		ca    testacme.CA
		spec  Spec
		setup func(*rig)
	}{
		{name: "one name", spec: Spec{Names: names("shop.example")}},
		{name: "wildcard beside its base", spec: Spec{Names: names("shop.example", "*.shop.example")}},
		{name: "each method", spec: Spec{Names: []Name{{"a.example", []string{HTTP01}}, {"b.example", []string{TLSALPN01}}, {"c.example", []string{DNS01}}}}},
		{name: "a method that is not offered, then one that is", ca: testacme.CA{Methods: []string{"dns-01"}}, spec: Spec{Names: []Name{{"a.example", []string{HTTP01, DNS01}}}}},
		{name: "profile", ca: testacme.CA{Profiles: []string{"tlsserver"}}, spec: Spec{Names: names("shop.example"), Profile: "tlsserver"}},
		{name: "ready at once, 10 minutes to issue", ca: testacme.CA{PreAuthorized: true, FinalizeFor: 10 * time.Minute}, spec: Spec{Names: names("shop.example")}},
		{name: "slow validation", ca: testacme.CA{ValidateFor: 5 * time.Minute}, spec: Spec{Names: names("a.example", "b.example")}},
		{name: "bad nonces", ca: testacme.CA{BadNonces: 3}, spec: Spec{Names: names("a.example", "b.example", "c.example")}},
		{name: "terms", ca: testacme.CA{Terms: "https://ca.test/terms"}, spec: Spec{Names: names("shop.example")}, setup: func(r *rig) { r.config.AgreeToTerms = true }},
		{name: "EAB, with a key as CAs print it", ca: testacme.CA{EAB: map[string]string{"kid": "-_-_zWNDZM6eQGHWpSRTPal5eA"}}, spec: Spec{Names: names("shop.example")},
			setup: func(r *rig) { r.config.EAB = EAB{KeyID: "kid", Key: "+/+/zWNDZM6eQGHWpSRTPal5eA=="} }},
		{name: "replaces what is replaced already", spec: Spec{Names: names("shop.example"), Replaces: "AAAA.BBBB"}},
	}
	for i := range tests {
		tt := &tests[i]
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, &tt.ca)
				if tt.setup != nil {
					tt.setup(r)
					r.restart()
				}
				o := r.drive(tt.spec)
				if o.Outcome.Result != Issued {
					t.Fatalf("ended as %s: %v %v", o.Outcome.Result, o.Outcome.Failed, o.Outcome.Problem)
				}
				leaf := leafOf(t, o.Outcome.Chain)
				var want []string
				for _, n := range tt.spec.Names {
					want = append(want, n.Name)
				}
				if got := sortedNames(leaf.DNSNames); !slices.Equal(got, sortedNames(want)) {
					t.Errorf("certificate for %v, want %v", got, want)
				}
				key, err := unsealKey(r.driver, cert.KeyPurpose(o.ID), o.Outcome.Key)
				if err != nil {
					t.Fatal(err)
				}
				if fmt.Sprint(key.Public()) != fmt.Sprint(leaf.PublicKey) {
					t.Error("the key is not the certificate's")
				}
				if n := r.shown.left(); n > 0 {
					t.Errorf("%d challenges are left", n)
				}
				if r.ca.Orders() != 1 || r.ca.Issued() != 1 {
					t.Errorf("%d orders, %d certificates; want one each", r.ca.Orders(), r.ca.Issued())
				}
				again, err := r.driver.Drive(t.Context(), 0, o.ID)
				if err != nil || again.Outcome == nil || string(again.Outcome.Chain) != string(o.Outcome.Chain) {
					t.Errorf("driven again it gives %v, %v; want the same end", again.Outcome, err)
				}
			})
		})
	}
}

func TestExactlyTheBadNamesFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &testacme.CA{ValidateFor: time.Second})
		var all []Name
		for i := range 100 {
			all = append(all, Name{Name: fmt.Sprintf("n%02d.example", i)})
		}
		r.bad["n07.example"] = &testacme.Problem{Type: "dns", Detail: "NXDOMAIN"}
		r.bad["n50.example"] = &testacme.Problem{Type: "connection", Detail: "refused"}
		r.bad["n99.example"] = &testacme.Problem{Type: "caa", Detail: "CAA record forbids"}
		issued, failed := r.all(Spec{Names: all})
		if len(failed) != 3 || failed["n07.example"].Code != "dns" || failed["n50.example"].Code != "connection" || failed["n99.example"].Code != "caa" {
			t.Errorf("failed: %v", failed)
		}
		for name, f := range failed {
			if !strings.Contains(f.Reason, name) || f.Hint == "" {
				t.Errorf("%s: reason %q, hint %q", name, f.Reason, f.Hint)
			}
		}
		if len(issued) != 1 || len(leafOf(t, issued[0].Outcome.Chain).DNSNames) != 97 {
			t.Errorf("%d certificates, want one of 97 names", len(issued))
		}
		if r.ca.Orders() != 2 {
			t.Errorf("%d orders, want 2", r.ca.Orders())
		}
	})
}

func TestRefusalsNameTheirNames(t *testing.T) {
	three := names("a.example", "b.example", "www.shop.example")
	tests := []struct {
		name     string
		problem  testacme.Problem
		finalize bool // else at the new order
		issued   int  // names
		failed   []string
		orders   int // that the CA made
		check    func(*testing.T, map[string]Failure)
	}{
		{name: "subproblems", problem: testacme.Problem{Type: "rejectedIdentifier", Detail: "errors; first: b.example", Subproblems: []testacme.Problem{
			{Type: "rejectedIdentifier", Detail: "policy", Identifier: &testacme.Identifier{Type: "dns", Value: "b.example"}},
			{Type: "malformed", Detail: "not a public suffix", Identifier: &testacme.Identifier{Type: "dns", Value: "a.example"}}}}, issued: 1, failed: []string{"a.example", "b.example"}, orders: 1},
		{name: "compound at finalize", finalize: true, problem: testacme.Problem{Type: "compound", Detail: "several", Status: 403, Subproblems: []testacme.Problem{
			{Type: "caa", Detail: "CAA", Identifier: &testacme.Identifier{Type: "dns", Value: "b.example"}}}}, issued: 2, failed: []string{"b.example"}, orders: 2},
		{name: "identifier at the top", problem: testacme.Problem{Type: "rejectedIdentifier", Detail: "no", Identifier: &testacme.Identifier{Type: "dns", Value: "a.example"}}, issued: 2, failed: []string{"a.example"}, orders: 1},
		{name: "only in the text", problem: testacme.Problem{Type: "rejectedIdentifier", Detail: `Cannot issue for "b.example": The ACME server refuses to issue a certificate for this domain name`}, issued: 2, failed: []string{"b.example"}, orders: 1},
		{name: "failed too often", problem: testacme.Problem{Type: "rateLimited", Status: 429, RetryAfter: "3600", Detail: `too many failed authorizations (5) for "b.example" in the last 1h0m0s, retry after 2000-01-01 01:00:00 UTC: see https://letsencrypt.org/docs/rate-limits/`}, issued: 2, failed: []string{"b.example"}, orders: 1,
			check: func(t *testing.T, failed map[string]Failure) {
				if f := failed["b.example"]; f.Retry.IsZero() || f.Paused {
					t.Errorf("the name is not kept until Retry-After: %+v", f)
				}
			}},
		{name: "registered domain", problem: testacme.Problem{Type: "rateLimited", Status: 429, RetryAfter: "3600", Detail: `too many certificates (50) already issued for "shop.example" in the last 168h0m0s, retry after 2000-01-02 00:00:00 UTC`}, issued: 2, failed: []string{"www.shop.example"}, orders: 1},
		{name: "paused", problem: testacme.Problem{Type: "rateLimited", Status: 429, Detail: "Your account is temporarily prevented from requesting certificates for a.example, b.example and possibly others. Please visit: https://ca.test/sfe/v1/unpause?jwt=secret.jwt"}, issued: 1, failed: []string{"a.example", "b.example"}, orders: 1,
			check: func(t *testing.T, failed map[string]Failure) {
				f := failed["a.example"]
				if !f.Paused || f.URL != "https://ca.test/sfe/v1/unpause?jwt=secret.jwt" || strings.Contains(f.Detail+f.Reason+f.Hint, "secret.jwt") {
					t.Errorf("got %+v", f)
				}
			}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				refuse := func(list []string) *testacme.Problem {
					for _, n := range list {
						if slices.Contains(tt.failed, n) {
							return &tt.problem
						}
					}
					return nil
				}
				ca := &testacme.CA{NewOrder: refuse}
				if tt.finalize {
					ca = &testacme.CA{Finalize: refuse}
				}
				r := newRig(t, ca)
				issued, failed := r.all(Spec{Names: three})
				var got []string
				for name := range failed {
					got = append(got, name)
				}
				if !slices.Equal(sortedNames(got), tt.failed) || len(issued) != 1 || len(leafOf(t, issued[0].Outcome.Chain).DNSNames) != tt.issued {
					t.Errorf("failed %v, %d certificates; want %v and one of %d names", got, len(issued), tt.failed, tt.issued)
				}
				if r.ca.Orders() != tt.orders {
					t.Errorf("%d orders, want %d", r.ca.Orders(), tt.orders)
				}
				if tt.check != nil {
					tt.check(t, failed)
				}
				if strings.Contains(r.log.String(), "secret.jwt") {
					t.Error("the link that lifts the pause is in the log")
				}
			})
		})
	}
}

func TestNamelessRefusalIsHalved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &testacme.CA{NewOrder: func(list []string) *testacme.Problem {
			if slices.Contains(list, "n5.example") {
				return &testacme.Problem{Type: "rejectedIdentifier", Detail: "one of the names is forbidden"}
			}
			return nil
		}})
		var all []Name
		for i := range 8 {
			all = append(all, Name{Name: fmt.Sprintf("n%d.example", i)})
		}
		issued, failed := r.all(Spec{Names: all})
		live := 0
		for _, o := range issued {
			live += len(leafOf(t, o.Outcome.Chain).DNSNames)
		}
		if live != 7 || len(failed) != 1 || failed["n5.example"].Reason == "" || len(issued) != 3 {
			t.Errorf("%d live in %d certificates, failed %v", live, len(issued), failed)
		}
	})
}

func TestLimitsOfTheAccount(t *testing.T) {
	for _, detail := range []string{
		"too many new orders (300) from this account in the last 3h0m0s, retry after 2000-01-01 00:10:00 UTC: see https://letsencrypt.org/docs/rate-limits/",
		"something new is limited",
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, &testacme.CA{NewOrder: func([]string) *testacme.Problem {
				return &testacme.Problem{Type: "rateLimited", Status: 429, RetryAfter: "600", Detail: detail}
			}})
			begin := time.Now()
			o := r.drive(Spec{Names: names("a.example", "b.example")})
			if o.Outcome.Result != Limited || !o.Outcome.Retry.Equal(begin.Add(10*time.Minute)) {
				t.Errorf("ended as %s until %v, want limited for 10 minutes", o.Outcome.Result, o.Outcome.Retry)
			}
		})
	}
}

func TestUnavailableCAIsTriedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := true
		r := newRig(t, &testacme.CA{NewOrder: func([]string) *testacme.Problem {
			if down {
				return &testacme.Problem{Type: "serverInternal", Status: 503, RetryAfter: "120", Detail: "busy"}
			}
			return nil
		}})
		begin := time.Now()
		id := r.begin(Spec{Names: names("a.example", "b.example")})
		_, err := r.driver.Drive(t.Context(), 0, id)
		if want := begin.Add(2 * time.Minute); !RetryAfter(err).Equal(want) {
			t.Fatalf("error %v, retry after %v; want %v", err, RetryAfter(err), want)
		}
		down = false
		o, err := r.driver.Drive(t.Context(), 0, id)
		if err != nil || o.Outcome.Result != Issued || o.Asked != 2 || r.ca.Orders() != 1 {
			t.Errorf("%v, asked %d times, %d orders", err, o.Asked, r.ca.Orders())
		}
	})
}

func TestLostOrdersAreToldApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &testacme.CA{})
		r.fault = func(what string, after bool) error {
			if what == "present" {
				return errCut
			}
			return nil
		}
		id := r.begin(Spec{Names: names("a.example")})
		if _, err := r.driver.Drive(t.Context(), 0, id); err == nil {
			t.Fatal("presented without presenting")
		}
		r.fault = nil
		r.ca.Expire()
		o, err := r.driver.Drive(t.Context(), 0, id)
		if err != nil || o.Outcome.Result != Lost {
			t.Errorf("got %v, %v; want lost", o.Outcome, err)
		}
	})
}

func TestForgottenAccountIsMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &testacme.CA{})
		r.drive(Spec{Names: names("a.example")})
		r.ca.Forget()
		id := r.begin(Spec{Names: names("b.example")})
		var err error
		for range 3 {
			var o *Order
			if o, err = r.driver.Drive(t.Context(), 0, id); err == nil {
				if o.Outcome.Result != Issued {
					t.Errorf("ended as %v", o.Outcome)
				}
				break
			}
		}
		if err != nil {
			t.Error(err)
		}
	})
}

func TestFencedDriverStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &testacme.CA{})
		id := r.begin(Spec{Names: names("a.example")})
		r.memory.Takeover()
		if _, err := r.driver.Drive(t.Context(), 0, id); !errors.Is(err, ErrFenced) {
			t.Errorf("got %v, want ErrFenced", err)
		}
		if r.ca.Orders() > 0 {
			t.Error("an order was opened without the lease")
		}
	})
}

// TestAFencedDriverTakesNothingAway: the challenges are the next node's, which goes on with
// the same order.
func TestAFencedDriverTakesNothingAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &testacme.CA{ValidateFor: time.Second})
		r.bad["b.example"] = &testacme.Problem{Type: "dns", Detail: "NXDOMAIN"}
		id := r.begin(Spec{Names: names("a.example", "b.example")})
		r.fault = func(what string, after bool) error {
			if what == "POST chall" || what == "POST challenge" {
				r.memory.Takeover()
			}
			return nil
		}
		if _, err := r.driver.Drive(t.Context(), 0, id); !errors.Is(err, ErrFenced) {
			t.Fatalf("got %v, want ErrFenced", err)
		}
		if r.shown.left() == 0 {
			t.Error("the challenges are gone")
		}
	})
}

func TestWhatACAMayNotBe(t *testing.T) {
	html := roundTrip(func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/html; charset=utf-8"}}, Body: http.NoBody, Request: req}, nil
	})
	tests := []struct {
		name   string
		config CAConfig
		ca     testacme.CA
		code   string
	}{
		{"http", CAConfig{Directory: "http://ca.test/dir"}, testacme.CA{}, "bad_ca"},
		{"no URL", CAConfig{Directory: "letsencrypt"}, testacme.CA{}, "bad_ca"},
		{"EAB key", CAConfig{Directory: "https://ca.test/dir", EAB: EAB{"kid", "?!"}}, testacme.CA{}, "bad_ca"},
		{"a web page", CAConfig{Directory: "https://html.test/dir", Transport: html}, testacme.CA{}, "ca_html"},
		{"terms", CAConfig{}, testacme.CA{Terms: "https://ca.test/terms"}, "ca_terms"},
		{"EAB needed", CAConfig{}, testacme.CA{EAB: map[string]string{"a": "AAAA"}}, "ca_eab"},
	}
	for i := range tests {
		tt := &tests[i]
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, &tt.ca)
				if tt.config.Directory != "" {
					r.config.Directory, r.config.EAB = tt.config.Directory, tt.config.EAB
				}
				if tt.config.Transport != nil {
					r.config.Transport = tt.config.Transport
				}
				ours, err := NewCA(r.config)
				if err == nil {
					r.driver.CAs["test"] = ours
					_, err = r.driver.Drive(t.Context(), 0, r.begin(Spec{Names: names("a.example")}))
				}
				var e *fingerpost.Error
				if !errors.As(err, &e) || e.Code != tt.code || e.Hint == "" {
					t.Errorf("got %v, want %s with a hint", err, tt.code)
				}
			})
		})
	}
	for _, directory := range []string{"http://127.0.0.1:14000/dir", "http://[::1]:14000/dir", "http://localhost/dir"} {
		if _, err := NewCA(CAConfig{Directory: directory}); err != nil {
			t.Errorf("%s: %v", directory, err)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
