package explain

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"fingerpost"
	"fingerpost/redirect"
)

// NewRequest makes the request that c describes; now is when, if c does not say.
func NewRequest(c *fingerpost.Case, now time.Time, covers func(host string) bool) (redirect.Request, error) {
	bad := func(message, hint string) (redirect.Request, error) {
		return redirect.Request{}, &fingerpost.Error{Code: "bad_url", Field: "url", Message: fmt.Sprintf("url %q %s", c.URL, message), Hint: hint, At: c.Source}
	}
	scheme, rest, ok := strings.Cut(c.URL, "://")
	scheme = strings.ToLower(scheme)
	if !ok || scheme != "http" && scheme != "https" {
		return bad("has no http:// or https://", "give the whole address, as in https://www.example.com/path")
	}
	rest, _, _ = strings.Cut(rest, "#") // a browser keeps it to itself
	authority, target := rest, "/"
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		authority, target = rest[:i], rest[i:]
		if target[0] == '?' {
			target = "/" + target
		}
	}
	req := redirect.Request{Method: http.MethodGet, HTTPS: scheme == "https", Target: target, Country: c.Country, Now: now.Unix(), Covered: covers}
	host, port := authority, ""
	if i := strings.LastIndexByte(authority, ':'); i >= 0 && !strings.HasSuffix(authority, "]") {
		host, port = authority[:i], authority[i+1:]
	}
	// As a browser's address bar: U-labels become A-labels.
	pattern, err := fingerpost.ParseHostPattern(host)
	if err != nil || pattern.IsWildcard() {
		return bad("has no valid host", "")
	}
	if port != "" {
		port = ":" + port
	}
	if req.Host, req.Port, err = fingerpost.ParseHost(string(pattern) + port); err != nil {
		return bad("has no valid port", "")
	}
	path, query, _ := strings.Cut(target, "?")
	if req.Path, err = fingerpost.ParsePath(path); err != nil {
		return bad("has a path that no server accepts: "+err.Error(), "write a space as %20 and a percent sign as %25")
	}
	req.Query = query
	if c.Method != "" {
		req.Method = strings.ToUpper(c.Method)
	}
	header := http.Header{}
	for name, value := range c.Headers {
		header.Set(name, value)
	}
	req.Header = header
	if c.Address != "" {
		if req.Addr, err = netip.ParseAddr(c.Address); err != nil {
			return bad(fmt.Sprintf("comes with the address %q, which is none", c.Address), "as in 192.0.2.1")
		}
	}
	if c.At != nil {
		req.Now = c.At.Unix()
	}
	return req, nil
}
