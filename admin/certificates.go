package admin

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"fingerpost"
	"fingerpost/cert"
	"fingerpost/cert/order"
	"fingerpost/cert/planner"
	"fingerpost/store"
)

// Certificates is what the API needs to know and have done about certificates. All
// functions may be called at once.
type Certificates struct {
	// Storage has what is remembered of the names that certificates are ordered for:
	// order.NameState, and order.Certificate for when they are renewed.
	Storage order.Storage
	// Sealer seals and opens private keys.
	Sealer *cert.Sealer
	// Roots are the CAs that clients know; nil for those that this machine trusts.
	Roots *x509.CertPool
	// CNAME is the record to set once, so that a name can be validated over DNS: owner
	// and target with their final dots. Nil without a validation zone.
	CNAME func(name string) (owner, target string, err error)
	// Ask has the node that orders do something, whichever it is. On nil it will be
	// done, even if that node dies. Nil where nothing is ordered: there is no CA.
	Ask func(context.Context, Ask) error
	// Cost is what it takes of a CA's limits to add a name to a certificate.
	// ErrElsewhere: another node orders, and it alone knows.
	Cost func(ctx context.Context, certificate, name string) (planner.Cost, error)
	// Probe is what every node of the cluster, and no other server, answers for a host
	// over HTTP at a path that nobody has asked for before.
	Probe func(host string) (path, answer string)
	// Naming finds the hosts that a certificate for names may be served for, by their own
	// names or further ones, and those whose settings name it: these, and maybe more, as
	// of all that was committed before. alone are names that only redirects have, where a
	// wildcard is for them. Nil: all hosts of the store are read.
	Naming func(ctx context.Context, certificate string, names []string) (hosts []store.Item, alone []string, err error)
	// Covers reports whether a certificate within its dates is served for a host, be it
	// of the store or of a folder. Nil for no.
	Covers func(host string) bool
}

// ErrElsewhere says that another node orders certificates.
var ErrElsewhere = errors.New("another node orders certificates")

// Ask is something for the node that orders certificates.
type Ask = order.Ask

// What can be asked.
const (
	AskRequest = order.AskRequest
	AskRenew   = order.AskRenew
	AskAddName = order.AskAddName
	AskGone    = order.AskGone
)

// The status of a certificate, or of a name on its way to one.
const (
	StatusPending  = "pending_validation"
	StatusIssued   = "issued"
	StatusInactive = "inactive"
	StatusExpired  = "expired"
	StatusTimedOut = "validation_timed_out"
	StatusRevoked  = "revoked"
	StatusFailed   = "failed"
)

// CertificateResource is a certificate as the API shows it; or a name that waits for
// one, or a request whose certificate was not imported yet.
type CertificateResource struct {
	Name      string              `json:"name" doc:"of the certificate; for a name that waits, that name"`
	Type      string              `json:"type" enum:"acme,imported"`
	Status    string              `json:"status" enum:"pending_validation,issued,inactive,expired,validation_timed_out,revoked,failed" doc:"inactive: not valid yet, or another has taken its place"`
	Reason    string              `json:"reason,omitempty" doc:"why it is not issued, in plain words"`
	NextStep  string              `json:"nextStep,omitempty" doc:"what comes next, by us or by you"`
	NextTry   time.Time           `json:"nextTry,omitzero"`
	Team      string              `json:"team,omitempty" doc:"the owner; empty: the admin of every team"`
	Names     []NameResource      `json:"names" nullable:"false" doc:"what it is for; in a list only name and record of each"`
	KeyType   string              `json:"keyType,omitempty" doc:"as in ECDSA P-256"`
	Issuer    string              `json:"issuer,omitempty"`
	Serial    string              `json:"serial,omitempty" doc:"hexadecimal"`
	NotBefore time.Time           `json:"notBefore,omitzero"`
	NotAfter  time.Time           `json:"notAfter,omitzero"`
	DaysLeft  *int                `json:"daysLeft,omitempty" doc:"whole days; below 0 once it has expired"`
	CA        string              `json:"ca,omitempty" doc:"the CA that it was ordered from"`
	Profile   string              `json:"profile,omitempty" doc:"of the CA"`
	Renewal   *CertificateRenewal `json:"renewal,omitempty"`
	InUse     []string            `json:"inUse,omitempty" doc:"the first hosts that it is served for, 100 at most; only where one certificate is asked for"`
	InUseBy   int                 `json:"inUseBy,omitempty" doc:"how many hosts it is served for; only where one certificate is asked for"`
	Request   string              `json:"request,omitempty" doc:"the signing request (PEM) of a certificate that was not imported yet"`
	Rev       int64               `json:"rev,omitempty" doc:"the revision of its last change; its ETag"`
	Since     time.Time           `json:"since,omitzero" doc:"when it first appeared"`
}

