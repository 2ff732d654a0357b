package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"fingerpost"
	"fingerpost/accesslog"
	"fingerpost/redirect"

	"github.com/spf13/cobra"
)

// replayFlags are what replay is asked for.
type replayFlags struct {
	old, new             []string
	format, host, scheme string
	at, output           string
	limit, maxDistinct   int
	exitCode             bool
}

func replayCommand() *cobra.Command {
	var o replayFlags
	var remote remoteFlags
	cmd := &cobra.Command{
		Use:   "replay LOG...",
		Short: "Show which requests of a log would get another answer from new rules",
		Long: `Show which requests of access logs would get another answer (status or Location)
from the new rules than from the old ones, most frequent first.

A LOG is a file, gzip or not, or - for standard input. Its format is seen from its
first lines: json (our own), combined (also common, and with the virtual host before
it), alb, cloudfront, or urls (a list). Requests are asked as of now, with what the
log has of them: where it does not say, --host and --scheme hold; countries,
cookies and languages are in no log. Lines that cannot be read are counted and
shown.

--old and --new name files or folders, as check reads them; each may be given
several times. A name that is no file is a version of the server: the name of one, the
number of a revision, or current.`,
		Example: `  fingerpost replay --old fingerpost.yaml --new next/fingerpost.yaml access.log.*.gz
  fingerpost replay --old current --new redirects/ --server https://admin.example.com access.log
  zcat other.log.gz | fingerpost replay --host www.example.com --old redirects.json --new next.json --exit-code -`,
		Args: minArgs(1),
		RunE: func(cmd *cobra.Command, logs []string) error {
			r, err := newReplay(&o)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			if r.old, err = rulesOf(ctx, &remote, o.old); err != nil {
				return remoteError(err)
			}
			if r.new, err = rulesOf(ctx, &remote, o.new); err != nil {
				return remoteError(err)
			}
			bar := showProgress("replay", totalSize(logs), unitBytes)
			defer bar.end()
			for _, log := range logs {
				if err := r.file(ctx, log, cmd.InOrStdin(), bar); err != nil {
					return remoteError(err)
				}
			}
			bar.end()
			r.name()
			r.notes(cmd.ErrOrStderr())
			if err := r.print(cmd.OutOrStdout(), o.output); err != nil {
				return err
			}
			if r.Requests == 0 {
				return &fingerpost.Error{Code: "no_requests", Message: "no line of the log could be read as a request", Hint: "name its format with --format"}
			}
			if o.exitCode && r.Changed > 0 {
				return exitStatus(exitDifferences)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.old, "old", nil, "`FILE`, folder or version of the rules that are in force; may be given several times")
	f.StringArrayVar(&o.new, "new", nil, "`FILE`, folder or version of the rules that are to be; may be given several times")
	f.StringVar(&o.format, "format", "", "`FORMAT` of the log: json, combined, alb, cloudfront or urls (default: seen from its first lines)")
	f.StringVar(&o.host, "host", "", "`HOST` of requests whose line has none")
	f.StringVar(&o.scheme, "scheme", "https", "http or https, for requests whose line does not say")
	f.StringVar(&o.at, "at", "", "`TIME` at which all is asked, as in 2026-12-24T18:00:00+01:00 (default now)")
	f.IntVar(&o.limit, "limit", 50, "print so many groups in a table at most; 0 for all")
	f.IntVar(&o.maxDistinct, "max-distinct", 1_000_000, "tell so many different requests apart at most; they take 50 MB a million")
	f.BoolVar(&o.exitCode, "exit-code", false, "exit with status 3 if an answer would change")
	f.StringVarP(&o.output, "output", "o", "table", "`FORMAT`: table, json or csv")
	remote.registerServer(cmd)
	return cmd
}

const (
	maxLine      = 1 << 20 // bytes; a longer line is unreadable
	sampleBytes  = 64 << 10
	sampleLines  = 50
	maxGroups    = 100_000
	maxBadShown  = 10
	maxBadLength = 160 // of a line that is shown
)

// replay is a comparison under way. Its exported fields are what -o json prints.
type replay struct {
	Lines      int64          `json:"lines"`      // without empty ones and comments
	Requests   int64          `json:"requests"`   // lines that could be read
	Changed    int64          `json:"changed"`    // requests whose answer would change
	Distinct   int            `json:"distinct"`   // different ones among these
	Exact      bool           `json:"exact"`      // Distinct is no lower bound
	Unreadable int64          `json:"unreadable"` // lines
	Invalid    int64          `json:"invalid"`    // requests that are answered 400 by whatever rules
	BadLines   []badLine      `json:"badLines"`   // the first of the unreadable and invalid
	Others     int64          `json:"others"`     // changed requests beyond the groups that are kept
	Groups     []*replayGroup `json:"groups"`

	flags    *replayFlags
	old, new *rules
	now      int64
	groups   map[groupKey]*replayGroup
	seen     map[uint64]struct{} // hashes of the distinct requests
	seed     maphash.Seed
	answers  [2]redirect.Answer
	header   logHeader
	hosts    map[string]parsedHost
}

type badLine struct {
	File   string `json:"file"`
	Line   int64  `json:"line"`
	Reason string `json:"reason"`
	Text   string `json:"text"`
}

// replayGroup are requests that go from the same rule to the same rule.
type replayGroup struct {
	Count    int64          `json:"count"`
	Distinct int            `json:"distinct"`
	Old      replayedAnswer `json:"old"` // of the example
	New      replayedAnswer `json:"new"`
	Example  replayExample  `json:"example"`
}

type replayedAnswer struct {
	Status   int    `json:"status"`
	Location string `json:"location,omitempty"`
	By       string `json:"by"`             // who answered: a rule, a fallback, a policy
	Rule     string `json:"rule,omitempty"` // its id and where it is written

	ref ruleName
}

// ruleName identifies a rule of a table.
type ruleName struct{ host, id string }

type replayExample struct {
	Method string `json:"method"`
	URL    string `json:"url"`
}

// groupKey is what the requests of a group have in common. Where no rule answered,
// that is the host.
type groupKey struct {
	old, new side
	host     string
}

type side struct {
	kind   redirect.Kind
	status int
	rule   ruleName
}

func newReplay(o *replayFlags) (*replay, error) {
	if len(o.old) == 0 || len(o.new) == 0 {
		return nil, usage(errors.New("--old and --new must both be given"))
	}
	if !slices.Contains([]string{"table", "json", "csv"}, o.output) {
		return nil, usage(fmt.Errorf("-o %s: one of table, json, csv", o.output))
	}
	if o.format != "" && !slices.Contains(accesslog.Formats, accesslog.Format(o.format)) {
		return nil, usage(fmt.Errorf("--format %s: one of json, combined, alb, cloudfront, urls", o.format))
	}
	if o.scheme != "http" && o.scheme != "https" {
		return nil, usage(fmt.Errorf("--scheme %s: http or https", o.scheme))
	}
	r := &replay{flags: o, Exact: true, now: time.Now().Unix(), groups: map[groupKey]*replayGroup{}, seen: map[uint64]struct{}{}, seed: maphash.MakeSeed(),
		BadLines: []badLine{}, Groups: []*replayGroup{}, hosts: map[string]parsedHost{}}
	if o.at != "" {
		at, err := time.Parse(time.RFC3339, o.at)
		if err != nil {
			return nil, usage(fmt.Errorf("--at %q is not a time with a zone, as in 2026-12-24T18:00:00+01:00", o.at))
		}
		r.now = at.Unix()
	}
	return r, nil
}

// file replays one log.
func (r *replay) file(ctx context.Context, name string, stdin io.Reader, bar *progress) error {
	var in io.Reader = stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return fileError(name, "read", err)
		}
		defer f.Close()
		in = f
	} else {
		name = "standard input"
	}
	err := r.log(name, counted{untilDone{ctx, in}, bar})
	var known *fingerpost.Error
	if err != nil && !errors.As(err, &known) && ctx.Err() == nil {
		return fileError(name, "read", err)
	}
	return err
}

