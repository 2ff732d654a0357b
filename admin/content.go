package admin

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"fingerpost"
	"fingerpost/store"
)

// HostResource is a host as the API shows and takes it. What is read-only is
// ignored where it is sent back.
type HostResource struct {
	Name string `json:"name,omitempty" doc:"the host pattern; in a body it may be left out where the path has it"`
	fingerpost.Host
	Source string    `json:"source,omitempty" readOnly:"true" doc:"where it is written, and may be changed: api, console, file:…, git:…"`
	Since  time.Time `json:"since,omitzero" readOnly:"true" doc:"when it first appeared"`
	Rev    int64     `json:"rev,omitempty" readOnly:"true" doc:"the revision of its last change; its ETag"`

	CertificateState *CertificateState `json:"certificateState,omitempty" readOnly:"true" doc:"how its certificates stand, in short; GET hosts/{host}/certificate says more"`
}

// RedirectResource is a redirect as the API shows and takes it, with the same
// read-only fields.
type RedirectResource struct {
	fingerpost.Redirect
	Host   string    `json:"host,omitempty" readOnly:"true" doc:"the host pattern of from; with id it names the redirect"`
	Team   string    `json:"team,omitempty" readOnly:"true" doc:"the team of the host"`
	Source string    `json:"source,omitempty" readOnly:"true" doc:"where it is written, and may be changed: api, console, file:…, git:…"`
	Since  time.Time `json:"since,omitzero" readOnly:"true" doc:"when it first appeared"`
	Rev    int64     `json:"rev,omitempty" readOnly:"true" doc:"the revision of its last change; its ETag"`
}

// The sources of what is written through this API.
const (
	sourceAPI     = "api"
	sourceConsole = "console"
)

// isOurs reports whether items of a source may be changed here without taking
// them over. What one colleague made by a token another one changes in the
// console.
func isOurs(source string) bool { return source == sourceAPI || source == sourceConsole }

func (p *Principal) source() string {
	if p.Token == "" {
		return sourceConsole
	}
	return sourceAPI
}

func (p *Principal) actor() store.Actor { return store.Actor{Who: p.Name, Token: p.Token} }

func showHost(it *store.Item) (HostResource, error) {
	h, err := it.Host()
	if err != nil {
		return HostResource{}, err
	}
	return HostResource{Name: h.Name, Host: *h, Source: it.Source, Since: it.Since, Rev: it.Rev}, nil
}

func showRedirect(it *store.Item) (RedirectResource, error) {
	r, err := it.Redirect()
	if err != nil {
		return RedirectResource{}, err
	}
	host, _ := store.CutRedirectKey(it.Key)
	return RedirectResource{Redirect: *r, Host: string(host), Team: it.Team, Source: it.Source, Since: it.Since, Rev: it.Rev}, nil
}

// entityTag is the ETag of what has the revision rev.
func entityTag(rev int64) string { return `"` + strconv.FormatInt(rev, 10) + `"` }

// Preconditions are If-Match and If-None-Match (RFC 9110 13.1).
type Preconditions struct {
	IfMatch     string `header:"If-Match" doc:"the ETag that it must have: 412 if it was changed since"`
	IfNoneMatch string `header:"If-None-Match" doc:"* if there must be none yet"`
}

// revision is what a store.Change asks for: a revision, store.Absent, or 0.
// must says that there has to be one, whichever it is.
func (p Preconditions) revision() (rev int64, must bool, err error) {
	switch {
	case p.IfNoneMatch != "" && p.IfMatch != "", p.IfNoneMatch != "" && p.IfNoneMatch != "*":
		return 0, false, problem(http.StatusBadRequest, "bad_header", "If-None-Match can only be *, and not beside If-Match", "")
	case p.IfNoneMatch != "":
		return store.Absent, false, nil
	case p.IfMatch == "":
		return 0, false, nil
	case p.IfMatch == "*":
		return 0, true, nil
	}
	text, ok := strings.CutPrefix(p.IfMatch, `"`)
	text, end := strings.CutSuffix(text, `"`)
	rev, err = strconv.ParseInt(text, 10, 64)
	if !ok || !end || err != nil || rev <= 0 {
		return 0, false, problem(http.StatusPreconditionFailed, "precondition_failed", "If-Match has no ETag of ours: "+p.IfMatch, `send the ETag as it came, with its quotation marks, as in "12"`)
	}
	return rev, true, nil
}

// KeyInput is what every write takes that does something again when it is repeated.
type KeyInput struct {
	Key string `header:"Idempotency-Key" maxLength:"200" doc:"names this request: repeated within 24 hours, it does nothing and gives the first result"`
}

