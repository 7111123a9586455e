package cli

import (
	"strings"

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

On a terminal it shows what it would change and asks, as ctd kill does; --yes, or -y, is for scripts.
Your own connection to the daemon and your SSH session are spared, unless you say --include-self.

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
	p := wire.ModifyParams{
		Filter: filter, Flows: ids, Set: set, DryRun: m.DryRun, Max: m.Max, ExpectCount: m.ExpectCount, CreatedBefore: m.CreatedBefore,
		All: m.All, Reason: m.Reason, Sparing: s.sparing(m.IncludeSelf),
	}
	r, printed, err := s.modify(p, m.what(), s.asks(m.Yes, m.DryRun))
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

// modify modifies, and asks before where that is wanted. Unlike with a kill, the result shows the flows
// again, as they are now.
func (s *session) modify(p wire.ModifyParams, what string, asks bool) (r wire.ModifyResult, printed bool, err error) {
	seen, asked := 0, p
	if asks {
		var done bool
		if seen, done, err = s.confirmModify(&p, what, &r); done {
			return r, false, err
		}
		r = wire.ModifyResult{}
	}
	if printed, err = s.call("conntrack.modify", p, &r); err != nil {
		if asks && seen == 0 && isAboveLimit(err) {
			asked.DryRun, asked.Reason = true, ""
			if _, again := s.call("conntrack.modify", asked, &r); again == nil && r.Matched > *p.Max {
				err = grown(*p.Max, r.Matched)
			}
		}
		return r, printed, err
	}
	if !asks {
		s.sparedNote(r.Spared)
	}
	s.goneNote(r.Gone, seen, r.Matched)
	return r, printed, nil
}

// what says what the flags change, in their own words.
func (m *modifyCmd) what() string {
	var words []string
	add := func(flag, value string, given bool) {
		if given {
			words = append(words, strings.TrimSpace(flag+" "+value))
		}
	}
	add("--timeout", deref(m.Timeout), m.Timeout != nil)
	add("--fixed-timeout", "", m.FixedTimeout)
	add("--mark", deref(m.Mark), m.Mark != nil)
	add("--status", strings.Join(m.Status, ","), len(m.Status) > 0)
	add("--label="+deref(m.Label), "", m.Label != nil)
	add("--helper="+deref(m.Helper), "", m.Helper != nil)
	add("--state", m.State, m.State != "")
	add("--snat", m.SNAT, m.SNAT != "")
	add("--dnat", m.DNAT, m.DNAT != "")
	return "to be changed: " + strings.Join(words, " ")
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
