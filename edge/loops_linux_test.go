package edge

import (
	"bufio"
	"net"
	"net/http"
	"testing"

	"fingerpost"
)

// openOf gives the connections of each loop.
func openOf(s *Server) (list []int) {
	all, _ := s.plainLoops()
	for _, l := range all.list {
		got := make(chan int)
		l.ask(func() { got <- l.open })
		list = append(list, <-got)
	}
	return list
}

// TestLoopsShareConnections shows that connections that stay do not all stand in one
// loop, though they come one by one and the system wakes the same loop for each.
func TestLoopsShareConnections(t *testing.T) {
	const loops, conns = 4, 200
	s := start(t, compile(t, []fingerpost.Host{{Name: "a.example", To: "https://to.example/"}}, nil), func(s *Server) { s.Loops = loops })
	for range conns {
		c, err := net.Dial("tcp", s.http)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != 301 {
			t.Fatal(res, err)
		}
	}
	sum := 0
	for i, n := range openOf(s.Server) {
		if sum += n; n < conns/loops/2 || n > conns/loops*2 {
			t.Errorf("loop %d has %d connections of %d", i, n, conns)
		}
	}
	if sum != conns {
		t.Errorf("%d connections, want %d", sum, conns)
	}
}

// TestAFullListenerGoesOnWhenThereIsRoom shows that the loop that has room takes what
// waits, whichever loop the connection was in that has ended.
func TestAFullListenerGoesOnWhenThereIsRoom(t *testing.T) {
	const most = 40
	s := start(t, compile(t, []fingerpost.Host{{Name: "a.example", To: "https://to.example/"}}, nil), func(s *Server) { s.Loops, s.Limits.Conns = 2, most })
	visit := func() net.Conn {
		c, err := net.Dial("tcp", s.http)
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"))
		return c
	}
	answered := func(c net.Conn) {
		if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != 301 {
			t.Fatal(res, err)
		}
	}
	var open []net.Conn
	for range most {
		c := visit()
		answered(c)
		open = append(open, c)
	}
	for i := range 3 * most {
		waits := visit()
		open[i%most].Close()
		answered(waits)
		open[i%most] = waits
	}
	for _, c := range open {
		c.Close()
	}
}

// TestListenersShareLoops shows that several plain listeners have one set of loops,
// each with its own port, limits and end.
func TestListenersShareLoops(t *testing.T) {
	s := start(t, compile(t, []fingerpost.Host{{Name: "a.example", To: "https://to.example/"}}, nil), func(s *Server) { s.Loops = 2 })
	second, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	exit := make(chan error, 1)
	go func() { exit <- s.ServePlain(second) }()
	for _, addr := range []string{s.http, second.Addr().String(), s.http} {
		res, err := http.DefaultTransport.RoundTrip(mustRequest(t, "GET", "http://"+addr+"/"))
		if err != nil || res.StatusCode != 404 {
			t.Fatal(res, err)
		}
		res.Body.Close()
	}
	if n := len(openOf(s.Server)); n != 2 {
		t.Errorf("%d loops for two listeners, want 2", n)
	}
	s.shutdown()
	if err := <-exit; err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", second.Addr().String()); err == nil {
		t.Error("the second listener is still there")
	}
}
