package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"fingerpost/internal/testca"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// program starts the program with a configuration and waits until it is ready.
func program(t *testing.T, config string, change func(*exec.Cmd)) *output {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "fingerpost.yaml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(config, "DIR", dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	stderr := new(output)
	cmd := exec.Command(binary, "serve", "--config", file, "--data=", "--dns=", "--admin=")
	cmd.Stdout, cmd.Stderr, cmd.Env = io.Discard, stderr, os.Environ()
	if change != nil {
		change(cmd)
	}
	exited := start(t, cmd)
	gone := func() bool {
		select {
		case <-exited:
			return true
		default:
			return false
		}
	}
	if !eventually(startLimit, func() bool { return readyLine.MatchString(stderr.String()) || gone() }) || gone() {
		t.Fatalf("not ready:\n%s", stderr)
	}
	t.Cleanup(func() { interrupt(t, cmd, exited) })
	return stderr
}

const anyRule = `
redirects: [{from: "a.example", to: "https://to.example/"}]
`

// location asks once and gives where the answer leads.
func location(t *testing.T, network, addr string) string {
	t.Helper()
	conn, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp.Header.Get("Location")
}

func TestSeveralAddresses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	abandoned, err := net.Listen("unix", filepath.Join(dir, "old.sock"))
	if err != nil {
		t.Fatal(err)
	}
	abandoned.(*net.UnixListener).SetUnlinkOnClose(false)
	abandoned.Close()
	log := program(t, `listen: {http: ["127.0.0.1:0", "[::1]:0", "unix:`+dir+`/new.sock", "unix:`+dir+`/old.sock"], https: ""}`+anyRule, nil)
	found := listenLine.FindAllStringSubmatch(log.String(), -1)
	if len(found) != 4 {
		t.Fatalf("%d listeners:\n%s", len(found), log)
	}
	for _, m := range found {
		network := "tcp"
		if strings.HasPrefix(m[2], "/") {
			network = "unix"
		}
		if got := location(t, network, m[2]); got != "https://to.example/" {
			t.Errorf("%s: got %q", m[2], got)
		}
	}
}

// A UNIX socket that somebody listens on, and a file that is none, stay.
func TestASocketInUseIsNotTaken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "used.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, hint := range map[string]string{
		dir + "/used.sock":                   "hint: another program listens on this file",
		dir + "/file":                        "hint: another program listens on this file",
		dir + "/missing/x.sock":              "hint: the folder of the socket must be there",
		dir + "/" + strings.Repeat("x", 120): "hint: the path of a socket has 107 bytes at most",
	} {
		out, err := exec.Command(binary, "serve", "--redirects", writeRules(t), "--data=", "--http", "unix:"+path, "--https=", "--admin=").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "error: listen for http on unix:") || !strings.Contains(string(out), hint) {
			t.Errorf("%s: got %v\n%s", path, err, out)
		}
	}
	if _, err := os.Stat(dir + "/file"); err != nil {
		t.Error(err)
	}
}

func writeRules(t *testing.T) string {
	file := filepath.Join(t.TempDir(), "rules.json")
	if err := os.WriteFile(file, []byte(`{"/x": {"to": "https://to.example/"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestHTTP3 asks the program as a browser does: over TCP first, which tells of HTTP/3.
func TestHTTP3(t *testing.T) {
	t.Parallel()
	ca := testca.New()
	certPEM, keyPEM := ca.Issue("a.example")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.pem"), append(certPEM, keyPEM...), 0o600); err != nil {
		t.Fatal(err)
	}
	log := program(t, `{listen: {http: "", https: "127.0.0.1:0"}, certificates: {dir: "`+dir+`"}, redirects: [{from: "a.example", to: "https://to.example/"}]}`, nil)
	m := regexp.MustCompile(`on=http3 addr=(\S+)`).FindStringSubmatch(log.String())
	if m == nil {
		t.Fatal(log)
	}
	_, port, _ := net.SplitHostPort(m[1])
	config := &tls.Config{RootCAs: ca.Pool()}
	overTCP := &http.Transport{TLSClientConfig: config, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, m[1])
	}}
	defer overTCP.CloseIdleConnections()
	overUDP := &http3.Transport{TLSClientConfig: config, Dial: func(ctx context.Context, _ string, c *tls.Config, q *quic.Config) (*quic.Conn, error) {
		return quic.DialAddr(ctx, m[1], c, q)
	}}
	defer overUDP.Close()
	for i, transport := range []http.RoundTripper{overTCP, overUDP} {
		req, _ := http.NewRequest("GET", "https://a.example:"+port+"/", nil)
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.ProtoMajor != []int{1, 3}[i] || resp.StatusCode != 301 || resp.Header.Get("Alt-Svc") != `h3=":`+port+`"; ma=86400` {
			t.Errorf("got %s %d, Alt-Svc %q", resp.Proto, resp.StatusCode, resp.Header.Get("Alt-Svc"))
		}
	}
}

// An UDP port that is taken costs HTTP/3, and nothing else.
func TestATakenUDPPortDoesNotStopHTTPS(t *testing.T) {
	t.Parallel()
	var udp net.PacketConn
	var addr string
	for udp == nil { // a port that is free for both
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr = l.Addr().String()
		udp, _ = net.ListenPacket("udp", addr)
		l.Close()
	}
	defer udp.Close()
	log := program(t, `listen: {http: "", https: "`+addr+`"}`+anyRule, nil).String()
	for _, want := range []string{"level=ERROR", "listen for HTTP/3 on " + addr + ": bind: address already in use", "listen.http3: off", "listening on=https addr=" + addr} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in\n%s", want, log)
		}
	}
	if strings.Contains(log, "listening on=http3") {
		t.Error(log)
	}
}

func TestHTTP3CanBeSwitchedOff(t *testing.T) {
	t.Parallel()
	for config, want := range map[string]bool{
		`listen: {http: "", https: "127.0.0.1:0"}`:                                                            true,
		`listen: {http: "", https: "127.0.0.1:0", http3: off}`:                                                false,
		`listen: {http: "", https: "127.0.0.1:0", proxyProtocol: {mode: use, from: [10.0.0.0/8]}}`:            false,
		`listen: {http: "", https: "127.0.0.1:0", http3: on, proxyProtocol: {mode: use, from: [10.0.0.0/8]}}`: true,
		`listen: {http: "", https: "unix:DIR/https.sock"}`:                                                    false,
	} {
		if log := program(t, config+anyRule, nil).String(); strings.Contains(log, "listening on=http3") != want || strings.Contains(log, "level=ERROR") {
			t.Errorf("%s:\n%s", config, log)
		}
	}
}

// TestSocketsOfTheServiceManager hands sockets over as systemd does.
func TestSocketsOfTheServiceManager(t *testing.T) {
	t.Parallel()
	stream := func() (*os.File, string) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f, l.Addr().String()
	}
	http1, addr1 := stream()
	http2, addr2 := stream()
	other, _ := stream()
	https, datagrams, addr3 := bothTransports(t)
	log := program(t, `listen: {http: ["127.0.0.1:1"], https: "127.0.0.1:1"}`+anyRule, func(cmd *exec.Cmd) {
		cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`}, cmd.Args...)
		cmd.ExtraFiles = []*os.File{http1, https, datagrams, http2, other}
		cmd.Env = append(cmd.Env, "LISTEN_FDS=5", "LISTEN_FDNAMES=http:https:https:http:fingerpost.socket")
	})
	for _, want := range []string{"on=http addr=" + addr1, "on=http addr=" + addr2, "on=https addr=" + addr3, "on=http3 addr=" + addr3, "name=fingerpost.socket"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %s in\n%s", want, log)
		}
	}
	for _, addr := range []string{addr1, addr2} {
		if got := location(t, "tcp", addr); got != "https://to.example/" {
			t.Errorf("%s: got %q", addr, got)
		}
	}
}

