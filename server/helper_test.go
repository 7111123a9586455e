package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"ctd/clients/ctdclient"
	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
	"ctd/helper"
	"ctd/rpc/wire"
)

// fakeEngine is a helper that does nothing.
type fakeEngine struct {
	status   helper.Status
	sessions []helper.Session
	end      chan error // what Run returns before its context ends
	closed   atomic.Int32
}

func newFakeEngine() *fakeEngine {
	return &fakeEngine{end: make(chan error, 1), status: helper.Status{
		Strategy: helper.StrategyHybrid, KernelHelper: "Q.931", ExpectMax: 20, Function: "sip", Interception: "nft", TableName: "ctd_rtsp",
		Queue: 554, Ports: []uint16{554, 8554}, Started: time.Unix(1_800_000_000, 0),
		Connections: 3, Sessions: 2, Streams: 4, Expects: 8, Flows: 6, Counters: helper.Counters{Packets: 1, Ended: 5_000_000_000},
	}}
}

func (e *fakeEngine) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-e.end:
		return err
	}
}

func (e *fakeEngine) Status() helper.Status      { return e.status }
func (e *fakeEngine) Sessions() []helper.Session { return e.sessions }
func (e *fakeEngine) Close() error               { e.closed.Add(1); return nil }

// withHelper is a fixture with the helper enabled, whose openings give, one after the other, an engine
// or an error; the last of them for ever.
func withHelper(t testing.TB, results ...any) *fixture {
	t.Helper()
	cfg, wrong := defaultSettings().config()
	if wrong != nil {
		t.Fatal(wrong)
	}
	cfg.Socket, cfg.RTSP.Enabled = "", true
	f := newFixture(t, cfg)
	f.helper.retry = 10 * time.Millisecond
	f.helper.open = func(context.Context, helper.Config) (engine, error) {
		next := results[0]
		if len(results) > 1 {
			results = results[1:]
		}
		if err, ok := next.(error); ok {
			return nil, err
		}
		return next.(*fakeEngine), nil
	}
	return f
}

