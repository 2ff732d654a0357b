package replica

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fingerpost"
)

// pipes is an upstream over HTTP without a network: the bodies are pipes, so that
// time can be made to pass.
type pipes struct{ handler http.Handler }

func (p pipes) RoundTrip(r *http.Request) (*http.Response, error) {
	pr, pw := io.Pipe()
	w := &pipeWriter{header: http.Header{}, body: pw, begun: make(chan struct{})}
	go func() {
		defer func() {
			recover() // the handler cuts the connection
			pw.CloseWithError(io.ErrUnexpectedEOF)
		}()
		p.handler.ServeHTTP(w, r)
		w.WriteHeader(200)
		pw.Close()
	}()
	stop := context.AfterFunc(r.Context(), func() { pw.CloseWithError(r.Context().Err()) })
	_ = stop
	select {
	case <-w.begun:
		return &http.Response{StatusCode: w.status, Header: w.header, Body: pr, Request: r}, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

type pipeWriter struct {
	header http.Header
	status int
	body   *io.PipeWriter
	begun  chan struct{}
}

func (w *pipeWriter) Header() http.Header { return w.header }

func (w *pipeWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
		close(w.begun)
	}
}

func (w *pipeWriter) Write(p []byte) (int, error) {
	w.WriteHeader(200)
	return w.body.Write(p)
}

func (w *pipeWriter) Flush() {}

// TestSilentSnapshotIsGivenUp: a control node that accepts and says nothing, or no
// more, must not hold an edge for ever; one that takes long to make a snapshot is
// waited for.
func TestSilentSnapshotIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, "e1")
		f.commit(putRedirect("1", fingerpost.Redirect{From: "a.x/", To: "https://t.test/"}))
		fetch := func(h http.Handler) (string, time.Duration, error) {
			c := &Client{URL: "http://control", HTTP: &http.Client{Transport: pipes{h}}}
			start := time.Now()
			body, err := c.Snapshot(t.Context(), Cursor{})
			if err != nil {
				return "", time.Since(start), err
			}
			defer body.Close()
			b, err := io.ReadAll(body)
			return string(b), time.Since(start), err
		}
		silent := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		if _, took, err := fetch(silent); err == nil || !strings.Contains(err.Error(), "nothing came") || took != stalled {
			t.Errorf("before the header: %v after %v", err, took)
		}
		stuck := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Write([]byte("a part"))
			<-r.Context().Done()
		})
		if _, took, err := fetch(stuck); err == nil || !strings.Contains(err.Error(), "nothing came") || took != stalled {
			t.Errorf("in the middle: %v after %v", err, took)
		}
		long := SnapshotHandler(func(ctx context.Context, atLeast Cursor) (*Snapshot, error) {
			time.Sleep(3 * time.Minute) // it is being made
			return f.snapshots.Get(ctx, atLeast)
		})
		body, took, err := fetch(long)
		if err != nil || took < 3*time.Minute {
			t.Fatalf("one that takes long: %v after %v", err, took)
		}
		if _, err := receive(t.TempDir()+"/s", strings.NewReader(body)); err != nil {
			t.Errorf("what came is no snapshot: %v", err)
		}
	})
}

// TestSnapshotThatCannotBeMadeHasItsStatus: also where nothing was sent yet.
func TestSnapshotThatCannotBeMadeHasItsStatus(t *testing.T) {
	h := httptest.NewServer(SnapshotHandler(func(context.Context, Cursor) (*Snapshot, error) { return nil, ErrTooOld }))
	defer h.Close()
	resp, err := http.Get(h.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusGone {
		t.Errorf("status %d", resp.StatusCode)
	}
}
