package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"fingerpost"
	"fingerpost/admin"
	"fingerpost/cert"
	"fingerpost/cert/order"
	"fingerpost/cert/planner"
	"fingerpost/source"
	"fingerpost/store"
	"fingerpost/zone"
)

// certificates is a node's part in getting and serving certificates: it answers
// CAs' challenges from its own copy, serves what is in it, and, on a control node
// with a CA, orders whenever it has the lease.
type certificates struct {
	sealer *cert.Sealer
	served *cert.Served
	issuer *order.Issuer // nil where no CA is set, and on edges
	store  *certStore    // nil on edges
	wanted wantedNames   // the issuer's
	ended  chan struct{} // closed when the issuer has given its lease back; made by run
	zone   validation

	changed chan struct{}              // that those of the store are others
	version atomic.Uint64              // of what the store says of names
	sealed  atomic.Pointer[sealedKeys] // what cannot be served of them; nil: not looked yet
	failing seldom                     // said that one cannot be served
	open    atomic.Bool                // what is above may be used by those whom the feed calls
}

// clusterKeyFile is where a node finds or makes its key, in the data folder.
const clusterKeyFile = "cluster.key"

// openCertificates prepares what needs no other node. Without a data folder there
// are only the certificates of files.
func (n *node) openCertificates() error {
	c := &n.certificates
	c.served = &cert.Served{Files: n.certs, Default: n.defaultCertificate, Chosen: n.chosenCertificate}
	if n.shared == nil {
		return nil
	}
	var err error
	if c.sealer, err = n.openSealer(); err != nil {
		return err
	}
	c.changed, c.wanted.news = make(chan struct{}, 1), make(chan struct{}, 1)
	c.served.Sealer, c.served.Named, c.served.Load, c.served.Version = c.sealer, n.namedCertificates, n.storedCertificate, c.version.Load
	if err := n.openValidation(); err != nil {
		return err
	}
	c.open.Store(true)
	n.itemsChanged(nil) // what the feed has told meanwhile
	if n.shared.db == nil {
		return nil
	}
	c.store = &certStore{db: n.shared.db, holder: n.instance}
	if err := n.checkClusterKey(n.life); err != nil {
		return err
	}
	if len(n.settings.ACME.CAs) == 0 {
		return nil
	}
	return n.openIssuer()
}

// openSealer reads the cluster's key. A node that has none makes one, unless it is
// one of several that must have the same.
func (n *node) openSealer() (*cert.Sealer, error) {
	s := n.settings
	secret := ""
	file := filepath.Join(n.o.data, clusterKeyFile)
	switch {
	case s.ClusterKeyEnv != "":
		if secret = os.Getenv(s.ClusterKeyEnv); secret == "" {
			return nil, &fingerpost.Error{Code: "bad_cluster_key", Field: "clusterKeyEnv", Message: "the environment variable " + s.ClusterKeyEnv + " of clusterKeyEnv is not set", Hint: "set it to what is in " + clusterKeyFile + " in the data folder of another node"}
		}
		file = s.ClusterKeyEnv
	case len(s.ClusterKeyCommand) > 0:
		var err error
		if secret, err = commandSecret(n.life, s.ClusterKeyCommand, keyCommandFor); err != nil {
			return nil, err
		}
		file = "clusterKeyCommand"
	case s.ClusterKeyFile != "":
		text, err := os.ReadFile(s.ClusterKeyFile)
		if err != nil {
			return nil, fileError(s.ClusterKeyFile, "read", err)
		}
		secret, file = string(text), s.ClusterKeyFile
	default:
		var made bool
		var err error
		if secret, made, err = cert.OpenSecret(file); err != nil {
			return nil, dataError(n.o.data, err)
		}
		if made && (n.o.role == roleEdge || strings.HasPrefix(n.o.store, "postgres")) {
			n.log.Warn("this node has made a key of its own for the private keys of certificates, and opens none that others have sealed", "file", file,
				"hint", "give all nodes the same: copy "+clusterKeyFile+" from the data folder of the first, or set clusterKeyFile, clusterKeyEnv or clusterKeyCommand")
		}
	}
	sealer, err := cert.NewSealer(secret)
	if own := new(fingerpost.Error); errors.As(err, &own) {
		own.Message = file + ": " + own.Message
	}
	return sealer, err
}

