package admin

import (
	"context"
	"crypto/subtle"
	"net/http"
	"slices"
	"strings"
	"time"

	"fingerpost/store"
)

// forNodes lets only nodes in: tokens with the scope node, and admins of every
// team.
func (s *Server) forNodes(h http.Handler) http.Handler { return s.only(Follow, s.NodeToken, h) }

// forAdmins lets only admins of every team in.
func (s *Server) forAdmins(h http.Handler) http.Handler { return s.only(Govern, s.LocalToken, h) }

// only lets in who may do action; without a Store, who has a certain token.
func (s *Server) only(action Action, token string, h http.Handler) http.Handler {
	return encrypted(func(w http.ResponseWriter, r *http.Request) {
		var err error
		if s.Store == nil {
			scheme, secret, _ := strings.Cut(r.Header.Get("Authorization"), " ")
			if token == "" || !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare([]byte(strings.TrimSpace(secret)), []byte(token)) != 1 {
				err = problem(http.StatusUnauthorized, "unauthorized", "the token is missing or another one", "send the right one: Authorization: Bearer fpt_…")
			}
		} else {
			var p *Principal
			if p, err = s.authenticate(r); err == nil {
				err = authorize(p, action, "")
			}
		}
		if err != nil {
			writeProblem(w, r, problemOf(err))
			return
		}
		h.ServeHTTP(w, r)
	})
}

// vanished is how long a node may be silent, which reports itself every five
// seconds while it lives.
const vanished = 20 * time.Second

// NodeResource is one node, as it reported itself last.
type NodeResource struct {
	store.Node
	Behind int64 `json:"behind" doc:"revisions that it does not serve yet"`
	Gone   bool  `json:"gone,omitempty" doc:"it was not heard of for 20 seconds"`
	// Revisions of another life of the store are not those of this one.
	Other bool `json:"other,omitempty" doc:"what it serves is of another life of the store, before a restore: rev says nothing here"`
}

type nodesOutput struct{ Body Page[NodeResource] }

func (s *Server) listNodes(ctx context.Context, _ *struct{}) (*nodesOutput, error) {
	all, err := s.Store.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	head, err := s.Store.Head(ctx)
	if err != nil {
		return nil, err
	}
	out := &nodesOutput{Page[NodeResource]{Items: []NodeResource{}}}
	for _, n := range all {
		v := NodeResource{Node: n, Behind: max(head.Rev-n.Rev, 0), Gone: s.now().Sub(n.Seen) > vanished}
		if n.Epoch != head.Epoch {
			v.Behind, v.Other = head.Rev, true
		}
		out.Body.Items = append(out.Body.Items, v)
	}
	return out, nil
}

func (s *Server) deleteNode(ctx context.Context, in *struct {
	ID string `path:"id"`
}) (*struct{}, error) {
	all, err := s.Store.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(all, func(n store.Node) bool { return n.ID == in.ID }) {
		return nil, problem(http.StatusNotFound, "not_found", "there is no node "+in.ID, "fingerpost nodes list shows them all")
	}
	return nil, s.Store.DeleteNode(ctx, in.ID)
}
