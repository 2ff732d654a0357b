package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// workload is one row: who takes part, and what Fingerpost is to reach.
type workload struct {
	name, what string
	setting    setting
	args       []string // of the generator
	conns      int
	peers      []*peer
	own        *setting // a second Fingerpost, that the first is compared with
	ownArgs    []string
	goals      []goal
}

// goal is how much CPU Fingerpost may spend at most, in that of another.
type goal struct {
	of *peer // nil: of the second Fingerpost
	at float64
}

// ownName is the second Fingerpost of a row.
const ownName = "Fingerpost, W4"

func (b *bench) workloads() []workload {
	million, many, most := 1_000_000, 10_000, 100_000
	if b.short {
		million, many, most = 2000, 50, 100
	}
	everyone := b.peers()
	servers := everyone[1:] // with more than the limit has
	without := func(left ...*peer) []*peer {
		return slices.DeleteFunc(slices.Clone(everyone), func(p *peer) bool { return slices.Contains(left, p) })
	}
	deferring := without(b.caddy)
	hybrid := without(b.limit, b.nginx, b.haproxy) // OpenSSL has it from 3.5 on
	own := without(b.limit, b.nginx, b.haproxy, b.caddy)
	fresh := []string{"-close"}
	handshake := []string{"-tls", "-close"}
	w4 := setting{rules: 1, certs: 1, hangUp: true}
	return []workload{
		{name: "W1", what: "plain keep-alive, 1 rule", setting: setting{rules: 1}, conns: 64, peers: everyone, goals: []goal{{b.limit, 1.15}, {b.nginx, 0.92}}},
		{name: "W1 log", what: "W1 with access logs", setting: setting{rules: 1, log: true}, conns: 64, peers: servers},
		{name: "W2", what: "plain keep-alive, 1,000,000 rules", setting: setting{rules: million}, conns: 64, peers: everyone, goals: []goal{{b.limit, 1.20}, {b.nginx, 0.75}}},
		{name: "W3", what: "a new connection for each request", setting: setting{rules: 1, hangUp: true}, args: fresh, conns: 64, peers: everyone},
		{name: "W3 deferred", what: "W3, accepted when the request is there", setting: setting{rules: 1, hangUp: true, deferred: true}, args: fresh, conns: 64, peers: deferring, goals: []goal{{b.nginx, 0.95}}},
		{name: "W4", what: "TLS 1.3 handshake and 1 request", setting: w4, args: handshake, conns: 32, peers: everyone, goals: []goal{{b.nginx, 0.70}}},
		{name: "W4k", what: "W4, 10,000 certificates by server name", setting: setting{rules: 1, certs: many, hangUp: true}, args: handshake, conns: 32, peers: servers, own: &w4, ownArgs: handshake, goals: []goal{{b.nginx, 0.72}, {nil, 1.05}}},
		{name: "W4k 100,000", what: "W4, 100,000 certificates", setting: setting{rules: 1, certs: most, hangUp: true}, args: handshake, conns: 32, peers: own, own: &w4, ownArgs: handshake, goals: []goal{{nil, 1.05}}},
		{name: "W4q", what: "W4 with X25519MLKEM768", setting: w4, args: append(slices.Clone(handshake), "-hybrid"), conns: 32, peers: hybrid, own: &w4, ownArgs: handshake, goals: []goal{{nil, 1.40}}},
		{name: "W5", what: "HTTPS keep-alive, HTTP/1.1", setting: setting{rules: 1, certs: 1}, args: []string{"-tls"}, conns: 64, peers: everyone, goals: []goal{{b.limit, 1.10}, {b.nginx, 0.85}}},
		{name: "W6", what: "TLS 1.3 resumption and 1 request", setting: w4, args: append(slices.Clone(handshake), "-resume"), conns: 32, peers: everyone, goals: []goal{{b.nginx, 0.72}}},
	}
}

// contestant is one server of a row with its turns.
type contestant struct {
	name  string
	peer  *peer
	srv   *server
	args  []string
	turns []*load // of each round; nil if it failed
	err   error
}

