package e2e

import (
	"crypto/tls"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// cert writes NAME.crt and NAME.key.
func (s *script) cert(ts *testscript.TestScript, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: cert NAME HOST...")
	}
	s.issue(ts, args[0], args[1:])
}

// issue gives the certificate in DER.
func (s *script) issue(ts *testscript.TestScript, name string, hosts []string) []byte {
	certPEM, keyPEM := ca.Issue(hosts...)
	ts.Check(os.MkdirAll(filepath.Dir(ts.MkAbs(name)), 0o755))
	replace(ts, name+".crt", certPEM)
	replace(ts, name+".key", keyPEM)
	block, _ := pem.Decode(certPEM)
	return block.Bytes
}

// replace puts data in the place of a file in one step, as git does.
func replace(ts *testscript.TestScript, name string, data []byte) {
	name = ts.MkAbs(name)
	tmp := filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+".new")
	ts.Check(os.WriteFile(tmp, data, 0o644))
	ts.Check(os.Rename(tmp, name))
}

// write puts the content of one file in the place of another.
func (s *script) write(ts *testscript.TestScript, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: write FILE CONTENT, where CONTENT is a file too")
	}
	replace(ts, args[0], []byte(ts.ReadFile(args[1])))
}

// flip puts two versions in the place of a file by turns. Each must be in force
// before the other comes.
func (s *script) flip(ts *testscript.TestScript, args []string) {
	if len(args) < 5 {
		ts.Fatalf("usage: flip TIMES FILE VERSION VERSION [OPTION...] URL")
	}
	times, err := strconv.Atoi(args[0])
	ts.Check(err)
	versions := []string{ts.ReadFile(args[2]), ts.ReadFile(args[3])}
	before, err := s.visit(args[4:])
	ts.Check(err)
	for i := range times {
		replace(ts, args[1], []byte(versions[i%2]))
		var now *answer
		if !eventually(waitLimit, func() bool {
			now, err = s.visit(args[4:])
			return err != nil || now.first != before.first
		}) {
			ts.Fatalf("change %d of %s did not take effect within %v: still %s", i+1, args[1], waitLimit, before.first)
		}
		ts.Check(err)
		before = now
	}
}

// rotate issues a certificate again and again. Each must be shown to clients
// before the next one comes.
func (s *script) rotate(ts *testscript.TestScript, args []string) {
	if len(args) < 3 || s.server == nil {
		ts.Fatalf("usage: rotate TIMES NAME HOST..., while a server is running")
	}
	times, err := strconv.Atoi(args[0])
	ts.Check(err)
	config := &tls.Config{ServerName: strings.Replace(args[2], "*", "any", 1), RootCAs: ca.Pool()}
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	for i := range times {
		want := string(s.issue(ts, args[1], args[2:]))
		if !eventually(waitLimit, func() bool {
			conn, dialErr := tls.DialWithDialer(dialer, "tcp", s.server.addrs["https"], config)
			if err = dialErr; err != nil {
				return true
			}
			defer conn.Close()
			return string(conn.ConnectionState().PeerCertificates[0].Raw) == want
		}) {
			ts.Fatalf("certificate %d of %s is not shown within %v", i+1, args[1], waitLimit)
		}
		ts.Check(err)
	}
}
