package admin

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"fingerpost"
	"fingerpost/cert/order"
	"fingerpost/store"
)

// HostCertificateResource is how the names of a host stand with their certificates.
type HostCertificateResource struct {
	Host        string         `json:"host"`
	Certificate string         `json:"certificate" doc:"auto, none, or the name of an imported one"`
	Live        bool           `json:"live" doc:"a certificate is served for each of its names"`
	Names       []NameResource `json:"names" nullable:"false"`
}

// CertificateState is the same in short.
type CertificateState struct {
	State   string    `json:"state" enum:"live,waiting,failed,none"`
	Until   time.Time `json:"until,omitzero" doc:"of live: when the first of its certificates expires"`
	Reason  string    `json:"reason,omitempty" doc:"of waiting and failed"`
	NextTry time.Time `json:"nextTry,omitzero" doc:"of waiting and failed: when it is tried again by itself"`
}

// lookups finds states of names and certificates for them. It remembers what it has
// read: one is for one request.
type lookups struct {
	s      *Server
	c      *Certificates
	states map[string]*order.NameState // nil: nothing is kept of the name
	served map[string][]servedName
	// known says that between two keys all that there is has been read.
	stateFrom, stateTo, servedFrom, servedTo string
}

// servedName says that a certificate of the store is for a name.
type servedName struct {
	certificate string
	from, until time.Time
}

func (s *Server) newLookups(c *Certificates) *lookups {
	return &lookups{s: s, c: c, states: map[string]*order.NameState{}, served: map[string][]servedName{}}
}

// ahead reads what there is of names from one to another in two steps, as far as
// limit goes. The rest is read name by name.
func (l *lookups) ahead(ctx context.Context, from, to string, limit int) error {
	records, err := l.c.Storage.Range(ctx, order.KindName, from, to+" ", limit)
	if err != nil {
		return err
	}
	for _, r := range records {
		if err := l.addState(r.Key, r.Value); err != nil {
			return err
		}
	}
	l.stateFrom, l.stateTo = from, to
	if len(records) == limit {
		l.stateTo = records[limit-1].Key
	}
	items, err := l.s.Store.List(ctx, store.KindServerName, store.Query{After: from, Limit: limit})
	if err != nil {
		return err
	}
	for i := range items {
		if err := l.addServed(&items[i]); err != nil {
			return err
		}
	}
	l.servedFrom, l.servedTo = from+"/", "\U0010FFFF"
	if len(items) == limit {
		last, _, _ := strings.Cut(items[limit-1].Key, "/")
		delete(l.served, last) // there may be more for it
		l.servedTo = last + "/"
	}
	return nil
}

func (l *lookups) addState(name string, value []byte) error {
	st := new(order.NameState)
	if err := json.Unmarshal(value, st); err != nil {
		return err
	}
	l.states[name] = st
	return nil
}

func (l *lookups) addServed(it *store.Item) error {
	name, certificate, _ := strings.Cut(it.Key, "/")
	var v store.ServerName
	if err := json.Unmarshal(it.Value, &v); err != nil {
		return err
	}
	l.served[name] = append(l.served[name], servedName{certificate, time.Unix(v.NotBefore, 0).UTC(), time.Unix(v.NotAfter, 0).UTC()})
	return nil
}

func (l *lookups) state(ctx context.Context, name string) (*order.NameState, error) {
	if st, known := l.states[name]; known || l.stateTo != "" && name >= l.stateFrom && name <= l.stateTo {
		return st, nil
	}
	l.states[name] = nil
	value, err := l.c.Storage.Get(ctx, order.KindName, name)
	if errors.Is(err, order.ErrNoRecord) {
		return nil, nil
	}
	if err == nil {
		err = l.addState(name, value)
	}
	return l.states[name], err
}

func (l *lookups) exactly(ctx context.Context, name string) ([]servedName, error) {
	if found, known := l.served[name]; known || l.servedTo != "" && name+"/" >= l.servedFrom && name+"/" < l.servedTo {
		return found, nil
	}
	items, err := l.s.Store.List(ctx, store.KindServerName, store.Query{Prefix: name + "/"})
	if err != nil {
		return nil, err
	}
	l.served[name] = nil
	for i := range items {
		if err := l.addServed(&items[i]); err != nil {
			return nil, err
		}
	}
	return l.served[name], nil
}

// covering gives all certificates of the store for a name, by itself or by its
// wildcard.
func (l *lookups) covering(ctx context.Context, name string) ([]servedName, error) {
	found, err := l.exactly(ctx, name)
	if wild := wildcardOf(name); err == nil && wild != "" {
		var more []servedName
		more, err = l.exactly(ctx, wild)
		found = append(slices.Clip(found), more...)
	}
	return found, err
}

