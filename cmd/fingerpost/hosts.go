package main

import (
	"fmt"

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
	{"certificate", func(h *admin.HostResource) string { return h.Certificate }},
	{"team", func(h *admin.HostResource) string { return h.Team }},
	{"source", func(h *admin.HostResource) string { return h.Source }},
	{"rev", func(h *admin.HostResource) string { return number(h.Rev) }},
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
	cmd := &cobra.Command{Use: "get NAME", Short: "Show one host", Args: exactArgs(1)}
	return remoteVerb(cmd, func(s *session, args []string) error {
		h, err := s.Host(s.ctx, args[0])
		if err != nil {
			return err
		}
		return printOne(s, h, hostColumns...)
	})
}

// writeFlags are those of every write of one thing.
func writeFlags(cmd *cobra.Command, w *client.Write) {
	cmd.Flags().BoolVar(&w.Take, "take", false, "take it over from another source")
	cmd.Flags().StringVar(&w.Note, "why", "", "`TEXT` for the audit")
}

func hostsSet() *cobra.Command {
	var w client.Write
	var like string
	var to, https, certificate, team string
	var status int
	var also, redirectFrom []string
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Make a host or change its settings",
		Long: `Make a host or change its settings. What no flag names stays as it is; an empty value
takes a setting away. With --like the settings begin as those of another host, all but
its further names.`,
		Args: exactArgs(1),
	}
	fl := cmd.Flags()
	fl.StringVar(&like, "like", "", "begin with the settings of the host `OTHER`")
	fl.StringVar(&to, "to", "", "send the whole host to `URL`")
	fl.IntVar(&status, "status", 0, "status that goes with --to")
	fl.StringVar(&https, "https", "", "`POLICY`: allow-all, redirect-to-https or https-only")
	fl.StringVar(&certificate, "certificate", "", "auto, none or the `NAME` of an imported one")
	fl.StringVar(&team, "team", "", "`NAME` of the owner")
	fl.StringSliceVar(&also, "also", nil, "further `HOSTS`, served the same")
	fl.StringSliceVar(&redirectFrom, "redirect-from", nil, "`HOSTS` that are sent here")
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
			if err != nil {
				return err
			}
			other.Also, other.RedirectFrom = h.Also, h.RedirectFrom
			h.Host = other.Host
		}
		for name, set := range map[string]func(){
			"to":            func() { h.To = to },
			"status":        func() { h.Status = status },
			"https":         func() { h.HTTPS = https },
			"certificate":   func() { h.Certificate = certificate },
			"team":          func() { h.Team = team },
			"also":          func() { h.Also = also },
			"redirect-from": func() { h.RedirectFrom = redirectFrom },
		} {
			if fl.Changed(name) {
				set()
			}
		}
		if h, err = s.PutHost(s.ctx, h, w); err != nil {
			return err
		}
		return printOne(s, h, hostColumns...)
	})
}

func hostsDelete() *cobra.Command {
	var w client.Write
	var redirects string
	var yes bool
	cmd := &cobra.Command{Use: "delete NAME", Short: "Delete a host's settings, and its redirects if that is said", Args: exactArgs(1)}
	cmd.Flags().StringVar(&redirects, "redirects", "", "`WHAT` becomes of its redirects: delete or keep")
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
		n := 0
		for _, err := range s.Redirects(s.ctx, client.Filter{Host: h.Name}) {
			if err != nil {
				return err
			}
			n++
		}
		if n > 0 && redirects == "" {
			return &fingerpost.Error{Code: "has_redirects", Message: fmt.Sprintf("the host %s has %s; nothing was changed", h.Name, plural(n, "redirect")),
				Hint: "say --redirects delete to delete them too, or --redirects keep to serve them without settings"}
		}
		s.note("- host %s: its settings (source %s)", h.Name, h.Source)
		for _, name := range append(append([]string{}, h.Also...), h.RedirectFrom...) {
			s.note("- the name %s, which is answered for through it", name)
		}
		switch {
		case n > 0 && redirects == "delete":
			s.note("- %s of it", plural(n, "redirect"))
		case n > 0:
			s.note("  %s of it, kept and served without settings", plural(n, "redirect"))
		}
		if err := s.confirm(yes, "Delete this?"); err != nil {
			return err
		}
		w := w
		w.Rev = h.Rev // what was shown, and nothing else
		return s.printResult(s.DeleteHost(s.ctx, h.Name, redirects, w))
	})
}
