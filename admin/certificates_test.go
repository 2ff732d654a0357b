package admin

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/cert"
	"fingerpost/cert/order"
	"fingerpost/cert/planner"
	"fingerpost/internal/testca"
	"fingerpost/internal/testpg"
	"fingerpost/store"

	"software.sslmate.com/src/go-pkcs12"
)

// testCertificates stands for the node that orders: it remembers what it was asked.
type testCertificates struct {
	Certificates
	testing.TB
	memory order.Memory
	root   *testca.CA
	middle *testca.CA

	mu    sync.Mutex // guards asked
	asked []Ask
}

func newTestCertificates(t testing.TB) *testCertificates {
	sealer, err := cert.NewSealer(cert.NewSecret())
	if err != nil {
		t.Fatal(err)
	}
	c := &testCertificates{TB: t, root: testca.NewNamed("root")}
	c.middle = c.root.NewIntermediate("middle")
	known := c.root.Pool()
	c.Certificates = Certificates{Storage: &c.memory, Sealer: sealer, Roots: known,
		CNAME: func(name string) (string, string, error) {
			base := strings.TrimPrefix(name, "*.")
			return "_acme-challenge." + base + ".", strings.ReplaceAll(base, ".", "-") + ".acme.example.net.", nil
		},
		Ask: func(_ context.Context, a Ask) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.asked = append(c.asked, a)
			return nil
		},
		Cost: func(_ context.Context, certificate, name string) (planner.Cost, error) {
			if strings.HasPrefix(name, "elsewhere.") {
				return planner.Cost{}, ErrElsewhere
			}
			return planner.Cost{Certificate: certificate, Name: name, Orders: 1, OrdersLeft: 299, Domains: []planner.DomainCount{{Domain: "a.example", Used: 3, Limit: 50}}, Reason: "one order"}, nil
		},
		Probe: func(host string) (path, answer string) { return "/check", "ours:" + host },
	}
	return c
}

// bundle is a certificate with its chain and key, in base64.
func (c *testCertificates) bundle(names ...string) string {
	leaf, key := c.middle.Issue(names...)
	return base64.StdEncoding.EncodeToString(slices.Concat(leaf, c.middle.PEM(), key))
}

func (c *testCertificates) took() []Ask {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked := c.asked
	c.asked = nil
	return asked
}

// store puts a certificate into the store, as whoever orders does.
func (a *testAPI) store(kind, name, team string, names ...string) *fingerpost.Certificate {
	a.Helper()
	leaf, key := a.certs.middle.Issue(names...)
	v, der, _, err := cert.Import(cert.Bundle{Text: slices.Concat(leaf, a.certs.middle.PEM(), key)}, time.Now())
	if err != nil {
		a.Fatal(err)
	}
	v.Name, v.Type, v.Team, v.Key = name, kind, team, a.certs.seal(name, der)
	changes, err := store.CertificateChanges(nil, v)
	if err == nil {
		_, err = a.Store.Commit(context.Background(), store.Batch{Changes: changes, Actor: store.Actor{Who: "issuer"}})
	}
	if err != nil {
		a.Fatal(err)
	}
	return v
}

// state keeps what is known of a name.
func (a *testAPI) nameState(st order.NameState) {
	a.Helper()
	value, err := json.Marshal(st)
	if err == nil {
		err = a.certs.memory.Write(context.Background(), 0, order.Record{Kind: order.KindName, Key: st.Name.Name, Value: value})
	}
	if err != nil {
		a.Fatal(err)
	}
}

func (a *testAPI) imports(who, query string, body map[string]any) answer {
	a.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		a.Fatal(err)
	}
	return a.do(who, "POST", "certificates/import"+query, string(text))
}

func (a *testAPI) imported(query string, body map[string]any) (out Imported) {
	a.Helper()
	r := a.imports("root", query, body)
	if r.StatusCode/100 != 2 {
		a.Fatalf("import: %d %s", r.StatusCode, r.body)
	}
	if err := json.Unmarshal([]byte(r.body), &out); err != nil {
		a.Fatal(err)
	}
	return out
}

func signerOf(t testing.TB, keyPEM []byte) crypto.Signer {
	t.Helper()
	block, _ := pem.Decode(keyPEM)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key.(crypto.Signer)
}

func parsed(t testing.TB, text []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(text)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestTwentyGoodImports sends every usual form of a bundle.
func TestTwentyGoodImports(t *testing.T) {
	a := newTestAPI(t)
	middle := a.certs.middle
	inner := middle.NewIntermediate("inner")
	leaf, key := inner.Issue("a.example")
	signer := signerOf(t, key)
	chain := slices.Concat(inner.PEM(), middle.PEM())
	p12 := func(e *pkcs12.Encoder, password string) string {
		text, err := e.Encode(signer, parsed(t, leaf), []*x509.Certificate{parsed(t, inner.PEM()), parsed(t, middle.PEM())}, password)
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(text)
	}
	rsaSigner, err := cert.NewKey(true)
	if err != nil {
		t.Fatal(err)
	}
	rsaLeaf, rsaKey := middle.IssueFrom(testca.Template("a.example"), rsaSigner)
	pkcs1 := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaSigner.(*rsa.PrivateKey))})
	wild, wildKey := middle.Issue("*.a.example", "a.example")
	below, belowKey := middle.Issue("x.a.example")
	several, severalKey := middle.Issue("a.example", "b.example")
	upper, upperKey := middle.Issue("A.Example")
	extra, extraKey := middle.Issue("a.example", "nobody.example")
	days := testca.Template("a.example")
	days.NotAfter = time.Now().AddDate(0, 0, 9)
	soon, soonKey := middle.IssueFrom(days, testca.NewKey())
	plain, plainKey := testca.NewNamed("unknown").Issue("a.example")
	text := func(parts ...[]byte) string { return string(slices.Concat(parts...)) }
	for name, tt := range map[string]struct {
		bundle, password, team string
		keyType, warning       string
	}{
		"in-order":       {bundle: text(leaf, chain, key)},
		"key-first":      {bundle: text(key, leaf, chain)},
		"chain-reversed": {bundle: text(middle.PEM(), inner.PEM(), leaf, key)},
		"with-root":      {bundle: text(a.certs.root.PEM(), chain, leaf, key)},
		"twice":          {bundle: text(leaf, leaf, chain, chain, key)},
		"windows":        {bundle: strings.ReplaceAll(text(leaf, chain, key), "\n", "\r\n")},
		"words-between":  {bundle: text([]byte("Bag Attributes\n"), leaf, []byte("subject=CN\n"), chain, key)},
		"base64":         {bundle: base64.StdEncoding.EncodeToString(slices.Concat(leaf, chain, key))},
		"base64-lines":   {bundle: strings.Join(strings.SplitAfter(base64.StdEncoding.EncodeToString(slices.Concat(leaf, chain, key)), "A"), "\n")},
		"pkcs12":         {bundle: p12(pkcs12.Modern, "secret"), password: "secret"},
		"pkcs12-old":     {bundle: p12(pkcs12.LegacyDES, "secret"), password: "secret"},
		"pkcs12-open":    {bundle: p12(pkcs12.Passwordless, "")},
		"rsa":            {bundle: text(rsaLeaf, middle.PEM(), rsaKey), keyType: "RSA 2048"},
		"rsa-pkcs1":      {bundle: text(rsaLeaf, middle.PEM(), pkcs1), keyType: "RSA 2048"},
		"wildcard":       {bundle: text(wild, middle.PEM(), wildKey)},
		"below-wildcard": {bundle: text(below, middle.PEM(), belowKey)},
		"two-teams":      {bundle: text(several, middle.PEM(), severalKey), team: "a"},
		"capitals":       {bundle: text(upper, middle.PEM(), upperKey)},
		"unused-name":    {bundle: text(extra, middle.PEM(), extraKey), warning: "unused_names"},
		"soon":           {bundle: text(soon, middle.PEM(), soonKey), warning: "bad_certificate"},
		"of-a-root":      {bundle: text(plain, plainKey), warning: "bad_certificate"},
	} {
		out := a.imported("", map[string]any{"name": name, "bundle": tt.bundle, "password": tt.password, "team": tt.team})
		c := out.Certificate
		want := tt.keyType
		if want == "" {
			want = "ECDSA P-256"
		}
		if !out.Changed || c.Name != name || c.Type != "imported" || c.Status != StatusIssued || c.KeyType != want || c.Team != "a" || c.DaysLeft == nil || len(c.Names) == 0 {
			t.Errorf("%s: %+v", name, out)
		}
		if (tt.warning != "") != (len(out.Warnings) > 0) || tt.warning != "" && (out.Warnings[0].Code != tt.warning || out.Warnings[0].Hint == "") {
			t.Errorf("%s: warnings %+v, want %q", name, out.Warnings, tt.warning)
		}
		a.opens(name)
	}
	a.hasNoKeys(key, rsaKey, pkcs1, wildKey)
}

