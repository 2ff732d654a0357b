package main

import (
	"bufio"
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"fingerpost/bench/lab"
)

// setting is what a server is to serve.
type setting struct {
	rules    int  // 1, or rules 0 to rules-1 of package lab
	certs    int  // 0 is plain HTTP; more than one: a host and one rule for each
	deferred bool // connections without a request stay in the kernel
	log      bool // the access log is on
	hangUp   bool // the generator ends connections; the limit alone must know
}

// peer is a server that takes part.
type peer struct {
	name    string
	command func(b *bench, s setting, dir string, port int) (command, error)
	version string
	missing error // why it takes no part
}

// The one rule, and that of hosts by number.
const (
	oneHost = "h.example.com"
	oneTo   = "https://www.example.com/"
)

func certHost(i int) string { return fmt.Sprintf("c%06d.certs.example", i) }

// wanted are some requests of a setting, the first one for checking a start.
func (b *bench) wanted(p *peer, s setting) []want {
	all := []want{{oneHost, "/", oneTo}}
	last := s.rules - 1
	pick := func(i int) want { return want{lab.Host(i), lab.Path(i), lab.Target(i)} }
	if s.certs > 1 {
		last = s.certs - 1
		pick = func(i int) want { return want{certHost(i), "/", oneTo} }
	}
	if last > 0 {
		n := min(last+1, 100_000)
		all = nil
		for i := range n {
			all = append(all, pick(last-i*(last+1)/n)) // spread over all of them
		}
	}
	if p == b.limit {
		return all[:1] // it has one answer
	}
	return all
}

// targets writes what the generator asks for.
func (b *bench) targets(p *peer, s setting) (file string, err error) {
	wants := b.wanted(p, s)
	file = filepath.Join(b.dir, fmt.Sprintf("targets-%d-%d-%d", s.rules, s.certs, len(wants)))
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	return file, writeLines(file, func(w *bufio.Writer) {
		for _, want := range wants {
			fmt.Fprintf(w, "%s %s %s\n", want.host, want.path, want.location)
		}
	})
}

func writeLines(file string, fn func(*bufio.Writer)) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	fn(w)
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Close()
}

// certificates makes a folder of files with a certificate and its key each, once.
func (b *bench) certificates(n int) (dir string, err error) {
	dir = filepath.Join(b.dir, "certificates-"+strconv.Itoa(n))
	if err := os.Mkdir(dir, 0o700); os.IsExist(err) {
		return dir, nil
	} else if err != nil {
		return "", err
	}
	for i := range n {
		host := oneHost
		if n > 1 {
			host = certHost(i)
		}
		cert, key := b.ca.Issue(host)
		if err := os.WriteFile(filepath.Join(dir, host+".pem"), append(cert, key...), 0o600); err != nil {
			return "", err
		}
	}
	return dir, b.ctx.Err()
}

// once makes a file that several servers read, unless it is there.
func (b *bench) once(name string, fn func(*bufio.Writer)) (file string, err error) {
	file = filepath.Join(b.dir, name)
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	return file, writeLines(file, fn)
}

// fingerpost is a build of it.
func fingerpost(name, binary string) *peer {
	return &peer{name: name, command: func(b *bench, s setting, dir string, port int) (command, error) {
		c, err := fingerpostCommand(b, s, dir, port)
		c.args = append([]string{binary}, c.args...)
		return c, err
	}}
}

func fingerpostCommand(b *bench, s setting, dir string, port int) (command, error) {
	var config strings.Builder
	listen := `http: "0.0.0.0:` + strconv.Itoa(port) + `", https: ""`
	c := command{args: []string{"serve", "--config", "fingerpost.yaml"}, env: []string{"GOMAXPROCS=1"}}
	if s.certs > 0 {
		certs, err := b.certificates(s.certs)
		if err != nil {
			return c, err
		}
		fmt.Fprintf(&config, "certificates: {dir: %q}\n", certs)
		listen = `http: "", https: "0.0.0.0:` + strconv.Itoa(port) + `"`
	}
	access := "off"
	if s.log {
		access = "json"
	}
	fmt.Fprintf(&config, "listen: {%s, admin: \"\"}\nlog: {access: %q}\n", listen, access)
	switch {
	case s.rules > 1:
		made, err := b.copyOf(s.rules)
		if err != nil {
			return c, err
		}
		data := filepath.Join(dir, "data") // of one process
		if err := os.CopyFS(data, os.DirFS(made)); err != nil {
			return c, err
		}
		c.args = append(c.args, "--data", data, "--role", "edge", "--control", "http://127.0.0.1:1", "--token", "none")
	case s.certs > 1:
		fmt.Fprintf(&config, "hosts: {\"*\": {to: %q}}\n", oneTo)
		c.args = append(c.args, "--data", "")
	default:
		fmt.Fprintf(&config, "redirects: [{from: %s/, to: %q}]\n", oneHost, oneTo)
		c.args = append(c.args, "--data", "")
	}
	return c, os.WriteFile(filepath.Join(dir, "fingerpost.yaml"), []byte(config.String()), 0o600)
}

