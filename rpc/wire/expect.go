package wire

// Expect is an expectation: a flow that the kernel will take as related to its master.
type Expect struct {
	ID       uint32            `json:"id,omitempty" doc:"the kernel's id of the entry"`
	Family   string            `json:"family,omitempty" enum:"ipv4,ipv6"`
	Protocol string            `json:"protocol,omitempty" doc:"name in /etc/protocols, else the number"`
	ProtoNum uint8             `json:"protonum" doc:"IANA protocol number"`
	Zone     uint16            `json:"zone" doc:"zone, which is the master's"`
	Tuple    *Tuple            `json:"tuple,omitempty" doc:"what is expected"`
	Mask     *Tuple            `json:"mask,omitempty" doc:"which bits of tuple's addresses and ports are compared"`
	Master   *Tuple            `json:"master,omitempty" doc:"original direction of the flow that expects it"`
	Timeout  *uint32           `json:"timeout,omitempty" doc:"seconds left"`
	Helper   string            `json:"helper,omitempty" doc:"name of the helper, e.g. ftp"`
	Function string            `json:"function,omitempty" doc:"what the kernel does when it comes: sip, nat-follow-master, Q.931, callforwarding"`
	Class    uint32            `json:"class" doc:"class of the helper's policy"`
	Flags    []string          `json:"flags,omitempty" doc:"permanent, inactive, userspace; an unknown bit by its number"`
	NAT      *ExpectNAT        `json:"nat,omitempty" doc:"how its packets are translated"`
	Unknown  map[string]string `json:"unknown,omitempty" doc:"attributes that ctd doesn't know: number to hexadecimal bytes"`
}

// ExpectNAT is where the packets of an expected flow are translated to.
type ExpectNAT struct {
	Direction string `json:"direction,omitempty" doc:"of the master's directions, which one the expected flow's first packet takes" enum:"orig,reply"`
	Tuple     *Tuple `json:"tuple,omitempty" doc:"src and sport are the address and port to translate to"`
}

// ExpectListParams are the parameters of expect.list.
type ExpectListParams struct {
	Filter Filter `json:"filter,omitempty" doc:"which expectations: a filter over the expected flow (src, dst, sport, dport, proto, family, zone, helper, id); all where absent"`
	Limit  int    `json:"limit,omitempty" doc:"at most so many; 0 is no limit"`
}

// ExpectListResult is the result of expect.list.
type ExpectListResult struct {
	Expects []Expect `json:"expects" doc:"the expectations, in no order"`
	Matched int      `json:"matched" doc:"those that the filter matched, before limit"`
}

// ExpectGetParams are the parameters of expect.get.
type ExpectGetParams struct {
	Expect any `json:"expect" doc:"an id, or an expectation as expect.list gives it"`
}

// ExpectCreateParams are the parameters of expect.create.
type ExpectCreateParams struct {
	Master   any        `json:"master" doc:"the flow that expects: an id or an object as for conntrack.get"`
	Tuple    Tuple      `json:"tuple" doc:"what is expected; protocol is the master's where absent"`
	Mask     *Tuple     `json:"mask,omitempty" doc:"which bits of the source address and port are compared; where absent: all of what tuple gives, none of what it leaves out. Destination address and port are always compared, whole"`
	Timeout  uint32     `json:"timeout,omitempty" doc:"seconds; the helper's own where 0"`
	NAT      *ExpectNAT `json:"nat,omitempty" doc:"how its packets are to be translated"`
	Class    uint32     `json:"class,omitempty" doc:"class of the helper's policy"`
	Flags    []string   `json:"flags,omitempty" doc:"permanent, inactive, userspace"`
	Helper   string     `json:"helper,omitempty" doc:"the helper's name; the master's where absent"`
	Function string     `json:"function,omitempty" doc:"what the kernel does when it comes: sip, nat-follow-master, Q.931, callforwarding"`
	DryRun   bool       `json:"dry_run,omitempty" doc:"only check it"`
}

// ExpectKillParams are the parameters of expect.kill.
type ExpectKillParams struct {
	Filter  Filter `json:"filter,omitempty" doc:"which expectations; an empty filter needs all"`
	Expects []any  `json:"expects,omitempty" doc:"expectations by id or as objects, instead of a filter"`
	DryRun  bool   `json:"dry_run,omitempty" doc:"only say what would be killed"`
	Max     *int   `json:"max,omitempty" doc:"kill nothing where more than so many match; 1000 where absent"`
	All     bool   `json:"all,omitempty" doc:"with an empty filter: yes, every expectation"`
	Reason  string `json:"reason,omitempty" doc:"for the log"`
}

// ExpectKillResult is the result of expect.kill.
type ExpectKillResult struct {
	Killed  int             `json:"killed" doc:"expectations that were killed"`
	Matched int             `json:"matched" doc:"expectations that were meant"`
	Changed bool            `json:"changed" doc:"whether anything was killed"`
	Expects []Expect        `json:"expects" doc:"what was killed, or would be"`
	Failed  []ExpectFailure `json:"failed,omitempty" doc:"what the kernel refused"`
}

// ExpectFailure is one expectation that could not be killed.
type ExpectFailure struct {
	Expect  Expect `json:"expect" doc:"the expectation, unchanged"`
	Code    Code   `json:"code" doc:"a name of the table of errors"`
	Message string `json:"message" doc:"what went wrong"`
	Hint    string `json:"hint,omitempty" doc:"what to do next"`
}

// ExpectFlushParams are the parameters of expect.flush.
type ExpectFlushParams struct {
	All    bool `json:"all" doc:"must be true"`
	DryRun bool `json:"dry_run,omitempty" doc:"only count what would go"`
}
