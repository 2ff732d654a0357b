package admin

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"fingerpost/store"
)

// isLabel accepts names of teams, users and versions: they stand in paths and
// columns.
func isLabel(s string) bool {
	return s != "" && len(s) <= 100 && !strings.ContainsFunc(s, func(c rune) bool {
		return c <= ' ' || c == 0x7f || strings.ContainsRune(`/\?#%*"<>`, c)
	}) && s != "." && s != ".."
}

func invalidName(what, name string) *Problem {
	return problem(http.StatusUnprocessableEntity, "bad_name", fmt.Sprintf("%q cannot be the name of a %s", name, what), "up to 100 letters, digits, and -_.@ in between")
}

// TokenResource is a token without its secret, which nobody is told twice.
type TokenResource struct {
	ID      string    `json:"id" readOnly:"true"`
	Name    string    `json:"name" minLength:"1" maxLength:"100" doc:"what it is for"`
	Scope   string    `json:"scope,omitempty" enum:"api,read,draft,write,publish,node" doc:"a limit to what the role allows; default api, no limit"`
	Role    Role      `json:"role,omitempty" enum:"viewer,editor,publisher,admin"`
	Team    string    `json:"team,omitempty" doc:"* for every team"`
	Expires time.Time `json:"expires,omitzero" doc:"default never"`
	Owner   string    `json:"owner,omitempty" readOnly:"true" doc:"the user who made it; it never may more than they"`
	Created time.Time `json:"created,omitzero" readOnly:"true"`
	Used    time.Time `json:"used,omitzero" readOnly:"true" doc:"to the minute"`
	Secret  string    `json:"secret,omitempty" readOnly:"true" doc:"told once, when it is made"`
}

func showToken(t *store.Token) TokenResource {
	return TokenResource{ID: t.ID, Name: t.Name, Scope: t.Scope, Role: Role(t.Role), Team: t.Team, Expires: t.Expires, Owner: t.Owner, Created: t.Created, Used: t.Used}
}

type tokensOutput struct{ Body Page[TokenResource] }

// listTokens lists the tokens that the caller could delete.
func (s *Server) listTokens(ctx context.Context, _ *struct{}) (*tokensOutput, error) {
	all, err := s.Store.Tokens(ctx)
	if err != nil {
		return nil, err
	}
	out := &tokensOutput{Page[TokenResource]{Items: []TokenResource{}}}
	for i := range all {
		if all[i].Scope != scopeSession && all[i].Scope != scopeOnce && s.mayHaveToken(principalOf(ctx), &all[i]) == nil {
			out.Body.Items = append(out.Body.Items, showToken(&all[i]))
		}
	}
	return out, nil
}

// mayHaveToken decides about a token: those of a team are for its admins, those
// of nodes and of every team for the admin of every team.
func (s *Server) mayHaveToken(p *Principal, t *store.Token) error {
	if t.Team == "" || t.Team == EveryTeam || t.Scope == scopeNode {
		return authorize(p, Govern, "")
	}
	return authorize(p, People, t.Team)
}

type tokenOutput struct{ Body TokenResource }

// postToken makes a token. Its secret is told once: a request that is repeated by
// its key gives the token without it, to be deleted if the secret is lost.
func (s *Server) postToken(ctx context.Context, in *struct {
	KeyInput
	Body TokenResource
}) (*tokenOutput, error) {
	p, b := principalOf(ctx), in.Body
	if b.Scope == "" {
		b.Scope = scopeAPI
	}
	t := store.Token{ID: newID("tok-"), Name: b.Name, Scope: b.Scope, Role: string(b.Role), Team: b.Team, Expires: b.Expires, Created: s.now(), Owner: p.User}
	switch {
	case b.Scope == scopeNode:
		t.Role, t.Team = "", ""
	case b.Role == "" || b.Team == "":
		return nil, invalid(Fault{Pointer: "/role", Code: "missing", Detail: "a token needs a role and a team", Hint: `as in {"name": "ci", "role": "publisher", "team": "marketing"}`})
	}
	if !b.Expires.IsZero() && !b.Expires.After(s.now()) {
		return nil, invalid(Fault{Pointer: "/expires", Code: "bad_time", Detail: "the time is past"})
	}
	if err := s.mayHaveToken(p, &t); err != nil {
		return nil, err
	}
	if err := s.knownTeam(ctx, "/team", b.Team); err != nil {
		return nil, err
	}
	secret, hash := newSecret(tokenPrefix)
	t.Hash = hash
	if in.Key != "" {
		t.ID = idOf("tok-", p, in.Key)
		if made, err := s.madeToken(ctx, p, in.KeyInput, t.ID); err != nil || made != nil {
			return made, err
		}
	}
	if err := s.Store.AddToken(ctx, p.actor(), t); err != nil {
		return nil, err
	}
	if err := s.note(ctx, in.KeyInput); err != nil {
		return nil, err
	}
	out := &tokenOutput{showToken(&t)}
	out.Body.Secret = secret
	return out, nil
}

