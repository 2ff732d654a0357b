package admin

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fingerpost/store"
)

func (a *testAPI) by() store.Actor { return store.Actor{Who: "test"} }

func sourceOf(label, team string) store.Source {
	return store.Source{Label: label, Kind: kindApply, Team: team}
}

// browser keeps cookies.
func (a *testAPI) browser() *http.Client {
	jar, _ := cookiejar.New(nil)
	return &http.Client{Jar: jar}
}

func (a *testAPI) browse(c *http.Client, method, path, body string) (status int, text string) {
	a.Helper()
	req, err := http.NewRequest(method, a.url+path, strings.NewReader(body))
	if err != nil {
		a.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		a.Fatal(err)
	}
	defer resp.Body.Close()
	var b strings.Builder
	if err := resp.Write(&b); err != nil {
		a.Fatal(err)
	}
	return resp.StatusCode, b.String()
}

func TestLoginMakesASessionThatEnds(t *testing.T) {
	a := newTestAPI(t)
	a.put("users/kari", `{"password": "correct horse battery", "roles": {"a": "editor"}}`)
	c := a.browser()
	if status, text := a.browse(c, "POST", Prefix+"/session", `{"user": "kari", "password": "wrong"}`); status != 401 || !strings.Contains(text, "bad_login") {
		t.Errorf("a wrong password: %d", status)
	}
	if status, _ := a.browse(c, "POST", Prefix+"/session", `{"user": "nobody", "password": "wrong"}`); status != 401 {
		t.Errorf("nobody: %d", status)
	}
	status, text := a.browse(c, "POST", Prefix+"/session", `{"user": "kari", "password": "correct horse battery"}`)
	if status != 200 || !strings.Contains(text, "HttpOnly; SameSite=Lax") {
		t.Fatalf("login: %d %s", status, text)
	}
	if status, text := a.browse(c, "POST", Prefix+"/redirects", `{"from": "a.example/x", "to": "https://t.example/"}`); status != 201 || !strings.Contains(text, `"source":"console"`) {
		t.Errorf("an editor writes: %d %s", status, text)
	}
	if status, _ := a.browse(c, "PUT", Prefix+"/hosts/a.example", `{"team": "a"}`); status != 403 {
		t.Errorf("an editor sets a host: %d", status)
	}
	// Roles count as they are now, not as they were at the login.
	a.put("users/kari", `{"roles": {"a": "publisher"}}`)
	if status, _ := a.browse(c, "PUT", Prefix+"/hosts/a.example", `{"team": "a"}`); status != 200 {
		t.Errorf("a publisher sets a host: %d", status)
	}
	a.put("users/kari", `{"roles": {"a": "publisher"}, "disabled": true}`)
	if status, _ := a.browse(c, "GET", Prefix+"/hosts", ""); status != 401 {
		t.Errorf("a disabled user: %d", status)
	}
	a.put("users/kari", `{"roles": {"a": "publisher"}}`)
	if status, _ := a.browse(c, "DELETE", Prefix+"/session", ""); status != 204 && status != 200 {
		t.Errorf("logout: %d", status)
	}
	if status, _ := a.browse(c, "GET", Prefix+"/hosts", ""); status != 401 {
		t.Errorf("after the logout: %d", status)
	}
	if list := a.must(nil, "GET", "users", ""); strings.Contains(list.body, "argon2") || strings.Contains(list.body, "password") {
		t.Errorf("the users tell passwords: %s", list.body)
	}
}

