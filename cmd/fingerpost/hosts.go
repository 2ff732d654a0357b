package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"fingerpost"
	"fingerpost/admin"
	"fingerpost/admin/client"

	"github.com/spf13/cobra"
)

func hostsCommand() *cobra.Command {
	return family("hosts", "Look at hosts of a server and change them", hostsList(), hostsGet(), hostsSet(), hostsDelete())
}

var hostColumns = []column[admin.HostResource]{
	{"name", func(h *admin.HostResource) string { return h.Name }},
	{"to", func(h *admin.HostResource) string { return h.To }},
	{"status", func(h *admin.HostResource) string { return number(h.Status) }},
	{"https", func(h *admin.HostResource) string { return h.HTTPS }},
	{"certificate", func(h *admin.HostResource) string { return certificateText(h) }},
	{"team", func(h *admin.HostResource) string { return h.Team }},
	{"source", func(h *admin.HostResource) string { return h.Source }},
	{"rev", func(h *admin.HostResource) string { return number(h.Rev) }},
}

// certificateText is what is wanted of certificates, where that is said, and what there
// is.
func certificateText(h *admin.HostResource) string {
	c := h.CertificateState
	if c == nil {
		return h.Certificate
	}
	text := ""
	switch {
	case c.State == "live" && !c.Until.IsZero():
		text = "live until " + c.Until.Local().Format(time.DateOnly)
	case c.Reason != "":
		text = c.State + ": " + c.Reason
		if !c.NextTry.IsZero() {
			text += "; next try " + moment(c.NextTry)
		}
	default:
		text = c.State
	}
	if h.Certificate != "" && h.Certificate != "auto" && h.Certificate != "none" {
		text = h.Certificate + " " + text
	}
	return text
}

func filterFlags(cmd *cobra.Command, f *client.Filter) {
	cmd.Flags().StringVar(&f.Team, "team", "", "only those of the team `NAME`")
	cmd.Flags().StringVar(&f.Source, "source", "", "only those of the source `LABEL`")
	cmd.Flags().StringVar(&f.Text, "text", "", "only those with this `TEXT` in them")
}

func hostsList() *cobra.Command {
	var f client.Filter
	cmd := &cobra.Command{Use: "list", Short: "List hosts by name", Args: exactArgs(0)}
	filterFlags(cmd, &f)
	return remoteVerb(cmd, func(s *session, _ []string) error { return printList(s, s.Hosts(s.ctx, f), hostColumns...) })
}

func hostsGet() *cobra.Command {
	cmd := &cobra.Command{Use: "get NAME", Short: "Show one host, and how its names stand with DNS and certificates", Args: exactArgs(1)}
	return remoteVerb(cmd, func(s *session, args []string) error {
		h, err := s.Host(s.ctx, args[0])
		if err != nil {
			return err
		}
		if h.CertificateState == nil || s.format != formatTable && s.format != formatYAML {
			return printOne(s, h, hostColumns...)
		}
		c, err := s.HostCertificate(s.ctx, args[0])
		if err != nil {
			return err
		}
		return printOne(s, hostWithNames{h, c.Names})
	})
}

// hostWithNames is a host as people read it.
type hostWithNames struct {
	admin.HostResource
	Names []admin.NameResource `json:"names,omitempty"`
}

// writeFlags are those of every write of one thing.
func writeFlags(cmd *cobra.Command, w *client.Write) {
	cmd.Flags().BoolVar(&w.Take, "take", false, "take it over from another source")
	cmd.Flags().StringVar(&w.Note, "why", "", "`TEXT` for the audit")
}

