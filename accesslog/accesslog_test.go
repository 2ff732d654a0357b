package accesslog

import (
	"fmt"
	"strings"
	"testing"
)

// text is what an entry holds, in one line.
func text(e *Entry) string {
	addr := ""
	if e.Addr.IsValid() {
		addr = e.Addr.String()
	}
	return fmt.Sprintf("%s|%s|%s|%s|%s|%s|%s", e.Method, e.Scheme, e.Host, e.Target, addr, e.UserAgent, e.Referer)
}

const fields = "#Fields: date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status cs(Referer) cs(User-Agent) cs-uri-query cs(Cookie) x-edge-result-type x-edge-request-id x-host-header cs-protocol cs-bytes time-taken"

// lines are good and bad lines of each format: what is read, or the error behind a !.
var lines = []struct {
	format     Format
	line, want string
}{
	{JSON, `{"time":"2026-11-20T10:00:00.000Z","remote":"192.0.2.1:51234","scheme":"https","proto":"2","method":"GET","host":"www.example.com","target":"/a?b=1","status":301,"location":"https://x.example/","durationUs":9,"bytes":0,"userAgent":"M \"x\"","referer":"https://r.example/"}`,
		`GET|https|www.example.com|/a?b=1|192.0.2.1|M "x"|https://r.example/`},
	{JSON, `{"remote":"[2001:db8::1]:1","scheme":"http","method":"POST","host":"h.example:80","target":"/"}`, "POST|http|h.example|/|2001:db8::1||"},
	{JSON, `{"scheme":"http","method":"GET","host":"proxy.example","target":"http://h.example/a"}`, "GET|http|h.example|/a|||"},
	{JSON, `{"method":"GET","target":"a"}`, "!the request has no path"},
	{JSON, `{"method":"OPTIONS","target":"*"}`, "!the request has no path"},
	{JSON, `{"level":"info","msg":"hello"}`, "!it has no request"},
	{JSON, `{"method":1}`, "!it is not JSON, or not of a record's types"},
	{JSON, `{"method":"GET","target":"/a"`, "!it is not JSON, or not of a record's types"},

	{Combined, `192.0.2.1 - - [20/Nov/2026:10:00:00 +0000] "GET /a?b=1 HTTP/1.1" 301 12`, "GET|||/a?b=1|192.0.2.1||"},
	{Combined, `192.0.2.1 - john smith [20/Nov/2026:10:00:00 +0000] "GET /a HTTP/1.1" 301 - "https://r.example/" "M \"x\" \x41"`, `GET|||/a|192.0.2.1|M "x" A|https://r.example/`},
	{Combined, `2001:db8::1 - - [20/Nov/2026:10:00:00 +0000] "GET /a HTTP/2.0" 301 0 "-" "-" "more"`, "GET|||/a|2001:db8::1||"},
	{Combined, `www.example.com:443 192.0.2.1 - - [20/Nov/2026:10:00:00 +0000] "GET /a HTTP/1.1" 200 5 "-" "M"`, "GET|https|www.example.com|/a|192.0.2.1|M|"},
	{Combined, `www.example.com 192.0.2.1 - - [20/Nov/2026:10:00:00 +0000] "GET /a HTTP/1.1" 200 5`, "GET||www.example.com|/a|192.0.2.1||"},
	{Combined, `client.example - - [20/Nov/2026:10:00:00 +0000] "GET http://h.example:80/a HTTP/1.1" 200 5`, "GET|http|h.example|/a|||"},
	{Combined, `192.0.2.1 - - [20/Nov/2026:10:00:00 +0000] "GET /a b HTTP/1.1" 400 5`, "GET|||/a b|192.0.2.1||"},
	{Combined, `192.0.2.1 - - [20/Nov/2026:10:00:00 +0000] "-" 408 0`, "!it has no request"},
	{Combined, `192.0.2.1 - - [20/Nov/2026:10:00:00 +0000] "\x16\x03\x01 \x02" 400 0`, "!its method is none"},
	{Combined, `192.0.2.1 - - [20/Nov/2026:10:00:00 +0000] "CONNECT h.example:443 HTTP/1.1" 400 0`, "!the request has no path"},
	{Combined, `192.0.2.1 - - [20/Nov/2026:10:00:00 +0000] "GET /a HTTP/1.1`, "!a quoted text has no end"},
	{Combined, `192.0.2.1 - - [20/Nov/2026:10:00:00 +0000] "GET /a HTTP/1.1" x 0`, "!it has no status behind the request"},
	{Combined, `192.0.2.1 - - [20/Nov/2026:10:00:00`, "!its [time] has no end"},
	{Combined, `hello`, "!it has no [time]"},
	{Combined, ` [x] "GET /a HTTP/1.1" 200 1`, "!it has no address, ident and user"},

	{ALB, `https 2026-11-20T10:00:00.000000Z app/lb/50dc 192.0.2.1:2817 10.0.0.1:80 0.1 0.0 0.0 301 301 34 366 "GET https://www.example.com:443/a?b=1 HTTP/1.1" "curl/7.46.0" ECDHE TLSv1.2 arn "Root=1" "www.example.com" "-" 0 2026 "forward" "-" "-"`,
		"GET|https|www.example.com|/a?b=1|192.0.2.1|curl/7.46.0|"},
	{ALB, `http 2026-11-20T10:00:00.000000Z app/lb/50dc 192.0.2.1:2817 - -1 -1 -1 400 - 0 272 "- http://lb.example:80- -" "-" - - - "-" "-" "-" - 2026 "-" "-" "-"`, "!it has no request"},
	{ALB, `http 2026-11-20T10:00:00.000000Z app/lb/50dc 192.0.2.1:2817 - 0 0 0 200 200 0 272 "GET /a HTTP/1.1" "-"`, "!it has no request"},
	{ALB, `tcp a b c d e f g h i j k "GET http://h.example/ HTTP/1.1" "-"`, "!its type is not one of a load balancer"},
	{ALB, `http 2026 lb`, "!it has too few fields"},
	{ALB, `http a b c d e f g h i j k "GET http://h.example/`, "!a quoted text has no end"},

	{CloudFront, "#Version: 1.0", "-"},
	{CloudFront, "2026-11-20\t10:00:00\tFRA\t9\t192.0.2.1\tGET\td1.cloudfront.net\t/caf%C3%A9%2520x\t301\thttps://r.example/\tMozilla/5.0%20(X11)\tb=1%26\t-\tHit\tid==\twww.example.com\thttps\t9\t0.001",
		"GET|https|www.example.com|/caf%C3%A9%20x?b=1%26|192.0.2.1|Mozilla/5.0 (X11)|https://r.example/"},
	{CloudFront, "2026-11-20\t10:00:00\tFRA\t9\t2001:db8::1\tHEAD\td1.cloudfront.net\t/\t301\t-\t-\t-\t-\tHit\tid==\t-\twss\t9\t0.001", "HEAD|https|d1.cloudfront.net|/|2001:db8::1||"},
	{CloudFront, "2026-11-20\t10:00:00\tFRA", "!it has too few fields"},

	{URLs, "https://www.example.com/a?b=1#c", "GET|https|www.example.com|/a?b=1|||"},
	{URLs, "HTTP://h.example:80?x", "GET|http|h.example|/?x|||"},
	{URLs, "POST https://h.example:8443/a", "POST|https|h.example:8443|/a|||"},
	{URLs, " h.example/a ", "GET||h.example|/a|||"},
	{URLs, "/a", "GET|||/a|||"},
	{URLs, "# a comment", "-"},
	{URLs, "", "-"},
	{URLs, "get /a", "!its method is none"},
	{URLs, "hello", "!it is not a URL"},
	{URLs, "https://h.example/a b", "!it is not a URL"},
	{URLs, "ftp://h.example/", "!it is not a URL"},
	{URLs, "https:///a", "!it is not a URL"},
}