// CertificateRenewal says whether and when it is renewed by itself.
type CertificateRenewal struct {
	Eligible bool      `json:"eligible"`
	Status   string    `json:"status,omitempty" enum:"scheduled,pending_auto_renewal,pending_validation,failed"`
	Reason   string    `json:"reason,omitempty"`
	At       time.Time `json:"at,omitzero" doc:"when it begins, about"`
}

// NameResource is a name with its way to a certificate.
type NameResource struct {
	Name        string          `json:"name"`
	Status      string          `json:"status,omitempty" enum:"pending_validation,issued,inactive,expired,validation_timed_out,revoked,failed"`
	Validation  string          `json:"validation,omitempty" enum:"pending,success,failed,timed_out" doc:"absent for imported certificates"`
	Method      string          `json:"method,omitempty" doc:"how it is validated: dns-01, dns-01-provider (through the DNS provider of the domain), http-01, tls-alpn-01 or dns-persist-01"`
	Record      *RecordResource `json:"record,omitempty" doc:"to be set once, so that it can be validated over DNS; absent without a validation zone"`
	Reason      string          `json:"reason,omitempty" doc:"where it stands, in plain words"`
	NextStep    string          `json:"nextStep,omitempty" doc:"what comes next, by us or by you"`
	NextTry     time.Time       `json:"nextTry,omitzero"`
	Link        string          `json:"link,omitempty" doc:"where you lift the pause that the CA has put on it; only for those who may change its host"`
	Certificate string          `json:"certificate,omitempty" doc:"the one that is served for it"`
	NotAfter    time.Time       `json:"notAfter,omitzero"`
	DaysLeft    *int            `json:"daysLeft,omitempty"`
}

// RecordResource is a DNS record.
type RecordResource struct {
	Name  string `json:"name" doc:"with its final dot"`
	Type  string `json:"type" enum:"CNAME"`
	Value string `json:"value"`
}

// certificates gives what the wiring has handed in, or the problem that it has not.
func (s *Server) certificates() (*Certificates, error) {
	if s.Certificates == nil {
		return nil, problem(http.StatusNotImplemented, "no_certificates", "this node manages no certificates", "ask a control node; files in the folder of certificates.dir are served as they are")
	}
	return s.Certificates, nil
}

// asking gives the same where certificates are ordered.
func (s *Server) asking() (*Certificates, error) {
	c, err := s.certificates()
	if err == nil && c.Ask == nil {
		err = problem(http.StatusNotImplemented, "no_ca", "no CA is set up here, so nothing can be ordered", "set acme in the configuration, or import a certificate")
	}
	return c, err
}

func (c *Certificates) covers(name string) bool { return c.Covers != nil && c.Covers(name) }

func (c *Certificates) record(name string) *RecordResource {
	if c.CNAME == nil {
		return nil
	}
	owner, target, err := c.CNAME(name)
	if err != nil { // too long for the zone: it is validated over HTTP
		return nil
	}
	return &RecordResource{Name: owner, Type: "CNAME", Value: target}
}

