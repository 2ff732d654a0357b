package admin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strings"

	"fingerpost"
	"fingerpost/store"
)

type listRedirectsInput struct {
	PageInput
	Host   string `query:"host" doc:"only those of this host pattern"`
	Team   string `query:"team" doc:"only those of this team"`
	Source string `query:"source" doc:"only those from this source"`
	Text   string `query:"text" doc:"only those with this text in id, host, from, to, note or tags"`
}

type redirectsOutput struct {
	Body *Page[RedirectResource]
}

func (s *Server) listRedirects(ctx context.Context, in *listRedirectsInput) (*redirectsOutput, error) {
	q := store.Query{Team: in.Team, Source: in.Source}
	if in.Host != "" {
		host, err := fingerpost.ParseHostPattern(in.Host)
		if err != nil {
			return nil, invalidParameter("host", err.Error(), hostHint)
		}
		q.Prefix = string(host) + "/"
	}
	list := listName("redirects", q.Prefix, in.Team, in.Source, in.Text)
	page, err := listItems(ctx, s.Store, store.KindRedirect, list, in.PageInput, q, textFilter(in.Text), showRedirect)
	return &redirectsOutput{page}, err
}

// RedirectInput names one redirect: an id is one of a host.
type RedirectInput struct {
	ID   string `path:"id" doc:"the id, as it is unless escaped in the path"`
	Host string `query:"host" required:"true" doc:"the host pattern that the redirect is for: ids are unique within a host"`
}

func (in *RedirectInput) key() (host fingerpost.HostPattern, key string, err error) {
	if host, err = fingerpost.ParseHostPattern(in.Host); err != nil {
		return "", "", invalidParameter("host", err.Error(), hostHint)
	}
	return host, store.RedirectKey(host, in.ID), nil
}

type redirectOutput struct {
	Status   int
	ETag     string `header:"ETag"`
	Location string `header:"Location"`
	Body     RedirectResource
}

func redirectOutputOf(it *store.Item, status int) (*redirectOutput, error) {
	r, err := showRedirect(it)
	out := &redirectOutput{Status: status, ETag: entityTag(it.Rev), Body: r}
	if status == http.StatusCreated {
		out.Location = Prefix + "/redirects/" + url.PathEscape(r.ID) + "?host=" + url.QueryEscape(r.Host)
	}
	return out, err
}

func (s *Server) getRedirect(ctx context.Context, in *RedirectInput) (*redirectOutput, error) {
	_, key, err := in.key()
	if err != nil {
		return nil, err
	}
	it, err := s.Store.Get(ctx, store.KindRedirect, key)
	if err != nil {
		return nil, err
	}
	return redirectOutputOf(&it, http.StatusOK)
}

type postRedirectInput struct {
	WriteInput
	Body RedirectResource
}

// postRedirect makes a new redirect. Without an id it gets the one that is
// derived from what it matches.
func (s *Server) postRedirect(ctx context.Context, in *postRedirectInput) (*redirectOutput, error) {
	if in.IfMatch != "" {
		return nil, problem(http.StatusBadRequest, "bad_header", "If-Match is for what exists", "use PUT redirects/{id}")
	}
	in.IfNoneMatch = "*"
	return s.writeRedirect(ctx, in.WriteInput, &in.Body.Redirect, "")
}

type putRedirectInput struct {
	RedirectInput
	WriteInput
	Body RedirectResource
}

func (s *Server) putRedirect(ctx context.Context, in *putRedirectInput) (*redirectOutput, error) {
	host, key, err := in.key()
	if err != nil {
		return nil, err
	}
	r := &in.Body.Redirect
	if r.ID != "" && r.ID != in.ID {
		return nil, invalid(Fault{Pointer: "/id", Code: "bad_id", Detail: fmt.Sprintf("the id is %q here and %q in the path", r.ID, in.ID), Hint: "leave it out of the body"})
	}
	r.ID = in.ID
	if from, err := fingerpost.ParseFrom(r.From); err == nil && from.Host != host {
		return nil, invalid(Fault{Pointer: "/from", Code: "bad_from", Detail: fmt.Sprintf("from is for the host %s, and the redirect is one of %s", from.Host, host), Hint: "delete it there and create it here: POST redirects"})
	}
	return s.writeRedirect(ctx, in.WriteInput, r, key)
}

func (s *Server) writeRedirect(ctx context.Context, in WriteInput, r *fingerpost.Redirect, key string) (*redirectOutput, error) {
	p := principalOf(ctx)
	parsed, err := r.Parse()
	if err != nil {
		return nil, err
	}
	if first, err := s.done(ctx, in.KeyInput); err != nil {
		return nil, err
	} else if first != nil {
		it, err := store.RedirectItem(r, p.source(), "")
		if key != "" {
			it.Key = key
		}
		if err != nil {
			return nil, err
		}
		it, status, err := s.putBefore(ctx, first, it)
		if err != nil {
			return nil, err
		}
		return redirectOutputOf(&it, status)
	}
	team, err := s.mayWrite(ctx, p, parsed.From.Host)
	if err != nil {
		return nil, err
	}
	it, err := store.RedirectItem(r, p.source(), team)
	if err != nil {
		return nil, err
	}
	if key != "" {
		it.Key = key // an id that is the derived one of something else stays what it is
	}
	before, err := s.get(ctx, store.KindRedirect, it.Key)
	if err != nil {
		return nil, err
	}
	it, status, err := s.putOne(ctx, p, in, before, it, team)
	if err != nil {
		return nil, err
	}
	return redirectOutputOf(&it, status)
}

