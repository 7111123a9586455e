package conntrack

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

// CreateExpect makes an expectation and returns it as the kernel holds it. Tuple and Master are
// needed. A zero Mask compares every part of the tuple's source that isn't zero. The master must
// have a helper, else EOPNOTSUPP; Helper must be its name or empty. Zone is the master's.
//
// A Timeout of 0 is the helper's own. Where it isn't, the expectation is made with the helper's
// and then changed, because the kernel ignores the timeout of a new one.
//
// The kernel keeps to the helper's limit of pending expectations by dropping the oldest of the
// master's, without an error. Where it did, the dropped one is put back, the new one is taken away
// and the error is ErrExpectLimit.
func (t *Table) CreateExpect(ctx context.Context, e Expect) (Expect, error) {
	e, err := t.createExpect(ctx, e)
	return e, opError("create expectation", err)
}

// CheckCreateExpect returns the expectation that CreateExpect would ask for, or ErrIncomplete.
func CheckCreateExpect(e Expect) (Expect, error) {
	err := prepareExpect(&e)
	return e, err
}

func (t *Table) createExpect(ctx context.Context, e Expect) (Expect, error) {
	e, err := CheckCreateExpect(e)
	if err != nil {
		return Expect{}, err
	}
	before, err := t.expectsOf(ctx, e.Master)
	if err != nil {
		return Expect{}, err
	}
	family := e.Tuple.Family()
	// Without NLM_F_EXCL an expectation that another master has already would count as a success
	// and nothing be made.
	err = t.roundTrip(ctx, msgExpNew, flagCreate|flagExcl|flagAck, family, e.append, nil)
	if err != nil {
		return Expect{}, err
	}
	var timeoutErr error
	if e.Timeout != 0 {
		timeoutErr = t.roundTrip(ctx, msgExpNew, flagAck, family, e.append, nil)
	}
	now, err := t.expectsOf(ctx, e.Master)
	at := slices.IndexFunc(now, func(x Expect) bool {
		return x.Tuple == e.Tuple && x.Zone == e.Zone && x.Mask.Src == e.Mask.Src && x.Mask.SrcPort == e.Mask.SrcPort
	})
	if err == nil && at < 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Expect{}, also(fmt.Errorf("read it back: %w", err), timeoutErr)
	}
	made := now[at]
	if timeoutErr != nil {
		err := fmt.Errorf("set its timeout: %w", timeoutErr)
		return Expect{}, also(err, t.KillExpects(ctx, []Expect{made})[0])
	}
	if err := t.restoreDropped(context.WithoutCancel(ctx), before, now, made); err != nil {
		return Expect{}, err
	}
	return made, nil
}

// ErrExpectLimit says that the helper lets a flow expect no more than it does already.
var ErrExpectLimit = errors.New("the helper allows this flow no more expectations")

// expectsOf returns the expectations of a master.
func (t *Table) expectsOf(ctx context.Context, master Tuple) ([]Expect, error) {
	var es []Expect
	for e, err := range t.Expects(ctx) {
		if err != nil {
			return nil, err
		}
		if e.Master == master {
			es = append(es, e)
		}
	}
	return es, nil
}

// expectSlack is how near its end an expectation may be to have ended by itself.
const expectSlack = 2 * time.Second

// restoreDropped looks whether made took the place of one of those before, and undoes that. One
// whose flow has come in this moment looks the same. It is put back too, and ends unused.
func (t *Table) restoreDropped(ctx context.Context, before, now []Expect, made Expect) error {
	for _, old := range before {
		if old.Timeout <= expectSlack || slices.ContainsFunc(now, func(e Expect) bool { return e.ID == old.ID }) {
			continue
		}
		err := also(ErrExpectLimit, t.KillExpects(ctx, []Expect{made})[0])
		for _, flags := range []uint16{flagCreate | flagExcl, 0} { // made, then given the time it had
			err = also(err, t.roundTrip(ctx, msgExpNew, flags|flagAck, old.Tuple.Family(), old.append, nil))
		}
		return err
	}
	return nil
}

// maxFunctionName is longer than the name of any function in the kernel.
const maxFunctionName = 63

