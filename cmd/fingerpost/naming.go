package main

import (
	"context"
	"strings"

	"fingerpost"
	"fingerpost/replica"
	"fingerpost/store"
)

// naming is [admin.Certificates.Naming], from the node's own copy: what a host names
// beside itself, and what is below a wildcard, the store would have to look through all
// hosts for.
func (n *node) naming(ctx context.Context, certificate string, names []string) (hosts []store.Item, alone []string, err error) {
	head, err := n.shared.db.Head(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := n.await(ctx, head.Cursor(), false); err != nil {
		return nil, nil, err
	}
	q := replica.Names{Certificate: certificate}
	for _, name := range names {
		q.Forms = append(q.Forms, fingerpost.HostPattern(name))
		if parent, ok := strings.CutPrefix(name, "*."); ok {
			q.Below = append(q.Below, parent)
			name = parent
		}
		q.Forms = append(q.Forms, fingerpost.HostPattern("."+name)) // has both in its certificate
	}
	found, forms, err := n.shared.replica.Naming(q)
	if err != nil {
		return nil, nil, err
	}
	for _, it := range found {
		hosts = append(hosts, store.Item(*it))
	}
	for _, f := range forms {
		alone = append(alone, string(f))
	}
	return hosts, alone, nil
}