func TestTokensAreToldOnceAndNeverMayMoreThanTheirOwner(t *testing.T) {
	a := newTestAPI(t)
	a.put("users/kari", `{"password": "correct horse battery", "roles": {"a": "admin"}}`)
	c := a.browser()
	a.browse(c, "POST", Prefix+"/session", `{"user": "kari", "password": "correct horse battery"}`)
	if status, _ := a.browse(c, "POST", Prefix+"/tokens", `{"name": "t", "role": "viewer", "team": "b"}`); status != 403 {
		t.Errorf("a token of another team: %d", status)
	}
	if status, _ := a.browse(c, "POST", Prefix+"/tokens", `{"name": "t", "role": "viewer", "team": "*"}`); status != 403 {
		t.Errorf("a token of every team: %d", status)
	}
	if status, _ := a.browse(c, "POST", Prefix+"/tokens", `{"name": "t", "scope": "node"}`); status != 403 {
		t.Errorf("a token of a node: %d", status)
	}
	_, text := a.browse(c, "POST", Prefix+"/tokens", `{"name": "t", "role": "publisher", "team": "a"}`)
	var made TokenResource
	if err := json.Unmarshal([]byte(text[strings.Index(text, "{"):strings.LastIndex(text, "}")+1]), &made); err != nil || !strings.HasPrefix(made.Secret, tokenPrefix) {
		t.Fatalf("made %s: %v", text, err)
	}
	a.tokens["made"] = made.Secret
	if r := a.do("made", "PUT", "hosts/a.example", `{"team": "a"}`); r.StatusCode != 200 {
		t.Errorf("a publisher's token: %d %s", r.StatusCode, r.body)
	}
	if list := a.must(nil, "GET", "tokens", ""); strings.Contains(list.body, made.Secret) || !strings.Contains(list.body, made.ID) {
		t.Errorf("the list is %s", list.body)
	}
	a.put("users/kari", `{"roles": {"a": "editor"}}`)
	if r := a.do("made", "PUT", "hosts/a.example", `{"team": "a"}`); r.StatusCode != 403 {
		t.Errorf("after its owner became an editor: %d", r.StatusCode)
	}
	if r := a.do("made", "DELETE", "tokens/"+made.ID, ""); r.StatusCode != 204 {
		t.Errorf("given up: %d %s", r.StatusCode, r.body)
	}
	if r := a.do("made", "GET", "hosts", ""); r.StatusCode != 401 {
		t.Errorf("after it was given up: %d", r.StatusCode)
	}
	past, err := a.Store.Tokens(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tok := range past {
		if len(tok.Hash) != 64 {
			t.Errorf("token %s is stored as %q", tok.ID, tok.Hash)
		}
	}
}

func TestBootstrapMakesOneTokenAndALinkThatWorksOnce(t *testing.T) {
	dir := t.TempDir()
	db, err := store.Open(t.Context(), "sqlite:"+dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s := &Server{Store: db, Dir: dir, Metrics: http.NotFoundHandler()}
	h := httptest.NewServer(s.Routes())
	defer h.Close()
	s.URL = h.URL
	a := &testAPI{T: t, Server: s, url: h.URL, tokens: map[string]string{}}
	token, link, err := s.Bootstrap(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "admin.token")
	info, err := os.Stat(name)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v: %v", info.Mode(), err)
	}
	if text, _ := os.ReadFile(name); strings.TrimSpace(string(text)) != token {
		t.Errorf("the file says %q, want %q", text, token)
	}
	a.tokens["root"] = token
	a.put("teams/a", `{}`)
	page, once, _ := strings.Cut(link, "#")
	if page != h.URL+"/login" {
		t.Errorf("the link is %s", link)
	}
	if status, text := a.browse(a.browser(), "GET", "/login", ""); status != 200 || !strings.Contains(text, "Content-Security-Policy") {
		t.Errorf("the page: %d", status)
	}
	for i, want := range []int{200, 401} {
		c := a.browser()
		if status, _ := a.browse(c, "POST", Prefix+"/session", `{"once": "`+once+`"}`); status != want {
			t.Errorf("time %d: %d, want %d", i+1, status, want)
		}
		if status, _ := a.browse(c, "PUT", Prefix+"/teams/b", `{}`); status != want {
			t.Errorf("with the session of time %d: %d, want %d", i+1, status, want)
		}
	}
	if token, link, err := s.Bootstrap(t.Context(), true); token != "" || link != "" || err != nil {
		t.Errorf("a second start gives %q, %q, %v", token, link, err)
	}
}

func TestPlainHTTPIsForTheSameMachineOnly(t *testing.T) {
	s := &Server{}
	r := httptest.NewRequest("GET", "/", nil) // from 192.0.2.1
	if _, err := s.admitted(r, &route{}); err == nil || problemOf(err).Code != "tls_required" {
		t.Errorf("from another machine: %v", err)
	}
	r.RemoteAddr = "[::1]:1"
	if _, err := s.admitted(r, &route{}); err != nil {
		t.Errorf("from the same machine: %v", err)
	}
	if c := sessionCookie(httptest.NewRequest("GET", "https://x/", nil), "s", time.Hour); c.Name != "__Host-fingerpost" || !c.Secure || c.Path != "/" || c.Domain != "" {
		t.Errorf("under TLS the cookie is %+v", c)
	}
}

// provider is an OpenID provider that lets everybody in as kari.
type provider struct {
	key    *rsa.PrivateKey
	url    string
	nonce  string
	claims map[string]any
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b64 := base64.RawURLEncoding.EncodeToString
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		json.NewEncoder(w).Encode(map[string]any{"issuer": p.url, "authorization_endpoint": p.url + "/auth", "token_endpoint": p.url + "/token", "jwks_uri": p.url + "/keys", "id_token_signing_alg_values_supported": []string{"RS256"}})
	case "/keys":
		json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]any{"kty": "RSA", "alg": "RS256", "kid": "k", "use": "sig", "n": b64(p.key.N.Bytes()), "e": b64(big.NewInt(int64(p.key.E)).Bytes())}}})
	case "/auth":
		q := r.URL.Query()
		p.nonce = q.Get("nonce")
		http.Redirect(w, r, q.Get("redirect_uri")+"?"+url.Values{"state": {q.Get("state")}, "code": {q.Get("code_challenge")}}.Encode(), http.StatusFound)
	case "/token":
		// The code is the challenge: whoever has the verifier began the login.
		sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
		if b64(sum[:]) != r.FormValue("code") {
			http.Error(w, `{"error": "invalid_grant"}`, http.StatusBadRequest)
			return
		}
		claims := map[string]any{"iss": p.url, "aud": "fingerpost", "sub": "42", "nonce": p.nonce, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()}
		for k, v := range p.claims {
			claims[k] = v
		}
		head, _ := json.Marshal(map[string]any{"alg": "RS256", "kid": "k"})
		body, _ := json.Marshal(claims)
		signed := b64(head) + "." + b64(body)
		hash := sha256.Sum256([]byte(signed))
		sig, _ := rsa.SignPKCS1v15(rand.Reader, p.key, crypto.SHA256, hash[:])
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{"access_token": "x", "token_type": "Bearer", "id_token": signed + "." + b64(sig)})
	}
}

