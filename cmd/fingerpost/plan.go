package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"time"

	"fingerpost"
	"fingerpost/admin"
	"fingerpost/admin/client"
	"fingerpost/store"

	"github.com/spf13/cobra"
)

func planCommand() *cobra.Command {
	var f applyFlags
	var exitCode bool
	var out string
	cmd := &cobra.Command{
		Use:   "plan -f PATH",
		Short: "Show what apply would change on a server",
		Long: `Show what apply would change on a server, which checks all of it and changes nothing.

What is new begins with +, what changes with ~, and what goes with -.

With --out the plan is kept in a file. "apply PLAN" then brings exactly these changes
into force, or nothing if the server has changed since.`,
		Example: `  fingerpost plan -f redirects/ --prune
  fingerpost plan -f redirects/ --prune --out next.plan && fingerpost apply next.plan --wait`,
		Args: exactArgs(0),
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&exitCode, "exit-code", false, "exit with 3 if there is something to do")
	cmd.Flags().StringVar(&out, "out", "", "keep the plan in `FILE`, for apply")
	return remoteVerb(cmd, func(s *session, _ []string) error {
		var p *planned
		var err error
		if out == "" {
			p, err = s.plan(&f)
		} else {
			p, err = s.planToKeep(&f)
		}
		if err != nil {
			return err
		}
		if err := p.show(s); err != nil {
			return err
		}
		if p.needs() > 0 {
			s.note("note: apply needs --allow-removing %d: that is more than a tenth of a team's redirects", p.needs())
		}
		if out != "" {
			if err := p.keep(out); err != nil {
				return fileError(out, "written", err)
			}
			s.note("the plan is in %s", out)
		}
		if exitCode && !p.empty() {
			return exitStatus(exitDifferences)
		}
		return nil
	})
}

// planFormat names the format of a plan in a file: this head, a line for each
// change, and a last line with the SHA-256 of all lines before it.
const planFormat = "fingerpost plan 1"

// planHead is what a plan says of itself.
type planHead struct {
	Format        string    `json:"format"`
	Server        string    `json:"server"`
	Revision      int64     `json:"revision"` // at which it holds
	Source        string    `json:"source"`
	Take          bool      `json:"take,omitempty"`
	AllowRemoving int64     `json:"allowRemoving,omitempty"` // that was said
	NeedsRemoving int64     `json:"needsRemoving,omitempty"` // that has to be said
	Added         int64     `json:"added"`
	Changed       int64     `json:"changed"`
	Removed       int64     `json:"removed"`
	By            string    `json:"by,omitempty"`
	At            time.Time `json:"at"`
	Program       string    `json:"program"`
}

// planEnd is the last line of the file.
type planEnd struct {
	SHA256 string `json:"sha256"`
}

// planTries is how often a plan is made again because the server has changed
// meanwhile.
const planTries = 5

// planToKeep plans, and makes sure that the changes by themselves, at one revision,
// come to what the server says that the files come to.
func (s *session) planToKeep(f *applyFlags) (*planned, error) {
	for range planTries {
		p, err := s.plan(f)
		if err != nil {
			return nil, err
		}
		r, err := s.postDiffs(p.changeset(true), anyRevision, p.diffs, planLine("the plan"))
		switch {
		case err != nil:
			return nil, err
		case r.Rev != p.result.Rev:
			continue
		case r.Added != p.result.Added || r.Changed != p.result.Changed || r.Removed != p.result.Removed:
			return nil, &fingerpost.Error{Code: "not_the_same", Message: fmt.Sprintf("the server comes to %s for the files, and to %s for the changes that were found", counts(p.result.Result), counts(r.Result)),
				Hint: "apply -f does it without a plan in a file"}
		}
		me, err := s.Session(s.ctx)
		if err != nil {
			return nil, err
		}
		p.head = planHead{Format: planFormat, Server: s.server, Revision: r.Rev, Source: p.f.source(), Take: p.f.take, AllowRemoving: p.f.allowRemoving, NeedsRemoving: p.result.AllowRemoving,
			Added: r.Added, Changed: r.Changed, Removed: r.Removed, By: me.Name, At: time.Now().UTC().Truncate(time.Second), Program: version}
		return p, nil
	}
	return nil, &fingerpost.Error{Code: "moved", Message: fmt.Sprintf("the server has changed %d times while it was asked", planTries), Hint: "plan again when it is quieter"}
}