// opens proves that the stored key is sealed, and the certificate's.
func (a *testAPI) opens(name string) {
	a.Helper()
	it, err := a.Store.Get(context.Background(), store.KindCertificate, name)
	if err != nil {
		a.Fatal(err)
	}
	v, err := it.Certificate()
	if err != nil {
		a.Fatal(err)
	}
	der, err := a.certs.open(name, v.Key)
	if err != nil {
		a.Fatal(err)
	}
	if strings.Contains(string(it.Value), base64.StdEncoding.EncodeToString(der)) {
		a.Errorf("the key of %s is stored as it is", name)
	}
	var chain []byte
	for _, link := range v.Chain {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: link})...)
	}
	if _, err := tls.X509KeyPair(chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		a.Errorf("%s: %v", name, err)
	}
}

// hasNoKeys looks for private keys, in any form, in all that the API answers, in the
// audit and in the log.
func (a *testAPI) hasNoKeys(keys ...[]byte) {
	a.Helper()
	var seen strings.Builder
	for _, path := range []string{"certificates?limit=1000", "audit?limit=1000", "audit/export", "hosts?limit=1000", "changes?limit=100", "diff?from=1", "jobs"} {
		seen.WriteString(a.must(nil, "GET", path, "").body)
	}
	var page Page[CertificateResource]
	a.must(&page, "GET", "certificates?limit=1000", "")
	for _, c := range page.Items {
		seen.WriteString(a.must(nil, "GET", "certificates/"+c.Name, "").body)
	}
	for rev := int64(1); rev <= a.rev(); rev++ {
		seen.WriteString(a.must(nil, "GET", fmt.Sprintf("changes/%d", rev), "").body)
	}
	seen.WriteString(a.eventsSoFar())
	seen.WriteString(a.logged.String())
	text := seen.String()
	items, err := a.Store.List(context.Background(), store.KindCertificate, store.Query{})
	if err != nil {
		a.Fatal(err)
	}
	forbidden := []string{"PRIVATE KEY"}
	for i := range items {
		v, err := items[i].Certificate()
		if err != nil {
			a.Fatal(err)
		}
		forbidden = append(forbidden, base64.StdEncoding.EncodeToString(v.Key), base64.StdEncoding.EncodeToString(v.Chain[0]))
	}
	for _, key := range keys {
		block, _ := pem.Decode(key)
		forbidden = append(forbidden, base64.StdEncoding.EncodeToString(block.Bytes), strings.Split(string(key), "\n")[1], fmt.Sprintf("%x", block.Bytes))
	}
	for _, f := range forbidden {
		if i := strings.Index(text, f); i >= 0 {
			a.Errorf("%.40s… is shown: …%s…", f, text[max(0, i-200):i])
		}
	}
	if len(items) > 0 && !strings.Contains(text, items[0].Key) {
		a.Error("nothing was looked at")
	}
}

// eventsSoFar reads the stream of events from its beginning to the newest revision.
func (a *testAPI) eventsSoFar() string {
	a.Helper()
	events, err := a.Store.Changes(context.Background(), a.cursor(), store.MaxChanges)
	if err != nil {
		a.Fatal(err)
	}
	var text strings.Builder
	for i := range events {
		e, err := json.Marshal(showRevision(&events[i]))
		if err != nil {
			a.Fatal(err)
		}
		text.Write(e)
	}
	return text.String()
}

func (a *testAPI) cursor() store.Cursor {
	a.Helper()
	h, err := a.Store.Head(context.Background())
	if err != nil {
		a.Fatal(err)
	}
	return store.Cursor{Epoch: h.Epoch}
}

