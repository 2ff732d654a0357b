package fingerpost

import (
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// printTo writes the parts of a target side by side, so that a table can show
// them: "lit" literals as they are, <name|transform> captures, {property}.
func printTo(to *To) string {
	var b strings.Builder
	write := func(parts []Part) {
		for _, p := range parts {
			switch {
			case p.Capture != "" && p.Transform != "":
				b.WriteString("<" + p.Capture + "|" + p.Transform + ">")
			case p.Capture != "":
				b.WriteString("<" + p.Capture + ">")
			case p.Property != "":
				b.WriteString("{" + p.Property + "}")
			default:
				b.WriteString(p.Literal)
			}
		}
	}
	write(to.Base)
	if to.HasQuery {
		b.WriteByte('?')
		write(to.Query)
	}
	if to.HasFragment {
		b.WriteByte('#')
		write(to.Fragment)
	}
	return b.String()
}

func TestToIsRead(t *testing.T) {
	declared := []string{"id", "splat", "sub", "1", "12"}
	tests := []struct{ in, want, host string }{
		{"https://b.example", "https://b.example", "b.example"},
		{"https://b.example/", "https://b.example/", "b.example"},
		{"HTTPS://B.Example./x", "https://b.example/x", "b.example"},
		{"http://b.example:8080/:id", "http://b.example:8080/<id>", "b.example"},
		{"https://b.example:443/", "https://b.example:443/", "b.example"},
		{"https://bücher.example/ä?ö=ü#ß", "https://xn--bcher-kva.example/%C3%A4?%C3%B6=%C3%BC#%C3%9F", "xn--bcher-kva.example"},
		{"https://192.0.2.1/", "https://192.0.2.1/", "192.0.2.1"},
		{"https://[2001:DB8::1]/x", "https://[2001:db8::1]/x", "[2001:db8::1]"},
		{"https://[::1]:8443/:1", "https://[::1]:8443/<1>", "[::1]"},
		{"/resources/followup", "/resources/followup", ""},
		{"/:splat", "/<splat>", ""},
		{"/a//b", "/a//b", ""},
		{"https://b.example/:id/:splat?ref=:1", "https://b.example/<id>/<splat>?ref=<1>", "b.example"},
		{"https://b.example/:12/:1x/:123", "https://b.example/<12>/<1>x/:123", "b.example"},
		{"https://b.example/a:id-b", "https://b.example/a<id>-b", "b.example"},
		{"https://b.example/:idx/::id/:/:-", "https://b.example/:idx/:<id>/:/:-", "b.example"},
		{"https://b.example/:id|lower/:id|upper-x/:id|slug", "https://b.example/<id|lower>/<id|upper>-x/<id|slug>", "b.example"},
		{"https://b.example/:id%7Clower", "https://b.example/<id>%7Clower", "b.example"},
		{"https://b.example/:idx|lower", "https://b.example/:idx%7Clower", "b.example"},
		{"https://:sub.b.example/", "https://<sub>.b.example/", ""},
		{"https://:sub.B.example:8080/x", "https://<sub>.b.example:8080/x", ""},
		{"https://{host}/x", "https://{host}/x", ""},
		{"https://{host}:8443{path}", "https://{host}:8443{path}", ""},
		{"{scheme}://www.{host}{path}?{query}", "{scheme}://www.{host}{path}?{query}", ""},
		{"{scheme}://b.example{path}", "{scheme}://b.example{path}", "b.example"},
		{"https://b.example?a=1", "https://b.example?a=1", "b.example"},
		{"https://b.example#f", "https://b.example#f", "b.example"},
		{"https://b.example?", "https://b.example?", "b.example"},
		{"https://b.example/?next={url}&m={method}&p={port}#{host}", "https://b.example/?next={url}&m={method}&p={port}#{host}", "b.example"},
		{"https://b.example/a@b", "https://b.example/a@b", "b.example"},
		{"https://b.example/?a=b@c://d", "https://b.example/?a=b@c://d", "b.example"},
		{"https://b.example/%0d%0a%2f\"<>^`|", "https://b.example/%0d%0a%2f%22%3C%3E%5E%60%7C", "b.example"},
		{"https://b.example/?a=\"<>|^`+b&c", "https://b.example/?a=%22%3C%3E|^`+b&c", "b.example"},
		{"https://b.example/#a#b", "https://b.example/#a%23b", "b.example"},
		{"https://b.example/?a?b", "https://b.example/?a?b", "b.example"},
	}
	for _, tt := range tests {
		to, err := ParseTo(tt.in, declared)
		if err != nil {
			t.Errorf("%s: %v", tt.in, err)
			continue
		}
		if got := printTo(&to); got != tt.want {
			t.Errorf("%s = %s, want %s", tt.in, got, tt.want)
		}
		if to.Host != tt.host {
			t.Errorf("%s: host %q, want %q", tt.in, to.Host, tt.host)
		}
		_, rest, absolute := strings.Cut(tt.in, "://")
		if to.Relative != strings.HasPrefix(tt.in, "/") {
			t.Errorf("%s: relative %t", tt.in, to.Relative)
		}
		if empty := absolute && !to.Relative && !strings.ContainsAny(rest, "/"); to.EmptyPath != empty && !strings.Contains(rest, "{") {
			t.Errorf("%s: empty path %t", tt.in, to.EmptyPath)
		}
		if to.DropsQuery != (strings.Contains(tt.in, "{query}") || strings.Contains(tt.in, "{url}")) {
			t.Errorf("%s: drops the query: %t", tt.in, to.DropsQuery)
		}
		checkTo(t, tt.in, &to, declared)
	}
}

func TestUndeclaredNamesOfATargetAreNoted(t *testing.T) {
	for in, want := range map[string][]string{
		"https://b.example/:id":                nil,
		"https://b.example/:name/:id/:x?a=:y":  {"name", "x", "y"},
		"https://b.example:8080/:9":            nil,
		"https://[2001:db8::1]/":               nil, // its groups are no names
		"https://[2001:db8::abc]:8080/:id":     nil,
		"https://b.example/%3Aname":            nil,
		"https://b.example/a:b":                {"b"},
		"https://b.example/:splat":             {"splat"},
		"https://{host}:8443/x:id?t=12:30#:id": nil,
	} {
		to, err := ParseTo(in, []string{"id"})
		if err != nil || !slices.Equal(to.Undeclared, want) {
			t.Errorf("%s: undeclared %q, %v, want %q", in, to.Undeclared, err, want)
		}
	}
}

func TestToIsRefused(t *testing.T) {
	const (
		absolute = "give an absolute URL (https://shop.example/path) or a path on the same host (/path)"
		space    = "write a space as %20; a line break never belongs into a URL"
		scheme   = "only http and https are redirected to"
		user     = "remove what stands before the @"
		host     = "write it as in https://shop.example/path"
		port     = "a port is a number from 1 to 65535"
		capture  = "only :sub and {host} may stand there: a visitor must not choose the host"
		property = "only :sub and {host} may stand there"
		brace    = "{scheme} {host} {port} {path} {query} {url} {method}; write a literal brace as %7B or %7D"
	)
	tests := []struct{ in, what, hint string }{
		{"", "is empty", absolute},
		{"b.example/x", "is not a URL", absolute},
		{"?a=1", "is not a URL", absolute},
		{"#a", "is not a URL", absolute},
		{":splat", "is not an http or https URL", absolute},
		{"{path}", "is not a URL", absolute},
		{"https:/b.example", "is not an http or https URL", absolute},
		{"javascript:alert(1)", "is not an http or https URL", absolute},
		{"JavaScript:alert(1)", "is not an http or https URL", absolute},
		{"data:text/html,x", "is not an http or https URL", absolute},
		{"mailto:a@b.example", "is not an http or https URL", absolute},
		{"javascript://b.example/%0aalert(1)", `has the scheme "javascript"`, scheme},
		{"ftp://b.example/", `has the scheme "ftp"`, scheme},
		{"://b.example/", `has the scheme ""`, scheme},
		{":id://b.example/", `has the scheme ":id"`, scheme},
		{"{host}://b.example/", `has the scheme "{host}"`, scheme},
		{"//evil.example", "begins with //, which a browser reads as another host", absolute},
		{"///evil.example", "begins with //, which a browser reads as another host", absolute},
		{`/\evil.example`, "has a backslash", "write / instead"},
		{`\\evil.example`, "has a backslash", "write / instead"},
		{"https://b.example/a b", "has a space, line break or control byte", space},
		{"https://b.example/a\r\nSet-Cookie: x", "has a space, line break or control byte", space},
		{"https://b.example/\n", "has a space, line break or control byte", space},
		{"https://b.example/\x00", "has a space, line break or control byte", space},
		{"https://b.example/?\x7f", "has a space, line break or control byte", space},
		{" https://b.example/", "has a space, line break or control byte", space},
		{"https://user@b.example/", "has a user name or password", user},
		{"https://user:pw@b.example/", "has a user name or password", user},
		{"https://b.example@evil.example/", "has a user name or password", user},
		{"https://:sub@b.example/", "has a user name or password", user},
		{"https:///x", "has no valid host name", host},
		{"https://", "has no valid host name", host},
		{"https://?a", "has no valid host name", host},
		{"https://*/", "has no valid host name", host},
		{"https://*.b.example/", "has no valid host name", host},
		{"https://.b.example/", "has no valid host name", host},
		{"https://b..example/", "has no valid host name", host},
		{"https://b.example../", "has no valid host name", host},
		{"https://b_b.example/", "has no valid host name", host},
		{"https://b%2eexample/", "has no valid host name", host},
		{"https://[::1/", "has no valid host name", host},
		{"https://[::1]x/", `has the port "1]x"`, port},
		{"https://:sub..b.example/", "has no valid host name", host},
		{"https://b.example:/", `has the port ""`, port},
		{"https://b.example:0/", `has the port "0"`, port},
		{"https://b.example:65536/", `has the port "65536"`, port},
		{"https://b.example:x/", `has the port "x"`, port},
		{"https://b.example:+80/", `has the port "+80"`, port},
		{"https://b.example:-80/", `has the port "-80"`, port},
		{"https://b.example:80a/", `has the port "80a"`, port},
		{"https://{host}:0/", `has the port "0"`, port},
		{"https://[::1]:99999/", `has the port "99999"`, port},
		{"https://:id/", "puts :id into the host name", capture},
		{"https://:id.b.example/", "puts :id into the host name", capture},
		{"https://b.example:splat", "puts :splat into the host name", capture},
		{"https://:sub/", "lets :sub choose the domain", "put a domain of yours behind it, as in https://:sub.example.com/"},
		{"https://:sub.com/", "lets :sub choose the domain", "put a domain of yours behind it, as in https://:sub.example.com/"},
		{"https://:sub.co.uk/", "lets :sub choose the domain", "put a domain of yours behind it, as in https://:sub.example.com/"},
		{"https://www.:sub/", "lets :sub choose the domain", "put a domain of yours behind it, as in https://:sub.example.com/"},
		{"https://my:sub.com/", "lets :sub choose the domain", "put a domain of yours behind it, as in https://:sub.example.com/"},
		{"https://:sub-cdn.com/", "lets :sub choose the domain", "put a domain of yours behind it, as in https://:sub.example.com/"},
		{"https://{host}.com/", "lets :sub choose the domain", "put a domain of yours behind it, as in https://:sub.example.com/"},
		{"https://b.example:1/", "puts :1 into the host name", capture},
		{"https://:sub|lower.b.example/", "puts :sub into the host name", capture},
		{"https://b.example:{port}/", "puts {port} into the host name", property},
		{"https://{query}/", "puts {query} into the host name", property},
		{"https://b.example{query}", "puts {query} into the host name", property},
		{"https://{scheme}.b.example/", "puts {scheme} into the host name", property},
		{"https://b.example/{", "has a brace that is not a property", brace},
		{"https://b.example/}", "has a brace that is not a property", brace},
		{"https://b.example/{}", "has a brace that is not a property", brace},
		{"https://b.example/{id}", "has a brace that is not a property", brace},
		{"https://b.example/{Host}", "has a brace that is not a property", brace},
		{"https://b.example/{host", "has a brace that is not a property", brace},
		{"https://b.example/{host:port}", "has a brace that is not a property", brace},
		{"https://b.example/?a={x}", "has a brace that is not a property", brace},
		{"https://b.example/:id|", "has an unknown transform after :id|", "one of lower, upper, slug"},
		{"https://b.example/:id|title", "has an unknown transform after :id|", "one of lower, upper, slug"},
		{"https://b.example/:id|lowercase", "has an unknown transform after :id|", "one of lower, upper, slug"},
		{"https://b.example/:id|Lower", "has an unknown transform after :id|", "one of lower, upper, slug"},
		{"https://b.example/100%", "has a bad percent escape", "write a percent sign as %25"},
		{"https://b.example/?a=%zz", "has a bad percent escape", "write a percent sign as %25"},
		{"https://b.example/#%4", "has a bad percent escape", "write a percent sign as %25"},
		{"https://b.example/%4:id", "has a bad percent escape", "write a percent sign as %25"},
	}
	for _, tt := range tests {
		_, err := ParseTo(tt.in, []string{"id", "splat", "sub", "1"})
		checkError(t, tt.in, err, &Error{Code: "bad_to", Field: "to", Message: "to " + quote(tt.in) + " " + tt.what, Hint: tt.hint})
	}
	_, err := ParseTo("https://:sub.bücher.example/", []string{"sub"})
	checkError(t, "capture beside U-labels", err, &Error{Code: "bad_to", Field: "to",
		Message: `to "https://:sub.bücher.example/" mixes a capture with a host name that is not ASCII`, Hint: "write the host name with xn-- labels"})
}

func TestSubMustBeDeclaredToEnterTheAuthority(t *testing.T) {
	if _, err := ParseTo("https://:sub.b.example/", nil); err == nil {
		t.Error("the host of a rule without a wildcard has no :sub")
	}
}

// checkTo expands a target with hostile text in every place and holds that the
// scheme and the authority are the ones that stand in it.
func checkTo(t *testing.T, in string, to *To, declared []string) {
	t.Helper()
	const hostile = "//evil.example\\@:80/?#&=+%zz%2f..\r\n\x00é\"<> {}"
	expand := func(parts []Part) (s string) {
		for _, p := range parts {
			for i := range len(p.Literal) {
				if c := p.Literal[i]; c <= ' ' || c >= 0x7f || c == '\\' || c == '"' || c == '<' || c == '>' {
					t.Errorf("%q: the literal %q holds the byte %#x", in, p.Literal, c)
				}
			}
			if p.Capture != "" && !slices.Contains(declared, p.Capture) {
				t.Errorf("%q: :%s is not declared", in, p.Capture)
			}
			text := hostile
			if p.Property == "scheme" {
				text = "https"
			} else if p.Place == InAuthority {
				text = "sub.of" // checked as a host name before
				if p.Capture != "" && p.Capture != "sub" || p.Property != "" && p.Property != "host" || p.Transform != "" {
					t.Errorf("%q: %+v in the authority", in, p)
				}
			}
			if p.Literal != "" {
				s += p.Literal
			} else {
				s += string(AppendText(nil, text, p.Place))
			}
		}
		return s
	}
	authority := ""
	for i, p := range to.Base {
		if p.Place != InAuthority {
			break
		}
		authority += expand(to.Base[i : i+1])
	}
	loc := expand(to.Base)
	if to.HasQuery {
		loc += "?" + expand(to.Query)
	}
	if to.HasFragment {
		loc += "#" + expand(to.Fragment)
	}
	if to.Relative {
		if authority != "" || to.Host != "" || to.Scheme != "" || !strings.HasPrefix(loc, "/") {
			t.Errorf("%q: a path on the same host with an authority: %+v", in, to)
		}
		return // a leading // is seen when it is expanded
	}
	u, err := url.Parse(loc)
	if err != nil {
		t.Errorf("%q expands to %q: %v", in, loc, err)
		return
	}
	if u.Scheme+"://"+u.Host != authority || u.User != nil || u.Scheme != "http" && u.Scheme != "https" {
		t.Errorf("%q expands to %q, which leads to %s://%s, not to %s", in, loc, u.Scheme, u.Host, authority)
	}
	if to.Host != "" && to.Host != u.Hostname() && to.Host != "["+u.Hostname()+"]" {
		t.Errorf("%q: host %q, net/url says %q", in, to.Host, u.Hostname())
	}
}

func FuzzParseTo(f *testing.F) {
	declared := []string{"id", "splat", "sub", "1"}
	for _, s := range []string{"https://b.example/:id|slug/:splat?a=:1&{query}#:id", "/:splat", "{scheme}://:sub.{host}:8080{path}", "https://[::1]:80/", "//x", `/\x`,
		"https://bücher.example。/é", "https://a@b/", "https://b.example:+80/", "https://b.example:id", "HTTP://B./%41?%zz", "https://b.example?{url}#"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		to, err := ParseTo(s, declared)
		if err != nil {
			if !reflect.DeepEqual(to, To{}) {
				t.Errorf("%q: a target beside an error", s)
			}
			if e := Errors(err)[0]; e.Field != "to" || e.Code != "bad_to" || strings.ContainsAny(e.Message, "\r\n") {
				t.Errorf("%q: %+v", s, e)
			}
			return
		}
		checkTo(t, s, &to, declared)
	})
}
