package admin

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/csv"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"fingerpost"
	"fingerpost/cert"
	"fingerpost/cert/order"
	"fingerpost/cert/planner"
	"fingerpost/store"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// certificate gives one that is there, if p may change it.
func (s *Server) certificate(ctx context.Context, p *Principal, name string) (*store.Item, *fingerpost.Certificate, error) {
	it, err := s.Store.Get(ctx, store.KindCertificate, name)
	if err != nil {
		return nil, nil, err
	}
	if err := authorize(p, Settings, it.Team); err != nil {
		return nil, nil, err
	}
	v, err := it.Certificate()
	return &it, v, err
}

// ordered gives one that was ordered from a CA, if p may change it, where it can be
// ordered again.
func (s *Server) ordered(ctx context.Context, p *Principal, name string) (*Certificates, *fingerpost.Certificate, error) {
	if _, err := s.certificates(); err != nil {
		return nil, nil, err
	}
	_, v, err := s.certificate(ctx, p, name)
	if err != nil {
		return nil, nil, err
	}
	if v.Type != fingerpost.ACME {
		return nil, nil, problem(http.StatusConflict, "imported", "the certificate "+name+" was imported, and no CA of ours can issue it again", "have a new one issued, and import it under the same name")
	}
	c, err := s.asking()
	return c, v, err
}

// renewCertificate begins a renewal now. What is served stays until the new one is
// there.
func (s *Server) renewCertificate(ctx context.Context, in *CertificateInput) (*certificateOutput, error) {
	p := principalOf(ctx)
	c, _, err := s.ordered(ctx, p, in.Name)
	if err != nil {
		return nil, err
	}
	if err := c.Ask(ctx, Ask{Do: AskRenew, Certificate: in.Name}); err != nil {
		return nil, err
	}
	if err := s.noteCertificate(ctx, p, "renew", in.Name, nil); err != nil {
		return nil, err
	}
	r, err := s.certificateResource(ctx, c, in.Name)
	if err != nil {
		return nil, err
	}
	return &certificateOutput{Status: http.StatusAccepted, ETag: entityTag(r.Rev), Body: *r}, nil
}

type addNameInput struct {
	CertificateInput
	DryRun bool `query:"dryRun" doc:"only tell what it costs"`
	Body   struct {
		Name string `json:"name" doc:"a host name or a wildcard"`
	}
}

// CostResource is what adding a name takes of the limits of a CA.
type CostResource struct {
	Certificate string        `json:"certificate"`
	Name        string        `json:"name"`
	Asked       bool          `json:"asked" doc:"it was asked for; false for a dry run"`
	Unknown     bool          `json:"unknown,omitempty" doc:"another node orders certificates, and it alone knows: what follows is not known"`
	Free        bool          `json:"free" doc:"the certificate is due for renewal anyway, and the CA counts nothing"`
	Orders      int           `json:"orders" doc:"new orders that it uses"`
	OrdersLeft  int           `json:"ordersLeft" doc:"new orders that the account could open now; -1 without a limit"`
	Domains     []DomainCount `json:"domains,omitempty" doc:"each registered domain of the certificate is charged once more"`
	At          time.Time     `json:"at,omitzero" doc:"when it can be ordered"`
	Reason      string        `json:"reason" doc:"all of this in a sentence"`
}

// DomainCount is how many certificates a CA has counted for a registered domain.
type DomainCount struct {
	Domain string `json:"domain"`
	Used   int    `json:"used"`
	Limit  int    `json:"limit"`
}

func costResource(c *planner.Cost) CostResource {
	r := CostResource{Certificate: c.Certificate, Name: c.Name, Free: c.Free, Orders: c.Orders, OrdersLeft: c.OrdersLeft, At: c.At, Reason: c.Reason}
	for _, d := range c.Domains {
		r.Domains = append(r.Domains, DomainCount(d))
	}
	return r
}

type costOutput struct {
	Status int
	Body   CostResource
}