// copyOf is a data folder with a node's own copy of rules.
func (b *bench) copyOf(rules int) (dir string, err error) {
	dir = filepath.Join(b.dir, "copy-"+strconv.Itoa(rules))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	_, err = lab.WriteCopy(b.ctx, filepath.Join(dir, "replica"), rules)
	return dir, err
}

func limitCommand(b *bench, s setting, dir string, port int) (command, error) {
	// It sends what Fingerpost sends.
	own := s
	own.rules, own.certs = 1, min(s.certs, 1)
	srv, err := b.start(b.fingerpost, own)
	if err != nil {
		return command{}, err
	}
	defer srv.stop()
	answer, err := srv.raw(b.wanted(b.fingerpost, own)[0], s.hangUp)
	if err != nil {
		return command{}, err
	}
	w := b.wanted(b.limit, s)[0]
	text := strings.ReplaceAll(string(answer), "Location: "+oneTo+"\r\n", "Location: "+w.location+"\r\n")
	if err := os.WriteFile(filepath.Join(dir, "answer"), []byte(text), 0o600); err != nil {
		return command{}, err
	}
	c := command{args: []string{b.limitBinary, strconv.Itoa(port), "answer"}}
	if s.deferred {
		c.args = append(c.args, "deferred")
	}
	if s.certs > 0 {
		certs, err := b.certificates(1)
		if err != nil {
			return c, err
		}
		c.args = append(c.args, filepath.Join(certs, oneHost+".pem"))
	}
	return c, nil
}

func nginxCommand(b *bench, s setting, dir string, port int) (command, error) {
	listen := "0.0.0.0:" + strconv.Itoa(port) + " backlog=4096"
	if s.deferred {
		listen += " deferred"
	}
	log := "off"
	if s.log {
		log = "access.log"
	}
	var certs string
	if s.certs > 0 {
		var err error
		if certs, err = b.certificates(s.certs); err != nil {
			return command{}, err
		}
		listen += " ssl"
	}
	err := writeLines(filepath.Join(dir, "nginx.conf"), func(w *bufio.Writer) {
		fmt.Fprintf(w, "daemon off;\nuser root;\nworker_processes 1;\nworker_rlimit_nofile 20000;\npid nginx.pid;\nerror_log stderr;\nevents { worker_connections 10000; }\n"+
			"http {\nssl_protocols TLSv1.2 TLSv1.3;\naccess_log %s;\nkeepalive_requests 1000000000;\nclient_body_temp_path tmp;\nproxy_temp_path tmp;\nfastcgi_temp_path tmp;\nuwsgi_temp_path tmp;\nscgi_temp_path tmp;\n", log)
		one := func(name, cert, location string) {
			fmt.Fprintf(w, "server { listen %s; server_name %s;", listen, name)
			if cert != "" {
				fmt.Fprintf(w, " ssl_certificate %[1]s; ssl_certificate_key %[1]s;", cert)
			}
			fmt.Fprintf(w, " %s }\n", location)
		}
		switch {
		case s.rules > 1:
			file, err := b.once("map-nginx-"+strconv.Itoa(s.rules), func(w *bufio.Writer) {
				for i := range s.rules {
					fmt.Fprintf(w, "%s%s %s;\n", lab.Host(i), lab.Path(i), lab.Target(i))
				}
			})
			if err != nil {
				return // nginx says that it is missing
			}
			fmt.Fprintf(w, "map_hash_max_size 4000000;\nmap_hash_bucket_size 256;\nmap $host$uri $to { include %s; }\n", file)
			one("_", "", "if ($to) { return 301 $to; } return 404;")
		case s.certs > 1:
			fmt.Fprint(w, "server_names_hash_max_size 400000;\nserver_names_hash_bucket_size 128;\n")
			for i := range s.certs {
				if i == 1 { // the socket's options stand once
					listen = "0.0.0.0:" + strconv.Itoa(port) + " ssl"
				}
				one(certHost(i), filepath.Join(certs, certHost(i)+".pem"), "return 301 "+oneTo+";")
			}
		default:
			cert := ""
			if certs != "" {
				cert = filepath.Join(certs, oneHost+".pem")
			}
			one(oneHost, cert, "location = / { return 301 "+oneTo+"; } location / { return 404; }")
		}
		fmt.Fprint(w, "}\n")
	})
	return command{args: []string{"nginx", "-e", "stderr", "-p", dir, "-c", "nginx.conf"}}, err
}

