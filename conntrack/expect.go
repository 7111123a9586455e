package conntrack

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Expect is an expectation: a flow that the kernel will take as related to its master.
type Expect struct {
	ID       uint32        // CTA_EXPECT_ID
	Tuple    Tuple         // what is expected
	Mask     Tuple         // which bits of source address and source port are compared; the destination always is, whole
	Master   Tuple         // original direction of the flow that expects it
	Zone     uint16        // the master's
	Timeout  time.Duration // whole seconds left; 0 where it has no end
	Helper   string        // CTA_EXPECT_HELP_NAME
	Function string        // CTA_EXPECT_FN: "sip", "nat-follow-master", "Q.931", "callforwarding"
	Class    uint32        // index into the helper's policies
	Flags    ExpectFlags
	NAT      *ExpectNAT
	Unknown  []Attribute
}

// ExpectFlags are NF_CT_EXPECT_* (linux/netfilter/nf_conntrack_common.h).
type ExpectFlags uint32

// Flags in the header's order.
const (
	ExpectPermanent ExpectFlags = 1 << iota // NF_CT_EXPECT_PERMANENT: stays after a flow has come
	ExpectInactive                          // NF_CT_EXPECT_INACTIVE: no flow is taken for it
	ExpectUserspace                         // NF_CT_EXPECT_USERSPACE
)

var expectFlagNames = [...]string{"permanent", "inactive", "userspace"}

// Names returns the names of the flags that are set, an unknown bit by its number.
func (f ExpectFlags) Names() []string {
	names := []string{}
	for i := range 32 {
		switch {
		case f&(1<<i) == 0:
		case i < len(expectFlagNames):
			names = append(names, expectFlagNames[i])
		default:
			names = append(names, strconv.Itoa(i))
		}
	}
	return names
}

// ParseExpectFlag reads the name or the number (0 to 31) of one flag.
func ParseExpectFlag(s string) (ExpectFlags, bool) {
	for i, name := range expectFlagNames {
		if strings.EqualFold(s, name) {
			return 1 << i, true
		}
	}
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil || n > 31 {
		return 0, false
	}
	return 1 << n, true
}

// ExpectNAT is where the packets of an expected flow are translated to (CTA_EXPECT_NAT).
type ExpectNAT struct {
	Reply bool  // direction of the master that the first packet takes: original or reply
	Tuple Tuple // Src and SrcPort are the address and port to translate to
}

// ctattr_expect and ctattr_expect_nat (linux/netfilter/nfnetlink_conntrack.h).
const (
	ctaExpectMaster   = 1  // CTA_EXPECT_MASTER
	ctaExpectTuple    = 2  // CTA_EXPECT_TUPLE
	ctaExpectMask     = 3  // CTA_EXPECT_MASK
	ctaExpectTimeout  = 4  // CTA_EXPECT_TIMEOUT
	ctaExpectID       = 5  // CTA_EXPECT_ID
	ctaExpectHelpName = 6  // CTA_EXPECT_HELP_NAME
	ctaExpectZone     = 7  // CTA_EXPECT_ZONE
	ctaExpectFlags    = 8  // CTA_EXPECT_FLAGS
	ctaExpectClass    = 9  // CTA_EXPECT_CLASS
	ctaExpectNAT      = 10 // CTA_EXPECT_NAT
	ctaExpectFN       = 11 // CTA_EXPECT_FN

	ctaExpectNATDir   = 1 // CTA_EXPECT_NAT_DIR
	ctaExpectNATTuple = 2 // CTA_EXPECT_NAT_TUPLE
)