// keep writes the plan to a file, whole or not at all.
func (p *planned) keep(name string) error {
	return writeWhole(name, func(w io.Writer) error {
		sum := sha256.New()
		b := bufio.NewWriter(w)
		enc := json.NewEncoder(io.MultiWriter(b, sum))
		enc.SetEscapeHTML(false)
		if err := enc.Encode(p.head); err != nil {
			return err
		}
		for i := range p.diffs {
			if err := enc.Encode(&p.diffs[i]); err != nil {
				return err
			}
		}
		if err := json.NewEncoder(b).Encode(planEnd{hex.EncodeToString(sum.Sum(nil))}); err != nil {
			return err
		}
		return b.Flush()
	})
}

// keptPlan is a plan out of a file.
type keptPlan struct {
	planHead
	name  string
	sum   string
	diffs []admin.Difference
}

// readPlan reads a plan, and refuses one that is not whole.
func readPlan(name string) (*keptPlan, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fileError(name, "read", err)
	}
	bad := func(code, message, hint string) error {
		return &fingerpost.Error{Code: code, Message: message, Hint: hint, At: fingerpost.Position{File: name}}
	}
	noPlan := bad("no_plan", "this is no plan", "fingerpost plan -f PATH --out "+name+" makes one; for files of redirects it is apply -f "+name)
	p := &keptPlan{name: name}
	first, _, _ := bytes.Cut(text, []byte("\n"))
	if json.Unmarshal(first, &p.planHead) != nil || p.Format == "" {
		return nil, noPlan
	}
	if p.Format != planFormat {
		return nil, bad("other_plan", fmt.Sprintf("this is a %q, and this program reads a %q", p.Format, planFormat), "plan and apply with the same version of fingerpost")
	}
	damaged := bad("damaged_plan", "the plan was changed or cut after it was made", "plan again")
	body, end, ok := cutLastLine(text)
	var given planEnd
	if !ok || json.Unmarshal(end, &given) != nil {
		return nil, damaged
	}
	sum := sha256.Sum256(body)
	if p.sum = hex.EncodeToString(sum[:]); given.SHA256 != p.sum {
		return nil, damaged
	}
	for line := range bytes.Lines(body[len(first)+1:]) {
		var d struct {
			Kind, Key     string
			Before, After json.RawMessage
		}
		if err := json.Unmarshal(line, &d); err != nil {
			return nil, damaged
		}
		one := admin.Difference{Kind: d.Kind, Key: d.Key}
		if d.Before != nil {
			one.Before = d.Before
		}
		if d.After != nil {
			one.After = d.After
		}
		p.diffs = append(p.diffs, one)
	}
	return p, nil
}

// cutLastLine takes the last line off a text that ends with one.
func cutLastLine(text []byte) (before, last []byte, ok bool) {
	rest, ok := bytes.CutSuffix(text, []byte("\n"))
	i := bytes.LastIndexByte(rest, '\n') + 1
	return text[:i], rest[i:], ok && i > 0
}

