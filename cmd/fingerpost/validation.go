package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"

	"fingerpost/nameserver"
	"fingerpost/replica"
	"fingerpost/store"
	"fingerpost/zone"
)

// validation is the zone that domains are validated by, and who answers for it.
type validation struct {
	making sync.Mutex               // held while the zone is made: what is newer comes later
	zones  atomic.Pointer[zone.Set] // nil before the first content
	server *nameserver.Server       // nil without a zone
}

// openValidation begins to answer for the zone, where there is one.
func (n *node) openValidation() error {
	apex := n.settings.ACME.ValidationZone
	if apex == "" {
		return nil
	}
	v := &n.certificates.zone
	secret := n.certificates.sealer.Derive("dns cookies")
	v.server = &nameserver.Server{Zones: v.zones.Load, Log: n.log, CookieSecret: [16]byte(secret[:16])}
	if _, err := n.validationZone(0, nil); err != nil { // what is wrong with the settings is said at the start
		return err
	}
	if len(n.settings.Addresses) == 0 {
		n.log.Warn("addresses are not set: the validation zone names no server that others could reach", "zone", apex, "hint", "set addresses to the public addresses of this node")
	}
	n.renewValidation()
	return nil
}

// validationZone makes the zone of the values of challenges.
func (n *node) validationZone(serial uint32, values map[string][]string) (*zone.Zone, error) {
	apex := n.settings.ACME.ValidationZone
	v := zone.Validation{Apex: apex, Serial: serial, Values: values}
	for i, text := range n.settings.Addresses {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			continue // the settings are checked
		}
		v.Servers = append(v.Servers, zone.Server{Host: fmt.Sprintf("ns%d.%s", i+1, apex), Addresses: []netip.Addr{addr}})
	}
	if len(v.Servers) == 0 {
		v.Servers = []zone.Server{{Host: "ns1." + apex, Addresses: []netip.Addr{netip.IPv6Loopback()}}}
	}
	return v.Zone()
}

// zoneProbe is a value that every node gives in the zone, for the check that a CA would
// find the zone. It follows from the cluster's secret, so that nobody has to tell it.
func (n *node) zoneProbe() (label, text string) {
	label = n.challengeLabel("probe.invalid")
	return label, "fingerpost-" + short(label)
}

// renewValidation brings the values that are in the node's own copy into the zone.
func (n *node) renewValidation() {
	v := &n.certificates.zone
	if v.server == nil {
		return
	}
	v.making.Lock()
	defer v.making.Unlock()
	at, ok := n.shared.replica.Cursor()
	if !ok {
		return
	}
	label, probe := n.zoneProbe()
	values := map[string][]string{label: {probe}}
	for it, err := range n.shared.replica.Scan(store.KindChallenge, "dns-01/") {
		var c challenge
		if err == nil {
			err = json.Unmarshal(it.Value, &c)
		}
		if err != nil {
			n.log.Error("the validation zone cannot be renewed", "err", err)
			return
		}
		label, _, _ := strings.Cut(strings.TrimPrefix(it.Key, "dns-01/"), "/")
		values[label] = append(values[label], c.TXT)
	}
	z, err := n.validationZone(uint32(at.Rev), values)
	if err == nil {
		var set *zone.Set
		if set, err = zone.NewSet(z); err == nil {
			v.zones.Store(set)
		}
	}
	if err != nil {
		n.log.Error("the validation zone cannot be renewed", "err", err)
	}
}

// itemsChanged is called by the node's own copy when items may be others; nil means all
// of them.
func (n *node) itemsChanged(changes []replica.Change) {
	if !n.certificates.open.Load() {
		return // all of them are looked at once it is
	}
	dns := changes == nil
	for i := range changes {
		it := &changes[i].Item
		dns = dns || it.Kind == store.KindChallenge && strings.HasPrefix(it.Key, "dns-01/")
	}
	if dns {
		n.renewValidation()
	}
	n.certificates.wanted.note(changes)
	n.certificatesChanged(changes)
	n.tellNews() // the table may be the same
}

// serveDNS answers over UDP and TCP at one address, until the node stops.
func (n *node) serveDNS(l net.Listener, _ net.PacketConn) error {
	server := n.certificates.zone.server
	failed := make(chan error, 2)
	go func() { failed <- server.ServeUDP(l.(*dnsListener).udp) }()
	go func() { failed <- server.ServeTCP(l.(*dnsListener).Listener) }()
	err := <-failed
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// dnsListener is one address for both transports.
type dnsListener struct {
	net.Listener
	udp *net.UDPConn
}

func (l *dnsListener) Close() error { return errors.Join(l.Listener.Close(), l.udp.Close()) }

// listenDNS listens over TCP, then over UDP at the same port.
func listenDNS(addr string) (net.Listener, error) {
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	at := tcp.Addr().(*net.TCPAddr)
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: at.IP, Port: at.Port, Zone: at.Zone})
	if err != nil {
		tcp.Close()
		return nil, err
	}
	return &dnsListener{tcp, udp}, nil
}
