package conntrack

import (
	"context"
	"errors"
)

// ErrNoSeqAdj says that the kernel keeps no correction of sequence numbers for a flow: it does where
// the flow had both a helper and NAT at its first packet (nfct_seqadj_ext_add).
var ErrNoSeqAdj = errors.New("the kernel corrects no sequence numbers of this flow")

// AdjustSeq sets how the kernel corrects the sequence numbers of a TCP flow's packets in its original
// or reply direction, and the acknowledgements of them, from the next packet on that leaves netfilter.
// The kernel says success where it can't, so it is read back: ErrNoSeqAdj then.
func (t *Table) AdjustSeq(ctx context.Context, k Key, reply bool, s SeqAdj) error {
	return opError("adjust sequence numbers", t.adjustSeq(ctx, k, reply, s))
}

func (t *Table) adjustSeq(ctx context.Context, k Key, reply bool, s SeqAdj) error {
	if k.Orig.IsZero() && k.Reply.IsZero() {
		return ErrNoKey
	}
	typ, dir := uint16(ctaSeqAdjOrig), 0
	if reply {
		typ, dir = ctaSeqAdjReply, 1
	}
	err := t.roundTrip(ctx, msgNew, flagAck, k.family(), func(b []byte) []byte {
		return appendSeqAdj(k.append(b), typ, s)
	}, nil)
	if err != nil {
		return err
	}
	f, err := t.get(ctx, k)
	if err != nil {
		return err
	}
	if !f.Has(AttrSeqAdj) || f.SeqAdj[dir] != s {
		return ErrNoSeqAdj
	}
	return nil
}
