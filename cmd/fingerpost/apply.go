package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"fingerpost"
	"fingerpost/admin"
	"fingerpost/admin/client"
	"fingerpost/redirect"
	"fingerpost/source"
	"fingerpost/store"

	"github.com/spf13/cobra"
)

// applyFlags are what plan and apply take.
type applyFlags struct {
	files         []string
	label, why    string
	prune, take   bool
	allowRemoving int64
}

func (f *applyFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&f.files, "file", "f", nil, "`PATH` of a file or folder of hosts and redirects; may be given several times")
	cmd.Flags().StringVar(&f.label, "source", "", "`LABEL` of the source that the content belongs to (default file:PATH)")
	cmd.Flags().BoolVar(&f.prune, "prune", false, "remove what the same source has and the files do not name")
	cmd.Flags().BoolVar(&f.take, "take", false, "take over what other sources have")
}

// planned is the content of files and what a server would do with it.
type planned struct {
	f       *applyFlags
	content source.Content
	result  admin.ChangesetResult
	diffs   []admin.Difference
}

func (p *planned) empty() bool { return p.result.Added+p.result.Changed+p.result.Removed == 0 }

func (p *planned) summary() string {
	if p.empty() {
		return "nothing to do"
	}
	return fmt.Sprintf("%d to add, %d to change, %d to remove", p.result.Added, p.result.Changed, p.result.Removed)
}

func planCommand() *cobra.Command {
	var f applyFlags
	var exitCode bool
	cmd := &cobra.Command{
		Use:   "plan -f PATH",
		Short: "Show what apply would change on a server",
		Long: `Show what apply would change on a server, which checks all of it and changes nothing.

What is new begins with +, what changes with ~, and what goes with -.`,
		Args: exactArgs(0),
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&exitCode, "exit-code", false, "exit with 3 if there is something to do")
	return remoteVerb(cmd, func(s *session, _ []string) error {
		p, err := s.plan(&f)
		if err != nil {
			return err
		}
		if err := p.show(s); err != nil {
			return err
		}
		if p.result.AllowRemoving > 0 {
			s.note("note: apply needs --allow-removing %d: that is more than a tenth of a team's redirects", p.result.AllowRemoving)
		}
		if exitCode && !p.empty() {
			return exitStatus(exitDifferences)
		}
		return nil
	})
}

