package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"fingerpost"
	"fingerpost/admin"
	"fingerpost/cert"
	"fingerpost/edge"
	"fingerpost/redirect"
	"fingerpost/source"
	"fingerpost/telemetry"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

func serveCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Answer visitors",
		Long: `Answer visitors by the rules in files, which are watched: a change takes effect
within a second, a bad one is refused while the last good version keeps serving.

Content is kept in a store in the data folder, which the API can change and other
nodes can follow, and is answered from a copy beside it. Files are one source of
several. An edge follows another node and needs no store. With --data "" the node
serves its files and keeps nothing.

Each flag can also be given as an environment variable: FINGERPOST_HTTP for
--http, and so on (FINGERPOST_REDIRECTS holds one file). A flag comes before the
environment, that before the configuration file.`,
		Example: `  fingerpost serve --config fingerpost.yaml
  fingerpost serve --redirects redirects.json --http :80 --https ""`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := fromEnvironment(cmd.Flags()); err != nil {
				return err
			}
			o.given = func(flag string) bool { return cmd.Flags().Changed(flag) }
			o.out, o.log = cmd.OutOrStdout(), slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			if term.IsTerminal(int(os.Stderr.Fd())) {
				o.terminal = cmd.ErrOrStderr()
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			// Files are watched: there is nothing to reload. And whoever reads the
			// access log may go without taking the visitors with them.
			signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
			context.AfterFunc(ctx, stop) // a second signal ends at once
			n, err := start(o)
			if err != nil {
				return err
			}
			return n.run(ctx)
		},
	}
	o.register(cmd)
	cmd.Flags().StringVar(&o.http, "http", "127.0.0.1:8080", `listen for http on ADDR, several separated by commas, unix:FILE too; "" for none`)
	cmd.Flags().StringVar(&o.https, "https", "127.0.0.1:8443", `listen for https on ADDR, and for HTTP/3 by UDP; "" for none`)
	cmd.Flags().StringVar(&o.data, "data", "", "`DIR` of what the node keeps (default $STATE_DIRECTORY, else ./data); \"\" keeps nothing")
	cmd.Flags().StringVar(&o.store, "store", "", "the store that control nodes share: sqlite:DIR or postgres://… `DSN` (default SQLite in --data)")
	cmd.Flags().StringVar(&o.role, "role", roleAll, "all, edge (answers visitors, follows --control) or control (owns the store)")
	cmd.Flags().StringVar(&o.control, "control", "", "admin `URL` of the control node, or of another edge, that an edge follows")
	cmd.Flags().StringVar(&o.token, "token", "", "node token for --control; better FINGERPOST_TOKEN, or control.tokenFile in the configuration")
	cmd.Flags().StringVar(&o.ca, "ca", "", "`FILE` of certificates that are trusted for --control beside the system's")
	cmd.Flags().StringVar(&o.name, "node", "", "`NAME` of this node (default made at the first start, and kept in --data)")
	cmd.Flags().StringVar(&o.dns, "dns", "127.0.0.1:5353", `answer DNS on ADDR over UDP and TCP, where acme.validationZone is set; "" for none`)
	cmd.Flags().Int64Var(&o.maxRemoved, "max-removed", 0, "how many items a file or source may take away at once, `N` (default a tenth of what it has, and 50 at least)")
	cmd.Flags().BoolVar(&o.goroutines, "goroutines", false, "answer plain http by a goroutine for each connection, as elsewhere than on Linux, instead of event loops")
	cmd.Flags().StringVar(&o.admin, "admin", "127.0.0.1:9090", `listen for the API, health checks and metrics on ADDR; "" for none; beyond loopback with listen.adminTLS only`)
	return cmd
}

// fromEnvironment sets each flag that is not given from FINGERPOST_NAME.
func fromEnvironment(flags *pflag.FlagSet) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		name := "FINGERPOST_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		// Empty is an address that is not listened on, but no name of a file.
		if value, ok := os.LookupEnv(name); ok && !f.Changed && (value != "" || f.Name != "redirects") {
			if err := flags.Set(f.Name, value); err != nil {
				errs = append(errs, usage(fmt.Errorf("%s: %w", name, err)))
			}
		}
	})
	return errors.Join(errs...)
}

