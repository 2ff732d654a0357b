package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"fingerpost/admin"
	"fingerpost/admin/client"
	"fingerpost/cert/order"

	"github.com/spf13/cobra"
)

func certsRevoke() *cobra.Command {
	var w waitFlags
	var reason, why string
	var yes bool
	cmd := &cobra.Command{Use: "revoke NAME", Short: "Have the CA revoke a certificate, and order another with a new key", Args: exactArgs(1),
		Long: `Have the CA revoke a certificate, and order another with a new key. What is served stays
until the new one is live, whatever the reason: who has stolen a key shows the
certificate without us. One that was imported is only marked as revoked: have the CA
that issued it revoke it.`}
	reasons := slices.DeleteFunc(slices.Sorted(maps.Keys(order.RevocationReasons)), func(r string) bool { return r == "" })
	w.register(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "`REASON` that the CA is told: "+strings.Join(reasons, ", "))
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().StringVar(&why, "why", "", "`TEXT` for the audit")
	return remoteVerb(cmd, func(s *session, args []string) error {
		if reason != "" && !slices.Contains(reasons, reason) {
			return usage(fmt.Errorf("--reason %q is none of %s", reason, strings.Join(reasons, ", ")))
		}
		c, err := s.Certificate(s.ctx, args[0])
		if err != nil {
			return err
		}
		s.note("- certificate %s (%s, %s) for %s", c.Name, c.Type, c.Status, namesText(c.Names))
		if err := s.confirm(yes, "Revoke it?"); err != nil {
			return err
		}
		refusals, err := refused(s, c.Name)
		if err != nil {
			return err
		}
		if c, err = s.RevokeCertificate(s.ctx, c.Name, reason, why); err != nil {
			return err
		}
		switch {
		case c.Type != "acme":
			s.note("%s: %s", c.Reason, c.NextStep)
		case w.wait:
			return w.replaced(s, c, "", refusals)
		default:
			s.note("its revocation is asked for; fingerpost certs events --certificate %s shows what comes of it", c.Name)
		}
		return nil
	})
}

var eventColumns = []column[admin.CertificateEvent]{
	{"at", func(e *admin.CertificateEvent) string { return moment(e.At) }},
	{"what", func(e *admin.CertificateEvent) string { return e.What }},
	{"names", func(e *admin.CertificateEvent) string {
		if len(e.Names) > 3 {
			return strings.Join(e.Names[:3], " ") + fmt.Sprintf(" and %d more", len(e.Names)-3)
		}
		return strings.Join(e.Names, " ")
	}},
	{"certificate", func(e *admin.CertificateEvent) string { return e.Certificate }},
	{"ca", func(e *admin.CertificateEvent) string { return e.CA }},
	{"reason", func(e *admin.CertificateEvent) string { return e.Reason }},
	{"hint", func(e *admin.CertificateEvent) string { return e.Hint }},
}

func certsEvents() *cobra.Command {
	var f client.EventFilter
	var since time.Duration
	cmd := &cobra.Command{Use: "events", Short: "List what has happened to names and certificates in the last 30 days, the oldest first", Args: exactArgs(0)}
	cmd.Flags().DurationVar(&since, "since", 7*24*time.Hour, "only what happened in the last `DURATION`")
	cmd.Flags().StringVar(&f.What, "what", "", "only this `KIND`: issued, renewed, failed, order, expiring, revoked, removed or refused")
	cmd.Flags().StringVar(&f.Name, "name", "", "only what is about `HOST`")
	cmd.Flags().StringVar(&f.Certificate, "certificate", "", "only what is about the certificate `NAME`")
	cmd.Flags().StringVar(&f.Team, "team", "", "only what is about names of the team `NAME`")
	return remoteVerb(cmd, func(s *session, _ []string) error {
		f.Since = time.Now().Add(-since)
		return printList(s, s.CertificateEvents(s.ctx, f), eventColumns...)
	})
}
