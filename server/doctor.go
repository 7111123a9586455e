package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"ctd/conntrack"
	"ctd/conntrack/cut"
	"ctd/helper"
	"ctd/rpc/wire"
)

// Severities of a finding.
const (
	severityOK      = "ok"
	severityInfo    = "info"
	severityWarning = "warning"
	severityError   = "error"
)

// The table is nearly full from these parts of its size on.
const (
	fullWarning = 0.80
	fullError   = 0.95
)

// doctor answers server.doctor: what keeps the table from being useful, and how to mend it.
func (s *Server) doctor(ctx context.Context) (wire.DoctorResult, error) {
	checks := []func(context.Context) wire.Finding{
		s.checkCapabilities, s.checkActive, s.checkFull,
		func(context.Context) wire.Finding {
			return s.checkSysctl("accounting", "nf_conntrack_acct", "1", severityWarning,
				"flows have no packet and byte counts", "flows begun from now on have packet and byte counts")
		},
		func(context.Context) wire.Finding {
			return s.checkSysctl("timestamps", "nf_conntrack_timestamp", "1", severityWarning,
				"flows have no start time, so the filter age matches nothing", "flows begun from now on have a start time")
		},
		s.checkEvents, s.checkLoose, s.checkCut, s.checkEncryption, s.checkUsers, s.checkHelper, s.checkAudit,
	}
	if s.reloads != nil {
		checks = append(checks, s.checkConfiguration)
	}
	if _, err := s.table.Stats(ctx); errors.Is(err, conntrack.ErrNetNSGone) {
		// The other checks would speak of a namespace that nobody means any more.
		return wire.DoctorResult{Findings: []wire.Finding{{
			Check: "netns", Severity: severityError, Mend: "systemctl restart ctd",
			Message: "the namespace " + s.cfg.NetNS + " was deleted or made anew since the daemon was started; restart the daemon",
		}}}, nil
	}
	result := wire.DoctorResult{Healthy: true}
	for _, check := range checks {
		f := check(ctx)
		result.Findings = append(result.Findings, f)
		if f.Severity == severityWarning || f.Severity == severityError {
			result.Healthy = false
		}
	}
	return result, nil
}

// sysctlCommand is the command that sets a setting in the managed namespace.
func (s *Server) sysctlCommand(name, value string) string {
	return s.inNetNS(fmt.Sprintf("sysctl -w net.netfilter.%s=%s", name, value))
}

// inNetNS puts before a command what runs it in the managed namespace.
func (s *Server) inNetNS(command string) string {
	switch {
	case s.cfg.NetNS == "":
		return command
	case strings.Contains(s.cfg.NetNS, "/"):
		return "nsenter --net=" + s.cfg.NetNS + " " + command
	}
	return "ip netns exec " + s.cfg.NetNS + " " + command
}

// checkSysctl looks whether a setting has the value that makes the table useful.
func (s *Server) checkSysctl(check, name, want, severity, without, with string) wire.Finding {
	value, err := s.table.Sysctl(name)
	switch {
	case err != nil:
		return wire.Finding{Check: check, Severity: severityInfo, Message: "the kernel was built without net.netfilter." + name}
	case value == want:
		return wire.Finding{Check: check, Severity: severityOK, Message: with}
	}
	return wire.Finding{
		Check: check, Severity: severity, Message: fmt.Sprintf("net.netfilter.%s is %s: %s", name, value, without),
		Mend: s.sysctlCommand(name, want),
	}
}

// checkEvents looks at nf_conntrack_events: 0 off, 1 on, 2 on while somebody listens.
func (s *Server) checkEvents(context.Context) wire.Finding {
	if value, err := s.table.Sysctl("nf_conntrack_events"); err == nil && value != "0" {
		return wire.Finding{Check: "events", Severity: severityOK, Message: "the kernel tells of flows that begin, change and end"}
	}
	// Kernels before 5.19 have no 2.
	return s.checkSysctl("events", "nf_conntrack_events", "1", severityWarning,
		"nobody is told of flows that begin, change and end", "")
}

// checkLoose looks at tcp_loose, which makes a new entry of a packet in the middle of a
// connection.
func (s *Server) checkLoose(context.Context) wire.Finding {
	f := s.checkSysctl("tcp_loose", "nf_conntrack_tcp_loose", "0", severityInfo,
		"an established TCP connection whose entry is killed goes on with a new entry at its next packet",
		"an established TCP connection whose entry is killed is not picked up again")
	if f.Mend != "" {
		f.Message += "; with 0 such packets are invalid, also after a restart of the router"
	}
	return f
}

