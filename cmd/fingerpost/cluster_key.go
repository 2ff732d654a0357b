package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"fingerpost"
	"fingerpost/admin"
	"fingerpost/cert"
	"fingerpost/cert/order"
	"fingerpost/store"

	"github.com/spf13/cobra"
)

// The cluster's key seals all private keys of the store. It is changed in three steps,
// between which nodes are started again, so that no node ever meets a key that it
// cannot open: all nodes learn the new secret, then it is sealed with, then the old one
// goes. What is lost is forgotten.

func clusterKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cluster-key",
		Short: "Change the key that private keys are sealed with, or get over its loss",
		Long: `Private keys of certificates are sealed with the cluster's key, which all nodes have:
cluster.key in the data folder. Changed it is in three steps; after each, copy the file
to all nodes and start them again, one after the other:

  add    a new secret joins the old one; nothing is sealed with it yet
  use    what is sealed from now on, is sealed with the new one
  drop   the rest is sealed anew, and the old secret goes

Run them as the user of the service, at the data folder of a control node.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		clusterKeyVerb("status", "Show the secrets, and how many private keys each of them seals", (*clusterKey).status),
		clusterKeyVerb("add", "Add a new secret, which is not sealed with yet", (*clusterKey).add),
		clusterKeyVerb("use", "Have all be sealed with the newest secret", (*clusterKey).use),
		clusterKeyVerb("drop", "Seal all anew with the secret in use, and take the others away", (*clusterKey).drop),
		clusterKeyForget())
	return cmd
}

// clusterKey is a cluster's key and the store whose private keys it seals.
type clusterKey struct {
	file   string
	sealer *cert.Sealer
	db     *store.DB
	out    io.Writer
}

type clusterKeyFlags struct {
	storeFlags
	file string
}

func (f *clusterKeyFlags) register(cmd *cobra.Command) {
	f.storeFlags.register(cmd)
	cmd.Flags().StringVar(&f.file, "file", "", "the cluster's key; default "+clusterKeyFile+" in the data DIR")
}

func (f *clusterKeyFlags) run(cmd *cobra.Command, do func(*clusterKey, context.Context) error) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if f.file == "" && f.data == "" {
		return usage(errors.New("which key? --data DIR or --file FILE"))
	}
	k := &clusterKey{file: f.file, out: cmd.OutOrStdout()}
	if k.file == "" {
		k.file = filepath.Join(f.data, clusterKeyFile)
	}
	text, err := os.ReadFile(k.file)
	if err != nil {
		return fileError(k.file, "read", err)
	}
	if k.sealer, err = cert.NewSealer(string(text)); err != nil {
		return err
	}
	if k.db, err = f.open(ctx, true); err != nil {
		return err
	}
	defer k.db.Close()
	return do(k, ctx)
}

func clusterKeyVerb(name, short string, do func(*clusterKey, context.Context) error) *cobra.Command {
	var flags clusterKeyFlags
	cmd := &cobra.Command{Use: name, Short: short, Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error { return flags.run(cmd, do) }}
	flags.register(cmd)
	return cmd
}

// kindClusterKey is the record of the secret that this cluster seals with; its key: "id".
const kindClusterKey = "cluster-key"

// clusterKeyID reads it; empty if nobody has noted it yet.
func clusterKeyID(ctx context.Context, db *store.DB) (id string, err error) {
	r, err := db.GetRecord(ctx, kindClusterKey, "id")
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return id, json.Unmarshal(r.Value, &id)
}

func setClusterKeyID(ctx context.Context, db *store.DB, id string) error {
	value, err := json.Marshal(id)
	if err != nil {
		return err
	}
	_, err = db.Commit(ctx, store.Batch{Records: []store.Record{{Kind: kindClusterKey, Key: "id", Value: value}}, Actor: clusterKeyActor})
	return err
}

var clusterKeyActor = store.Actor{Who: "cluster-key"}

// ours sets what is sealed with to what the store says.
func (k *clusterKey) ours(ctx context.Context) error {
	id, err := clusterKeyID(ctx, k.db)
	if err == nil && id != "" && !k.sealer.SealWith(id) {
		err = &fingerpost.Error{Code: "other_cluster_key", Message: k.file + " is not the cluster key of this store", Hint: "copy " + clusterKeyFile + " from another control node; if there is none left: fingerpost cluster-key forget"}
	}
	return err
}

// write replaces the file. It stays its owner's, and nobody else reads it.
func (k *clusterKey) write(text string) error {
	info, err := os.Stat(k.file)
	if err == nil {
		err = writeWhole(k.file, func(w io.Writer) error {
			if f, ok := w.(*os.File); ok {
				giveTo(f, info)
			}
			_, err := io.WriteString(w, text)
			return err
		})
	}
	return ownFile(k.file, err)
}

// note writes into the audit what was done.
func (k *clusterKey) note(ctx context.Context, action string, what any) error {
	after, err := json.Marshal(what)
	if err != nil {
		return err
	}
	return k.db.Record(ctx, store.Entry{Actor: clusterKeyActor, Action: action, Kind: kindClusterKey, Key: "id", After: string(after)})
}

func (k *clusterKey) say(format string, args ...any) error {
	_, err := fmt.Fprintf(k.out, format+"\n", args...)
	return err
}

func (k *clusterKey) add(ctx context.Context) error {
	if err := k.ours(ctx); err != nil {
		return err
	}
	if len(k.sealer.IDs()) > 1 {
		return &fingerpost.Error{Code: "key_added", Message: k.file + " has a second secret already", Hint: "copy it to all nodes and start them again; then: fingerpost cluster-key use"}
	}
	// Before the file: a node that starts with the new secret goes on with the old one.
	if err := setClusterKeyID(ctx, k.db, k.sealer.ID()); err != nil {
		return err
	}
	if err := k.write(k.sealer.Added()); err != nil {
		return err
	}
	return k.say("%s has a new secret, which is not sealed with yet.\nNow: copy the file to every node, start each again, then: fingerpost cluster-key use", k.file)
}

func (k *clusterKey) use(ctx context.Context) error {
	if err := k.ours(ctx); err != nil {
		return err
	}
	ids := k.sealer.IDs()
	if len(ids) == 1 {
		return &fingerpost.Error{Code: "no_new_key", Message: k.file + " has one secret", Hint: "begin with: fingerpost cluster-key add"}
	}
	if err := setClusterKeyID(ctx, k.db, ids[0]); err != nil {
		return err
	}
	if err := k.note(ctx, "use", map[string]string{"id": ids[0]}); err != nil {
		return err
	}
	return k.say("The newest secret is sealed with.\nNow: start each control node again, then: fingerpost cluster-key drop")
}

func (k *clusterKey) drop(ctx context.Context) error {
	if err := k.ours(ctx); err != nil {
		return err
	}
	ids := k.sealer.IDs()
	if len(ids) > 1 && k.sealer.ID() != ids[0] {
		return &fingerpost.Error{Code: "old_key", Message: "the older secret is sealed with", Hint: "first: fingerpost cluster-key use"}
	}
	older := func(s *sealedKey) bool { return k.sealer.Which(s.sealed) != k.sealer.ID() }
	done := 0
	for range 3 { // what somebody writes meanwhile is sealed by them, and looked at once more
		list, _, err := k.sealed(ctx, older)
		if err != nil {
			return err
		}
		n, err := k.reseal(ctx, list)
		if done += n; err != nil {
			return err
		}
	}
	left, _, err := k.sealed(ctx, older)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return &fingerpost.Error{Code: "key_needed", Message: fmt.Sprintf("%d private keys were sealed anew; an older secret is still needed for %s, and stays", done, few(left)),
			Hint: "orders under way end by themselves: say it again later; what no secret opens: fingerpost cluster-key forget"}
	}
	if err := k.note(ctx, "drop", map[string]int{"sealedAnew": done}); err != nil {
		return err
	}
	if err := k.write(k.sealer.Alone()); err != nil {
		return err
	}
	return k.say("%d private keys were sealed anew. %s has one secret; those before it open nothing any more, but what is in old backups.\nNow: copy the file to every node, and start each again.", done, k.file)
}

func (k *clusterKey) status(ctx context.Context) error {
	noted, err := clusterKeyID(ctx, k.db)
	if err != nil {
		return err
	}
	ids := k.sealer.IDs()
	known := noted == "" || k.sealer.SealWith(noted)
	if !known {
		if err := k.say("%s is not the cluster key of this store, which seals with %s", k.file, noted); err != nil {
			return err
		}
	}
	counts := map[string]int{}
	_, total, err := k.sealed(ctx, func(s *sealedKey) bool {
		counts[k.sealer.Which(s.sealed)]++
		return false
	})
	if err != nil {
		return err
	}
	for _, id := range ids {
		use := "opens"
		if known && id == k.sealer.ID() {
			use = "seals"
		}
		if err := k.say("%s  %s  %d private keys", id, use, counts[id]); err != nil {
			return err
		}
	}
	if lost := counts[""]; lost > 0 {
		return k.say("%d of %d private keys were sealed with another secret", lost, total)
	}
	return nil
}

// sealedKey is where a sealed private key is.
type sealedKey struct {
	kind, key string
	sealed    []byte
	imported  bool
}

// purpose is what it is sealed for. Certificates, orders and requests are kept under
// the certificate's name.
func (s *sealedKey) purpose() string {
	if s.kind == order.KindAccount {
		return order.AccountPurpose(s.key)
	}
	return cert.KeyPurpose(s.key)
}

func (s *sealedKey) String() string {
	switch s.kind {
	case store.KindCertificate:
		return "the certificate " + s.key
	case order.KindAccount:
		return "the account at " + s.key
	case order.KindOrder:
		return "an order"
	}
	return "the request " + s.key
}

func few(list []sealedKey) string {
	var names []string
	for i := range list {
		if names = append(names, list[i].String()); i == 4 && len(list) > 5 {
			names = append(names, fmt.Sprintf("%d more", len(list)-5))
			break
		}
	}
	return strings.Join(names, ", ")
}

// sealed finds the private keys of the store that want says are wanted.
func (k *clusterKey) sealed(ctx context.Context, want func(*sealedKey) bool) (list []sealedKey, total int, err error) {
	add := func(s sealedKey) {
		if total++; want(&s) {
			list = append(list, s)
		}
	}
	_, err = k.db.Scan(ctx, store.KindCertificate, func(it *store.Item) error {
		c, err := it.Certificate()
		if err != nil {
			return err
		}
		add(sealedKey{it.Kind, it.Key, c.Key, c.Type == fingerpost.Imported})
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	for _, kind := range []string{order.KindAccount, order.KindOrder, admin.KindRequest} {
		for from := ""; ; {
			const page = 500
			records, err := k.db.Records(ctx, kind, from, "", page)
			if err != nil {
				return nil, 0, err
			}
			for _, r := range records {
				var v struct {
					Key []byte `json:"key"`
				}
				if err := json.Unmarshal(r.Value, &v); err != nil {
					return nil, 0, fmt.Errorf("%s %s: %w", kind, r.Key, err)
				}
				if from = r.Key + "\x00"; len(v.Key) > 0 {
					add(sealedKey{kind: kind, key: r.Key, sealed: v.Key})
				}
			}
			if len(records) < page {
				break
			}
		}
	}
	return list, total, nil
}

// reseal seals anew what can be opened, and gives how much that was. An order is left
// to the node that drives it: its journal is that node's alone.
func (k *clusterKey) reseal(ctx context.Context, list []sealedKey) (n int, err error) {
	b := store.Batch{Actor: clusterKeyActor}
	in := 0
	flush := func() error {
		if len(b.Changes) == 0 {
			return nil
		}
		_, err := k.db.Commit(ctx, b)
		if errors.Is(err, store.ErrConflict) {
			err, in = nil, 0 // somebody has changed one: looked at once more
		}
		n += in
		b.Changes, in = nil, 0
		return err
	}
	for i := range list {
		s := &list[i]
		switch s.kind {
		case store.KindCertificate:
			changes, err := k.resealCertificate(ctx, s)
			if err != nil {
				return n, err
			}
			if changes == nil {
				continue
			}
			if len(b.Changes)+len(changes) > store.MaxChanges {
				if err := flush(); err != nil {
					return n, err
				}
			}
			b.Changes = append(b.Changes, changes...)
			in++
		case order.KindAccount, admin.KindRequest:
			done, err := k.resealRecord(ctx, s)
			if err != nil {
				return n, err
			}
			if done {
				n++
			}
		}
	}
	return n, flush()
}

func (k *clusterKey) resealCertificate(ctx context.Context, s *sealedKey) ([]store.Change, error) {
	it, err := k.db.Get(ctx, s.kind, s.key)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	before, err := it.Certificate()
	if err != nil {
		return nil, err
	}
	now := *before
	if now.Key, err = k.sealer.Reseal(s.purpose(), before.Key); err != nil {
		return nil, nil // counted as what is left
	}
	changes, err := store.CertificateChanges(before, &now)
	if err == nil {
		changes[0].If = it.Rev
	}
	return changes, err
}

func (k *clusterKey) resealRecord(ctx context.Context, s *sealedKey) (bool, error) {
	r, err := k.db.GetRecord(ctx, s.kind, s.key)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var v map[string]json.RawMessage
	var sealed []byte
	if err := errors.Join(json.Unmarshal(r.Value, &v), json.Unmarshal(v["key"], &sealed)); err != nil {
		return false, err
	}
	if sealed, err = k.sealer.Reseal(s.purpose(), sealed); err != nil {
		return false, nil // counted as what is left
	}
	if v["key"], err = json.Marshal(sealed); err != nil {
		return false, err
	}
	if r.Value, err = json.Marshal(v); err != nil {
		return false, err
	}
	_, err = k.db.Commit(ctx, store.Batch{Records: []store.Record{r}, Actor: clusterKeyActor})
	return err == nil, err
}

func clusterKeyForget() *cobra.Command {
	var flags clusterKeyFlags
	var yes bool
	cmd := &cobra.Command{
		Use:   "forget",
		Short: "Get over a lost key: forget what cannot be opened without it",
		Long: `Get over a lost cluster key. Look first whether a node, or a backup of one, has the