// checkClusterKey has a control node seal with the secret that the store says, and
// refuses to have one order with a key that the others do not have. Where the store is
// away it cannot say; what it would seal is not taken then either.
func (n *node) checkClusterKey(ctx context.Context) error {
	orders := len(n.settings.ACME.CAs) > 0
	id, err := clusterKeyID(ctx, n.shared.db)
	if err == nil && id == "" && orders {
		err = setClusterKeyID(ctx, n.shared.db, n.certificates.sealer.ID())
	}
	if err != nil {
		if errors.Is(n.storeAway(err), errStoreAway) {
			return nil
		}
		return err
	}
	if id != "" && !n.certificates.sealer.SealWith(id) && orders {
		return &fingerpost.Error{Code: "other_cluster_key", Message: "this node's cluster key is not that of the store, and opens none of its private keys",
			Hint: "copy " + clusterKeyFile + " from the data folder of another control node, or set clusterKeyFile, clusterKeyEnv or clusterKeyCommand; if it is lost: fingerpost cluster-key forget"}
	}
	return nil
}

// defaultCertificate names the certificate for clients that send no server name.
func (n *node) defaultCertificate(local netip.Addr) string {
	return n.settings.DefaultCerts[local.String()]
}

// chosenCertificate is the one that a host's settings name.
func (n *node) chosenCertificate(host string) string {
	if table := n.current(); table != nil {
		return table.Certificate(host)
	}
	return ""
}

// namedCertificates and storedCertificate are what [cert.Served] reads of the
// node's own copy.
func (n *node) namedCertificates(name string) []cert.Named {
	var list []cert.Named
	for it, err := range n.shared.replica.Scan(store.KindServerName, name+"/") {
		if err != nil {
			return list
		}
		item := store.Item(*it)
		s, certificate, err := item.ServerName()
		if err != nil {
			n.log.Error("a certificate's name cannot be read", "err", err)
			continue
		}
		list = append(list, cert.Named{Certificate: certificate, Rev: it.Rev, ECDSA: s.ECDSA, SealedBy: s.SealedBy, Revoked: s.Revoked, NotBefore: time.Unix(s.NotBefore, 0), NotAfter: time.Unix(s.NotAfter, 0)})
	}
	return unrevoked(list, time.Now())
}

// unrevoked leaves the certificates that were revoked out where there is another.
func unrevoked(list []cert.Named, now time.Time) []cert.Named {
	if !slices.ContainsFunc(list, func(c cert.Named) bool { return c.Revoked }) {
		return list
	}
	var good []cert.Named
	valid := false
	for i := range list {
		if !list[i].Revoked {
			good = append(good, list[i])
			valid = valid || !now.Before(list[i].NotBefore) && now.Before(list[i].NotAfter)
		}
	}
	if valid {
		return good
	}
	return list
}

func (n *node) storedCertificate(name string) (*fingerpost.Certificate, int64, error) {
	it, err := n.shared.replica.Get(store.KindCertificate, name)
	if err != nil {
		return nil, 0, err
	}
	if it == nil {
		return nil, 0, fmt.Errorf("certificate %s: %w", name, store.ErrNotFound)
	}
	item := store.Item(*it)
	c, err := item.Certificate()
	return c, it.Rev, err
}

// hasCertificate reports whether a certificate of that name is in the folder or in
// the store.
func (n *node) hasCertificate(name string) bool {
	if n.certs.Index().Named(name) != nil {
		return true
	}
	if n.shared == nil {
		return false
	}
	it, err := n.shared.replica.Get(store.KindCertificate, name)
	return err == nil && it != nil
}