type deleteRedirectInput struct {
	RedirectInput
	WriteInput
}

func (s *Server) deleteRedirect(ctx context.Context, in *deleteRedirectInput) (*resultOutput, error) {
	host, key, err := in.key()
	if err != nil {
		return nil, err
	}
	it, gone := s.Store.Get(ctx, store.KindRedirect, key)
	if first, err := s.done(ctx, in.KeyInput); err != nil {
		return nil, err
	} else if first != nil {
		return &resultOutput{resultOf(*first)}, nil
	}
	p := principalOf(ctx)
	team, err := s.mayWrite(ctx, p, host)
	if err != nil {
		return nil, err
	}
	if gone != nil {
		return nil, gone
	}
	receipt, err := s.deleteOne(ctx, p, in.WriteInput, &it, team, nil)
	return &resultOutput{resultOf(receipt)}, err
}

// putOne puts it, which was before. It gives the item as it is now, and the status
// of the answer.
func (s *Server) putOne(ctx context.Context, p *Principal, in WriteInput, before *store.Item, it store.Item, team string) (store.Item, int, error) {
	rev, must, err := in.revision()
	if err != nil {
		return it, 0, err
	}
	if must && before == nil {
		return it, 0, problem(http.StatusPreconditionFailed, "precondition_failed", it.Kind+" "+it.Key+" does not exist", "leave If-Match out to create it")
	}
	if before != nil && isOurs(before.Source) {
		it.Source = before.Source // whoever made it first
	}
	if err := mayTake(p, in, before, team); err != nil {
		return it, 0, err
	}
	change := store.Change{Op: store.Put, Item: it, If: rev, Take: in.Take}
	receipt, err := s.Commit(ctx, store.Batch{Key: keyOf(p, in.Key), Sum: requestSum(ctx), Changes: []store.Change{change}, Actor: p.actor(), Note: in.Note})
	if err != nil {
		return it, 0, err
	}
	return s.putBefore(ctx, &receipt, it)
}

// putBefore gives what putOne does of an item that was put, now or by an earlier
// request.
func (s *Server) putBefore(ctx context.Context, receipt *store.Receipt, it store.Item) (store.Item, int, error) {
	status := http.StatusOK
	if receipt.Added > 0 {
		status = http.StatusCreated
	}
	now, err := s.get(ctx, it.Kind, it.Key)
	if err != nil {
		return it, 0, err
	}
	if now == nil { // somebody has deleted it since
		it.Rev, it.Since = receipt.Rev, receipt.At
		now = &it
	}
	return *now, status, nil
}

// deleteOne deletes it and what goes with it, if anything: with gives that as it is
// at the moment.
func (s *Server) deleteOne(ctx context.Context, p *Principal, in WriteInput, it *store.Item, team string, with func(context.Context) iter.Seq2[store.Change, error]) (store.Receipt, error) {
	rev, _, err := in.revision()
	if err != nil {
		return store.Receipt{}, err
	}
	if rev == store.Absent {
		return store.Receipt{}, problem(http.StatusPreconditionFailed, "precondition_failed", it.Kind+" "+it.Key+" exists", "")
	}
	if err := mayTake(p, in, it, team); err != nil {
		return store.Receipt{}, err
	}
	if !isOurs(it.Source) && !in.Take {
		return store.Receipt{}, conflictProblem(&store.Conflict{Kind: it.Kind, Key: it.Key, Reason: "it belongs to the source " + it.Source})
	}
	change := store.Change{Op: store.Delete, Item: store.Item{Kind: it.Kind, Key: it.Key}, If: rev}
	b := store.Batch{Key: keyOf(p, in.Key), Sum: requestSum(ctx), Changes: []store.Change{change}, Actor: p.actor(), Note: in.Note}
	if with == nil {
		return s.Commit(ctx, b)
	}
	return s.commitWith(ctx, b, with)
}

// sumOf is the hash of what makes a request.
func sumOf(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:])
}

// mayTake decides about take=true: what another source has is for a publisher.
func mayTake(p *Principal, in WriteInput, before *store.Item, team string) error {
	if !in.Take || before == nil || isOurs(before.Source) {
		return nil
	}
	return authorize(p, Publish, team)
}

// keyOf makes a client's Idempotency-Key one of the principal.
func keyOf(p *Principal, key string) string {
	if key == "" {
		return ""
	}
	return p.Name + "\n" + p.Token + "\n" + key
}
