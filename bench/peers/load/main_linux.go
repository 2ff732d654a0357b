// Load asks one server as fast as it answers, from one thread: an event loop over
// connections, plain or TLS 1.3, which are kept or closed after each answer. It
// spends less on a request than the servers do that it measures, so that they and
// not it are at their limit: its TLS (tls13.go) makes no key for a connection and
// checks no certificate.
//
// It says "begin" when the time that counts begins, and a line of JSON, a [result],
// when it has ended. Every answer's status is checked, and of one in sixteen the
// Location.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// result is what happened in the time that counts.
type result struct {
	Requests int
	Resumed  int // handshakes
	Errors   int // connections that ended before their answer
	Wrong    int // answers
	Trouble  string
	Seconds  float64
	CPU      float64 // seconds of this program
	P50, P99 float64 // milliseconds to an answer, with the connection if each has its own
}

// target is one request and the Location of its answer.
type target struct {
	host     string
	request  []byte
	location []byte // as a line of the head
}

func main() {
	var o options
	port := flag.Int("port", 0, "the server's `PORT`, on 127.0.0.1 and what is beside it")
	file := flag.String("targets", "", "`FILE` of lines: host, path, Location; each request takes a random one")
	flag.IntVar(&o.conns, "conns", 64, "connections at once")
	flag.DurationVar(&o.warm, "warm", 300*time.Millisecond, "before the time that counts")
	flag.DurationVar(&o.time, "time", 2*time.Second, "that counts")
	flag.BoolVar(&o.close, "close", false, "a new connection for each request")
	flag.BoolVar(&o.tls, "tls", false, "over TLS 1.3")
	flag.BoolVar(&o.resume, "resume", false, "resume a session with each handshake but a connection's first")
	flag.BoolVar(&o.hybrid, "hybrid", false, "agree on keys by X25519MLKEM768 instead of X25519")
	flag.BoolVar(&o.each, "each", false, "with -close: ask for each target once before the time that counts")
	flag.BoolVar(&o.idle, "idle", false, "one request on each connection, then hold them open until standard input ends")
	flag.Parse()
	o.port, o.addresses = *port, 100
	r, err := run(o, *file)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	if o.idle {
		io.Copy(io.Discard, os.Stdin)
	}
}

func run(o options, file string) (*result, error) {
	var err error
	if o.targets, err = readTargets(file, o.close); err != nil {
		return nil, err
	}
	l, err := newLoop(o)
	if err != nil {
		return nil, err
	}
	return l.run()
}

func readTargets(file string, hangUp bool) (all []target, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	last := ""
	if hangUp {
		last = "Connection: close\r\n"
	}
	in := bufio.NewScanner(f)
	for in.Scan() {
		words := strings.Fields(in.Text())
		if len(words) != 3 {
			return nil, fmt.Errorf("%s: %q is not host, path, Location", file, in.Text())
		}
		all = append(all, target{
			host:     words[0],
			request:  []byte("GET " + words[1] + " HTTP/1.1\r\nHost: " + words[0] + "\r\n" + last + "\r\n"),
			location: []byte("\r\nlocation: " + words[2] + "\r\n"),
		})
	}
	if len(all) == 0 && in.Err() == nil {
		return nil, errors.New(file + " has no line")
	}
	return all, in.Err()
}
