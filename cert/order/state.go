package order

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"time"

	"fingerpost"
	"fingerpost/cert/planner"
)

// NameState is what is kept of a name, the value of a [KindName] record.
type NameState struct {
	planner.Name
	Methods     []string  `json:"methods,omitempty"`
	Failure     *Failure  `json:"failure,omitempty"` // the last one, while it stands
	Certificate string    `json:"certificate,omitempty"`
	NotAfter    time.Time `json:"notAfter,omitzero"`
	Sentence    string    `json:"sentence"`           // where it stands, for people
	NextStep    string    `json:"nextStep,omitempty"` // what the person, or we, will do
}

// stateOf is what is to be kept of names; nothing for those that nobody wants.
// The lock is held.
func (i *Issuer) stateOf(names ...string) []Record {
	var out []Record
	now := time.Now()
	for _, name := range names {
		if s, ok := i.nameState(now, name); ok {
			out = append(out, record(KindName, name, s))
		}
	}
	return out
}

func (i *Issuer) nameState(now time.Time, name string) (NameState, bool) {
	status, ok := i.planner.Status(now, name)
	if !ok {
		return NameState{}, false
	}
	s := NameState{Name: status.Name, Methods: i.methods[name], Certificate: status.Certificate, NotAfter: status.NotAfter}
	switch f := i.why[name]; {
	case status.State == planner.Failed, status.State == planner.Paused, status.State == planner.Blocked,
		status.State == planner.Ordered && f != nil && f.Code == codeStuck:
		s.Failure = f
	default:
		delete(i.why, name)
	}
	if status.State == planner.Ready {
		s.Next = status.ETA.At
	}
	s.Sentence, s.NextStep = describeState(status, s.Failure)
	return s, true
}

// Reading is a Storage that gives the states of names as they are at that moment, where
// this node orders: when it is the turn of a name that waits changes with each order.
type Reading struct {
	Storage
	Issuer *Issuer
}

func (r Reading) Get(ctx context.Context, kind, key string) ([]byte, error) {
	if kind == KindName {
		if value := r.Issuer.stateNow(key); value != nil {
			return value, nil
		}
	}
	return r.Storage.Get(ctx, kind, key)
}

func (r Reading) Range(ctx context.Context, kind, from, to string, limit int) ([]Record, error) {
	list, err := r.Storage.Range(ctx, kind, from, to, limit)
	if kind == KindName {
		for n := range list {
			if value := r.Issuer.stateNow(list[n].Key); value != nil {
				list[n].Value = value
			}
		}
	}
	return list, err
}

// stateNow is the value of a KindName record; nil where another node orders.
func (i *Issuer) stateNow(name string) []byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.planner == nil {
		return nil
	}
	s, ok := i.nameState(time.Now(), name)
	if !ok {
		return nil
	}
	return record(KindName, name, s).Value
}

// describeState says where a name stands and what comes next.
func describeState(s planner.Status, f *Failure) (sentence, next string) {
	day := func(t time.Time) string { return t.UTC().Format("2 January 2006 15:04 UTC") }
	hint := func(own string) string {
		if f != nil && f.Hint != "" {
			return f.Hint + "; " + own
		}
		return own
	}
	reason := s.Reason
	if f != nil && f.Code == codeStuck { // of which the planner knows nothing
		reason = f.Reason
	}
	if f != nil && f.Code == CodeProvider && f.Detail != "" { // here alone: the planner's reasons reach logs
		reason += ", which says: " + f.Detail
	}
	switch s.State {
	case planner.Checking:
		return "its DNS is being checked", "nothing to do"
	case planner.Ready:
		if s.ETA.Code == "domain" || s.ETA.Code == "parked" || s.ETA.Code == "down" { // which names the time
			return "it waits for its order: " + s.ETA.Reason, "it is ordered by itself then"
		}
		return "it waits for its order: " + s.ETA.Reason, "it is ordered by itself, on " + day(s.ETA.At) + " as it looks now"
	case planner.Ordered:
		if f != nil {
			return reason, hint("it goes on by itself")
		}
		return "its certificate is being ordered", "nothing to do"
	case planner.Live:
		return "it has a certificate until " + day(s.NotAfter), "it is renewed by itself"
	case planner.Failed:
		return reason, hint("it is tried again on " + day(s.Next))
	case planner.Paused:
		return reason, hint("it is looked at once a day, and ordered when it is right; try it again at once with `fingerpost certs request " + s.Name.Name + "`")
	case planner.Blocked:
		return reason, hint("then try it again with `fingerpost certs request " + s.Name.Name + "`")
	}
	return string(s.State), s.ETA.Reason
}

// State gives what is kept of a name, on any node. ErrNoRecord: nothing has
// happened to it yet.
func State(ctx context.Context, s Storage, name string) (NameState, error) {
	var state NameState
	value, err := s.Get(ctx, KindName, name)
	if err == nil {
		err = json.Unmarshal(value, &state)
	}
	return state, err
}

// codeStuck is the code of a failure that is none yet: the order does not go on.
const codeStuck = "stuck"

// stuck keeps for people why an order does not go on; that it is not written down
// holds nothing up.
func (i *Issuer) stuck(ctx context.Context, fence int64, o *Order, err error) {
	names := o.Spec.Plan.Names
	f := Failure{Code: codeStuck, Hint: "`fingerpost doctor` looks whether the CA can be reached from the node"}
	var known *fingerpost.Error
	if errors.As(err, &known) {
		f.Reason = known.Message
		f.Hint = cmp.Or(known.Hint, f.Hint)
	} else if inner := errors.Unwrap(err); inner != nil { // without the order's name and names
		f.Reason = o.Spec.CA + " cannot be asked: " + inner.Error()
	} else {
		f.Reason = o.Spec.CA + " cannot be asked: " + err.Error()
	}
	i.mu.Lock()
	for _, name := range names {
		why := f
		why.Name = name
		i.why[name] = &why
	}
	records := i.stateOf(names...)
	i.mu.Unlock()
	i.write(ctx, fence, records...)
}
