package cli

import (
	"net/netip"
	"strings"

	"ctd/rpc/wire"
)

type expectCreateCmd struct {
	Tuple        []string `arg:"" help:"What is expected, as words: src= dst= sport= dport= proto=. What is left out may be anything."`
	Master       string   `required:"" placeholder:"FLOW" help:"The flow that expects it: its id, or words as for get in one argument."`
	Mask         string   `placeholder:"WORDS" help:"Which bits are compared, e.g. 'src=255.255.255.255 dport=0xffff'. Else all of what is given."`
	Timeout      string   `placeholder:"TIME" help:"Seconds, or such as 10m. Else the helper's own."`
	Helper       string   `placeholder:"NAME" help:"The helper. Else the master's."`
	Function     string   `placeholder:"NAME" help:"What the kernel does when it comes: sip, nat-follow-master, Q.931, callforwarding."`
	Class        uint32   `placeholder:"N" help:"Class of the helper's policy."`
	Flags        []string `placeholder:"FLAG" help:"permanent, inactive, userspace."`
	NAT          string   `name:"nat" placeholder:"ADDR[:PORT]" help:"Where its packets are translated to."`
	NATDirection string   `name:"nat-direction" default:"reply" enum:"orig,reply" help:"Which of the master's directions its first packet takes: orig or reply."`
	DryRun       bool     `help:"Only check it."`
}

func (expectCreateCmd) Help() string {
	return `Examples:

  ctd expect create --master 1234567890 proto=udp src=192.0.2.7 dst=198.51.100.1 dport=6970 --timeout 60
  ctd expect create --master 'proto=tcp src=10.0.0.1 dst=192.0.2.7 sport=1025 dport=554' proto=udp src=192.0.2.7 dst=198.51.100.1 dport=6970 --function sip --nat 10.0.0.1:6970 --dry-run`
}

func (c *expectCreateCmd) Run(s *session) error {
	p, err := c.params()
	if err != nil {
		return err
	}
	var e wire.Expect
	printed, err := s.call("expect.create", p, &e)
	if err != nil || printed {
		return err
	}
	return s.expects([]wire.Expect{e})
}

func (c *expectCreateCmd) params() (*wire.ExpectCreateParams, error) {
	p := &wire.ExpectCreateParams{
		Helper: c.Helper, Function: c.Function, Class: c.Class, Flags: splitList(c.Flags), DryRun: c.DryRun,
	}
	var err error
	if p.Master, err = selector(strings.Fields(c.Master)); err != nil {
		return nil, err
	}
	tuple, err := tupleWords(c.Tuple)
	if err != nil {
		return nil, err
	}
	p.Tuple = *tuple
	if c.Mask != "" {
		if p.Mask, err = tupleWords([]string{c.Mask}); err != nil {
			return nil, err
		}
	}
	if c.Timeout != "" {
		if p.Timeout, err = seconds(c.Timeout); err != nil {
			return nil, err
		}
	}
	if c.NAT != "" {
		to := &wire.Tuple{}
		if ap, err := netip.ParseAddrPort(c.NAT); err == nil {
			port := ap.Port()
			to.Src, to.SPort = ap.Addr().String(), &port
		} else if a, err := netip.ParseAddr(c.NAT); err == nil {
			to.Src = a.String()
		} else {
			return nil, usagef("--nat %s: want an address, or address:port", c.NAT)
		}
		p.NAT = &wire.ExpectNAT{Direction: c.NATDirection, Tuple: to}
	}
	return p, nil
}

// tupleWords reads a tuple that stands alone.
func tupleWords(words []string) (*wire.Tuple, error) {
	ps, err := pairs(words)
	if err != nil {
		return nil, err
	}
	t := &wire.Tuple{}
	for _, p := range ps {
		if p.key == "proto" || p.key == "protocol" {
			t.Protocol = p.value
			continue
		}
		ok, err := setTuple(t, p)
		if !ok {
			return nil, unknownKey(p.key, append([]string{"proto"}, tupleKeys...))
		}
		if err != nil {
			return nil, err
		}
	}
	return t, nil
}
