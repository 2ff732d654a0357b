package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// answer is a response in the form in which scripts see it: see String.
type answer struct {
	proto  string // 1.0, 1.1 or 2
	first  string // status, and Location behind a space
	header []string
	body   string
}

// String is status and Location, the version, the header fields but Date in the
// order of their names, an empty line, and the body.
func (a *answer) String() string {
	return a.first + "\nHTTP/" + a.proto + "\n" + strings.Join(a.header, "\n") + "\n\n" + a.body
}

func newAnswer(proto string, status string, header http.Header, body string) *answer {
	a := &answer{proto: proto, first: status, body: body}
	if locations := header["Location"]; len(locations) > 0 {
		a.first += " " + strings.Join(locations, " AND ")
	}
	for name, values := range header {
		for _, value := range values {
			if name != "Date" {
				a.header = append(a.header, strings.ToLower(name)+": "+value)
			}
		}
	}
	slices.Sort(a.header)
	return a
}

// http asks once.
func (s *script) http(ts *testscript.TestScript, neg bool, args []string) {
	a, err := s.visit(args)
	if a != nil {
		fmt.Fprint(ts.Stdout(), a)
	}
	if err != nil {
		fmt.Fprintln(ts.Stderr(), err)
	}
	if (err != nil) != neg {
		ts.Fatalf("the request failed: %v", err != nil)
	}
}

// visit lets curl ask. The arguments are the version of HTTP, options of curl
// and the URL, whose host is found at the server whatever it is, unless it is an
// address with a port.
func (s *script) visit(args []string) (*answer, error) {
	const limit = 10
	call := []string{"-q", "--silent", "--show-error", "--include", "--noproxy", "*", "--cacert", s.ca, "--max-time", fmt.Sprint(limit)}
	if len(args) == 0 {
		return nil, errors.New("no URL")
	}
	want, url := "", args[len(args)-1]
	secure := strings.HasPrefix(url, "https:")
	if !strings.Contains(url, "://127.0.0.1:") {
		name, _, _ := strings.Cut(url, ":")
		if s.server == nil || s.server.addrs[name] == "" {
			return nil, fmt.Errorf("no server listens for %s", name) // curl would ask the world
		}
		call = append(call, "--connect-to", "::"+s.server.addrs[name])
	}
	for i, arg := range args {
		switch {
		case arg == "-1.0" && secure: // curl would offer http/1.0 by ALPN, which older clients do not know
			want = "1.0"
			call = append(call, "--http1.0", "--no-alpn")
		case arg == "-1.0", arg == "-1.1":
			want = arg[1:]
			call = append(call, "--http"+want)
		case arg == "-2" && secure:
			want = "2"
			call = append(call, "--http2")
		case arg == "-2":
			want = "2"
			call = append(call, "--http2-prior-knowledge")
		case arg == "HEAD" && i > 0 && args[i-1] == "-X": // curl would wait for a body
			call[len(call)-1] = "--head"
		default:
			call = append(call, arg)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), (limit+5)*time.Second)
	defer cancel()
	curl := exec.CommandContext(ctx, "curl", call...)
	curl.Dir = s.dir
	curl.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8"}
	var stdout, stderr bytes.Buffer
	curl.Stdout, curl.Stderr = &stdout, &stderr
	if err := curl.Run(); err != nil {
		return nil, fmt.Errorf("%s (%w)", strings.TrimSpace(stderr.String()), err)
	}
	a, err := parseAnswer(stdout.Bytes())
	if err == nil && want != "" && a.proto != want {
		err = fmt.Errorf("the answer came over HTTP/%s", a.proto)
	}
	return a, err
}

// parseAnswer reads what curl --include prints.
func parseAnswer(text []byte) (*answer, error) {
	for {
		head, body, ok := bytes.Cut(text, []byte("\r\n\r\n"))
		if !ok {
			return nil, fmt.Errorf("no head in %q", text)
		}
		if bytes.HasPrefix(head, []byte("HTTP/1.1 1")) { // 100 Continue, another one follows
			text = body
			continue
		}
		lines := strings.Split(string(head), "\r\n")
		proto, rest, _ := strings.Cut(strings.TrimPrefix(lines[0], "HTTP/"), " ")
		status, _, _ := strings.Cut(rest, " ")
		header := http.Header{}
		for _, line := range lines[1:] {
			name, value, ok := strings.Cut(line, ":")
			if !ok {
				return nil, fmt.Errorf("%q is no header field", line)
			}
			header.Add(name, strings.TrimSpace(value))
		}
		return newAnswer(proto, status, header, string(body)), nil
	}
}

// waitfor asks until the answer is as it should be.
func (s *script) waitfor(ts *testscript.TestScript, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: waitfor REGEXP [OPTION...] URL")
	}
	re, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	var last *answer
	if !eventually(waitLimit, func() bool {
		last, err = s.visit(args[1:])
		return err == nil && re.MatchString(last.String())
	}) {
		ts.Fatalf("no match for %#q within %v in (%v)\n%v", args[0], waitLimit, err, last)
	}
	fmt.Fprint(ts.Stdout(), last)
}

// question is one line of a table, with its lists taken apart.
type question struct{ proto, method, url, want string }

// answers asks all that a table says, and compares.
func (s *script) answers(ts *testscript.TestScript, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: answers FILE")
	}
	questions, err := parseQuestions(ts.ReadFile(args[0]))
	ts.Check(err)
	wrong := make([]string, len(questions))
	var wg sync.WaitGroup
	next := make(chan int)
	for range 4 {
		wg.Go(func() {
			for i := range next {
				wrong[i] = s.ask(questions[i])
			}
		})
	}
	for i := range questions {
		next <- i
	}
	close(next)
	wg.Wait()
	if wrong = slices.DeleteFunc(wrong, func(w string) bool { return w == "" }); len(wrong) > 0 {
		ts.Fatalf("%d of %d answers are wrong\n%s", len(wrong), len(questions), strings.Join(wrong, "\n"))
	}
	fmt.Fprintf(ts.Stdout(), "%d answers\n", len(questions))
}

// parseQuestions reads lines of: versions, methods, URL, status, Location.
func parseQuestions(text string) (questions []question, err error) {
	for scanner := bufio.NewScanner(strings.NewReader(text)); scanner.Scan(); {
		fields := strings.Fields(scanner.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) != 4 && len(fields) != 5 {
			return nil, fmt.Errorf("%q is not: versions, methods, URL, status and perhaps Location", scanner.Text())
		}
		for proto := range strings.SplitSeq(fields[0], ",") {
			for method := range strings.SplitSeq(fields[1], ",") {
				questions = append(questions, question{proto, method, fields[2], strings.Join(fields[3:], " ")})
			}
		}
	}
	if len(questions) == 0 {
		return nil, errors.New("the table is empty")
	}
	return questions, nil
}

// ask gives what is wrong with the answer.
func (s *script) ask(q question) string {
	args := []string{"-" + q.proto, "-X", q.method}
	if slices.Contains([]string{"POST", "PUT", "PATCH"}, q.method) {
		args = append(args, "--data", "name=value")
	}
	a, err := s.visit(append(args, q.url))
	switch {
	case err != nil:
		return fmt.Sprintf("HTTP/%s %s %s: %v", q.proto, q.method, q.url, err)
	case a.first != q.want:
		return fmt.Sprintf("HTTP/%s %s %s\n  want %s\n  got  %s", q.proto, q.method, q.url, q.want, a.first)
	}
	return ""
}