file still: with it nothing is lost. Forgotten are the private keys that the key in the data
folder does not open, with what they belong to: ordered certificates, accounts at CAs and
open orders, which nodes then get anew; imported certificates and open signing requests, which
have to be imported again. An imported one that a host names stays, without being
served, until it is imported again under its name.`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if flags.file == "" && flags.data != "" { // the lost one is made anew, as a node does
				if _, err := os.Stat(flags.data); err == nil {
					if _, _, err := cert.OpenSecret(filepath.Join(flags.data, clusterKeyFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
						return dataError(flags.data, err)
					}
				}
			}
			return flags.run(cmd, func(k *clusterKey, ctx context.Context) error {
				return k.forget(ctx, &session{ctx: ctx, cmd: cmd}, yes)
			})
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func (k *clusterKey) forget(ctx context.Context, s *session, yes bool) error {
	lost, total, err := k.sealed(ctx, func(s *sealedKey) bool { return k.sealer.Which(s.sealed) == "" })
	if err != nil {
		return err
	}
	noted, err := clusterKeyID(ctx, k.db)
	if err != nil {
		return err
	}
	if len(lost) == 0 && (noted == "" || k.sealer.Has(noted)) {
		return k.say("%s opens all %d private keys: nothing is forgotten.", k.file, total)
	}
	named, err := k.named(ctx)
	if err != nil {
		return err
	}
	var gone []sealedKey
	var again []string
	for _, one := range lost {
		if one.imported {
			again = append(again, one.key)
		}
		if !one.imported || !named[one.key] {
			gone = append(gone, one)
		}
	}
	if err := k.say("%s opens %d of %d private keys; forgotten: %s", k.file, total-len(lost), total, orNothing(few(gone))); err != nil {
		return err
	}
	if len(again) > 0 {
		slices.Sort(again)
		if err := k.say("To be imported again, with their keys: %s", strings.Join(again, ", ")); err != nil {
			return err
		}
	}
	if len(gone) > 0 {
		if err := s.confirm(yes, "Forget them?"); err != nil {
			return err
		}
	}
	lease, err := k.lease(ctx, s.cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	defer func() { _ = k.db.Release(context.WithoutCancel(ctx), lease) }() // it expires
	for i := range gone {
		if err := k.remove(ctx, &lease, &gone[i]); err != nil {
			return err
		}
		if time.Until(lease.Expires) < issuerLeaseFor/2 {
			if lease, err = k.db.Acquire(ctx, issuerLease, "cluster-key forget", issuerLeaseFor); err != nil {
				return err
			}
		}
	}
	if err := setClusterKeyID(ctx, k.db, k.sealer.IDs()[0]); err != nil {
		return err
	}
	if err := k.note(ctx, "forget", map[string]any{"forgotten": len(gone), "importAgain": again}); err != nil {
		return err
	}
	return k.say("Now: give every node this file, and start each again. With acme.validationZone, the CNAMEs of all domains have other targets: fingerpost certs export-cname")
}

// lease gets the right to order certificates, from a node that is dead if need be. One
// that lives has a key that opens its own, or would not have started.
func (k *clusterKey) lease(ctx context.Context, notes io.Writer) (store.Lease, error) {
	var first time.Time
	for {
		l, err := k.db.Acquire(ctx, issuerLease, "cluster-key forget", issuerLeaseFor)
		switch {
		case !errors.Is(err, store.ErrFenced):
			return l, err
		case first.IsZero():
			first = l.Expires
			fmt.Fprintln(notes, "a node has ordered certificates a moment ago; whether it lives is seen within a minute")
		case !l.Expires.Equal(first):
			return l, &fingerpost.Error{Code: "key_not_lost", Message: "nothing was changed: a node orders certificates with the key of this store: " + l.Holder, Hint: "copy " + clusterKeyFile + " from its data folder; fingerpost nodes list shows where it is"}
		}
		select {
		case <-ctx.Done():
			return l, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func orNothing(list string) string {
	if list == "" {
		return "nothing"
	}
	return list
}

// named are the certificates that hosts name.
func (k *clusterKey) named(ctx context.Context) (map[string]bool, error) {
	named := map[string]bool{}
	_, err := k.db.Scan(ctx, store.KindHost, func(it *store.Item) error {
		if !strings.Contains(string(it.Value), `"certificate"`) {
			return nil
		}
		h, err := it.Host()
		if err == nil {
			named[h.Certificate] = true
		}
		return err
	})
	return named, err
}

// remove takes away what a private key belongs to.
func (k *clusterKey) remove(ctx context.Context, lease *store.Lease, s *sealedKey) error {
	b := store.Batch{Actor: clusterKeyActor, Lease: lease}
	if s.kind != store.KindCertificate {
		b.Records = []store.Record{{Kind: s.kind, Key: s.key}}
	} else {
		it, err := k.db.Get(ctx, s.kind, s.key)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		c, err := it.Certificate()
		if err != nil {
			return err
		}
		if b.Changes, err = store.CertificateChanges(c, nil); err != nil {
			return err
		}
		b.Changes[0].If = it.Rev
		b.Records = []store.Record{{Kind: order.KindCertificate, Key: s.key}}
	}
	_, err := k.db.Commit(ctx, b)
	return err
}
