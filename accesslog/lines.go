package accesslog

import (
	"encoding/json"
	"errors"
	"net/netip"
	"net/url"
	"strings"
)

// parseJSON reads a record of our own log; docs/OPERATING.md lists its fields.
func parseJSON(line string, e *Entry) error {
	var record struct {
		Remote    string `json:"remote"`
		Scheme    string `json:"scheme"`
		Method    string `json:"method"`
		Host      string `json:"host"`
		Target    string `json:"target"`
		UserAgent string `json:"userAgent"`
		Referer   string `json:"referer"`
	}
	if err := json.Unmarshal([]byte(line), &record); err != nil {
		return errors.New("it is not JSON, or not of a record's types")
	}
	e.Method, e.Scheme, e.Host = record.Method, record.Scheme, record.Host
	e.UserAgent, e.Referer = record.UserAgent, record.Referer
	e.addr(record.Remote)
	if scheme, _, ok := strings.Cut(record.Target, "://"); ok && (strings.EqualFold(scheme, "http") || strings.EqualFold(scheme, "https")) {
		// The absolute form, as proxies send it: its host is the one that counts.
		e.target(record.Target)
		e.Scheme = record.Scheme
	} else {
		e.Target = record.Target
	}
	return nil
}

// parseCombined reads
//
//	[host[:port] ]address ident user [time] "request" status bytes[ "referer" "agent"]…
//
// which is the common format, the combined one, and both with the virtual host.
func parseCombined(line string, e *Entry) error {
	before, rest, ok := strings.Cut(line, " [")
	if !ok {
		return errors.New("it has no [time]")
	}
	fields := strings.Fields(before)
	if len(fields) < 3 {
		return errors.New("it has no address, ident and user")
	}
	if e.addr(fields[0]); len(fields) > 3 && !e.Addr.IsValid() {
		if _, err := netip.ParseAddr(fields[1]); err == nil {
			e.Host = fields[0]
			e.addr(fields[1])
			switch {
			case strings.HasSuffix(e.Host, ":443"):
				e.Scheme = "https"
			case strings.HasSuffix(e.Host, ":80"):
				e.Scheme = "http"
			}
		}
	}
	if _, rest, ok = strings.Cut(rest, "] "); !ok {
		return errors.New("its [time] has no end")
	}
	request, rest, err := quoted(rest)
	if err != nil {
		return err
	}
	fields = strings.SplitN(strings.TrimPrefix(rest, " "), " ", 3)
	if len(fields) < 2 || !isStatus(fields[0]) {
		return errors.New("it has no status behind the request")
	}
	host := e.Host
	if err := e.request(request); err != nil {
		return err
	}
	if e.Host == "" {
		e.Host = host
	}
	if len(fields) == 3 {
		if e.Referer, rest, err = quoted(fields[2]); err == nil {
			e.UserAgent, _, _ = quoted(strings.TrimPrefix(rest, " "))
		}
	}
	e.Referer, e.UserAgent = absent(e.Referer), absent(e.UserAgent)
	return nil
}

// parseALB reads a line of an application load balancer. The request stands in it
// with the whole URL.
func (p *Parser) parseALB(line string, e *Entry) error {
	p.buffer = p.buffer[:0]
	for rest := line; rest != "" && len(p.buffer) < 14; {
		var field string
		if rest[0] == '"' {
			var err error
			if field, rest, err = quoted(rest); err != nil {
				return err
			}
			rest = strings.TrimPrefix(rest, " ")
		} else {
			field, rest, _ = strings.Cut(rest, " ")
		}
		p.buffer = append(p.buffer, field)
	}
	f := p.buffer
	if len(f) < 14 {
		return errors.New("it has too few fields")
	}
	switch f[0] {
	case "http", "https", "h2", "grpcs", "ws", "wss":
	default:
		return errors.New("its type is not one of a load balancer")
	}
	e.addr(f[3])
	if err := e.request(f[12]); err != nil {
		return err
	}
	if e.Scheme == "" {
		return errNoRequest
	}
	e.UserAgent = absent(f[13])
	return nil
}

// cloudFrontColumns are the numbers of the fields that we need; -1 where there is
// none.
type cloudFrontColumns struct {
	known                                                                 bool
	count, method, host, hostHeader, stem, query, proto, ip, agent, refer int
}

