package cert

import (
	"crypto/tls"
	"net"
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
}
