package faults

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
)

// TestProxy: a request whose answer is lost reaches the server, and the client
// hears nothing of it.
func TestProxy(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	got := make(chan string, 10)
	go func() {
		for {
			conn, err := server.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for in := bufio.NewScanner(conn); in.Scan(); {
					got <- in.Text()
					io.WriteString(conn, in.Text()+"\n")
				}
			}()
		}
	}()
	p, err := NewProxy(server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ask := func(conn net.Conn, line string) (string, error) {
		if _, err := io.WriteString(conn, line+"\n"); err != nil {
			return "", err
		}
		return bufio.NewReader(conn).ReadString('\n')
	}
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", p.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	conn := dial()
	if answer, err := ask(conn, "one"); err != nil || answer != "one\n" || <-got != "one" {
		t.Errorf("%q, %v", answer, err)
	}
	p.LoseAnswerTo(func(b []byte) bool { return bytes.Contains(b, []byte("commit")) })
	if answer, err := ask(conn, "commit"); err == nil {
		t.Errorf("an answer that was to be lost: %q", answer)
	}
	if line := <-got; line != "commit" {
		t.Errorf("the server got %q", line)
	}
	p.Refuse(true)
	if _, err := ask(dial(), "two"); err == nil {
		t.Error("a connection that was to be refused answers")
	}
	p.Refuse(false)
	conn = dial()
	if _, err := ask(conn, "three"); err != nil {
		t.Error(err)
	}
	p.CutAll()
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("a connection that was cut: %v", err)
	}
}
