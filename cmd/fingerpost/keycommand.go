package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"fingerpost"
)

// The bounds of clusterKeyCommand. A key has some fifty bytes, and there may be several.
const (
	keyCommandFor  = 30 * time.Second
	keyCommandMost = 64 << 10
	keyCommandGone = 2 * time.Second // how long a child that it leaves may hold its output
)

// commandSecret is what clusterKeyCommand prints. It has the environment of this
// process, in which a KMS finds its credentials. Nothing of what it says goes anywhere
// else: part of a key may be in it.
func commandSecret(ctx context.Context, command []string, limit time.Duration) (string, error) {
	fail := func(why string) (string, error) {
		return "", &fingerpost.Error{Code: "bad_cluster_key", Field: "clusterKeyCommand", Message: fmt.Sprintf("clusterKeyCommand (%s) gives no key: %s", command[0], why),
			Hint: "run it as the user of the service: it has to print what is in " + clusterKeyFile + " in the data folder of another node"}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var out bounded
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdout, cmd.WaitDelay = &out, keyCommandGone
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return fail(fmt.Sprintf("it has not ended within %v", limit))
	case out.over:
		return fail(fmt.Sprintf("it prints more than %d bytes", keyCommandMost))
	case errors.As(err, &exit):
		return fail("it ended with " + exit.String())
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return fail(err.Error())
	case len(bytes.TrimSpace(out.text)) == 0:
		return fail("it prints nothing")
	}
	return string(out.text), nil
}

// bounded keeps what is written to it, up to a bound.
type bounded struct {
	text []byte
	over bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.over = b.over || len(b.text)+len(p) > keyCommandMost; !b.over {
		b.text = append(b.text, p...)
	}
	return len(p), nil
}
