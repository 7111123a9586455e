package server

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"ctd/conntrack/conntracktest"
	"ctd/helper"
)

// TestKernelDoctorHelper: what keeps a second helper from starting is told by the errors of the first's
// kernel, and the doctor's commands, run by sh as they are, show who is in the way.
func TestKernelDoctorHelper(t *testing.T) {
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	open := func(queue uint16) *Server {
		t.Helper()
		s := kernelServer(t, ns.Name())
		cfg, wrong := defaultSettings().config()
		if wrong != nil {
			t.Fatal(wrong)
		}
		cfg.RTSP.Enabled, cfg.RTSP.Helper.Queue = true, queue
		s.helper = newRTSPHelper(cfg.RTSP, s.logger)
		s.openHelper(t.Context(), s.table.(helper.Table))
		t.Cleanup(s.helper.close)
		return s
	}
	first := open(554)
	if st, err := first.helper.status(); st == nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(os.Getpid())
	for _, tt := range []struct {
		name    string
		queue   uint16
		message string
		shows   string
	}{
		{"queue taken", 554, "another program may read queue 554", ""},
		{"other helper", 555, "process " + pid + " is the RTSP helper", pid},
	} {
		got := finding(t, open(tt.queue), "rtsp_helper")
		if got.Severity != severityError || !strings.Contains(got.Message, tt.message) {
			t.Errorf("%s: %+v, want %q", tt.name, got, tt.message)
		}
		out, err := exec.Command("sh", "-c", got.Mend).CombinedOutput()
		if err != nil || len(out) == 0 || !strings.Contains(string(out), tt.shows) {
			t.Errorf("%s: %s: %v\n%s", tt.name, got.Mend, err, out)
		}
		if tt.shows == "" && !strings.Contains(got.Mend, "awk") {
			t.Errorf("%s: mended by %s", tt.name, got.Mend)
		}
	}
	out, err := exec.Command("sh", "-c", first.helperMend(&helper.OtherHelperError{})).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "pid="+pid) {
		t.Errorf("where the process isn't known: %v\n%s", err, out)
	}
}

// TestKernelHelperOff: a daemon whose helper is off deletes what one left behind that was killed.
func TestKernelHelperOff(t *testing.T) {
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	ns.Nft("table inet ctd_rtsp { }\ntable inet ctd_rtsp_manual { }")
	s := kernelServer(t, ns.Name())
	s.openHelper(t.Context(), s.table.(helper.Table))
	if list := ns.Exec("nft", "list", "tables"); strings.Contains(list, "ctd_rtsp\n") || !strings.Contains(list, "ctd_rtsp_manual") {
		t.Errorf("tables:\n%s", list)
	}
}