// addCertificateName orders a certificate again with one name more.
func (s *Server) addCertificateName(ctx context.Context, in *addNameInput) (*costOutput, error) {
	p := principalOf(ctx)
	c, v, err := s.ordered(ctx, p, in.Name)
	if err != nil {
		return nil, err
	}
	pattern, err := fingerpost.ParseHostPattern(in.Body.Name)
	name := string(pattern)
	if err != nil || len(fingerpost.CertificateNames(string(pattern))) != 1 {
		return nil, invalid(Fault{Pointer: "/name", Code: "bad_name", Detail: fmt.Sprintf("%.100q is not a name for a certificate", in.Body.Name), Hint: "a host name or a wildcard such as *.shop.example"})
	}
	if slices.Contains(v.Names, name) {
		return nil, problem(http.StatusConflict, "has_name", "the certificate "+in.Name+" is for "+name+" already", "GET hosts/{host}/certificate says how the name stands")
	}
	if _, _, err := s.mayServe(ctx, p, in.Name, v.Team, []string{name}); err != nil {
		return nil, err
	}
	cost, err := c.Cost(ctx, in.Name, name)
	out := &costOutput{http.StatusOK, costResource(&cost)}
	switch {
	case errors.Is(err, ErrElsewhere):
		out.Body = CostResource{Certificate: in.Name, Name: name, Unknown: true,
			Reason: "another node orders certificates, and it alone knows what this costs now: at most one order, and one certificate for each registered domain in it"}
	case err != nil:
		return nil, err
	}
	if in.DryRun {
		return out, nil
	}
	if err := c.Ask(ctx, Ask{Do: AskAddName, Certificate: in.Name, Name: name}); err != nil {
		return nil, err
	}
	out.Status, out.Body.Asked = http.StatusAccepted, true
	return out, s.noteCertificate(ctx, p, "add-name", in.Name, map[string]any{"name": name})
}

type deleteCertificateInput struct {
	CertificateInput
	Key   string `header:"Idempotency-Key" maxLength:"200" doc:"names this request: repeated within 24 hours, it does nothing and gives the first result"`
	Force bool   `query:"force" doc:"even if hosts lose their certificate by it; for the admin of every team"`
	Note  string `query:"note" maxLength:"1000" doc:"why, for the audit"`
}

// deleteCertificate deletes a certificate, or an open request with its key. One that
// hosts would be without is kept.
func (s *Server) deleteCertificate(ctx context.Context, in *deleteCertificateInput) (*resultOutput, error) {
	c, err := s.certificates()
	if err != nil {
		return nil, err
	}
	p := principalOf(ctx)
	if in.Force {
		if err := authorize(p, Govern, ""); err != nil {
			return nil, err
		}
	}
	sum := sumOf("delete certificate", in.Name)
	it, v, err := s.certificate(ctx, p, in.Name)
	if isNotFound(err) {
		if in.Key != "" { // an earlier request with the key may have done it
			if first, was, err := s.Store.Receipt(ctx, keyOf(p, in.Key)); err == nil && was == sum {
				first.Repeated = true
				return &resultOutput{resultOf(first)}, nil
			}
		}
		return s.deleteRequest(ctx, c, p, in.Name)
	}
	if err != nil {
		return nil, err
	}
	if !in.Force {
		if err := s.mayGo(ctx, c, v); err != nil {
			return nil, err
		}
	}
	changes, err := store.CertificateChanges(v, nil)
	if err != nil {
		return nil, err
	}
	changes[0].If = it.Rev
	receipt, err := s.Store.Commit(ctx, store.Batch{Key: keyOf(p, in.Key), Sum: sum, Changes: changes, Actor: p.actor(), Note: in.Note,
		Records: []store.Record{{Kind: order.KindCertificate, Key: v.Name}}}) // what the issuer remembers of it goes, too
	if err != nil {
		return nil, err
	}
	if c.Ask != nil && v.Type == fingerpost.ACME {
		err = c.Ask(ctx, Ask{Do: AskGone, Certificate: in.Name})
	}
	return &resultOutput{resultOf(receipt)}, err
}

// mayGo is the problem of a certificate that hosts would be without.
func (s *Server) mayGo(ctx context.Context, c *Certificates, v *fingerpost.Certificate) error {
	now := s.now()
	if now.After(v.NotAfter) { // it is of no use to anybody
		return nil
	}
	uses, err := s.usesOf(ctx, v.Name, v.Names, false)
	if err != nil {
		return err
	}
	l := s.newLookups(c)
	instead := func(n servedName) bool { return n.certificate != v.Name && !now.Before(n.from) && !now.After(n.until) }
	var faults []Fault
	var hosts []string
	for _, u := range uses {
		if len(hosts) > 0 && hosts[len(hosts)-1] == u.host {
			continue
		}
		if !u.named {
			others, err := l.covering(ctx, u.name)
			if err != nil {
				return err
			}
			if slices.ContainsFunc(others, instead) {
				continue
			}
		}
		if hosts = append(hosts, u.host); len(hosts) > mostHosts {
			break // it need not be known of how many more
		}
		faults = append(faults, Fault{Pointer: "/hosts/" + escapePointer(u.host), Code: "in_use", Detail: "the host " + u.host + " uses it for " + u.name})
	}
	by := fmt.Sprintf("%d hosts", len(hosts))
	switch {
	case len(hosts) == 0:
		return nil
	case len(hosts) == 1:
		by = "the host " + hosts[0]
	case len(hosts) > mostHosts:
		by = fmt.Sprintf("more than %d hosts", mostHosts)
	}
	p := problem(http.StatusConflict, "in_use", "the certificate "+v.Name+" is in use by "+by, "replace it first: import or order another for these hosts; the admin of every team may say force=true")
	p.Errors = faults
	return p
}