func TestLinesOfEveryFormat(t *testing.T) {
	for _, tt := range lines {
		var e Entry
		p := Parser{Format: tt.format}
		request, err := p.Parse(tt.line+"\r\n", &e)
		got := text(&e)
		if err != nil {
			got = "!" + err.Error()
		} else if !request {
			got = "-"
		}
		if got != tt.want {
			t.Errorf("%s %s\ngot  %s\nwant %s", tt.format, tt.line, got, tt.want)
		}
	}
}

func TestCloudFrontNamesItsColumns(t *testing.T) {
	p := Parser{Format: CloudFront}
	var e Entry
	for _, line := range []string{"#Version: 1.0", "#Fields: cs-method x-host-header cs-uri-stem"} {
		if request, err := p.Parse(line, &e); request || err != nil {
			t.Fatalf("%s: %v, %v", line, request, err)
		}
	}
	if _, err := p.Parse("GET\th.example\t/a", &e); err != nil || text(&e) != "GET||h.example|/a|||" {
		t.Errorf("got %s, %v", text(&e), err)
	}
	p.Parse("#Fields: date time", &e)
	if _, err := p.Parse("a\tb", &e); err == nil {
		t.Error("a log without paths was read")
	}
}

func TestDetectTellsTheFormatByTheFirstLines(t *testing.T) {
	for _, format := range Formats {
		var sample []string
		for _, l := range lines {
			if l.format == format {
				sample = append(sample, l.line+"\n")
			}
		}
		if got, ok := Detect(sample); got != format || !ok {
			t.Errorf("%s was taken for %s, %v", format, got, ok)
		}
	}
	for _, sample := range [][]string{nil, {"\n", "hello\n"}, {"<html>"}} {
		if got, ok := Detect(sample); ok {
			t.Errorf("%q was taken for %s", sample, got)
		}
	}
	if got, _ := Detect([]string{"#Version: 1.0", fields}); got != CloudFront {
		t.Errorf("a CloudFront log without requests was taken for %q", got)
	}
}

// FuzzParse shows that no line makes a request that breaks what Entry promises.
func FuzzParse(f *testing.F) {
	for _, l := range lines {
		f.Add(l.line)
	}
	f.Add(fields)
	f.Fuzz(func(t *testing.T, line string) {
		for _, format := range Formats {
			p := Parser{Format: format}
			var e Entry
			request, err := p.Parse(line, &e)
			if !request || err != nil {
				continue
			}
			if e.Method == "" || strings.ToUpper(e.Method) != e.Method || !strings.HasPrefix(e.Target, "/") || e.Scheme != "" && e.Scheme != "http" && e.Scheme != "https" {
				t.Errorf("%s: %q gives %s", format, line, text(&e))
			}
		}
		Detect(strings.Split(line, "\n"))
	})
}