// totalSize is how many bytes logs have, or 0 if that is not known.
func totalSize(logs []string) (total int64) {
	for _, log := range logs {
		info, err := os.Stat(log)
		if err != nil || !info.Mode().IsRegular() {
			return 0
		}
		total += info.Size()
	}
	return total
}

// untilDone reads until a context ends.
type untilDone struct {
	ctx context.Context
	io.Reader
}

func (u untilDone) Read(b []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.Reader.Read(b)
}

// log replays the lines of in.
func (r *replay) log(name string, in io.Reader) error {
	b := bufio.NewReaderSize(in, maxLine)
	if magic, _ := b.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(b)
		if err != nil {
			return err
		}
		b = bufio.NewReaderSize(z, maxLine)
	}
	parser := &accesslog.Parser{Format: accesslog.Format(r.flags.format)}
	if parser.Format == "" {
		var ok bool
		sample := firstLines(b)
		if parser.Format, ok = accesslog.Detect(sample); !ok {
			if len(sample) == 0 {
				return nil
			}
			return &fingerpost.Error{Code: "bad_log", Message: "the format of the log is not known", At: fingerpost.Position{File: name},
				Hint: "name it with --format: json, combined, alb, cloudfront or urls"}
		}
	}
	var e accesslog.Entry
	for number := int64(1); ; number++ {
		line, err := b.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			r.Lines, r.Unreadable = r.Lines+1, r.Unreadable+1
			r.bad(name, number, "it is longer than a megabyte", string(line[:maxBadLength]))
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = b.ReadSlice('\n')
			}
			line = nil
		}
		if len(line) > 0 {
			text := string(line)
			if request, err := parser.Parse(text, &e); request {
				r.Lines++
				if err != nil {
					r.Unreadable++
					r.bad(name, number, err.Error(), text)
				} else if err := r.entry(&e); err != nil {
					r.Invalid++
					r.bad(name, number, err.Error(), text)
				}
			}
		}
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// firstLines peeks at whole lines.
func firstLines(b *bufio.Reader) []string {
	sample, err := b.Peek(sampleBytes)
	if i := bytes.LastIndexByte(sample, '\n'); i >= 0 && err == nil {
		sample = sample[:i]
	}
	var lines []string
	for line := range strings.Lines(string(sample)) {
		if lines = append(lines, line); len(lines) == sampleLines {
			break
		}
	}
	return lines
}

