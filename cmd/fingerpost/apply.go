package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
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
	label         string
	prune, take   bool
	allowRemoving int64
}

func (f *applyFlags) register(cmd *cobra.Command) {
	f.registerContent(cmd)
	cmd.Flags().Int64Var(&f.allowRemoving, "allow-removing", 0, "how many redirects may go, where that is more than a tenth of a team's")
}

// registerContent registers those that say what is compared.
func (f *applyFlags) registerContent(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&f.files, "file", "f", nil, "`PATH` of a file or folder of hosts and redirects; may be given several times")
	cmd.Flags().StringVar(&f.label, "source", "", "`LABEL` of the source that the content belongs to (default: its place in its git repository, else on this machine)")
	cmd.Flags().BoolVar(&f.prune, "prune", false, "remove what the same source has and the files do not name")
	cmd.Flags().BoolVar(&f.take, "take", false, "take over what other sources have")
}

// planned is the content of files and what a server would do with it.
type planned struct {
	f       *applyFlags
	content source.Content
	result  admin.ChangesetResult
	diffs   []admin.Difference
	head    planHead // if it is to be kept
}

// needs is what --allow-removing has to be, if it has not been said.
func (p *planned) needs() int64 {
	if p.result.AllowRemoving > p.f.allowRemoving {
		return p.result.AllowRemoving
	}
	return 0
}

func (p *planned) empty() bool { return p.result.Added+p.result.Changed+p.result.Removed == 0 }

func (p *planned) summary() string {
	if p.empty() {
		return "nothing to do"
	}
	return counts(p.result.Result)
}

func counts(r admin.Result) string {
	return fmt.Sprintf("%d to add, %d to change, %d to remove", r.Added, r.Changed, r.Removed)
}

// applyOptions are what apply takes beside what it applies.
type applyOptions struct {
	yes, wait     bool
	why           string
	allowRemoving int64
}

func applyCommand() *cobra.Command {
	var f applyFlags
	var o applyOptions
	cmd := &cobra.Command{
		Use:   "apply -f PATH | apply PLAN",
		Short: "Bring files, or a plan, into force on a server, all or nothing",
		Long: `Bring files into force on a server, all or nothing. It shows what plan shows and asks
first; where nobody can be asked it wants --yes.

Without --prune nothing is removed. With it, what the same source has on the server
and the files do not name any more goes; what others made never does. A source is
the repository that the files were cloned from and their place in it, the same from
every checkout; outside of git it is where the files are. --source names it otherwise.

A PLAN is a file that "plan --out" has made. Exactly what it shows is applied, or
nothing if the server has changed since.`,
		Example: `  fingerpost apply -f redirects/ --prune
  fingerpost apply -f redirects/ --prune --yes --wait
  fingerpost plan -f redirects/ --out next.plan && fingerpost apply next.plan --yes`,
		Args: rangeArgs(0, 1),
	}
	f.register(cmd)
	fl := cmd.Flags()
	fl.BoolVar(&o.yes, "yes", false, "do not ask")
	fl.BoolVar(&o.wait, "wait", false, "wait until every node serves it, for a minute at most")
	fl.StringVar(&o.why, "why", "", "`TEXT` for the audit")
	return remoteVerb(cmd, func(s *session, args []string) error {
		o.allowRemoving = f.allowRemoving
		if len(args) == 0 {
			return s.applyFiles(&f, &o)
		}
		for _, name := range []string{"file", "source", "prune", "take"} {
			if fl.Changed(name) {
				return usage(fmt.Errorf("--%s is for files; the plan %s has its own", name, args[0]))
			}
		}
		return s.applyPlan(args[0], &o)
	})
}

// applyFiles plans, shows, asks, and brings files into force.
func (s *session) applyFiles(f *applyFlags, o *applyOptions) error {
	p, err := s.plan(f)
	if err != nil {
		return err
	}
	if s.format == formatTable {
		if err := p.show(s); err != nil {
			return err
		}
	}
	if p.needs() > 0 {
		return removesMuch(p.needs())
	}
	result := p.result.Result
	if !p.empty() {
		base := p.result.Rev // what somebody has said yes to
		if o.yes {
			base = anyRevision
		}
		if err := s.confirm(o.yes, "Apply this?"); err != nil {
			return err
		}
		if result, err = s.apply(p, base, o.why); err != nil {
			return moved(err, base)
		}
	}
	return s.applied(result, p.empty(), o.wait)
}