// options are what a node is started with.
type options struct {
	ruleFlags
	http, https, dns, admin string                 // addresses, "" for no listener
	data, store             string                 // the folder of what the node keeps, "" for nothing; DSN
	role                    string                 // all, edge or control
	control, token, ca      string                 // what an edge follows
	name                    string                 // of the node
	maxRemoved              int64                  // 0: see allowedToGo
	goroutines              bool                   // no event loops
	given                   func(flag string) bool // whether a flag comes before the configuration
	out                     io.Writer              // of the access log
	terminal                io.Writer              // where somebody reads along; nil for nobody
	log                     *slog.Logger
}

// node is a running program. Everything is wired here: packages know each other
// by functions.
type node struct {
	o            options
	log          *slog.Logger
	set          *source.Set
	remotes      []remote
	contents     *contents
	settings     *source.Settings
	certs        *cert.Store // of the folder
	certificates certificates
	certFiles    *source.Folder // nil without a folder
	countries    *edge.Countries
	geoFile      *source.Paths
	metrics      *telemetry.Metrics
	access       *telemetry.AccessLog
	table        atomic.Pointer[redirect.Table] // of a node without a part in what is shared
	shared       *shared                        // nil without a data folder
	life         context.Context                // ends with close
	end          context.CancelFunc
	edge         *edge.Server
	admin        *admin.Server
	adminHTTP    *http.Server
	adminPair    *keyPair // nil without files of its own
	listeners    []listener

	instance  string                        // names this start of the node
	health    atomic.Pointer[func() string] // nil until there is an admin server
	relayed   relayed
	roster    roster
	twins     seldom      // said that two nodes have one name
	away      atomic.Bool // the store was away when it was asked last
	orphans   []string    // labels that this node has applied and names no more; apply's alone
	unapplied bool        // content of files waits for the store; open's and then rejoin's alone

	mu   sync.Mutex    // guards news
	news chan struct{} // closed when the node's own copy may be another; nil if nobody waits
}

type listener struct {
	net.Listener
	packets net.PacketConn // the UDP socket beside it, or nil
	name    string         // http, https, dns or admin
	serve   func(net.Listener, net.PacketConn) error
}

