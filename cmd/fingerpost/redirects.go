package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"fingerpost"
	"fingerpost/admin"
	"fingerpost/admin/client"
	"fingerpost/store"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
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
	cmd := &cobra.Command{Use: "get HOST/ID", Short: "Show one redirect", Args: rangeArgs(1, 2)}
	return remoteVerb(cmd, func(s *session, args []string) error {
		host, id, err := redirectKey(args)
		if err != nil {
			return err
		}
		r, err := s.Redirect(s.ctx, host, id)
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
	var page string
	var headers []string
	var when whenFlags
	cmd := &cobra.Command{
		Use:   "set FROM",
		Short: "Make a redirect or change it",
		Long: `Make a redirect or change it. What no flag names stays as it is; an empty value takes
a setting away. Which redirect it is follows from all that says what it matches: FROM,
--regex, --ignore-case, --trailing-slash and the conditions (--when-…, --after,
--before). To change one of these, name the redirect with --id.`,
		Example: `  fingerpost redirects set www.example.com/jobs --to https://jobs.example.net/ --status 302
  fingerpost redirects set 'www.example.com/p/:id' --to 'https://shop.example.com/item/:id' --id products
  fingerpost redirects set www.example.com/ --to https://www.example.com/no/ --when-country NO --when-language nb
  fingerpost redirects set www.example.com/old --status 410 --page gone.html
  fingerpost redirects set www.example.com/sale --id sale --before 2026-12-24T18:00:00+01:00`,
		Args: exactArgs(1),
	}
	fl := cmd.Flags()
	fl.StringVar(&in.ID, "id", "", "`ID` of the redirect within its host")
	fl.StringVar(&in.To, "to", "", "target `URL`")
	fl.IntVar(&in.Status, "status", 0, "status of the answer; 0 for the default, 301")
	fl.StringVar(&in.Regex, "regex", "", "`RE2` on the path; FROM is then a host")
	fl.StringVar(&in.Query, "query", "", "`WHAT` becomes of the visitor's query: merge, append or drop")
	fl.StringVar(&in.Cache, "cache", "", "`HOW LONG` browsers may keep it: a duration, or off")
	fl.StringArrayVar(&headers, "header", nil, "header `'Name: value'` of the answer, 'Name:' takes it away; may be given several times")
	fl.IntVar(&in.Priority, "priority", 0, "higher wins")
	fl.BoolVar(&in.IgnoreCase, "ignore-case", false, "whether A-Z and a-z are one in the path")
	fl.StringVar(&in.TrailingSlash, "trailing-slash", "", "ignore or strict")
	fl.StringVar(&page, "page", "", "`FILE` of HTML for the status 404, 410 or 451")
	fl.StringSliceVar(&in.Tags, "tags", nil, "`TAGS` of it")
	fl.StringVar(&in.Note, "note", "", "`TEXT` that stands beside it")
	fl.BoolVar(&enabled, "enabled", true, "whether it answers")
	when.register(fl)
	writeFlags(cmd, &w)
	return remoteVerb(cmd, func(s *session, args []string) error {
		if _, err := fingerpost.ParseFrom(args[0]); err != nil {
			return err
		}
		probe := in
		probe.From = args[0]
		if err := when.apply(fl, &probe); err != nil {
			return err
		}
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
			"to":             func() { r.To = in.To },
			"status":         func() { r.Status = in.Status },
			"regex":          func() { r.Regex = in.Regex },
			"query":          func() { r.Query = in.Query },
			"cache":          func() { r.Cache = in.Cache },
			"priority":       func() { r.Priority = in.Priority },
			"ignore-case":    func() { r.IgnoreCase = in.IgnoreCase },
			"trailing-slash": func() { r.TrailingSlash = in.TrailingSlash },
			"tags":           func() { r.Tags = in.Tags },
			"note":           func() { r.Note = in.Note },
			"enabled":        func() { r.Enabled = &enabled },
		} {
			if fl.Changed(name) {
				set()
			}
		}
		if fl.Changed("page") {
			if r.Page, err = readPage(page); err != nil {
				return err
			}
		}
		if r.Headers, err = setPairs("header", r.Headers, headers, ":"); err != nil {
			return err
		}
		if err := when.apply(fl, &r); err != nil {
			return err
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

// setPairs sets names to values; an empty value takes a name away.
func setPairs(flag string, pairs map[string]string, given []string, separator string) (map[string]string, error) {
	for _, text := range given {
		name, value, ok := strings.Cut(text, separator)
		if name = strings.TrimSpace(name); !ok || name == "" {
			return nil, usage(fmt.Errorf("--%s %q: it is a name and a value with %q in between", flag, text, separator))
		}
		if pairs == nil {
			pairs = map[string]string{}
		}
		for old := range pairs { // whatever the case in which it is written
			if strings.EqualFold(old, name) {
				delete(pairs, old)
			}
		}
		if value = strings.TrimSpace(value); value != "" {
			pairs[name] = value
		}
	}
	if len(pairs) == 0 {
		return nil, nil
	}
	return pairs, nil
}

// whenFlags are the conditions of a redirect.
type whenFlags struct {
	methods, countries, languages, addresses []string
	headers, cookies                         []string
	percent                                  int
	after, before                            string
}

func (f *whenFlags) register(fl *pflag.FlagSet) {
	fl.StringSliceVar(&f.methods, "when-method", nil, "only for these `METHODS`")
	fl.StringSliceVar(&f.countries, "when-country", nil, "only for visitors from these `COUNTRIES`, as in NO,SE")
	fl.StringSliceVar(&f.languages, "when-language", nil, "only for visitors who prefer these `LANGUAGES`, as in nb,sv")
	fl.StringSliceVar(&f.addresses, "when-address", nil, "only for these `ADDRESSES` of visitors, as in 192.0.2.0/24")
	fl.StringArrayVar(&f.headers, "when-header", nil, "only with this header `'Name: value'`, * for any text; 'Name:' takes it away; may be given several times")
	fl.StringArrayVar(&f.cookies, "when-cookie", nil, "only with this cookie `NAME=VALUE`, * for any text; may be given several times")
	fl.IntVar(&f.percent, "when-percent", 0, "only for this share of the visitors, 0 to 100; -1 takes it away")
	fl.StringVar(&f.after, "after", "", "from this `TIME` on, as in 2026-12-24T18:00:00+01:00")
	fl.StringVar(&f.before, "before", "", "until this `TIME`")
}

// apply puts those conditions into r that were given.
func (f *whenFlags) apply(fl *pflag.FlagSet, r *fingerpost.Redirect) error {
	w := fingerpost.When{}
	if r.When != nil {
		w = *r.When
	}
	for _, list := range []struct {
		flag  string
		given []string
		to    *[]string
	}{{"when-method", f.methods, &w.Methods}, {"when-country", f.countries, &w.Countries}, {"when-language", f.languages, &w.Languages}, {"when-address", f.addresses, &w.Addresses}} {
		if fl.Changed(list.flag) {
			*list.to = slices.DeleteFunc(slices.Clone(list.given), func(s string) bool { return s == "" })
			if len(*list.to) == 0 {
				*list.to = nil
			}
		}
	}
	var err error
	if w.Header, err = setPairs("when-header", maps.Clone(w.Header), f.headers, ":"); err != nil {
		return err
	}
	if w.Cookie, err = setPairs("when-cookie", maps.Clone(w.Cookie), f.cookies, "="); err != nil {
		return err
	}
	if fl.Changed("when-percent") {
		if w.Percent = nil; f.percent != -1 {
			w.Percent = &f.percent
		}
	}
	for _, limit := range []struct {
		flag, text string
		to         **time.Time
	}{{"after", f.after, &w.After}, {"before", f.before, &w.Before}} {
		if !fl.Changed(limit.flag) {
			continue
		}
		if *limit.to = nil; limit.text != "" {
			at, err := time.Parse(time.RFC3339, limit.text)
			if err != nil {
				return usage(fmt.Errorf("--%s %q is not a time with a zone, as in 2026-12-24T18:00:00+01:00", limit.flag, limit.text))
			}
			*limit.to = &at
		}
	}
	if r.When = nil; w.Conditions() > 0 {
		r.When = &w
	}
	return nil
}

func redirectsDelete() *cobra.Command {
	var w client.Write
	cmd := &cobra.Command{Use: "delete HOST/ID", Short: "Delete one redirect", Args: rangeArgs(1, 2)}
	writeFlags(cmd, &w)
	return remoteVerb(cmd, func(s *session, args []string) error {
		host, id, err := redirectKey(args)
		if err != nil {
			return err
		}
		return s.printResult(s.DeleteRedirect(s.ctx, host, id, w))
	})
}

// redirectKey reads the key of a redirect, as diff shows it or in two words.
func redirectKey(args []string) (host, id string, err error) {
	if len(args) == 2 {
		return args[0], args[1], nil
	}
	pattern, id := store.CutRedirectKey(args[0])
	if pattern == "" || id == "" {
		return "", "", usage(fmt.Errorf("%q is not HOST/ID, as redirects list has them", args[0]))
	}
	return string(pattern), id, nil
}
