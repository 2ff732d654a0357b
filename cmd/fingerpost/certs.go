package main

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"fingerpost"
	"fingerpost/admin"
	"fingerpost/admin/client"

	"github.com/spf13/cobra"
)

func certsCommand() *cobra.Command {
	return family("certs", "Look at certificates of a server, request, import, renew, revoke and delete them",
		certsList(), certsGet(), certsRequest(), certsAddName(), certsCSR(), certsImport(), certsRenew(), certsRevoke(), certsEvents(), certsDelete(), certsExport(), certsExportCNAME())
}

var certColumns = []column[admin.CertificateResource]{
	{"name", func(c *admin.CertificateResource) string { return c.Name }},
	{"status", func(c *admin.CertificateResource) string { return c.Status }},
	{"type", func(c *admin.CertificateResource) string { return c.Type }},
	{"names", func(c *admin.CertificateResource) string { return namesText(c.Names) }},
	{"days", func(c *admin.CertificateResource) string { return daysText(c.DaysLeft) }},
	{"until", func(c *admin.CertificateResource) string { return moment(c.NotAfter) }},
	{"key", func(c *admin.CertificateResource) string { return c.KeyType }},
	{"issuer", func(c *admin.CertificateResource) string { return c.Issuer }},
	{"team", func(c *admin.CertificateResource) string { return c.Team }},
	{"reason", func(c *admin.CertificateResource) string { return c.Reason }},
}

// certTable is what people see of a list: a line of a hundred characters for each.
var certTable = []column[admin.CertificateResource]{
	{"name", func(c *admin.CertificateResource) string { return cut(c.Name, 30) }},
	{"status", func(c *admin.CertificateResource) string { return c.Status }},
	{"days", func(c *admin.CertificateResource) string { return daysText(c.DaysLeft) }},
	{"for", func(c *admin.CertificateResource) string {
		if c.Reason != "" {
			return cut(c.Reason, 40)
		}
		return shortNames(c.Names, 40)
	}},
}

// shortNames lists as many names as fit into so many characters, and counts the rest.
func shortNames(names []admin.NameResource, most int) string {
	text := ""
	for i := range names {
		next, rest := strings.TrimPrefix(text+" "+names[i].Name, " "), ""
		if left := len(names) - i - 1; left > 0 {
			rest = fmt.Sprintf(" +%d", left)
		}
		if i > 0 && len(next)+len(rest) > most {
			rest = fmt.Sprintf(" +%d", len(names)-i)
			return cut(text, most-len(rest)) + rest
		}
		text = next
	}
	return cut(text, most)
}

// cut shortens a text to so many characters.
func cut(text string, most int) string {
	if r := []rune(text); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return text
}

func namesText(names []admin.NameResource) string {
	var some []string
	for i := range names {
		if i == 3 {
			return strings.Join(some, " ") + fmt.Sprintf(" and %d more", len(names)-i)
		}
		some = append(some, names[i].Name)
	}
	return strings.Join(some, " ")
}

func daysText(days *int) string {
	if days == nil {
		return ""
	}
	return fmt.Sprint(*days)
}

var nameColumns = []column[admin.NameResource]{
	{"name", func(n *admin.NameResource) string { return n.Name }},
	{"status", func(n *admin.NameResource) string { return n.Status }},
	{"certificate", func(n *admin.NameResource) string { return n.Certificate }},
	{"days", func(n *admin.NameResource) string { return daysText(n.DaysLeft) }},
	{"method", func(n *admin.NameResource) string { return n.Method }},
	{"record", func(n *admin.NameResource) string {
		if n.Record == nil {
			return ""
		}
		return n.Record.Name + " " + n.Record.Type + " " + n.Record.Value
	}},
	{"next", func(n *admin.NameResource) string { return moment(n.NextTry) }},
	{"reason", func(n *admin.NameResource) string { return n.Reason }},
	{"link", func(n *admin.NameResource) string { return n.Link }},
}