// prepareExpect completes what the kernel wants whole and says what is missing.
func prepareExpect(e *Expect) error {
	t := &e.Tuple
	switch {
	case !e.Master.Src.IsValid() || !e.Master.Dst.IsValid():
		return fmt.Errorf("%w: the master's tuple is needed", ErrIncomplete)
	case !t.Dst.IsValid():
		return fmt.Errorf("%w: the tuple needs a destination address", ErrIncomplete)
	case t.Proto.HasPorts() && t.DstPort == 0:
		return fmt.Errorf("%w: the tuple needs a destination port, which is always compared", ErrIncomplete)
	}
	if err := checkExpect(e); err != nil {
		return err
	}
	e.Timeout = (e.Timeout + time.Second - 1).Truncate(time.Second) // 0 stands for none
	zero, ones := netip.IPv4Unspecified(), allOnes(t.Dst)
	if t.Dst.Is6() {
		zero = netip.IPv6Unspecified()
	}
	if e.Mask.IsZero() {
		e.Mask.Src = zero
		if t.Src.IsValid() && !t.Src.IsUnspecified() {
			e.Mask.Src = ones
		}
		if t.SrcPort != 0 {
			e.Mask.SrcPort = 0xffff
		}
	}
	if !t.Src.IsValid() {
		t.Src = zero
	}
	if !e.Mask.Src.IsValid() {
		e.Mask.Src = zero
	}
	// The kernel reads the mask's ports by the mask's own protocol, and wants a destination.
	e.Mask.Proto, e.Mask.Dst, e.Mask.DstPort = t.Proto, ones, 0xffff
	for _, addr := range []netip.Addr{t.Src, e.Mask.Src, e.Master.Src} {
		if addr.Is4() != t.Dst.Is4() {
			return fmt.Errorf("%w: tuple, mask and master must be of one family", ErrIncomplete)
		}
	}
	if e.NAT == nil {
		return nil
	}
	nat := *e.NAT // the caller's stays as it is
	if !nat.Tuple.Src.IsValid() || nat.Tuple.Src.Is4() != t.Dst.Is4() {
		return fmt.Errorf("%w: nat needs a source address of the tuple's family", ErrIncomplete)
	}
	nat.Tuple.Proto = t.Proto
	if !nat.Tuple.Dst.IsValid() {
		nat.Tuple.Dst = zero
	}
	e.NAT = &nat
	return nil
}

// maxExpectTimeout is what fits where the kernel multiplies the seconds by its ticks, at most 1000 a
// second, in 32 bits.
const maxExpectTimeout = math.MaxUint32 / 1000 * time.Second

// checkExpect refuses what the kernel would misread or pass over.
func checkExpect(e *Expect) error {
	switch m := &e.Mask; {
	case e.Timeout < 0 || e.Timeout > maxExpectTimeout:
		return fmt.Errorf("timeout %v is not within 0 and %d seconds: %w", e.Timeout, maxExpectTimeout/time.Second, syscall.ERANGE)
	case m.Dst.IsValid() && m.Dst != allOnes(m.Dst), m.DstPort != 0 && m.DstPort != math.MaxUint16:
		return fmt.Errorf("mask: destination address and port are always compared whole: %w", syscall.EINVAL)
	case e.Flags&ExpectUserspace != 0:
		return fmt.Errorf("flags: the kernel sets userspace by itself: %w", syscall.EINVAL)
	}
	if err := checkName("helper", e.Helper, maxHelperName); err != nil {
		return err
	}
	return checkName("function", e.Function, maxFunctionName)
}

// allOnes returns the address with all bits set, of the family of a.
func allOnes(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.AddrFrom4([4]byte{255, 255, 255, 255})
	}
	return allOnes6()
}

func allOnes6() netip.Addr {
	var a [16]byte
	for i := range a {
		a[i] = 0xff
	}
	return netip.AddrFrom16(a)
}

// append appends the attributes of a request to make or change e.
func (e *Expect) append(b []byte) []byte {
	b = appendTuple(b, ctaExpectMaster, &e.Master)
	b = appendTuple(b, ctaExpectTuple, &e.Tuple)
	b = appendTuple(b, ctaExpectMask, &e.Mask)
	if e.Timeout != 0 {
		b = appendBE32(b, ctaExpectTimeout, uint32(e.Timeout/time.Second))
	}
	if e.Helper != "" {
		b = appendName(b, ctaExpectHelpName, e.Helper)
	}
	if e.Zone != 0 {
		b = appendBE16(b, ctaExpectZone, e.Zone)
	}
	if e.Flags != 0 {
		b = appendBE32(b, ctaExpectFlags, uint32(e.Flags))
	}
	if e.Class != 0 {
		b = appendBE32(b, ctaExpectClass, e.Class)
	}
	if e.Function != "" {
		b = appendName(b, ctaExpectFN, e.Function)
	}
	if e.NAT == nil {
		return b
	}
	start := len(b)
	b = beginNest(b, ctaExpectNAT)
	var dir uint32
	if e.NAT.Reply {
		dir = 1 // IP_CT_DIR_REPLY
	}
	b = appendBE32(b, ctaExpectNATDir, dir)
	b = appendTuple(b, ctaExpectNATTuple, &e.NAT.Tuple)
	return endNest(b, start)
}