func hostsSet() *cobra.Command {
	var w client.Write
	var like, hsts, page string
	var in fingerpost.Host
	var fallback fingerpost.Fallback
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Make a host or change its settings",
		Long: `Make a host or change its settings. What no flag names stays as it is; an empty value
takes a setting away. With --like the settings begin as those of another host, all but
its further names.`,
		Example: `  fingerpost hosts set old.example.com --to https://www.example.com{path} --status 308
  fingerpost hosts set www.example.com --https redirect-to-https --hsts '63072000; includeSubDomains'
  fingerpost hosts set shop.example.com --like www.example.com --team shop
  fingerpost hosts set www.example.com --fallback-to https://www.example.com/ --fallback-status 302`,
		Args: exactArgs(1),
	}
	fl := cmd.Flags()
	fl.StringVar(&like, "like", "", "begin with the settings of the host `OTHER`")
	fl.StringVar(&in.To, "to", "", "send the whole host to `URL`")
	fl.IntVar(&in.Status, "status", 0, "status that goes with --to; 0 for the default, 301")
	fl.StringVar(&in.HTTPS, "https", "", "`POLICY`: allow-all, redirect-to-https or https-only")
	fl.StringVar(&hsts, "hsts", "", "`POLICY` of Strict-Transport-Security: SECONDS[; includeSubDomains][; preload]")
	fl.StringVar(&in.Certificate, "certificate", "", "auto, none or the `NAME` of an imported one")
	fl.StringVar(&fallback.To, "fallback-to", "", "`URL` where no redirect holds")
	fl.IntVar(&fallback.Status, "fallback-status", 0, "status where no redirect holds: of a redirect, or 404, 410 or 451; 0 for the default")
	fl.StringVar(&page, "fallback-page", "", "`FILE` of HTML where no redirect holds")
	fl.StringVar(&in.Team, "team", "", "`NAME` of the owner")
	fl.StringSliceVar(&in.Also, "also", nil, "further `HOSTS`, served the same")
	fl.StringSliceVar(&in.RedirectFrom, "redirect-from", nil, "`HOSTS` that are sent here")
	writeFlags(cmd, &w)
	return remoteVerb(cmd, func(s *session, args []string) error {
		h, err := s.Host(s.ctx, args[0])
		w := w
		switch {
		case isMissing(err):
			h, w.Rev = admin.HostResource{}, -1
		case err != nil:
			return err
		default:
			w.Rev = h.Rev
		}
		h.Name = args[0]
		if like != "" {
			other, err := s.Host(s.ctx, like)
			if isMissing(err) {
				return &fingerpost.Error{Code: "not_found", Field: "like", Message: "--like " + like + ": there is no such host", Hint: "fingerpost hosts list shows them"}
			} else if err != nil {
				return err
			}
			other.Also, other.RedirectFrom = h.Also, h.RedirectFrom
			h.Host = other.Host
		}
		for name, set := range map[string]func(){
			"to":            func() { h.To = in.To },
			"status":        func() { h.Status = in.Status },
			"https":         func() { h.HTTPS = in.HTTPS },
			"certificate":   func() { h.Certificate = in.Certificate },
			"team":          func() { h.Team = in.Team },
			"also":          func() { h.Also = in.Also },
			"redirect-from": func() { h.RedirectFrom = in.RedirectFrom },
		} {
			if fl.Changed(name) {
				set()
			}
		}
		if fl.Changed("hsts") {
			if h.HSTS, err = parseHSTS(hsts); err != nil {
				return err
			}
		}
		if h.Fallback == nil {
			h.Fallback = &fingerpost.Fallback{}
		}
		if fl.Changed("fallback-to") {
			h.Fallback.To = fallback.To
		}
		if fl.Changed("fallback-status") {
			h.Fallback.Status = fallback.Status
		}
		if fl.Changed("fallback-page") {
			if h.Fallback.Page, err = readPage(page); err != nil {
				return err
			}
		}
		if *h.Fallback == (fingerpost.Fallback{}) {
			h.Fallback = nil
		}
		if h, err = s.PutHost(s.ctx, h, w); err != nil {
			return err
		}
		return printOne(s, h, hostColumns...)
	})
}

// parseHSTS reads a policy as the header has it, with or without max-age= before
// the seconds. An empty one is none.
func parseHSTS(text string) (*fingerpost.HSTS, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	bad := usage(fmt.Errorf("--hsts %q: it is SECONDS, then includeSubDomains and preload if they should be, as in '63072000; includeSubDomains'", text))
	h := &fingerpost.HSTS{MaxAge: -1}
	for part := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ';' || r == ',' || r == ' ' }) {
		switch seconds, err := strconv.Atoi(strings.TrimPrefix(part, "max-age=")); {
		case err == nil && h.MaxAge < 0 && seconds >= 0:
			h.MaxAge = seconds
		case strings.EqualFold(part, "includeSubDomains"):
			h.IncludeSubDomains = true
		case strings.EqualFold(part, "preload"):
			h.Preload = true
		default:
			return nil, bad
		}
	}
	if h.MaxAge < 0 {
		return nil, bad
	}
	return h, nil
}

// readPage reads a page of HTML; no name is no page.
func readPage(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fileError(file, "read", err)
	}
	return string(text), nil
}

func hostsDelete() *cobra.Command {
	var w client.Write
	var redirects string
	var allowRemoving int64
	var yes bool
	cmd := &cobra.Command{Use: "delete NAME", Short: "Delete a host's settings, and its redirects if that is said", Args: exactArgs(1),
		Long: "Delete a host's settings, and its redirects if that is said. It shows what goes with the host, and asks."}
	cmd.Flags().StringVar(&redirects, "redirects", "", "`WHAT` becomes of its redirects: delete or keep")
	cmd.Flags().Int64Var(&allowRemoving, "allow-removing", 0, "with --yes: how many redirects may go, where that is more than a tenth of a team's")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	writeFlags(cmd, &w)
	return remoteVerb(cmd, func(s *session, args []string) error {
		switch redirects {
		case "", "delete", "keep":
		default:
			return usage(fmt.Errorf("--redirects %s: delete or keep", redirects))
		}
		h, err := s.Host(s.ctx, args[0])
		if err != nil {
			return err
		}
		n := int64(0)
		for _, err := range s.Redirects(s.ctx, client.Filter{Host: h.Name}) {
			if err != nil {
				return err
			}
			n++
		}
		if n > 0 && redirects == "" {
			return &fingerpost.Error{Code: "has_redirects", Message: fmt.Sprintf("the host %s has %s; nothing was changed", h.Name, plural64(n, "redirect")),
				Hint: "say --redirects delete to delete them too, or --redirects keep to serve them without settings"}
		}
		s.note("- host %s: its settings (source %s)", h.Name, h.Source)
		for _, name := range append(append([]string{}, h.Also...), h.RedirectFrom...) {
			s.note("- the name %s, which is answered for through it", name)
		}
		switch {
		case n > 0 && redirects == "delete":
			s.note("- %s of it", plural64(n, "redirect"))
		case n > 0:
			s.note("  %s of it, kept and served without settings", plural64(n, "redirect"))
		}
		if err := s.confirm(yes, "Delete this?"); err != nil {
			return err
		}
		w, allowed := w, allowRemoving
		w.Rev = h.Rev // what was shown, and nothing else
		if !yes {
			allowed = n // somebody has said yes to so many
		}
		return s.printResult(s.DeleteHost(s.ctx, h.Name, redirects, allowed, w))
	})
}
