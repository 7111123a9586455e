package helper

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"ctd/conntrack"
)

// kernel is what the helper found out about the kernel.
type kernel struct {
	strategy      Strategy
	helper        string        // that connections are to get; "" where there is none
	expectMax     int           // how many expectations it allows a connection at a time; 0 without one
	expectTimeout time.Duration // how long they wait by themselves
	function      string        // of expectations: "sip", "nat-follow-master"; "" without a helper

	registered Table // where the helper is ours
}

// borrowed is a helper of the kernel's for H.323 calls. It looks only at segments that begin with 03
// 00 (TPKT, RFC 1006), as no message of RTSP does. Its limits are H323_RTP_CHANNEL_MAX and others,
// linux/netfilter/nf_conntrack_h323.h.
const (
	borrowedHelper              = "Q.931"
	borrowedHelperExpectMax     = 20
	borrowedHelperExpectTimeout = 240 * time.Second
)

// functions are those of expectations that suit media, the best first. "sip" leaves the source as it
// is, which nat-follow-master takes for the control connection's server. It is there where
// nf_nat_sip is; the kernel doesn't load that by itself.
var functions = []string{"sip", "nat-follow-master"}

// probe finds the best strategy for this kernel, and registers a helper of our own where the kernel's can't
// be had; close takes it back. Ours comes second: when a packet of a connection that has a user-space helper
// returns from a queue, the kernel confirms the connection and corrects sequence numbers at once, as for the
// queue of the helper itself (nf_confirm_cthelper, net/netfilter/nf_conntrack_core.c). So the packet that begins
// it, which isn't translated yet, must not be queued, and nothing can become longer, since the numbers would be
// corrected twice.
//
// What it tries it tries with a flow and an expectation of addresses that
// nobody has, and deletes both at once. It fails only if ctx has ended.
//
// Where the administrator installs the rules, connections get the helper that Rules prints, which
// is there before any daemon.
func probe(ctx context.Context, cfg Config, ways ...probing) (kernel, error) {
	cfg.complete()
	if len(ways) == 0 {
		ways = []probing{probeBorrowed, probeOwn}
	}
	k, err := kernel{}, error(nil)
	for _, try := range ways {
		if k, err = try(ctx, cfg); err == nil {
			break
		}
	}
	if err != nil {
		cfg.Logger.Info("no expectations can be made in this kernel", "error", err)
		k = kernel{strategy: StrategyFlows}
	}
	if ctx.Err() != nil {
		return kernel{}, errors.Join(ctx.Err(), k.close())
	}
	return k, nil
}

// probing tries one way to have a helper in the kernel.
type probing func(context.Context, Config) (kernel, error)

// errNotTried stands for a helper of our own where connections don't get it.
var errNotTried = errors.New("the administrator's rules don't assign it")

// probeBorrowed tries the kernel's helper.
func probeBorrowed(ctx context.Context, cfg Config) (k kernel, err error) {
	k = kernel{
		strategy: StrategyHybrid, helper: borrowedHelper,
		expectMax: borrowedHelperExpectMax, expectTimeout: borrowedHelperExpectTimeout,
	}
	k.function, err = tryHelper(ctx, cfg, k.helper)
	return k, err
}

// probeOwn registers our helper and tries it.
func probeOwn(ctx context.Context, cfg Config) (kernel, error) {
	if cfg.Manual {
		return kernel{}, errNotTried
	}
	if err := ctx.Err(); err != nil {
		return kernel{}, err
	}
	k := kernel{
		strategy: StrategyHelper, helper: ownHelper,
		expectMax: ownHelperExpectMax, expectTimeout: ownHelperExpectTimeout, registered: cfg.Table,
	}
	err := registerHelper(cfg.Table)
	if err != nil {
		cfg.Logger.Debug("the kernel has no user-space helpers", "error", err)
		return kernel{}, err
	}
	if k.function, err = tryHelper(ctx, cfg, k.helper); err != nil {
		cfg.Logger.Warn("a helper of our own is of no use", "kernel_helper", k.helper, "error", err)
		return kernel{}, errors.Join(err, k.close())
	}
	return k, nil
}

// close takes back what probe registered. The rules that use it have to be gone.
func (k *kernel) close() error {
	if k.registered == nil {
		return nil
	}
	table := k.registered
	k.registered = nil
	return unregisterHelper(table)
}

const (
	// trialTimeout is when the kernel deletes what a process leaves that was killed while it tried.
	trialTimeout = 30 * time.Second
	// trialPatience is how long it may take, which is some milliseconds where the machine isn't busy. A
	// trial isn't cut short in between, so that it is known what has to be deleted.
	trialPatience = 20 * time.Second
	// trialTries is how often other ports are tried where a flow has them.
	trialTries = 4
)

// tryHelper returns the first function that expectations of a helper's connections can have.
func tryHelper(ctx context.Context, cfg Config, helper string) (function string, err error) {
	for range trialTries {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), trialPatience)
		function, err = tryWith(within, cfg.Table, trialFlow(cfg.Families[0], helper))
		cancel()
		if !errors.Is(err, conntrack.ErrExists) {
			break
		}
	}
	return function, err
}

// trialFlow returns a connection between addresses of documentation (RFC 5737, RFC 3849) to the port of
// discard, from a port that nobody else has chosen.
func trialFlow(family conntrack.Family, helper string) conntrack.Flow {
	client, server := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")
	if family == conntrack.FamilyIPv6 {
		client, server = netip.MustParseAddr("2001:db8:1::1"), netip.MustParseAddr("2001:db8:2::1")
	}
	return conntrack.Flow{
		Orig: conntrack.Tuple{
			Proto: conntrack.TCP, Src: client, Dst: server, SrcPort: uint16(1024 + rand.IntN(64512)), DstPort: 9, // #nosec G404 -- of a trial
		},
		Timeout: trialTimeout, Helper: helper,
	}
}

// tryWith makes a flow and an expectation of it with each function, until one is taken.
func tryWith(ctx context.Context, table Table, f conntrack.Flow) (function string, err error) {
	made, err := table.Create(ctx, f)
	if errors.Is(err, conntrack.ErrExists) {
		return "", err
	}
	defer func() { // whatever came of it
		if kerr := table.Kill(ctx, []conntrack.Key{{Orig: f.Orig}})[0]; !errors.Is(kerr, conntrack.ErrNotFound) {
			err = errors.Join(err, kerr)
		}
	}()
	if err != nil {
		return "", err
	}
	if made.Helper != f.Helper {
		return "", fmt.Errorf("a flow got the helper %q instead of %q", made.Helper, f.Helper)
	}
	var errs []error
	for i, name := range functions {
		e, err := table.CreateExpect(ctx, trialExpect(f, name, uint16(1024+i)))
		if err == nil {
			return name, table.KillExpects(ctx, []conntrack.Expect{e})[0]
		}
		errs = append(errs, fmt.Errorf("function %s: %w", name, err))
	}
	return "", errors.Join(errs...)
}

// trialExpect returns an expectation of the shape that a masqueraded client's media have.
func trialExpect(f conntrack.Flow, function string, port uint16) conntrack.Expect {
	media := conntrack.Tuple{Proto: conntrack.UDP, Src: f.Orig.Dst, Dst: f.Orig.Src, DstPort: port}
	return conntrack.Expect{
		Tuple: media, Master: f.Orig, Function: function,
		NAT: &conntrack.ExpectNAT{Reply: true, Tuple: conntrack.Tuple{Proto: conntrack.UDP, Src: f.Orig.Src, SrcPort: port}},
	}
}
