package admin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"fingerpost/store"
)

// Job is work that takes longer than a request.
type Job struct {
	ID      string    `json:"id"`
	Kind    string    `json:"kind"`
	State   string    `json:"state" enum:"receiving,checking,publishing,done,failed,cancelled"`
	Node    string    `json:"node,omitempty" doc:"that does it"`
	Who     string    `json:"who,omitempty"`
	Done    int64     `json:"done" doc:"rows that were read"`
	Result  *Result   `json:"result,omitempty" doc:"of a job that is done"`
	Problem *Problem  `json:"problem,omitempty" doc:"of a job that failed, with the faults of each row"`
	Created time.Time `json:"created,omitzero"`
	Updated time.Time `json:"updated,omitzero"`
}

// The states of a job.
const (
	JobReceiving  = "receiving"  // rows come in and are checked one by one
	JobChecking   = "checking"   // all together is checked against the content
	JobPublishing = "publishing" // too late to cancel
	JobDone       = "done"
	JobFailed     = "failed"    // nothing has changed, unless the problem is unknown_result
	JobCancelled  = "cancelled" // nothing has changed
)

// Ended reports whether nothing more will come of the job.
func (j *Job) Ended() bool {
	return j.State == JobDone || j.State == JobFailed || j.State == JobCancelled
}

// jobRecord is what the store keeps of a job in store.Job.Result.
type jobRecord struct {
	By        string   `json:"by"`                  // the identity of who began it
	Sum       string   `json:"sum,omitempty"`       // of the request, where it had a key
	Changeset string   `json:"changeset,omitempty"` // what it stages, for whoever has to clean up
	Result    *Result  `json:"result,omitempty"`
	Problem   *Problem `json:"problem,omitempty"`
}

// A node says of each of its jobs, once in a beat, that it goes on. One that was not
// heard of for longer than jobLost is nobody's any more.
const (
	jobBeat = 10 * time.Second
	jobLost = time.Minute
)

// keyOfJob is the store's key of what a job commits: by it everybody finds out
// whether it did.
func keyOfJob(id string) string { return "job:" + id }

const kindChangeset = "changeset"

// jobs are those that this process does.
type jobs struct {
	mu      sync.Mutex // guards running and closed
	running map[string]*job
	closed  bool
	wait    sync.WaitGroup // jobs under way; Add only under mu while not closed
}

// job is one of them.
type job struct {
	s        *Server
	id       string
	by       string // the identity of who began it
	keyed    bool   // its id comes from an Idempotency-Key
	repeated *earlier

	life   context.Context // ends when the job is cancelled or the server closes
	stop   context.CancelFunc
	rows   atomic.Int64
	handed bool // to a goroutine of its own, which leaves in its place

	mu      sync.Mutex // guards the rest
	now     Job
	set     string         // the id of its changeset
	saved   bool           // the store knows it
	wanted  bool           // somebody cancelled it
	changed chan struct{}  // closed at the next change
	beating sync.WaitGroup // the goroutine of beat
}

// earlier is a job that an earlier request with the same key has begun.
type earlier struct {
	now Job
	sum string
}

// again is the answer to a request that was made before.
func (e *earlier) again(sum string) (*changesetOutput, error) {
	switch {
	case e.sum != "" && e.sum != sum:
		return nil, store.ErrKeyReused
	case !e.now.Ended():
		return nil, retryLater(problem(http.StatusConflict, "in_progress", "an earlier request with this Idempotency-Key is under way", "look at jobs/"+e.now.ID), 1)
	case e.now.Result != nil:
		e.now.Result.Repeated = true
		return &changesetOutput{Status: http.StatusOK, Body: ChangesetResult{Result: *e.now.Result}}, nil
	}
	return nil, e.now.Problem
}

// beginJob begins a job for a request. The id of one with a key comes from the
// key, so that a repeated request finds it on every control node.
func (s *Server) beginJob(ctx context.Context, p *Principal, key string) (j *job, err error) {
	j = &job{s: s, id: newID("job-"), by: p.identity(), keyed: key != "", changed: make(chan struct{})}
	if j.keyed {
		sum := sha256.Sum256([]byte(keyOf(p, key)))
		j.id = "job-" + hex.EncodeToString(sum[:12])
		if live := s.runningJob(j.id); live != nil {
			if now := live.show(); !now.Ended() {
				j.repeated = &earlier{now, ""}
				return j, nil
			}
		}
		if j.repeated, err = s.earlier(ctx, j.id); err != nil || j.repeated != nil {
			return j, err
		}
	}
	j.now = Job{ID: j.id, Kind: kindChangeset, State: JobReceiving, Node: s.Node, Who: p.Name, Created: s.now()}
	j.life, j.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.jobs.mu.Lock()
	defer s.jobs.mu.Unlock()
	if s.jobs.closed {
		return nil, store.ErrClosed
	}
	if other := s.jobs.running[j.id]; other != nil && !other.ended() {
		j.stop()
		return nil, retryLater(problem(http.StatusConflict, "in_progress", "an earlier request with this Idempotency-Key is under way", "look at jobs/"+j.id), 1)
	}
	if s.jobs.running == nil {
		s.jobs.running = map[string]*job{}
	}
	s.jobs.running[j.id] = j
	s.jobs.wait.Add(1)
	return j, nil
}