func daysLeft(until, now time.Time) *int {
	n := int(math.Floor(until.Sub(now).Hours() / 24))
	return &n
}

// describeCertificate shows what an item says by itself.
func (c *Certificates) describe(it *store.Item, now time.Time) (CertificateResource, *fingerpost.Certificate, error) {
	v, err := it.Certificate()
	if err != nil {
		return CertificateResource{}, nil, err
	}
	r := CertificateResource{Name: v.Name, Type: v.Type, Status: StatusIssued, Team: v.Team, Names: []NameResource{}, KeyType: v.KeyType, Issuer: v.Issuer, Serial: v.Serial,
		NotBefore: v.NotBefore, NotAfter: v.NotAfter, DaysLeft: daysLeft(v.NotAfter, now), CA: v.CA, Profile: v.Profile, Rev: it.Rev, Since: it.Since}
	switch {
	case now.After(v.NotAfter):
		r.Status, r.Reason = StatusExpired, "it expired on "+v.NotAfter.UTC().Format(time.DateOnly)
		if v.Type == fingerpost.Imported {
			r.NextStep = "import its successor under the same name"
		}
	case !v.Revoked.IsZero():
		describeRevoked(&r, v)
	case now.Before(v.NotBefore):
		r.Status, r.Reason = StatusInactive, "it is not valid before "+v.NotBefore.UTC().Format(time.DateOnly)
	}
	for _, name := range v.Names {
		n := NameResource{Name: name}
		if v.Type == fingerpost.ACME {
			n.Record = c.record(name)
		}
		r.Names = append(r.Names, n)
	}
	return r, v, nil
}

// validationOf says in ACM's words where a name stands.
func validationOf(st *order.NameState) (status, validation string) {
	switch st.State {
	case planner.Live:
		return StatusIssued, "success"
	case planner.Failed:
		if st.Failure == nil || st.Failure.Code == "notHere" || st.Failure.Code == "unsure" {
			return StatusPending, "pending" // its DNS was not found right yet; no CA was asked
		}
		return StatusFailed, "failed"
	case planner.Paused:
		return StatusTimedOut, "timed_out"
	case planner.Blocked:
		return StatusFailed, "failed"
	}
	return StatusPending, "pending"
}

func methodOf(st *order.NameState) string {
	if st.Failure != nil && st.Failure.Method != "" {
		return st.Failure.Method
	}
	if len(st.Methods) > 0 {
		return st.Methods[0]
	}
	return ""
}

// linkOf is where a person lifts a CA's pause. It works for whoever has it, so it is
// shown to those alone who may change the host.
func linkOf(ctx context.Context, st *order.NameState) string {
	if st.Failure == nil || authorize(principalOf(ctx), Settings, st.Policy.Team) != nil {
		return ""
	}
	return st.Failure.URL
}

// waiting shows a name that has no certificate yet.
func (c *Certificates) waiting(ctx context.Context, name string, st *order.NameState) CertificateResource {
	r := CertificateResource{Name: name, Type: fingerpost.ACME, Team: st.Policy.Team, Profile: st.Policy.Profile, Reason: st.Sentence, NextStep: st.NextStep, NextTry: st.Next}
	n := NameResource{Name: name, Record: c.record(name), Method: methodOf(st), Link: linkOf(ctx, st)}
	r.Status, n.Validation = validationOf(st)
	n.Status = r.Status
	r.Names = []NameResource{n}
	return r
}

type listCertificatesInput struct {
	PageInput
	Status string `query:"status" enum:"pending_validation,issued,inactive,expired,validation_timed_out,revoked,failed" doc:"only those of this status"`
	Team   string `query:"team" doc:"only those of this team"`
	Name   string `query:"name" doc:"only those for this host name, wildcards among them"`
}

type certificatesOutput struct{ Body *Page[CertificateResource] }