// done gives what an earlier request with the same key has come to, nil if there
// was none: nothing else is looked at then, since it may be another by now through
// that very request. The error is store.ErrKeyReused where it was another request.
func (s *Server) done(ctx context.Context, in KeyInput) (*store.Receipt, error) {
	if in.Key == "" {
		return nil, nil
	}
	first, sum, err := s.Store.Receipt(ctx, keyOf(principalOf(ctx), in.Key))
	switch {
	case isNotFound(err):
		return nil, nil
	case err == nil && sum != requestSum(ctx):
		err = store.ErrKeyReused
	}
	return &first, err
}

// note makes done know of a request that wrote something other than content. What
// such a request makes has its id of the key, so that it comes once even where the
// node is lost between the two.
func (s *Server) note(ctx context.Context, in KeyInput) error {
	if in.Key == "" {
		return nil
	}
	_, err := s.Store.Commit(context.WithoutCancel(ctx), store.Batch{Key: keyOf(principalOf(ctx), in.Key), Sum: requestSum(ctx)})
	return err
}

// idOf is the id of what a request with a key makes.
func idOf(prefix string, p *Principal, key string) string {
	return prefix + sumOf(keyOf(p, key))[:24]
}

// WriteInput is what every write of one thing takes.
type WriteInput struct {
	Preconditions
	KeyInput
	Take bool   `query:"take" doc:"take it over from another source; needs the role publisher"`
	Note string `query:"note" maxLength:"1000" doc:"why, for the audit"`
}

// Result says what a write has come to.
type Result struct {
	Rev      int64     `json:"rev" doc:"the new revision, or the newest one if nothing changed"`
	At       time.Time `json:"at,omitzero"`
	Added    int64     `json:"added"`
	Changed  int64     `json:"changed"`
	Removed  int64     `json:"removed"`
	Repeated bool      `json:"repeated,omitempty" doc:"an earlier request with this Idempotency-Key did it"`
}

func resultOf(r store.Receipt) Result {
	return Result{r.Rev, r.At, r.Added, r.Changed, r.Removed, r.Repeated}
}

type resultOutput struct{ Body Result }

// get reads one item; nil if there is none.
func (s *Server) get(ctx context.Context, kind, key string) (*store.Item, error) {
	it, err := s.Store.Get(ctx, kind, key)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &it, nil
}

// ownerOf gives the team that a host pattern belongs to: that of the host, else
// that of the nearest wildcard host above it; empty if it is nobody's.
func (s *Server) ownerOf(ctx context.Context, host fingerpost.HostPattern) (string, error) {
	for _, name := range above(host) {
		it, err := s.get(ctx, store.KindHost, string(name))
		if err != nil {
			return "", err
		}
		if it != nil {
			return it.Team, nil
		}
	}
	return "", nil
}

// above lists a host pattern and the wildcards that its name is below, nearest
// first. The host * is above nothing: it is the admin's, and owns nothing else.
func above(host fingerpost.HostPattern) []fingerpost.HostPattern {
	names := []fingerpost.HostPattern{host}
	rest := string(host)
	switch {
	case host == "*" || strings.HasPrefix(rest, "["):
		return names
	case host.IsWildcard():
		rest = host.Suffix()
		if host[0] == '*' { // .example.com is *.example.com and example.com
			names = append(names, fingerpost.HostPattern("."+rest))
		}
	default:
		names = append(names, fingerpost.HostPattern("."+rest))
	}
	for {
		_, parent, ok := strings.Cut(rest, ".")
		if !ok {
			return names
		}
		names = append(names, fingerpost.HostPattern("*."+parent), fingerpost.HostPattern("."+parent))
		rest = parent
	}
}

// mayWrite decides about the redirects of a host and gives the team that they
// belong to.
func (s *Server) mayWrite(ctx context.Context, p *Principal, host fingerpost.HostPattern) (team string, err error) {
	if team, err = s.ownerOf(ctx, host); err != nil {
		return "", err
	}
	if host == "*" {
		team = ""
	}
	action, err := s.writeAction(ctx, team)
	if err != nil {
		return "", err
	}
	return team, authorize(p, action, team)
}

// writeAction is what it takes to change redirects of a team at once: where a
// team reviews, an editor makes drafts.
func (s *Server) writeAction(ctx context.Context, team string) (Action, error) {
	if team == "" {
		return Govern, nil
	}
	reviews, err := s.reviews(ctx, team)
	if err != nil || !reviews {
		return Write, err
	}
	return Publish, nil
}