// earlier finds what an earlier request with the same key has come to, or is about
// to; nil if there was none, or nothing has come of it.
func (s *Server) earlier(ctx context.Context, id string) (*earlier, error) {
	old, record, err := s.readJob(ctx, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return nil, err
	case old.State == JobDone && s.now().Sub(old.Updated) < 24*time.Hour, !old.Ended():
		return &earlier{*old, record.Sum}, nil
	}
	// It may be done without a note of it: its node died in between.
	r, sum, err := s.Store.Receipt(ctx, keyOfJob(id))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	result := resultOf(r)
	return &earlier{Job{ID: id, Kind: kindChangeset, State: JobDone, Result: &result}, sum}, err
}

// ctx ends with the request, and when the job is cancelled.
func (j *job) ctx(request context.Context) context.Context {
	ctx, cancel := context.WithCancel(request)
	context.AfterFunc(j.life, cancel)
	return ctx
}

// run goes on without the request.
func (j *job) run(fn func(context.Context)) {
	j.handed = true
	go func() {
		defer j.end()
		fn(j.life)
	}()
}

// leave ends the job with the request, unless it goes on without.
func (j *job) leave() {
	if !j.handed {
		j.end()
	}
}

func (j *job) end() {
	j.stop()
	j.s.jobs.mu.Lock()
	if j.s.jobs.running[j.id] == j {
		delete(j.s.jobs.running, j.id)
	}
	j.s.jobs.mu.Unlock()
	j.s.jobs.wait.Done()
}

// every is after how many rows others are told.
const every = 10_000

func (j *job) progress(rows int64) {
	if j == nil {
		return
	}
	if j.rows.Store(rows); rows%every == 0 {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.tell()
	}
}

// tell wakes those who watch. The caller holds mu.
func (j *job) tell() {
	close(j.changed)
	j.changed = make(chan struct{})
}

// show gives the job as it is.
func (j *job) show() Job {
	now, _ := j.watch()
	return now
}

// watch also gives a channel that is closed at the next change.
func (j *job) watch() (Job, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	now := j.now
	now.Done = j.rows.Load()
	return now, j.changed
}

// save notes a new state, unless somebody has cancelled the job.
func (j *job) save(ctx context.Context, state string) error {
	j.mu.Lock()
	if j.wanted {
		j.mu.Unlock()
		return context.Canceled
	}
	j.now.State = state
	if !j.saved {
		j.beating.Go(j.beat)
	}
	j.saved = true
	j.tell()
	now := j.now
	j.mu.Unlock()
	return j.store(ctx, now, "")
}

// tooLate makes it too late to cancel a job that is done with its request, unless
// somebody has already.
func (j *job) tooLate() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.wanted || j.life.Err() != nil {
		return context.Canceled
	}
	j.now.State = JobPublishing
	return nil
}

func (j *job) store(ctx context.Context, now Job, sum string) error {
	now.Done = j.rows.Load()
	j.mu.Lock()
	record, err := json.Marshal(jobRecord{By: j.by, Sum: sum, Changeset: j.set, Result: now.Result, Problem: now.Problem})
	j.mu.Unlock()
	if err != nil {
		return err
	}
	return j.s.Store.PutJob(ctx, store.Job{ID: j.id, Kind: now.Kind, State: now.State, Owner: now.Node, Done: now.Done, Result: record, Created: now.Created})
}

// stages notes the changeset of the job before the store is told of it.
func (j *job) stages(id string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.set = id
}

// beat tells the store now and then that the job goes on, until it ends.
func (j *job) beat() {
	tick := time.NewTicker(jobBeat)
	defer tick.Stop()
	for {
		select {
		case <-j.life.Done():
			return
		case <-tick.C:
		}
		if err := j.store(j.life, j.show(), ""); err != nil && j.life.Err() == nil {
			j.s.log().Warn("note that a job goes on", "job", j.id, "err", err)
		}
	}
}