func (s *Server) deleteRequest(ctx context.Context, c *Certificates, p *Principal, name string) (*resultOutput, error) {
	q, err := s.ownRequest(ctx, p, name)
	if err != nil {
		return nil, err
	}
	if q == nil {
		if _, err := order.State(ctx, c.Storage, name); err == nil {
			return nil, problem(http.StatusConflict, "no_certificate", name+" is a name that waits for a certificate", "set certificate: none for its host, or delete the host, and it is ordered no more")
		} else if !errors.Is(err, order.ErrNoRecord) {
			return nil, err
		}
		return nil, problem(http.StatusNotFound, "not_found", "certificate "+name+": not found", "GET /api/v1/certificates lists them")
	}
	receipt, err := s.Store.Commit(ctx, store.Batch{Actor: p.actor(), Records: []store.Record{{Kind: KindRequest, Key: name}}})
	if err != nil {
		return nil, err
	}
	r := resultOf(receipt)
	r.Removed = 1
	return &resultOutput{r}, s.noteCertificate(ctx, p, "delete", name, map[string]any{"request": q.Names})
}

// ExportedCertificate is a certificate with its key.
type ExportedCertificate struct {
	Name  string `json:"name"`
	Chain string `json:"chain" doc:"PEM, the certificate first"`
	Key   string `json:"key" doc:"PEM, PKCS #8"`
}

type exportOutput struct {
	CacheControl string `header:"Cache-Control"`
	Body         ExportedCertificate
}

// exportCertificate gives a certificate with its key, so that nobody is locked in. The
// audit has it before the caller does.
func (s *Server) exportCertificate(ctx context.Context, in *CertificateInput) (*exportOutput, error) {
	c, err := s.certificates()
	if err != nil {
		return nil, err
	}
	p := principalOf(ctx)
	if err := authorize(p, Govern, ""); err != nil {
		return nil, err
	}
	_, v, err := s.certificate(ctx, p, in.Name)
	if err != nil {
		return nil, err
	}
	der, err := c.open(v.Name, v.Key)
	if err != nil {
		return nil, err
	}
	if _, err := x509.ParsePKCS8PrivateKey(der); err != nil {
		// A key from a CA's order may be in the older form of its type.
		signer, err := cert.ParseKey(der)
		if err != nil {
			return nil, fmt.Errorf("the key of certificate %s cannot be read", v.Name) // what is wrong with it could show parts of it
		}
		if der, err = cert.MarshalKey(signer); err != nil {
			return nil, err
		}
	}
	if err := s.noteCertificate(ctx, p, "export", v.Name, map[string]any{"serial": v.Serial}); err != nil {
		return nil, err
	}
	var chain strings.Builder
	for _, link := range v.Chain {
		pem.Encode(&chain, &pem.Block{Type: "CERTIFICATE", Bytes: link})
	}
	return &exportOutput{"no-store", ExportedCertificate{v.Name, chain.String(), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))}}, nil
}

type cnamesInput struct {
	Format string `query:"format" enum:"csv,bind,json" default:"json" doc:"csv; bind: lines of a zone file; json"`
	Team   string `query:"team" doc:"only for hosts of this team"`
}

// DomainRecord is the record of one domain, in an export.
type DomainRecord struct {
	Domain string `json:"domain"`
	RecordResource
	Host string `json:"host" doc:"the host that needs it"`
	Team string `json:"team,omitempty"`
}