func certsList() *cobra.Command {
	var f client.CertificateFilter
	cmd := &cobra.Command{Use: "list", Short: "List certificates, then names that wait for one, then open requests", Args: exactArgs(0),
		Long: `List certificates, then names that wait for one, then open requests. A line says what
it is for, or why it is not issued; certs get NAME and other formats (-o) say more.`}
	cmd.Flags().StringVar(&f.Status, "status", "", "only those of this `STATUS`: pending_validation, issued, inactive, expired, validation_timed_out, revoked or failed")
	cmd.Flags().StringVar(&f.Team, "team", "", "only those of the team `NAME`")
	cmd.Flags().StringVar(&f.Name, "name", "", "only those for `HOST`, wildcards among them")
	return remoteVerb(cmd, func(s *session, _ []string) error {
		columns := certColumns
		if s.format == formatTable {
			columns = certTable
		}
		return printList(s, s.Certificates(s.ctx, f), columns...)
	})
}

func certsGet() *cobra.Command {
	cmd := &cobra.Command{Use: "get NAME|HOST", Short: "Show one certificate, the hosts that use it, and how each of its names stands", Args: exactArgs(1),
		Long: `Show one certificate, the hosts that use it, and how each of its names stands: why one
fails, what is to be done, and when it is tried again. NAME is that of certs list, or a
host that it is served for.`,
		Example: "  fingerpost certs get shop.example"}
	return remoteVerb(cmd, func(s *session, args []string) error {
		c, err := s.Certificate(s.ctx, args[0])
		if err != nil {
			return err
		}
		return printOne(s, c, certColumns...)
	})
}

// waitFlags are those of verbs that begin what takes a while.
type waitFlags struct {
	wait    bool
	timeout time.Duration
}

func (w *waitFlags) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&w.wait, "wait", false, "wait until the certificate is served, or has failed")
	cmd.Flags().DurationVar(&w.timeout, "timeout", 15*time.Minute, "`DURATION` that --wait waits at most")
}

func (w *waitFlags) check() error {
	if w.timeout <= 0 {
		return usage(fmt.Errorf("--timeout %s: it is more than nothing, as in 90s or 15m", w.timeout))
	}
	return nil
}

// certPause is how often --wait looks.
const certPause = time.Second

// stage is how far something is.
type stage struct {
	done       bool
	line, next string // where it is, and what comes next, for people
}

// until calls look until it is done, and tells people what it says whenever that is
// something else.
func (w *waitFlags) until(s *session, what string, look func() (stage, error)) error {
	end := time.NewTimer(w.timeout)
	defer end.Stop()
	said := ""
	for {
		now, err := look()
		if err != nil {
			return err
		}
		if now.line != said && now.line != "" {
			s.note("%s", printable(now.line))
			said = now.line
		}
		if now.done {
			return nil
		}
		select {
		case <-time.After(certPause):
		case <-s.ctx.Done():
			return s.ctx.Err()
		case <-end.C:
			return &fingerpost.Error{Code: "not_live", Message: fmt.Sprintf("%s is not live after %s: %s", what, w.timeout, cmp.Or(said, "nothing has happened")), Hint: cmp.Or(now.next, "it goes on by itself; fingerpost certs list shows how far it is")}
		}
	}
}

// failedName is the error of a name that does not become live without somebody's help.
func failedName(n *admin.NameResource) error {
	return &fingerpost.Error{Code: "failed", Message: n.Name + ": " + n.Reason, Hint: n.NextStep}
}

func isFailed(status string) bool {
	return status == admin.StatusFailed || status == admin.StatusTimedOut || status == admin.StatusInactive
}

// notLive says in one line how names stand that are not live, and what comes next for
// the first of them.
func notLive(names []admin.NameResource) stage {
	var parts []string
	next := ""
	for i := range names {
		if n := &names[i]; n.Status != admin.StatusIssued {
			parts, next = append(parts, n.Name+": "+n.Reason), cmp.Or(next, n.NextStep)
		}
	}
	return stage{line: strings.Join(parts, "; "), next: next}
}

// takenUp is how long what failed before a request may stand, until that is taken up.
const takenUp = 10 * time.Second

// asked is when something was asked, and how names stood then: what had failed counts
// only if it fails again.
type asked struct {
	at      time.Time
	nextTry map[string]time.Time
}

func askedNow(names []admin.NameResource) asked {
	a := asked{time.Now(), map[string]time.Time{}}
	for i := range names {
		a.nextTry[names[i].Name] = names[i].NextTry
	}
	return a
}

// failed is the error of the first of names that has failed since.
func (a asked) failed(names []admin.NameResource) error {
	for i := range names {
		if n := &names[i]; isFailed(n.Status) && (time.Since(a.at) > takenUp || !n.NextTry.Equal(a.nextTry[n.Name])) {
			return failedName(n)
		}
	}
	return nil
}

