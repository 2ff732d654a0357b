package e2e

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// rawConn is a connection on which a script writes bytes of its own.
type rawConn struct {
	conn   net.Conn
	r      *bufio.Reader
	method string // of the request under way
}

// dial opens a connection under a name.
func (s *script) dial(ts *testscript.TestScript, args []string) {
	if len(args) < 2 || len(args) > 3 || (args[1] == "https") != (len(args) == 3) || s.server == nil {
		ts.Fatalf("usage: dial NAME http, or dial NAME https SERVERNAME")
	}
	conn, err := net.DialTimeout("tcp", s.server.addrs[args[1]], waitLimit)
	ts.Check(err)
	ts.Check(conn.SetDeadline(time.Now().Add(startLimit)))
	if args[1] == "https" {
		t := tls.Client(conn, &tls.Config{ServerName: args[2], RootCAs: ca.Pool()})
		ts.Check(t.Handshake())
		conn = t
	}
	if s.raw == nil {
		s.raw = map[string]*rawConn{}
	}
	if s.raw[args[0]] != nil {
		s.raw[args[0]].conn.Close()
	}
	s.raw[args[0]] = &rawConn{conn: conn, r: bufio.NewReader(conn)}
}

func (s *script) rawConn(ts *testscript.TestScript, args []string, n int, usage string) *rawConn {
	if len(args) != n || s.raw[args[0]] == nil {
		ts.Fatalf("usage: %s, on a connection that dial has opened", usage)
	}
	return s.raw[args[0]]
}

// send writes text, in which \r, \n, \x00 and so on stand for bytes.
func (s *script) send(ts *testscript.TestScript, args []string) {
	c := s.rawConn(ts, args, 2, "send NAME TEXT")
	text, err := strconv.Unquote(`"` + strings.ReplaceAll(args[1], `"`, `\"`) + `"`)
	ts.Check(err)
	if c.method == "" {
		c.method, _, _ = strings.Cut(text, " ")
	}
	_, err = io.WriteString(c.conn, text)
	ts.Check(err)
}

// receive reads one answer; with ! the connection must end without one.
func (s *script) receive(ts *testscript.TestScript, neg bool, args []string) {
	c := s.rawConn(ts, args, 1, "[!] receive NAME")
	resp, err := http.ReadResponse(c.r, &http.Request{Method: c.method})
	c.method = ""
	if e, ok := err.(net.Error); ok && e.Timeout() {
		ts.Fatalf("neither an answer nor the end of the connection came")
	}
	if err != nil {
		if !neg {
			ts.Fatalf("no answer came: %v", err)
		}
		return
	}
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	fmt.Fprint(ts.Stdout(), newAnswer(strings.TrimPrefix(resp.Proto, "HTTP/"), strconv.Itoa(resp.StatusCode), resp.Header, string(body)))
	if neg {
		ts.Fatalf("an answer came")
	}
	if resp.Close {
		fmt.Fprintln(ts.Stderr(), "the server closes the connection")
	}
}
