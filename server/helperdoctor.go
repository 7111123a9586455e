package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"ctd/helper"
	"ctd/rpc/wire"
)

// checkHelper looks whether the RTSP helper runs where it is enabled, and how well it can work here.
func (s *Server) checkHelper(context.Context) wire.Finding {
	h := s.helper
	f := wire.Finding{Check: "rtsp_helper", Severity: severityOK}
	st, err := h.status()
	switch {
	case st == nil && !h.cfg.Enabled:
		f.Severity, f.Message = severityInfo, "the RTSP helper is off; "+howToEnable
		return f
	case st == nil:
		if err == nil {
			err = errors.New("it is being started")
		}
		f.Severity, f.Message = severityError, "the RTSP helper is enabled and does not run: "+err.Error()+"; "+h.hint(err)
		f.Mend = s.helperMend(err)
		return f
	}
	f.Message = "the RTSP helper follows connections to " + portsText(st.Ports) + "; " + strategyText(st)
	blind, looks := s.helperBlindness(st)
	weak, mends := s.helperWeaknesses(st)
	if weak, mends = append(blind, weak...), append(looks, mends...); len(weak) > 0 {
		f.Severity = severityWarning
		f.Message += "; but " + strings.Join(weak, "; ")
		f.Mend = strings.Join(mends, " && ")
	}
	return f
}

// helperBlindness says why the helper may see nothing, or too little, of what it should, and the commands
// that mend or show it.
func (s *Server) helperBlindness(st *helper.Status) (blind, mends []string) {
	if missing := s.missingInterfaces(st.Interfaces); len(missing) > 0 {
		blind = append(blind, "there is no interface "+strings.Join(missing, ", ")+", which helper.rtsp.interfaces names: nothing that comes by it is seen")
		mends = append(mends, s.inNetNS("ip -br link"))
	}
	if st.Interception == "manual" && st.Counters.Packets == 0 {
		blind = append(blind, "no packet has come by the queue yet: with install = false the rules are yours to install")
		mends = append(mends, "ctd helper rules | "+s.inNetNS("nft -f -"))
	}
	if n := st.Counters.Limited; n > 0 {
		blind = append(blind, fmt.Sprintf("limits were met %d times since it was started: helper.rtsp.max_sessions (%d) and max_sessions_per_client (%d) can be raised, other limits can't",
			n, st.MaxSessions, st.MaxSessionsPerClient))
	}
	return blind, mends
}

// missingInterfaces returns those of the names that no interface of the managed namespace has.
func (s *Server) missingInterfaces(names []string) (missing []string) {
	_ = s.table.InNetNS(func() error {
		all, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, name := range names {
			if !slices.ContainsFunc(all, func(i net.Interface) bool { return i.Name == name }) {
				missing = append(missing, name)
			}
		}
		return nil
	})
	return missing
}

// helperMend is the command that mends what keeps the helper from running, or that shows it.
func (s *Server) helperMend(err error) string {
	pid, other := otherHelper(err)
	switch {
	case other && pid > 0:
		return fmt.Sprintf("ps -o pid,user,lstart,args -p %d", pid)
	case other:
		return s.inNetNS("ss -xlp src @" + helper.TableName)
	case busy(err):
		// The second column is the netlink port of who reads the queue, which mostly is its process id.
		return s.inNetNS(fmt.Sprintf("awk '$1 == %d {print $2}' /proc/net/netfilter/nfnetlink_queue", s.helper.cfg.Helper.Queue))
	case errors.Is(err, os.ErrPermission):
		return "setcap cap_net_admin,cap_net_raw+ep " + executable()
	case unsupported(err):
		return "modprobe -a nfnetlink_queue nft_queue"
	}
	return "systemctl restart ctd"
}

// strategyText says how media are let in.
func strategyText(st *helper.Status) string {
	switch st.Strategy {
	case helper.StrategyHelper:
		return fmt.Sprintf("media are let in by a helper of its own in the kernel (%s)", st.KernelHelper)
	case helper.StrategyHybrid:
		return fmt.Sprintf("media are let in by expectations at the request, by way of the kernel's helper %s, and by related flows at the reply", st.KernelHelper)
	case helper.StrategyFlows:
		return "media are let in by related flows at the reply"
	}
	return "media are let in by " + string(st.Strategy)
}

func portsText(ports []uint16) string {
	word := "port"
	if len(ports) != 1 {
		word = "ports"
	}
	return word + " " + strings.Trim(strings.ReplaceAll(fmt.Sprint(ports), " ", ", "), "[]")
}

// helperWeaknesses says what the helper can't do here, and the commands that mend it from the daemon's
// next start on.
func (s *Server) helperWeaknesses(st *helper.Status) (weak, mends []string) {
	if st.Strategy == helper.StrategyFlows {
		weak = append(weak, "without a helper in the kernel there are no expectations, so media that come before the server's reply was seen, or from ports that it doesn't name, are not let in")
		mends = append(mends, "modprobe nf_conntrack_h323")
	} else if st.Function != "sip" {
		weak = append(weak, "the kernel hasn't the function sip for expectations, so the sources of expected media may be rewritten")
		mends = append(mends, "modprobe nf_nat_sip")
	}
	if len(mends) > 0 {
		mends = append(mends, "systemctl restart ctd") // it is looked for at the start
	}
	if value, err := s.table.Sysctl("nf_conntrack_events"); err == nil && value == "0" {
		weak = append(weak, "the kernel doesn't tell of connections that end, so what was let in for them may stay for a minute longer")
		mends = append([]string{s.sysctlCommand("nf_conntrack_events", "1")}, mends...)
	}
	return weak, mends
}