// madeToken is what an earlier request with the same key has made; nil if there was
// none.
func (s *Server) madeToken(ctx context.Context, p *Principal, in KeyInput, id string) (*tokenOutput, error) {
	first, err := s.done(ctx, in)
	if err != nil {
		return nil, err
	}
	all, err := s.Store.Tokens(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(t store.Token) bool { return t.ID == id })
	switch {
	case i < 0 && first != nil:
		return nil, problem(http.StatusGone, "gone", "the token that this Idempotency-Key has made is deleted", "a new key for each new request")
	case i < 0:
		return nil, nil
	}
	return &tokenOutput{showToken(&all[i])}, nil
}

// knownTeam keeps a typing error from becoming a team.
func (s *Server) knownTeam(ctx context.Context, pointer, team string) error {
	if team == "" || team == EveryTeam {
		return nil
	}
	all, err := s.Store.Teams(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(all, func(t store.Team) bool { return t.Name == team }) {
		return invalid(Fault{Pointer: pointer, Code: "no_team", Detail: fmt.Sprintf("there is no team %q", team), Hint: "PUT /api/v1/teams/{team} makes one"})
	}
	return nil
}

// knownOwner is knownTeam for a host, which one team has or nobody.
func (s *Server) knownOwner(ctx context.Context, team string) error {
	if team == EveryTeam {
		return invalid(Fault{Pointer: "/team", Code: "no_team", Detail: "a host belongs to one team", Hint: "leave the team out for a host that is nobody's"})
	}
	return s.knownTeam(ctx, "/team", team)
}

func (s *Server) deleteToken(ctx context.Context, in *struct {
	ID string `path:"id"`
}) (*struct{}, error) {
	p := principalOf(ctx)
	all, err := s.Store.Tokens(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].ID == in.ID {
			if in.ID != p.Token { // everybody may give up their own
				if err := s.mayHaveToken(p, &all[i]); err != nil {
					return nil, err
				}
			}
			return nil, s.Store.DeleteToken(ctx, p.actor(), in.ID)
		}
	}
	return nil, problem(http.StatusNotFound, "not_found", "there is no token "+in.ID, "GET /api/v1/tokens lists them")
}

// UserResource is a person. The password is only ever taken.
type UserResource struct {
	Name     string          `json:"name" readOnly:"true"`
	Email    string          `json:"email,omitempty" maxLength:"200"`
	Password string          `json:"password,omitempty" writeOnly:"true" minLength:"12" maxLength:"200" doc:"absent leaves it as it is"`
	Subject  string          `json:"subject,omitempty" maxLength:"500" doc:"of OIDC: issuer, space, subject"`
	Roles    map[string]Role `json:"roles,omitempty" doc:"by team; * for every team"`
	Disabled bool            `json:"disabled,omitempty"`
	Created  time.Time       `json:"created,omitzero" readOnly:"true"`
	Seen     time.Time       `json:"seen,omitzero" readOnly:"true" doc:"when they last logged in"`
}

func showUser(u *store.User) UserResource {
	return UserResource{Name: u.Name, Email: u.Email, Subject: u.Subject, Roles: rolesOf(u), Disabled: u.Disabled, Created: u.Created, Seen: u.Seen}
}

type usersOutput struct{ Body Page[UserResource] }

