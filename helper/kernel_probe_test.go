package helper

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"ctd/conntrack"
	"ctd/conntrack/conntracktest"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// kernelHelpers returns the kernel's user-space helpers that have our name, and whether it can have
// any.
func kernelHelpers(t *testing.T, table Table) (ours []string, can bool) {
	t.Helper()
	conn, err := dial(table)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const cthelperGet = 1 // NFNL_MSG_CTHELPER_GET
	all, err := conn.Execute(nfMessage(unix.NFNL_SUBSYS_CTHELPER, cthelperGet, netlink.Dump, unix.NFPROTO_UNSPEC))
	if errors.Is(err, unix.EINVAL) {
		return nil, false
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if s := describeHelper(t, m.Data[nfgenmsgLen:]); s != "" {
			ours = append(ours, s)
		}
	}
	slices.Sort(ours) // the kernel keeps them in no order
	return ours, true
}

func describeHelper(t *testing.T, attrs []byte) string {
	t.Helper()
	decode := func(b []byte, fn func(ad *netlink.AttributeDecoder)) {
		ad, err := netlink.NewAttributeDecoder(b)
		if err != nil {
			t.Fatal(err)
		}
		ad.ByteOrder = binary.BigEndian
		for ad.Next() {
			fn(ad)
		}
	}
	var name string
	var l3, l4, status, limit, timeout uint32
	decode(attrs, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case cthName:
			name = ad.String()
		case cthStatus:
			status = ad.Uint32()
		case cthTuple:
			decode(ad.Bytes(), func(ad *netlink.AttributeDecoder) {
				switch ad.Type() {
				case cthTupleL3:
					l3 = uint32(ad.Uint16())
				case cthTupleL4:
					l4 = uint32(ad.Uint8())
				}
			})
		case cthPolicy:
			decode(ad.Bytes(), func(ad *netlink.AttributeDecoder) {
				if ad.Type() != cthPolicySet {
					return
				}
				decode(ad.Bytes(), func(ad *netlink.AttributeDecoder) {
					switch ad.Type() {
					case cthPolicyExpectMax:
						limit = ad.Uint32()
					case cthPolicyExpectTimeout:
						timeout = ad.Uint32()
					}
				})
			})
		}
	})
	if name != ownHelper {
		return ""
	}
	return fmt.Sprintf("family %d protocol %d status %d: %d for %d s", l3, l4, status, limit, timeout)
}

// ourHelpers is what kernelHelpers returns while our helper is registered.
var ourHelpers = []string{"family 10 protocol 6 status 0: 64 for 300 s", "family 2 protocol 6 status 0: 64 for 300 s"}

// TestKernelHelper registers our helper, where the kernel can have it.
func TestKernelHelper(t *testing.T) {
	ns, other := conntracktest.NewNS(t), conntracktest.NewNS(t)
	table, elsewhere := tableIn(t, ns), tableIn(t, other)
	if ours, can := kernelHelpers(t, table); !can {
		if err := registerHelper(table); !errors.Is(err, unix.EINVAL) {
			t.Errorf("registered where the kernel has none: %v", err)
		}
		if err := unregisterHelper(table); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Errorf("unregistered where the kernel has none: %v", err)
		}
		return
	} else if len(ours) > 0 {
		t.Fatalf("there are already %q", ours)
	}
	check := func(when string, want []string) {
		t.Helper()
		got, _ := kernelHelpers(t, table)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", when, d)
		}
	}
	for range 2 { // the second time it is there
		if err := registerHelper(table); err != nil {
			t.Fatal(err)
		}
		check("registered", ourHelpers)
	}
	// A daemon in another namespace uses it.
	i := installed(t, elsewhere, rulesOf(Config{}, ownHelper))
	if err := unregisterHelper(table); err != nil {
		t.Errorf("while another one uses it: %v", err)
	}
	check("while another one uses it", ourHelpers)
	if err := i.close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := unregisterHelper(table); err != nil {
			t.Fatal(err)
		}
		check("unregistered", nil)
	}
}

// tried fails the test where a probe left something.
func tried(t *testing.T, ns *conntracktest.NS, table Table) {
	t.Helper()
	for _, what := range [][]string{{"-L"}, {"-L", "expect"}} {
		if out, err := ns.Conntrack8(what...); err != nil || out != "" {
			t.Errorf("conntrack %v: %q, %v", what, out, err)
		}
	}
	if ours, _ := kernelHelpers(t, table); len(ours) > 0 {
		t.Errorf("helpers are left: %q", ours)
	}
}