// TestTwentyBadImportsChangeNothing sends what browsers would refuse, and what is
// not ours.
func TestTwentyBadImportsChangeNothing(t *testing.T) {
	a := newTestAPI(t)
	middle := a.certs.middle
	leaf, key := middle.Issue("a.example")
	_, otherKey := middle.Issue("a.example")
	foreign, foreignKey := middle.Issue("b.example")
	both, bothKey := middle.Issue("a.example", "b.example")
	nobodys, nobodysKey := middle.Issue("nobody.example")
	issue := func(change func(*x509.Certificate)) string {
		c := testca.Template("a.example")
		change(c)
		leaf, key := middle.IssueFrom(c, testca.NewKey())
		return string(slices.Concat(leaf, middle.PEM(), key))
	}
	weakKey, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weak, weakText := middle.IssueFrom(testca.Template("a.example"), weakKey)
	p12, err := pkcs12.Modern.Encode(signerOf(t, key), parsed(t, leaf), nil, "secret")
	if err != nil {
		t.Fatal(err)
	}
	lacks := testca.Template("a.example")
	lacks.IssuingCertificateURL = []string{"http://ca.example/middle.crt"}
	lacking, lackingKey := middle.IssueFrom(lacks, testca.NewKey())
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte{1}})
	text := func(parts ...[]byte) string { return string(slices.Concat(parts...)) }
	a.store(fingerpost.ACME, "ordered", "a", "a.example")
	good := text(leaf, middle.PEM(), key)
	before := a.rev()
	for name, tt := range map[string]struct {
		who, name, bundle, password, team string
		status                            int
		want                              string
	}{
		"nothing":                   {bundle: "", status: 422, want: "neither PEM nor PKCS #12"},
		"a web page":                {bundle: "<html>log in</html>", status: 422, want: "neither PEM nor PKCS #12"},
		"the key of another":        {bundle: text(leaf, middle.PEM(), otherKey), status: 422, want: "does not belong to the key"},
		"two keys":                  {bundle: text(leaf, middle.PEM(), key, otherKey), status: 422, want: "several keys"},
		"no key":                    {bundle: text(leaf, middle.PEM()), status: 422, want: "has no key"},
		"a key alone":               {bundle: text(key), status: 422, want: "no certificate"},
		"an encrypted key":          {bundle: text(leaf, middle.PEM(), encrypted), status: 422, want: "the key is encrypted"},
		"expired":                   {bundle: issue(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), status: 422, want: "expired on"},
		"not valid yet":             {bundle: issue(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), status: 422, want: "not valid before"},
		"no names":                  {bundle: issue(func(c *x509.Certificate) { c.DNSNames = nil; c.Subject.CommonName = "a.example" }), status: 422, want: "names no host"},
		"a CA":                      {bundle: issue(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), status: 422, want: "certificate of a CA"},
		"RSA 1024":                  {bundle: text(weak, middle.PEM(), weakText), status: 422, want: "1024 bits"},
		"intermediate is missing":   {bundle: text(lacking, lackingKey), status: 422, want: "lacks the certificate of CN=middle"},
		"a block that is cut":       {bundle: text(leaf[:len(leaf)-10], key), status: 422, want: "cannot be read"},
		"PKCS 12, wrong password":   {bundle: base64.StdEncoding.EncodeToString(p12), password: "guess", status: 422, want: "the password"},
		"DER":                       {bundle: base64.StdEncoding.EncodeToString(parsed(t, leaf).Raw), status: 422, want: "without a key"},
		"a name we do not serve":    {bundle: text(nobodys, middle.PEM(), nobodysKey), status: 422, want: "none of its names is one that we serve"},
		"a name with a slash":       {name: "a/b", bundle: good, status: 422, want: "not one of a certificate"},
		"a reserved name":           {name: "auto", bundle: good, status: 422, want: "a meaning of its own"},
		"no name":                   {name: " ", bundle: good, status: 422, want: "not one of a certificate"},
		"of a CA's certificate":     {name: "ordered", bundle: good, status: 409, want: "was ordered from a CA"},
		"of another team":           {who: "publisher-a", bundle: text(foreign, middle.PEM(), foreignKey), status: 403, want: "belongs to the team b"},
		"partly of another team":    {who: "publisher-a", bundle: text(both, middle.PEM(), bothKey), status: 403, want: "belongs to the team b"},
		"of two teams":              {bundle: text(both, middle.PEM(), bothKey), status: 422, want: "several teams"},
		"for another team":          {who: "publisher-a", team: "b", bundle: good, status: 403, want: "belongs to the team b"},
		"by an editor":              {who: "editor-a", bundle: good, status: 403, want: "publisher"},
		"by a viewer of every team": {who: "viewer", bundle: good, status: 403, want: "publisher"},
	} {
		t.Run(name, func(t *testing.T) {
			who, as := tt.who, tt.name
			if who == "" {
				who = "root"
			}
			if as == "" {
				as = "bad"
			}
			r := a.imports(who, "", map[string]any{"name": strings.TrimSpace(as), "bundle": tt.bundle, "password": tt.password, "team": tt.team})
			p := r.problem(t)
			if r.StatusCode != tt.status || !strings.Contains(r.body, tt.want) || !p.hinted() {
				t.Errorf("%d %s; want %d, %q and a hint", r.StatusCode, r.body, tt.status, tt.want)
			}
			if strings.Contains(r.body, "PRIVATE") {
				t.Errorf("it shows what was sent: %s", r.body)
			}
		})
	}
	if now := a.rev(); now != before {
		t.Errorf("revision %d was made", now)
	}
	if r := a.imports("publisher-a", "", map[string]any{"name": "bad", "bundle": good}); r.StatusCode != 201 {
		t.Errorf("the good one beside them: %d %s", r.StatusCode, r.body)
	}
}

func TestImportAgainKeepsIdentityAndNames(t *testing.T) { testAgain(t, newTestAPI(t)) }

// TestImportAgainOnPostgreSQL is the same with the other database.
func TestImportAgainOnPostgreSQL(t *testing.T) {
	server, err := testpg.Start(testpg.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Stop() })
	testAgain(t, newTestAPIOn(t, server.DSN("postgres"), nil))
}