// openIssuer makes what orders, from the settings.
func (n *node) openIssuer() error {
	a := n.settings.ACME
	c := &n.certificates
	seal := func(purpose string, key []byte) ([]byte, error) { return c.sealer.Seal(purpose, key), nil }
	servers, err := n.resolvers()
	if err != nil {
		return err
	}
	resolver := &order.Resolver{Servers: servers, Private: a.Private}
	solver := &solver{n: n}
	if solver.provider, err = dnsProvider(a.DNSHook, resolver); err != nil {
		return err
	}
	driver := &order.Driver{CAs: map[string]*order.CA{}, Storage: c.store, Solver: solver, Seal: seal, Unseal: c.sealer.Open, Log: n.log}
	plan := planner.Config{}
	for _, ca := range a.CAs {
		config := order.CAConfig{Name: ca.Name, Directory: ca.Directory, AgreeToTerms: true, UserAgent: "fingerpost/" + version}
		if ca.Email != "" {
			config.Contact = []string{"mailto:" + ca.Email}
		}
		var err error
		if config.Roots, err = roots(ca.Roots); err != nil {
			return err
		}
		if config.EAB, err = eab(&ca.EAB); err != nil {
			return err
		}
		made, err := order.NewCA(config)
		if err != nil {
			return err
		}
		driver.CAs[ca.Name] = made
		planned := planner.CA{Name: ca.Name, Profile: ca.Profile}
		if ca.Directory == source.LetsEncrypt {
			planned.Limits, planned.Profiles = planner.LetsEncrypt(), planner.LetsEncryptProfiles()
		}
		plan.CAs = append(plan.CAs, planned)
	}
	check := &order.Preflight{Resolver: resolver, Solver: solver, Answer: n.checkAnswer, Private: a.Private, TLS: n.onlyHTTPS(), Provider: solver.provider != nil, Persist: a.DNSPersist,
		Port: n.challengePort("http", n.o.http, n.settings.Listen.HTTP), TLSPort: n.challengePort("https", n.o.https, n.settings.Listen.HTTPS)}
	if a.ValidationZone != "" {
		label, text := n.zoneProbe()
		check.ZoneRecord, check.ZoneTXT = label+"."+a.ValidationZone, text
	}
	c.issuer = &order.Issuer{Driver: driver, Lease: c.store, Plan: plan, Wanted: n.wantedList,
		CNAME: n.challengeTarget, Persist: a.DNSPersist, Used: n.certificateUsed, Tidy: n.tidyChallenges, Log: n.log}
	n.countOrders()
	if a.Preflight {
		c.issuer.Check = check.Check
	} else {
		c.issuer.Check = func(_ context.Context, q order.Question) order.Verdict {
			return n.unchecked(q, solver.provider != nil)
		}
	}
	return nil
}

// onlyHTTPS reports whether a CA finds nobody over http: where that listener is
// switched off, as it then is to be on all nodes.
func (n *node) onlyHTTPS() bool {
	return len(n.addresses("http", n.o.http, n.settings.Listen.HTTP)) == 0 && len(n.addresses("https", n.o.https, n.settings.Listen.HTTPS)) > 0
}

// unchecked is the verdict about a name whose DNS nobody looks at: by the zone if
// there is one, else at the domain's DNS provider where one can be called, else over
// http, or https where that is all there is.
func (n *node) unchecked(q order.Question, provider bool) order.Verdict {
	if f := order.CheckName(q.Name, n.settings.ACME.Private); f != nil {
		return order.Verdict{Failure: f}
	}
	direct := []string{order.HTTP01, order.TLSALPN01}
	if n.onlyHTTPS() {
		direct = direct[1:]
	}
	switch {
	case q.CNAME != "":
		return order.Verdict{Methods: append([]string{order.DNS01}, direct[0])}
	case provider:
		return order.Verdict{Methods: []string{order.DNSProvider01}}
	case strings.HasPrefix(q.Name, "*.") && n.settings.ACME.DNSPersist:
		return order.Verdict{Methods: []string{order.DNSPersist01}}
	case strings.HasPrefix(q.Name, "*."):
		return order.Verdict{Failure: &order.Failure{Name: q.Name, Code: "notHere", Reason: "a wildcard needs DNS validation, which is not set up", Hint: "set acme.validationZone"}}
	}
	return order.Verdict{Methods: direct}
}

// challengePort is where this node's own http or https is, for the check of itself;
// 0 for the usual port: behind a mapping of ports it is what visitors see that
// counts, so only loopback addresses, in tests and demos, have another.
func (n *node) challengePort(name, flag string, configured []string) int {
	if !n.settings.ACME.Private {
		return 0
	}
	return loopbackPort(n.addresses(name, flag, configured))
}

func loopbackPort(addrs []string) int {
	for _, addr := range addrs {
		if at, err := netip.ParseAddrPort(addr); err == nil && at.Addr().IsLoopback() {
			return int(at.Port())
		}
	}
	return 0
}

func roots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fileError(file, "read", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, &fingerpost.Error{Code: "bad_roots", Message: file + " has no certificate in PEM form", Hint: "acme.caRoots is what the CA's own certificate hangs on"}
	}
	return pool, nil
}

