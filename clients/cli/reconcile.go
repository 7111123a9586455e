package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"ctd/rpc/wire"
)

type reconcileCmd struct {
	Filter []string `arg:"" optional:"" help:"Which flows the rule is about, as key=value words."`
	Keep   []string `sep:"none" placeholder:"FILTER" help:"Which of them may remain, e.g. 'reply_src=10.1.0.1,10.1.0.2'; none where absent. Given again, it is another alternative."`

	AddressesFrom string `placeholder:"FILE" help:"Only flows of the addresses and networks in a file, one a line, or - for standard input. What follows # is a comment."`

	Watch  string `placeholder:"TIME" help:"Then go on for so long, e.g. 30s or 5m, at most 10m: kill what begins and may not remain."`
	Passes *int   `placeholder:"N" help:"At most so many passes until two in a row find nothing; the daemon makes 10."`
	DryRun bool   `help:"Only say what would be killed."`
	Max    *int   `placeholder:"N" help:"Kill nothing where more than so many have to go, and stop where it would be more in all; the daemon's limit is 1000."`
	All    bool   `help:"Without a filter, --keep or addresses: yes, every flow."`

	IncludeSelf bool   `help:"Also your own connection to the daemon and your SSH session, which are spared otherwise."`
	Reason      string `placeholder:"TEXT" help:"For the daemon's log."`
	FailIfNone  bool   `help:"Exit with 1 where nothing had to go."`

	cutFlags
}

func (reconcileCmd) Help() string {
	return `The daemon kills the flows of the filter that may not remain, and looks again until two passes in a
row find nothing: the next packet of a killed flow makes it anew, by the rules as they are now. Where
they keep coming, the exit status is 3. --cut, --block (without --keep) and --reject are those of ctd kill.

A watch needs net.netfilter.nf_conntrack_events. Where the filter or --keep asks for what a flow's
first packet doesn't tell (mark, state, status, helper, label, timeout, bytes, packets, age), new
flows are looked at once a second instead of as they begin.

Examples:

  ctd reconcile proto=udp dst=10.0.0.53 dport=53 --keep 'reply_src=10.1.0.1,10.1.0.2'
  ctd reconcile dst=10.0.0.80 --keep 'proto=tcp dport=80' --keep 'proto=tcp dport=443' --dry-run
  printf '192.0.2.7\n198.51.100.0/24 # scanners\n' | ctd reconcile --addresses-from - --watch 30s`
}

func (c *reconcileCmd) Run(s *session) error {
	params, err := c.params(s)
	if err != nil {
		return err
	}
	var r wire.ReconcileResult
	printed, err := s.call("conntrack.reconcile", params, &r)
	if err != nil {
		return err
	}
	if !printed {
		n, did := r.Killed, "killed"
		if c.DryRun {
			n, did = r.Matched, "would kill"
		}
		if err := s.changed(did, n, r.Flows, r.Truncated); err != nil {
			return err
		}
		if err := c.print(s, r.Cut, r.Killed); err != nil {
			return err
		}
	}
	s.sparedNote(r.Spared)
	if r.Lost > 0 {
		s.complain("the kernel left new flows out "+plural(r.Lost, "time"), "each time the daemon looked through the whole table")
	}
	if err := s.failures(r.Failed); err != nil {
		return err
	}
	if !r.Settled && !c.DryRun {
		s.complain(
			fmt.Sprintf("it did not settle in %s: flows that may not remain come again", passes(r.Passes)),
			"see what makes them with ctd list, or give it longer by --passes or --watch")
		return statusError(wire.ExitRefused)
	}
	return s.matched(c.FailIfNone, r.Matched)
}

func passes(n int) string {
	if n == 1 {
		return "1 pass"
	}
	return fmt.Sprintf("%d passes", n)
}

func (c *reconcileCmd) params(s *session) (p wire.ReconcileParams, err error) {
	if c.Max != nil && *c.Max < 0 {
		return p, usagef("--max can't be below 0")
	}
	p = wire.ReconcileParams{
		DryRun: c.DryRun, Max: c.Max, Passes: c.Passes, All: c.All, Reason: c.Reason,
		Cutting: c.cutting(), Sparing: s.sparing(c.IncludeSelf),
	}
	if c.Watch != "" {
		n, err := seconds(c.Watch)
		if err != nil {
			return p, err
		}
		p.Watch = n
	}
	words := c.Filter
	if c.AddressesFrom != "" {
		list, err := s.addresses(c.AddressesFrom)
		if err != nil {
			return p, err
		}
		if hasOr(words) {
			return p, &usageError{message: "--addresses-from can't go with or", hint: "call it once for each alternative"}
		}
		words = append(words, "addr="+strings.Join(list, ","))
	}
	p.Filter = filterText(words)
	if len(c.Keep) > 0 {
		p.Keep = strings.Join(c.Keep, " or ")
	}
	if p.Filter == nil && p.Keep == nil && !c.All {
		return p, &usageError{
			message: "reconcile: no filter", hint: "say which flows the rule is about, e.g. dst=10.0.0.53, or which may remain by --keep, or --all for none at all",
		}
	}
	return p, nil
}

// hasOr tells whether filter words hold alternatives.
func hasOr(words []string) bool {
	for w := range strings.FieldsSeq(strings.Join(words, " ")) {
		if strings.EqualFold(w, "or") {
			return true
		}
	}
	return false
}

// addresses reads addresses and networks from a file or, for -, from standard input. None at all are
// an error: a list that got lost on its way would be a filter that means every flow.
func (s *session) addresses(name string) ([]string, error) {
	r := s.o.Stdin
	if name == "-" {
		name = "standard input"
	} else {
		f, err := os.Open(name)
		if err != nil {
			return nil, usagef("--addresses-from: %v", err)
		}
		defer f.Close()
		r = f
	}
	list, err := readAddresses(r)
	if err == nil && len(list) == 0 {
		err = errors.New("no address in it")
	}
	if err != nil {
		return nil, usagef("%s: %v", name, err)
	}
	return list, nil
}

// readAddresses reads one address or network a line. An error names the line.
func readAddresses(r io.Reader) ([]string, error) {
	var list []string
	lines := bufio.NewScanner(r)
	n := 0
	for lines.Scan() {
		n++
		text, _, _ := strings.Cut(strings.TrimPrefix(lines.Text(), "\ufeff"), "#")
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		addr, err := netip.ParseAddr(text)
		if _, perr := netip.ParsePrefix(text); (err != nil || addr.Zone() != "") && perr != nil {
			return nil, fmt.Errorf("line %d: %q is neither an address nor a network", n, clip(text))
		}
		list = append(list, text)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", n+1, err)
	}
	return list, nil
}

// clip shortens a text for a message.
func clip(text string) string {
	const longest = 64
	if len(text) > longest {
		return text[:longest] + "..."
	}
	return text
}