func testAgain(t *testing.T, a *testAPI) {
	a.put("hosts/www.a.example", `{"team": "a", "also": ["more.a.example"]}`)
	first := a.imported("", map[string]any{"name": "shop", "bundle": a.certs.bundle("a.example", "www.a.example", "more.a.example")})
	fewer := a.certs.bundle("a.example")
	r := a.imports("root", "", map[string]any{"name": "shop", "bundle": fewer})
	if p := r.problem(t); r.StatusCode != 409 || p.Code != "loses_names" || len(p.Errors) != 2 || !strings.Contains(p.Hint, "allowLosing") {
		t.Fatalf("it lost names: %d %s", r.StatusCode, r.body)
	}
	// A wildcard in their place loses nothing.
	dry := a.imported("?dryRun=true", map[string]any{"name": "shop", "bundle": a.certs.bundle("a.example", "*.a.example")})
	if dry.Changed || len(dry.Lost) > 0 || len(dry.Certificate.Names) != 2 {
		t.Errorf("dry run: %+v", dry)
	}
	second := a.imported("?allowLosing=true", map[string]any{"name": "shop", "bundle": fewer})
	if !second.Changed || !slices.Equal(second.Lost, []string{"more.a.example", "www.a.example"}) || !second.Certificate.Since.Equal(first.Certificate.Since) || second.Certificate.Rev <= first.Certificate.Rev {
		t.Errorf("it is another one now: %+v", second)
	}
	// The same again changes nothing.
	rev := a.rev()
	if again := a.imported("", map[string]any{"name": "shop", "bundle": fewer}); again.Changed || a.rev() != rev {
		t.Errorf("again: %+v", again)
	}
	var names Page[CertificateResource]
	a.must(&names, "GET", "certificates?name=www.a.example", "")
	if len(names.Items) != 0 {
		t.Errorf("lost names are still found: %+v", names.Items)
	}
	// RSA beside ECDSA; in its place it is told.
	rsaKey, err := cert.NewKey(true)
	if err != nil {
		t.Fatal(err)
	}
	leaf, key := a.certs.middle.IssueFrom(testca.Template("a.example"), rsaKey)
	bundle := string(slices.Concat(leaf, a.certs.middle.PEM(), key))
	beside := a.imported("", map[string]any{"name": "shop-rsa", "bundle": bundle})
	inPlace := a.imported("?dryRun=true", map[string]any{"name": "shop", "bundle": bundle})
	if len(beside.Warnings) != 0 || len(inPlace.Warnings) != 1 || inPlace.Warnings[0].Code != "other_key_type" {
		t.Errorf("beside: %+v; in its place: %+v", beside.Warnings, inPlace.Warnings)
	}
	var both Page[CertificateResource]
	a.must(&both, "GET", "certificates?name=a.example", "")
	if len(both.Items) != 2 {
		t.Errorf("for a.example: %+v", both.Items)
	}
	// An idempotency key makes it once.
	text, _ := json.Marshal(map[string]any{"name": "once", "bundle": fewer})
	for i := range 2 {
		if r := a.do("root", "POST", "certificates/import", string(text), "Idempotency-Key: k"); r.StatusCode/100 != 2 {
			t.Errorf("time %d: %d %s", i, r.StatusCode, r.body)
		}
	}
	var deleted Result
	a.must(&deleted, "DELETE", "certificates/shop-rsa", "", "Idempotency-Key: d")
	a.must(&deleted, "DELETE", "certificates/shop-rsa", "", "Idempotency-Key: d")
	if !deleted.Repeated {
		t.Errorf("deleted again: %+v", deleted)
	}
}

func TestSigningRequestKeepsItsKeyHere(t *testing.T) {
	a := newTestAPI(t)
	csr := func(who, body string) answer { return a.do(who, "POST", "certificates/csr", body) }
	for _, tt := range []struct {
		body string
		want string
	}{
		{`{"name": "s", "names": ["nobody.example"]}`, "none of its names"},
		{`{"name": "s", "names": ["a.example", "nobody.example"]}`, "do not serve nobody.example"},
		{`{"name": "s", "names": ["*"]}`, "not a name"},
		{`{"name": "s", "names": [".a.example"]}`, "not a name"},
		{`{"name": "s", "names": ["192.0.2.1"]}`, ""},
		{`{"name": "s", "names": []}`, "/names"},
		{`{"name": "S!", "names": ["a.example"]}`, "/name"},
		{`{"name": "s", "names": ["a.example"], "country": "Norway"}`, "/country"},
		{`{"name": "s", "names": ["a.example"], "keyType": "dsa"}`, "/keyType"},
	} {
		if r := csr("publisher-a", tt.body); r.StatusCode != 422 || !strings.Contains(r.body, tt.want) {
			t.Errorf("%s: %d %s", tt.body, r.StatusCode, r.body)
		}
	}
	if r := csr("publisher-a", `{"name": "s", "names": ["b.example"]}`); r.StatusCode != 403 {
		t.Errorf("for another team: %d %s", r.StatusCode, r.body)
	}
	const body = `{"name": "s", "names": ["A.example", "*.a.example"], "organization": "Shop Ltd", "country": "NO"}`
	r := csr("publisher-a", body)
	var made CertificateResource
	if err := json.Unmarshal([]byte(r.body), &made); err != nil || r.StatusCode != 201 || made.Status != StatusPending || made.Team != "a" {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	if again := csr("publisher-a", body); again.StatusCode != 200 || !strings.Contains(again.body, strings.Split(made.Request, "\n")[2]) {
		t.Errorf("the same again is another request: %d %s", again.StatusCode, again.body)
	}
	if other := csr("publisher-a", `{"name": "s", "names": ["a.example"]}`); other.StatusCode != 409 {
		t.Errorf("another in its place: %d %s", other.StatusCode, other.body)
	}
	var listed Page[CertificateResource]
	a.must(&listed, "GET", "certificates?status=pending_validation", "")
	if len(listed.Items) != 1 || listed.Items[0].Name != "s" {
		t.Errorf("listed: %+v", listed.Items)
	}

	// The CA signs it; it comes back without a key.
	block, _ := pem.Decode([]byte(made.Request))
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || request.CheckSignature() != nil || !slices.Equal(request.DNSNames, []string{"a.example", "*.a.example"}) || request.Subject.Organization[0] != "Shop Ltd" {
		t.Fatalf("the request is %+v, %v", request, err)
	}
	stranger, _ := a.certs.middle.IssueFrom(testca.Template("a.example"), testca.NewKey())
	if r := a.imports("publisher-a", "", map[string]any{"name": "s", "bundle": string(slices.Concat(stranger, a.certs.middle.PEM()))}); r.StatusCode != 422 || !strings.Contains(r.body, "does not belong to the key") {
		t.Errorf("of another key: %d %s", r.StatusCode, r.body)
	}
	leaf := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certs.middle.Sign(testca.Template("a.example", "*.a.example"), request.PublicKey)})
	signed := map[string]any{"name": "s", "bundle": string(slices.Concat(leaf, a.certs.middle.PEM()))}
	if r := a.imports("admin-b", "", signed); r.StatusCode != 403 {
		t.Errorf("another team imports it: %d %s", r.StatusCode, r.body)
	}
	if r := a.imports("publisher-a", "", signed); r.StatusCode != 201 {
		t.Fatalf("import: %d %s", r.StatusCode, r.body)
	}
	a.opens("s")
	if q, err := a.openRequest(context.Background(), "s"); q != nil || err != nil {
		t.Errorf("the request is still open: %v, %v", q, err)
	}
	// The key of a request that is deleted is gone.
	csr("root", `{"name": "t", "names": ["a.example"], "keyType": "rsa"}`)
	a.must(nil, "DELETE", "certificates/t", "")
	if r := a.do("root", "GET", "certificates/t", ""); r.StatusCode != 404 {
		t.Errorf("after the delete: %d %s", r.StatusCode, r.body)
	}
	a.hasNoKeys()
}

