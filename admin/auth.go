package admin

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"fingerpost/store"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// What a secret begins with says what it is, so that scanners for leaked
// secrets find it.
const (
	tokenPrefix   = "fpt_"
	sessionPrefix = "fps_"
	oncePrefix    = "fpo_"
)

// newSecret makes a secret of 256 random bits, and the hash to store.
func newSecret(prefix string) (secret, hash string) {
	var b [32]byte
	rand.Read(b[:])
	secret = prefix + base64.RawURLEncoding.EncodeToString(b[:])
	return secret, hashSecret(secret)
}

// hashSecret is what is stored of a secret: it is random, so that a plain hash
// tells nothing of it.
func hashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

func newID(prefix string) string {
	var b [8]byte
	rand.Read(b[:])
	return prefix + hex.EncodeToString(b[:])
}

type principalKey struct{}

// principalOf gives who asks, nil on public routes for somebody who is not known.
func principalOf(ctx context.Context) *Principal {
	p, _ := ctx.Value(principalKey{}).(*Principal)
	return p
}

// admit is the first thing that happens to a request of the API: its body may
// not be too large, it must not come in the clear over a network, and somebody
// must have the right to it, in some team at least.
func (s *Server) admit(ctx huma.Context, next func(huma.Context)) {
	r, w := humago.Unwrap(ctx)
	route := routeOf(ctx.Operation())
	p, err := s.admitted(r, route)
	if err != nil {
		writeProblem(w, r, problemOf(err))
		return
	}
	if !route.streamed && r.Body != nil {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	}
	if r.Header.Get("Idempotency-Key") != "" {
		if err := sumRequest(r, route.streamed); err != nil {
			writeProblem(w, r, problemOf(err))
			return
		}
	}
	next(huma.WithValue(ctx, principalKey{}, p))
}

func (s *Server) admitted(r *http.Request, route *route) (*Principal, error) {
	if r.ContentLength > maxBody && !route.streamed {
		return nil, tooLarge(maxBody)
	}
	if err := inTheClear(r); err != nil {
		return nil, err
	}
	if route.ownSecret {
		return nil, authorize(nil, route.action, route.team())
	}
	p, err := s.authenticate(r)
	if err != nil {
		return nil, err
	}
	action := route.action
	if route.dryRun && r.URL.Query().Get("dryRun") == "true" {
		action = Read
	}
	return p, authorize(p, action, route.team())
}

// inTheClear is the problem of a request that comes over a network without TLS.
func inTheClear(r *http.Request) error {
	if r.TLS != nil || isLoopback(r.RemoteAddr) {
		return nil
	}
	return problem(http.StatusForbidden, "tls_required", "this listener speaks plain http, which is for the same machine only", "come from the machine itself, or through a proxy on it that speaks TLS")
}

// encrypted keeps requests out that come over a network without TLS.
func encrypted(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := inTheClear(r); err != nil {
			writeProblem(w, r, problemOf(err))
			return
		}
		h(w, r)
	}
}

func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr == "@" || addr == "" // a socket in the file system
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// authenticate finds out who asks: by the token of the Authorization header, else
// by the session's cookie; nil for nobody. A secret that is not valid is an
// error even where nobody needs to be known.
func (s *Server) authenticate(r *http.Request) (*Principal, error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		cookie, err := r.Cookie(cookieName(r))
		if err != nil {
			return nil, nil
		}
		p, err := s.principal(r.Context(), cookie.Value, sessionPrefix)
		if errors.Is(err, errUnknown) {
			return nil, nil // an old session: as if there were none
		}
		return p, err
	}
	scheme, secret, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return nil, problem(http.StatusUnauthorized, "unauthorized", "the Authorization header is of the kind "+scheme, "Authorization: Bearer fpt_…")
	}
	p, err := s.principal(r.Context(), strings.TrimSpace(secret), tokenPrefix)
	if errors.Is(err, errUnknown) {
		return nil, problem(http.StatusUnauthorized, "unauthorized", "the token is not known, or has expired", "an admin makes a new one: POST /api/v1/tokens")
	}
	return p, err
}

var errUnknown = errors.New("not known")

// principal gives whose a secret is.
func (s *Server) principal(ctx context.Context, secret, prefix string) (*Principal, error) {
	if !strings.HasPrefix(secret, prefix) || len(secret) > 100 {
		return nil, errUnknown
	}
	t, err := s.Store.TokenByHash(ctx, hashSecret(secret))
	if errors.Is(err, store.ErrNotFound) {
		return nil, errUnknown
	}
	if err != nil {
		return nil, err
	}
	if (t.Scope == scopeSession) != (prefix == sessionPrefix) || t.Scope == scopeOnce {
		return nil, errUnknown
	}
	p := &Principal{Name: t.Name, Token: t.ID, Scope: t.Scope, Roles: map[string]Role{}}
	if t.Role != "" {
		p.Roles[t.Team] = Role(t.Role)
	}
	if t.Scope == scopeSession {
		p.Token, p.Scope = "", ""
	}
	if t.Owner != "" {
		u, err := s.Store.User(ctx, t.Owner)
		switch {
		case errors.Is(err, store.ErrNotFound), err == nil && u.Disabled:
			return nil, errUnknown
		case err != nil:
			return nil, err
		}
		if p.User = u.Name; t.Scope == scopeSession {
			p.Name, p.Roles = u.Name, rolesOf(&u)
		} else {
			p.Roles = atMost(p.Roles, rolesOf(&u))
		}
	}
	s.Store.UseToken(&t)
	return p, nil
}

func rolesOf(u *store.User) map[string]Role {
	roles := map[string]Role{}
	for team, role := range u.Roles {
		roles[team] = Role(role)
	}
	return roles
}

// atMost limits the roles of a token to what its owner may today.
func atMost(roles, owner map[string]Role) map[string]Role {
	limited := map[string]Role{}
	for team, role := range roles {
		most := owner[team]
		if all := owner[EveryTeam]; atLeast(all, most) || most == "" {
			most = all
		}
		if slices.Contains(roleOrder, most) && !atLeast(most, role) {
			role = most
		}
		if most != "" {
			limited[team] = role
		}
	}
	return limited
}

// reviews reports whether the changes of a team go through drafts.
func (s *Server) reviews(ctx context.Context, team string) (bool, error) {
	t, err := s.Store.Team(ctx, team)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return t.Review, err
}
