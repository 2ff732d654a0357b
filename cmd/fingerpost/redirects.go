package main

import (
	"strings"

	"fingerpost"
	"fingerpost/admin"
	"fingerpost/admin/client"
	"fingerpost/store"

	"github.com/spf13/cobra"
)

func redirectsCommand() *cobra.Command {
	return family("redirects", "Look at redirects of a server and change them", redirectsList(), redirectsGet(), redirectsSet(), redirectsDelete())
}

var redirectColumns = []column[admin.RedirectResource]{
	{"host", func(r *admin.RedirectResource) string { return r.Host }},
	{"id", func(r *admin.RedirectResource) string { return r.ID }},
	{"from", func(r *admin.RedirectResource) string { return r.From }},
	{"regex", func(r *admin.RedirectResource) string { return r.Regex }},
	{"to", func(r *admin.RedirectResource) string { return r.To }},
	{"status", func(r *admin.RedirectResource) string { return number(r.Status) }},
	{"tags", func(r *admin.RedirectResource) string { return strings.Join(r.Tags, " ") }},
	{"source", func(r *admin.RedirectResource) string { return r.Source }},
	{"rev", func(r *admin.RedirectResource) string { return number(r.Rev) }},
}

func redirectsList() *cobra.Command {
	var f client.Filter
	cmd := &cobra.Command{Use: "list", Short: "List redirects by host and id", Args: exactArgs(0)}
	cmd.Flags().StringVar(&f.Host, "host", "", "only those of the host `NAME`")
	filterFlags(cmd, &f)
	return remoteVerb(cmd, func(s *session, _ []string) error {
		return printList(s, s.Redirects(s.ctx, f), redirectColumns...)
	})
}

func redirectsGet() *cobra.Command {
	cmd := &cobra.Command{Use: "get HOST ID", Short: "Show one redirect", Args: exactArgs(2)}
	return remoteVerb(cmd, func(s *session, args []string) error {
		r, err := s.Redirect(s.ctx, args[0], args[1])
		if err != nil {
			return err
		}
		return printOne(s, r, redirectColumns...)
	})
}

func redirectsSet() *cobra.Command {
	var w client.Write
	var in fingerpost.Redirect
	var enabled bool
	cmd := &cobra.Command{
		Use:   "set FROM",
		Short: "Make a redirect or change it",
		Long: `Make a redirect or change it. What no flag names stays as it is. Which one it is follows
from FROM, unless --id names it.`,
		Args: exactArgs(1),
	}
	fl := cmd.Flags()
	fl.StringVar(&in.ID, "id", "", "`ID` of the redirect within its host")
	fl.StringVar(&in.To, "to", "", "target `URL`")
	fl.IntVar(&in.Status, "status", 0, "status of the answer (default 301)")
	fl.StringVar(&in.Regex, "regex", "", "`RE2` on the path; FROM is then a host")
	fl.StringVar(&in.Query, "query", "", "merge, append or drop")
	fl.StringVar(&in.Cache, "cache", "", "a `DURATION`, or off")
	fl.IntVar(&in.Priority, "priority", 0, "higher wins")
	fl.StringSliceVar(&in.Tags, "tags", nil, "`TAGS` of it")
	fl.BoolVar(&enabled, "enabled", true, "whether it answers")
	writeFlags(cmd, &w)
	return remoteVerb(cmd, func(s *session, args []string) error {
		if _, err := fingerpost.ParseFrom(args[0]); err != nil {
			return err
		}
		probe := in
		probe.From = args[0]
		it, err := store.RedirectItem(&probe, "", "")
		if err != nil {
			return err
		}
		pattern, id := store.CutRedirectKey(it.Key)
		host := string(pattern)
		now, err := s.Redirect(s.ctx, host, id)
		missing := isMissing(err)
		if err != nil && !missing {
			return err
		}
		r := now.Redirect
		if missing {
			r = fingerpost.Redirect{ID: in.ID}
		}
		r.From = args[0]
		for name, set := range map[string]func(){
			"to":       func() { r.To = in.To },
			"status":   func() { r.Status = in.Status },
			"regex":    func() { r.Regex = in.Regex },
			"query":    func() { r.Query = in.Query },
			"cache":    func() { r.Cache = in.Cache },
			"priority": func() { r.Priority = in.Priority },
			"tags":     func() { r.Tags = in.Tags },
			"enabled":  func() { r.Enabled = &enabled },
		} {
			if fl.Changed(name) {
				set()
			}
		}
		w := w
		if missing {
			now, err = s.AddRedirect(s.ctx, r, w)
		} else {
			w.Rev = now.Rev
			now, err = s.PutRedirect(s.ctx, host, id, r, w)
		}
		if err != nil {
			return err
		}
		return printOne(s, now, redirectColumns...)
	})
}

func redirectsDelete() *cobra.Command {
	var w client.Write
	cmd := &cobra.Command{Use: "delete HOST ID", Short: "Delete one redirect", Args: exactArgs(2)}
	writeFlags(cmd, &w)
	return remoteVerb(cmd, func(s *session, args []string) error {
		return s.printResult(s.DeleteRedirect(s.ctx, args[0], args[1], w))
	})
}