// bothTransports opens a port over TCP and UDP, as the service manager does.
func bothTransports(t *testing.T) (stream, datagrams *os.File, addr string) {
	t.Helper()
	for range 20 { // the UDP port of that number may be somebody's
		tcp, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		defer tcp.Close()
		at := tcp.Addr().(*net.TCPAddr)
		udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: at.IP, Port: at.Port})
		if err != nil {
			continue
		}
		defer udp.Close()
		if stream, err = tcp.File(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { stream.Close() })
		if datagrams, err = udp.File(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { datagrams.Close() })
		return stream, datagrams, at.String()
	}
	t.Fatal("no port is free over both TCP and UDP")
	return nil, nil, ""
}

// The name server needs both transports of each of its sockets.
func TestSocketsOfTheServiceManagerForDNS(t *testing.T) {
	t.Parallel()
	stream, datagrams, addr := bothTransports(t)

	// with starts the program with sockets for dns, and ends it once it is ready or gone.
	with := func(zone, names string, files ...*os.File) (log string, ready bool, query func(network string) string) {
		dir := t.TempDir()
		file := filepath.Join(dir, "fingerpost.yaml")
		config := `listen: {http: "127.0.0.1:0", https: "127.0.0.1:0", admin: "127.0.0.1:0"}
addresses: [127.0.0.1]
acme: {directory: "https://127.0.0.1:1/", email: ops@example.com` + zone + `}
`
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, binary, "serve", "--config", file, "--data", filepath.Join(dir, "data"))
		stderr := new(output)
		cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = io.Discard, stderr, files
		cmd.Env = append(os.Environ(), "LISTEN_FDS="+strconv.Itoa(len(files)), "LISTEN_FDNAMES="+names)
		exited := start(t, cmd)
		gone := false
		eventually(startLimit, func() bool {
			select {
			case <-exited:
				gone = true
			default:
			}
			return gone || readyLine.MatchString(stderr.String())
		})
		if !gone {
			t.Cleanup(func() { interrupt(t, cmd, exited) })
		}
		return stderr.String(), !gone, func(network string) string {
			host, port, _ := net.SplitHostPort(addr)
			args := []string{"@" + host, "-p", port, "+short", "+tries=1", "acme.example.net", "SOA"}
			if network == "tcp" {
				args = append(args, "+tcp")
			}
			out, _ := exec.Command("dig", args...).CombinedOutput()
			return string(out)
		}
	}
	const zone = ", validationZone: acme.example.net"
	if log, ready, _ := with(zone, "dns", stream); ready || !strings.Contains(log, "has no datagram socket beside it") {
		t.Errorf("without a datagram socket: ready %v\n%s", ready, log)
	}
	if log, ready, _ := with("", "dns:dns", stream, datagrams); !ready || !strings.Contains(log, "is not used") {
		t.Errorf("without a zone: ready %v\n%s", ready, log)
	}
	log, ready, query := with(zone, "dns:dns", stream, datagrams)
	if !ready || !strings.Contains(log, "on=dns addr="+addr) {
		t.Fatalf("ready %v\n%s", ready, log)
	}
	for _, network := range []string{"udp", "tcp"} {
		if got := query(network); !strings.Contains(got, "acme.example.net") && !strings.Contains(got, "hostmaster") {
			t.Errorf("%s: got %q", network, got)
		}
	}
}