func applyCommand() *cobra.Command {
	var f applyFlags
	var yes, wait bool
	cmd := &cobra.Command{
		Use:   "apply -f PATH",
		Short: "Bring files into force on a server, all or nothing",
		Long: `Bring files into force on a server, all or nothing. It shows what plan shows and asks
first; where nobody can be asked it wants --yes.

Without --prune nothing is removed. With it, what the same source has on the server
and the files do not name any more goes; what others made never does.`,
		Args: exactArgs(0),
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until every node serves it, for a minute at most")
	cmd.Flags().StringVar(&f.why, "note", "", "`TEXT` for the audit: why")
	cmd.Flags().Int64Var(&f.allowRemoving, "allow-removing", 0, "how many redirects may go, where that is more than a tenth of a team's")
	return remoteVerb(cmd, func(s *session, _ []string) error {
		p, err := s.plan(&f)
		if err != nil {
			return err
		}
		if s.format == formatTable {
			if err := p.show(s); err != nil {
				return err
			}
		}
		if p.result.AllowRemoving > f.allowRemoving {
			return &fingerpost.Error{Code: "removes_much", Message: fmt.Sprintf("%d redirects would go, more than a tenth of a team's; nothing was changed", p.result.AllowRemoving),
				Hint: fmt.Sprintf("if that is meant, say --allow-removing %d", p.result.AllowRemoving)}
		}
		result := p.result.Result
		if !p.empty() {
			if err := s.confirm(yes, "Apply this?"); err != nil {
				return err
			}
			if result, err = s.apply(p); err != nil {
				return err
			}
		}
		if s.format != formatTable {
			err = printOne(s, result, resultColumns...)
		} else if !p.empty() {
			_, err = fmt.Fprintln(s.cmd.OutOrStdout(), resultLine(result))
		}
		if err != nil || !wait {
			return err
		}
		return s.waitForNodes(result.Rev)
	})
}

var resultColumns = []column[admin.Result]{
	{"revision", func(r *admin.Result) string { return number(r.Rev) }},
	{"added", func(r *admin.Result) string { return fmt.Sprint(r.Added) }},
	{"changed", func(r *admin.Result) string { return fmt.Sprint(r.Changed) }},
	{"removed", func(r *admin.Result) string { return fmt.Sprint(r.Removed) }},
}

func resultLine(r admin.Result) string {
	return fmt.Sprintf("revision %d: %d added, %d changed, %d removed", r.Rev, r.Added, r.Changed, r.Removed)
}

// printResult prints what a write has come to.
func (s *session) printResult(r admin.Result, err error) error {
	switch {
	case err != nil:
		return err
	case s.format == formatTable:
		_, err = fmt.Fprintln(s.cmd.OutOrStdout(), resultLine(r))
		return err
	}
	return printOne(s, r, resultColumns...)
}

// plan asks the server what it would do with files. The server's counts are the
// truth; the list beside them is this program's own comparison.
func (s *session) plan(f *applyFlags) (*planned, error) {
	if len(f.files) == 0 {
		return nil, usage(errors.New("which files? -f PATH"))
	}
	set, err := source.OpenFiles(f.files)
	if err != nil {
		return nil, err
	}
	if set.Settings() != nil {
		s.note("note: the settings of a node in %s stay with the node; only hosts and redirects are applied", strings.Join(f.files, ", "))
	}
	p := &planned{f: f, content: set.Content()}
	if _, err := redirect.Compile(p.content.Hosts, p.content.Redirects); err != nil {
		return nil, err
	}
	if p.result, err = s.post(p, true); err != nil {
		return nil, s.foreign(p, err)
	}
	if p.empty() {
		return p, nil
	}
	p.diffs, err = s.compare(p)
	return p, err
}

func (f *applyFlags) source() string {
	return cmp.Or(f.label, fileLabel+strings.Join(f.files, ","))
}

func (s *session) post(p *planned, dryRun bool) (admin.ChangesetResult, error) {
	o := client.Changeset{Mode: "merge", Source: p.f.source(), DryRun: dryRun, Take: p.f.take, AllowRemoving: p.f.allowRemoving, Note: p.f.why}
	if p.f.prune {
		o.Mode = "replace"
	}
	rows, w := io.Pipe()
	defer rows.Close()
	go func() { w.CloseWithError(s.writeRows(w, p.content)) }()
	r, err := s.PostChangeset(s.ctx, rows, o)
	return r, rowErrors(err, p.content)
}

// writeRows writes a row of NDJSON for each item: hosts first, which own the
// redirects. What takes long is told every few seconds.
func (s *session) writeRows(w io.Writer, c source.Content) error {
	enc := json.NewEncoder(w)
	last := time.Now()
	for i := range c.Hosts {
		if err := enc.Encode(admin.HostResource{Name: c.Hosts[i].Name, Host: c.Hosts[i]}); err != nil {
			return err
		}
	}
	for i := range c.Redirects {
		if err := enc.Encode(&c.Redirects[i]); err != nil {
			return err
		}
		if time.Since(last) > progressPause {
			last = time.Now()
			s.note("%d of %s sent", i+1, plural(len(c.Redirects), "redirect"))
		}
	}
	return nil
}

// rowPosition is where the item of a row, counted from 0, was written.
func rowPosition(c source.Content, i int) fingerpost.Position {
	if i < len(c.Hosts) {
		return c.Hosts[i].Source
	}
	return c.Redirects[i-len(c.Hosts)].Source
}

// rowErrors says of faults in rows where in the files they were written.
func rowErrors(err error, c source.Content) error {
	var p *admin.Problem
	if !errors.As(err, &p) {
		return err
	}
	var errs []error
	for _, f := range p.Errors {
		i := int(f.Line) - 1
		e := &fingerpost.Error{Code: f.Code, Message: f.Detail, Hint: f.Hint}
		if f.Pointer != "" {
			e.Message = f.Pointer + ": " + e.Message
		}
		if i < 0 || i >= len(c.Hosts)+len(c.Redirects) {
			return err
		}
		e.At = rowPosition(c, i)
		errs = append(errs, e)
	}
	if len(errs) == 0 {
		return err
	}
	return errors.Join(errs...)
}

// progressPause is the time between two lines about what takes long.
const progressPause = 5 * time.Second

// itemName names a host or redirect as the store does.
type itemName struct{ kind, key string }

// thereItem is a host or redirect that a server has.
type thereItem struct {
	shown  json.RawMessage // as showItem gives it
	source string
}

// showItem is an item as the API shows it, a derived id with it, but without what
// is only the server's.
func showItem(it *store.Item) (json.RawMessage, error) {
	if it.Kind == store.KindHost {
		h, err := it.Host()
		if err != nil {
			return nil, err
		}
		return json.Marshal(h)
	}
	r, err := it.Redirect()
	if err != nil {
		return nil, err
	}
	return json.Marshal(r)
}

// items gives what a server has.
func (s *session) items(filter client.Filter) (map[itemName]thereItem, error) {
	there := map[itemName]thereItem{}
	for h, err := range s.Hosts(s.ctx, filter) {
		if err != nil {
			return nil, err
		}
		shown, err := json.Marshal(h.Host)
		if err != nil {
			return nil, err
		}
		there[itemName{store.KindHost, h.Name}] = thereItem{shown, h.Source}
	}
	for r, err := range s.Redirects(s.ctx, filter) {
		if err != nil {
			return nil, err
		}
		shown, err := json.Marshal(r.Redirect)
		if err != nil {
			return nil, err
		}
		there[itemName{store.KindRedirect, store.RedirectKey(fingerpost.HostPattern(r.Host), r.ID)}] = thereItem{shown, r.Source}
	}
	return there, nil
}

// maxForeign is how many items of other sources are named.
const maxForeign = 20

// foreign says which items of the files belong to other sources, where the server
// has said just that: refused.
func (s *session) foreign(p *planned, refused error) error {
	var problem *admin.Problem
	if !errors.As(refused, &problem) || problem.Code != "foreign_source" {
		return refused
	}
	there, err := s.items(client.Filter{})
	if err != nil {
		return refused
	}
	var errs []error
	i := -1
	for c, err := range itemsOf(p.f.source(), p.content) {
		if err != nil {
			return refused
		}
		i++
		was, had := there[itemName{c.Item.Kind, c.Item.Key}]
		if !had || was.source == p.f.source() || len(errs) == maxForeign {
			continue
		}
		errs = append(errs, &fingerpost.Error{Code: problem.Code, Message: fmt.Sprintf("%s %s belongs to the source %s", c.Item.Kind, c.Item.Key, was.source),
			Hint: "change it where it comes from, or take it over with --take", At: rowPosition(p.content, i)})
	}
	if len(errs) == 0 {
		return refused
	}
	return errors.Join(errs...)
}

// compare lists what is different between the files and what their source has on
// the server.
func (s *session) compare(p *planned) ([]admin.Difference, error) {
	label := p.f.source()
	filter := client.Filter{Source: label}
	if p.f.take {
		filter.Source = ""
	}
	there, err := s.items(filter)
	if err != nil {
		return nil, err
	}
	var diffs []admin.Difference
	for c, err := range itemsOf(label, p.content) {
		if err != nil {
			return nil, err
		}
		at := itemName{c.Item.Kind, c.Item.Key}
		is, err := showItem(&c.Item)
		if err != nil {
			return nil, err
		}
		was, had := there[at]
		delete(there, at)
		if had && bytes.Equal(was.shown, is) && was.source == label {
			continue
		}
		d := admin.Difference{Kind: at.kind, Key: at.key, After: is}
		if had {
			d.Before = was.shown
		}
		diffs = append(diffs, d)
	}
	if p.f.prune {
		for at, was := range there {
			if was.source == label {
				diffs = append(diffs, admin.Difference{Kind: at.kind, Key: at.key, Before: was.shown})
			}
		}
	}
	slices.SortFunc(diffs, func(a, b admin.Difference) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key, b.Key))
	})
	return diffs, nil
}