func TestOIDCLetsInWhomAGroupGivesARole(t *testing.T) {
	a := newTestAPI(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{key: key}
	h := httptest.NewServer(p)
	defer h.Close()
	p.url = h.URL
	a.OIDC = &OIDC{Issuer: h.URL, ClientID: "fingerpost", ClientSecret: "s", Groups: map[string]map[string]Role{"web": {"a": Editor}, "leads": {"a": Publisher}}}

	for _, tt := range []struct {
		name   string
		claims map[string]any
		login  int // of the way back
		write  int // of a host's settings
	}{
		{"no group", map[string]any{"email": "kari@example.com"}, 403, 401},
		{"another audience", map[string]any{"aud": "other", "groups": []string{"leads"}}, 401, 401},
		{"another login", map[string]any{"nonce": "other", "groups": []string{"leads"}}, 401, 401},
		{"expired", map[string]any{"exp": 1, "groups": []string{"leads"}}, 401, 401},
		{"an editor", map[string]any{"email": "kari@example.com", "groups": []string{"web"}}, 200, 403},
		{"a publisher", map[string]any{"email": "kari@example.com", "groups": []string{"web", "leads"}}, 200, 200},
		{"no group any more", map[string]any{"email": "kari@example.com"}, 200, 403},
	} {
		p.claims = tt.claims
		c := a.browser()
		if status, text := a.browse(c, "GET", "/login/oidc", ""); status != tt.login {
			t.Errorf("%s: %d, want %d: %s", tt.name, status, tt.login, text)
		}
		if status, _ := a.browse(c, "PUT", Prefix+"/hosts/a.example", `{"team": "a"}`); status != tt.write {
			t.Errorf("%s: writing gives %d, want %d", tt.name, status, tt.write)
		}
	}
	// A way back that was not begun here, as in a forged link.
	if status, _ := a.browse(a.browser(), "GET", oidcCallback+"?state=x&code=y", ""); status != 401 {
		t.Errorf("a forged way back: %d", status)
	}
}