// decodeExpect reads the attributes of an expectation's message into e. What it doesn't know is
// kept in e.Unknown.
func (d *decoder) decodeExpect(e *Expect, data []byte) error {
	*e = Expect{}
	a := attrs{rest: data}
	for a.next() {
		ok := false
		switch a.typ {
		case ctaExpectMaster:
			ok = d.decodeTuple(&e.Master, &e.Unknown, &a)
		case ctaExpectTuple:
			ok = d.decodeTuple(&e.Tuple, &e.Unknown, &a)
		case ctaExpectMask:
			ok = d.decodeTuple(&e.Mask, &e.Unknown, &a)
		case ctaExpectTimeout:
			var seconds uint32
			ok = a.be32(&seconds)
			e.Timeout = time.Duration(seconds) * time.Second
		case ctaExpectID:
			ok = a.be32(&e.ID)
		case ctaExpectHelpName:
			e.Helper, ok = d.name(a.data), true
		case ctaExpectZone:
			ok = a.be16(&e.Zone)
		case ctaExpectFlags:
			ok = a.be32((*uint32)(&e.Flags))
		case ctaExpectClass:
			ok = a.be32(&e.Class)
		case ctaExpectNAT:
			e.NAT = &ExpectNAT{}
			ok = d.decodeExpectNAT(e, &a)
		case ctaExpectFN:
			e.Function, ok = d.name(a.data), true
		}
		if !ok {
			e.Unknown = append(e.Unknown, a.unknown())
		}
	}
	return a.err
}

func (d *decoder) decodeExpectNAT(e *Expect, outer *attrs) bool {
	a := attrs{rest: outer.data}
	for a.next() {
		ok := false
		var dir uint32
		switch a.typ {
		case ctaExpectNATDir:
			ok = a.be32(&dir)
			e.NAT.Reply = dir == 1 // IP_CT_DIR_REPLY
		case ctaExpectNATTuple:
			ok = d.decodeTuple(&e.NAT.Tuple, &e.Unknown, &a)
		}
		if !ok {
			e.Unknown = append(e.Unknown, a.unknown(outer.typ))
		}
	}
	return a.err == nil
}

// Expects dumps the expectations. As with Flows, the sequence ends with an error where the dump
// did. The kernel doesn't tell an expectation's zone, so it is looked for.
func (t *Table) Expects(ctx context.Context) iter.Seq2[Expect, error] {
	return func(yield func(Expect, error) bool) {
		var dec decoder
		zones := masterZones{table: t}
		stopped := false
		err := t.dump(ctx, msgExpGet, FamilyAny, noAttributes, func(_ *message, data []byte) (bool, error) {
			var e Expect
			err := dec.decodeExpect(&e, data)
			if err == nil && e.Zone == 0 {
				e.Zone, err = zones.of(ctx, &e)
			}
			if err != nil {
				return false, err
			}
			stopped = !yield(e, nil)
			return !stopped, nil
		})
		if err != nil && !stopped {
			yield(Expect{}, opError("list expectations", err))
		}
	}
}

// masterZones finds the zones of expectations.
type masterZones struct {
	table *Table
	zoned map[Tuple][]uint16 // zones of the flows that are in one, by tuple; nil before it is needed
}

// of returns the zone in which the kernel finds an expectation with its id: 0, or one that its
// master's tuple is in. Only where zones are in use is the table read, once.
func (z *masterZones) of(ctx context.Context, e *Expect) (uint16, error) {
	if found, err := z.has(ctx, e, 0); found || err != nil {
		return 0, err
	}
	if z.zoned == nil {
		z.zoned = make(map[Tuple][]uint16)
		err := z.table.list(ctx, Filter{}, listConfig{}, func(f *Flow) bool {
			if f.Zone != 0 && f.Helper != "" { // only a flow with a helper expects others
				z.zoned[f.Orig] = append(z.zoned[f.Orig], f.Zone)
			}
			return true
		})
		if err != nil {
			return 0, err
		}
	}
	for _, zone := range z.zoned[e.Master] {
		if found, err := z.has(ctx, e, zone); found || err != nil {
			return zone, err
		}
	}
	return 0, nil // it has ended meanwhile, or an overlapping one hides it
}