// listed is an entry of the list, with its place in it.
type listed struct {
	key string
	CertificateResource
}

// listCertificates lists certificates, then names that wait for one, then requests
// whose certificate was not imported.
func (s *Server) listCertificates(ctx context.Context, in *listCertificatesInput) (*certificatesOutput, error) {
	c, err := s.certificates()
	if err != nil {
		return nil, err
	}
	list := listName("certificates", in.Status, in.Team, in.Name)
	after, err := readCursor(list, in.Cursor)
	if err != nil {
		return nil, err
	}
	keep := func(r *CertificateResource) bool {
		return (in.Status == "" || r.Status == in.Status) && (in.Team == "" || r.Team == in.Team) && (in.Name == "" || anyCovers(namesOf(r), in.Name))
	}
	sections := []func(after string, limit int) (entries []listed, looked int, last string, err error){
		func(after string, limit int) ([]listed, int, string, error) {
			if in.Name != "" {
				return s.certificatesFor(ctx, c, in.Name, after)
			}
			return s.storedCertificates(ctx, c, store.Query{After: after, Team: in.Team, Limit: limit})
		},
		func(after string, limit int) ([]listed, int, string, error) {
			if in.Name != "" {
				return s.waitingName(ctx, c, in.Name, after)
			}
			return s.waitingNames(ctx, c, after, limit)
		},
		func(after string, limit int) ([]listed, int, string, error) { return s.openRequests(ctx, after, limit) },
	}
	section, key := 0, ""
	if after != "" {
		if section = int(after[0] - '0'); section >= len(sections) || len(after) < 2 {
			return nil, invalidParameter("cursor", "it is not a cursor", "leave it out for the first page")
		}
		key = after[2:]
	}
	out := &Page[CertificateResource]{Items: []CertificateResource{}}
	batch := 1000
	if in.Status == "" && in.Team == "" {
		batch = in.Limit + 1
	}
	for looked := 0; section < len(sections); {
		entries, n, last, err := sections[section](key, batch)
		if err != nil {
			return nil, err
		}
		for i := range entries {
			if !keep(&entries[i].CertificateResource) {
				continue
			}
			if len(out.Items) == in.Limit {
				out.Next = cursorOf(list, string(rune('0'+section))+"/"+key)
				return &certificatesOutput{out}, nil
			}
			key = entries[i].key
			out.Items = append(out.Items, entries[i].CertificateResource)
		}
		if key = last; n < batch {
			section, key = section+1, ""
		}
		if looked += n; looked >= lookedAt && section < len(sections) {
			out.Next = cursorOf(list, string(rune('0'+section))+"/"+key)
			break
		}
	}
	return &certificatesOutput{out}, nil
}

func namesOf(r *CertificateResource) []string {
	names := make([]string, len(r.Names))
	for i := range r.Names {
		names[i] = r.Names[i].Name
	}
	return names
}

func (s *Server) storedCertificates(ctx context.Context, c *Certificates, q store.Query) (entries []listed, looked int, last string, err error) {
	items, err := s.Store.List(ctx, store.KindCertificate, q)
	if err != nil {
		return nil, 0, "", err
	}
	for i := range items {
		r, _, err := c.describe(&items[i], s.now())
		if err != nil {
			return nil, 0, "", err
		}
		last = items[i].Key
		entries = append(entries, listed{last, r})
	}
	return entries, len(items), last, nil
}

// certificatesFor gives the few that are for one name, each once.
func (s *Server) certificatesFor(ctx context.Context, c *Certificates, name, after string) (entries []listed, looked int, last string, err error) {
	l := s.newLookups(c)
	found, err := l.covering(ctx, name)
	if err != nil {
		return nil, 0, "", err
	}
	found = slices.SortedFunc(slices.Values(found), func(a, b servedName) int { return strings.Compare(a.certificate, b.certificate) })
	for i, n := range found {
		if n.certificate <= after || i > 0 && n.certificate == found[i-1].certificate { // by the name and by its wildcard
			continue
		}
		it, err := s.get(ctx, store.KindCertificate, n.certificate)
		if err != nil {
			return nil, 0, "", err
		}
		if it == nil {
			continue
		}
		r, _, err := c.describe(it, s.now())
		if err != nil {
			return nil, 0, "", err
		}
		entries = append(entries, listed{it.Key, r})
	}
	return entries, 0, "", nil
}

