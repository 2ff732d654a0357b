package admin

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"

	"fingerpost"
	"fingerpost/store"
)

type listHostsInput struct {
	PageInput
	Team   string `query:"team" doc:"only those of this team"`
	Source string `query:"source" doc:"only those from this source"`
	Text   string `query:"text" doc:"only those with this text in their names or targets"`
}

type hostsOutput struct{ Body *Page[HostResource] }

func (s *Server) listHosts(ctx context.Context, in *listHostsInput) (*hostsOutput, error) {
	list := listName("hosts", in.Team, in.Source, in.Text)
	page, err := listItems(ctx, s.Store, store.KindHost, list, in.PageInput, store.Query{Team: in.Team, Source: in.Source}, textFilter(in.Text), showHost)
	if err == nil {
		err = s.addStates(ctx, page.Items)
	}
	return &hostsOutput{page}, err
}

// textFilter keeps items that have text in their key or value.
func textFilter(text string) func(*store.Item) bool {
	if text == "" {
		return nil
	}
	text = strings.ToLower(text)
	return func(it *store.Item) bool {
		return strings.Contains(strings.ToLower(it.Key), text) || strings.Contains(strings.ToLower(string(it.Value)), text)
	}
}

type HostInput struct {
	Host string `path:"host" doc:"a host pattern: shop.example, *.shop.example, .shop.example or *"`
}

type hostOutput struct {
	Status int
	ETag   string `header:"ETag"`
	Body   HostResource
}

const hostHint = "a host pattern: shop.example, *.shop.example, .shop.example or *"

func (in *HostInput) pattern() (fingerpost.HostPattern, error) {
	name, err := fingerpost.ParseHostPattern(in.Host)
	if err != nil {
		p := invalidParameter("host", err.Error(), hostHint)
		p.Errors[0].Pointer = "host"
		return "", p
	}
	return name, nil
}

func (s *Server) getHost(ctx context.Context, in *HostInput) (*hostOutput, error) {
	name, err := in.pattern()
	if err != nil {
		return nil, err
	}
	it, err := s.Store.Get(ctx, store.KindHost, string(name))
	if err != nil {
		return nil, err
	}
	out, err := hostOutputOf(&it, http.StatusOK)
	if err == nil {
		one := []HostResource{out.Body}
		err = s.addStates(ctx, one)
		out.Body = one[0]
	}
	return out, err
}

func hostOutputOf(it *store.Item, status int) (*hostOutput, error) {
	h, err := showHost(it)
	return &hostOutput{status, entityTag(it.Rev), h}, err
}

type putHostInput struct {
	HostInput
	WriteInput
	Body HostResource
}

func (s *Server) putHost(ctx context.Context, in *putHostInput) (*hostOutput, error) {
	name, err := in.pattern()
	if err != nil {
		return nil, err
	}
	h := in.Body.Host
	if h.Name = string(name); in.Body.Name != "" {
		if other, err := fingerpost.ParseHostPattern(in.Body.Name); err != nil || other != name {
			return nil, invalid(Fault{Pointer: "/name", Code: "bad_host", Detail: fmt.Sprintf("the name is %q here and %q in the path", in.Body.Name, in.Host), Hint: "leave it out of the body"})
		}
	}
	p := principalOf(ctx)
	if first, err := s.done(ctx, in.KeyInput); err != nil {
		return nil, err
	} else if first != nil {
		it, err := store.HostItem(&h, p.source())
		if err != nil {
			return nil, err
		}
		it, status, err := s.putBefore(ctx, first, it)
		if err != nil {
			return nil, err
		}
		return hostOutputOf(&it, status)
	}
	before, err := s.get(ctx, store.KindHost, string(name))
	if err != nil {
		return nil, err
	}
	if err := s.mayPutHost(ctx, p, before, &h); err != nil {
		return nil, err
	}
	if err := h.Validate(); err != nil {
		return nil, err
	}
	if before == nil || before.Team != h.Team {
		if err := s.knownOwner(ctx, h.Team); err != nil {
			return nil, err
		}
	}
	it, err := store.HostItem(&h, p.source())
	if err != nil {
		return nil, err
	}
	moved := before == nil || before.Team != it.Team
	it, status, err := s.putOne(ctx, p, in.WriteInput, before, it, it.Team)
	if err != nil {
		return nil, err
	}
	if moved { // its redirects go along
		s.relabel(ctx, p.actor(), []fingerpost.HostPattern{name}, new(store.Receipt))
	}
	return hostOutputOf(&it, status)
}

// mayPutHost decides whether p may make h of what it was. Whoever has the host
// may change its settings; names that are new to it need the right to have them,
// and another owner is the admin's to give.
func (s *Server) mayPutHost(ctx context.Context, p *Principal, before *store.Item, h *fingerpost.Host) error {
	allow := func(action Action, team string) error { return authorize(p, action, team) }
	return mayPutHost(allow, before, h, func(name fingerpost.HostPattern) (string, error) { return s.ownerOf(ctx, name) })
}

