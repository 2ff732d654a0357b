package admin

import (
	"context"
	"fmt"
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

func (in *HostInput) pattern() (fingerpost.HostPattern, error) {
	name, err := fingerpost.ParseHostPattern(in.Host)
	if err != nil {
		p := invalidParameter("host", err.Error(), "a name such as shop.example or *.shop.example")
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
	return hostOutputOf(&it, http.StatusOK)
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
	it, err := store.HostItem(&h, p.source())
	if err != nil {
		return nil, err
	}
	changes, err := s.withRedirects(ctx, before, &it)
	if err != nil {
		return nil, err
	}
	it, status, err := s.putOne(ctx, p, in.WriteInput, before, it, it.Team, changes)
	if err != nil {
		return nil, err
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

// withRedirects gives the changes that go with a host: where it gets another
// team, its redirects go along.
func (s *Server) withRedirects(ctx context.Context, before, it *store.Item) ([]store.Change, error) {
	if before == nil && it.Team == "" || before != nil && before.Team == it.Team {
		return nil, nil
	}
	redirects, err := s.redirectsOf(ctx, it.Key)
	if err != nil {
		return nil, err
	}
	var changes []store.Change
	for _, r := range redirects {
		if r.Team != it.Team {
			r.Team = it.Team
			changes = append(changes, store.Change{Op: store.Put, Item: r, If: r.Rev})
		}
	}
	return changes, nil
}

// redirectsOf lists the redirects of a host, as many as one batch can take along.
func (s *Server) redirectsOf(ctx context.Context, host string) ([]store.Item, error) {
	items, err := s.Store.List(ctx, store.KindRedirect, store.Query{Prefix: host + "/", Limit: store.MaxChanges})
	if err == nil && len(items) == store.MaxChanges {
		err = problem(http.StatusUnprocessableEntity, "too_large", fmt.Sprintf("the host has over %d redirects, which cannot change with it at once", store.MaxChanges-1), "use POST changesets")
	}
	return items, err
}

type deleteHostInput struct {
	HostInput
	WriteInput
	Redirects string `query:"redirects" enum:"delete,keep" doc:"what becomes of its redirects; to be said where there are any"`
}

func (s *Server) deleteHost(ctx context.Context, in *deleteHostInput) (*resultOutput, error) {
	name, err := in.pattern()
	if err != nil {
		return nil, err
	}
	p := principalOf(ctx)
	it, err := s.Store.Get(ctx, store.KindHost, string(name))
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
	redirects, err := s.redirectsOf(ctx, it.Key)
	if err != nil {
		return nil, err
	}
	var changes []store.Change
	for _, r := range redirects {
		switch in.Redirects {
		case "":
			return nil, problem(http.StatusConflict, "has_redirects", fmt.Sprintf("the host %s has %d redirects", name, len(redirects)), "say redirects=delete to delete them too, or redirects=keep to serve them without settings")
		case "delete":
			if !isOurs(r.Source) && !in.Take {
				return nil, conflictProblem(&store.Conflict{Kind: r.Kind, Key: r.Key, Reason: "it belongs to the source " + r.Source})
			}
			changes = append(changes, store.Change{Op: store.Delete, Item: store.Item{Kind: r.Kind, Key: r.Key}, If: r.Rev})
		case "keep":
			// A wildcard above it has them from now on.
			owner, err := s.ownerWithout(ctx, name)
			if err != nil {
				return nil, err
			}
			if r.Team != owner {
				r.Team = owner
				changes = append(changes, store.Change{Op: store.Put, Item: r, If: r.Rev})
			}
		}
	}
	receipt, err := s.deleteOne(ctx, p, in.WriteInput, &it, team, changes)
	return &resultOutput{resultOf(receipt)}, err
}

// ownerWithout is the owner of a host's redirects once it has no settings.
func (s *Server) ownerWithout(ctx context.Context, name fingerpost.HostPattern) (string, error) {
	for _, other := range above(name)[1:] {
		it, err := s.get(ctx, store.KindHost, string(other))
		if err != nil || it != nil {
			if it != nil {
				return it.Team, err
			}
			return "", err
		}
	}
	return "", nil
}
