package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"fingerpost"
	"fingerpost/replica"
	"fingerpost/store"
)

// What nodes tell of themselves: an edge to the node that it follows, with each
// revision that it serves and with each sign of life of the feed; a relay with
// that of its followers; a control node to the store.

// report is what this node tells of itself.
func (n *node) report(at replica.Cursor) replica.Report {
	health := "starting"
	if a := n.health.Load(); a != nil {
		health = (*a)()
	}
	if s := n.shared.replica.Status(); health == "ok" && len(s.LeftOut) > 0 {
		health = plural(len(s.LeftOut), "item") + " left out"
	}
	if health == "ok" { // so this node has its cluster key by now
		health = cmp.Or(n.someSealed(), health)
	}
	roles := []string{n.o.role}
	if n.o.role == roleAll {
		roles = []string{roleControl, roleEdge}
	}
	return replica.Report{Node: n.o.name, Instance: n.instance, Region: n.settings.Region, Addresses: n.settings.Addresses,
		Roles: roles, Version: version, Health: health, At: at}
}

// reports are this node's own and those that have come in to be handed on.
func (n *node) reports(at replica.Cursor) []replica.Report {
	return append([]replica.Report{n.report(at)}, n.relayed.take()...)
}

// relayed are reports of nodes that follow this one, an edge, the newest of each.
type relayed struct {
	mu      sync.Mutex // guards reports
	reports map[string]replica.Report
}

// maxRelayed bounds what is kept while the upstream is away.
const maxRelayed = 10_000

func (r *relayed) put(list []replica.Report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reports == nil {
		r.reports = map[string]replica.Report{}
	}
	for _, one := range list {
		if _, known := r.reports[one.Node]; one.Node != "" && (known || len(r.reports) < maxRelayed) {
			r.reports[one.Node] = one
		}
	}
}

func (r *relayed) take() []replica.Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := slices.Collect(maps.Values(r.reports))
	r.reports = nil
	return list
}

// roster notices two nodes with one name: a data folder that was copied.
type roster struct {
	mu    sync.Mutex // guards nodes
	nodes map[string]*instances
}

// instances are the starts of a node: the one that reported itself last, and
// those before it. A node that was started anew does not come back as the one
// before.
type instances struct {
	now    string
	former map[string]bool
	twins  time.Time // when two were noticed last
}

// maxFormer bounds the starts that are remembered of a node.
const maxFormer = 100

// admit gives an error if another node goes by the same name at the same time.
func (r *roster) admit(report *replica.Report, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.nodes == nil {
		r.nodes = map[string]*instances{}
	}
	i := r.nodes[report.Node]
	if i == nil {
		i = &instances{now: report.Instance, former: map[string]bool{}}
		r.nodes[report.Node] = i
	}
	if report.Instance != i.now {
		if i.former[report.Instance] {
			i.twins = now
		}
		if len(i.former) >= maxFormer {
			clear(i.former)
		}
		i.former[i.now] = true
		i.now = report.Instance
	}
	if !i.twins.IsZero() && now.Sub(i.twins) < time.Minute {
		return &fingerpost.Error{Code: "two_nodes", Message: "two nodes call themselves " + report.Node,
			Hint: "give one of them another name with --node, or remove " + idFile + " from its data folder, which was copied"}
	}
	return nil
}

// newInstance names one start of a node.
func newInstance() string { return rand.Text()[:12] }

// noteNode writes to the store what a node reports.
func (n *node) noteNode(ctx context.Context, r *replica.Report) error {
	twins := n.roster.admit(r, time.Now())
	v := store.Node{ID: r.Node, Region: r.Region, Addresses: r.Addresses, Roles: r.Roles, Version: r.Version, Health: r.Health, Epoch: r.At.Epoch, Rev: r.At.Rev}
	if twins != nil {
		v.Health = twins.Error()
	}
	if err := n.shared.db.ReportNode(ctx, v); err != nil && ctx.Err() == nil {
		n.log.Warn("cannot note how far a node is", "node", r.Node, "err", err)
	}
	return twins
}

// followed takes the reports of a node that follows this control node.
func (n *node) followed(r *http.Request, reports []replica.Report) error {
	var refused error
	for i := range reports {
		one := &reports[i]
		if one.Node == "" {
			one.Node = nodeOf(r) // it says nothing but its cursor
		}
		if err := n.noteNode(r.Context(), one); err != nil && refused == nil {
			e := fingerpost.Errors(err)[0]
			refused = fmt.Errorf("%s (%s)", e.Message, e.Hint)
			n.twins.Do(time.Now(), func() { n.log.Error(e.Message, "hint", e.Hint, "from", r.RemoteAddr) })
		}
	}
	return refused
}

// seldom runs something at most once a minute.
type seldom struct {
	mu   sync.Mutex // guards last
	last time.Time
}

func (s *seldom) Do(now time.Time, fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last.IsZero() || now.Sub(s.last) >= time.Minute {
		s.last = now
		fn()
	}
}