func (s *Server) checkFull(ctx context.Context) wire.Finding {
	stats, err := s.table.Stats(ctx)
	if err != nil || stats.Max == 0 {
		return wire.Finding{Check: "table_size", Severity: severityError, Message: "the table's size can't be read"}
	}
	f := wire.Finding{Check: "table_size", Severity: severityOK}
	part := float64(stats.Entries) / float64(stats.Max)
	f.Message = fmt.Sprintf("%d of %d entries are in use (%.0f%%)", stats.Entries, stats.Max, 100*part)
	switch {
	case part >= fullError:
		f.Severity = severityError
	case part >= fullWarning:
		f.Severity = severityWarning
	default:
		return f
	}
	f.Message += ": when it is full, new connections are dropped"
	// The limit of the whole machine is set in its first namespace.
	f.Mend = fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d", 2*stats.Max)
	return f
}

// checkCapabilities looks at what the process may do.
func (s *Server) checkCapabilities(context.Context) wire.Finding {
	f := wire.Finding{Check: "capabilities", Severity: severityOK, Message: "the daemon has CAP_NET_ADMIN"}
	have, err := effectiveCapabilities()
	if err != nil {
		return wire.Finding{Check: "capabilities", Severity: severityInfo, Message: "the capabilities can't be read"}
	}
	if have&(1<<unix.CAP_NET_ADMIN) == 0 {
		f.Severity, f.Message = severityError, "the daemon has no CAP_NET_ADMIN: the kernel refuses every change"
		f.Mend = "setcap cap_net_admin,cap_net_raw+ep " + executable()
	} else if s.cfg.NetNS != "" && have&(1<<unix.CAP_SYS_ADMIN) == 0 {
		f.Severity, f.Message = severityError, "the daemon has no CAP_SYS_ADMIN, which --netns needs"
		f.Mend = "setcap cap_net_admin,cap_net_raw,cap_sys_admin+ep " + executable()
	}
	return f
}

// checkCut looks at what it needs to let ends of connections that are silent know that they were cut.
func (s *Server) checkCut(context.Context) wire.Finding {
	f := wire.Finding{Check: "cut", Severity: severityOK, Message: "connections can be cut, and both ends be told at once"}
	if s.cutter == nil {
		return wire.Finding{
			Check: "cut", Severity: severityInfo,
			Message: "connections can't be cut: nf_tables could not be used when the daemon was started; its log says why",
		}
	}
	have, err := effectiveCapabilities()
	if err != nil {
		return wire.Finding{Check: "cut", Severity: severityInfo, Message: "the capabilities can't be read"}
	}
	if have&(1<<unix.CAP_NET_RAW) == 0 {
		f.Severity = severityWarning
		f.Message = "the daemon has no CAP_NET_RAW: an end of a connection that is cut learns of it only at its next packet, and one that is silent for longer than the cut never"
		f.Mend = "setcap cap_net_admin,cap_net_raw+ep " + executable()
	}
	return f
}

func executable() string {
	path, err := os.Executable()
	if err != nil {
		return "/usr/bin/ctd"
	}
	return path
}

// effectiveCapabilities returns the process's effective set (capget(2)), the first 64 bits.
func effectiveCapabilities() (uint64, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("capget: %w", err)
	}
	return uint64(data[0].Effective) | uint64(data[1].Effective)<<32, nil
}

