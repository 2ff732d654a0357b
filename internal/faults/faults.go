// Package faults breaks connections between a program and its server, for
// tests.
//
// Read it from [NewProxy].
package faults

import (
	"net"
	"sync"
)

// Proxy hands TCP connections on to a server until it is told to break them.
type Proxy struct {
	listener net.Listener
	target   string
	tasks    sync.WaitGroup

	mu     sync.Mutex // guards all below
	conns  map[net.Conn]bool
	watch  func(fromClient []byte) bool
	refuse bool
	closed bool
}

// NewProxy listens on a free port of loopback for target.
func NewProxy(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{listener: l, target: target, conns: map[net.Conn]bool{}}
	p.tasks.Go(p.accept)
	return p, nil
}

// Addr is where clients connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// LoseAnswerTo makes the proxy watch what clients send. When match says yes, the
// request still reaches the server, and its answer is awaited; but the client
// gets none of it: its connection is cut. match is called for each piece that is
// read from any client, one at a time; nil stops it.
func (p *Proxy) LoseAnswerTo(match func(fromClient []byte) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watch = match
}

// CutAll cuts all connections now.
func (p *Proxy) CutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

// Refuse cuts new connections at once, or serves them again.
func (p *Proxy) Refuse(refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = refuse
}

// Close ends the proxy and all its connections.
func (p *Proxy) Close() {
	p.listener.Close()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.CutAll()
	p.tasks.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.tasks.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	if !p.add(client) {
		return
	}
	defer p.remove(client)
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	if !p.add(server) {
		return
	}
	defer p.remove(server)

	lost := make(chan struct{}) // closed when the answer is not to be handed on
	p.tasks.Go(func() {
		defer server.Close()
		buf := make([]byte, 64<<10)
		var once sync.Once
		for {
			n, err := client.Read(buf)
			if n > 0 && p.matches(buf[:n]) {
				once.Do(func() { close(lost) }) // before the server can answer
			}
			if n > 0 {
				if _, err := server.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	buf := make([]byte, 64<<10)
	for {
		n, err := server.Read(buf)
		select {
		case <-lost:
			return // the server has done it and said so; nobody hears
		default:
		}
		if n > 0 {
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *Proxy) add(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuse || p.closed {
		return false
	}
	p.conns[c] = true
	return true
}

func (p *Proxy) remove(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *Proxy) matches(b []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.watch != nil && p.watch(b)
}
