package cli

import (
	"ctd/rpc/wire"
)

type modifyCmd struct {
	choice
	Timeout      *string  `placeholder:"TIME" help:"Seconds, or such as 10m, 1h30m, 5d."`
	FixedTimeout bool     `help:"Packets no longer refresh the timeout. It can't be taken back."`
	Mark         *string  `placeholder:"VALUE[/MASK]" help:"Mark; with a mask only its bits change."`
	Status       []string `placeholder:"BIT" help:"Status bits to set: seen_reply, assured, fixed_timeout."`
	Label        *string  `placeholder:"LABELS" help:"Labels: 1,2 replaces all, +3,-4 sets and clears. --label= clears all."`
	Helper       *string  `placeholder:"NAME" help:"Helper by name; --helper= takes it away."`
	State        string   `placeholder:"STATE" help:"TCP state, e.g. ESTABLISHED."`
	SNAT         string   `name:"snat" placeholder:"ADDR[:PORT]" help:"Translate the source so: the flow is made anew."`
	DNAT         string   `name:"dnat" placeholder:"ADDR[:PORT]" help:"Translate the destination so: the flow is made anew."`
}

func (modifyCmd) Help() string {
	return `What no flag names stays as it is. Zero can be written: --mark 0.

Examples:

  ctd modify src=192.168.1.2 dport=22 --timeout 10m --dry-run
  ctd modify addr=10.3.0.7 --mark 0x10/0xff
  ctd modify 1234567890 --label=+3,-4 --status assured`
}

func (m *modifyCmd) Run(s *session) error {
	set, err := m.set()
	if err != nil {
		return err
	}
	filter, ids, err := m.selected("modify")
	if err != nil {
		return err
	}
	var r wire.ModifyResult
	printed, err := s.call("conntrack.modify", wire.ModifyParams{
		Filter: filter, Flows: ids, Set: set, DryRun: m.DryRun, Max: m.Max, ExpectCount: m.ExpectCount, CreatedBefore: m.CreatedBefore,
		All: m.All, Reason: m.Reason,
	}, &r)
	if err != nil {
		return err
	}
	if !printed {
		n, did := r.Modified, "modified"
		if m.DryRun {
			n, did = r.Matched, "would modify"
		}
		if err := s.changed(did, n, r.Flows, r.Truncated); err != nil {
			return err
		}
	}
	if err := s.failures(r.Failed); err != nil {
		return err
	}
	return s.matched(m.FailIfNone, r.Matched)
}

// set makes the change of the flags.
func (m *modifyCmd) set() (wire.Set, error) {
	set := wire.Set{FixedTimeout: m.FixedTimeout, Helper: m.Helper, State: m.State}
	if m.Timeout != nil {
		n, err := seconds(*m.Timeout)
		if err != nil {
			return set, err
		}
		set.Timeout = &n
	}
	if m.Mark != nil {
		v, err := mark(*m.Mark)
		if err != nil {
			return set, err
		}
		set.Mark = v
	}
	if bits := splitList(m.Status); len(bits) > 0 {
		set.Status = bits
	}
	if m.Label != nil {
		list, err := labels(*m.Label)
		if err != nil {
			return set, err
		}
		set.Labels = list
	}
	if m.SNAT != "" || m.DNAT != "" {
		set.NAT = &wire.NAT{Src: m.SNAT, Dst: m.DNAT}
	}
	if !m.FixedTimeout && set.Helper == nil && set.State == "" && set.Timeout == nil && set.Mark == nil &&
		set.Status == nil && set.Labels == nil && set.NAT == nil {
		return set, &usageError{message: "modify: nothing to change", hint: "say what, e.g. --timeout 10m or --mark 0x10"}
	}
	return set, nil
}