// checkActive looks whether anything makes the kernel track connections in this namespace: it
// does so only while a rule asks for it. Entries alone show nothing, as they outlive the rule.
func (s *Server) checkActive(ctx context.Context) wire.Finding {
	f := wire.Finding{Check: "active", Severity: severityOK}
	held, n := "the table is empty", 0
	if stats, err := s.table.Stats(ctx); err != nil {
		held = "the table does not answer"
	} else if n = int(stats.Entries); n > 0 {
		held = "the table has " + entries(n)
	}
	legacy, unread, err := s.legacyTables()
	rule := ""
	if slices.Contains(legacy, "nat") {
		rule = "the nat table of iptables"
	} else if err == nil {
		rule, err = s.trackingRule()
	}
	switch {
	case rule != "":
		f.Message = "connections are tracked, because of " + rule + "; " + held
		return f
	case err != nil:
		f.Severity, f.Message = severityInfo, held+", and the rules could not be read: "+reason(err)
		return f
	case len(legacy) > 0:
		f.Severity = severityInfo
		f.Message = held + ", and no rule of nft makes the kernel track connections; whether one of iptables-legacy does " +
			"(table " + strings.Join(legacy, ", ") + ") can't be told: see iptables-legacy-save and ip6tables-legacy-save"
		return f
	case unread:
		f.Severity = severityWarning
		f.Message = held + ", and no rule of nft makes the kernel track connections; whether one of iptables-legacy does only root may read"
	default:
		f.Severity = severityError
		f.Message = held + ", and no rule in this namespace makes the kernel track connections"
	}
	if n > 0 {
		f.Severity = severityInfo
		f.Message += "; what there is may be left over"
	}
	// One word of the shell's, so that nothing of it depends on which shell that is.
	f.Mend = s.inNetNS(`nft 'table inet track { chain c { type filter hook prerouting priority 0; ct state new; }; chain o { type filter hook output priority 0; ct state new; }; }'`)
	return f
}

func entries(n int) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}

// reason is an error without the wrapping that only a developer understands.
func reason(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err.Error()
		}
		err = inner
	}
}

// trackingRule returns what in nft makes the kernel track connections, in words; empty for
// nothing.
func (s *Server) trackingRule() (string, error) {
	var opts []nftables.ConnOption
	if ns := s.table.NetNS(); ns != nil {
		opts = append(opts, nftables.WithNetNSFd(int(ns.Fd())))
	}
	c, err := nftables.New(opts...)
	if err != nil {
		return "", fmt.Errorf("open nftables: %w", err)
	}
	chains, err := c.ListChains()
	if err != nil {
		return "", fmt.Errorf("list chains: %w", err)
	}
	for _, chain := range chains {
		if strings.HasPrefix(chain.Table.Name, cut.TablePrefix) || strings.HasPrefix(chain.Table.Name, helper.TableName) {
			continue // ours: it goes again
		}
		if chain.Type == nftables.ChainTypeNAT {
			return fmt.Sprintf("the nat chain %s of the nft table %s", chain.Name, chain.Table.Name), nil
		}
		rules, err := c.GetRules(chain.Table, chain)
		if err != nil {
			return "", fmt.Errorf("list rules: %w", err)
		}
		for _, rule := range rules {
			if tracks(rule) {
				return fmt.Sprintf("a rule in chain %s of the nft table %s", chain.Name, chain.Table.Name), nil
			}
		}
	}
	return "", nil
}

// tracks tells whether a rule makes the kernel track connections.
func tracks(rule *nftables.Rule) bool {
	for _, e := range rule.Exprs {
		switch e := e.(type) {
		case *expr.Ct, *expr.NAT, *expr.Masq, *expr.Redir, *expr.Connlimit, *expr.CtExpect:
			return true
		case *expr.Match: // of xtables through nft
			if trackingExtensions[e.Name] {
				return true
			}
		case *expr.Target:
			if trackingExtensions[e.Name] {
				return true
			}
		}
	}
	return false
}

// trackingExtensions are the matches and targets of xtables that need connection tracking.
var trackingExtensions = map[string]bool{
	"conntrack": true, "state": true, "connmark": true, "connbytes": true, "connlabel": true,
	"connlimit": true, "helper": true, "cluster": true, "CT": true, "CONNMARK": true,
	"CONNSECMARK": true, "MASQUERADE": true, "SNAT": true, "DNAT": true, "REDIRECT": true,
	"NETMAP": true, "SYNPROXY": true,
}

// legacyTables returns the xtables tables that are loaded without nft. The kernel lists their
// names, to root alone: unread says that it didn't to this process. Of them the nat table tracks
// by itself.
func (s *Server) legacyTables() (tables []string, unread bool, err error) {
	err = s.table.InNetNS(func() error {
		for _, name := range []string{"ip_tables_names", "ip6_tables_names"} {
			b, err := os.ReadFile("/proc/thread-self/net/" + name)
			switch {
			case errors.Is(err, os.ErrPermission):
				unread = true
			case err != nil && !errors.Is(err, os.ErrNotExist): // it isn't there where xtables is not
				return err
			}
			tables = append(tables, strings.Fields(string(b))...)
		}
		return nil
	})
	slices.Sort(tables)
	return slices.Compact(tables), unread, err
}