// measureWorkloads prints the rows, and returns what went wrong.
func (b *bench) measureWorkloads() error {
	var errs []error
	var rows, details strings.Builder
	for _, w := range b.workloads() {
		if !b.wants(w.name) || b.ctx.Err() != nil {
			continue
		}
		begin := time.Now()
		fmt.Fprintf(os.Stderr, "%s: %s…", w.name, w.what)
		all := b.contest(&w)
		fmt.Fprintf(os.Stderr, " %v\n", time.Since(begin).Round(time.Second))
		b.row(&rows, &w, all)
		for _, c := range all {
			if c.err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", w.name, c.err))
				fmt.Fprintf(&details, "| %s | %s | %v | | | |\n", w.name, c.name, strings.ReplaceAll(c.err.Error(), "|", " "))
				continue
			}
			figure := func(of func(*load) float64) float64 {
				var all []float64
				for _, l := range c.turns {
					all = append(all, of(l))
				}
				return median(all)
			}
			fmt.Fprintf(&details, "| %s | %s | %.2f | %.0f | %.0f %% | %.2f | %.2f / %.2f |\n", w.name, c.name, figure((*load).micros),
				figure(func(l *load) float64 { return float64(l.Requests) / l.Seconds }),
				figure(func(l *load) float64 { return 100 * l.server / l.Seconds }),
				figure(func(l *load) float64 { return l.CPU / float64(l.Requests) * 1e6 }),
				figure(func(l *load) float64 { return l.P50 }), figure(func(l *load) float64 { return l.P99 }))
		}
	}
	if rows.Len() > 0 {
		b.printf("Server CPU for each request in µs, with that of others in parentheses where Fingerpost is 1; the last columns are Fingerpost in that of others, medians of the rounds' ratios.\n\n")
		b.printf("| workload")
		for _, p := range b.peers() {
			b.printf(" | %s", p.name)
		}
		b.printf(" | of limit | of nginx | of own W4 | to reach | holds |\n|%s\n%s\n", strings.Repeat("---|", len(b.peers())+6), rows.String())
		b.printf("Whether a server was at its limit: its share of its core, the rate, what a request cost the generator in µs, and ms to an answer (p50 / p99).\n\n")
		b.printf("| workload | server | µs | requests/s | of its core | generator µs | ms |\n|---|---|---|---|---|---|---|\n%s\n", details.String())
	}
	return errors.Join(errs...)
}

// contest starts the servers of a row and gives each its turns, round by round.
func (b *bench) contest(w *workload) []*contestant {
	var all []*contestant
	add := func(name string, p *peer, s setting, args []string) {
		if p.missing != nil {
			return
		}
		c := &contestant{name: name, peer: p, args: args}
		c.srv, c.err = b.start(p, s)
		if c.err == nil {
			c.err = b.check(c.srv)
		}
		all = append(all, c)
	}
	for _, p := range w.peers {
		add(p.name, p, w.setting, w.args)
	}
	if w.own != nil {
		add(ownName, b.fingerpost, *w.own, w.ownArgs)
	}
	defer func() {
		for _, c := range all {
			if c.srv != nil {
				c.srv.stop()
			}
		}
	}()
	for round := range b.rounds {
		for _, c := range all {
			if c.err != nil {
				continue
			}
			args := append([]string{"-time", b.time.String(), "-conns", fmt.Sprint(w.conns)}, c.args...)
			if round == 0 && w.setting.certs > 1 && !b.short {
				// What a certificate costs at its first use is no matter of the long run.
				args = append(args, "-each")
			}
			var l *load
			if l, c.err = c.srv.drive(b.ctx, args...); c.err == nil {
				c.turns = append(c.turns, l)
			}
		}
	}
	return all
}

// check asks for a sample, certificates verified; the limit has one answer.
func (b *bench) check(s *server) error {
	wants := b.wanted(s.peer, s.setting)
	for i := range min(20, len(wants)) {
		if err := s.answers(wants[i*len(wants)/20%len(wants)]); err != nil {
			return fmt.Errorf("%s: %w", s.peer.name, err)
		}
	}
	return nil
}

// row prints one workload.
func (b *bench) row(to *strings.Builder, w *workload, all []*contestant) {
	find := func(name string) *contestant {
		for _, c := range all {
			if c.name == name && c.err == nil {
				return c
			}
		}
		return nil
	}
	ours := find(b.fingerpost.name)
	ratio := func(other *contestant) float64 {
		if ours == nil || other == nil {
			return 0
		}
		var ratios []float64
		for i := range ours.turns {
			ratios = append(ratios, ours.turns[i].micros()/other.turns[i].micros())
		}
		return median(ratios)
	}
	fmt.Fprintf(to, "| %s: %s", w.name, w.what)
	for _, p := range b.peers() {
		c := find(p.name)
		if c == nil {
			to.WriteString(" | –")
			continue
		}
		var figures []float64
		for _, l := range c.turns {
			figures = append(figures, l.micros())
		}
		fmt.Fprintf(to, " | %.2f", median(figures))
		if r := ratio(c); p != b.fingerpost && r > 0 {
			fmt.Fprintf(to, " (%.2f)", 1/r)
		}
	}
	for _, name := range []string{b.limit.name, b.nginx.name, ownName} {
		if r := ratio(find(name)); r > 0 {
			fmt.Fprintf(to, " | %.2f", r)
		} else {
			to.WriteString(" | –")
		}
	}
	var goals, holds []string
	for _, g := range w.goals {
		name, words := ownName, "own W4"
		if g.of != nil {
			name, words = g.of.name, g.of.name
		}
		goals = append(goals, fmt.Sprintf("≤ %.2f of %s", g.at, words))
		holds = append(holds, verdict(ratio(find(name)), g.at))
	}
	fmt.Fprintf(to, " | %s | %s |\n", strings.Join(goals, ", "), strings.Join(holds, ", "))
}

// verdict is whether a figure is what it is to be; 0 is none.
func verdict(figure, at float64) string {
	switch {
	case figure == 0:
		return "not measured"
	case figure <= at:
		return "yes"
	}
	return fmt.Sprintf("**no**, %.0f %% over", 100*(figure/at-1))
}
