//go:build conformance

package e2e

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"fingerpost/internal/testca"
)

// What others hold us to. These take minutes, so `make conformance` runs them alone.

// conforming starts the program for localhost and gives the port of https.
func conforming(t *testing.T) (port string) {
	t.Helper()
	dir := t.TempDir()
	certPEM, keyPEM := testca.New().Issue("localhost")
	if err := os.WriteFile(filepath.Join(dir, "localhost.pem"), append(certPEM, keyPEM...), 0o600); err != nil {
		t.Fatal(err)
	}
	log := program(t, `
listen: {http: "", https: "127.0.0.1:0"}
certificates: {dir: "`+dir+`"}
hosts: {localhost: {to: "https://to.example/:splat"}}
`, nil)
	for _, m := range listenLine.FindAllStringSubmatch(log.String(), -1) {
		if m[1] == "https" {
			_, port, _ = net.SplitHostPort(m[2])
		}
	}
	return port
}

// strict are the cases of h2spec where net/http does otherwise, and may: RFC 9113
// 8.1.1 lets a server answer a malformed request with 400 before it ends the stream
// (net/http does so itself, no handler of ours is asked), and a setting that is named
// twice is taken for an attack.
var strict = []string{
	"Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE",
	"Sends a HEADERS frame that contains the connection-specific header field",
	`Sends a HEADERS frame that contains the TE header field with any value other than "trailers"`,
}

func TestConformanceHTTP2(t *testing.T) {
	out, _ := exec.Command("go", "tool", "-modfile=../tools/go.mod", "h2spec", "-h", "localhost", "-p", conforming(t), "-t", "-k", "--timeout", "3").CombinedOutput()
	text := string(out)
	counts := regexp.MustCompile(`\d+ tests, \d+ passed.*`).FindString(text)
	if counts == "" {
		t.Fatalf("h2spec did not run:\n%s", text)
	}
	t.Log(counts)
	_, failures, _ := strings.Cut(text, "Failures:")
	for _, m := range regexp.MustCompile(`(?m)× \d+: (.*)$`).FindAllStringSubmatch(failures, -1) {
		if !slices.Contains(strict, strings.TrimSpace(m[1])) {
			t.Errorf("failed: %s", m[1])
		}
	}
}

func TestConformanceTLSProtocols(t *testing.T) {
	out, err := exec.Command("sslscan", "--no-colour", "localhost:"+conforming(t)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text := string(out)
	for _, want := range []string{"SSLv2     disabled", "SSLv3     disabled", "TLSv1.0   disabled", "TLSv1.1   disabled", "TLSv1.2   enabled", "TLSv1.3   enabled",
		"Server supports TLS Fallback SCSV", "Session renegotiation not supported", "TLSv1.3 not vulnerable to heartbleed", "TLSv1.2 not vulnerable to heartbleed"} {
		if !strings.Contains(text, want) {
			t.Errorf("sslscan does not say %q", want)
		}
	}
	ciphers := regexp.MustCompile(`(?m)^(?:Preferred|Accepted) +(\S+) +\d+ bits +(\S+)`).FindAllStringSubmatch(text, -1)
	for _, c := range ciphers {
		if !strings.Contains(c[2], "GCM") && !strings.Contains(c[2], "POLY1305") {
			t.Errorf("%s has %s", c[1], c[2])
		}
	}
	t.Logf("%d ciphers", len(ciphers))
}

func TestConformanceTLSFlaws(t *testing.T) {
	report := filepath.Join(t.TempDir(), "testssl.json")
	command := "testssl"
	if _, err := exec.LookPath(command); err != nil {
		command = "testssl.sh"
	}
	out, err := exec.Command(command, "--quiet", "--color", "0", "--warnings", "off", "--jsonfile", report, "-p", "-s", "-f", "-U", "--ip", "127.0.0.1", "localhost:"+conforming(t)).CombinedOutput()
	text, readErr := os.ReadFile(report)
	if readErr != nil {
		t.Fatalf("%v, %v\n%s", err, readErr, out)
	}
	var findings []struct{ ID, Severity, Finding string }
	if err := json.Unmarshal(text, &findings); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	counts := map[string]int{}
	for _, f := range findings {
		counts[f.Severity]++
		switch f.Severity {
		case "OK", "INFO":
		case "LOW", "MEDIUM", "WARN":
			t.Logf("%s: %s: %s", f.Severity, f.ID, f.Finding)
		default:
			t.Errorf("%s: %s: %s", f.Severity, f.ID, f.Finding)
		}
	}
	if counts["OK"] == 0 {
		t.Errorf("testssl found nothing to look at:\n%s", out)
	}
	t.Log(counts)
}