func TestCertificateInUseIsKept(t *testing.T) {
	a := newTestAPI(t)
	a.put("hosts/named.example", `{"team": "a", "certificate": "shop"}`)
	a.imported("", map[string]any{"name": "shop", "bundle": a.certs.bundle("a.example", "*.a.example", "named.example")})
	var c CertificateResource
	a.must(&c, "GET", "certificates/shop", "")
	if want := []string{"*.a.example", "a.example", "named.example"}; !slices.Equal(c.InUse, want) || c.Renewal == nil || c.Renewal.Eligible {
		t.Errorf("in use by %v, want %v; renewal %+v", c.InUse, want, c.Renewal)
	}
	r := a.do("publisher-a", "DELETE", "certificates/shop", "")
	if p := r.problem(t); r.StatusCode != 409 || p.Code != "in_use" || len(p.Errors) != 3 {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	if r := a.do("publisher-a", "DELETE", "certificates/shop?force=true", ""); r.StatusCode != 403 {
		t.Errorf("forced by a publisher: %d %s", r.StatusCode, r.body)
	}
	// Another one for the same names frees it, but not for the host that names it.
	a.imported("", map[string]any{"name": "next", "bundle": a.certs.bundle("a.example", "*.a.example", "named.example")})
	if p := a.do("publisher-a", "DELETE", "certificates/shop", "").problem(t); len(p.Errors) != 1 || !strings.Contains(p.Detail, "named.example") {
		t.Errorf("%+v", p)
	}
	a.put("hosts/named.example", `{"team": "a"}`)
	var gone Result
	a.must(&gone, "DELETE", "certificates/shop", "")
	if gone.Removed != 4 { // the certificate, and its three names
		t.Errorf("deleted: %+v", gone)
	}
	a.must(nil, "DELETE", "certificates/next?force=true", "")
	if r := a.do("root", "DELETE", "certificates/next", ""); r.StatusCode != 404 {
		t.Errorf("again: %d %s", r.StatusCode, r.body)
	}
	if asked := a.certs.took(); len(asked) != 0 {
		t.Errorf("the issuer was told of imported ones: %v", asked)
	}
}

func TestExportIsForTheAdminAndInTheAudit(t *testing.T) {
	a := newTestAPI(t)
	v := a.store(fingerpost.ACME, "ordered", "a", "a.example")
	if r := a.do("admin-a", "POST", "certificates/ordered/export", ""); r.StatusCode != 403 {
		t.Errorf("as the team's admin: %d", r.StatusCode)
	}
	var out ExportedCertificate
	r := a.must(&out, "POST", "certificates/ordered/export", "")
	if _, err := tls.X509KeyPair([]byte(out.Chain), []byte(out.Key)); err != nil || r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v, %v", err, r.Header)
	}
	var audit Page[AuditEntry]
	a.must(&audit, "GET", "audit?kind=certificate&key=ordered&who=root", "")
	if len(audit.Items) != 1 || audit.Items[0].Action != "export" || !strings.Contains(audit.Items[0].After, v.Serial) {
		t.Errorf("the audit has %+v", audit.Items)
	}
	a.hasNoKeys([]byte(out.Key))
	if r := a.do("root", "POST", "certificates/none/export", ""); r.StatusCode != 404 {
		t.Errorf("of none: %d", r.StatusCode)
	}
	// With another cluster key nothing opens, and that is said.
	other, err := cert.NewSealer(cert.NewSecret())
	if err != nil {
		t.Fatal(err)
	}
	a.Certificates.Sealer = other
	if p := a.do("root", "POST", "certificates/ordered/export", "").problem(t); p.Code != "other_cluster_key" || p.Hint == "" {
		t.Errorf("%+v", p)
	}
}

func TestHostsShowTheirCertificates(t *testing.T) {
	a := newTestAPI(t)
	soon := time.Now().Add(time.Hour).Truncate(time.Second)
	notHere := &order.Failure{Code: "notHere", Reason: "the CNAME of _acme-challenge.b.example is not set"}
	a.nameState(order.NameState{Name: planner.Name{Name: "b.example", State: planner.Failed, Next: soon, Policy: planner.Policy{Team: "b"}}, Failure: notHere, Sentence: notHere.Reason, NextStep: "set it"})
	a.nameState(order.NameState{Name: planner.Name{Name: "caa.example", State: planner.Blocked}, Failure: &order.Failure{Code: "rejectedIdentifier", Method: "dns-01"}, Sentence: "the CA refuses the name"})
	a.nameState(order.NameState{Name: planner.Name{Name: "old.example", State: planner.Paused}, Sentence: "nobody answers"})
	a.nameState(order.NameState{Name: planner.Name{Name: "a.example", State: planner.Live}, Certificate: "ordered", NotAfter: time.Now().AddDate(0, 0, 90), Methods: []string{"http-01"}, Sentence: "it has a certificate"})
	v := a.store(fingerpost.ACME, "ordered", "a", "a.example", "*.a.example")
	for name, body := range map[string]string{
		"caa.example": `{"team": "a"}`, "old.example": `{"team": "a"}`, "new.example": `{"team": "a"}`, "none.example": `{"team": "a", "certificate": "none"}`,
		"x.a.example": `{"team": "a"}`, "pair.example": `{"team": "a", "also": ["y.a.example"]}`, "lacks.example": `{"team": "a", "certificate": "ordered"}`,
	} {
		a.put("hosts/"+name, body)
	}
	var page Page[HostResource]
	a.must(&page, "GET", "hosts", "")
	got := map[string]string{}
	for _, h := range page.Items {
		got[h.Name] = h.CertificateState.State + " " + h.CertificateState.Reason
		if h.CertificateState.State == "live" && !h.CertificateState.Until.Equal(v.NotAfter) {
			t.Errorf("%s is live until %s, want %s", h.Name, h.CertificateState.Until, v.NotAfter)
		}
		var one HostResource
		a.must(&one, "GET", "hosts/"+h.Name, "")
		if *one.CertificateState != *h.CertificateState {
			t.Errorf("%s: %+v in the list, %+v by itself", h.Name, h.CertificateState, one.CertificateState)
		}
	}
	for name, want := range map[string]string{
		"a.example": "live ", "*.a.example": "live ", "x.a.example": "live ", "b.example": "waiting " + notHere.Reason, "caa.example": "failed the CA refuses the name", "old.example": "failed nobody answers",
		"new.example": "waiting nothing has been done about it yet", "none.example": "none ", "pair.example": "waiting pair.example: nothing has been done about it yet",
		"lacks.example": "waiting the certificate ordered is not there, not valid now, or not for this name",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}

	var h HostCertificateResource
	a.must(&h, "GET", "hosts/b.example/certificate", "")
	n := h.Names[0]
	if h.Live || n.Status != StatusPending || n.Validation != "pending" || n.Reason != notHere.Reason || n.NextStep != "set it" || !n.NextTry.Equal(soon) ||
		n.Record == nil || n.Record.Name != "_acme-challenge.b.example." || n.Record.Value != "b-example.acme.example.net." {
		t.Errorf("b.example: %+v", h)
	}
	a.must(&h, "GET", "hosts/a.example/certificate", "")
	if n := h.Names[0]; !h.Live || n.Certificate != "ordered" || n.Method != "http-01" || n.Validation != "success" || n.DaysLeft == nil || *n.DaysLeft != 89 {
		t.Errorf("a.example: %+v", h)
	}
	if r := a.do("root", "GET", "hosts/nobody.example/certificate", ""); r.StatusCode != 404 || !strings.Contains(r.body, "do not serve") {
		t.Errorf("a name that we do not serve: %d %s", r.StatusCode, r.body)
	}
	a.put("redirects/x?host=rules.example", `{"from": "rules.example/x", "to": "https://t.example/"}`)
	a.must(&h, "GET", "hosts/rules.example/certificate", "")
	if len(h.Names) != 1 || h.Names[0].Status != StatusPending {
		t.Errorf("of redirects alone: %+v", h)
	}

	statuses := map[string]string{}
	var certs Page[CertificateResource]
	path := "certificates?limit=1"
	for {
		a.must(&certs, "GET", path, "")
		for _, c := range certs.Items {
			statuses[c.Name] = c.Status
		}
		if certs.Next == "" {
			break
		}
		path = "certificates?limit=1&cursor=" + certs.Next
		certs.Next = ""
	}
	if want := map[string]string{"ordered": StatusIssued, "b.example": StatusPending, "caa.example": StatusFailed, "old.example": StatusTimedOut}; fmt.Sprint(statuses) != fmt.Sprint(want) {
		t.Errorf("listed one by one: %v, want %v", statuses, want)
	}
	for query, want := range map[string]int{"status=failed": 1, "team=a": 1, "team=b": 1, "name=x.a.example": 1, "name=b.example": 1, "name=none.example": 0, "status=issued&team=b": 0} {
		var page Page[CertificateResource]
		if a.must(&page, "GET", "certificates?"+query, ""); len(page.Items) != want {
			t.Errorf("%s: %+v", query, page.Items)
		}
	}
}

