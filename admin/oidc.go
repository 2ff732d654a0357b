package admin

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"fingerpost/store"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// OIDC lets people in whom a provider of OpenID Connect knows.
type OIDC struct {
	Issuer       string
	ClientID     string
	ClientSecret string
	Scopes       []string // beside openid, profile and email
	// Groups gives roles by team to the members of groups, as the claim that
	// GroupsClaim names (default groups) lists them. They are set at each login.
	Groups      map[string]map[string]Role
	GroupsClaim string
	Client      *http.Client // default one that waits for ten seconds

	mu       sync.Mutex // guards provider
	provider *oidc.Provider
}

// loginState is what a browser keeps between the way out and the way back, in a
// cookie that lives for ten minutes.
type loginState struct {
	State    string `json:"s"`
	Nonce    string `json:"n"`
	Verifier string `json:"v"`
}

const (
	loginStateLife = 10 * time.Minute
	oidcCallback   = "/login/oidc/callback"
)

func stateCookieName(r *http.Request) string { return cookieName(r) + "-login" }

// discover asks the provider what it can, once it answers.
func (o *OIDC) discover(ctx context.Context) (*oidc.Provider, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.provider != nil {
		return o.provider, nil
	}
	// The provider keeps the context for its keys.
	p, err := oidc.NewProvider(o.context(context.WithoutCancel(ctx)), o.Issuer)
	if err != nil {
		return nil, err
	}
	o.provider = p
	return p, nil
}

func (o *OIDC) context(ctx context.Context) context.Context {
	client := o.Client
	if client == nil {
		client = &http.Client{Timeout: 10 * time.Second}
	}
	return oidc.ClientContext(ctx, client)
}

func (s *Server) oauth(p *oidc.Provider) *oauth2.Config {
	return &oauth2.Config{ClientID: s.OIDC.ClientID, ClientSecret: s.OIDC.ClientSecret, Endpoint: p.Endpoint(),
		RedirectURL: strings.TrimSuffix(s.URL, "/") + oidcCallback, Scopes: append([]string{oidc.ScopeOpenID, "profile", "email"}, s.OIDC.Scopes...)}
}

var errNoOIDC = problem(http.StatusNotFound, "no_oidc", "no provider is configured", "set oidc in the configuration of the node")

// startOIDC sends the browser to the provider.
func (s *Server) startOIDC(w http.ResponseWriter, r *http.Request) {
	if s.OIDC == nil {
		writeProblem(w, r, errNoOIDC)
		return
	}
	p, err := s.OIDC.discover(r.Context())
	if err != nil {
		s.log().Error("ask the OIDC provider", "issuer", s.OIDC.Issuer, "err", err)
		writeProblem(w, r, retryLater(problem(http.StatusBadGateway, "oidc_unavailable", "the provider cannot be reached", "log in with a password, or try again"), 5))
		return
	}
	st := loginState{State: newID(""), Nonce: newID(""), Verifier: oauth2.GenerateVerifier()}
	text, _ := json.Marshal(st) // strings always have a form
	c := sessionCookie(r, base64.RawURLEncoding.EncodeToString(text), loginStateLife)
	c.Name = stateCookieName(r)
	http.SetCookie(w, c)
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, s.oauth(p).AuthCodeURL(st.State, oidc.Nonce(st.Nonce), oauth2.S256ChallengeOption(st.Verifier)), http.StatusFound)
}

