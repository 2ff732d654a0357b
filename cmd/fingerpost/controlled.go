package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"fingerpost"
	"fingerpost/admin"
	"fingerpost/edge"
	"fingerpost/explain"
	"fingerpost/redirect"
	"fingerpost/replica"
	"fingerpost/store"
)

// newAdmin makes the admin listener's server, with the API where there is a store.
func (n *node) newAdmin() (*admin.Server, error) {
	a := &admin.Server{Metrics: n.metrics.Handler(), Log: n.log, Dir: n.o.data, Node: n.o.name}
	if n.shared == nil {
		return a, nil
	}
	s := n.shared
	a.Checks = []admin.Check{{Name: "content", Err: func() error {
		if status := s.replica.Status(); !status.Ready {
			return errors.New("no content yet: waiting for the first snapshot")
		}
		return nil
	}, Detail: func() string { return age(s.replica.Status(), time.Now()) }},
		{Name: "certificates", Err: n.heldErr, Detail: n.heldDetail}}
	a.Debug = func() any { return n.debugState() }
	n.metrics.FeedLag(func() time.Duration { status := s.replica.Status(); return status.Lag(time.Now()) })
	if s.db == nil {
		var err error
		if a.LocalToken, err = admin.LocalToken(n.o.data); err != nil {
			return nil, dataError(n.o.data, err)
		}
		a.NodeToken = n.o.token
		a.Feed = replica.FeedHandler(s.replica.Feed(), func(_ *http.Request, reports []replica.Report) error {
			n.relayed.put(reports)
			return nil
		})
		a.Snapshot = replica.SnapshotHandler(s.replica.Snapshot)
		return a, nil
	}
	a.Store, a.Accept, a.Explain = s.db, n.accept, n.explain
	for _, l := range n.listeners {
		if l.name == "admin" {
			a.URL = n.adminURL(l.Addr())
		}
	}
	a.Feed = replica.FeedHandler(s.feed(), n.followed)
	a.OIDC = n.oidc()
	a.Certificates = n.adminCertificates()
	a.Sources, a.SourcesChanged = n.sourcesOf(), n.contents.kept.look
	a.Snapshot = replica.SnapshotHandler(s.snapshot)
	return a, nil
}

