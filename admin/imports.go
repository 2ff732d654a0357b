package admin

import (
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"fingerpost"
	"fingerpost/cert"
	"fingerpost/cert/order"
	"fingerpost/store"
)

// Certificates that are bought or made elsewhere: a request is made here, its key
// stays here, and what the CA makes of it is imported.

// seal and open are the only places that know how keys of certificates are sealed.
func (c *Certificates) seal(certificate string, key []byte) []byte {
	return c.Sealer.Seal(cert.KeyPurpose(certificate), key)
}

const codeOtherKey = "other_cluster_key"

func (c *Certificates) open(certificate string, sealed []byte) ([]byte, error) {
	key, err := c.Sealer.Open(cert.KeyPurpose(certificate), sealed)
	if errors.Is(err, cert.ErrSealed) {
		return nil, problem(http.StatusConflict, codeOtherKey, "the key of "+certificate+" was sealed with another cluster key than this node's", "give the node the cluster key of the node that sealed it; if that is lost, import the certificate with its key")
	}
	return key, err
}

func (c *Certificates) opens(certificate string, sealed []byte) bool {
	_, err := c.open(certificate, sealed)
	return err == nil
}

// KindRequest is the kind of the records of open signing requests.
const KindRequest = "certificate-request"

// openRequest is a signing request whose certificate was not imported yet.
type openRequest struct {
	Names   []string     `json:"names"`
	KeyType string       `json:"keyType"`
	Subject cert.Subject `json:"subject"`
	CSR     string       `json:"csr"` // PEM
	Key     []byte       `json:"key"` // PKCS #8, sealed
	Team    string       `json:"team,omitempty"`
	By      string       `json:"by"`
	At      time.Time    `json:"at"`
}

func (q *openRequest) resource(name string) CertificateResource {
	r := CertificateResource{Name: name, Type: fingerpost.Imported, Status: StatusPending, Reason: "it was requested on " + q.At.UTC().Format(time.DateOnly) + " and not imported yet",
		NextStep: "have a CA sign the request, and import what it gives under this name", Team: q.Team, KeyType: q.KeyType, Request: q.CSR, Since: q.At, Names: []NameResource{}}
	for _, n := range q.Names {
		r.Names = append(r.Names, NameResource{Name: n})
	}
	return r
}

// openRequest gives the open request of a name, nil if there is none.
func (s *Server) openRequest(ctx context.Context, name string) (*openRequest, error) {
	record, err := s.Store.GetRecord(ctx, KindRequest, name)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	q := new(openRequest)
	return q, json.Unmarshal(record.Value, q)
}

// ownRequest is the same, if p may change it.
func (s *Server) ownRequest(ctx context.Context, p *Principal, name string) (*openRequest, error) {
	q, err := s.openRequest(ctx, name)
	if err == nil && q != nil {
		err = authorize(p, Settings, q.Team)
	}
	return q, err
}

func (s *Server) openRequests(ctx context.Context, after string, limit int) (entries []listed, looked int, last string, err error) {
	from := ""
	if after != "" {
		from = after + " "
	}
	records, err := s.Store.Records(ctx, KindRequest, from, "", limit)
	if err != nil {
		return nil, 0, "", err
	}
	for _, r := range records {
		var q openRequest
		if err := json.Unmarshal(r.Value, &q); err != nil {
			return nil, 0, "", err
		}
		last = r.Key
		entries = append(entries, listed{r.Key, q.resource(r.Key)})
	}
	return entries, len(records), last, nil
}