func TestRenewalIsTold(t *testing.T) {
	a := newTestAPI(t)
	v := a.store(fingerpost.ACME, "ordered", "a", "a.example", "*.a.example")
	live := func(name string) order.NameState {
		return order.NameState{Name: planner.Name{Name: name, State: planner.Live}, Certificate: "ordered", NotAfter: v.NotAfter, Methods: []string{"dns-01"}}
	}
	put := func(c order.Certificate) {
		value, err := json.Marshal(c)
		if err == nil {
			err = a.certs.memory.Write(t.Context(), 0, order.Record{Kind: order.KindCertificate, Key: "ordered", Value: value})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	get := func() (c CertificateResource) { a.must(&c, "GET", "certificates/ordered", ""); return c }
	a.nameState(live("a.example"))
	a.nameState(live("*.a.example"))
	if c := get(); !c.Renewal.Eligible || c.Renewal.Status != "scheduled" || !c.Renewal.At.Equal(v.NotAfter.Add(-v.NotAfter.Sub(v.NotBefore)/3)) || c.Names[0].Validation != "success" || c.Names[0].Method != "dns-01" {
		t.Errorf("%+v %+v", c, c.Renewal)
	}
	put(order.Certificate{Window: planner.Window{Start: time.Now().Add(-time.Hour), End: time.Now().Add(time.Hour)}})
	if c := get(); c.Renewal.Status != "pending_auto_renewal" {
		t.Errorf("inside its window: %+v", c.Renewal)
	}
	bad := live("a.example")
	bad.State, bad.Sentence, bad.Failure = planner.Failed, "the CNAME is not set", &order.Failure{Code: "notHere"}
	a.nameState(bad)
	if c := get(); c.Renewal.Status != "pending_validation" || c.Renewal.Reason != "a.example: the CNAME is not set" || c.Status != StatusIssued {
		t.Errorf("a name has lost its DNS: %+v", c.Renewal)
	}
	put(order.Certificate{Replaced: true})
	if c := get(); c.Renewal.Eligible || c.Status != StatusInactive {
		t.Errorf("replaced: %+v %+v", c, c.Renewal)
	}
}

// TestCertificatesOfANameArePaged: each of them stands on one page, and there is a last.
func TestCertificatesOfANameArePaged(t *testing.T) {
	a := newTestAPI(t)
	for _, name := range []string{"c3", "c1", "c2"} {
		a.store(fingerpost.Imported, name, "a", "a.example")
	}
	a.store(fingerpost.Imported, "c4", "a", "*.a.example", "www.a.example") // for www twice
	a.store(fingerpost.Imported, "c0", "a", "*.a.example")
	a.nameState(order.NameState{Name: planner.Name{Name: "a.example", State: planner.Checking}})
	a.nameState(order.NameState{Name: planner.Name{Name: "www.a.example", State: planner.Checking}})
	for _, tt := range []struct{ query, want string }{
		{"name=a.example", "c1 c2 c3 a.example"},
		{"name=www.a.example", "c0 c4 www.a.example"},
		{"name=a.example&status=issued", "c1 c2 c3"},
		{"name=a.example&status=pending_validation", "a.example"},
		{"name=b.example", ""},
	} {
		for limit := 1; limit <= 5; limit++ {
			var names []string
			cursor := ""
			for range 6 {
				var page Page[CertificateResource]
				a.must(&page, "GET", fmt.Sprintf("certificates?%s&limit=%d&cursor=%s", tt.query, limit, cursor), "")
				for i := range page.Items {
					names = append(names, page.Items[i].Name)
				}
				if cursor = page.Next; cursor == "" {
					break
				}
			}
			if got := strings.Join(names, " "); got != tt.want || cursor != "" {
				t.Errorf("%s, %d at once: %q, want %q; next %q", tt.query, limit, got, tt.want, cursor)
			}
		}
	}
}

// TestTheLinkOfAPauseIsForWhoeverMayChangeTheHost: it works for all who have it.
func TestTheLinkOfAPauseIsForWhoeverMayChangeTheHost(t *testing.T) {
	const link = "https://ca.example/unpause?jwt=secret"
	a := newTestAPI(t)
	a.put("hosts/new.a.example", `{"team": "a"}`)
	a.put("hosts/old.a.example", `{"team": "a"}`)
	a.store(fingerpost.ACME, "ordered", "a", "old.a.example")
	for _, name := range []string{"new.a.example", "old.a.example"} {
		st := order.NameState{Name: planner.Name{Name: name, State: planner.Blocked, Policy: planner.Policy{Team: "a"}}, Failure: &order.Failure{Code: "rateLimited", Paused: true, URL: link}, Sentence: "paused"}
		if name == "old.a.example" {
			st.Certificate = "ordered"
		}
		a.nameState(st)
	}
	for who, shown := range map[string]bool{"root": true, "publisher": true, "publisher-a": true, "admin-a": true, "editor-a": false, "viewer": false, "viewer-a": false, "admin-b": false, "reader": false} {
		for _, path := range []string{"certificates", "certificates?name=new.a.example", "certificates/new.a.example", "certificates/ordered", "hosts/new.a.example/certificate", "hosts/old.a.example/certificate"} {
			r := a.do(who, "GET", path, "")
			if got := strings.Contains(r.body, link); r.StatusCode != 200 || got != shown {
				t.Errorf("GET %s by %s: %d, the link is shown: %v, want %v", path, who, r.StatusCode, got, shown)
			}
		}
	}
	for _, path := range []string{"hosts", "hosts/new.a.example", "certificates/events"} {
		if r := a.do("viewer", "GET", path, ""); r.StatusCode != 200 || strings.Contains(r.body, "secret") {
			t.Errorf("GET %s: %d %s", path, r.StatusCode, r.body)
		}
	}
}

func TestWhatIsAskedOfTheIssuer(t *testing.T) {
	a := newTestAPI(t)
	a.store(fingerpost.ACME, "ordered", "a", "a.example")
	a.imported("", map[string]any{"name": "bought", "bundle": a.certs.bundle("a.example")})
	a.put("hosts/pair.example", `{"team": "a", "also": [".pair.a.example"]}`)
	for _, tt := range []struct {
		who, method, path, body string
		status                  int
		asked                   []Ask
		code                    string
	}{
		{"editor-a", "POST", "hosts/pair.example/certificate", "", 202, []Ask{{Do: AskRequest, Name: "pair.example"}, {Do: AskRequest, Name: "pair.a.example"}, {Do: AskRequest, Name: "*.pair.a.example"}}, ""},
		{"root", "POST", "hosts/nobody.example/certificate", "", 404, nil, "not_found"},
		{"publisher-a", "POST", "certificates/ordered/renew", "", 202, []Ask{{Do: AskRenew, Certificate: "ordered"}}, ""},
		{"editor-a", "POST", "certificates/ordered/renew", "", 403, nil, "forbidden"},
		{"root", "POST", "certificates/bought/renew", "", 409, nil, "imported"},
		{"root", "POST", "certificates/none/renew", "", 404, nil, "not_found"},
		{"publisher-a", "POST", "certificates/ordered/names?dryRun=true", `{"name": "new.a.example"}`, 200, nil, ""},
		{"publisher-a", "POST", "certificates/ordered/names", `{"name": "new.a.example"}`, 202, []Ask{{Do: AskAddName, Certificate: "ordered", Name: "new.a.example"}}, ""},
		{"publisher-a", "POST", "certificates/ordered/names?dryRun=true", `{"name": "elsewhere.a.example"}`, 200, nil, ""}, // another node orders
		{"publisher-a", "POST", "certificates/ordered/names", `{"name": "elsewhere.a.example"}`, 202, []Ask{{Do: AskAddName, Certificate: "ordered", Name: "elsewhere.a.example"}}, ""},
		{"root", "POST", "certificates/ordered/names", `{"name": "a.example"}`, 409, nil, "has_name"},
		{"root", "POST", "certificates/ordered/names", `{"name": "nobody.example"}`, 422, nil, "invalid"},
		{"root", "POST", "certificates/ordered/names", `{"name": "*"}`, 422, nil, "invalid"},
		{"publisher-a", "POST", "certificates/ordered/names", `{"name": "b.example"}`, 403, nil, "forbidden"},
		{"publisher-a", "POST", "certificates/ordered/revoke", "", 403, nil, "forbidden"},
		{"admin-a", "POST", "certificates/ordered/revoke", "", 202, []Ask{{Do: order.AskRevoke, Certificate: "ordered"}}, ""},
		{"admin-a", "POST", "certificates/ordered/revoke", `{"reason": "keyCompromise"}`, 202, []Ask{{Do: order.AskRevoke, Certificate: "ordered", Reason: "keyCompromise"}}, ""},
		{"admin-a", "POST", "certificates/ordered/revoke", `{"reason": "whim"}`, 422, nil, "invalid"},
		{"admin-a", "POST", "certificates/bought/revoke", `{"reason": "superseded"}`, 200, nil, ""},
		{"admin-a", "POST", "certificates/bought/revoke", "", 409, nil, "revoked"},
		{"root", "POST", "certificates/none/revoke", "", 404, nil, "not_found"},
		{"root", "DELETE", "certificates/ordered", "", 200, []Ask{{Do: AskGone, Certificate: "ordered"}}, ""},
	} {
		r := a.do(tt.who, tt.method, tt.path, tt.body)
		if asked := a.certs.took(); r.StatusCode != tt.status || fmt.Sprint(asked) != fmt.Sprint(tt.asked) {
			t.Errorf("%s %s as %s: %d %s, asked %v", tt.method, tt.path, tt.who, r.StatusCode, r.body, asked)
		}
		if tt.code != "" {
			if p := r.problem(t); p.Code != tt.code || tt.code != "not_found" && !p.hinted() {
				t.Errorf("%s %s: %+v", tt.method, tt.path, p)
			}
		}
	}
	var bought CertificateResource
	a.must(&bought, "GET", "certificates/bought", "")
	if bought.Status != StatusRevoked || !strings.Contains(bought.Reason, "superseded") || !strings.Contains(bought.NextStep, "import its successor") {
		t.Errorf("an imported one that was revoked: %+v", bought)
	}
	a.put("hosts/none.example", `{"team": "a", "certificate": "none"}`)
	if p := a.do("root", "POST", "hosts/none.example/certificate", "").problem(t); p.Code != "not_automatic" {
		t.Errorf("%+v", p)
	}
	a.Certificates.Ask = nil
	if p := a.do("root", "POST", "hosts/a.example/certificate", "").problem(t); p.Status != 501 || p.Code != "no_ca" || p.Hint == "" {
		t.Errorf("without a CA: %+v", p)
	}
}

func TestRecordsOfAllDomainsAreExported(t *testing.T) {
	a := newTestAPI(t)
	a.put("hosts/none.example", `{"team": "a", "certificate": "none"}`)
	a.put("hosts/pair.example", `{"team": "b", "also": [".more.example"], "redirectFrom": ["from.example"]}`)
	for _, id := range []string{"x", "y"} {
		a.put("redirects/"+id+"?host=rules.example", `{"from": "rules.example/`+id+`", "to": "https://t.example/"}`)
		a.put("redirects/"+id+"?host=a.example", `{"from": "a.example/`+id+`", "to": "https://t.example/"}`)
	}
	domains := []string{"a.example", "b.example", "pair.example", "more.example", "from.example", "rules.example"}
	var records []DomainRecord
	a.must(&records, "GET", "certificates/cnames", "")
	var got []string
	for _, r := range records {
		got = append(got, r.Domain)
		if r.Name != "_acme-challenge."+r.Domain+"." || r.Type != "CNAME" || !strings.HasSuffix(r.Value, ".acme.example.net.") {
			t.Errorf("%+v", r)
		}
	}
	if !slices.Equal(got, domains) {
		t.Errorf("got %v, want %v", got, domains)
	}
	r := a.must(nil, "GET", "certificates/cnames?format=bind", "")
	if lines := strings.Split(strings.TrimSpace(r.body), "\n"); len(lines) != len(domains) || lines[0] != "_acme-challenge.a.example.\t3600\tIN\tCNAME\ta-example.acme.example.net." {
		t.Errorf("%s", r.body)
	}
	r = a.must(nil, "GET", "certificates/cnames?format=csv&team=b", "")
	if lines := strings.Split(strings.TrimSpace(r.body), "\n"); len(lines) != 5 || lines[0] != "domain,name,type,value,host,team" || lines[1] != "b.example,_acme-challenge.b.example.,CNAME,b-example.acme.example.net.,b.example,b" {
		t.Errorf("%s", r.body)
	}
	a.Certificates.CNAME = nil
	if p := a.do("root", "GET", "certificates/cnames", "").problem(t); p.Code != "no_validation_zone" || p.Hint == "" {
		t.Errorf("%+v", p)
	}
}

func TestEventsOfCertificatesAreListed(t *testing.T) {
	a := newTestAPI(t)
	begin := time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)
	var records []order.Record
	for i := range 2500 { // more than is read at once
		e := order.Event{At: begin.Add(time.Duration(i) * time.Minute), What: order.EventIssued, Names: []string{fmt.Sprint("n", i%2, ".example")}, Certificate: fmt.Sprint("c", i), Team: "a"}
		if i == 2000 {
			e.What, e.Replaces, e.Reason = order.EventRefused, "c1", "renew: the DNS is wrong"
		}
		value, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, order.Record{Kind: order.KindEvent, Key: order.EventKey(e.At) + "/x", Value: value})
	}
	if err := a.Certificates.Storage.Write(t.Context(), 0, records...); err != nil {
		t.Fatal(err)
	}
	list := func(query string) (all []CertificateEvent) {
		t.Helper()
		for cursor := ""; ; {
			var page Page[CertificateEvent]
			a.must(&page, "GET", "certificates/events?limit=900&"+query+"&cursor="+cursor, "")
			all = append(all, page.Items...)
			if cursor = page.Next; cursor == "" {
				return all
			}
		}
	}
	all := list("")
	if len(all) != 2500 || all[0].Certificate != "c0" || all[899].Certificate != "c899" || all[900].Certificate != "c900" || all[2499].Certificate != "c2499" {
		t.Errorf("%d events", len(all))
	}
	for query, want := range map[string]int{
		"since=2026-11-21T08:00:00Z": 2500 - 24*60, "name=n1.example": 1250, "team=b": 0, "what=refused": 1, "certificate=c1": 2, "what=refused&certificate=c7": 0,
	} {
		if got := list(query); len(got) != want {
			t.Errorf("%s: %d events, want %d", query, len(got), want)
		}
	}
	if p := a.do("root", "GET", "certificates/events?since=yesterday", "").problem(t); p.Status != 422 {
		t.Errorf("%+v", p)
	}
}