// usualColumns are those of a log without its line #Fields.
var usualColumns = findColumns(strings.Fields("date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status cs(Referer) cs(User-Agent) cs-uri-query cs(Cookie) x-edge-result-type x-edge-request-id x-host-header cs-protocol cs-bytes time-taken"))

func findColumns(names []string) cloudFrontColumns {
	c := cloudFrontColumns{known: true, method: -1, host: -1, hostHeader: -1, stem: -1, query: -1, proto: -1, ip: -1, agent: -1, refer: -1}
	for i, name := range names {
		for _, column := range []struct {
			name string
			at   *int
		}{{"cs-method", &c.method}, {"cs(Host)", &c.host}, {"x-host-header", &c.hostHeader}, {"cs-uri-stem", &c.stem}, {"cs-uri-query", &c.query},
			{"cs-protocol", &c.proto}, {"c-ip", &c.ip}, {"cs(User-Agent)", &c.agent}, {"cs(Referer)", &c.refer}} {
			if name == column.name {
				*column.at, c.count = i, i+1
			}
		}
	}
	return c
}

func (p *Parser) parseCloudFront(line string, e *Entry) error {
	c := p.columns
	if !c.known {
		c = usualColumns
	}
	p.buffer = p.buffer[:0]
	for field := range strings.SplitSeq(line, "\t") {
		p.buffer = append(p.buffer, field)
	}
	if len(p.buffer) < c.count {
		return errors.New("it has too few fields")
	}
	get := func(i int) string {
		if i < 0 {
			return ""
		}
		return absent(p.buffer[i])
	}
	e.Method, e.Scheme = get(c.method), get(c.proto)
	if c.method < 0 || c.stem < 0 {
		return errors.New("the log has no cs-method or no cs-uri-stem")
	}
	e.Scheme = strings.Replace(e.Scheme, "ws", "http", 1)
	// cs(Host) is the distribution's own name, x-host-header what the visitor asked for.
	if e.Host = get(c.hostHeader); e.Host == "" {
		e.Host = get(c.host)
	}
	e.Target = once(get(c.stem))
	if query := get(c.query); query != "" {
		e.Target += "?" + once(query)
	}
	e.addr(get(c.ip))
	e.UserAgent, e.Referer = plain(get(c.agent)), plain(get(c.refer))
	return nil
}

// once undoes what CloudFront adds where a path has percent signs: it writes the
// sign itself as %25.
func once(s string) string {
	if !strings.Contains(s, "%25") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		b.WriteByte(s[i])
		if strings.HasPrefix(s[i:], "%25") && i+4 < len(s) && isHex(s[i+3]) && isHex(s[i+4]) {
			i += 2
		}
	}
	return b.String()
}

// plain undoes the percent-encoding of a header.
func plain(s string) string {
	if decoded, err := url.PathUnescape(once(s)); err == nil {
		return decoded
	}
	return s
}

// quoted reads "text" with the escapes \" \\ \n \t \xhh, as servers write it.
func quoted(s string) (text, rest string, err error) {
	if s == "" || s[0] != '"' {
		return "", s, errors.New("a quoted text is missing")
	}
	end := strings.IndexAny(s[1:], `"\`) + 1
	if end > 0 && s[end] == '"' {
		return s[1:end], s[end+1:], nil
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:], nil
		case c != '\\' || i+1 == len(s):
			b.WriteByte(c)
		case s[i+1] == 'x' && i+3 < len(s) && isHex(s[i+2]) && isHex(s[i+3]):
			b.WriteByte(unhex(s[i+2])<<4 | unhex(s[i+3]))
			i += 3
		default:
			i++
			if j := strings.IndexByte("nrtbvf", s[i]); j >= 0 {
				b.WriteByte("\n\r\t\b\v\f"[j])
			} else {
				b.WriteByte(s[i])
			}
		}
	}
	return "", s, errors.New("a quoted text has no end")
}

// absent turns the sign for nothing into it.
func absent(s string) string {
	if s == "-" {
		return ""
	}
	return s
}

func isStatus(s string) bool {
	return len(s) == 3 && s[0] >= '0' && s[0] <= '9' && s[1] >= '0' && s[1] <= '9' && s[2] >= '0' && s[2] <= '9'
}

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f' }

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}