// start reads everything and listens, so that whatever is wrong is said before
// the first visitor is answered. An error leaves nothing behind.
func start(o options) (*node, error) {
	n := &node{o: o, log: o.log, metrics: telemetry.NewMetrics(version)}
	n.life, n.end = context.WithCancel(context.Background())
	if err := n.open(); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func (n *node) open() (err error) {
	if n.set, err = n.openRules(); err != nil {
		return err
	}
	if n.settings = n.set.Settings(); n.settings == nil {
		n.settings = &source.Settings{}
	}
	if err := n.settle(); err != nil {
		return err
	}
	if err := n.checkEdge(); err != nil {
		return err
	}
	if err := n.openFiles(); err != nil {
		return err
	}
	if err := n.openShared(n.life); err != nil {
		return err
	}
	if err := n.openCertificates(); err != nil {
		return err
	}
	n.openSources()
	if n.shared != nil && n.shared.db != nil {
		if err := n.openApplied(); err != nil {
			return err
		}
	}
	if err := n.load(); err != nil {
		return err
	}
	n.metrics.Reloaded(true, time.Now())
	if n.settings.Log.Access != "off" {
		n.access = telemetry.NewAccessLog(n.o.out, n.settings.Log.Sample, n.metrics, func(records uint64) {
			n.log.Warn("records of the access log were dropped: standard output does not take them as fast as requests come", "records", records, "hint", "log.sample has fewer of them written")
		})
	}
	limits := n.settings.Limits
	n.edge = &edge.Server{
		Table:       n.current,
		Certificate: n.certificate,
		Named:       n.settings.Listen.Server == "on",
		Covered:     n.covers(),
		Metrics:     n.metrics,
		Access:      n.access,
		Log:         n.log,
		Limits:      edge.Limits{Header: limits.HeaderTimeout, Idle: limits.IdleTimeout, Handshakes: limits.Handshakes},
		Proxy:       edge.Proxy{Mode: edge.ProxyMode(n.settings.Listen.Proxy.Mode), From: n.settings.Listen.Proxy.From},
		ClearAltSvc: n.settings.Listen.HTTP3 == "off",
	}
	if n.countries != nil {
		n.edge.Country = n.countries.Country
	}
	if n.shared != nil {
		n.edge.Challenge, n.edge.ChallengeCertificate, n.edge.TicketKeys = n.answerHTTP, n.answerHandshake, n.certificates.sealer.TicketKeys
	}
	n.adminHTTP = &http.Server{ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(n.log.Handler(), slog.LevelDebug)}
	if n.adminHTTP.TLSConfig, err = n.adminTLS(); err != nil {
		return err
	}
	if err := n.listen(); err != nil {
		return err
	}
	n.share()
	if n.admin, err = n.newAdmin(); err != nil {
		return err
	}
	n.adminHTTP.Handler = n.admin.Routes()
	health := n.admin.Health
	n.health.Store(&health)
	n.bootstrap(n.life)
	return nil
}

// address is where a listener of the given name is to listen, "" for none: a flag
// comes before the configuration, that before the default.
func (n *node) address(name, flag string, configured *string) string {
	if configured != nil && !n.o.given(name) {
		return *configured
	}
	return flag
}

// addresses is address for a listener that can have several; a flag separates them
// by commas.
func (n *node) addresses(name, flag string, configured []string) []string {
	switch {
	case configured != nil && !n.o.given(name):
		return configured
	case flag == "":
		return nil
	}
	return strings.Split(flag, ",")
}

func one(addr string) []string {
	if addr == "" {
		return nil
	}
	return []string{addr}
}

// http3 reports whether UDP is listened on beside https: by default not behind a
// proxy, which forwards TCP.
func (n *node) http3() bool {
	l := n.settings.Listen
	return l.HTTP3 == "on" || l.HTTP3 == "" && l.Proxy.Mode == ""
}

// covers tells the https policy whether visitors can be sent to https: not
// where nobody listens there, whatever certificates there are.
func (n *node) covers() func(host string) bool {
	if len(n.addresses("https", n.o.https, n.settings.Listen.HTTPS)) == 0 {
		return nil
	}
	return n.certificates.served.Covers
}

// openFiles opens what is beside the rules: certificates and the country file.
// Their watchers look first, so that no change is lost in between.
func (n *node) openFiles() error {
	dir := n.settings.CertificatesDir
	if dir != "" {
		n.certFiles = source.OpenFolder(dir)
	}
	var warnings []error
	var err error
	if n.certs, warnings, err = cert.Open(dir); err != nil {
		return err
	}
	n.logCertificates(warnings, true)
	if file := n.settings.CountryFile; file != "" {
		n.geoFile = source.OpenPaths(file)
		if n.countries, err = edge.OpenCountries(file); err != nil {
			return err
		}
	}
	return nil
}

// apply brings a part of the content of files and sources into force, or refuses
// it whole: as the table that is served, or in the store, for every node.
func (n *node) apply(part int, next, content source.Content) error {
	if n.shared != nil && n.shared.db == nil {
		return nil // an edge: there is nothing to bring into force
	}
	start := time.Now()
	table, err := redirect.Compile(content.Hosts, content.Redirects)
	if err != nil {
		return err
	}
	if err := checkCertificates(content.Hosts, n.hasCertificate); err != nil {
		return err
	}
	if n.shared != nil {
		publish := func(label string) error { return n.publish(n.life, label, next) }
		if part == 0 {
			err = n.publishFiles(publish)
		} else {
			err = publish(n.label(part))
		}
		if err != nil {
			return err
		}
		if n.label(part) == fileLabel {
			return nil // there are no files to tell of
		}
	} else {
		n.table.Store(table)
		n.metrics.Table(table.Rules(), table.Hosts())
	}
	n.log.Info("table in force", "redirects", table.Rules(), "hosts", table.Hosts(), "bytes", len(table.Bytes()), "took", time.Since(start).Round(time.Microsecond))
	if table.UsesCountries() && n.settings.CountryFile == "" {
		n.log.Warn("rules ask for countries, but there is no country file: they never hold", "hint", "set geo.country")
	}
	if names := waiting(content.Hosts, n.certificates.served.Covers); len(names) > 0 && len(n.settings.ACME.CAs) == 0 {
		n.log.Warn("hosts without a certificate: certificate: auto waits for a CA, and none is set",
			"hosts", len(names), "first", names[0], "hint", "set acme, or put PEM files into the folder of certificates.dir")
	}
	return nil
}

func (n *node) logCertificates(warnings []error, taken bool) {
	for _, w := range warnings {
		n.log.Warn(w.Error())
	}
	x := n.certs.Index()
	n.metrics.Certificates(x.Len(), x.FirstExpiry(), taken)
}

// listen opens every listener.
func (n *node) listen() error {
	l := n.settings.Listen
	given, err := inherited(n.log)
	if err != nil {
		return err
	}
	for _, want := range []struct {
		name  string
		addrs []string
		open  func(addr string) (net.Listener, error)
		serve func(net.Listener, net.PacketConn) error
	}{
		{"http", n.addresses("http", n.o.http, l.HTTP), listenStream, n.servePlain},
		{"https", n.addresses("https", n.o.https, l.HTTPS), listenStream, n.edge.ServeTLS},
		{"dns", one(n.address("dns", n.o.dns, l.DNS)), listenDNS, n.serveDNS},
		{"admin", one(n.address("admin", n.o.admin, l.Admin)), func(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }, n.serveAdmin},
	} {
		if n.o.role == roleControl && want.name != "admin" || want.name == "dns" && n.certificates.zone.server == nil {
			if found := given[want.name]; found != nil {
				n.log.Warn("a socket of the service manager is not used: this node does not answer there", "name", want.name, "hint", map[bool]string{true: "dns answers where acme.validationZone is set", false: "a control node has an admin listener alone"}[want.name == "dns"])
				found.close()
			}
			continue
		}
		add := func(ln net.Listener, packets net.PacketConn) error {
			n.listeners = append(n.listeners, listener{ln, packets, want.name, want.serve})
			if want.name == "admin" && n.adminHTTP.TLSConfig == nil {
				if err := checkPlainAdmin(ln); err != nil {
					return err
				}
			}
			n.log.Info("listening", "on", want.name, "addr", ln.Addr().String())
			if packets != nil {
				n.log.Info("listening", "on", "http3", "addr", packets.LocalAddr().String())
			}
			return nil
		}
		if found := given[want.name]; found != nil {
			for _, ln := range found.streams {
				if err := add(ln, found.packets[ln]); err != nil {
					return err
				}
			}
			continue
		}
		for _, addr := range want.addrs {
			ln, err := want.open(addr)
			if err != nil {
				return listenError(want.name, addr, err)
			}
			var packets net.PacketConn
			if want.name == "https" && n.http3() {
				packets = listenHTTP3(ln, n.log)
			}
			if err := add(ln, packets); err != nil {
				return err
			}
		}
	}
	if len(n.listeners) == 0 {
		return &fingerpost.Error{Code: "no_listener", Message: "every listener is switched off", Hint: `give --http or --https an address`}
	}
	return nil
}

func (n *node) servePlain(ln net.Listener, _ net.PacketConn) error { return n.edge.ServePlain(ln) }

func (n *node) serveAdmin(ln net.Listener, _ net.PacketConn) error {
	if n.adminHTTP.TLSConfig == nil {
		return n.adminHTTP.Serve(ln)
	}
	return n.adminHTTP.ServeTLS(ln, "", "")
}

// run serves until ctx ends or a listener fails, then finishes the requests
// under way.
func (n *node) run(ctx context.Context) error {
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	n.watch(watching)
	go n.tidy(watching, ticks(watching, tidySoon, tidyEvery))
	go n.rejoin(watching)
	n.certificates.ended = make(chan struct{})
	go func() {
		defer close(n.certificates.ended)
		n.runIssuer(watching)
	}()
	go n.followHeld(watching)
	n.watchAdminTLS(watching)
	failed := make(chan error, len(n.listeners))
	keepHeap()
	for _, l := range n.listeners {
		go func() {
			if err := l.serve(l.Listener, l.packets); err != nil && !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serve %s: %w", l.name, err)
			}
		}()
	}
	n.admin.Serving()
	if n.shared != nil && n.shared.db != nil && len(n.shared.replica.Status().Items) == 0 {
		n.log.Info("there is no content yet", "hint", "fingerpost redirects set FROM --to URL, fingerpost apply -f FILE, or files: fingerpost init DIR")
	}
	n.log.Info("ready", "version", version)
	notify(n.log, daemon.SdNotifyReady)
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	stopWatching()
	return errors.Join(err, n.stop())
}

