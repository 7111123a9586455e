package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"ctd/rpc/wire"
)

// maxFlowText is how much is read of a flow on standard input.
const maxFlowText = 1 << 20

type createCmd struct {
	Flow    []string `arg:"" help:"The flow as words: proto= src= dst= sport= dport= (icmp_type= icmp_code= icmp_id=, gre_key=) timeout= state= mark= zone= status= labels= helper=, and reply_src= and so on; or - for a flow in JSON on standard input."`
	Timeout string   `placeholder:"TIME" help:"As timeout=: seconds, or such as 10m."`
	Mark    string   `placeholder:"VALUE" help:"As mark=."`
	Status  string   `placeholder:"BIT,..." help:"As status=."`
	Label   string   `placeholder:"N,..." help:"As labels=."`
	Helper  string   `placeholder:"NAME" help:"As helper=."`
	State   string   `placeholder:"STATE" help:"As state=."`
	SNAT    string   `name:"snat" placeholder:"ADDR[:PORT]" help:"Translate the source so."`
	DNAT    string   `name:"dnat" placeholder:"ADDR[:PORT]" help:"Translate the destination so."`
	DryRun  bool     `help:"Only check the flow."`
}

func (createCmd) Help() string {
	return `Examples:

  ctd create proto=udp src=10.0.0.1 dst=10.0.0.9 sport=5353 dport=53 timeout=30
  ctd create proto=tcp src=10.0.0.1 dst=192.0.2.7 sport=1025 dport=80 timeout=5d state=ESTABLISHED --snat 198.51.100.1:4000 --mark 0x10
  ctd get 1234567890 -o json | ctd create - --dry-run`
}

func (c *createCmd) Run(s *session) error {
	var flow any
	if len(c.Flow) == 1 && c.Flow[0] == "-" {
		raw, err := c.read(s)
		if err != nil {
			return err
		}
		flow = raw
	} else {
		f, err := c.flow()
		if err != nil {
			return err
		}
		flow = f
	}
	params := struct {
		Flow   any  `json:"flow"`
		DryRun bool `json:"dry_run,omitempty"`
	}{flow, c.DryRun}
	var f wire.Flow
	printed, err := s.call("conntrack.create", params, &f)
	if err != nil || printed {
		return err
	}
	return s.flows([]wire.Flow{f})
}

// read takes the flow from standard input as it is: the daemon checks it.
func (c *createCmd) read(s *session) (json.RawMessage, error) {
	if len(c.words()) > 0 || c.SNAT != "" || c.DNAT != "" {
		return nil, usagef("create -: the flow comes from standard input alone")
	}
	text, err := io.ReadAll(io.LimitReader(s.o.Stdin, maxFlowText+1))
	if err != nil {
		return nil, fmt.Errorf("read flow: %w", err)
	}
	if len(text) > maxFlowText {
		return nil, usagef("create -: the flow is longer than %d bytes", maxFlowText)
	}
	text = bytes.TrimSpace(text)
	if !json.Valid(text) || len(text) == 0 || text[0] != '{' {
		return nil, usagef("create -: standard input holds no JSON object")
	}
	return text, nil
}

// words returns the flags that stand for words.
func (c *createCmd) words() []string {
	var words []string
	for _, p := range []pair{
		{"timeout", c.Timeout},
		{"mark", c.Mark},
		{"status", c.Status},
		{"labels", c.Label},
		{"helper", c.Helper},
		{"state", c.State},
	} {
		if p.value != "" {
			words = append(words, p.key+"="+p.value)
		}
	}
	return words
}

func createKeys() []string {
	keys := append([]string{"family", "proto", "zone", "timeout", "mark", "status", "labels", "helper", "state"}, tupleKeys...)
	for _, k := range tupleKeys {
		keys = append(keys, "reply_"+k)
	}
	return keys
}

func (c *createCmd) flow() (*wire.Flow, error) {
	ps, err := pairs(append(c.words(), c.Flow...))
	if err != nil {
		return nil, err
	}
	f := &wire.Flow{Orig: &wire.Tuple{}}
	reply := &wire.Tuple{}
	for _, p := range ps {
		if err := setFlow(f, reply, p); err != nil {
			return nil, err
		}
	}
	if f.Protocol == "" || f.Orig.Src == "" || f.Orig.Dst == "" || f.Timeout == nil {
		return nil, &usageError{
			message: "create: proto=, src=, dst= and timeout= are needed",
			hint:    "e.g. ctd create proto=udp src=10.0.0.1 dst=10.0.0.2 sport=5353 dport=53 timeout=30",
		}
	}
	if f.Family == "" {
		f.Family = familyOf(f.Orig.Src)
	}
	if err := c.translate(reply); err != nil {
		return nil, err
	}
	if *reply != (wire.Tuple{}) {
		f.Reply = completeReply(f.Orig, reply)
	}
	return f, nil
}