// applyPlan brings a plan out of a file into force.
func (s *session) applyPlan(name string, o *applyOptions) error {
	p, err := readPlan(name)
	if err != nil {
		return err
	}
	if p.Server != s.server {
		return &fingerpost.Error{Code: "other_server", Message: fmt.Sprintf("the plan was made for %s, and this is %s", p.Server, s.server), At: fingerpost.Position{File: name},
			Hint: "plan against this server, or name the other one with --server"}
	}
	if s.format == formatTable {
		if _, err := s.differences(each(p.diffs)); err != nil {
			return err
		}
		s.note("planned by %s at %s: revision %d, source %s", p.By, moment(p.At), p.Revision, p.Source)
	}
	allowed := max(p.AllowRemoving, o.allowRemoving)
	if p.NeedsRemoving > allowed {
		return removesMuch(p.NeedsRemoving)
	}
	result := admin.Result{Rev: p.Revision}
	if len(p.diffs) > 0 {
		if err := s.confirm(o.yes, "Apply this?"); err != nil {
			return err
		}
		changeset := client.Changeset{Mode: string(store.Merge), Source: p.Source, Take: p.Take, AllowRemoving: allowed, Note: o.why, Key: "plan " + p.sum}
		if result, err = s.surely(func() (admin.Result, error) {
			r, err := s.postDiffs(changeset, p.Revision, p.diffs, planLine(name))
			if err != nil {
				return r.Result, err
			}
			return s.finish(r, int64(len(p.diffs)), planLine(name))
		}); err != nil {
			return moved(err, p.Revision)
		}
		if result.Repeated {
			s.note("note: this plan was applied before, as revision %d; nothing was changed now", result.Rev)
		}
	} else if now, err := s.Version(s.ctx, "current"); err != nil {
		return err
	} else if now.Rev != p.Revision {
		return movedError(p.Revision)
	}
	return s.applied(result, len(p.diffs) == 0, o.wait)
}

// moved says what to do where the server refuses a plan because it has changed.
func moved(err error, base int64) error {
	var p *admin.Problem
	if errors.As(err, &p) && (p.Code == "moved" || p.Code == "base_moved") {
		return movedError(base)
	}
	return err
}

func movedError(base int64) error {
	return &fingerpost.Error{Code: "moved", Message: fmt.Sprintf("the server has changed since the plan was made, at revision %d; nothing was changed", base), Hint: "plan again"}
}

// postDiffs posts differences as rows, of a revision if base is one.
func (s *session) postDiffs(o client.Changeset, base int64, diffs []admin.Difference, at position) (admin.ChangesetResult, error) {
	rows, w := io.Pipe()
	defer rows.Close()
	go func() {
		b := bufio.NewWriter(w)
		err := writeDiffs(b, each(diffs))
		w.CloseWithError(errors.Join(err, b.Flush()))
	}()
	r, err := s.postAt(rows, o, base)
	return r, rowErrors(err, at)
}

func writeDiffs(w io.Writer, diffs iter.Seq2[admin.Difference, error]) error {
	enc := json.NewEncoder(w)
	for d, err := range diffs {
		var row any
		if err == nil {
			row, err = rowOf(&d)
		}
		if err == nil {
			err = enc.Encode(row)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// rowOf is the row of a changeset that makes a difference.
func rowOf(d *admin.Difference) (any, error) {
	switch {
	case d.After == nil && d.Kind == store.KindHost:
		return map[string]string{"delete": d.Kind, "name": d.Key}, nil
	case d.After == nil:
		host, id := store.CutRedirectKey(d.Key)
		return map[string]string{"delete": d.Kind, "host": string(host), "id": id}, nil
	case d.Kind == store.KindHost:
		h := admin.HostResource{Name: d.Key}
		text, err := json.Marshal(d.After)
		if err == nil {
			err = json.Unmarshal(text, &h.Host)
		}
		return h, err
	}
	return d.After, nil
}

// planLine names a change in a plan as the line of its file.
func planLine(name string) position {
	return func(i int) (fingerpost.Position, bool) { return fingerpost.Position{File: name, Line: i + 2}, true }
}

// each gives a slice as lists are given.
func each[T any](list []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, v := range list {
			if !yield(v, nil) {
				return
			}
		}
	}
}
