// Package lab is what the programs that measure share: the program under test,
// content by the million, and figures in words.
package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"fingerpost/replica"
)

// Build makes the program that is measured, as it is released.
func Build(ctx context.Context, file string) error {
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", file, "fingerpost/cmd/fingerpost")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the program: %w", err)
	}
	return nil
}

// FreeAddr is an address of this machine that nobody listens on.
func FreeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// Rule i of as many as are wanted: ten for each host, as most hosts have.
func Host(i int) string   { return fmt.Sprintf("www.brand-%08d.example", i/10) }
func Path(i int) string   { return fmt.Sprintf("/campaign/%d/item-%d", 2000+i%25, i) }
func Target(i int) string { return fmt.Sprintf("https://shop.example.com/products/item-%d", i) }

// WriteCopy makes a node's own copy of n rules in dir.
func WriteCopy(ctx context.Context, dir string, n int) (file string, err error) {
	since := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	head := replica.Head{Epoch: "bench", Rev: 1}
	s := replica.Snapshots{Dir: dir,
		Feed: replica.Feed{
			Head:    func(context.Context) (replica.Head, error) { return head, nil },
			Changes: func(context.Context, replica.Cursor, int) ([]replica.Revision, error) { return nil, nil },
		},
		Scan: func(context.Context) (replica.Content, error) {
			return replica.Content{Cursor: replica.Cursor{Epoch: "bench", Rev: 1}, Items: func(yield func(*replica.Item, error) bool) {
				for i := range n {
					it := replica.Item{Kind: replica.KindRedirect, Key: fmt.Sprintf("%s/item-%08d", Host(i), i), Source: "git:config", Team: "marketing", Since: since, Rev: 1,
						Value: fmt.Appendf(nil, `{"from":"%s%s","to":"%s"}`, Host(i), Path(i), Target(i))}
					if !yield(&it, ctx.Err()) {
						return
					}
				}
			}}, nil
		}}
	snapshot, err := s.Get(ctx, replica.Cursor{})
	if err != nil {
		return "", err
	}
	defer snapshot.Close()
	files, err := filepath.Glob(filepath.Join(dir, "snapshot-*"))
	if err != nil || len(files) != 1 {
		return "", fmt.Errorf("files %v: %v", files, err)
	}
	return files[0], nil
}

// Short writes a duration with three digits.
func Short(d time.Duration) string {
	switch {
	case d >= 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return fmt.Sprintf("%.3g ms", float64(d.Microseconds())/1000)
}

// Thousands writes a number as people read it.
func Thousands(n float64) string {
	text := fmt.Sprintf("%.0f", n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// Trim puts a text on one line.
func Trim(s string) string { return strings.Join(strings.Fields(s), " ") }
