package conntrack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

// Errors of Modify that a caller may branch on.
var (
	// ErrFixedTimeout says that a flow's timeout was fixed; the kernel never changes it again.
	ErrFixedTimeout = errors.New("the flow's timeout was fixed and can't be changed")
	// ErrNotTCP says that a TCP state was to be set on a flow of another protocol.
	ErrNotTCP = errors.New("only a TCP flow's state can be set")
	// ErrNoPort says that a port was to be translated of a protocol that has none.
	ErrNoPort = errors.New("no port to translate")
)

// Change is what Modify changes; what is nil or zero stays as it is.
type Change struct {
	Timeout      *time.Duration // whole seconds
	FixedTimeout bool           // packets no longer refresh the timeout; can't be taken back
	Mark         *MaskedMark
	Status       Status // bits to set: seen reply, assured, fixed timeout; none can be cleared
	Labels       *MaskedLabels
	Helper       *string // "" takes it away
	State        *uint8  // of TCP
}

// MaskedMark is a mark of which only the bits of Mask count.
type MaskedMark struct{ Value, Mask uint32 }

// MaskedLabels is a set of labels of which only those of Mask count.
type MaskedLabels struct{ Value, Mask Labels }

// IsZero tells whether nothing is to be changed.
func (c *Change) IsZero() bool { return *c == Change{} }

// modifyTries bounds how often a change is tried again because the flow's status changed between
// reading and writing it.
const modifyTries = 4

// Modify changes flows and returns an error for each key: nil for a flow that was changed,
// ErrNotFound for one that is gone or whose tuple meanwhile belongs to a flow with another id (the
// kernel doesn't compare ids here, so it is read just before), ErrFixedTimeout, ErrNotTCP, ENOSPC
// where labels are given and the flow has no room for them, EOPNOTSUPP or EBUSY where the helper
// can't be changed, ERANGE or EINVAL where a value can't be meant. A flow with an error is left as
// it was; where the kernel had made a part of the change by then, that is taken back.
func (t *Table) Modify(ctx context.Context, keys []Key, c Change) []error {
	if c.FixedTimeout {
		c.Status |= StatusFixedTimeout
		c.FixedTimeout = false
	}
	flows, errs := t.readAllForChange(ctx, keys, &c)
	begun := indexes(errs, nil)
	before := slices.Clone(flows)
	if c.Labels != nil {
		// Labels come alone: the kernel sets them last, when it has made the other changes, and
		// may have no room for them.
		t.update(ctx, flows, errs, begun, func(b []byte, _ *Flow) []byte {
			return appendLabels(b, c.Labels)
		})
	}
	rest := c
	rest.Labels = nil
	pending := indexes(errs, nil)
	for try := 1; !rest.IsZero() && len(pending) > 0 && try <= modifyTries; try++ {
		t.update(ctx, flows, errs, pending, func(b []byte, f *Flow) []byte { return rest.append(b, f) })
		pending = t.rereadBusy(ctx, keys, flows, errs, &rest)
	}
	var failed []int
	for _, i := range begun {
		if errs[i] != nil && !errors.Is(errs[i], ErrNotFound) {
			failed = append(failed, i)
		}
	}
	t.undo(context.WithoutCancel(ctx), before, failed, &c)
	return wrapAll("modify flow", errs)
}

// CanModify returns the errors that Modify would give as far as they can be known beforehand, and
// changes nothing. What only the kernel knows, such as whether there is a helper of that name, is
// not among it.
func (t *Table) CanModify(ctx context.Context, keys []Key, c Change) []error {
	_, errs := t.readAllForChange(ctx, keys, &c)
	return wrapAll("modify flow", errs)
}

// undo takes back what the kernel may have changed of flows whose change failed in the middle. A
// status bit or a TCP state is never among it: what fails does so before these are set.
func (t *Table) undo(ctx context.Context, before []Flow, failed []int, c *Change) {
	if len(failed) == 0 {
		return
	}
	ignored := make([]error, len(before)) // it has failed already, and can't do so twice
	if c.Helper != nil {
		t.update(ctx, before, ignored, failed, func(b []byte, f *Flow) []byte {
			return appendHelper(b, f.Helper)
		})
	}
	t.update(ctx, before, ignored, failed, func(b []byte, f *Flow) []byte {
		if c.Timeout != nil {
			b = appendBE32(b, ctaTimeout, uint32(f.Timeout/time.Second))
		}
		if c.Mark != nil {
			b = appendBE32(b, ctaMark, f.Mark)
		}
		if c.Labels != nil {
			b = appendLabels(b, &MaskedLabels{Value: f.Labels, Mask: c.Labels.Mask})
		}
		return b
	})
}

// check says what the kernel couldn't be told, or would misread.
func (c *Change) check() error {
	if c.Timeout != nil {
		if *c.Timeout < time.Second {
			return fmt.Errorf("timeout %v: less than a second ends the flow; kill it instead: %w", *c.Timeout, syscall.ERANGE)
		}
		if err := checkTimeout(*c.Timeout); err != nil {
			return err
		}
	}
	if c.Helper != nil {
		return checkName("helper", *c.Helper, maxHelperName)
	}
	return nil
}

