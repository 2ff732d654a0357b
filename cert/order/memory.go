package order

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
)

// Memory is a [Storage] and a [Lease] that forget when the process ends: for
// tests. The zero value is ready.
type Memory struct {
	// Fault is asked before each write, and after it has taken effect. Its error
	// is the write's.
	Fault func(after bool, records []Record) error

	mu      sync.Mutex
	records map[[2]string][]byte
	fence   int64
	writes  int
}

func (m *Memory) Get(_ context.Context, kind, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	value, ok := m.records[[2]string{kind, key}]
	if !ok {
		return nil, fmt.Errorf("%s %s: %w", kind, key, ErrNoRecord)
	}
	return bytes.Clone(value), nil
}

func (m *Memory) Range(_ context.Context, kind, from, to string, limit int) ([]Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []Record
	for k, value := range m.records {
		if k[0] == kind && k[1] >= from && (to == "" || k[1] < to) {
			found = append(found, Record{Kind: kind, Key: k[1], Value: bytes.Clone(value)})
		}
	}
	slices.SortFunc(found, func(a, b Record) int { return cmp.Compare(a.Key, b.Key) })
	return found[:min(limit, len(found))], nil
}

func (m *Memory) Write(ctx context.Context, fence int64, records ...Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.Fault != nil {
		if err := m.Fault(false, records); err != nil {
			return err
		}
	}
	if err := m.apply(fence, records); err != nil {
		return err
	}
	if m.Fault != nil {
		return m.Fault(true, records)
	}
	return nil
}

func (m *Memory) apply(fence int64, records []Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if fence != m.fence {
		return fmt.Errorf("fence %d, now %d: %w", fence, m.fence, ErrFenced)
	}
	if m.records == nil {
		m.records = map[[2]string][]byte{}
	}
	for _, r := range records {
		if r.Value == nil {
			delete(m.records, [2]string{r.Kind, r.Key})
		} else {
			m.records[[2]string{r.Kind, r.Key}] = bytes.Clone(r.Value)
		}
	}
	m.writes++
	return nil
}

// Acquire gives the fence that stands; [Memory.Takeover] makes another.
func (m *Memory) Acquire(context.Context) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fence, nil
}

func (m *Memory) Release(context.Context) error { return nil }

// Takeover is what another node's Acquire would do: writes under the fence
// before fail from now on.
func (m *Memory) Takeover() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fence++
	return m.fence
}

// Len counts the records of a kind.
func (m *Memory) Len(kind string) int {
	all, _ := m.Range(context.Background(), kind, "", "", 1<<30)
	return len(all)
}