// exportCNAMEs streams the records that let all domains be validated over DNS, each
// once: a name and its wildcard share one.
func (s *Server) exportCNAMEs(_ context.Context, in *cnamesInput) (*streamOutput, error) {
	c, err := s.certificates()
	if err != nil {
		return nil, err
	}
	if c.CNAME == nil {
		return nil, problem(http.StatusConflict, "no_validation_zone", "no validation zone is set up, so there are no records to set", "set acme.validationZone in the configuration")
	}
	media := map[string]string{"csv": mediaCSV, "bind": "text/dns", "json": mediaJSON}[in.Format]
	return &streamOutput{ContentType: media, Body: func(hc huma.Context) {
		_, w := humago.Unwrap(hc)
		w.Header().Set("Cache-Control", "no-store")
		out := http.NewResponseController(w)
		err := s.eachCNAME(hc.Context(), c, in.Team, newRecordWriter(w, in.Format), func() error {
			if err := out.SetWriteDeadline(time.Now().Add(idle)); err != nil && !errors.Is(err, http.ErrNotSupported) {
				return err
			}
			return nil
		})
		if err != nil {
			if hc.Context().Err() == nil {
				s.log().Warn("export the records of validation", "err", err)
			}
			panic(http.ErrAbortHandler) // so that the client sees that it is not whole
		}
	}}, nil
}

// eachCNAME writes the record of each domain; alive is called for each page.
func (s *Server) eachCNAME(ctx context.Context, c *Certificates, team string, w *recordWriter, alive func() error) error {
	seen := map[string]bool{}
	put := func(name, host, team string) error {
		base := strings.TrimPrefix(name, "*.")
		if seen[base] {
			return nil
		}
		seen[base] = true
		r := c.record(base)
		if r == nil {
			return nil
		}
		return w.put(&DomainRecord{base, *r, host, team})
	}
	for q := (store.Query{Team: team, Limit: 1000}); ; {
		if err := alive(); err != nil {
			return err
		}
		items, err := s.Store.List(ctx, store.KindHost, q)
		if err != nil {
			return err
		}
		for i := range items {
			h, err := items[i].Host()
			if err != nil {
				return err
			}
			if h.Certificate != "" && h.Certificate != "auto" {
				continue
			}
			for _, name := range h.CertificateNames() {
				if err := put(name, h.Name, items[i].Team); err != nil {
					return err
				}
			}
		}
		if len(items) < q.Limit {
			break
		}
		q.After = items[len(items)-1].Key
	}
	// Hosts that only redirects name: a step of the index for each of them.
	for q := (store.Query{Team: team, Limit: 1}); ; {
		items, err := s.Store.List(ctx, store.KindRedirect, q)
		if err != nil {
			return err
		}
		if len(items) == 0 {
			return w.end()
		}
		host, _ := store.CutRedirectKey(items[0].Key)
		it, err := s.get(ctx, store.KindHost, string(host)) // its settings may want none
		if err != nil {
			return err
		}
		if it == nil {
			for _, name := range fingerpost.CertificateNames(string(host)) {
				if err := put(name, string(host), items[0].Team); err != nil {
					return err
				}
			}
		}
		if err := alive(); err != nil {
			return err
		}
		q.After = string(host) + "/\U0010FFFF"
	}
}

// recordWriter writes records in one of the formats.
type recordWriter struct {
	w      *bufio.Writer
	format string
	lines  *csv.Writer
	n      int
}

func newRecordWriter(w io.Writer, format string) *recordWriter {
	b := bufio.NewWriter(w)
	return &recordWriter{w: b, format: format, lines: csv.NewWriter(b)}
}

func (w *recordWriter) put(r *DomainRecord) error {
	w.n++
	switch w.format {
	case "csv":
		if w.n == 1 {
			w.head()
		}
		return w.lines.Write([]string{r.Domain, r.Name, r.Type, r.Value, r.Host, r.Team})
	case "bind":
		_, err := fmt.Fprintf(w.w, "%s\t3600\tIN\t%s\t%s\n", r.Name, r.Type, r.Value)
		return err
	}
	between := ",\n"
	if w.n == 1 {
		between = "["
	}
	text, err := json.Marshal(r)
	if err == nil {
		_, err = fmt.Fprintf(w.w, "%s%s", between, text)
	}
	return err
}

func (w *recordWriter) head() {
	w.lines.Write([]string{"domain", "name", "type", "value", "host", "team"}) // an error stays for the end
}

func (w *recordWriter) end() error {
	switch {
	case w.format == "csv" && w.n == 0:
		w.head()
	case w.format == "json" && w.n == 0:
		io.WriteString(w.w, "[]\n") // an error stays for Flush
	case w.format == "json":
		io.WriteString(w.w, "]\n")
	}
	w.lines.Flush()
	return errors.Join(w.lines.Error(), w.w.Flush())
}
