package cert

import (
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"
)

// TestTicketsAreTakenByEveryNode takes a ticket from one node to another, whose
// clock may be another, and later.
func TestTicketsAreTakenByEveryNode(t *testing.T) {
	secret := NewSecret()
	leaf, key := ca.Issue("shop.example")
	pair, err := tls.X509KeyPair(leaf, key)
	if err != nil {
		t.Fatal(err)
	}
	node := func(secret string, now time.Time) *tls.Config {
		c := &tls.Config{Certificates: []tls.Certificate{pair}}
		c.SetSessionTicketKeys(sealer(t, secret).TicketKeys(now))
		return c
	}
	connect := func(server *tls.Config, cache tls.ClientSessionCache) (resumed bool) {
		t.Helper()
		a, b := net.Pipe()
		defer a.Close()
		go func() {
			defer b.Close()
			c := tls.Server(b, server)
			c.Write([]byte("x")) // behind the ticket
		}()
		c := tls.Client(a, &tls.Config{ServerName: "shop.example", RootCAs: ca.Pool(), ClientSessionCache: cache})
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		return c.ConnectionState().DidResume
	}
	at := time.Unix(0, 0).Add(1000 * TicketPeriod)
	for _, tt := range []struct {
		why    string
		secret string
		later  time.Duration
		want   bool
	}{
		{"the same time", secret, 0, true},
		{"a clock that is a minute behind, in the period before", secret, -time.Minute, true},
		{"the next period", secret, TicketPeriod, true},
		{"the end of the next period", secret, 2*TicketPeriod - time.Second, true},
		{"too late", secret, 2 * TicketPeriod, false},
		{"another cluster", NewSecret(), 0, false},
	} {
		cache := tls.NewLRUClientSessionCache(1)
		if connect(node(secret, at), cache) {
			t.Fatal("resumed without a ticket")
		}
		if got := connect(node(tt.secret, at.Add(tt.later)), cache); got != tt.want {
			t.Errorf("%s: resumed %v", tt.why, got)
		}
	}

	// A new secret comes to the nodes one after another. Of two that are one step
	// apart each takes the tickets of the other; who is further behind shakes hands.
	next := NewSecret()
	steps := []string{secret, secret + "\n" + next, next + "\n" + secret, next}
	for i, made := range steps {
		for j, taken := range steps {
			cache := tls.NewLRUClientSessionCache(1)
			connect(node(made, at), cache)
			want := strings.Contains(taken, strings.Fields(made)[0])
			if near := i-j >= -1 && j-i >= -1; near && !want {
				t.Fatal("the steps are no steps")
			}
			if got := connect(node(taken, at), cache); got != want {
				t.Errorf("a ticket of step %d at a node of step %d: resumed %v", i, j, got)
			}
		}
	}
}