func helperClient(t testing.TB, r *running) *ctdclient.Client {
	t.Helper()
	c, err := ctdclient.New(ctdclient.Config{Server: "unix://" + r.sock})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestHelperRetried: a helper that can't start is tried again, and so is one that ends; the daemon goes
// on, and at its end the helper is closed once.
func TestHelperRetried(t *testing.T) {
	first, second := newFakeEngine(), newFakeEngine()
	busyErr := fmt.Errorf("bind queue 554: %w", helper.ErrQueueTaken)
	f := withHelper(t, busyErr, busyErr, first, second)
	f.helper.start(t.Context())
	r := f.start(t)
	c := helperClient(t, r)
	conntracktest.Eventually(t, "the helper runs", func() bool {
		st, err := c.HelperStatus(t.Context())
		return err == nil && st.Running
	})
	if n := len(f.log.events(t, "the RTSP helper does not run")); n != 1 {
		t.Errorf("the same failure was told %d times", n)
	}
	first.end <- errors.New("the queue is gone")
	conntracktest.Eventually(t, "it runs again", func() bool { return f.helper.engine() == engine(second) })
	if first.closed.Load() != 1 {
		t.Errorf("what had ended was closed %d times", first.closed.Load())
	}
	if e := f.log.events(t, "the RTSP helper does not run"); len(e) != 2 || !strings.Contains(fmt.Sprint(e[1]["error"]), "the queue is gone") {
		t.Errorf("log: %v", e)
	}
	r.stop()
	if err := r.wait(t); err != nil {
		t.Error(err)
	}
	if second.closed.Load() != 1 {
		t.Errorf("at the end it was closed %d times", second.closed.Load())
	}
}

func TestHelperStatus(t *testing.T) {
	wantSettings := wire.HelperSettings{
		Install: true, Ports: []uint16{554, 8554, 7070}, Queue: 554, Families: []string{"ipv4", "ipv6"}, Interfaces: []string{},
		MarkBit: 1 << 30, MaxSessions: 4096, MaxSessionsPerClient: 32,
	}
	off := withHelper(t, errors.New("never"))
	off.helper.cfg.Enabled = false
	broken := withHelper(t, fmt.Errorf("bind queue 554: %w", helper.ErrQueueTaken))
	broken.helper.start(t.Context())
	on := withHelper(t, newFakeEngine())
	on.helper.start(t.Context())
	for name, c := range map[string]struct {
		f    *fixture
		want wire.HelperStatusResult
	}{
		"off": {off, wire.HelperStatusResult{Settings: wantSettings, Reason: "not enabled", Hint: howToEnable}},
		"broken": {broken, wire.HelperStatusResult{
			Enabled: true, Settings: wantSettings, Reason: "start the RTSP helper: bind queue 554: another program reads the queue",
			Hint: "another program may read queue 554: stop it, or set helper.rtsp.queue to another number",
		}},
		"on": {on, wire.HelperStatusResult{
			Enabled: true, Running: true, Settings: wantSettings,
			Setup: &wire.HelperSetup{
				Strategy: "hybrid", KernelHelper: "Q.931", ExpectMax: 20, Function: "sip", Interception: "nft", Table: "ctd_rtsp",
				Started: time.Unix(1_800_000_000, 0).UTC(),
			},
			Current:  &wire.HelperCurrent{Connections: 3, Sessions: 2, Streams: 4, Expects: 8, Flows: 6},
			Counters: &wire.HelperCounters{Packets: 1, Ended: 5_000_000_000},
		}},
	} {
		got, err := c.f.helperStatus(t.Context())
		if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
		rules, err := c.f.helperRules(t.Context(), "nft")
		if err != nil || rules.Form != "nft" || rules.Rules == "" {
			t.Errorf("%s: rules %+v, %v", name, rules, err)
		}
		if sessions, err := c.f.helperSessions(t.Context()); err != nil || sessions.Sessions == nil || len(sessions.Sessions) != 0 {
			t.Errorf("%s: sessions %+v, %v", name, sessions, err)
		}
	}
}

func TestHelperSessions(t *testing.T) {
	addr, endpoint := netip.MustParseAddr, netip.MustParseAddrPort
	udp := func(src string, sport uint16, dst string, dport uint16) conntrack.Tuple {
		return conntrack.Tuple{Proto: conntrack.UDP, Src: addr(src), Dst: addr(dst), SrcPort: sport, DstPort: dport}
	}
	e := newFakeEngine()
	e.sessions = []helper.Session{
		{
			Client: endpoint("10.0.0.7:40000"), Server: endpoint("192.0.2.1:554"), Zone: 3, ID: "abc", Version: "1.0", State: "playing",
			Control:   conntrack.Tuple{Proto: conntrack.TCP, Src: addr("10.0.0.7"), Dst: addr("192.0.2.1"), SrcPort: 40000, DstPort: 554},
			UserAgent: "box", Started: time.Unix(5, 0), Streams: []helper.Stream{{
				URL: "rtsp://192.0.2.1/a", ClientAddr: addr("10.0.0.7"), ClientPorts: []uint16{5000, 5001},
				PublicAddr: addr("198.51.100.1"), PublicPorts: []uint16{5002, 5003}, Rewritten: true,
				Expects: []conntrack.Tuple{udp("192.0.2.1", 0, "198.51.100.1", 5002)},
				Flows:   []conntrack.Tuple{udp("192.0.2.1", 6000, "198.51.100.1", 5003)},
			}},
		},
		{Client: endpoint("[fd00::7]:1"), State: "ready", Adopted: true},
	}
	f := withHelper(t, e)
	f.helper.start(t.Context())
	got, err := helperClient(t, f.start(t)).HelperSessions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	port := func(n uint16) *uint16 { return &n }
	want := &wire.HelperSessionsResult{Sessions: []wire.HelperSession{
		{
			Client: "10.0.0.7:40000", Server: "192.0.2.1:554", Zone: 3, ID: "abc", Version: "1.0", State: "playing", UserAgent: "box",
			Control: &wire.Tuple{Protocol: "tcp", Src: "10.0.0.7", Dst: "192.0.2.1", SPort: port(40000), DPort: port(554)},
			Started: time.Unix(5, 0).UTC(), Streams: []wire.HelperStream{{
				URL: "rtsp://192.0.2.1/a", ClientAddr: "10.0.0.7", ClientPorts: []uint16{5000, 5001},
				PublicAddr: "198.51.100.1", PublicPorts: []uint16{5002, 5003}, Rewritten: true,
				Expects: []wire.Tuple{{Protocol: "udp", Src: "192.0.2.1", Dst: "198.51.100.1", DPort: port(5002)}},
				Flows:   []wire.Tuple{{Protocol: "udp", Src: "192.0.2.1", Dst: "198.51.100.1", SPort: port(6000), DPort: port(5003)}},
			}},
		},
		{Client: "[fd00::7]:1", State: "ready", Adopted: true, Streams: []wire.HelperStream{}},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestDoctorHelper(t *testing.T) {
	flows := newFakeEngine()
	flows.status.Strategy, flows.status.KernelHelper, flows.status.Function = helper.StrategyFlows, "", ""
	noSIP := newFakeEngine()
	noSIP.status.Function = "nat-follow-master"
	lost := newFakeEngine()
	lost.status.Interfaces = []string{"lo", "no-such0", "no-such1"}
	manual := newFakeEngine()
	manual.status.Interception, manual.status.Counters.Packets = "manual", 0
	fed := newFakeEngine()
	fed.status.Interception = "manual"
	limited := newFakeEngine()
	limited.status.Counters.Limited, limited.status.MaxSessions, limited.status.MaxSessionsPerClient = 7, 10, 2
	own := newFakeEngine()
	own.status.Strategy, own.status.KernelHelper = helper.StrategyHelper, "ctd-rtsp"
	for name, c := range map[string]struct {
		result        any // of opening; nil where it is off
		events        string
		severity      string
		message, mend string // parts
	}{
		"off":            {nil, "1", severityInfo, "--rtsp", ""},
		"hybrid":         {newFakeEngine(), "1", severityOK, "ports 554, 8554; media are let in by expectations at the request, by way of the kernel's helper Q.931", ""},
		"own helper":     {own, "2", severityOK, "helper of its own in the kernel (ctd-rtsp)", ""},
		"flows":          {flows, "1", severityWarning, "without a helper in the kernel", "modprobe nf_conntrack_h323 && systemctl restart ctd"},
		"no sip":         {noSIP, "1", severityWarning, "function sip", "modprobe nf_nat_sip && systemctl restart ctd"},
		"no events":      {newFakeEngine(), "0", severityWarning, "connections that end", "sysctl -w net.netfilter.nf_conntrack_events=1"},
		"both":           {noSIP, "0", severityWarning, "function sip", "sysctl -w net.netfilter.nf_conntrack_events=1 && modprobe nf_nat_sip && systemctl restart ctd"},
		"no event there": {newFakeEngine(), "", severityOK, "", ""},
		"no interface":   {lost, "1", severityWarning, "there is no interface no-such0, no-such1, which helper.rtsp.interfaces names", "ip -br link"},
		"no rules":       {manual, "1", severityWarning, "no packet has come by the queue yet", "ctd helper rules | nft -f -"},
		"rules":          {fed, "1", severityOK, "", ""},
		"limited":        {limited, "1", severityWarning, "limits were met 7 times since it was started: helper.rtsp.max_sessions (10) and max_sessions_per_client (2)", ""},
		"other helper":   {fmt.Errorf("begin: %w", &helper.OtherHelperError{PID: 77}), "1", severityError, "process 77 is the RTSP helper of this network namespace", "ps -o pid,user,lstart,args -p 77"},
		"other, hidden":  {&helper.OtherHelperError{}, "1", severityError, "another process is the RTSP helper", "ss -xlp src @ctd_rtsp"},
		"busy":           {fmt.Errorf("bind: %w", helper.ErrQueueTaken), "1", severityError, "bind: another program reads the queue; another program may read queue 554", "nfnetlink_queue"},
		"no NFQUEUE":     {fmt.Errorf("bind: %w", unix.EOPNOTSUPP), "1", severityError, "the kernel may lack NFQUEUE", "modprobe -a nfnetlink_queue nft_queue"},
		"anything else":  {errors.New("oops"), "1", severityError, "oops", "systemctl restart ctd"},
	} {
		f := withHelper(t, c.result)
		if c.events != "" {
			f.fake.sysctls["nf_conntrack_events"] = c.events
		}
		if f.helper.cfg.Enabled = c.result != nil; c.result != nil {
			f.helper.start(t.Context())
		}
		got := finding(t, f.Server, "rtsp_helper")
		if got.Severity != c.severity || !strings.Contains(got.Message, c.message) || !strings.Contains(got.Mend, c.mend) || (c.mend == "") != (got.Mend == "") {
			t.Errorf("%s: %+v, want %s, %q, %q", name, got, c.severity, c.message, c.mend)
		}
	}
}
