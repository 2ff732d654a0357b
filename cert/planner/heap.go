package planner

// A heap is a binary heap whose items know their place in it, so that each can be
// moved or taken out in O(log n).
type heap[T comparable] struct {
	items []T
	less  func(a, b T) bool
	place func(T) *int32 // counts from 1; 0 is "not in the heap"
}

func (h *heap[T]) len() int { return len(h.items) }

func (h *heap[T]) top() (t T, ok bool) {
	if len(h.items) == 0 {
		return t, false
	}
	return h.items[0], true
}

// put adds x, or finds its new place.
func (h *heap[T]) put(x T) {
	at := h.place(x)
	if *at == 0 {
		h.items = append(h.items, x)
		*at = int32(len(h.items))
	}
	h.down(h.up(int(*at) - 1))
}

func (h *heap[T]) remove(x T) {
	at := h.place(x)
	if *at == 0 {
		return
	}
	i, last := int(*at)-1, len(h.items)-1
	h.swap(i, last)
	var zero T
	h.items[last] = zero
	h.items = h.items[:last]
	*at = 0
	if i < last {
		h.down(h.up(i))
	}
}

func (h *heap[T]) swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	*h.place(h.items[i]), *h.place(h.items[j]) = int32(i+1), int32(j+1)
}

func (h *heap[T]) up(i int) int {
	for i > 0 {
		parent := (i - 1) / 2
		if !h.less(h.items[i], h.items[parent]) {
			break
		}
		h.swap(i, parent)
		i = parent
	}
	return i
}

func (h *heap[T]) down(i int) {
	for {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(h.items); child++ {
			if h.less(h.items[child], h.items[least]) {
				least = child
			}
		}
		if least == i {
			return
		}
		h.swap(i, least)
		i = least
	}
}

// A fifo is a queue that gives its memory back as it empties.
type fifo[T any] struct {
	items []T
	head  int
}

func (f *fifo[T]) push(x T) { f.items = append(f.items, x) }

func (f *fifo[T]) len() int { return len(f.items) - f.head }

func (f *fifo[T]) peek() T { return f.items[f.head] }

func (f *fifo[T]) pop() T {
	var zero T
	x := f.items[f.head]
	f.items[f.head] = zero
	f.head++
	if f.head > 1024 && f.head > len(f.items)/2 || f.head == len(f.items) {
		f.items = append([]T(nil), f.items[f.head:]...)
		f.head = 0
	}
	return x
}

// unpop puts xs back before all others, in their order.
func (f *fifo[T]) unpop(xs []T) {
	if len(xs) <= f.head {
		f.head -= len(xs)
		copy(f.items[f.head:], xs)
		return
	}
	f.items = append(append([]T(nil), xs...), f.items[f.head:]...)
	f.head = 0
}

// A timer is part of what something happens to at a time: in nanoseconds since 1970.
type timer struct {
	at    int64
	place int32
}

// timed is a name, a queue, a bunch, a certificate or a job.
type timed interface {
	clock() *timer
	fire(p *Planner, now int64)
}

func newTimers() heap[timed] {
	return heap[timed]{
		less:  func(a, b timed) bool { return a.clock().at < b.clock().at },
		place: func(x timed) *int32 { return &x.clock().place },
	}
}

func (p *Planner) set(x timed, at int64) {
	x.clock().at = at
	p.timers.put(x)
}

func (p *Planner) stop(x timed) { p.timers.remove(x) }

func (t *timer) running() bool { return t.place != 0 }
