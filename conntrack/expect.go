package conntrack

import (
	"context"
	"errors"
	"iter"
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
func (f ExpectFlags) Names() []string { return bitNames(expectFlagNames[:], uint32(f)) }

// ParseExpectFlag reads the name or the number (0 to 31) of one flag.
func ParseExpectFlag(s string) (ExpectFlags, bool) {
	bit, ok := parseBit(expectFlagNames[:], s)
	return ExpectFlags(bit), ok
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
	for e, err := range t.Expects(ctx) {
		if err != nil {
			return Expect{}, err
		}
		if e.ID == id {
			return e, nil
		}
	}
	return Expect{}, opError("get expectation", ErrNotFound)
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
