package conntrack

import (
	"errors"
	"time"
)

// ErrNotReplayable says that the kernel doesn't tell enough of a flow to make it elsewhere.
var ErrNotReplayable = errors.New("the kernel tells neither timeout nor state of a flow that is in a flow table")

// Replayable returns of a flow what Import can make again, in this table or in another: without
// id, counters, times, references and the status bits that the kernel sets by itself. A timeout
// below a second becomes one. The error is that of CheckCreate, or ErrNotReplayable.
func (f *Flow) Replayable() (Flow, error) {
	r := Flow{
		Orig: f.Orig, Reply: f.Reply, Zone: f.Zone, Mark: f.Mark, Status: f.Status & statusSettable,
		Timeout: max(f.Timeout, time.Second), Labels: f.Labels, Helper: f.Helper, Master: f.Master,
		State: f.State, TCP: f.TCP, SCTP: f.SCTP, DCCP: f.DCCP, SeqAdj: f.SeqAdj, SynProxy: f.SynProxy,
	}
	if r.Reply.IsZero() {
		r.Reply = r.Orig.Inverse()
	}
	r.present = f.present & (AttrState | AttrTCP | AttrSCTP | AttrDCCP | AttrSeqAdj)
	r.Set(AttrTimeout)
	for i := range r.TCP.Flags {
		r.TCP.Flags[i] &= tcpFlagsSettable
	}
	if f.Mark != 0 {
		r.Set(AttrMark)
	}
	if !f.Labels.IsZero() {
		r.Set(AttrLabels)
	}
	if f.SynProxy != (SynProxy{}) {
		r.Set(AttrSynProxy) // the kernel shows one of zeros of every flow that netlink made
	}
	if !f.Has(AttrTimeout) {
		return r, ErrNotReplayable
	}
	_, err := CheckCreate(r)
	return r, err
}

// liberal returns f as Import makes it. ctnetlink tells nothing of a TCP connection's windows, so
// that the kernel would learn them from the packets that come first: when one of these is sent again
// it takes the answer for one to data that it hasn't seen, and gives up the connection.
func (f *Flow) liberal() Flow {
	g := *f
	if f.Orig.Proto == TCP && f.Has(AttrState) {
		g.TCP.Flags[0] |= TCPFlagBeLiberal
		g.TCP.Flags[1] |= TCPFlagBeLiberal
		g.Set(AttrTCP)
	}
	return g
}

// sameAs tells whether have is what Import would make of f. It leaves out timeouts, which run down,
// and what f doesn't say. orphan: f's master isn't there.
func (f *Flow) sameAs(have *Flow, orphan bool) bool {
	master := f.Master
	if orphan && have.Master.IsZero() {
		master = Tuple{}
	}
	return f.Orig == have.Orig && f.Reply == have.Reply && f.Zone == have.Zone && f.Mark == have.Mark &&
		(f.Status^have.Status)&statusSettable == 0 && f.Labels == have.Labels && f.Helper == have.Helper &&
		master == have.Master && f.sameState(have) &&
		(!f.Has(AttrSeqAdj) || f.SeqAdj == have.SeqAdj) && (!f.Has(AttrSynProxy) || f.SynProxy == have.SynProxy)
}

// sameState is sameAs for what the kernel keeps of a connection. How strictly a window is looked
// at is Import's own affair.
func (f *Flow) sameState(have *Flow) bool {
	if f.Has(AttrState) && f.State != have.State {
		return false
	}
	if f.Has(AttrTCP) {
		const compared = tcpFlagsSettable &^ TCPFlagBeLiberal
		a, b := f.TCP, have.TCP
		scaled := a.Flags[0]&a.Flags[1]&TCPFlagWindowScale != 0 // else the kernel doesn't heed scales
		if (a.Flags[0]^b.Flags[0])&compared != 0 || (a.Flags[1]^b.Flags[1])&compared != 0 || scaled && a.WScale != b.WScale {
			return false
		}
	}
	return (!f.Has(AttrSCTP) || f.SCTP == have.SCTP) && (!f.Has(AttrDCCP) || f.DCCP == have.DCCP)
}
