package server

import (
	"context"
	"errors"
	"fmt"
	"os"
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
	if weak, mends := s.helperWeaknesses(st); len(weak) > 0 {
		f.Severity = severityWarning
		f.Message += "; but " + strings.Join(weak, "; ")
		f.Mend = strings.Join(mends, " && ")
	}
	return f
}

// helperMend is the command that mends what keeps the helper from running, or that shows it.
func (s *Server) helperMend(err error) string {
	switch {
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