// live gives the certificate for a name that is valid longest, nil if none is now. One
// for the exact name comes before one of its wildcard, as in handshakes.
func (l *lookups) live(ctx context.Context, name, only string) (*servedName, error) {
	now := l.s.now()
	for _, as := range []string{name, wildcardOf(name)} {
		if as == "" {
			break
		}
		found, err := l.exactly(ctx, as)
		if err != nil {
			return nil, err
		}
		var best *servedName
		for i := range found {
			n := &found[i]
			if !now.Before(n.from) && !now.After(n.until) && (only == "" || n.certificate == only) && (best == nil || n.until.After(best.until)) {
				best = n
			}
		}
		if best != nil {
			return best, nil
		}
	}
	return nil, nil
}

// name tells where a name of a host stands; policy is what the host says of
// certificates.
func (l *lookups) name(ctx context.Context, name, policy string) (NameResource, error) {
	n := NameResource{Name: name}
	only := ""
	switch policy {
	case "none":
		n.Status, n.Reason = StatusInactive, "the host wants no certificate: certificate is none"
		return n, nil
	case "", "auto":
		n.Record = l.c.record(name)
	default:
		only = policy
	}
	best, err := l.live(ctx, name, only)
	if err != nil {
		return n, err
	}
	if best != nil {
		n.Status, n.Certificate, n.NotAfter, n.DaysLeft = StatusIssued, best.certificate, best.until, daysLeft(best.until, l.s.now())
	}
	if best != nil && l.c.Covers != nil && !l.c.Covers(name) {
		n.Status, n.Reason = StatusPending, "its certificate is on its way to the nodes"
		return n, nil
	}
	if only != "" {
		if best == nil && !l.c.covers(name) {
			n.Status, n.Reason, n.NextStep = StatusPending, "the certificate "+only+" is not there, not valid now, or not for this name", "import it, or set the host's certificate to auto"
		} else if best == nil {
			n.Status, n.Reason = StatusIssued, "a certificate of the node's folder is served for it"
		}
		return n, nil
	}
	st, err := l.state(ctx, name)
	if err != nil {
		return n, err
	}
	if st != nil {
		var status string
		status, n.Validation = validationOf(st)
		n.Method, n.Reason, n.NextStep, n.NextTry, n.Link = methodOf(st), st.Sentence, st.NextStep, st.Next, linkOf(ctx, st)
		if best == nil {
			n.Status = status
		}
	}
	switch {
	case n.Status == StatusIssued && best == nil && st != nil:
		// Issued, and not yet, or not any more, in what is served.
		n.Status, n.Reason = StatusPending, "its certificate is on its way to the nodes"
		if !st.NotAfter.IsZero() && l.s.now().After(st.NotAfter) {
			n.Status, n.Reason = StatusExpired, "its certificate expired on "+st.NotAfter.UTC().Format(time.DateOnly)
		}
	case n.Status != "":
	case l.c.covers(name):
		n.Status, n.Reason = StatusIssued, "a certificate of the node's folder is served for it"
	case l.c.Ask == nil:
		n.Status, n.Reason, n.NextStep = StatusPending, "there is no certificate for it, and no CA is set up", "import a certificate for it, or set acme in the configuration"
	default:
		n.Status, n.Reason, n.NextStep = StatusPending, "nothing has been done about it yet", "it is taken up by itself within seconds"
	}
	return n, nil
}

// host tells where all names of a host stand.
func (l *lookups) host(ctx context.Context, h *fingerpost.Host) (HostCertificateResource, error) {
	r := HostCertificateResource{Host: h.Name, Certificate: h.Certificate, Live: true, Names: []NameResource{}}
	if r.Certificate == "" {
		r.Certificate = "auto"
	}
	for _, name := range h.CertificateNames() {
		n, err := l.name(ctx, name, h.Certificate)
		if err != nil {
			return r, err
		}
		r.Live = r.Live && n.Status == StatusIssued
		r.Names = append(r.Names, n)
	}
	r.Live = r.Live && len(r.Names) > 0
	return r, nil
}

// short is the same in one line: that of the name that is worst off.
func (r *HostCertificateResource) short() *CertificateState {
	state := &CertificateState{State: "none"}
	if r.Certificate == "none" || len(r.Names) == 0 {
		return state
	}
	state.State = "live"
	for i := range r.Names {
		n := &r.Names[i]
		switch {
		case n.Status == StatusIssued && state.State == "live":
			if state.Until.IsZero() || !n.NotAfter.IsZero() && n.NotAfter.Before(state.Until) {
				state.Until = n.NotAfter
			}
		case n.Status == StatusIssued:
		case state.State != "failed":
			word := "waiting"
			if n.Status == StatusFailed || n.Status == StatusTimedOut || n.Status == StatusExpired {
				word = "failed"
			}
			if word == "waiting" && state.State == "waiting" {
				continue
			}
			*state = CertificateState{State: word, Reason: n.Reason, NextTry: n.NextTry}
			if len(r.Names) > 1 {
				state.Reason = n.Name + ": " + n.Reason
			}
		}
	}
	return state
}