// notify tells systemd, if it started us, of a change of state.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("cannot notify the service manager", "err", err)
	}
}

// watch follows files and sources until ctx ends.
func (n *node) watch(ctx context.Context) {
	n.set.SettingsChanged = func(now *source.Settings) {
		n.log.Warn("settings of the node were changed in the configuration file: they take effect with a restart", "settings", strings.Join(n.settings.Differences(now), " "))
	}
	n.follow(ctx)
	if n.certFiles != nil {
		go n.certFiles.Watch(ctx, func() {
			changed, warnings, err := n.certs.Reload()
			if !changed {
				return
			}
			n.logCertificates(warnings, err == nil)
			n.logErrors("certificates were refused, what was there before keeps serving", err)
			if err == nil {
				n.log.Info("certificates in force", "certificates", n.certs.Index().Len())
				n.certificates.wanted.note(nil)
			}
			// Rules may wait for the certificate that they name, or have lost it:
			// they keep being served, but would not start again.
			n.set.Retry()
			n.retry(true, 0)
			n.logErrors("a certificate that is needed at the next start is gone", checkCertificates(n.contents.joined().Hosts, n.hasCertificate))
		})
	}
	if n.geoFile != nil {
		go n.geoFile.Watch(ctx, func() {
			n.logErrors("the country file was refused, the last good one keeps serving", n.countries.Reload())
		})
	}
}