// host waits until all names of a host, which stood as in before when it was asked for,
// have a certificate.
func (w *waitFlags) host(s *session, host string, before asked) (r admin.HostCertificateResource, err error) {
	err = w.until(s, host, func() (stage, error) {
		if r, err = s.HostCertificate(s.ctx, host); err == nil {
			err = before.failed(r.Names)
		}
		if err == nil && r.Live {
			return stage{done: true, line: host + " is live"}, nil
		}
		return notLive(r.Names), err
	})
	return r, err
}

func certsRequest() *cobra.Command {
	var w waitFlags
	cmd := &cobra.Command{Use: "request HOST...", Short: "Have the names of hosts checked and ordered now, whatever they waited for", Args: minArgs(1),
		Long: `Have the names of hosts checked and ordered now, whatever they waited for. Names of
hosts are ordered by themselves: this is for when you have just set their DNS right.`,
		Example: "  fingerpost certs request shop.example --wait"}
	w.register(cmd)
	return remoteVerb(cmd, func(s *session, args []string) error {
		if err := w.check(); err != nil {
			return err
		}
		var names []admin.NameResource
		var results []admin.HostCertificateResource
		var before []asked
		for _, host := range args { // nothing is asked for if one of them is not there
			r, err := s.HostCertificate(s.ctx, host)
			if err != nil {
				return err
			}
			before = append(before, askedNow(r.Names))
		}
		for _, host := range args {
			r, err := s.RequestHostCertificate(s.ctx, host)
			if err != nil {
				return err
			}
			results = append(results, r)
		}
		for i, host := range args {
			if w.wait {
				r, err := w.host(s, host, before[i])
				if err != nil {
					return err
				}
				results[i] = r
			}
			names = append(names, results[i].Names...)
		}
		return printSlice(s, names, nil, nameColumns...)
	})
}

// clocksApart is how far the server's clock may be behind ours.
const clocksApart = 10 * time.Minute

// refused gives the newest of what was asked of a certificate and not done.
func refused(s *session, certificate string) (last admin.CertificateEvent, err error) {
	for e, err := range s.CertificateEvents(s.ctx, client.EventFilter{What: "refused", Certificate: certificate, Since: time.Now().Add(-clocksApart)}) {
		if err != nil {
			return last, err
		}
		last = e
	}
	return last, nil
}

// replaced waits until another certificate has taken the place of one; with another
// name, where there is one. refusedBefore is what refused gave before it was asked for.
func (w *waitFlags) replaced(s *session, before admin.CertificateResource, with string, refusedBefore admin.CertificateEvent) error {
	var of asked
	if with != "" {
		h, err := s.HostCertificate(s.ctx, with)
		if err != nil && !isMissing(err) {
			return err
		}
		of = askedNow(h.Names)
	}
	begun := time.Now()
	return w.until(s, before.Name, func() (now stage, err error) {
		c, err := s.Certificate(s.ctx, before.Name)
		if isMissing(err) || err == nil && (c.Serial != before.Serial || c.Status == admin.StatusInactive) {
			return stage{done: true, line: before.Name + " is replaced"}, nil
		}
		if err != nil {
			return now, err
		}
		last, err := refused(s, before.Name)
		if err == nil && last.At.After(refusedBefore.At) {
			err = &fingerpost.Error{Code: "refused", Message: "it was not done: " + last.Reason, Hint: cmp.Or(last.Hint, "what is served stays; see fingerpost certs get "+before.Name)}
		}
		if err != nil {
			return now, err
		}
		if with != "" {
			h, err := s.HostCertificate(s.ctx, with)
			if err == nil {
				err = of.failed(h.Names)
			}
			if err != nil && !isMissing(err) {
				return now, err
			}
		}
		now.line = "the renewal of " + before.Name + " waits"
		if r := c.Renewal; r != nil {
			if r.Status == "failed" && time.Since(begun) > takenUp {
				return now, &fingerpost.Error{Code: "failed", Message: "the renewal of " + before.Name + " failed: " + r.Reason, Hint: "what is served stays; see fingerpost certs get " + before.Name}
			}
			now.line = before.Name + ": " + strings.TrimSpace(r.Status+" "+r.Reason)
		}
		return now, nil
	})
}