// finish notes the result. A job that was done with its request is only worth a
// note if the request may be repeated.
func (j *job) finish(r Result, sum string) error {
	j.mu.Lock()
	now := j.now
	worth := j.saved || j.keyed
	j.mu.Unlock()
	now.State, now.Result = JobDone, &r
	j.close(now, sum, worth)
	return nil
}

func (j *job) fail(err error) {
	j.mu.Lock()
	// Somebody may have cancelled it at another node, which drops its changeset.
	j.wanted = j.wanted || errors.Is(err, store.ErrCancelled)
	now := j.now
	worth := j.saved
	now.State, now.Problem = JobFailed, problemOf(err)
	if j.wanted {
		now.State, now.Problem = JobCancelled, nil
	}
	j.mu.Unlock()
	if now.Problem != nil && now.Problem.cause != nil {
		j.s.log().Error("do a job", "job", j.id, "err", now.Problem.cause)
	}
	j.close(now, "", worth)
}

// close tells the end of the job once it is stored, so that whoever is told finds
// it there. That it cannot be stored changes nothing of what it did.
func (j *job) close(now Job, sum string, worth bool) {
	j.stop()
	j.beating.Wait() // or it would say that the job goes on
	if worth {
		if err := j.store(context.WithoutCancel(j.life), now, sum); err != nil {
			j.s.log().Error("note the end of a job", "job", j.id, "state", now.State, "err", err)
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.now = now
	j.tell()
}

func (j *job) ended() bool {
	now := j.show()
	return now.Ended()
}

func (j *job) cancelled() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.wanted
}

// cancel ends the job if it is not too late.
func (j *job) cancel() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.now.State == JobPublishing || j.now.Ended() {
		return false
	}
	j.wanted = true
	j.stop()
	return true
}

// Close cancels the jobs that can be, and waits for the others. It comes after the
// listener is shut down and before the store is closed.
func (s *Server) Close() {
	s.jobs.mu.Lock()
	s.jobs.closed = true
	for _, j := range s.jobs.running {
		j.cancel()
	}
	s.jobs.mu.Unlock()
	s.jobs.wait.Wait()
}

// endLeftOver ends the jobs that this node had under way when it was killed, so that
// nobody waits for them, and a request that is repeated is done anew at once.
func (s *Server) endLeftOver() {
	if s.Store == nil {
		return
	}
	ctx := context.Background()
	all, err := s.Store.Jobs(ctx)
	for i := 0; err == nil && i < len(all); i++ {
		var j *Job
		var record *jobRecord
		if j, record, err = showJob(&all[i]); err != nil || j.Ended() || j.Node != s.Node {
			continue
		}
		err = s.endLost(ctx, &all[i], j, record)
	}
	if err != nil {
		s.log().Error("end the jobs that were under way when the node ended", "err", err)
	}
}

func (s *Server) runningJob(id string) *job {
	s.jobs.mu.Lock()
	defer s.jobs.mu.Unlock()
	return s.jobs.running[id]
}