// finishOIDC takes the browser back, with a code that is changed for a token.
func (s *Server) finishOIDC(w http.ResponseWriter, r *http.Request) {
	if s.OIDC == nil {
		writeProblem(w, r, errNoOIDC)
		return
	}
	out, err := s.loginByCode(r)
	if err != nil {
		p := problemOf(err)
		if p.Status >= http.StatusInternalServerError || p.cause != nil {
			s.log().Warn("log in by OIDC", "err", err)
		}
		writeProblem(w, r, p)
		return
	}
	gone := sessionCookie(r, "", -time.Second)
	gone.Name = stateCookieName(r)
	http.SetCookie(w, gone)
	http.SetCookie(w, &out.SetCookie)
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (s *Server) loginByCode(r *http.Request) (*sessionOutput, error) {
	refused := func(detail string, cause error) error {
		p := problem(http.StatusUnauthorized, "bad_login", detail, "begin again at /login/oidc")
		p.cause = cause
		return p
	}
	if err := s.mayTry(r); err != nil {
		return nil, err
	}
	var st loginState
	cookie, err := r.Cookie(stateCookieName(r))
	if err == nil {
		var text []byte
		if text, err = base64.RawURLEncoding.DecodeString(cookie.Value); err == nil {
			err = json.Unmarshal(text, &st)
		}
	}
	q := r.URL.Query()
	switch {
	case err != nil || st.State == "" || q.Get("state") != st.State:
		return nil, refused("this login was not begun here, or too long ago", err)
	case q.Get("error") != "":
		return nil, refused("the provider says: "+q.Get("error"), nil)
	}
	provider, err := s.OIDC.discover(r.Context())
	if err != nil {
		return nil, err
	}
	ctx := s.OIDC.context(r.Context())
	token, err := s.oauth(provider).Exchange(ctx, q.Get("code"), oauth2.VerifierOption(st.Verifier))
	if err != nil {
		return nil, refused("the provider did not take the code", err)
	}
	raw, ok := token.Extra("id_token").(string)
	if !ok {
		return nil, refused("the provider gave no id token", nil)
	}
	id, err := provider.Verifier(&oidc.Config{ClientID: s.OIDC.ClientID, Now: s.now}).Verify(ctx, raw)
	if err != nil {
		return nil, refused("the id token is not valid", err)
	}
	if id.Nonce != st.Nonce {
		return nil, refused("the id token is of another login", nil)
	}
	u, err := s.userOf(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.newSession(ctx, r, u)
}

// userOf finds the user of an identity, or makes one if a group of theirs gives
// them a role. The subject alone tells who somebody is: an e-mail address can be
// another's tomorrow.
func (s *Server) userOf(ctx context.Context, id *oidc.IDToken) (*store.User, error) {
	var claims map[string]any
	if err := id.Claims(&claims); err != nil {
		return nil, err
	}
	email, _ := claims["email"].(string)
	roles := s.OIDC.roles(claims)
	subject := id.Issuer + " " + id.Subject
	by := store.Actor{Who: "oidc"}
	u, err := s.Store.UserBySubject(ctx, subject)
	switch {
	case errors.Is(err, store.ErrNotFound) && len(roles) > 0:
		name := email
		if !isLabel(name) {
			name = id.Subject
		}
		if !isLabel(name) {
			return nil, invalidName("user", name)
		}
		u = store.User{Name: name, Email: email, Subject: subject, Roles: roles, Created: s.now()}
		if err := s.Store.AddUser(ctx, by, u); err != nil {
			return nil, err // ErrExists: the name is another's, who has another subject
		}
		return &u, nil
	case errors.Is(err, store.ErrNotFound):
		return nil, forbidden("nobody here is "+subject, "an admin puts this subject to a user, or one of your groups into the configuration")
	case err != nil:
		return nil, err
	case u.Disabled:
		return nil, forbidden("the user "+u.Name+" is disabled", "ask an admin")
	}
	if len(s.OIDC.Groups) > 0 && fmt.Sprint(u.Roles) != fmt.Sprint(roles) {
		u.Roles = roles
		if err := s.Store.PutUser(ctx, by, u); err != nil {
			return nil, err
		}
	}
	return &u, nil
}

// roles are the highest that the groups in the claims give for each team.
func (o *OIDC) roles(claims map[string]any) map[string]string {
	name := o.GroupsClaim
	if name == "" {
		name = "groups"
	}
	groups, _ := claims[name].([]any)
	roles := map[string]string{}
	for group, given := range o.Groups {
		if !slices.Contains(groups, any(group)) {
			continue
		}
		for team, role := range given {
			if !atLeast(Role(roles[team]), role) {
				roles[team] = string(role)
			}
		}
	}
	return roles
}