func (r *replay) bad(file string, line int64, reason, text string) {
	if len(r.BadLines) == maxBadShown {
		return
	}
	text = strings.ToValidUTF8(strings.TrimRight(text, "\r\n"), "�")
	if len(text) > maxBadLength {
		text = strings.ToValidUTF8(text[:maxBadLength], "") + "…"
	}
	r.BadLines = append(r.BadLines, badLine{file, line, reason, text})
}

// entry asks both tables. An error says why no server would.
func (r *replay) entry(e *accesslog.Entry) error {
	if e.Host == "" {
		e.Host = r.flags.host
	}
	if e.Scheme == "" {
		e.Scheme = r.flags.scheme
	}
	if e.Host == "" {
		return errors.New("it names no host; give one with --host")
	}
	r.Requests++
	host := r.host(e.Host)
	if host.err != nil {
		return errors.New("its host is none")
	}
	path, query, _ := strings.Cut(e.Target, "?")
	parsed, err := fingerpost.ParsePath(path)
	if err != nil {
		return fmt.Errorf("its path: %w", err)
	}
	r.header.agent[0], r.header.referer[0] = e.UserAgent, e.Referer
	req := redirect.Request{Method: e.Method, HTTPS: e.Scheme == "https", Host: host.name, Port: host.port, Path: parsed, Target: e.Target, Query: query,
		Header: &r.header, Addr: e.Addr, Now: r.now, Covered: r.old.covers}
	before, after := &r.answers[0], &r.answers[1]
	r.old.table.Answer(&req, before)
	req.Covered = r.new.covers
	r.new.table.Answer(&req, after)
	if before.Status != after.Status || !bytes.Equal(before.Location, after.Location) {
		r.differs(e, before, after)
	}
	return nil
}

type parsedHost struct {
	name, port string
	err        error
}

