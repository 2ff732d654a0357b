package admin

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Role is what somebody may do within a team. Each one may do what those before
// it may.
type Role string

const (
	Viewer    Role = "viewer"    // sees everything but people
	Editor    Role = "editor"    // writes redirects of the team's hosts, or drafts them where the team reviews
	Publisher Role = "publisher" // settings of the team's hosts, publishes drafts, restores and reverts, pauses sources
	Admin     Role = "admin"     // tokens and roles of the team
)

var roleOrder = []Role{Viewer, Editor, Publisher, Admin}

// EveryTeam in place of a team's name: the role holds for all of them, and for
// what is nobody's. Its admin is the admin of the program.
const EveryTeam = "*"

// Action is what a route does, as far as rights go.
type Action string

const (
	Public   Action = ""         // nobody needs to be known
	Read     Action = "read"     // content and its state; any role in any team
	Draft    Action = "draft"    // propose changes
	Write    Action = "write"    // change redirects
	Settings Action = "settings" // change settings of hosts
	Publish  Action = "publish"  // bring drafts into force, restore, revert, pause
	Revoke   Action = "revoke"   // have certificates of a team revoked
	People   Action = "people"   // tokens and roles of a team
	Govern   Action = "govern"   // everything else: hosts of nobody, *, teams, users, audit
	Follow   Action = "follow"   // feed and snapshot; for tokens of nodes
)

// needs is the least role for each action, in the team that it is done to.
// Govern is for the admin of every team alone.
var needs = map[Action]Role{
	Read: Viewer, Draft: Editor, Write: Editor, Settings: Publisher, Publish: Publisher, Revoke: Admin, People: Admin, Govern: Admin,
}

// The scopes that are no limit to what the role allows, and those that are for
// something else.
const (
	scopeAPI     = "api"     // all that the role may
	scopeSession = "session" // what a browser has in its cookie
	scopeOnce    = "once"    // to be changed for a session, once
	scopeNode    = "node"    // feed and snapshot
)

// scopes are what a token can be limited to, with the actions that each allows.
var scopes = map[string][]Action{
	"read":    {Read},
	"draft":   {Read, Draft},
	"write":   {Read, Draft, Write},
	"publish": {Read, Draft, Write, Settings, Publish},
	scopeNode: {Follow},
}

// anyTeam asks for a role in some team, whichever it is.
const anyTeam = "?"

// authorize decides whether p may do action to what belongs to team, and is the
// only place that does. An empty team is nobody's: the admin of every team has
// it. The error is a *Problem.
func authorize(p *Principal, action Action, team string) error {
	switch {
	case action == Public:
		return nil
	case p == nil:
		return problem(http.StatusUnauthorized, "unauthorized", "nobody is logged in", "send a token: Authorization: Bearer fpt_…")
	case p.Scope != "" && p.Scope != scopeAPI && !slices.ContainsFunc(strings.Fields(p.Scope), func(s string) bool { return slices.Contains(scopes[s], action) }):
		return forbidden(fmt.Sprintf("the token is limited to %s", p.Scope), "use another token")
	case action == Follow:
		if !slices.Contains(strings.Fields(p.Scope), scopeNode) && !p.has(EveryTeam, Admin) {
			return forbidden("the feed is for nodes", "use a token with the scope node")
		}
		return nil
	case action == Govern:
		team = ""
	}
	need, known := needs[action]
	if !known {
		return forbidden("nobody may "+string(action), "")
	}
	if p.has(EveryTeam, need) && (team != "" || p.has(EveryTeam, Admin)) {
		return nil
	}
	switch team {
	case "":
		return forbidden("this is for the admin of every team", "ask one of them: GET /api/v1/session says who you are")
	case anyTeam:
		for _, role := range p.Roles {
			if atLeast(role, need) {
				return nil
			}
		}
		return forbidden(fmt.Sprintf("this needs the role %s in some team", need), "ask an admin of your team for it")
	}
	if !p.has(team, need) {
		return forbidden(fmt.Sprintf("this belongs to the team %s, and needs the role %s there", team, need), "ask an admin of "+team)
	}
	return nil
}

func forbidden(detail, hint string) *Problem {
	return problem(http.StatusForbidden, "forbidden", detail, hint)
}

// Principal is who asks.
type Principal struct {
	Name  string          // of the user, or of the token
	User  string          // the user behind it; empty for a token that is nobody's
	Token string          // the id of the token that came; empty for a session
	Roles map[string]Role // by team; EveryTeam for all
	Scope string          // of the token, words separated by spaces; empty or api for no limit
}

// identity tells who p is from everybody else, whatever their tokens are called: the
// name of the user, which has no spaces, else name and id of the token.
func (p *Principal) identity() string {
	if p.User != "" {
		return p.User
	}
	return p.Name + " " + p.Token
}

// nameOf is what an identity is shown as.
func nameOf(identity string) string {
	if i := strings.LastIndexByte(identity, ' '); i >= 0 {
		return identity[:i]
	}
	return identity
}

// has reports whether p has at least the role in the team itself.
func (p *Principal) has(team string, role Role) bool {
	return atLeast(p.Roles[team], role)
}

func atLeast(role, need Role) bool {
	return slices.Index(roleOrder, role) >= slices.Index(roleOrder, need) && slices.Contains(roleOrder, role)
}