func eab(e *source.EAB) (order.EAB, error) {
	key := os.Getenv(e.KeyEnv)
	if e.KeyFile != "" {
		text, err := os.ReadFile(e.KeyFile)
		if err != nil {
			return order.EAB{}, fileError(e.KeyFile, "read", err)
		}
		key = strings.TrimSpace(string(text))
	}
	if e.KeyID != "" && key == "" {
		return order.EAB{}, &fingerpost.Error{Code: "no_eab_key", Message: "the EAB key " + e.KeyID + " is empty", Hint: "acme.eab names the environment variable or the file that holds it"}
	}
	return order.EAB{KeyID: e.KeyID, Key: key}, nil
}

// resolvers are the recursive name servers to ask: those of the settings, else of
// the system.
func (n *node) resolvers() ([]string, error) {
	if len(n.settings.Resolvers) > 0 {
		return n.settings.Resolvers, nil
	}
	list := systemResolvers("/etc/resolv.conf")
	if len(list) == 0 {
		return nil, &fingerpost.Error{Code: "no_resolver", Message: "no name server is known to ask about names", Hint: "set resolvers"}
	}
	return list, nil
}

// runIssuer orders certificates until ctx ends, whenever this node has the lease.
func (n *node) runIssuer(ctx context.Context) {
	if n.certificates.issuer == nil {
		return
	}
	go n.followWanted(ctx)
	if err := n.certificates.issuer.Run(ctx); err != nil && ctx.Err() == nil {
		n.log.Error("certificates are not ordered any more", "err", err)
	}
}

// certStore is [order.Storage] and [order.Lease] on the store. A certificate is an
// item, which all nodes follow, and a record with what only the issuer needs.
type certStore struct {
	db     *store.DB
	holder string
}

// The lease of whoever orders.
const (
	issuerLease    = "certificates"
	issuerLeaseFor = 20 * time.Second
)

func (s *certStore) Acquire(ctx context.Context) (int64, error) {
	l, err := s.db.Acquire(ctx, issuerLease, s.holder, issuerLeaseFor)
	return l.Fence, storageError(err)
}

func (s *certStore) Release(ctx context.Context) error {
	l, err := s.db.Acquire(ctx, issuerLease, s.holder, issuerLeaseFor)
	if err == nil {
		err = s.db.Release(ctx, l)
	}
	return storageError(err)
}

// storageError puts the words of package order in the place of the store's.
func storageError(err error) error {
	switch {
	case errors.Is(err, store.ErrFenced):
		return fmt.Errorf("%w: %w", order.ErrFenced, err)
	case errors.Is(err, store.ErrNotFound):
		return fmt.Errorf("%w: %w", order.ErrNoRecord, err)
	case errors.Is(err, store.ErrTooLarge), errors.Is(err, store.ErrInvalid):
		return fmt.Errorf("%w: %w", order.ErrRefused, err)
	}
	return err
}

func (s *certStore) Get(ctx context.Context, kind, key string) ([]byte, error) {
	r, err := s.db.GetRecord(ctx, kind, key)
	if err != nil {
		return nil, storageError(err)
	}
	if kind != order.KindCertificate {
		return r.Value, nil
	}
	it, err := s.db.Get(ctx, store.KindCertificate, key)
	if err != nil {
		return nil, storageError(err)
	}
	c, err := it.Certificate()
	if err != nil {
		return nil, err
	}
	return order.JoinCertificate(r.Value, c.Chain, c.Key)
}

// Range gives certificates without their chains and keys.
func (s *certStore) Range(ctx context.Context, kind, from, to string, limit int) ([]order.Record, error) {
	list, err := s.db.Records(ctx, kind, from, to, limit)
	records := make([]order.Record, len(list))
	for i, r := range list {
		records[i] = order.Record{Kind: r.Kind, Key: r.Key, Value: r.Value}
	}
	return records, storageError(err)
}

// writeTries is how often a write is made anew after somebody, through the API of another
// node, has changed or deleted a certificate of it meanwhile.
const writeTries = 5

func (s *certStore) Write(ctx context.Context, fence int64, records ...order.Record) error {
	var err error
	for range writeTries {
		if err = s.write(ctx, fence, records); !errors.Is(err, store.ErrConflict) {
			break
		}
	}
	return storageError(err)
}

func (s *certStore) write(ctx context.Context, fence int64, records []order.Record) error {
	b := store.Batch{Lease: &store.Lease{Name: issuerLease, Fence: fence}, Actor: store.Actor{Who: "certificates"}}
	for _, r := range records {
		if r.Kind == order.KindCertificate {
			changes, rest, err := s.certificate(ctx, r)
			if err != nil {
				return err
			}
			b.Changes = append(b.Changes, changes...)
			r.Value = rest
		}
		b.Records = append(b.Records, store.Record{Kind: r.Kind, Key: r.Key, Value: r.Value})
	}
	_, err := s.db.Commit(ctx, b)
	return err
}

