package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"fingerpost/bench/lab"
)

// measureStarts prints how long servers take from being started to their first
// right answer, and their memory then and after some load.
func (b *bench) measureStarts() error {
	if !b.wants("start") {
		return nil
	}
	million, many := 1_000_000, 10_000
	if b.short {
		million, many = 2000, 50
	}
	b.printf("From start to the first right answer, and memory (PSS) then and after load on all rules.\n\n")
	b.printf("| | server | first answer | memory | after load | to reach | holds |\n|---|---|---|---|---|---|---|\n")
	var errs []error
	for _, row := range []struct {
		name    string
		setting setting
		args    []string
		start   time.Duration
		memory  float64 // MB
	}{
		{"1,000,000 rules", setting{rules: million}, nil, 200 * time.Millisecond, 125},
		{"10,000 certificates", setting{rules: 1, certs: many, hangUp: true}, []string{"-tls", "-close"}, 300 * time.Millisecond, 80},
	} {
		for _, p := range b.peers() {
			if p == b.limit || p.missing != nil || b.ctx.Err() != nil {
				continue
			}
			fmt.Fprintf(os.Stderr, "start of %s with %s…\n", p.name, row.name)
			var took, first, loaded []float64
			var err error
			for range b.rounds {
				var s *server
				if s, err = b.start(p, row.setting); err != nil {
					break
				}
				took, first = append(took, s.started.Seconds()), append(first, s.memory()/1e6)
				_, err = s.drive(b.ctx, append([]string{"-time", b.time.String()}, row.args...)...)
				loaded = append(loaded, s.memory()/1e6)
				s.stop()
				if err != nil {
					break
				}
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", row.name, err))
				b.printf("| %s | %s | %v | | | | |\n", row.name, p.name, strings.ReplaceAll(err.Error(), "|", " "))
				continue
			}
			goal, holds := "", ""
			if p == b.fingerpost {
				goal = fmt.Sprintf("%s, %.0f MB after load", lab.Short(row.start), row.memory)
				holds = verdict(median(took), row.start.Seconds()) + ", " + verdict(median(loaded), row.memory)
			}
			b.printf("| %s | %s | %s | %.0f MB | %.0f MB | %s | %s |\n", row.name, p.name, lab.Short(time.Duration(median(took)*1e9)), median(first), median(loaded), goal, holds)
		}
	}
	b.printf("\n")
	return errors.Join(errs...)
}

// measureIdle prints what connections cost that have had an answer and wait.
func (b *bench) measureIdle() error {
	if !b.wants("idle") {
		return nil
	}
	conns := 5000
	if b.short {
		conns = 200
	}
	b.printf("Memory (PSS) of a connection that waits after its first answer, of %s.\n\n| | server | kB | to reach | holds |\n|---|---|---|---|---|\n", lab.Thousands(float64(conns)))
	var errs []error
	for _, row := range []struct {
		name    string
		setting setting
		args    []string
		goal    float64 // kB
	}{
		{"plain", setting{rules: 1}, nil, 0.5},
		{"TLS", setting{rules: 1, certs: 1}, []string{"-tls"}, 20},
	} {
		for _, p := range b.peers() {
			if p == b.limit || p.missing != nil || b.ctx.Err() != nil {
				continue
			}
			fmt.Fprintf(os.Stderr, "idle connections of %s, %s…\n", p.name, row.name)
			s, err := b.start(p, row.setting)
			if err == nil {
				before, after := s.memory(), 0.0
				err = s.hold(b.ctx, conns, func() {
					time.Sleep(time.Second) // what is under way ends
					after = s.memory()
				}, row.args...)
				s.stop()
				if err == nil {
					each := max((after-before)/1024/float64(conns), 0)
					goal, holds := "", ""
					if p == b.fingerpost {
						goal, holds = fmt.Sprintf("%.1f kB", row.goal), verdict(max(each, 0.001), row.goal)
					}
					b.printf("| %s | %s | %.2f | %s | %s |\n", row.name, p.name, each, goal, holds)
					continue
				}
			}
			errs = append(errs, fmt.Errorf("idle, %s: %w", row.name, err))
			b.printf("| %s | %s | %v | | |\n", row.name, p.name, strings.ReplaceAll(err.Error(), "|", " "))
		}
	}
	b.printf("\n")
	return errors.Join(errs...)
}