func certsAddName() *cobra.Command {
	var w waitFlags
	var yes, dryRun bool
	cmd := &cobra.Command{Use: "add-name NAME|HOST HOST", Short: "Order a certificate again with one name more; it tells what that costs, and asks", Args: exactArgs(2),
		Long: `Order a certificate again with one name more. It tells what that costs of the CA's
limits, and asks; where another node than the server orders, only that one knows the
cost. New hosts need nothing of this: they get certificates by themselves, and move
together when these are renewed, which costs nothing.`}
	w.register(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only tell what it costs")
	return remoteVerb(cmd, func(s *session, args []string) error {
		if err := w.check(); err != nil {
			return err
		}
		before, err := s.Certificate(s.ctx, args[0])
		if err != nil {
			return err
		}
		cost, err := s.AddCertificateName(s.ctx, before.Name, args[1], true)
		if err != nil {
			return err
		}
		if dryRun {
			return printOne(s, cost, costColumns...)
		}
		s.note("%s", printable(cost.Reason))
		if err := s.confirm(yes, "Order it?"); err != nil {
			return err
		}
		refusals, err := refused(s, before.Name)
		if err != nil {
			return err
		}
		if cost, err = s.AddCertificateName(s.ctx, before.Name, args[1], false); err != nil {
			return err
		}
		if w.wait {
			if err := w.replaced(s, before, args[1], refusals); err != nil {
				return err
			}
		}
		return printOne(s, cost, costColumns...)
	})
}

var costColumns = []column[admin.CostResource]{
	{"certificate", func(c *admin.CostResource) string { return c.Certificate }},
	{"name", func(c *admin.CostResource) string { return c.Name }},
	{"free", func(c *admin.CostResource) string { return yesOrNothing(c.Free) }},
	{"orders", func(c *admin.CostResource) string { return knownCost(c, c.Orders) }},
	{"left", func(c *admin.CostResource) string { return knownCost(c, c.OrdersLeft) }},
	{"at", func(c *admin.CostResource) string { return moment(c.At) }},
	{"reason", func(c *admin.CostResource) string { return c.Reason }},
}

func knownCost(c *admin.CostResource, n int) string {
	if c.Unknown {
		return ""
	}
	return fmt.Sprint(n)
}

func certsCSR() *cobra.Command {
	var in client.Signing
	var rsa bool
	cmd := &cobra.Command{Use: "csr NAME HOST...", Short: "Make a signing request for a certificate that you buy; its key stays on the server", Args: minArgs(2),
		Long: `Make a signing request (CSR) for a certificate that you buy. It is printed; give it to
the CA, and import what comes back under the same NAME. The private key stays on the
server, sealed. The same command again prints the same request.`,
		Example: `  fingerpost certs csr shop-2027 shop.example www.shop.example --organization 'Shop AS' --country NO >shop.csr
  fingerpost certs import shop-2027 shop.crt chain.crt`}
	cmd.Flags().BoolVar(&rsa, "rsa", false, "an RSA key of 2048 bits, for clients that know nothing newer (default ECDSA P-256)")
	cmd.Flags().StringVar(&in.Organization, "organization", "", "`NAME` of the owner, as it shall stand in the certificate")
	cmd.Flags().StringVar(&in.Locality, "locality", "", "`CITY` of the owner")
	cmd.Flags().StringVar(&in.Province, "province", "", "`STATE` or province of the owner")
	cmd.Flags().StringVar(&in.Country, "country", "", "two-letter `CODE` of the owner's country")
	cmd.Flags().StringVar(&in.Team, "team", "", "`NAME` of the team that has it (default that of the hosts)")
	cmd.Flags().BoolVar(&in.Replace, "replace", false, "forget an open request of this name with its key")
	return remoteVerb(cmd, func(s *session, args []string) error {
		in := in
		in.Name, in.Names = args[0], args[1:]
		if rsa {
			in.KeyType = "rsa"
		}
		c, err := s.RequestSigning(s.ctx, in)
		if err != nil {
			return err
		}
		if s.format != formatTable {
			return printOne(s, c, certColumns...)
		}
		s.note("have a CA sign this; then: fingerpost certs import %s FILE", c.Name)
		_, err = io.WriteString(s.cmd.OutOrStdout(), c.Request)
		return err
	})
}

// mostBundle is how many bytes of a bundle are sent: in base64 they are what the API
// takes at most.
const mostBundle = 1_400_000

// readBundle reads files of PEM, in any order, or one PKCS #12 file; - is the input.
func readBundle(files []string) (string, error) {
	var all [][]byte
	for _, file := range files {
		var text []byte
		var err error
		if file == "-" {
			text, err = io.ReadAll(io.LimitReader(os.Stdin, mostBundle+1))
		} else {
			text, err = os.ReadFile(file)
		}
		if err != nil {
			return "", fileError(file, "read", err)
		}
		if len(text) > mostBundle {
			return "", &fingerpost.Error{Code: "bad_file", Message: "this is too large for a certificate with its chain", Hint: "give the certificate, its chain and its key alone", At: fingerpost.Position{File: file}}
		}
		if !bytes.Contains(text, []byte("-----BEGIN ")) {
			if len(files) > 1 {
				return "", &fingerpost.Error{Code: "bad_file", Message: "this is not PEM, and stands beside other files", Hint: "give one PKCS #12 file alone, or PEM files, which are plain text (UTF-8)", At: fingerpost.Position{File: file}}
			}
			return base64.StdEncoding.EncodeToString(text), nil
		}
		all = append(all, text)
	}
	return string(bytes.Join(all, []byte("\n"))), nil
}

func certsImport() *cobra.Command {
	var in client.Import
	var passwordFile string
	cmd := &cobra.Command{Use: "import NAME FILE...", Short: "Import a certificate with its chain and key, from PEM or PKCS #12", Args: minArgs(2),
		Long: `Import a certificate with its chain and key: PEM files in any order, or one PKCS #12
file (.p12, .pfx). What was requested by certs csr has its key on the server. Under
the name of a certificate that was imported before, it takes its place at once, on
every node, with no connection lost. A certificate for RSA beside one for ECDSA has a
name of its own.`,
		Example: `  fingerpost certs import shop shop.crt chain.crt shop.key
  fingerpost certs import shop shop.p12 --password-file pass.txt
  openssl pkcs12 -in old.p12 -nodes | fingerpost certs import shop -`}
	cmd.Flags().StringVar(&passwordFile, "password-file", "", "`FILE` with the password of a PKCS #12 file, in its first line")
	cmd.Flags().StringVar(&in.Team, "team", "", "`NAME` of the team that has it (default that of its hosts)")
	cmd.Flags().BoolVar(&in.AllowLosing, "allow-losing", false, "it may have fewer names than the certificate before")
	cmd.Flags().BoolVar(&in.DryRun, "dry-run", false, "check everything, but change nothing")
	cmd.Flags().StringVar(&in.Note, "why", "", "`TEXT` for the audit")
	return remoteVerb(cmd, func(s *session, args []string) error {
		in := in
		in.Name = args[0]
		var err error
		if in.Bundle, err = readBundle(args[1:]); err != nil {
			return err
		}
		if passwordFile != "" {
			text, err := os.ReadFile(passwordFile)
			if err != nil {
				return fileError(passwordFile, "read", err)
			}
			in.Password, _, _ = strings.Cut(string(text), "\n")
			in.Password = strings.TrimSuffix(in.Password, "\r")
		}
		out, err := s.ImportCertificate(s.ctx, in)
		if err != nil {
			return err
		}
		for _, w := range out.Warnings {
			printError(s.cmd.ErrOrStderr(), "warning", &fingerpost.Error{Code: w.Code, Message: w.Detail, Hint: w.Hint})
		}
		switch {
		case in.DryRun:
			s.note("it can be imported; nothing was changed")
		case !out.Changed:
			s.note("it is there already; nothing was changed")
		}
		return printOne(s, out.Certificate, certColumns...)
	})
}

func certsRenew() *cobra.Command {
	var w waitFlags
	cmd := &cobra.Command{Use: "renew NAME|HOST", Short: "Renew a certificate now; what is served stays until the new one is there", Args: exactArgs(1),
		Long: `Renew a certificate now, instead of when its CA suggests it. What is served stays until
the new one is there. It counts against the CA's limits, unless it is due.`}
	w.register(cmd)
	return remoteVerb(cmd, func(s *session, args []string) error {
		if err := w.check(); err != nil {
			return err
		}
		c, err := s.Certificate(s.ctx, args[0])
		if err != nil {
			return err
		}
		refusals, err := refused(s, c.Name)
		if err == nil {
			c, err = s.RenewCertificate(s.ctx, c.Name)
		}
		if err != nil {
			return err
		}
		if w.wait {
			return w.replaced(s, c, "", refusals)
		}
		s.note("its renewal is asked for; fingerpost certs get %s shows what comes of it", c.Name)
		return nil
	})
}

func certsDelete() *cobra.Command {
	var w client.Write
	var force, yes bool
	cmd := &cobra.Command{Use: "delete NAME|HOST", Short: "Delete a certificate that no host needs, or an open request with its key", Args: exactArgs(1)}
	cmd.Flags().BoolVar(&force, "force", false, "even if hosts are left without a certificate")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().StringVar(&w.Note, "why", "", "`TEXT` for the audit")
	return remoteVerb(cmd, func(s *session, args []string) error {
		c, err := s.Certificate(s.ctx, args[0])
		if err != nil {
			return err
		}
		s.note("- certificate %s (%s, %s) for %s", c.Name, c.Type, c.Status, namesText(c.Names))
		if len(c.InUse) > 0 {
			text := strings.Join(c.InUse[:min(10, len(c.InUse))], ", ")
			if c.InUseBy > 10 {
				text += fmt.Sprintf(" and %d more", c.InUseBy-10)
			}
			s.note("  served for %s", text)
		}
		if err := s.confirm(yes, "Delete it?"); err != nil {
			return err
		}
		if _, err := s.DeleteCertificate(s.ctx, c.Name, force, w); err != nil {
			return err
		}
		s.note("deleted %s", c.Name)
		return nil
	})
}

func certsExport() *cobra.Command {
	var out string
	cmd := &cobra.Command{Use: "export NAME|HOST", Short: "Write a certificate with its chain and private key; for the admin, and noted in the audit", Args: exactArgs(1),
		Example: "  fingerpost certs export shop --out shop.pem"}
	cmd.Flags().StringVar(&out, "out", "", "`FILE` to write, for its owner alone to read (default: standard output)")
	return remoteVerb(cmd, func(s *session, args []string) error {
		known, err := s.Certificate(s.ctx, args[0])
		if err != nil {
			return err
		}
		c, err := s.ExportCertificate(s.ctx, known.Name)
		if err != nil {
			return err
		}
		if out != "" {
			if err := writePrivate(out, c.Chain+c.Key); err != nil {
				return fileError(out, "written", err)
			}
			s.note("%s holds the certificate and its private key: keep it safe", out)
			return nil
		}
		if s.format == formatTable {
			_, err = io.WriteString(s.cmd.OutOrStdout(), c.Chain+c.Key)
			return err
		}
		return printOne(s, c, column[admin.ExportedCertificate]{"name", func(c *admin.ExportedCertificate) string { return c.Name }},
			column[admin.ExportedCertificate]{"chain", func(c *admin.ExportedCertificate) string { return c.Chain }},
			column[admin.ExportedCertificate]{"key", func(c *admin.ExportedCertificate) string { return c.Key }})
	})
}

// writePrivate writes a file whole or not at all, for its owner only, whatever the
// rights of a file that was there.
func writePrivate(file, text string) error {
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // without effect once it is renamed
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}

func certsExportCNAME() *cobra.Command {
	var team string
	cmd := &cobra.Command{Use: "export-cname", Short: "Print the CNAME of each domain that lets it be validated over DNS: lines of a zone file, or -o csv or json", Args: exactArgs(0),
		Long: `Print the CNAME of each domain that lets it be validated over DNS. It is set once for
each domain, before or after the domain points here, and stays the same. Lines of a
zone file (BIND) are printed, or with -o another form: csv or json.`}
	cmd.Flags().StringVar(&team, "team", "", "only for hosts of the team `NAME`")
	return remoteVerb(cmd, func(s *session, _ []string) error {
		format := "bind"
		switch s.format {
		case formatCSV, formatJSON:
			format = s.format
		case formatTable:
		default:
			return usage(fmt.Errorf("-o %s: csv or json; without -o, lines of a zone file", s.format))
		}
		body, err := s.CNAMEs(s.ctx, format, team)
		if err != nil {
			return err
		}
		defer body.Close()
		_, err = io.Copy(s.cmd.OutOrStdout(), body)
		return err
	})
}