func (s *Server) waitingNames(ctx context.Context, c *Certificates, after string, limit int) (entries []listed, looked int, last string, err error) {
	from := ""
	if after != "" {
		from = after + " " // the next text behind it: no name has what sorts lower
	}
	records, err := c.Storage.Range(ctx, order.KindName, from, "", limit)
	if err != nil {
		return nil, 0, "", err
	}
	for _, r := range records {
		last = r.Key
		var st order.NameState
		if err := json.Unmarshal(r.Value, &st); err != nil {
			return nil, 0, "", err
		}
		if st.Certificate == "" {
			entries = append(entries, listed{r.Key, c.waiting(ctx, r.Key, &st)})
		}
	}
	return entries, len(records), last, nil
}

func (s *Server) waitingName(ctx context.Context, c *Certificates, name, after string) (entries []listed, looked int, last string, err error) {
	if name <= after {
		return nil, 0, "", nil
	}
	st, err := order.State(ctx, c.Storage, name)
	if errors.Is(err, order.ErrNoRecord) || err == nil && st.Certificate != "" {
		return nil, 0, "", nil
	}
	return []listed{{name, c.waiting(ctx, name, &st)}}, 0, "", err
}

// CertificateInput names one certificate.
type CertificateInput struct {
	Name string `path:"name" doc:"of the certificate, as the list has it"`
}

type certificateOutput struct {
	Status int
	ETag   string `header:"ETag"`
	Body   CertificateResource
}

// CertificateOrHostInput names a certificate by itself or by a host.
type CertificateOrHostInput struct {
	Name string `path:"name" doc:"of the certificate, as the list has it, or of a host that it is served for"`
}

// getCertificate gives a certificate; or, under its name, a name that waits for one
// or a request.
func (s *Server) getCertificate(ctx context.Context, in *CertificateOrHostInput) (*certificateOutput, error) {
	c, err := s.certificates()
	if err != nil {
		return nil, err
	}
	r, err := s.certificateResource(ctx, c, in.Name)
	if err != nil {
		return nil, err
	}
	out := &certificateOutput{Status: http.StatusOK, Body: *r}
	if r.Rev != 0 {
		out.ETag = entityTag(r.Rev)
	}
	return out, nil
}

func (s *Server) certificateResource(ctx context.Context, c *Certificates, name string) (*CertificateResource, error) {
	it, err := s.get(ctx, store.KindCertificate, name)
	if err != nil {
		return nil, err
	}
	if it == nil {
		return s.notIssued(ctx, c, name)
	}
	r, v, err := c.describe(it, s.now())
	if err != nil {
		return nil, err
	}
	uses, err := s.usesOf(ctx, v.Name, v.Names, false)
	if err != nil {
		return nil, err
	}
	r.InUse = hostsOf(uses)
	r.InUseBy = len(r.InUse)
	r.InUse = r.InUse[:min(len(r.InUse), mostHosts)]
	if v.Type == fingerpost.Imported {
		r.Renewal = &CertificateRenewal{Reason: "it was imported: import its successor under the same name"}
		return &r, nil
	}
	return &r, s.showRenewal(ctx, c, &r)
}