func haproxyCommand(b *bench, s setting, dir string, port int) (command, error) {
	bind := "0.0.0.0:" + strconv.Itoa(port) + " backlog 4096"
	if s.deferred {
		bind += " defer-accept"
	}
	if s.certs > 0 {
		certs, err := b.certificates(s.certs)
		if err != nil {
			return command{}, err
		}
		bind += " ssl crt " + certs
	}
	log := ""
	if s.log {
		log = "  log stdout format raw daemon\n  option httplog\n"
	}
	rule := "  http-request redirect location " + oneTo + " code 301 if { hdr(host) " + oneHost + " } { path / }\n"
	switch {
	case s.rules > 1:
		file, err := b.once("map-haproxy-"+strconv.Itoa(s.rules), func(w *bufio.Writer) {
			for i := range s.rules {
				fmt.Fprintf(w, "%s%s %s\n", lab.Host(i), lab.Path(i), lab.Target(i))
			}
		})
		if err != nil {
			return command{}, err
		}
		rule = "  http-request set-var(txn.to) base,map(" + file + ")\n  http-request redirect location %[var(txn.to)] code 301 if { var(txn.to) -m found }\n"
	case s.certs > 1:
		rule = "  http-request redirect location " + oneTo + " code 301\n"
	}
	config := "global\n  nbthread 1\n  maxconn 9000\n  ssl-default-bind-options ssl-min-ver TLSv1.2\n" +
		"defaults\n  mode http\n  timeout client 60s\n  timeout connect 5s\n  timeout server 60s\n" +
		"frontend f\n  bind " + bind + "\n" + log + rule + "  http-request deny deny_status 404\n"
	return command{args: []string{"haproxy", "-db", "-f", "haproxy.cfg"}}, os.WriteFile(filepath.Join(dir, "haproxy.cfg"), []byte(config), 0o600)
}

func caddyCommand(b *bench, s setting, dir string, port int) (command, error) {
	c := command{args: []string{b.caddyBinary, "run", "--config", filepath.Join(dir, "caddy.json")}, env: []string{"GOMAXPROCS=1", "HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}}
	certs := ""
	if s.certs > 0 {
		var err error
		if certs, err = b.certificates(s.certs); err != nil {
			return c, err
		}
	}
	return c, writeLines(filepath.Join(dir, "caddy.json"), func(w *bufio.Writer) {
		const answer = `{"handler": "static_response", "status_code": 301, "headers": {"Location": [%q]}}`
		fmt.Fprint(w, `{"admin": {"disabled": true, "config": {"persist": false}}, "logging": {"logs": {"default": {"level": "WARN", "exclude": ["http.log.access"]}`)
		if s.log {
			fmt.Fprint(w, `, "access": {"level": "INFO", "include": ["http.log.access"], "writer": {"output": "stdout"}, "encoder": {"format": "json"}}`)
		}
		fmt.Fprintf(w, `}}, "apps": {"http": {"servers": {"s": {"listen": ["0.0.0.0:%d"], "protocols": ["h1", "h2"], "automatic_https": {"disable": true}, `, port)
		if s.log {
			fmt.Fprint(w, `"logs": {}, `)
		}
		if certs != "" {
			fmt.Fprint(w, `"tls_connection_policies": [{}], `)
		}
		fmt.Fprint(w, `"routes": [{`)
		switch {
		case s.rules > 1:
			fmt.Fprint(w, `"handle": [{"handler": "map", "source": "{http.request.host}{http.request.uri.path}", "destinations": ["{to}"], "mappings": [`)
			for i := range s.rules {
				if i > 0 {
					fmt.Fprint(w, ",\n")
				}
				fmt.Fprintf(w, `{"input": "%s%s", "outputs": ["%s"]}`, lab.Host(i), lab.Path(i), lab.Target(i))
			}
			fmt.Fprintf(w, `]}, `+answer+`]`, "{to}")
		case s.certs > 1:
			fmt.Fprintf(w, `"handle": [`+answer+`]`, oneTo)
		default:
			fmt.Fprintf(w, `"match": [{"host": [%q], "path": ["/"]}], "handle": [`+answer+`]`, oneHost, oneTo)
		}
		fmt.Fprint(w, `}]}}}`)
		if certs != "" {
			fmt.Fprintf(w, `, "tls": {"certificates": {"load_folders": [%q]}}`, certs)
		}
		fmt.Fprint(w, `}}`)
	})
}

// The module that Caddy is built from. It needs some two hundred others, which
// tools/go.mod had better not agree with: it is built by itself, at this version.
const (
	caddyModule  = "github.com/caddyserver/caddy/v2"
	caddyVersion = "v2.11.9"
)

// buildCaddy makes the program beside the repository's, once for all runs.
func buildCaddy(ctx context.Context, dir string) (file string, err error) {
	file = filepath.Join(dir, "caddy")
	if info, err := buildinfo.ReadFile(file); err == nil && info.Main.Version == caddyVersion && info.GoVersion == runtime.Version() {
		return file, nil
	}
	build := exec.CommandContext(ctx, "go", "install", caddyModule+"/cmd/caddy@"+caddyVersion)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOBIN="+dir)
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build Caddy: %w: %s", err, tail(string(out)))
	}
	return file, nil
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}
