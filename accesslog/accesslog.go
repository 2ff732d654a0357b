// Package accesslog reads requests out of lines of access logs: our own, those of
// Apache and nginx, of AWS's load balancers and CloudFront, and lists of URLs.
//
// It knows how such lines are written, each by itself. It must not know files,
// compression or what is done with a request; what a log does not say is empty.
//
// Start reading at [Detect] and [Parser.Parse]; there is one file for each family
// of formats.
package accesslog

import (
	"errors"
	"net/netip"
	"net/url"
	"strings"
)

// Entry is one request. What the log does not say is empty.
type Entry struct {
	Method    string // upper case
	Scheme    string // "http" or "https"
	Host      string // as the client sent it, without the default port of Scheme
	Target    string // path and query as the client sent them; begins with /
	Addr      netip.Addr
	UserAgent string
	Referer   string
}

// Format is how a log is written.
type Format string

const (
	JSON       Format = "json"       // our own: one object a line
	Combined   Format = "combined"   // common and combined of Apache and nginx, with or without the virtual host before it
	ALB        Format = "alb"        // AWS application load balancer
	CloudFront Format = "cloudfront" // AWS CloudFront, standard logs
	URLs       Format = "urls"       // a URL or path a line, with or without a method before it
)

// Formats are all, the most telling first.
var Formats = []Format{JSON, CloudFront, ALB, Combined, URLs}

// Detect tells the format of a log by its first lines: the one that reads most of
// them. It is not ok if none reads any.
func Detect(lines []string) (best Format, ok bool) {
	most := 0
	for _, f := range Formats {
		p := Parser{Format: f}
		read := 0
		for _, line := range lines {
			var e Entry
			if f == CloudFront && strings.HasPrefix(line, "#Fields:") {
				read = len(lines) + 1
			}
			if request, err := p.Parse(line, &e); request && err == nil {
				read++
			}
		}
		if read > most {
			best, most = f, read
		}
	}
	return best, most > 0
}

// Parser reads the lines of one log, in their order.
type Parser struct {
	Format  Format
	columns cloudFrontColumns // of the last line #Fields
	buffer  []string          // the fields of the line at hand
}

// Parse reads one line into e. It is no request if the line is empty or a comment;
// an error says why a line cannot be read, in a few words without the line.
func (p *Parser) Parse(line string, e *Entry) (request bool, err error) {
	*e = Entry{}
	line = strings.TrimRight(line, "\r\n")
	if strings.TrimSpace(line) == "" {
		return false, nil
	}
	if strings.HasPrefix(line, "#") && (p.Format == CloudFront || p.Format == URLs) {
		if fields, ok := strings.CutPrefix(line, "#Fields:"); ok {
			p.columns = findColumns(strings.Fields(fields))
		}
		return false, nil
	}
	switch p.Format {
	case JSON:
		err = parseJSON(line, e)
	case Combined:
		err = parseCombined(line, e)
	case ALB:
		err = p.parseALB(line, e)
	case CloudFront:
		err = p.parseCloudFront(line, e)
	case URLs:
		err = parseURL(line, e)
	default:
		err = errors.New("unknown format")
	}
	if err == nil {
		err = e.check()
	}
	return true, err
}

var (
	errNoRequest = errors.New("it has no request") // a connection that ended, or noise
	errNoPath    = errors.New("the request has no path")
)

// check refuses what is no request for a page, and gives the host one form.
func (e *Entry) check() error {
	if e.Method == "" {
		return errNoRequest
	}
	for i := 0; i < len(e.Method); i++ {
		if c := e.Method[i]; (c < 'A' || c > 'Z') && c != '-' && c != '_' {
			return errors.New("its method is none")
		}
	}
	if !strings.HasPrefix(e.Target, "/") {
		return errNoPath
	}
	switch e.Scheme {
	case "", "http", "https":
	default:
		return errors.New("its scheme is neither http nor https")
	}
	if e.Scheme == "http" {
		e.Host = strings.TrimSuffix(e.Host, ":80")
	} else if e.Scheme == "https" {
		e.Host = strings.TrimSuffix(e.Host, ":443")
	}
	return nil
}

// target takes a request target, or a whole URL, apart.
func (e *Entry) target(s string) {
	for _, scheme := range []string{"https", "http"} {
		if len(s) > len(scheme)+3 && strings.EqualFold(s[:len(scheme)], scheme) && s[len(scheme):len(scheme)+3] == "://" {
			e.Scheme, s = scheme, s[len(scheme)+3:]
			e.hostTarget(s)
			return
		}
	}
	e.Target = s
}

// hostTarget takes host/path?query apart.
func (e *Entry) hostTarget(s string) {
	s, _, _ = strings.Cut(s, "#") // a browser keeps it to itself
	i := strings.IndexAny(s, "/?")
	if i < 0 {
		e.Host, e.Target = s, "/"
		return
	}
	if e.Host, e.Target = s[:i], s[i:]; e.Target[0] == '?' {
		e.Target = "/" + e.Target
	}
}

// request takes "GET /path HTTP/1.1" apart.
func (e *Entry) request(s string) error {
	method, rest, ok := strings.Cut(s, " ")
	if !ok {
		return errNoRequest
	}
	// A path that was sent with a space in it is not known to end anywhere else.
	if i := strings.LastIndex(rest, " HTTP/"); i >= 0 {
		rest = rest[:i]
	} else if strings.HasSuffix(rest, " -") {
		return errNoRequest
	}
	if rest == "" || rest == "-" {
		return errNoRequest
	}
	e.Method = method
	e.target(rest)
	return nil
}

func (e *Entry) addr(s string) {
	if addr, err := netip.ParseAddr(s); err == nil {
		e.Addr = addr
	} else if pair, err := netip.ParseAddrPort(s); err == nil {
		e.Addr = pair.Addr()
	}
}

// parseURL reads a line of a list: "https://host/path", "/path" or "host/path",
// with "GET " before it or not.
func parseURL(line string, e *Entry) error {
	line = strings.TrimSpace(line)
	e.Method = "GET"
	if method, rest, ok := strings.Cut(line, " "); ok {
		e.Method, line = method, strings.TrimSpace(rest)
	}
	if strings.ContainsAny(line, " \t\"") {
		return errors.New("it is not a URL")
	}
	e.target(line)
	if e.Host == "" && !strings.HasPrefix(line, "/") {
		if host, _, _ := strings.Cut(line, "/"); !strings.Contains(host, ".") || strings.ContainsAny(host, "{}[]()<>,;=") {
			return errors.New("it is not a URL")
		}
		e.hostTarget(line)
	}
	if e.Host == "" {
		return nil
	}
	if _, err := url.Parse("http://" + e.Host); err != nil {
		return errors.New("its host is none")
	}
	return nil
}