func (n *node) logErrors(what string, err error, more ...any) {
	for _, e := range fingerpost.Errors(err) {
		n.log.Error(what, append([]any{"err", e.Error(), "hint", e.Hint}, more...)...)
	}
}

// defaultShutdown bounds how long requests under way may take.
const defaultShutdown = 30 * time.Second

// stop finishes what is under way and closes everything.
func (n *node) stop() error {
	n.admin.Stopping()
	notify(n.log, daemon.SdNotifyStopping)
	timeout := n.settings.Limits.ShutdownTimeout
	if timeout == 0 {
		timeout = defaultShutdown
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	err := n.edge.Shutdown(ctx)
	if server := n.certificates.zone.server; server != nil {
		err = errors.Join(err, server.Shutdown(ctx))
	}
	if errors.Is(err, context.DeadlineExceeded) {
		n.log.Warn("requests under way did not end in time and were cut", "timeout", timeout)
		err = nil
	}
	err = errors.Join(err, n.adminHTTP.Close())
	n.admin.Close()
	select {
	case <-n.certificates.ended: // it has given its lease back, and another node goes on at once
	case <-time.After(issuerPatience):
	}
	closed := make(chan struct{})
	go func() {
		n.close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(logPatience):
		n.log.Error("records of the access log were lost: standard output takes no more")
	}
	n.log.Info("stopped")
	return err
}

// issuerPatience bounds the wait for a store that does not take the lease back.
const issuerPatience = 6 * time.Second

// logPatience bounds the wait for whoever reads the access log, who may be stuck.
const logPatience = time.Second

// close releases what start took.
func (n *node) close() {
	for _, l := range n.listeners {
		l.Close() // again, where its server has: to no effect
		if l.packets != nil {
			l.packets.Close()
		}
	}
	n.end()
	n.closeShared()
	if n.access != nil {
		if err := n.access.Close(); err != nil {
			n.log.Error("records of the access log were lost", "err", err)
		}
	}
}
