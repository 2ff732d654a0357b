package admin

import (
	"html/template"
	"net/http"
	"time"
)

// The pages for browsers: a login, and who is logged in. They are served whole, with
// a policy that lets nothing else in.

const pageStyle = `<style nonce="{{.Nonce}}">body{font:16px/1.5 system-ui;max-width:32rem;margin:4rem auto;padding:0 1rem}button,input{font:inherit;padding:.4rem .8rem}label{display:block;margin:.5rem 0}th,td{text-align:left;padding-right:2rem}</style>`

// loginPage logs in by user and password, or by the link of the first start. The
// secret of that stands behind the #, so that it is in no log; and a button is
// between, so that what looks at links ahead of people does not use it up.
var loginPage = template.Must(template.New("login").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Fingerpost</title>` + pageStyle + `
<h1>Fingerpost</h1>
<form><div id="password"><label>User <input name="user" autocomplete="username"></label>
<label>Password <input name="password" type="password" autocomplete="current-password"></label></div>
<button>Log in</button></form><p id="result" role="status"></p>
{{if .OIDC}}<p><a href="/login/oidc">Log in with your organisation</a></p>{{end}}
<script nonce="{{.Nonce}}">
const form = document.querySelector("form"), result = document.querySelector("#result"), once = location.hash.slice(1)
document.querySelector("#password").hidden = once !== ""
form.addEventListener("submit", async e => {
  e.preventDefault()
  const body = once ? {once} : {user: form.user.value, password: form.password.value}
  const r = await fetch("/api/v1/session", {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)})
  if (r.ok) { location.replace("/"); return }
  result.textContent = (await r.json()).detail
})
</script></html>
`))

// homePage is where a login ends.
var homePage = template.Must(template.New("home").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Fingerpost</title>` + pageStyle + `
<h1>Fingerpost</h1>
<p>You are logged in as <strong>{{.Name}}</strong>{{with .Scope}}, limited to {{.}}{{end}}.</p>
{{if .Roles}}<table><thead><tr><th>Team<th>Your role</thead><tbody>
{{range $team, $role := .Roles}}<tr><td>{{if eq $team "*"}}every team{{else}}{{$team}}{{end}}<td>{{$role}}
{{end}}</tbody></table>{{else}}<p>You have no role yet: an admin gives you one.</p>{{end}}
<ul><li><a href="/api/v1/openapi.json">The API, as an OpenAPI document</a>
<li><a href="/api/v1/session">Who you are, as the API tells it</a>
<li><a href="/readyz">The state of this node</a></ul>
<form method="post" action="/logout"><button>Log out</button></form></html>
`))

func (s *Server) showPage(w http.ResponseWriter, page *template.Template, data func(nonce string) any) {
	nonce := newID("")
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'nonce-"+nonce+"'; script-src 'nonce-"+nonce+"'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	if err := page.Execute(w, data(nonce)); err != nil {
		s.log().Debug("send a page", "page", page.Name(), "err", err)
	}
}

func (s *Server) showLogin(w http.ResponseWriter, _ *http.Request) {
	s.showPage(w, loginPage, func(nonce string) any {
		return struct {
			Nonce string
			OIDC  bool
		}{nonce, s.OIDC != nil}
	})
}

// showHome says who is logged in, and leads those who are not to the login.
func (s *Server) showHome(w http.ResponseWriter, r *http.Request) {
	p, err := s.admitted(r, &route{action: Public})
	switch {
	case err != nil:
		writeProblem(w, r, problemOf(err))
	case p == nil:
		seeOther(w, "/login")
	default:
		s.showPage(w, homePage, func(nonce string) any {
			return struct {
				Nonce string
				*Principal
			}{nonce, p}
		})
	}
}

// leave logs out, for the button of the page.
func (s *Server) leave(w http.ResponseWriter, r *http.Request) {
	if err := s.endSession(r.Context(), r); err != nil {
		writeProblem(w, r, problemOf(err))
		return
	}
	http.SetCookie(w, sessionCookie(r, "", -time.Second))
	seeOther(w, "/login")
}

func seeOther(w http.ResponseWriter, path string) {
	w.Header().Set("Location", path)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusSeeOther)
}
