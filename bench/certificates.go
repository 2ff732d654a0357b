package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"fingerpost"
	"fingerpost/bench/lab"
	"fingerpost/cert"
	"fingerpost/replica"
	"fingerpost/store"
)

// certificates measures an edge with many certificates of one name each: its start,
// its memory, and what a full handshake costs it.
func (b *bench) certificates() (rows []row, err error) {
	sizes, starts, pairs, block := []int{0, 10_000, 100_000}, 7, 15, 1500
	if b.short {
		sizes, starts, pairs, block = []int{0, 200, 1000}, 3, 3, 100
	}
	m, err := newMint()
	if err != nil {
		return nil, err
	}
	dirs := map[int]string{}
	for _, n := range append([]int{1}, sizes...) {
		if dirs[n], err = os.MkdirTemp(b.dir, "certificates"); err != nil {
			return nil, err
		}
		if err := m.writeCopy(b.ctx, dirs[n], n); err != nil {
			return nil, err
		}
	}

	// Starts, by turns, so that what else the machine does meets all of them.
	ready := map[int]sample{}
	for range starts {
		for _, n := range sizes {
			node, err := b.tlsEdge(dirs[n])
			if err != nil {
				return rows, err
			}
			ready[n] = append(ready[n], node.readyAfter)
			node.stop()
		}
	}
	for _, n := range sizes {
		r := row{"start of an edge with " + lab.Thousands(float64(n)) + " certificates, to ready", "", lab.Short(ready[n].median()), fmt.Sprintf("median of %d", starts)}
		if n > 0 {
			r.goal = "0.3 s more than with none"
			r.measured += fmt.Sprintf(" (%+.0f ms)", 1000*(ready[n].median()-ready[0].median()).Seconds())
		}
		rows = append(rows, r)
	}

	// Memory, and what a handshake costs at first.
	one, err := b.tlsEdge(dirs[1])
	if err != nil {
		return rows, err
	}
	defer one.stop()
	if _, err := one.shake(b.ctx, block, func(int) int { return 0 }); err != nil {
		return rows, err
	}
	base, err := one.memory()
	if err != nil {
		return rows, err
	}
	var many *node
	var most int
	for _, n := range sizes[1:] {
		if many != nil {
			many.stop()
		}
		if many, err = b.tlsEdge(dirs[n]); err != nil {
			return rows, err
		}
		most = n
		before, err := many.memory()
		if err != nil {
			return rows, err
		}
		first, err := many.shake(b.ctx, n, func(i int) int { return i })
		if err != nil {
			return rows, err
		}
		again, err := one.shake(b.ctx, min(n, 10*block), func(int) int { return 0 })
		if err != nil {
			return rows, err
		}
		after, err := many.memory()
		if err != nil {
			return rows, err
		}
		goal := ""
		if n == 10_000 {
			goal = "80 MB RSS"
		}
		rows = append(rows,
			row{"memory of an edge with " + lab.Thousands(float64(n)) + " certificates, all served once", goal, fmt.Sprintf("%d MB private", after.private>>20),
				fmt.Sprintf("RSS %d MB, with what is mapped; live heap %d MB; before the first handshake %d MB private, RSS %d MB", after.rss>>20, after.heap>>20, before.private>>20, before.rss>>20)},
			row{"    of each certificate", "2.5 kB", fmt.Sprintf("%.2f kB", float64(after.heap-base.heap)/float64(n)/1000),
				"live heap, against an edge with 1 certificate"},
			row{"    CPU of its first handshake", "", fmt.Sprintf("%.0f µs", first), fmt.Sprintf("read, opened and kept; %.0f µs with 1 certificate that is kept", again)})
	}
	defer many.stop()

	// A full handshake with many against one with one, in pairs.
	var ratios, costs []float64
	for range pairs {
		of1, err := one.shake(b.ctx, block, func(int) int { return 0 })
		if err != nil {
			return rows, err
		}
		ofMany, err := many.shake(b.ctx, block, func(int) int { return mathrand.IntN(most) })
		if err != nil {
			return rows, err
		}
		ratios, costs = append(ratios, ofMany/of1), append(costs, ofMany)
	}
	slices.Sort(ratios)
	slices.Sort(costs)
	rows = append(rows, row{"CPU of a full handshake, " + lab.Thousands(float64(most)) + " certificates against 1", "at most 5 % more", fmt.Sprintf("%+.1f %%", 100*(ratios[len(ratios)/2]-1)),
		fmt.Sprintf("random names; median of %d pairs of %d handshakes (%+.1f to %+.1f %%); %.0f µs each", pairs, block, 100*(ratios[0]-1), 100*(ratios[len(ratios)-1]-1), costs[len(costs)/2])})
	return rows, nil
}