// host parses a host once: a log has few of them, or a bounded number is kept.
func (r *replay) host(s string) parsedHost {
	h, ok := r.hosts[s]
	if !ok {
		h.name, h.port, h.err = fingerpost.ParseHost(s)
		if len(r.hosts) < 10_000 {
			r.hosts[strings.Clone(s)] = h
		}
	}
	return h
}

// logHeader has the fields of a request that logs have.
type logHeader struct{ agent, referer [1]string }

func (h *logHeader) Values(name string) []string {
	switch {
	case h.agent[0] != "" && strings.EqualFold(name, "User-Agent"):
		return h.agent[:]
	case h.referer[0] != "" && strings.EqualFold(name, "Referer"):
		return h.referer[:]
	}
	return nil
}

// differs counts a request whose answer would change.
func (r *replay) differs(e *accesslog.Entry, before, after *redirect.Answer) {
	r.Changed++
	key := groupKey{old: sideOf(before), new: sideOf(after)}
	if key.old.rule.id == "" && key.new.rule.id == "" {
		key.host = e.Host
	}
	g := r.groups[key]
	if g == nil {
		if len(r.groups) == maxGroups {
			r.Others++
			return
		}
		key.host = strings.Clone(key.host)
		g = &replayGroup{Old: replayed(before), New: replayed(after), Example: replayExample{strings.Clone(e.Method), e.Scheme + "://" + e.Host + e.Target}}
		r.groups[key] = g
		r.Groups = append(r.Groups, g)
	}
	g.Count++
	var h maphash.Hash
	h.SetSeed(r.seed)
	for _, part := range []string{e.Method, e.Scheme, e.Host, e.Target} {
		h.WriteString(part)
		h.WriteByte(0)
	}
	sum := h.Sum64()
	if _, known := r.seen[sum]; known {
		return
	}
	if len(r.seen) >= r.flags.maxDistinct {
		r.Exact = false
		return
	}
	r.seen[sum] = struct{}{}
	r.Distinct++
	g.Distinct++
}

func sideOf(a *redirect.Answer) side {
	s := side{kind: a.Kind, status: a.Status}
	if !a.Rule.IsZero() {
		s.rule = ruleName{a.Rule.Host(), a.Rule.ID()}
	}
	return s
}

func replayed(a *redirect.Answer) replayedAnswer {
	return replayedAnswer{Status: a.Status, Location: string(a.Location), By: answeredBy[a.Kind], ref: sideOf(a).rule}
}

var answeredBy = map[redirect.Kind]string{
	redirect.ByRule: "rule", redirect.ByFallback: "fallback of the host", redirect.NotFound: "no rule holds",
	redirect.UnknownHost: "the host is not served", redirect.Upgrade: "https policy", redirect.Forbidden: "https policy",
	redirect.Loop: "the target is the request itself", redirect.BadTarget: "the target is not a URL of the intended host", redirect.BadMethod: "the method",
}

// name fills in which rules answered, with one walk over all of them: there may be
// a million rules and many groups.
func (r *replay) name() {
	for _, side := range []struct {
		rules  *rules
		answer func(*replayGroup) *replayedAnswer
	}{{r.old, func(g *replayGroup) *replayedAnswer { return &g.Old }}, {r.new, func(g *replayGroup) *replayedAnswer { return &g.New }}} {
		wanted := map[ruleName]string{}
		for _, g := range r.Groups {
			if ref := side.answer(g).ref; ref.id != "" {
				wanted[ref] = ref.id + " of " + ref.host
			}
		}
		find := func(list []fingerpost.Redirect) {
			for i := range list {
				host, id, err := redirect.Identify(&list[i])
				if _, ok := wanted[ruleName{host, id}]; err != nil || !ok {
					continue
				}
				if at := list[i].Source.String(); at != "" {
					wanted[ruleName{host, id}] = id + " (" + at + ")"
				}
			}
		}
		find(side.rules.Redirects)
		for i := range side.rules.Hosts {
			find(side.rules.Hosts[i].Redirects())
		}
		for _, g := range r.Groups {
			a := side.answer(g)
			a.Rule = wanted[a.ref]
		}
	}
}