func (s *Server) notIssued(ctx context.Context, c *Certificates, name string) (*CertificateResource, error) {
	q, err := s.openRequest(ctx, name)
	if err != nil {
		return nil, err
	}
	if q != nil {
		r := q.resource(name)
		return &r, nil
	}
	st, err := order.State(ctx, c.Storage, name)
	missing := errors.Is(err, order.ErrNoRecord)
	switch {
	case err != nil && !missing:
		return nil, err
	case missing || st.Certificate != "": // it may be a host with a certificate
		live, err := s.newLookups(c).live(ctx, name, "")
		if err != nil {
			return nil, err
		}
		if live != nil && live.certificate != name {
			return s.certificateResource(ctx, c, live.certificate)
		}
	}
	if missing {
		return nil, problem(http.StatusNotFound, "not_found", "certificate "+name+": not found", "GET /api/v1/certificates lists them; of a host, see GET hosts/{host}/certificate")
	}
	r := c.waiting(ctx, name, &st)
	return &r, nil
}

// showRenewal adds where the names of an ordered certificate stand, and when it is
// renewed.
func (s *Server) showRenewal(ctx context.Context, c *Certificates, r *CertificateResource) error {
	now := s.now()
	r.Renewal = &CertificateRenewal{Eligible: true, Status: "scheduled", At: renewAt(r, nil)}
	value, err := c.Storage.Get(ctx, order.KindCertificate, r.Name)
	if err == nil {
		var known order.Certificate
		if err := json.Unmarshal(value, &known); err != nil {
			return err
		}
		if r.Renewal.At = renewAt(r, &known.Window); known.Replaced {
			r.Renewal = &CertificateRenewal{Reason: "another certificate has taken its place"}
			if r.Status == StatusIssued {
				r.Status, r.Reason = StatusInactive, "another certificate has taken its place"
			}
		}
		if r.Renewal.Eligible && !known.Revoked.IsZero() {
			r.Renewal.At = known.Revoked
		}
	} else if !errors.Is(err, order.ErrNoRecord) {
		return err
	}
	if r.Renewal.Eligible && now.After(r.Renewal.At) {
		r.Renewal.Status = "pending_auto_renewal"
	}
	for i := range r.Names {
		n := &r.Names[i]
		st, err := order.State(ctx, c.Storage, n.Name)
		if errors.Is(err, order.ErrNoRecord) {
			n.Validation, n.Status, n.Reason = "success", r.Status, "no host needs it any more: the next renewal leaves it out"
			continue
		}
		if err != nil {
			return err
		}
		_, n.Validation = validationOf(&st)
		n.Status, n.Method, n.Reason, n.NextStep, n.NextTry, n.Link = r.Status, methodOf(&st), st.Sentence, st.NextStep, st.Next, linkOf(ctx, &st)
		if st.State == planner.Ordered && st.Certificate == r.Name {
			n.Validation = "pending"
		}
		if !r.Renewal.Eligible || st.Certificate != r.Name {
			continue
		}
		switch n.Validation {
		case "failed", "timed_out":
			r.Renewal.Status, r.Renewal.Reason = "failed", n.Name+": "+n.Reason
		case "pending":
			if r.Renewal.Status != "failed" && (st.State == planner.Failed || r.Renewal.Status == "pending_auto_renewal") {
				r.Renewal.Status, r.Renewal.Reason = "pending_validation", n.Name+": "+n.Reason
			}
		}
	}
	return nil
}

// renewAt is when a renewal begins, by what the CA said or else by the dates, as
// package planner has it.
func renewAt(r *CertificateResource, w *planner.Window) time.Time {
	if w != nil && !w.Start.IsZero() {
		return w.Start
	}
	life := r.NotAfter.Sub(r.NotBefore)
	if life < 10*24*time.Hour {
		return r.NotAfter.Add(-life / 2)
	}
	return r.NotAfter.Add(-life / 3)
}

// mostHosts is how many hosts of a certificate are listed.
const mostHosts = 100

// A use is a name that a host answers for, and that a certificate is for.
type use struct {
	name, host, team string
	named            bool // the host's settings name the certificate
}

