package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"fingerpost"
)

func TestNewRequestReadsAURLAsAnAddressBarDoes(t *testing.T) {
	tests := []struct {
		url                             string
		https                           bool
		host, port, target, norm, query string
	}{
		{"https://www.example.com", true, "www.example.com", "", "/", "/", ""},
		{"HTTP://WWW.Example.COM./a", false, "www.example.com", "", "/a", "/a", ""},
		{"http://www.example.com:8080/a?b=c#d", false, "www.example.com", "8080", "/a?b=c", "/a", "b=c"},
		{"https://www.example.com?b", true, "www.example.com", "", "/?b", "/", "b"},
		{"https://bücher.example/%7ekrimi/../x", true, "xn--bcher-kva.example", "", "/%7ekrimi/../x", "/x", ""},
		{"https://[2001:DB8::1]:8443/", true, "[2001:db8::1]", "8443", "/", "/", ""},
		{"https://www.example.com/a?u=http://b:80/c", true, "www.example.com", "", "/a?u=http://b:80/c", "/a", "u=http://b:80/c"},
	}
	r := &rules{}
	for _, tt := range tests {
		req, err := r.newRequest(&fingerpost.Case{URL: tt.url})
		if err != nil {
			t.Errorf("%s: %v", tt.url, err)
			continue
		}
		if req.Method != "GET" || req.HTTPS != tt.https || req.Host != tt.host || req.Port != tt.port || req.Target != tt.target || req.Path.Norm != tt.norm || req.Query != tt.query {
			t.Errorf("%s: got %+v, want %+v", tt.url, req, tt)
		}
	}
}

func TestNewRequestTakesWhatACaseSays(t *testing.T) {
	at := time.Date(2026, 12, 24, 18, 0, 0, 0, time.UTC)
	req, err := new(rules).newRequest(&fingerpost.Case{URL: "https://a.example/", Method: "post", Headers: map[string]string{"accept-language": "nb"},
		Country: "NO", Address: "192.0.2.1", At: &at})
	if err != nil || req.Method != "POST" || !slices.Equal(req.Header.Values("Accept-Language"), []string{"nb"}) || req.Country != "NO" || req.Addr.String() != "192.0.2.1" || req.Now != at.Unix() {
		t.Errorf("got %+v (%v)", req, err)
	}
}

func TestNewRequestRefuses(t *testing.T) {
	at := fingerpost.Position{File: "tests.yaml", Line: 3, Column: 5}
	tests := []struct {
		c    fingerpost.Case
		want string
	}{
		{fingerpost.Case{URL: "www.example.com/a"}, "has no http:// or https://"},
		{fingerpost.Case{URL: "ftp://www.example.com/a"}, "has no http:// or https://"},
		{fingerpost.Case{URL: "https:///a"}, "has no valid host"},
		{fingerpost.Case{URL: "https://a b/"}, "has no valid host"},
		{fingerpost.Case{URL: "https://*.example.com/"}, "has no valid host"},
		{fingerpost.Case{URL: "https://a@example.com/"}, "has no valid host"},
		{fingerpost.Case{URL: "https://a.example:port/"}, "has no valid port"},
		{fingerpost.Case{URL: "https://a.example/%zz"}, "has a path that no server accepts"},
		{fingerpost.Case{URL: "https://a.example/", Address: "here"}, `comes with the address "here"`},
	}
	for _, tt := range tests {
		tt.c.Source = at
		_, err := new(rules).newRequest(&tt.c)
		got := fingerpost.Errors(err)
		if len(got) != 1 || !strings.Contains(got[0].Message, tt.want) || got[0].At != at {
			t.Errorf("%q: got %v, want %q", tt.c.URL, err, tt.want)
		}
	}
}