func setFlow(f *wire.Flow, reply *wire.Tuple, p pair) (err error) {
	switch p.key {
	case "family":
		f.Family = p.value
	case "proto", "protocol":
		f.Protocol = p.value
		if n, nerr := strconv.ParseUint(p.value, 10, 8); nerr == nil {
			f.ProtoNum = uint8(n)
		}
	case "zone":
		zone, perr := parse[uint16](p)
		if perr != nil {
			return perr
		}
		f.Zone = *zone
	case "timeout":
		n, terr := seconds(p.value)
		if terr != nil {
			return terr
		}
		f.Timeout = &n
	case "mark":
		f.Mark, err = parse[uint32](p)
	case "status":
		f.Status = splitList([]string{p.value})
	case "labels", "label":
		for _, l := range splitList([]string{p.value}) {
			n, lerr := strconv.ParseUint(l, 10, 8)
			if lerr != nil || n > 127 {
				return usagef("label %q: want a number from 0 to 127", l)
			}
			f.Labels = append(f.Labels, int(n))
		}
	case "helper":
		f.Helper = p.value
	case "state":
		f.State = p.value
	default:
		t, key := f.Orig, p.key
		if k, ok := strings.CutPrefix(p.key, "reply_"); ok {
			t, key = reply, k
		}
		ok, terr := setTuple(t, pair{key, p.value})
		if !ok {
			return unknownKey(p.key, createKeys())
		}
		return terr
	}
	return err
}

// translate enters --snat and --dnat in the reply direction, whose packets go to where the source
// is translated to and come from where the destination is.
func (c *createCmd) translate(reply *wire.Tuple) error {
	for _, nat := range []struct {
		flag, value string
		addr        *string
		port        **uint16
	}{
		{"--snat", c.SNAT, &reply.Dst, &reply.DPort},
		{"--dnat", c.DNAT, &reply.Src, &reply.SPort},
	} {
		if nat.value == "" {
			continue
		}
		if ap, err := netip.ParseAddrPort(nat.value); err == nil {
			port := ap.Port()
			*nat.addr, *nat.port = ap.Addr().String(), &port
			continue
		}
		a, err := netip.ParseAddr(strings.Trim(nat.value, "[]"))
		if err != nil {
			return usagef("%s %s: want an address, or address:port", nat.flag, nat.value)
		}
		*nat.addr = a.String()
	}
	return nil
}

// completeReply fills what was not given of the reply direction with the inverse of the original.
func completeReply(orig, given *wire.Tuple) *wire.Tuple {
	r := *given
	if r.Src == "" {
		r.Src = orig.Dst
	}
	if r.Dst == "" {
		r.Dst = orig.Src
	}
	if r.SPort == nil {
		r.SPort = orig.DPort
	}
	if r.DPort == nil {
		r.DPort = orig.SPort
	}
	if r.Key == nil {
		r.Key = orig.SrcKey
	}
	if r.SrcKey == nil {
		r.SrcKey = orig.Key
	}
	if r.ID == nil {
		r.ID = orig.ID
	}
	if r.Code == nil {
		r.Code = orig.Code
	}
	if r.Type == nil && orig.Type != nil {
		t := inverseType(*orig.Type)
		r.Type = &t
	}
	return &r
}

// inverseType maps a request's ICMP or ICMPv6 type to its answer's (invmap in
// nf_conntrack_proto_icmp.c and nf_conntrack_proto_icmpv6.c); the two don't overlap.
func inverseType(t uint8) uint8 {
	pairs := [][2]uint8{{8, 0}, {13, 14}, {15, 16}, {17, 18}, {128, 129}, {139, 140}}
	for _, p := range pairs {
		switch t {
		case p[0]:
			return p[1]
		case p[1]:
			return p[0]
		}
	}
	return t
}

func familyOf(addr string) string {
	if strings.Contains(addr, ":") {
		return "ipv6"
	}
	return "ipv4"
}