// usesOf finds the hosts that a certificate for names serves, or that name it; with
// everyHost also those that want another one, or none.
func (s *Server) usesOf(ctx context.Context, certificate string, names []string, everyHost bool) ([]use, error) {
	hosts, alone, err := s.naming(ctx, certificate, names)
	if err != nil {
		return nil, err
	}
	var uses []use
	used := map[string]bool{}
	wanted := setOf(names)
	for i := range hosts {
		it := &hosts[i]
		h, err := it.Host()
		if err != nil {
			return nil, err
		}
		mine := h.Certificate == certificate && certificate != ""
		if !everyHost && !mine && h.Certificate != "" && h.Certificate != "auto" {
			continue
		}
		served := false
		for _, name := range h.CertificateNames() {
			if by, ok := coveredBy(wanted, name); ok {
				used[by], served = true, true
				uses = append(uses, use{name, h.Name, it.Team, mine})
			}
		}
		if mine && !served {
			uses = append(uses, use{h.Name, h.Name, it.Team, true})
		}
	}
	owners := NewOwners(s.Store)
	for _, name := range alone {
		team, err := owners.Of(ctx, fingerpost.HostPattern(name))
		if err != nil {
			return nil, err
		}
		if by, ok := coveredBy(wanted, name); ok {
			used[by] = true
			uses = append(uses, use{name: name, host: name, team: team})
		}
	}
	for _, name := range names { // below a wildcard host, or of redirects alone
		if used[name] {
			continue
		}
		u, err := s.servedAs(ctx, name)
		if err != nil {
			return nil, err
		}
		if u != nil {
			uses = append(uses, *u)
		}
	}
	return uses, nil
}

// naming is Certificates.Naming, or what stands for it.
func (s *Server) naming(ctx context.Context, certificate string, names []string) (hosts []store.Item, alone []string, err error) {
	if s.Certificates != nil && s.Certificates.Naming != nil {
		return s.Certificates.Naming(ctx, certificate, names)
	}
	hosts, err = s.Store.List(ctx, store.KindHost, store.Query{})
	return hosts, nil, err
}

// servedAs finds what answers for a name that is no host's own: a wildcard host above
// it, or redirects. Nil: nothing does.
func (s *Server) servedAs(ctx context.Context, name string) (*use, error) {
	pattern, err := fingerpost.ParseHostPattern(name)
	if err != nil || name == "*" {
		return nil, nil // an address, or what only a certificate has
	}
	for _, host := range above(pattern) {
		it, err := s.get(ctx, store.KindHost, string(host))
		if err != nil {
			return nil, err
		}
		if it != nil {
			return &use{name: name, host: it.Key, team: it.Team}, nil
		}
	}
	rules, err := s.Store.List(ctx, store.KindRedirect, store.Query{Prefix: string(pattern) + "/", Limit: 1})
	if err != nil || len(rules) == 0 {
		return nil, err
	}
	return &use{name: name, host: name}, nil
}

func hostsOf(uses []use) []string {
	var hosts []string
	for _, u := range uses {
		hosts = append(hosts, u.host)
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

func setOf(names []string) map[string]bool {
	set := make(map[string]bool, len(names))
	for _, name := range names {
		set[name] = true
	}
	return set
}

// coveredBy finds which of a certificate's names is for name.
func coveredBy(names map[string]bool, name string) (by string, ok bool) {
	if names[name] {
		return name, true
	}
	if wild := wildcardOf(name); wild != "" && names[wild] {
		return wild, true
	}
	return "", false
}

func anyCovers(names []string, name string) bool {
	_, ok := coveredBy(setOf(names), name)
	return ok
}

// wildcardOf is the wildcard that covers a name, empty for a wildcard and where there
// can be none.
func wildcardOf(name string) string {
	label, parent, ok := strings.Cut(name, ".")
	if !ok || label == "*" || label == "" || strings.HasPrefix(name, "[") {
		return ""
	}
	return "*." + parent
}
