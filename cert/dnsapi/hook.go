package dnsapi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Hook is a [Setter] that calls a program, without a shell:
//
//	COMMAND… present|cleanup RECORD VALUE
//
// Exit status 0 says that it is done. What it prints to standard output goes
// nowhere. Of this process's environment it gets what environment lists and nothing
// else: there are keys among the rest.
type Hook struct {
	Command []string
	Timeout time.Duration // 2 minutes if zero
}

// environment are the variables that a hook gets.
var environment = []string{"PATH", "HOME", "TMPDIR", "TZ", "LANG", "SYSTEMROOT"}

const (
	hookTimeout = 2 * time.Minute
	saidAtMost  = 400             // bytes of a hook's error output that people see
	pipesFor    = 2 * time.Second // how long a child that the hook has left may keep its standard error
)

// Set calls the hook with "present".
func (h *Hook) Set(ctx context.Context, record, value string) error {
	return h.run(ctx, "present", record, value)
}

// Remove calls the hook with "cleanup".
func (h *Hook) Remove(ctx context.Context, record, value string) error {
	return h.run(ctx, "cleanup", record, value)
}

func (h *Hook) run(ctx context.Context, action, record, value string) error {
	timeout := h.Timeout
	if timeout == 0 {
		timeout = hookTimeout
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(limited, h.Command[0], append(slices.Clone(h.Command[1:]), action, record, value)...)
	cmd.Env = []string{} // not nil, which would be all
	for _, name := range environment {
		if v, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	var said tail
	cmd.Stderr, cmd.WaitDelay = &said, pipesFor
	killChildren(cmd)
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case limited.Err() != nil:
		return &Error{Message: fmt.Sprintf("the hook has not ended within %v", timeout), Said: said.String()}
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // it ended well, and left a child
		return nil
	case errors.As(err, &exit):
		return &Error{Message: "the hook ended with " + exit.String(), Said: said.String()}
	}
	return &Error{Message: "the hook could not be started: " + err.Error()}
}

// tail keeps the end of what is written to it.
type tail struct{ text []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p...)
	if over := len(t.text) - saidAtMost; over > 0 {
		t.text = slices.Delete(t.text, 0, over)
	}
	return len(p), nil
}

// String is one line that a terminal can show.
func (t *tail) String() string {
	text := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(t.text), ""))
	return strings.Join(strings.Fields(text), " ")
}
