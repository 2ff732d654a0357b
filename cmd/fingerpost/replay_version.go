package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"fingerpost"
	"fingerpost/admin"
	"fingerpost/admin/client"
	"fingerpost/redirect"
	"fingerpost/source"
	"fingerpost/store"
)

// rulesOf reads the rules of files, or those that a server has had in a version.
func rulesOf(ctx context.Context, f *remoteFlags, names []string) (*rules, error) {
	version := ""
	for _, name := range names {
		_, err := os.Stat(name)
		if !errors.Is(err, fs.ErrNotExist) || strings.ContainsAny(name, `/\`) || source.IsInput(name) {
			continue // a file, or meant to be one
		}
		if len(names) > 1 {
			return nil, &fingerpost.Error{Code: "bad_file", Message: fmt.Sprintf("there is no file %s, and a version of the server stands alone", name), Hint: "check the name of the file"}
		}
		version = name
	}
	if version == "" {
		return readRules(names)
	}
	c, err := f.client()
	if err != nil {
		return nil, err
	}
	r, err := rulesAt(ctx, c, version)
	if isMissing(err) {
		err = &fingerpost.Error{Code: "not_found", Message: fmt.Sprintf("%s is neither a file nor a version of %s", version, f.address()), Hint: "fingerpost versions list shows the versions"}
	}
	return r, err
}

// rulesAt gives the rules that were in force in a version: those that are now, with
// all changes since taken back.
func rulesAt(ctx context.Context, c *client.Client, version string) (*rules, error) {
	for range planTries {
		was, err := c.Version(ctx, version)
		if err != nil {
			return nil, err
		}
		at, err := c.Version(ctx, "current")
		if err != nil {
			return nil, err
		}
		content, err := contentNow(ctx, c)
		if err != nil {
			return nil, err
		}
		if now, err := c.Version(ctx, "current"); err != nil {
			return nil, err
		} else if now.Rev != at.Rev {
			continue // what was listed may be of two revisions
		}
		if was.Rev != at.Rev {
			for d, err := range c.Diff(ctx, fmt.Sprint(was.Rev), fmt.Sprint(at.Rev)) {
				if err == nil {
					err = content.takeBack(&d)
				}
				if err != nil {
					return nil, err
				}
			}
		}
		return content.compile()
	}
	return nil, &fingerpost.Error{Code: "moved", Message: fmt.Sprintf("the server has changed %d times while it was asked", planTries), Hint: "try again when it is quieter"}
}

// serverContent is the content of a server, by the keys of its store.
type serverContent struct {
	hosts     map[string]fingerpost.Host
	redirects map[string]fingerpost.Redirect
}

func contentNow(ctx context.Context, c *client.Client) (*serverContent, error) {
	bar := showProgress("read from the server", 0, "item")
	defer bar.end()
	s := &serverContent{map[string]fingerpost.Host{}, map[string]fingerpost.Redirect{}}
	for h, err := range c.Hosts(ctx, client.Filter{}) {
		if err != nil {
			return nil, err
		}
		s.putHost(h)
	}
	for r, err := range c.Redirects(ctx, client.Filter{}) {
		if err != nil {
			return nil, err
		}
		s.redirects[store.RedirectKey(fingerpost.HostPattern(r.Host), r.ID)] = r.Redirect
		bar.at(int64(len(s.redirects)))
	}
	return s, nil
}

func (s *serverContent) putHost(h admin.HostResource) {
	h.Host.Name = h.Name
	s.hosts[h.Name] = h.Host
}

// takeBack makes what a difference has changed what it was.
func (s *serverContent) takeBack(d *admin.Difference) error {
	delete(s.hosts, d.Key)
	delete(s.redirects, d.Key)
	if d.Before == nil {
		return nil
	}
	text, err := json.Marshal(d.Before)
	switch {
	case err != nil:
	case d.Kind == store.KindHost:
		h := admin.HostResource{}
		err = json.Unmarshal(text, &h)
		s.putHost(h)
	case d.Kind == store.KindRedirect:
		r := admin.RedirectResource{}
		err = json.Unmarshal(text, &r)
		s.redirects[d.Key] = r.Redirect
	}
	return err
}

func (s *serverContent) compile() (*rules, error) {
	r := &rules{}
	for _, key := range slices.Sorted(maps.Keys(s.hosts)) {
		r.Hosts = append(r.Hosts, s.hosts[key])
	}
	for _, key := range slices.Sorted(maps.Keys(s.redirects)) {
		r.Redirects = append(r.Redirects, s.redirects[key])
	}
	var err error
	r.table, err = redirect.Compile(r.Hosts, r.Redirects)
	return r, err
}
