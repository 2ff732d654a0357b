package admin

import (
	"net/http"
	"strings"
	"testing"
)

func TestHomeSaysWhoIsLoggedInAndLogsOut(t *testing.T) {
	a := newTestAPI(t)
	a.put("users/kari", `{"password": "correct horse battery", "roles": {"a": "editor", "*": "viewer"}}`)
	c := a.browser()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if status, text := a.browse(c, "GET", "/", ""); status != 303 || !strings.Contains(text, "Location: /login\r\n") {
		t.Errorf("nobody: %d %s", status, text)
	}
	if status, text := a.browse(c, "GET", "/login", ""); status != 200 || strings.Contains(text, "/login/oidc") {
		t.Errorf("the login: %d %s", status, text)
	}
	a.browse(c, "POST", Prefix+"/session", `{"user": "kari", "password": "correct horse battery"}`)
	status, text := a.browse(c, "GET", "/", "")
	if status != 200 {
		t.Fatalf("logged in: %d %s", status, text)
	}
	for _, want := range []string{"<strong>kari</strong>", "<td>a<td>editor", "<td>every team<td>viewer", `href="/api/v1/openapi.json"`, `action="/logout"`,
		"Content-Security-Policy: default-src 'none'", "Cache-Control: no-store", "text/html; charset=utf-8"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page has no %s:\n%s", want, text)
		}
	}
	if status, text := a.browse(c, "POST", "/logout", ""); status != 303 || !strings.Contains(text, "Location: /login\r\n") {
		t.Errorf("logout: %d %s", status, text)
	}
	if status, _ := a.browse(c, "GET", Prefix+"/session", ""); status != 401 {
		t.Errorf("after the logout: %d", status)
	}
	// A page of another origin does not log anybody out.
	req, err := http.NewRequest("POST", a.url+"/logout", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body.Close(); resp.StatusCode != 403 {
		t.Errorf("from another origin: %d", resp.StatusCode)
	}
	if status, _ := a.browse(c, "GET", "/nothing", ""); status != 404 {
		t.Errorf("another path: %d", status)
	}
}