// readJob reads what the store knows of a job. One whose node was lost ends here.
func (s *Server) readJob(ctx context.Context, id string) (*Job, *jobRecord, error) {
	stored, err := s.Store.Job(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	j, record, err := showJob(&stored)
	if err == nil && s.isLost(j) {
		err = s.endLost(ctx, &stored, j, record)
	}
	return j, record, err
}

// isLost reports whether nobody does the job any more.
func (s *Server) isLost(j *Job) bool {
	return !j.Ended() && s.now().Sub(j.Updated) > jobLost && s.runningJob(j.ID) == nil
}

// endLost finds out what a job has come to whose node was lost, and ends it.
// Whatever the node still does, if it lives, comes to the same: what it staged is
// published, or dropped.
func (s *Server) endLost(ctx context.Context, stored *store.Job, j *Job, record *jobRecord) error {
	if _, err := s.dropStaged(ctx, record); err != nil {
		return err
	}
	r, _, err := s.Store.Receipt(ctx, keyOfJob(j.ID))
	switch {
	case err == nil:
		result := resultOf(r)
		j.State, j.Result, record.Result = JobDone, &result, &result
	case isNotFound(err):
		j.State = JobFailed
		j.Problem = problem(http.StatusServiceUnavailable, "node_lost", "the node "+j.Node+" ended while it did this; nothing has changed", "send it again")
		record.Problem = j.Problem
	default:
		return err
	}
	v := *stored
	v.State = j.State
	if v.Result, err = json.Marshal(record); err != nil {
		return err
	}
	_, err = s.Store.EndJob(ctx, v)
	return err
}

// dropStaged cancels the changeset of a job, and reports whether it is published
// already.
func (s *Server) dropStaged(ctx context.Context, record *jobRecord) (published bool, err error) {
	if record.Changeset == "" {
		return false, nil
	}
	c, err := s.Store.Changeset(ctx, record.Changeset)
	if err == nil {
		err = c.Cancel(ctx)
	}
	switch {
	case errors.Is(err, store.ErrConflict):
		return true, nil
	case isNotFound(err):
		return false, nil // it was cleaned up
	}
	return false, err
}

// Tidy ends the jobs of nodes that were lost, says which drafts are published, and gives
// redirects the team of their host, where a node was lost before it did. One control node calls it once in a while;
// who asks for such a job ends it, too.
func (s *Server) Tidy(ctx context.Context) error {
	all, err := s.Store.Jobs(ctx)
	for i := range all {
		j, record, bad := showJob(&all[i])
		if bad == nil && s.isLost(j) {
			bad = s.endLost(ctx, &all[i], j, record)
		}
		err = errors.Join(err, bad)
	}
	_, _, bad := Relabel(ctx, s.Store, store.Actor{Who: "tidy"}, nil)
	return errors.Join(err, s.tidyDrafts(ctx), bad)
}

func showJob(v *store.Job) (*Job, *jobRecord, error) {
	var record jobRecord
	if len(v.Result) > 0 {
		if err := json.Unmarshal(v.Result, &record); err != nil {
			return nil, nil, err
		}
	}
	return &Job{ID: v.ID, Kind: v.Kind, State: v.State, Node: v.Owner, Who: nameOf(record.By), Done: v.Done, Result: record.Result, Problem: record.Problem, Created: v.Created, Updated: v.Updated}, &record, nil
}

type jobInput struct {
	ID string `path:"id"`
}

type jobOutput struct{ Body Job }

type jobsOutput struct{ Body Page[Job] }

func (s *Server) listJobs(ctx context.Context, _ *struct{}) (*jobsOutput, error) {
	all, err := s.Store.Jobs(ctx)
	if err != nil {
		return nil, err
	}
	out := &jobsOutput{Page[Job]{Items: []Job{}}}
	for i := range all {
		j, _, err := showJob(&all[i])
		if err != nil {
			return nil, err
		}
		if live := s.runningJob(j.ID); live != nil {
			*j = live.show()
		} else if s.isLost(j) {
			if j, _, err = s.readJob(ctx, j.ID); err != nil {
				return nil, err
			}
		}
		out.Body.Items = append(out.Body.Items, *j)
	}
	return out, nil
}

func (s *Server) getJob(ctx context.Context, in *jobInput) (*jobOutput, error) {
	if live := s.runningJob(in.ID); live != nil {
		return &jobOutput{live.show()}, nil
	}
	j, _, err := s.readJob(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &jobOutput{*j}, nil
}

func (s *Server) cancelJob(ctx context.Context, in *jobInput) (*jobOutput, error) {
	live := s.runningJob(in.ID)
	var now Job
	var record *jobRecord
	by := ""
	if live != nil {
		now, by = live.show(), live.by
	} else {
		j, r, err := s.readJob(ctx, in.ID)
		if err != nil {
			return nil, err
		}
		now, record, by = *j, r, r.By
	}
	tooLate := problem(http.StatusConflict, "too_late", "the job is "+now.State, "revert its change, if it is done")
	if now.Ended() {
		return nil, tooLate
	}
	if p := principalOf(ctx); by != p.identity() {
		if err := authorize(p, Govern, ""); err != nil {
			return nil, forbidden("the job is of "+now.Who, "who began it can cancel it")
		}
	}
	if live != nil {
		if !live.cancel() {
			return nil, tooLate
		}
		return &jobOutput{live.show()}, nil
	}
	// Another node does it. It finds its changeset gone, and notes that.
	published, err := s.dropStaged(ctx, record)
	if err != nil {
		return nil, err
	}
	if published {
		return nil, tooLate
	}
	now.State = JobCancelled
	return &jobOutput{now}, nil
}

// pollJob is how often the store is asked about a job of another node.
const pollJob = time.Second

// jobEvents tells each change of a job until it ends.
func (s *Server) jobEvents(ctx context.Context, in *jobInput) (*eventStream, error) {
	if _, err := s.getJob(ctx, in); err != nil {
		return nil, err
	}
	return newEventStream(func(ctx context.Context, send func(id, event string, v any) error) error {
		for {
			var now Job
			var changed <-chan struct{}
			if live := s.runningJob(in.ID); live != nil {
				now, changed = live.watch()
			} else {
				stored, _, err := s.readJob(ctx, in.ID)
				if err != nil {
					return err
				}
				now = *stored
			}
			if err := send("", "job", now); err != nil || now.Ended() {
				return err
			}
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
			case <-time.After(pollJob):
			}
		}
	}), nil
}
