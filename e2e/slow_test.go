//go:build conformance

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// slowly is for how long 2,000 connections are as slow as they can be, in each way.
const slowly = 20 * time.Second

var colours = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]")

// TestConformanceSlowClients has slowhttptest hold connections while visitors ask. None
// of them fails; what it costs them is printed.
func TestConformanceSlowClients(t *testing.T) {
	log := program(t, `
listen: {http: "127.0.0.1:0", https: ""}
hosts: {localhost: {to: "https://to.example/:splat"}}
log: {access: off}
`, nil)
	port := ""
	for _, m := range listenLine.FindAllStringSubmatch(log.String(), -1) {
		if m[1] == "http" {
			_, port, _ = net.SplitHostPort(m[2])
		}
	}
	url := "http://localhost:" + port + "/x"
	for _, way := range []struct{ name, flags string }{
		{"heads that never end", "-H -i 1 -x 24"},
		{"bodies that never end", "-B -i 1 -s 8192 -x 10"},
		{"answers that nobody reads", "-X -k 10 -w 10 -y 20 -n 1 -z 5"},
	} {
		t.Run(way.name, func(t *testing.T) {
			quiet := visitFor(t, url, 5*time.Second)
			end := time.Now().Add(slowly)
			said := make(chan string)
			go func() {
				defer close(said)
				for left := slowly; left > time.Second; left = time.Until(end) { // it ends where nothing is left open
					args := append(strings.Fields(way.flags), "-c", "2000", "-r", "1000", "-p", "5", "-l", fmt.Sprint(int(left.Seconds())), "-u", url)
					out, _ := exec.Command("slowhttptest", args...).CombinedOutput()
					said <- string(out)
					if !strings.Contains(string(out), "Exit status") {
						return
					}
				}
			}()
			var among time.Duration
			visited := make(chan struct{})
			go func() {
				defer close(visited)
				among = visitFor(t, url, slowly-2*time.Second)
			}()
			runs, most := 0, 0
			for text := range said {
				runs++
				text = colours.ReplaceAllString(text, "")
				if !strings.Contains(text, "Exit status") {
					t.Errorf("slowhttptest did not run:\n%s", text)
				}
				for _, m := range regexp.MustCompile(`connected: +(\d+)`).FindAllStringSubmatch(text, -1) {
					n := 0
					fmt.Sscan(m[1], &n)
					most = max(most, n)
				}
				if regexp.MustCompile(`service available: +NO`).MatchString(text) {
					t.Errorf("slowhttptest found the server unavailable")
				}
			}
			<-visited
			t.Logf("p99 of visitors %v, %v among slow connections (%d times 2000, %d at once when it looked): %.1f times", quiet, among, runs, most, among.Seconds()/quiet.Seconds())
		})
	}
}

// visitFor asks with eight at once, on connections that are kept and on new ones, and
// gives what took the longest but for one in a hundred.
func visitFor(t *testing.T, url string, long time.Duration) (p99 time.Duration) {
	t.Helper()
	var mu sync.Mutex
	var took []time.Duration
	var wg sync.WaitGroup
	end := time.Now().Add(long)
	for range 8 {
		wg.Go(func() {
			transport := new(http.Transport)
			defer transport.CloseIdleConnections()
			for n := 0; time.Now().Before(end); n++ {
				if n%20 == 19 {
					transport.CloseIdleConnections()
				}
				began := time.Now()
				req, _ := http.NewRequest("GET", url, nil)
				resp, err := transport.RoundTrip(req)
				if err != nil {
					t.Errorf("a visitor failed: %v", err)
					return
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode != 301 {
					t.Errorf("a visitor got %d", resp.StatusCode)
				}
				mu.Lock()
				took = append(took, time.Since(began))
				mu.Unlock()
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	return took[len(took)*99/100]
}
