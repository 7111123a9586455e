package server

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"ctd/rpc/wire"
)

// info answers server.info.
func (s *Server) info(ctx context.Context) (wire.InfoResult, error) {
	if _, err := s.table.Stats(ctx); err != nil {
		return wire.InfoResult{}, err
	}
	result := wire.InfoResult{
		Version: s.cfg.Version, NetNS: s.cfg.NetNS, Started: s.started,
		Capabilities: map[string]bool{
			"accounting": s.sysctlOn("nf_conntrack_acct"),
			"timestamps": s.sysctlOn("nf_conntrack_timestamp"),
			"events":     s.sysctlOn("nf_conntrack_events"),
			"tcp_loose":  s.sysctlOn("nf_conntrack_tcp_loose"),
		},
	}
	result.Hostname, _ = os.Hostname() // empty where the kernel doesn't say
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		result.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	return result, nil
}

// sysctlOn tells whether a setting of net.netfilter is there and not 0.
func (s *Server) sysctlOn(name string) bool {
	value, err := s.table.Sysctl(name)
	return err == nil && value != "0"
}