// A name of a certificate goes into paths and file names.
var certificateName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,99}$`)

func checkCertificateName(name string) error {
	switch {
	case !certificateName.MatchString(name):
		return invalid(Fault{Pointer: "/name", Code: "bad_name", Detail: fmt.Sprintf("the name %.100q is not one of a certificate", name), Hint: "lower-case letters, digits, dots, hyphens and underscores, 100 at most, as in shop-2027"})
	case slices.Contains([]string{"auto", "none", "import", "csr", "cnames"}, name):
		return invalid(Fault{Pointer: "/name", Code: "bad_name", Detail: "the name " + name + " has a meaning of its own", Hint: "choose another one"})
	}
	return nil
}

// mayServe decides whether p may bring a certificate for names: each host that it
// would be served for must be p's to set. It gives the team that the certificate is
// for, and the names that no host uses.
func (s *Server) mayServe(ctx context.Context, p *Principal, certificate, team string, names []string) (owner string, unused []string, err error) {
	uses, err := s.usesOf(ctx, certificate, names, true)
	if err != nil {
		return "", nil, err
	}
	if len(uses) == 0 {
		return "", nil, invalid(Fault{Code: "not_served", Detail: "none of its names is one that we serve: " + few(names), Hint: "make the host first, or look at the spelling of the names"})
	}
	used, teams := map[string]bool{}, []string{}
	set := setOf(names)
	for _, u := range uses {
		if err := authorize(p, Settings, u.team); err != nil {
			f := problemOf(err)
			return "", nil, forbidden("the certificate is for "+u.name+" of the host "+u.host+": "+f.Detail, f.Hint)
		}
		if by, ok := coveredBy(set, u.name); ok {
			used[by] = true
		}
		if !slices.Contains(teams, u.team) {
			teams = append(teams, u.team)
		}
	}
	for _, name := range names {
		if !used[name] {
			unused = append(unused, name)
		}
	}
	switch {
	case team != "":
		if err := s.knownOwner(ctx, team); err != nil {
			return "", nil, err
		}
		return team, unused, authorize(p, Settings, team)
	case len(teams) > 1:
		slices.Sort(teams)
		return "", nil, invalid(Fault{Pointer: "/team", Code: "several_teams", Detail: "its names belong to several teams: " + strings.Join(teams, ", "), Hint: "say whose the certificate is, with team"})
	}
	return teams[0], unused, nil
}

// few writes down a list of any length.
func few(names []string) string {
	if len(names) > 5 {
		return strings.Join(names[:5], ", ") + fmt.Sprintf(" and %d more", len(names)-5)
	}
	return strings.Join(names, ", ")
}

type importInput struct {
	Key         string `header:"Idempotency-Key" maxLength:"200" doc:"names this request: repeated within 24 hours, it does nothing and gives the first result"`
	DryRun      bool   `query:"dryRun" doc:"check everything, but change nothing"`
	AllowLosing bool   `query:"allowLosing" doc:"the certificate may have fewer names than the one before under this name"`
	Note        string `query:"note" maxLength:"1000" doc:"why, for the audit"`
	Body        struct {
		Name     string `json:"name" doc:"the certificate's own name; under the name of one that was imported before, it takes its place"`
		Bundle   string `json:"bundle" maxLength:"2000000" doc:"PEM in any order: the certificate, those of its issuers, its key unless it was requested here; or the same, or a PKCS #12 file, in base64"`
		Password string `json:"password,omitempty" maxLength:"1000" doc:"of a PKCS #12 file"`
		Team     string `json:"team,omitempty" maxLength:"200" doc:"the owner; default the team of its hosts"`
	}
}

// Imported is what an import has come to.
type Imported struct {
	Certificate CertificateResource `json:"certificate"`
	Changed     bool                `json:"changed" doc:"false for a dry run, and for what was there already"`
	Lost        []string            `json:"lost,omitempty" doc:"names that the certificate before had, and this one has not"`
	Warnings    []Fault             `json:"warnings,omitempty" doc:"what may be meant so"`
}

type importOutput struct {
	Status int
	ETag   string `header:"ETag"`
	Body   Imported
}

// importCertificate checks a certificate and brings it into force, all or nothing.
func (s *Server) importCertificate(ctx context.Context, in *importInput) (*importOutput, error) {
	c, err := s.certificates()
	if err != nil {
		return nil, err
	}
	p, name := principalOf(ctx), in.Body.Name
	if err := checkCertificateName(name); err != nil {
		return nil, err
	}
	request, signer, err := s.requestedKey(ctx, c, p, name)
	if err != nil && problemOf(err).Code != codeOtherKey {
		return nil, err
	}
	v, key, warnings, failed := cert.Import(cert.Bundle{Text: bundleText(in.Body.Bundle), Password: in.Body.Password, Key: signer, Roots: c.Roots}, s.now())
	if failed != nil && err != nil {
		return nil, err // the key of the request was needed
	}
	if failed != nil {
		return nil, failed
	}
	const most = store.MaxChanges - 10
	if len(v.Names) > most {
		return nil, invalid(Fault{Pointer: "/bundle", Code: "bad_certificate", Detail: fmt.Sprintf("it has %d names, and %d at most are taken", len(v.Names), most), Hint: "have it issued in parts: every visitor loads all the names"})
	}
	item, before, err := s.importedBefore(ctx, p, name)
	if err != nil {
		return nil, err
	}
	team := in.Body.Team
	if before != nil && team == "" {
		team = before.Team
	}
	owner, unused, err := s.mayServe(ctx, p, name, team, v.Names)
	if err != nil {
		return nil, err
	}
	// A name that is nobody's today is somebody's tomorrow: its certificate would be there
	// before its owner.
	if err := authorize(p, Govern, ""); err != nil && len(unused) > 0 {
		return nil, forbidden("the certificate is also for "+few(unused)+", which no host is", "make these hosts first, or have an admin import it")
	}
	if before != nil && before.Team != owner {
		if err := authorize(p, Govern, ""); err != nil {
			return nil, forbidden(fmt.Sprintf("the certificate is the team %q's, and %q is asked for", before.Team, owner), "only the admin of every team gives a certificate to another team")
		}
	}
	out := &importOutput{Status: http.StatusCreated}
	for _, w := range warnings {
		for _, e := range fingerpost.Errors(w) {
			out.Body.Warnings = append(out.Body.Warnings, faultOf(e))
		}
	}
	if len(unused) > 0 {
		out.Body.Warnings = append(out.Body.Warnings, Fault{Code: "unused_names", Detail: "no host uses " + few(unused), Hint: "make hosts for these names, or leave them out next time"})
	}
	v.Name, v.Type, v.Team = name, fingerpost.Imported, owner
	change := store.Absent
	if before != nil {
		out.Status, change = http.StatusOK, item.Rev
		out.Body.Warnings = append(out.Body.Warnings, s.comparedWith(before, v)...)
		out.Body.Lost = lost(before.Names, v.Names)
		if len(out.Body.Lost) > 0 && !in.AllowLosing {
			p := problem(http.StatusConflict, "loses_names", "the certificate before has "+few(out.Body.Lost)+", and this one has not; nothing has changed", "have it issued with all names, or say allowLosing=true")
			for _, n := range out.Body.Lost {
				p.Errors = append(p.Errors, Fault{Pointer: "/bundle", Code: "loses_names", Detail: "it is not for " + n})
			}
			return nil, p
		}
		if slices.EqualFunc(before.Chain, v.Chain, slices.Equal) {
			if before.Team == owner && c.opens(name, before.Key) {
				return out, s.showImported(ctx, c, name, out) // the same certificate has the same key
			}
			v.Revoked, v.RevokedFor = before.Revoked, before.RevokedFor
		}
	}
	v.Key = c.seal(name, key)
	if in.DryRun {
		it, err := store.CertificateItem(v)
		if err == nil {
			out.Status = http.StatusOK
			out.Body.Certificate, _, err = c.describe(&it, s.now())
		}
		return out, err
	}
	changes, err := store.CertificateChanges(before, v)
	if err != nil {
		return nil, err
	}
	changes[0].If = change
	b := store.Batch{Key: keyOf(p, in.Key), Sum: sumOf("import", name, owner, string(v.Chain[0])), Changes: changes, Actor: p.actor(), Note: in.Note}
	if request != nil {
		b.Records = []store.Record{{Kind: KindRequest, Key: name}}
	}
	receipt, err := s.Store.Commit(ctx, b)
	if err != nil {
		return nil, err
	}
	out.Body.Changed = receipt.Changes() > 0 && !receipt.Repeated
	return out, s.showImported(ctx, c, name, out)
}

// requestedKey gives the key of an open request, nil if there is none.
func (s *Server) requestedKey(ctx context.Context, c *Certificates, p *Principal, name string) (*openRequest, crypto.Signer, error) {
	q, err := s.ownRequest(ctx, p, name)
	if err != nil || q == nil {
		return nil, nil, err
	}
	der, err := c.open(name, q.Key)
	if err != nil {
		return q, nil, err
	}
	signer, err := cert.ParseKey(der)
	return q, signer, err
}

// importedBefore gives what is there under a name; nil for nothing.
func (s *Server) importedBefore(ctx context.Context, p *Principal, name string) (*store.Item, *fingerpost.Certificate, error) {
	it, err := s.get(ctx, store.KindCertificate, name)
	if err != nil || it == nil {
		return nil, nil, err
	}
	v, err := it.Certificate()
	if err != nil {
		return nil, nil, err
	}
	if err := authorize(p, Settings, v.Team); err != nil {
		return nil, nil, err
	}
	if v.Type != fingerpost.Imported {
		return nil, nil, problem(http.StatusConflict, "not_imported", "the certificate "+name+" was ordered from a CA, and is renewed by itself", "import yours under another name; of two for the same host that is served which is valid longer")
	}
	return it, v, nil
}

func (s *Server) showImported(ctx context.Context, c *Certificates, name string, out *importOutput) error {
	it, err := s.Store.Get(ctx, store.KindCertificate, name)
	if err != nil {
		return err
	}
	out.ETag = entityTag(it.Rev)
	out.Body.Certificate, _, err = c.describe(&it, s.now())
	return err
}

// comparedWith is what may surprise whoever imports v in the place of before.
func (s *Server) comparedWith(before, v *fingerpost.Certificate) (warnings []Fault) {
	kind := func(keyType string) string { k, _, _ := strings.Cut(keyType, " "); return k }
	if kind(before.KeyType) != kind(v.KeyType) {
		warnings = append(warnings, Fault{Code: "other_key_type", Detail: fmt.Sprintf("the certificate before has a key of type %s, and this one of type %s", before.KeyType, v.KeyType),
			Hint: "to serve both, each to the clients that can use it, import this one under another name"})
	}
	if v.NotAfter.Before(before.NotAfter) {
		warnings = append(warnings, Fault{Code: "expires_earlier", Detail: "it expires on " + v.NotAfter.Format(time.DateOnly) + ", before the one that it takes the place of", Hint: "is it the older one?"})
	}
	return warnings
}

// lost lists the names that a certificate has no more.
func lost(before, now []string) []string {
	set := setOf(now)
	var gone []string
	for _, name := range before {
		if _, ok := coveredBy(set, name); !ok {
			gone = append(gone, name)
		}
	}
	return gone
}

// bundleText is the bundle itself: PEM as it is, all else in base64 with or without
// line breaks. What is neither is for Import to speak of.
func bundleText(text string) []byte {
	if strings.Contains(text, "-----BEGIN ") {
		return []byte(text)
	}
	if der, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), "")); err == nil {
		return der
	}
	return []byte(text)
}

type signingInput struct {
	Body struct {
		Name         string   `json:"name" doc:"of the certificate to come: import it under this name"`
		Names        []string `json:"names" minItems:"1" maxItems:"500" nullable:"false" doc:"host names and wildcards that it shall be for"`
		KeyType      string   `json:"keyType,omitempty" enum:"ecdsa,rsa" doc:"ecdsa (P-256), the default, or rsa (2048 bits) for clients that know nothing newer"`
		Organization string   `json:"organization,omitempty" maxLength:"64"`
		Locality     string   `json:"locality,omitempty" maxLength:"128"`
		Province     string   `json:"province,omitempty" maxLength:"128"`
		Country      string   `json:"country,omitempty" pattern:"^[A-Z]{2}$" doc:"two letters, as in NO"`
		Team         string   `json:"team,omitempty" maxLength:"200" doc:"the owner; default the team of its hosts"`
		Replace      bool     `json:"replace,omitempty" doc:"forget an open request of this name with its key; a certificate for that cannot be imported any more"`
	}
}

type signingOutput struct {
	Status int
	Body   CertificateResource
}

// requestSigning makes a key, keeps it, and gives the request to have signed. The same
// asked again gives the same request.
func (s *Server) requestSigning(ctx context.Context, in *signingInput) (*signingOutput, error) {
	c, err := s.certificates()
	if err != nil {
		return nil, err
	}
	p, b := principalOf(ctx), &in.Body
	if err := checkCertificateName(b.Name); err != nil {
		return nil, err
	}
	var names []string
	for i, text := range b.Names {
		bad := func(reason, hint string) error {
			return invalid(Fault{Pointer: fmt.Sprintf("/names/%d", i), Code: "bad_name", Detail: reason, Hint: hint})
		}
		pattern, err := fingerpost.ParseHostPattern(text)
		if err != nil || len(fingerpost.CertificateNames(string(pattern))) != 1 {
			return nil, bad(fmt.Sprintf("%.100q is not a name for a certificate", text), "a host name or a wildcard such as *.shop.example")
		}
		if f := order.CheckName(string(pattern), true); f != nil {
			return nil, bad(f.Reason, f.Hint)
		}
		if !slices.Contains(names, string(pattern)) {
			names = append(names, string(pattern))
		}
	}
	if _, before, err := s.importedBefore(ctx, p, b.Name); err != nil {
		return nil, err
	} else if before != nil && b.Team == "" {
		b.Team = before.Team
	}
	known, err := s.ownRequest(ctx, p, b.Name)
	if err != nil {
		return nil, err
	}
	team, unused, err := s.mayServe(ctx, p, b.Name, b.Team, names)
	if err != nil {
		return nil, err
	}
	if len(unused) > 0 {
		return nil, invalid(Fault{Pointer: "/names", Code: "not_served", Detail: "we do not serve " + few(unused), Hint: "make hosts for these names first, or look at their spelling"})
	}
	q := &openRequest{Names: names, Subject: cert.Subject{Organization: b.Organization, Locality: b.Locality, Province: b.Province, Country: b.Country},
		Team: team, By: p.Name, At: s.now().UTC().Truncate(time.Second)}
	signer, err := cert.NewKey(b.KeyType == "rsa")
	if err != nil {
		return nil, err
	}
	q.KeyType = cert.KeyType(signer.Public())
	if known != nil && !b.Replace && c.opens(b.Name, known.Key) {
		if slices.Equal(known.Names, q.Names) && known.KeyType == q.KeyType && known.Subject == q.Subject {
			return &signingOutput{http.StatusOK, known.resource(b.Name)}, nil
		}
		return nil, problem(http.StatusConflict, "request_open", "there is another open request of the name "+b.Name+", for "+few(known.Names), "import its certificate, choose another name, or say replace: true to forget it with its key")
	}
	csr, err := cert.Request(signer, q.Names, q.Subject)
	if err != nil {
		return nil, err
	}
	key, err := cert.MarshalKey(signer)
	if err != nil {
		return nil, err
	}
	q.CSR, q.Key = string(csr), c.seal(b.Name, key)
	value, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	if _, err := s.Store.Commit(ctx, store.Batch{Actor: p.actor(), Records: []store.Record{{Kind: KindRequest, Key: b.Name, Value: value}}}); err != nil {
		return nil, err
	}
	if err := s.noteCertificate(ctx, p, "request", b.Name, map[string]any{"names": q.Names, "keyType": q.KeyType, "team": q.Team}); err != nil {
		return nil, err
	}
	return &signingOutput{http.StatusCreated, q.resource(b.Name)}, nil
}

// noteCertificate writes into the audit what is done about a certificate and is no change of it.
func (s *Server) noteCertificate(ctx context.Context, p *Principal, action, certificate string, what any) error {
	after := ""
	if what != nil {
		text, err := json.Marshal(what)
		if err != nil {
			return err
		}
		after = string(text)
	}
	return s.Store.Record(ctx, store.Entry{Actor: p.actor(), Action: action, Kind: store.KindCertificate, Key: certificate, After: after})
}