// adminURL is where a browser on this machine finds the admin listener; with a
// certificate for a name, by that name.
func (n *node) adminURL(addr net.Addr) string {
	scheme, host, port := "http", "", ""
	if tcp, ok := addr.(*net.TCPAddr); ok {
		host, port = tcp.IP.String(), strconv.Itoa(tcp.Port)
		if tcp.IP.IsUnspecified() {
			host = "localhost"
		}
	}
	if n.adminHTTP.TLSConfig != nil {
		scheme = "https"
		if name := n.settings.Listen.AdminTLS.Name; name != "" && name != "auto" {
			host = name
		} else if n.adminPair != nil {
			if names := n.adminPair.current.Load().Leaf.DNSNames; len(names) > 0 && !strings.HasPrefix(names[0], "*") {
				host = names[0]
			}
		}
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// age says how old the state is that a node serves.
func age(s replica.Status, now time.Time) string {
	lag := s.Lag(now)
	switch {
	case lag == 0:
		return fmt.Sprintf("current, at revision %d", s.Cursor.Rev)
	case s.Connected && s.Head.Rev > s.Cursor.Rev:
		return fmt.Sprintf("at revision %d, %s behind", s.Cursor.Rev, plural(int(s.Head.Rev-s.Cursor.Rev), "revision"))
	case lag < 0:
		return fmt.Sprintf("at revision %d; no word from the feed yet", s.Cursor.Rev)
	}
	return fmt.Sprintf("at revision %d, which was current %s ago; the feed is away", s.Cursor.Rev, lag.Round(time.Second))
}

// debugState is what /debug/status tells of the node's own copy.
func (n *node) debugState() any {
	s := n.shared.replica.Status()
	cause := ""
	if s.Err != nil {
		cause = oneLine(s.Err)
	}
	return map[string]any{"role": n.o.role, "version": version, "ready": s.Ready, "cursor": s.Cursor, "head": s.Head, "connected": s.Connected, "asOf": s.AsOf, "feedError": cause,
		"lagSeconds": s.Lag(time.Now()).Seconds(), "items": s.Items, "overlay": s.Overlay, "logBytes": s.LogBytes, "fileBytes": s.FileBytes,
		"folding": s.Folding, "compacting": s.Compact, "leftOut": s.LeftOut}
}

// nodeOf names the node that a request comes from.
func nodeOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// bootstrap makes the first admin's token, on the first start.
func (n *node) bootstrap(ctx context.Context) {
	if n.shared == nil || n.shared.db == nil {
		return
	}
	if n.away.Load() {
		return // with the store
	}
	token, link, err := n.admin.Bootstrap(ctx, n.o.terminal != nil && n.admin.URL != "")
	if err != nil {
		n.log.Error("cannot make the first token", "err", err)
	}
	if token == "" {
		return
	}
	n.log.Info("first start: a token for the API is in the data folder", "file", filepath.Join(n.o.data, "admin.token"))
	if link != "" { // for whoever looks on; a log would keep it
		fmt.Fprintf(n.o.terminal, "\nLog in, once and within a quarter of an hour: %s\n\n", link)
	}
}

// explain answers the API's question which rule answers an address.
func (n *node) explain(ctx context.Context, c *fingerpost.Case) (*explain.Explanation, error) {
	req, err := explain.NewRequest(c, time.Now(), n.certificates.served.Covers)
	if err != nil {
		return nil, err
	}
	if req.Country == "" && n.countries != nil {
		req.Country = n.countries.Country(req.Addr)
	}
	x := explain.Explainer{Table: n.current(), Covers: n.certificates.served.Covers, Header: func(a *redirect.Answer) http.Header { return edge.Header(a) },
		Redirect: func(host, id string) *fingerpost.Redirect {
			it, err := n.shared.replica.Get(replica.KindRedirect, store.RedirectKey(fingerpost.HostPattern(host), id))
			if err != nil || it == nil {
				return nil
			}
			item := store.Item(*it)
			r, err := item.Redirect()
			if err != nil {
				return nil
			}
			return r
		}}
	return x.Explain(req), nil
}

// tidyEvery is how often a store is tidied, by one of its control nodes, and tidySoon
// how long after its start: one that never runs for an hour tidies, too.
const (
	tidyEvery = time.Hour
	tidySoon  = time.Minute
)

// ticks come soon, and then every so often, until ctx ends.
func ticks(ctx context.Context, soon, every time.Duration) <-chan time.Time {
	tick := make(chan time.Time)
	go func() {
		for next := time.NewTimer(soon); ; next.Reset(every) {
			select {
			case at := <-next.C:
				select {
				case tick <- at:
				case <-ctx.Done():
				}
			case <-ctx.Done():
				next.Stop()
				return
			}
		}
	}()
	return tick
}

// tidy removes from the store, at each tick, what is older than it has to be, until
// ctx ends.
func (n *node) tidy(ctx context.Context, tick <-chan time.Time) {
	if n.shared == nil || n.shared.db == nil {
		return
	}
	db := n.shared.db
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
		lease, err := db.Acquire(ctx, "tidy", n.o.name, tidyEvery/2)
		if errors.Is(err, store.ErrFenced) {
			continue // another node does it
		}
		if err == nil {
			_, err = db.Tidy(ctx, store.Retention{})
			err = errors.Join(err, n.admin.Tidy(ctx), db.Release(ctx, lease))
		}
		if err != nil && ctx.Err() == nil {
			n.log.Warn("the store could not be tidied; it is tried again", "err", err, "in", tidyEvery)
		}
	}
}