func (p *planned) show(s *session) error {
	_, err := s.differences(func(yield func(admin.Difference, error) bool) {
		for _, d := range p.diffs {
			if !yield(d, nil) {
				return
			}
		}
	})
	if err != nil || s.format != formatTable {
		return err
	}
	_, err = fmt.Fprintln(s.cmd.OutOrStdout(), p.summary())
	return err
}

// apply brings a plan into force, and follows the job of a large one.
func (s *session) apply(p *planned) (admin.Result, error) {
	r, err := s.post(p, false)
	if err != nil || r.Job == nil {
		return r.Result, err
	}
	state, last := "", time.Now()
	j, err := s.WaitJob(s.ctx, r.Job.ID, func(j admin.Job) {
		if j.State == state && time.Since(last) < progressPause {
			return
		}
		state, last = j.State, time.Now()
		s.note("%s: %s, %s read", j.ID, j.State, plural(int(j.Done), "row"))
	})
	switch {
	case err != nil:
		return admin.Result{}, rowErrors(err, p.content)
	case j.Result == nil:
		return admin.Result{}, &fingerpost.Error{Code: j.State, Message: "the job " + j.ID + " was " + j.State + "; nothing was changed"}
	}
	return *j.Result, nil
}

// How long apply --wait waits, and how often it looks.
const (
	nodesPatience = 60 * time.Second
	nodesPause    = 200 * time.Millisecond
)

// waitForNodes waits until all nodes that live serve a revision.
func (s *session) waitForNodes(rev int64) error {
	ctx, cancel := context.WithTimeout(s.ctx, nodesPatience)
	defer cancel()
	for {
		nodes, err := s.Nodes(ctx)
		if err != nil && ctx.Err() == nil {
			return err
		}
		behind := map[string]int64{}
		var gone []string
		for _, n := range nodes {
			switch {
			case n.Gone:
				gone = append(gone, n.ID)
			case n.Rev < rev:
				behind[n.ID] = n.Rev
			}
		}
		if err == nil && len(behind) == 0 {
			s.note("%s at revision %d", plural(len(nodes)-len(gone), "node"), rev)
			if len(gone) > 0 {
				s.note("not waited for, since vanished: %s", strings.Join(gone, ", "))
			}
			return nil
		}
		select {
		case <-ctx.Done():
			if s.ctx.Err() != nil {
				return s.ctx.Err()
			}
			return &fingerpost.Error{Code: "nodes_behind", Message: fmt.Sprintf("revision %d is in force, but not every node serves it after %s: %s", rev, nodesPatience, strings.Join(slices.Sorted(maps.Keys(behind)), ", ")),
				Hint: "fingerpost nodes list shows when each was seen last"}
		case <-time.After(nodesPause):
		}
	}
}