// TestKernelProbe finds what there is, and the limit it names holds.
func TestKernelProbe(t *testing.T) {
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	table := tableIn(t, ns)
	_, can := kernelHelpers(t, table)
	borrowed := kernel{strategy: StrategyHybrid, helper: "Q.931", expectMax: 20, expectTimeout: 240 * time.Second}
	own := borrowed
	if can {
		own = kernel{strategy: StrategyHelper, helper: "ctd-rtsp", expectMax: 64, expectTimeout: 300 * time.Second, registered: table}
	}
	tests := []struct {
		name string
		cfg  Config
		want kernel
	}{
		{"IPv4 and IPv6", Config{Table: table}, borrowed},
		{"own, IPv4 and IPv6", Config{Table: table}, own},
		{"own, IPv6", Config{Table: table, Families: []conntrack.Family{conntrack.FamilyIPv6}}, own},
		{"the administrator's rules", Config{Table: table, Manual: true}, borrowed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ways := []probing{probeBorrowed, probeOwn}
			if tt.name != "IPv4 and IPv6" {
				slices.Reverse(ways)
			}
			k, err := probe(t.Context(), tt.cfg, ways...)
			if err != nil {
				t.Fatal(err)
			}
			defer k.close()
			if k.function != "sip" && k.function != "nat-follow-master" {
				t.Errorf("the function is %q", k.function)
			}
			want := tt.want
			want.function = k.function
			if k != want {
				t.Errorf("probe = %+v, want %+v", k, want)
			}
			testLimit(t, table, k)
			if err := k.close(); err != nil {
				t.Error(err)
			}
			tried(t, ns, table)
		})
	}
}

// testLimit makes as many expectations as k says a connection may have, and one more.
func testLimit(t *testing.T, table Table, k kernel) {
	t.Helper()
	f := trialFlow(conntrack.FamilyIPv4, k.helper)
	f.Timeout = time.Hour
	master, err := table.Create(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	for n := range k.expectMax + 1 {
		made, err := table.CreateExpect(t.Context(), trialExpect(master, k.function, uint16(10000+n)))
		if n == k.expectMax {
			if !errors.Is(err, conntrack.ErrExpectLimit) {
				t.Errorf("one more than %d: %v", n, err)
			}
			break
		}
		if err != nil {
			t.Fatalf("expectation %d: %v", n, err)
		}
		if n == 0 && (made.Timeout > k.expectTimeout || made.Timeout < k.expectTimeout-30*time.Second) {
			t.Errorf("it ends in %v, not %v", made.Timeout, k.expectTimeout)
		}
	}
	if err := table.Kill(t.Context(), []conntrack.Key{master.Key()})[0]; err != nil {
		t.Fatal(err)
	}
}

// refusing is a table that can't do everything.
type refusing struct {
	*conntrack.Table
	flow    func(f conntrack.Flow) error
	expect  func(e conntrack.Expect) error
	created func() // called when the flow is there
}

func (r refusing) Create(ctx context.Context, f conntrack.Flow) (conntrack.Flow, error) {
	if err := r.flow(f); err != nil {
		return conntrack.Flow{}, err
	}
	made, err := r.Table.Create(ctx, f)
	r.created()
	return made, err
}

func (r refusing) CreateExpect(ctx context.Context, e conntrack.Expect) (conntrack.Expect, error) {
	made, err := r.Table.CreateExpect(ctx, e)
	if err == nil {
		err = r.expect(e) // what was made is left, as where reading it back fails
	}
	return made, err
}

// TestKernelProbeLess: what the kernel refuses makes the strategy a lesser one, and nothing stays.
func TestKernelProbeLess(t *testing.T) {
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	table := tableIn(t, ns)
	refused := &conntrack.OpError{Op: "refuse", Err: unix.EOPNOTSUPP}
	onlyFor := func(helper string) func(conntrack.Flow) error {
		return func(f conntrack.Flow) error {
			if f.Helper == helper {
				return nil
			}
			return refused
		}
	}
	exists := 2
	tests := []struct {
		name     string
		flow     func(f conntrack.Flow) error
		expect   func(e conntrack.Expect) error
		strategy Strategy
		function string
	}{
		{"no helper", onlyFor(""), func(conntrack.Expect) error { return nil }, StrategyFlows, ""},
		{"only Q.931", onlyFor("Q.931"), func(conntrack.Expect) error { return nil }, StrategyHybrid, "sip"},
		{"no functions", onlyFor("Q.931"), func(conntrack.Expect) error { return refused }, StrategyFlows, ""},
		{"no sip", onlyFor("Q.931"), func(e conntrack.Expect) error {
			if e.Function == "sip" {
				return refused
			}
			return nil
		}, StrategyHybrid, "nat-follow-master"},
		{"ports taken", func(f conntrack.Flow) error {
			if f.Helper != "Q.931" {
				return refused
			}
			if exists--; exists >= 0 {
				return &conntrack.OpError{Op: "create flow", Err: conntrack.ErrExists}
			}
			return nil
		}, func(conntrack.Expect) error { return nil }, StrategyHybrid, "sip"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k, err := probe(t.Context(), Config{Table: refusing{table, tt.flow, tt.expect, func() {}}})
			if err != nil {
				t.Fatal(err)
			}
			if k.strategy != tt.strategy || k.function != tt.function || (k.helper == "") != (k.strategy == StrategyFlows) || (k.expectMax == 0) != (k.helper == "") {
				t.Errorf("probe = %+v", k)
			}
			tried(t, ns, table)
		})
	}
}

func TestKernelProbeCanceled(t *testing.T) {
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	table := tableIn(t, ns)
	yes := func(conntrack.Flow) error { return nil }
	for _, early := range []bool{true, false} {
		ctx, cancel := context.WithCancel(t.Context())
		if early {
			cancel()
		}
		k, err := probe(ctx, Config{Table: refusing{table, yes, func(conntrack.Expect) error { return nil }, cancel}})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("early %v: %+v, %v", early, k, err)
		}
		tried(t, ns, table)
	}
}