// addStates adds to hosts how their certificates stand: in a few reads for a page,
// and one more for a name that is elsewhere in the order of names.
func (s *Server) addStates(ctx context.Context, hosts []HostResource) error {
	if s.Certificates == nil || len(hosts) == 0 {
		return nil
	}
	l := s.newLookups(s.Certificates)
	if len(hosts) > 1 {
		if err := l.ahead(ctx, hosts[0].Name, hosts[len(hosts)-1].Name, 3*len(hosts)); err != nil {
			return err
		}
	}
	for i := range hosts {
		h := hosts[i].Host
		h.Name = hosts[i].Name
		r, err := l.host(ctx, &h)
		if err != nil {
			return err
		}
		hosts[i].CertificateState = r.short()
	}
	return nil
}

// hostOrRules gives a host; where there is none, one without settings for a name that
// redirects or a wildcard host answer for.
func (s *Server) hostOrRules(ctx context.Context, in *HostInput) (*fingerpost.Host, string, error) {
	name, err := in.pattern()
	if err != nil {
		return nil, "", err
	}
	it, err := s.get(ctx, store.KindHost, string(name))
	if err != nil {
		return nil, "", err
	}
	if it != nil {
		h, err := it.Host()
		return h, it.Team, err
	}
	u, err := s.servedAs(ctx, string(name))
	if err != nil {
		return nil, "", err
	}
	if u == nil {
		return nil, "", problem(http.StatusNotFound, "not_found", "host "+string(name)+": not found", "no certificate is got for a name that we do not serve; make the host first: PUT hosts/{host}")
	}
	return &fingerpost.Host{Name: string(name)}, u.team, nil
}

type hostCertificateOutput struct {
	Status int
	Body   HostCertificateResource
}

func (s *Server) getHostCertificate(ctx context.Context, in *HostInput) (*hostCertificateOutput, error) {
	c, err := s.certificates()
	if err != nil {
		return nil, err
	}
	h, _, err := s.hostOrRules(ctx, in)
	if err != nil {
		return nil, err
	}
	r, err := s.newLookups(c).host(ctx, h)
	return &hostCertificateOutput{http.StatusOK, r}, err
}

// ProbeResource lets somebody find out whether one of our nodes answers for a host.
type ProbeResource struct {
	Path   string `json:"path" doc:"to ask for over http, with the host's name"`
	Answer string `json:"answer" doc:"the body of the answer, with status 200, of every node of this cluster and no other server"`
}

type probeOutput struct{ Body ProbeResource }

// probeHost gives what anybody may ask a node for, so it tells nothing that is secret.
func (s *Server) probeHost(_ context.Context, in *HostInput) (*probeOutput, error) {
	c, err := s.certificates()
	if err != nil {
		return nil, err
	}
	name, err := in.pattern()
	if err != nil {
		return nil, err
	}
	if name.IsWildcard() || name == "*" {
		return nil, invalidParameter("host", string(name)+" cannot be asked for by itself", "a name below it")
	}
	path, answer := c.Probe(string(name))
	return &probeOutput{ProbeResource{path, answer}}, nil
}

// requestHostCertificate has all names of a host checked and ordered now, whatever
// they waited for.
func (s *Server) requestHostCertificate(ctx context.Context, in *HostInput) (*hostCertificateOutput, error) {
	h, team, err := s.hostOrRules(ctx, in)
	if err != nil {
		return nil, err
	}
	if h.Name == "*" {
		team = ""
	}
	if err := authorize(principalOf(ctx), Write, team); err != nil {
		return nil, err
	}
	c, err := s.asking()
	if err != nil {
		return nil, err
	}
	switch names := h.CertificateNames(); {
	case h.Certificate != "" && h.Certificate != "auto":
		return nil, problem(http.StatusConflict, "not_automatic", "the host "+h.Name+" has certificate: "+h.Certificate, "set its certificate to auto to have one ordered")
	case len(names) == 0:
		return nil, problem(http.StatusConflict, "no_names", "no certificate can be for "+h.Name, "make a host for each name, or a wildcard below a domain")
	default:
		for _, name := range names {
			if err := c.Ask(ctx, Ask{Do: AskRequest, Name: name}); err != nil {
				return nil, err
			}
		}
	}
	r, err := s.newLookups(c).host(ctx, h)
	return &hostCertificateOutput{http.StatusAccepted, r}, err
}