func (z *masterZones) has(ctx context.Context, e *Expect, zone uint16) (bool, error) {
	err := z.table.roundTrip(ctx, msgExpGet, 0, e.Tuple.Family(), func(b []byte) []byte {
		return e.appendKey(b, zone)
	}, func([]byte) error { return nil })
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// appendKey appends what names e in a zone to the kernel.
func (e *Expect) appendKey(b []byte, zone uint16) []byte {
	b = appendTuple(b, ctaExpectTuple, &e.Tuple)
	if zone != 0 {
		b = appendBE16(b, ctaExpectZone, zone)
	}
	if e.ID != 0 {
		b = appendBE32(b, ctaExpectID, e.ID)
	}
	return b
}

func noAttributes(b []byte) []byte { return b }

// GetExpect returns the expectation with an id; ErrNotFound where there is none. It is a dump:
// the kernel finds expectations by tuple, which may fit several.
func (t *Table) GetExpect(ctx context.Context, id uint32) (Expect, error) {
	return t.findExpect(ctx, func(e *Expect) bool { return e.ID == id })
}

func (t *Table) findExpect(ctx context.Context, match func(e *Expect) bool) (Expect, error) {
	for e, err := range t.Expects(ctx) {
		if err != nil {
			return Expect{}, err
		}
		if match(&e) {
			return e, nil
		}
	}
	return Expect{}, opError("get expectation", ErrNotFound)
}

// CreateExpect makes an expectation and returns it as the kernel holds it. Tuple and Master are
// needed. A zero Mask compares every part of the tuple's source that isn't zero. The master must
// have a helper, else EOPNOTSUPP; Helper must be its name or empty. Zone is the master's.
//
// A Timeout of 0 is the helper's own. Where it isn't, the expectation is made with the helper's
// and then changed, because the kernel ignores the timeout of a new one.
//
// The kernel keeps to the helper's limit of pending expectations by dropping the oldest of the
// master's, without an error.
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
	made, err := t.findExpect(ctx, func(x *Expect) bool {
		return x.Tuple == e.Tuple && x.Zone == e.Zone && x.Master == e.Master &&
			x.Mask.Src == e.Mask.Src && x.Mask.SrcPort == e.Mask.SrcPort
	})
	if err != nil {
		return Expect{}, also(fmt.Errorf("read it back: %w", err), timeoutErr)
	}
	if timeoutErr != nil {
		err := fmt.Errorf("set its timeout: %w", timeoutErr)
		return Expect{}, also(err, t.KillExpects(ctx, []Expect{made})[0])
	}
	return made, nil
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
	if err := errors.Join(
		checkName("helper", e.Helper, maxHelperName), checkName("function", e.Function, maxFunctionName), checkTimeout(e.Timeout),
	); err != nil {
		return err
	}
	e.Timeout = (e.Timeout + time.Second - 1).Truncate(time.Second) // 0 stands for none
	zero, ones := netip.IPv4Unspecified(), netip.AddrFrom4([4]byte{255, 255, 255, 255})
	if t.Dst.Is6() {
		zero, ones = netip.IPv6Unspecified(), allOnes6()
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

// KillExpects deletes expectations and returns an error for each as Kill does. The kernel finds
// one by its tuple and compares the id.
func (t *Table) KillExpects(ctx context.Context, es []Expect) []error {
	errs := t.batch(ctx, len(es), msgExpDelete, 0, func(b []byte, i int) ([]byte, Family, error) {
		e := &es[i]
		if !e.Tuple.Src.IsValid() || !e.Tuple.Dst.IsValid() {
			return b, 0, ErrNoKey // without a tuple the kernel would delete all
		}
		return e.appendKey(b, e.Zone), e.Tuple.Family(), nil
	})
	return wrapAll("kill expectation", errs)
}

// FlushExpects deletes all expectations and returns how many there were.
func (t *Table) FlushExpects(ctx context.Context) (int, error) {
	n := 0
	for _, err := range t.Expects(ctx) {
		if err != nil {
			return 0, err
		}
		n++
	}
	err := t.roundTrip(ctx, msgExpDelete, flagAck, FamilyAny, noAttributes, nil)
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	return n, opError("flush expectations", err)
}