func wrapAll(op string, errs []error) []error {
	for i, err := range errs {
		errs[i] = opError(op, err)
	}
	return errs
}

// readAllForChange returns the flows as they are, and for each whether it can be changed.
func (t *Table) readAllForChange(ctx context.Context, keys []Key, c *Change) ([]Flow, []error) {
	flows, errs := make([]Flow, len(keys)), make([]error, len(keys))
	invalid := c.check()
	for i, k := range keys {
		if errs[i] = invalid; invalid == nil {
			flows[i], errs[i] = t.readForChange(ctx, k, c)
		}
	}
	return flows, errs
}

// readForChange returns the flow as it is and says whether it can be changed.
func (t *Table) readForChange(ctx context.Context, k Key, c *Change) (Flow, error) {
	f, err := t.get(ctx, k)
	switch {
	case err != nil:
		return f, err
	case c.Timeout != nil && f.Status&StatusFixedTimeout != 0:
		return f, ErrFixedTimeout
	case c.State != nil && f.Proto() != TCP:
		return f, ErrNotTCP
	case c.State != nil && int(*c.State) >= len(tcpStates):
		return f, fmt.Errorf("TCP state %d: %w", *c.State, syscall.EINVAL)
	}
	return f, nil
}

// indexes returns where errs is err.
func indexes(errs []error, err error) []int {
	var at []int
	for i := range errs {
		if errors.Is(errs[i], err) {
			at = append(at, i)
		}
	}
	return at
}

// update sends a change of the flows at the indexes pending.
func (t *Table) update(ctx context.Context, flows []Flow, errs []error, pending []int,
	change func(b []byte, f *Flow) []byte,
) {
	results := t.batch(ctx, len(pending), msgNew, 0, func(b []byte, j int) ([]byte, Family, error) {
		f := &flows[pending[j]]
		k := f.Key()
		return change(k.append(b), f), f.Family(), nil
	})
	for j, err := range results {
		errs[pending[j]] = err
	}
}

// rereadBusy reads the flows again whose change met EBUSY and returns the indexes of those whose
// status had changed since it was read.
func (t *Table) rereadBusy(ctx context.Context, keys []Key, flows []Flow, errs []error, c *Change) []int {
	var again []int
	for _, i := range indexes(errs, syscall.EBUSY) {
		f, err := t.readForChange(ctx, keys[i], c)
		switch {
		case err != nil:
			errs[i] = err
		case f.Status != flows[i].Status:
			flows[i] = f
			again = append(again, i)
		}
	}
	return again
}

// append appends the attributes of the change of f, whose status must be the current one: the
// kernel takes a cleared bit for a request to clear it.
func (c *Change) append(b []byte, f *Flow) []byte {
	if c.Timeout != nil {
		b = appendBE32(b, ctaTimeout, uint32(*c.Timeout/time.Second))
	}
	if c.Status != 0 {
		b = appendBE32(b, ctaStatus, uint32(f.Status|c.Status))
	}
	if c.Mark != nil {
		// The kernel keeps the bits outside the mask by XOR, so the value must have none.
		b = appendBE32(b, ctaMark, c.Mark.Value&c.Mark.Mask)
		b = appendBE32(b, ctaMarkMask, c.Mark.Mask)
	}
	if c.Helper != nil {
		b = appendHelper(b, *c.Helper)
	}
	if c.State != nil {
		g := Flow{Orig: f.Orig, State: *c.State}
		b = appendProtoInfo(b, &g, 0)
	}
	return b
}

func appendLabels(b []byte, l *MaskedLabels) []byte {
	value := l.Value
	for i := range value {
		value[i] &= l.Mask[i] // as with the mark
	}
	b = appendAttr(b, ctaLabels, value[:])
	return appendAttr(b, ctaLabelsMask, l.Mask[:])
}

// NAT is where a flow is translated to. A zero address or port leaves what there is.
type NAT struct {
	Src, Dst netip.AddrPort
}

// check refuses a port where the protocol has none to translate. The kernel leaves the keys of
// GRE alone but for PPTP's, whose flows it makes itself.
func (n NAT) check(p Protocol) error {
	src := p.HasPorts() || p.IsICMP() // an ICMP id is translated like a source port
	dst := p.HasPorts()
	if n.Src.Port() != 0 && !src || n.Dst.Port() != 0 && !dst {
		return fmt.Errorf("%s has %w", p, ErrNoPort)
	}
	return nil
}

// Apply returns a flow's reply direction with the translation n.
func (n NAT) Apply(r Tuple) Tuple {
	if n.Src.Addr().IsValid() {
		r.Dst = n.Src.Addr()
	}
	if n.Dst.Addr().IsValid() {
		r.Src = n.Dst.Addr()
	}
	if p := n.Src.Port(); p != 0 {
		if r.Proto.IsICMP() {
			r.ICMPID = p
		} else {
			r.DstPort = p
		}
	}
	if p := n.Dst.Port(); p != 0 {
		r.SrcPort = p
	}
	return r
}