// TestImportAgainMendsALostClusterKey: what stands there with a key that nobody can
// open any more is not "there already".
func TestImportAgainMendsALostClusterKey(t *testing.T) {
	a := newTestAPI(t)
	bundle := a.certs.bundle("a.example")
	a.imported("", map[string]any{"name": "shop", "bundle": bundle})
	if out := a.imported("", map[string]any{"name": "shop", "bundle": bundle}); out.Changed {
		t.Error("the same again is a change")
	}
	var asked CertificateResource
	a.must(&asked, "POST", "certificates/csr", `{"name": "bought", "names": ["b.example"], "team": "b"}`)
	other, err := cert.NewSealer(cert.NewSecret())
	if err != nil {
		t.Fatal(err)
	}
	third, err := cert.NewSealer(cert.NewSecret())
	if err != nil {
		t.Fatal(err)
	}
	a.Certificates.Sealer, a.certs.Sealer = other, other
	if out := a.imported("?dryRun=true", map[string]any{"name": "shop", "bundle": bundle}); out.Changed {
		t.Error("a dry run is a change")
	}
	if out := a.imported("", map[string]any{"name": "shop", "bundle": bundle}); !out.Changed {
		t.Error("the certificate whose key cannot be opened is left as it is")
	}
	a.opens("shop")
	if out := a.imported("", map[string]any{"name": "shop", "bundle": bundle}); out.Changed {
		t.Error("the same again is a change, with the new cluster key")
	}
	var anew CertificateResource
	if a.must(&anew, "POST", "certificates/csr", `{"name": "bought", "names": ["b.example"], "team": "b"}`); anew.Request == "" || anew.Request == asked.Request {
		t.Error("a request whose key is gone is given again")
	}
	a.Certificates.Sealer, a.certs.Sealer = third, third
	// The key of an open request is gone: without it nothing is imported, with a key that is sent along it is.
	leaf, key := a.certs.middle.Issue("b.example")
	alone := string(slices.Concat(leaf, a.certs.middle.PEM()))
	if r := a.imports("root", "", map[string]any{"name": "bought", "bundle": alone}); r.StatusCode != 409 || r.problem(t).Code != "other_cluster_key" || r.problem(t).Hint == "" {
		t.Errorf("without the key: %d %s", r.StatusCode, r.body)
	}
	if out := a.imported("", map[string]any{"name": "bought", "bundle": alone + string(key)}); !out.Changed {
		t.Error("with its key it is not taken")
	}
	a.opens("bought")
}