func mayPutHost(allow func(Action, string) error, before *store.Item, h *fingerpost.Host, ownerOf func(fingerpost.HostPattern) (string, error)) error {
	name, err := fingerpost.ParseHostPattern(h.Name)
	if err != nil {
		return err
	}
	team := ""
	var had []string
	if before != nil {
		team = before.Team
		old, err := before.Host()
		if err != nil {
			return err
		}
		had = append(append(had, old.Also...), old.RedirectFrom...)
	} else if team, err = ownerOf(name); err != nil {
		return err
	}
	if name == "*" {
		team = ""
	}
	if err := allow(Settings, team); err != nil {
		return err
	}
	if h.Team != team {
		if h.Team == "" && before == nil {
			h.Team = team // a new host below a wildcard is its owner's
		} else if err := allow(Govern, ""); err != nil {
			return forbidden(fmt.Sprintf("the host is for the team %q, and %q is asked for", team, h.Team), "only the admin of every team gives a host to another team")
		}
	}
	for _, list := range [][]string{h.Also, h.RedirectFrom} {
		for _, other := range list {
			if slices.Contains(had, other) {
				continue
			}
			pattern, err := fingerpost.ParseHostPattern(other)
			if err != nil {
				continue // Validate says so
			}
			owner, err := ownerOf(pattern)
			if err != nil {
				return err
			}
			if pattern == "*" {
				owner = ""
			}
			if err := allow(Settings, owner); err != nil {
				return err
			}
		}
	}
	return nil
}

type deleteHostInput struct {
	HostInput
	WriteInput
	Redirects     string `query:"redirects" enum:"delete,keep" doc:"what becomes of its redirects; to be said where there are any"`
	AllowRemoving int64  `query:"allowRemoving" minimum:"0" doc:"how many redirects may be removed, where it is more than a tenth of a team's"`
}

func (s *Server) deleteHost(ctx context.Context, in *deleteHostInput) (*resultOutput, error) {
	name, err := in.pattern()
	if err != nil {
		return nil, err
	}
	p := principalOf(ctx)
	it, err := s.Store.Get(ctx, store.KindHost, string(name))
	if first, err := s.done(ctx, in.KeyInput); err != nil {
		return nil, err
	} else if first != nil {
		return &resultOutput{resultOf(*first)}, nil
	}
	if err != nil {
		return nil, err
	}
	team := it.Team
	if name == "*" {
		team = ""
	}
	if err := authorize(p, Settings, team); err != nil {
		return nil, err
	}
	if in.Redirects != "delete" {
		if in.Redirects == "" {
			if err := s.hasRedirects(ctx, name); err != nil {
				return nil, err
			}
		}
		receipt, err := s.deleteOne(ctx, p, in.WriteInput, &it, team, nil)
		if err == nil && !receipt.Repeated { // a wildcard above it has its redirects from now on
			s.relabel(ctx, p.actor(), []fingerpost.HostPattern{name}, &receipt)
		}
		return &resultOutput{resultOf(receipt)}, err
	}
	if err := s.checkDeletesOf(ctx, p, name, in.Take, in.AllowRemoving); err != nil {
		return nil, err
	}
	receipt, err := s.deleteOne(ctx, p, in.WriteInput, &it, team, func(ctx context.Context) iter.Seq2[store.Change, error] {
		return s.deletesOf(ctx, name, in.Take)
	})
	return &resultOutput{resultOf(receipt)}, err
}

// hasRedirects is the problem of a host whose redirects somebody has to decide
// about.
func (s *Server) hasRedirects(ctx context.Context, name fingerpost.HostPattern) error {
	items, err := s.Store.List(ctx, store.KindRedirect, store.Query{Prefix: string(name) + "/", Limit: store.MaxChanges})
	if err != nil || len(items) == 0 {
		return err
	}
	many := fmt.Sprint(len(items))
	if len(items) == store.MaxChanges {
		many += " or more"
	}
	return problem(http.StatusConflict, "has_redirects", fmt.Sprintf("the host %s has %s redirects", name, many), "say redirects=delete to delete them too, or redirects=keep to serve them without settings")
}

// checkDeletesOf holds a host whose redirects go with it to what holds for a
// changeset that removes them.
func (s *Server) checkDeletesOf(ctx context.Context, p *Principal, name fingerpost.HostPattern, take bool, allowed int64) error {
	a := s.newAssembly(p, &changesetInput{})
	for c, err := range s.deletesOf(ctx, name, take) {
		if err != nil {
			return err
		}
		a.removed[c.Item.Team]++
	}
	return a.checkRemoved(ctx, allowed)
}

// deletesOf gives the deletes of a host's redirects as they are now.
func (s *Server) deletesOf(ctx context.Context, name fingerpost.HostPattern, take bool) iter.Seq2[store.Change, error] {
	return func(yield func(store.Change, error) bool) {
		for q := (store.Query{Prefix: string(name) + "/", Limit: 1000}); ; {
			items, err := s.Store.List(ctx, store.KindRedirect, q)
			if err != nil {
				yield(store.Change{}, err)
				return
			}
			for _, r := range items {
				if !isOurs(r.Source) && !take {
					err = conflictProblem(&store.Conflict{Kind: r.Kind, Key: r.Key, Reason: "it belongs to the source " + r.Source})
				}
				if !yield(store.Change{Op: store.Delete, Item: store.Item{Kind: r.Kind, Key: r.Key, Team: r.Team}, If: r.Rev}, err) || err != nil {
					return
				}
			}
			if len(items) < q.Limit {
				return
			}
			q.After = items[len(items)-1].Key
		}
	}
}