// mint makes certificates.
type mint struct {
	secret       string
	sealer       *cert.Sealer
	key          *ecdsa.PrivateKey
	plain        []byte // PKCS #8
	issuer       *ecdsa.PrivateKey
	intermediate *x509.Certificate
}

func newMint() (m *mint, err error) {
	m = &mint{secret: cert.NewSecret()}
	if m.sealer, err = cert.NewSealer(m.secret); err != nil {
		return nil, err
	}
	if m.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	if m.plain, err = x509.MarshalPKCS8PrivateKey(m.key); err != nil {
		return nil, err
	}
	if m.issuer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{Country: []string{"US"}, Organization: []string{"An Authority"}, CommonName: "E1"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, SubjectKeyId: make([]byte, 20), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(5, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, m.issuer.Public(), m.issuer)
	if err != nil {
		return nil, err
	}
	m.intermediate, err = x509.ParseCertificate(der)
	return m, err
}

func certificateHost(i int) string { return fmt.Sprintf("www.shop-%07d.example", i) }

// certificate makes the i-th, with what public CAs put into one.
func (m *mint) certificate(i int) (*fingerpost.Certificate, error) {
	template := &x509.Certificate{SerialNumber: new(big.Int).Lsh(big.NewInt(int64(i)+1), 100), DNSNames: []string{certificateHost(i)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
		IssuingCertificateURL: []string{"http://e1.i.authority.example/"}, CRLDistributionPoints: []string{"http://e1.c.authority.example/99.crl"},
		ExtraExtensions: []pkix.Extension{{Id: []int{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: make([]byte, 244)}}, // two timestamps of logs
		NotBefore:       time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 3, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, m.intermediate, m.key.Public(), m.issuer)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	c := cert.Describe([]*x509.Certificate{leaf, m.intermediate})
	c.Name, c.Type = fmt.Sprintf("certificate-%07d", i), fingerpost.ACME
	c.Key = m.sealer.Seal(cert.KeyPurpose(c.Name), m.plain)
	return c, nil
}

// writeCopy makes the data folder of an edge with n certificates.
func (m *mint) writeCopy(ctx context.Context, dir string, n int) error {
	if err := os.WriteFile(filepath.Join(dir, "cluster.key"), []byte(m.secret+"\n"), 0o600); err != nil {
		return err
	}
	items := map[string][]replica.Item{}
	for i := range n {
		c, err := m.certificate(i)
		if err != nil {
			return err
		}
		changes, err := store.CertificateChanges(nil, c)
		if err != nil {
			return err
		}
		for _, change := range changes {
			it := replica.Item(change.Item)
			it.Rev, it.Since = 1, time.Now()
			items[it.Kind] = append(items[it.Kind], it)
		}
	}
	head := replica.Head{Epoch: "bench", Rev: 1}
	s := replica.Snapshots{Dir: filepath.Join(dir, "replica"),
		Feed: replica.Feed{
			Head:    func(context.Context) (replica.Head, error) { return head, nil },
			Changes: func(context.Context, replica.Cursor, int) ([]replica.Revision, error) { return nil, nil },
		},
		Scan: func(context.Context) (replica.Content, error) {
			return replica.Content{Cursor: replica.Cursor{Epoch: "bench", Rev: 1}, Items: func(yield func(*replica.Item, error) bool) {
				for _, kind := range []string{store.KindCertificate, store.KindServerName} {
					for i := range items[kind] {
						if !yield(&items[kind][i], ctx.Err()) {
							return
						}
					}
				}
			}}, nil
		}}
	snapshot, err := s.Get(ctx, replica.Cursor{})
	if err != nil {
		return err
	}
	return snapshot.Close()
}

// tlsEdge starts an edge on a copy, without its control node.
func (b *bench) tlsEdge(dir string) (*node, error) {
	https, err := lab.FreeAddr()
	if err != nil {
		return nil, err
	}
	n, err := b.serve(dir, "--role", "edge", "--control", "http://127.0.0.1:1", "--token", "none", "--https", https)
	if err == nil {
		n.https = https
	}
	return n, err
}

// shake makes full handshakes, and gives what each cost the server of CPU, in
// microseconds.
func (n *node) shake(ctx context.Context, count int, host func(i int) int) (each float64, err error) {
	before, err := n.cpu()
	if err != nil {
		return 0, err
	}
	var next atomic.Int64
	errs := make([]error, 4)
	var clients sync.WaitGroup
	for c := range errs {
		clients.Go(func() {
			for i := int(next.Add(1)) - 1; i < count && errs[c] == nil; i = int(next.Add(1)) - 1 {
				name := certificateHost(host(i))
				conn, err := tls.Dial("tcp", n.https, &tls.Config{ServerName: name, InsecureSkipVerify: true}) // the name is looked at below
				if err == nil {
					if got := conn.ConnectionState().PeerCertificates[0].DNSNames; !slices.Equal(got, []string{name}) {
						err = fmt.Errorf("%s is served with a certificate for %v", name, got)
					}
					conn.Close()
				}
				errs[c] = errors.Join(err, ctx.Err())
			}
		})
	}
	clients.Wait()
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	after, err := n.cpu()
	return float64((after - before).Nanoseconds()) / 1000 / float64(count), err
}

// cpu is the time that the process has used.
func (n *node) cpu() (time.Duration, error) {
	var t unix.Timespec
	const sched = 2 // CPUCLOCK_SCHED of the kernel: what its threads have used, in nanoseconds
	if err := unix.ClockGettime(int32(^n.cmd.Process.Pid<<3|sched), &t); err != nil {
		return 0, fmt.Errorf("CPU time of a node: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// memory is what a process has of it, in bytes.
type memory struct{ rss, private, heap uint64 }

// memory is read after the garbage collector has run: the dump of the heap that is
// asked for makes it.
func (n *node) memory() (m memory, err error) {
	token, err := os.ReadFile(filepath.Join(n.dir, "admin.token"))
	if err != nil {
		return m, err
	}
	req, err := http.NewRequest("GET", "http://"+n.admin+"/debug/pprof/heap?gc=1", nil)
	if err != nil {
		return m, err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := client.Do(req)
	if err != nil {
		return m, err
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return m, fmt.Errorf("a dump of the heap: %s", resp.Status)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", n.cmd.Process.Pid))
	if err != nil {
		return m, err
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kB, _ := strconv.ParseUint(f[1], 10, 64) // other lines are not asked for
		switch f[0] {
		case "Rss:":
			m.rss = kB << 10
		case "Private_Dirty:":
			m.private = kB << 10
		}
	}
	resp, err = client.Get("http://" + n.admin + "/metrics")
	if err != nil {
		return m, err
	}
	defer resp.Body.Close()
	metrics, err := io.ReadAll(resp.Body)
	if err != nil {
		return m, err
	}
	for line := range bytes.Lines(metrics) {
		if value, ok := bytes.CutPrefix(line, []byte("go_memstats_heap_alloc_bytes ")); ok {
			var heap float64
			if err := json.Unmarshal(bytes.TrimSpace(value), &heap); err != nil {
				return m, err
			}
			m.heap = uint64(heap)
		}
	}
	return m, nil
}
