package admin

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"fingerpost/store"
)

// benchAPI is a server without a check of the whole content, which is the
// replica's and is measured there.
func benchAPI(b *testing.B) (url, token string, db *store.DB) {
	b.Helper()
	dir := b.TempDir()
	db, err := store.Open(b.Context(), "sqlite:"+dir, store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	s := &Server{Store: db, Dir: dir, Metrics: http.NotFoundHandler()}
	token, _, err = s.Bootstrap(b.Context(), false)
	if err != nil {
		b.Fatal(err)
	}
	h := httptest.NewServer(s.Routes())
	b.Cleanup(func() {
		s.Close()
		h.Close()
		db.Close()
	})
	return h.URL + Prefix, token, db
}

// BenchmarkWrite is one redirect at a time: request to durable answer.
func BenchmarkWrite(b *testing.B) {
	url, token, _ := benchAPI(b)
	for _, clients := range []int{1, 8} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			work := make(chan int)
			done := make(chan error, clients)
			for range clients {
				go func() {
					for i := range work {
						body := fmt.Sprintf(`{"from": "c%d.example/%d-%d", "to": "https://t.example/"}`, clients, i, b.N)
						if err := post(url+"/redirects", token, "application/json", body, http.StatusCreated); err != nil {
							done <- err
							return
						}
					}
					done <- nil
				}()
			}
			start := time.Now()
			for i := range b.N {
				work <- i
			}
			close(work)
			for range clients {
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "writes/s")
		})
	}
}

func post(url, token, media, body string, want int) error {
	resp, err := send(url, token, media, strings.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != want {
		err = fmt.Errorf("%s: %s", resp.Status, text)
	}
	return err
}

func send(url, token, media string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequest("POST", url, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", media)
	return http.DefaultClient.Do(req)
}

// BenchmarkChangeset streams rules over ten thousand hosts into an empty store,
// to the end of the job.
func BenchmarkChangeset(b *testing.B) {
	const rules = 200_000
	for b.Loop() {
		b.StopTimer()
		url, token, db := benchAPI(b)
		body, w := io.Pipe()
		go func() {
			out := bufio.NewWriter(w)
			for i := range rules {
				fmt.Fprintf(out, "{\"from\": \"h%d.example/p%d\", \"to\": \"https://t.example/%d\"}\n", i%10_000, i, i)
			}
			out.Flush()
			w.Close()
		}()
		b.StartTimer()
		start := time.Now()
		resp, err := send(url+"/changesets", token, mediaNDJSON, body)
		if err != nil {
			b.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusAccepted {
			b.Fatalf("%s: %s", resp.Status, text)
		}
		staged := time.Since(start)
		head, err := db.Head(b.Context())
		if err == nil && head.Rev == 0 {
			_, err = db.Wait(b.Context(), head.Cursor())
		}
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(rules/staged.Seconds(), "rows-staged/s")
		b.ReportMetric(rules/time.Since(start).Seconds(), "rows/s")
	}
}
