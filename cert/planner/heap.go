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

// timers is a heap of all that waits for a time. It holds the times beside the
// pointers: with a million of them, following each pointer is what costs.
type timers struct{ items []wait }

type wait struct {
	at int64
	x  timed
}

func (h *timers) put(x timed, at int64) {
	t := x.clock()
	t.at = at
	i := int(t.place) - 1
	if i < 0 {
		i = len(h.items)
		h.items = append(h.items, wait{})
	}
	h.sift(i, wait{at, x})
}

func (h *timers) remove(x timed) {
	t := x.clock()
	if t.place == 0 {
		return
	}
	i, last := int(t.place)-1, len(h.items)-1
	t.place = 0
	moved := h.items[last]
	h.items[last] = wait{}
	h.items = h.items[:last]
	if i < last {
		h.sift(i, moved)
	}
}

// sift fills the hole at i with w, and moves the hole up or down until w fits.
func (h *timers) sift(i int, w wait) {
	for i > 0 {
		parent := (i - 1) / 2
		if h.items[parent].at <= w.at {
			break
		}
		h.fill(i, h.items[parent])
		i = parent
	}
	for {
		child := 2*i + 1
		if child+1 < len(h.items) && h.items[child+1].at < h.items[child].at {
			child++
		}
		if child >= len(h.items) || h.items[child].at >= w.at {
			break
		}
		h.fill(i, h.items[child])
		i = child
	}
	h.fill(i, w)
}

func (h *timers) fill(i int, w wait) {
	h.items[i] = w
	w.x.clock().place = int32(i + 1)
}

func (p *Planner) set(x timed, at int64) { p.timers.put(x, at) }

func (p *Planner) stop(x timed) { p.timers.remove(x) }

func (t *timer) running() bool { return t.place != 0 }