func (s *Server) listUsers(ctx context.Context, _ *struct{}) (*usersOutput, error) {
	all, err := s.Store.Users(ctx)
	if err != nil {
		return nil, err
	}
	out := &usersOutput{Page[UserResource]{Items: []UserResource{}}}
	for i := range all {
		out.Body.Items = append(out.Body.Items, showUser(&all[i]))
	}
	return out, nil
}

type UserInput struct {
	User string `path:"user"`
}

type userOutput struct{ Body UserResource }

func (s *Server) getUser(ctx context.Context, in *UserInput) (*userOutput, error) {
	u, err := s.Store.User(ctx, in.User)
	return &userOutput{showUser(&u)}, err
}

func (s *Server) putUser(ctx context.Context, in *struct {
	UserInput
	Body UserResource
}) (*userOutput, error) {
	if !isLabel(in.User) {
		return nil, invalidName("user", in.User)
	}
	u := store.User{Name: in.User, Created: s.now()}
	if before, err := s.Store.User(ctx, in.User); err == nil {
		u = before
	} else if !isNotFound(err) {
		return nil, err
	}
	b := in.Body
	u.Email, u.Subject, u.Disabled, u.Roles = b.Email, b.Subject, b.Disabled, map[string]string{}
	for team, role := range b.Roles {
		pointer := "/roles/" + escapePointer(team)
		if !slices.Contains(roleOrder, role) {
			return nil, invalid(Fault{Pointer: pointer, Code: "bad_role", Detail: fmt.Sprintf("%q is no role", role), Hint: "one of viewer, editor, publisher, admin"})
		}
		if err := s.knownTeam(ctx, pointer, team); err != nil {
			return nil, err
		}
		u.Roles[team] = string(role)
	}
	if b.Password != "" {
		var err error
		if u.Password, err = s.hashPassword(ctx, b.Password); err != nil {
			return nil, err
		}
	}
	if err := s.Store.PutUser(ctx, principalOf(ctx).actor(), u); err != nil {
		return nil, err
	}
	return &userOutput{showUser(&u)}, nil
}

func (s *Server) deleteUser(ctx context.Context, in *UserInput) (*struct{}, error) {
	return nil, s.Store.DeleteUser(ctx, principalOf(ctx).actor(), in.User)
}

// TeamResource owns hosts and what hangs on them.
type TeamResource struct {
	Name    string    `json:"name" readOnly:"true"`
	Title   string    `json:"title,omitempty" maxLength:"200"`
	Review  bool      `json:"review,omitempty" doc:"editors make drafts, which another one publishes"`
	Created time.Time `json:"created,omitzero" readOnly:"true"`
}

type teamsOutput struct{ Body Page[TeamResource] }

func (s *Server) listTeams(ctx context.Context, _ *struct{}) (*teamsOutput, error) {
	all, err := s.Store.Teams(ctx)
	if err != nil {
		return nil, err
	}
	out := &teamsOutput{Page[TeamResource]{Items: []TeamResource{}}}
	for _, t := range all {
		out.Body.Items = append(out.Body.Items, TeamResource(t))
	}
	return out, nil
}

type TeamInput struct {
	Team string `path:"team"`
}

type teamOutput struct{ Body TeamResource }

func (s *Server) getTeam(ctx context.Context, in *TeamInput) (*teamOutput, error) {
	t, err := s.Store.Team(ctx, in.Team)
	return &teamOutput{TeamResource(t)}, err
}

func (s *Server) putTeam(ctx context.Context, in *struct {
	TeamInput
	Body TeamResource
}) (*teamOutput, error) {
	if !isLabel(in.Team) {
		return nil, invalidName("team", in.Team)
	}
	t := store.Team{Name: in.Team, Title: in.Body.Title, Review: in.Body.Review, Created: s.now()}
	if before, err := s.Store.Team(ctx, in.Team); err == nil {
		t.Created = before.Created
	} else if !isNotFound(err) {
		return nil, err
	}
	if err := s.Store.PutTeam(ctx, principalOf(ctx).actor(), t); err != nil {
		return nil, err
	}
	return &teamOutput{TeamResource(t)}, nil
}

func (s *Server) deleteTeam(ctx context.Context, in *TeamInput) (*struct{}, error) {
	return nil, s.Store.DeleteTeam(ctx, principalOf(ctx).actor(), in.Team)
}
