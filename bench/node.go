package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"fingerpost/bench/lab"
)

// node is a running `fingerpost serve`.
type node struct {
	dir, http, admin string
	https            string        // of those that have it
	token            string        // of the API
	readyAfter       time.Duration // from its start to the line that says so
	cmd              *exec.Cmd
	exited           chan struct{}
	said             *said
}

// said is what a process writes; told is closed when it has said that it is ready.
type said struct {
	mu    sync.Mutex // guards all below
	text  bytes.Buffer
	ready chan struct{}
	begin time.Time
	after time.Duration
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(p)
	if s.after == 0 && bytes.Contains(s.text.Bytes(), []byte("msg=ready")) {
		s.after = time.Since(s.begin)
		close(s.ready)
	}
	return len(p), nil
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// serve starts a node and waits until it is ready. No name for a folder: a new one.
func (b *bench) serve(dir string, args ...string) (n *node, err error) {
	n = &node{dir: dir, exited: make(chan struct{})}
	if n.dir == "" {
		if n.dir, err = os.MkdirTemp(b.dir, "node"); err != nil {
			return nil, err
		}
	}
	if n.http, err = lab.FreeAddr(); err != nil {
		return nil, err
	}
	if n.admin, err = lab.FreeAddr(); err != nil {
		return nil, err
	}
	n.said = &said{ready: make(chan struct{}), begin: time.Now()}
	n.cmd = exec.CommandContext(b.ctx, b.binary, append([]string{"serve", "--data", n.dir, "--http", n.http, "--https", "", "--admin", n.admin}, args...)...)
	n.cmd.Dir = b.dir
	n.cmd.Stderr = n.said
	if err := n.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		n.cmd.Wait()
		close(n.exited)
	}()
	select {
	case <-n.said.ready:
	case <-n.exited:
		return nil, fmt.Errorf("a node has ended:\n%s", n.said)
	case <-time.After(2 * time.Minute):
		n.stop()
		return nil, fmt.Errorf("a node is not ready:\n%s", n.said)
	}
	n.readyAfter = n.said.after
	if text, err := os.ReadFile(filepath.Join(n.dir, "admin.token")); err == nil {
		n.token = strings.TrimSpace(string(text))
	}
	return n, nil
}

func (n *node) stop() {
	if n == nil {
		return
	}
	n.cmd.Process.Kill()
	<-n.exited
}

// edge starts a node that follows control.
func (b *bench) edge(control *node) (*node, error) {
	var token struct{ Secret string }
	answer, err := control.ask("POST", "tokens", "application/json", []byte(`{"name": "edge", "scope": "node"}`))
	if err == nil {
		err = json.Unmarshal(answer, &token)
	}
	if err != nil {
		return nil, err
	}
	return b.serve("", "--role", "edge", "--control", "http://"+control.admin, "--token", token.Secret)
}

var client = &http.Client{
	Transport:     &http.Transport{MaxIdleConnsPerHost: 100},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// ask calls the API.
func (n *node) ask(method, path, media string, body []byte) ([]byte, error) {
	req, err := http.NewRequest(method, "http://"+n.admin+"/api/v1/"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+n.token)
	req.Header.Set("Content-Type", media)
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s %s", method, path, resp.Status, lab.Trim(string(text)))
	}
	return text, err
}

// leads asks as a visitor where an address leads to.
func (n *node) leads(host, path string) (string, error) {
	req, err := http.NewRequest("GET", "http://"+n.http+path, nil)
	if err != nil {
		return "", err
	}
	req.Host = host
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp.Header.Get("Location"), nil
}

// until asks as a visitor, with a pause between, until an address leads to where it
// should.
func (n *node) until(ctx context.Context, host, path, to string, pause time.Duration) error {
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(pause) {
		got, err := n.leads(host, path)
		if err == nil && got == to {
			return nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err == nil && time.Now().After(end) {
			err = fmt.Errorf("%s%s leads to %q, want %q", host, path, got, to)
		}
		if err != nil {
			return err
		}
	}
}