// applied prints what applying has come to, and waits for the nodes if it should.
func (s *session) applied(result admin.Result, empty, wait bool) (err error) {
	switch {
	case s.format != formatTable:
		err = printOne(s, result, resultColumns...)
	case !empty:
		_, err = fmt.Fprintln(s.cmd.OutOrStdout(), resultLine(result))
	}
	if err != nil || !wait {
		return err
	}
	return s.waitForNodes(result.Rev)
}

func removesMuch(n int64) error {
	return &fingerpost.Error{Code: "removes_much", Message: fmt.Sprintf("%s would go, more than a tenth of a team's; nothing was changed", plural64(n, "redirect")),
		Hint: fmt.Sprintf("if that is meant, say --allow-removing %d", n)}
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

// read reads and checks the files.
func (f *applyFlags) read(s *session) (*planned, error) {
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
	if len(p.content.Hosts)+len(p.content.Redirects) == 0 {
		s.note("note: there are no hosts and no redirects in %s", strings.Join(f.files, ", "))
	}
	_, err = redirect.Compile(p.content.Hosts, p.content.Redirects)
	return p, err
}

// plan asks the server what it would do with files. The server's counts are the
// truth; the list beside them is this program's own comparison.
func (s *session) plan(f *applyFlags) (*planned, error) {
	p, err := f.read(s)
	if err != nil {
		return nil, err
	}
	if p.result, err = s.post(p, p.changeset(false), anyRevision); err != nil {
		return nil, s.foreign(p, err)
	}
	if p.empty() {
		return p, nil
	}
	p.diffs, err = s.compare(p)
	return p, err
}

func (f *applyFlags) source() string { return cmp.Or(f.label, applyLabel(f.files)) }

// changeset is how the rows of a plan are taken: the whole content, or just what is
// different.
func (p *planned) changeset(differences bool) client.Changeset {
	o := client.Changeset{Mode: string(store.Merge), Source: p.f.source(), DryRun: true, Take: p.f.take, AllowRemoving: p.f.allowRemoving}
	if p.f.prune && !differences {
		o.Mode = string(store.Replace)
	}
	return o
}

// post sends all content, of a revision if base is one.
func (s *session) post(p *planned, o client.Changeset, base int64) (admin.ChangesetResult, error) {
	rows, w := io.Pipe()
	defer rows.Close()
	bar := showProgress("sent", int64(len(p.content.Hosts)+len(p.content.Redirects)), "row")
	defer bar.end()
	go func() {
		b := bufio.NewWriter(w)
		err := errors.Join(writeRows(b, p.content, bar), b.Flush())
		bar.say("sent, and checked by the server")
		w.CloseWithError(err)
	}()
	r, err := s.postAt(rows, o, base)
	return r, rowErrors(err, inContent(p.content))
}

// anyRevision is the base of what holds for whatever the server has. The content of
// a new server is at revision 0.
const anyRevision = -1

// postAt posts a changeset that holds for a revision, if base is one.
func (s *session) postAt(rows io.Reader, o client.Changeset, base int64) (admin.ChangesetResult, error) {
	if base != anyRevision {
		o.Base = &base
	}
	return s.PostChangeset(s.ctx, rows, o)
}

// writeRows writes a row of NDJSON for each item: hosts first, which own the
// redirects.
func writeRows(w io.Writer, c source.Content, bar *progress) error {
	enc := json.NewEncoder(w)
	for i := range c.Hosts {
		if err := enc.Encode(admin.HostResource{Name: c.Hosts[i].Name, Host: c.Hosts[i]}); err != nil {
			return err
		}
		bar.at(int64(i + 1))
	}
	for i := range c.Redirects {
		if err := enc.Encode(&c.Redirects[i]); err != nil {
			return err
		}
		bar.at(int64(len(c.Hosts) + i + 1))
	}
	return nil
}

// position says where row i, counted from 0, was written, if there is one.
type position func(i int) (fingerpost.Position, bool)

func inContent(c source.Content) position {
	return func(i int) (fingerpost.Position, bool) {
		switch {
		case i < 0 || i >= len(c.Hosts)+len(c.Redirects):
			return fingerpost.Position{}, false
		case i < len(c.Hosts):
			return c.Hosts[i].Source, true
		}
		return c.Redirects[i-len(c.Hosts)].Source, true
	}
}

// rowErrors says of faults in rows where they were written.
func rowErrors(err error, at position) error {
	var p *admin.Problem
	if !errors.As(err, &p) {
		return err
	}
	var errs []error
	for _, f := range p.Errors {
		e := &fingerpost.Error{Code: f.Code, Message: f.Detail, Hint: asVerb(f.Hint)}
		if f.Pointer != "" {
			e.Message = f.Pointer + ": " + e.Message
		}
		var ok bool
		if e.At, ok = at(int(f.Line) - 1); !ok {
			return err
		}
		errs = append(errs, e)
	}
	if len(errs) == 0 {
		return err
	}
	return errors.Join(errs...)
}

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
	bar := showProgress("compared with the server", 0, "item")
	defer bar.end()
	for h, err := range s.Hosts(s.ctx, filter) {
		if err != nil {
			return nil, err
		}
		shown, err := json.Marshal(h.Host)
		if err != nil {
			return nil, err
		}
		there[itemName{store.KindHost, h.Name}] = thereItem{shown, h.Source}
		bar.at(int64(len(there)))
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
		bar.at(int64(len(there)))
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
		at, _ := inContent(p.content)(i)
		errs = append(errs, &fingerpost.Error{Code: problem.Code, Message: fmt.Sprintf("%s %s belongs to the source %s", c.Item.Kind, c.Item.Key, was.source),
			Hint: "change it where it comes from, or take it over with --take", At: at})
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
	_, err := s.differences(each(p.diffs))
	if err != nil || s.format != formatTable {
		return err
	}
	if _, err = fmt.Fprintln(s.cmd.OutOrStdout(), p.summary()); err == nil && p.f.label == "" && !p.empty() {
		s.note("the source is %s", p.f.source())
	}
	return err
}

// apply brings a plan into force, at a revision if base is one.
func (s *session) apply(p *planned, base int64, why string) (admin.Result, error) {
	o := p.changeset(false)
	o.DryRun, o.Note, o.Key = false, why, "apply "+rand.Text()
	return s.surely(func() (admin.Result, error) {
		r, err := s.post(p, o, base)
		if err != nil {
			return r.Result, err
		}
		return s.finish(r, int64(len(p.content.Hosts)+len(p.content.Redirects)), inContent(p.content))
	})
}

// A request that is not answered is repeated so often, with a pause that grows.
const (
	surelyTries = 8
	surelyPause = 250 * time.Millisecond
)

// surely does what has an Idempotency-Key, again where its answer is lost: the server
// knows what has become of it.
func (s *session) surely(do func() (admin.Result, error)) (admin.Result, error) {
	for try, pause := 1, surelyPause; ; pause = min(2*pause, 5*time.Second) {
		r, err := do()
		if err == nil || s.ctx.Err() != nil || try == surelyTries || !mayPass(err) {
			return r, err
		}
		if !isUnderWay(err) {
			try++
			s.note("note: %s; asking what has become of it", oneLine(remoteError(err)))
		}
		select {
		case <-time.After(pause):
		case <-s.ctx.Done():
			return r, s.ctx.Err()
		}
	}
}

// isUnderWay reports that an earlier request with the same key still goes on.
func isUnderWay(err error) bool {
	var p *admin.Problem
	return errors.As(err, &p) && p.Code == "in_progress"
}

// mayPass reports whether the same request may be answered when it is repeated.
func mayPass(err error) bool {
	var p *admin.Problem
	if errors.As(err, &p) {
		return isUnderWay(err) || p.Status == http.StatusServiceUnavailable
	}
	return errors.As(err, new(*url.Error)) || errors.As(err, new(net.Error)) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// finish follows the job of a large changeset to its end.
func (s *session) finish(r admin.ChangesetResult, rows int64, at position) (admin.Result, error) {
	if r.Job == nil {
		return r.Result, nil
	}
	j, err := s.follow(r.Job.ID, rows)
	switch {
	case err != nil:
		return admin.Result{}, rowErrors(err, at)
	case j.Result == nil:
		return admin.Result{}, &fingerpost.Error{Code: j.State, Message: "the job " + j.ID + " was " + j.State + "; nothing was changed"}
	}
	return *j.Result, nil
}

// follow waits for the end of a job, and shows how far it is.
func (s *session) follow(id string, rows int64) (admin.Job, error) {
	bar := showProgress(id, rows, "row")
	defer bar.end()
	for try := 1; ; try++ {
		j, err := s.WaitJob(s.ctx, id, func(j admin.Job) {
			bar.say(j.ID + " " + j.State)
			bar.at(j.Done)
			try = 1
		})
		if err == nil || errors.As(err, new(*admin.Problem)) || s.ctx.Err() != nil || try == surelyTries || !mayPass(err) {
			return j, err
		}
		select { // the stream was cut; the job goes on
		case <-time.After(surelyPause << try):
		case <-s.ctx.Done():
			return j, s.ctx.Err()
		}
	}
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
			case n.Rev < rev || n.Other:
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
				Hint: "fingerpost nodes list shows when each was seen last; nodes delete forgets one that is gone for good"}
		case <-time.After(nodesPause):
		}
	}
}
