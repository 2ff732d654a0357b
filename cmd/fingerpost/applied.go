package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"fingerpost/store"
)

// A node's files and sources own what they have in the store, under their labels.
// When the configuration names others, what the old ones had would stay for ever,
// and stand in the way of the new ones. So the data folder remembers the labels
// that this node has applied.

const appliedFile = "applied.json"

// openApplied finds out which labels this node has applied and names no more.
func (n *node) openApplied() error {
	file := filepath.Join(n.o.data, appliedFile)
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var before []string
	if err == nil {
		err = json.Unmarshal(text, &before)
	}
	if err != nil {
		return dataError(n.o.data, err)
	}
	now := n.labels()
	n.orphans = slices.DeleteFunc(before, func(label string) bool { return slices.Contains(now, label) })
	return nil
}

// labels are those of all parts that have content.
func (n *node) labels() []string {
	var labels []string
	for part := range 1 + len(n.remotes) {
		if label := n.label(part); label != fileLabel {
			labels = append(labels, label)
		}
	}
	return labels
}

func (n *node) writeApplied(labels []string) error {
	text, err := json.Marshal(labels)
	if err != nil {
		return err
	}
	text = append(text, '\n')
	file := filepath.Join(n.o.data, appliedFile)
	if there, err := os.ReadFile(file); err == nil && bytes.Equal(there, text) {
		return nil // a node starts on a full disk, too
	}
	if err := os.WriteFile(file+".tmp", text, 0o600); err != nil {
		return dataError(n.o.data, err)
	}
	if err := os.Rename(file+".tmp", file); err != nil {
		return dataError(n.o.data, err)
	}
	return nil
}

// publishFiles brings the files' content into force, with which what sources had
// that are not named any more goes: first it becomes the files', which nobody
// sees, then what the files do not have is removed.
func (n *node) publishFiles(publish func(label string) error) error {
	label := n.label(0)
	if len(n.orphans) == 0 && label == fileLabel {
		return n.writeApplied(n.labels())
	}
	// In force and remembered too little would be for ever.
	if err := n.writeApplied(append(n.labels(), n.orphans...)); err != nil {
		return err
	}
	if len(n.orphans) > 0 {
		moved, err := n.adopt(n.life, label)
		if err != nil {
			return n.storeAway(err)
		}
		n.log.Info("sources that are not named any more give up what they had", "sources", n.orphans, "items", moved)
	}
	if err := publish(label); err != nil {
		return err
	}
	n.forgetSources(n.orphans, label)
	n.orphans = nil
	return n.writeApplied(n.labels())
}

// forgetSources has the store forget sources that nobody follows any more, whose
// labels others may use from now on.
func (n *node) forgetSources(labels []string, by string) {
	for _, label := range labels {
		if err := n.shared.db.DeleteSource(n.life, store.Actor{Who: by}, label); err != nil && !errors.Is(err, store.ErrNotFound) {
			n.log.Warn("forget a source that is not named any more", "source", label, "err", err)
		}
	}
}

// adopt makes all items of the orphans those of another label.
func (n *node) adopt(ctx context.Context, label string) (moved int64, err error) {
	db := n.shared.db
	for {
		head, err := db.Head(ctx)
		if err != nil {
			return 0, err
		}
		set, err := db.Stage(ctx, store.StageOptions{Source: label, Mode: store.Merge, Take: true, Actor: store.Actor{Who: label}, Note: "of sources that are not named any more"})
		if err != nil {
			return 0, err
		}
		moved, err = set.Add(ctx, func(yield func(store.Change, error) bool) {
			err := db.View(ctx, func(v *store.View) error {
				kinds, err := v.Kinds()
				if err != nil {
					return err
				}
				for _, kind := range kinds {
					if err := v.Scan(kind, func(it *store.Item) error {
						if slices.Contains(n.orphans, it.Source) {
							own := *it
							own.Source, own.Value = label, slices.Clone(it.Value)
							if !yield(store.Change{Op: store.Put, Item: own}, nil) {
								return errEnough
							}
						}
						return nil
					}); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil && !errors.Is(err, errEnough) {
				yield(store.Change{}, err)
			}
		})
		if err == nil {
			_, err = set.Publish(ctx, store.PublishOptions{Base: head.Rev})
		}
		if err == nil {
			return moved, nil
		}
		set.Cancel(context.WithoutCancel(ctx)) // to no effect where the store is away
		if !errors.Is(err, store.ErrMoved) {
			return 0, err
		}
	}
}