// certificate gives the changes of content that a record of a certificate stands
// for, and what is left to keep as a record.
func (s *certStore) certificate(ctx context.Context, r order.Record) (changes []store.Change, rest []byte, err error) {
	var before *fingerpost.Certificate
	rev := store.Absent
	it, err := s.db.Get(ctx, store.KindCertificate, r.Key)
	switch {
	case err == nil:
		rev = it.Rev
		if before, err = it.Certificate(); err != nil {
			return nil, nil, err
		}
	case !errors.Is(err, store.ErrNotFound):
		return nil, nil, err
	}
	defer func() { // it is as it was read, or all is done anew
		for i := range changes {
			if c := &changes[i]; c.Item.Kind == store.KindCertificate {
				c.If = rev
			}
		}
	}()
	if r.Value == nil {
		if before != nil {
			changes, err = store.CertificateChanges(before, nil)
		}
		return changes, nil, err
	}
	next, rest, err := order.SplitCertificate(r.Value)
	if err != nil {
		return nil, nil, err
	}
	if before == nil {
		switch _, err := s.db.GetRecord(ctx, r.Kind, r.Key); {
		case err == nil:
			return nil, nil, nil // somebody has deleted it: it does not come back, and its record goes
		case !errors.Is(err, store.ErrNotFound):
			return nil, nil, err
		}
	}
	if len(next.Chain) == 0 { // as Range gave it: nothing of it is another
		return nil, rest, nil
	}
	changes, err = store.CertificateChanges(before, next)
	return changes, rest, err
}

// ask writes down what the node that orders has to do. It is done although that
// node, or this one, dies.
func (n *node) ask(ctx context.Context, a order.Ask) error {
	r := a.Record(time.Now())
	if _, err := n.shared.db.Commit(ctx, store.Batch{Records: []store.Record{{Kind: r.Kind, Key: r.Key, Value: r.Value}}, Actor: store.Actor{Who: "certificates"}}); err != nil {
		return err
	}
	n.certificates.issuer.Asked() // if it is this node, at once
	return nil
}

// cost tells what adding a name to a certificate takes, in the node that orders.
func (n *node) cost(ctx context.Context, certificate, name string) (cost planner.Cost, err error) {
	ask := func() bool {
		return n.certificates.issuer.Ask(func(p *planner.Planner, now time.Time) { cost, err = p.AddCost(now, certificate, name) })
	}
	leads := ask()
	if e := new(fingerpost.Error); leads && errors.As(err, &e) && e.Code == "not_served" {
		n.tellWanted(ctx) // its host may have come just now
		leads = ask()
	}
	if !leads {
		return cost, admin.ErrElsewhere
	}
	return cost, err
}

// knownRoots are the CAs that clients are taken to know: those of this machine, and
// those that our own CAs hang on; nil for the former alone.
func (n *node) knownRoots() *x509.CertPool {
	var pool *x509.CertPool
	for _, ca := range n.settings.ACME.CAs {
		text, err := os.ReadFile(ca.Roots)
		if ca.Roots == "" || err != nil {
			continue // openIssuer has said so
		}
		if pool == nil {
			if pool, err = x509.SystemCertPool(); err != nil {
				pool = x509.NewCertPool()
			}
		}
		pool.AppendCertsFromPEM(text)
	}
	return pool
}

// adminCertificates is what the API knows and has done about certificates.
func (n *node) adminCertificates() *admin.Certificates {
	c := &n.certificates
	storage := order.Storage(c.store)
	if c.issuer != nil {
		storage = order.Reading{Storage: storage, Issuer: c.issuer}
	}
	a := &admin.Certificates{Storage: storage, Sealer: c.sealer, Roots: n.knownRoots(), Covers: c.served.Covers, Naming: n.naming, Probe: n.probe}
	if zoneName := n.settings.ACME.ValidationZone; zoneName != "" {
		a.CNAME = func(name string) (owner, target string, err error) {
			secret := c.sealer.Labels()
			return zone.ValidationCNAME(strings.TrimPrefix(name, "*."), zoneName, secret[:])
		}
	}
	if c.issuer != nil {
		a.Ask, a.Cost = n.ask, n.cost
	}
	return a
}
