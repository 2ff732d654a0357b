package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"fingerpost"
	"fingerpost/cert"
)

func TestKeyFromACommand(t *testing.T) {
	secret := cert.NewSecret()
	for _, tt := range []struct {
		name    string
		command []string
		limit   time.Duration
		want    string // of the error; "" for the secret
	}{
		{"a key", []string{"sh", "-c", "echo; echo $0; echo noise >&2", secret}, time.Minute, ""},
		{"of the environment", []string{"sh", "-c", `printf %s "$KEY_OF_TEST"`}, time.Minute, ""},
		{"beside a child that stays", []string{"sh", "-c", "sleep 60 & echo $0", secret}, time.Minute, ""},
		{"failure", []string{"sh", "-c", "echo " + secret + "; echo " + secret + " >&2; exit 3"}, time.Minute, "it ended with exit status 3"},
		{"nothing", []string{"true"}, time.Minute, "it prints nothing"},
		{"too much", []string{"sh", "-c", "head -c 70000 /dev/zero"}, time.Minute, "more than 65536 bytes"},
		{"too slow", []string{"sleep", "60"}, 50 * time.Millisecond, "not ended within 50ms"},
		{"no program", []string{"/no/such/program"}, time.Minute, "no such file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("KEY_OF_TEST", secret)
			got, err := commandSecret(t.Context(), tt.command, tt.limit)
			if tt.want == "" {
				if strings.TrimSpace(got) != secret || err != nil {
					t.Errorf("got %d bytes, %v", len(got), err)
				}
				return
			}
			var e *fingerpost.Error
			if !errors.As(err, &e) || !strings.Contains(e.Message, tt.want) || e.Hint == "" || strings.Contains(e.Message+e.Hint, "\n") {
				t.Fatalf("error %v, want …%s…", err, tt.want)
			}
			if got != "" || strings.Contains(e.Message+e.Hint, secret[4:20]) {
				t.Error("part of the key shows")
			}
		})
	}
}
