package conntrack

import (
	"strings"
	"time"
)

// Limits of a filter. What goes beyond is refused, in the text form and in the object form.
const (
	MaxFilterText    = 1 << 20  // bytes of the text form, as it comes and as String prints it
	MaxFilterClauses = 256      // alternatives joined by "or"
	MaxFilterValues  = 16 << 10 // values of all fields together
)

// Filter says which flows are meant. It is immutable; the zero Filter matches every flow. Two
// forms say the same thing and each prints as the other: a text (ParseFilter, String) and an
// object (FilterFromValue, Value).
//
// # Text form
//
//	proto=tcp src=10.0.0.0/8,!10.0.0.5 dport=80,443 bytes=>1M or user="Jane Doe"
//
// Words field=value[,value...] separated by spaces form a clause; a flow matches a clause if it
// matches every word. The word "or" separates clauses; a flow matches the filter if it matches
// one of them. A field stands once in a clause. FilterFields lists the fields.
//
// A value with a space, a comma or a quote in it, or one that begins with "!", stands in double
// quotes; inside them \" is a quote and \\ a backslash.
//
// # Object form
//
//	{"proto": "tcp", "src": "10.0.0.0/8,!10.0.0.5", "dport": [80, 443], "bytes": ">1M"}
//
// A clause is an object of fields, several clauses are an array of objects, nothing at all (null,
// an empty object, array or text) is the zero Filter. A value is a text as after the "=" of a
// word (spaces need no quotes here), a number, a boolean for nat, or a list of these. An empty
// object among several would match every flow and is refused.
//
// # Values
//
// The values of one field are alternatives. "!" before a value means not: a flow with such a value
// doesn't match, whatever else stands there. A field with negated values alone means anything
// else than these.
//
//   - family: ipv4 or ipv6.
//   - proto: a name or a number.
//   - src, dst, reply_src, reply_dst, addr, net: an address, a network (host bits are dropped), or
//     a range 10.0.0.1-10.0.0.9. An IPv4-mapped IPv6 address means the IPv4 address. addr and net
//     are true if one of the flow's four addresses is meant, their negation if none is.
//   - sport, dport, reply_sport, reply_dport, port, icmp_type, icmp_code, gre_key, zone, id: a
//     number, decimal or hexadecimal with 0x, or a range 8000-8100. port looks at the flow's four
//     ports and gre_key at its four keys, as addr does.
//   - mark: a number, a range, or value/mask.
//   - state: a state as conntrack(8) prints it, or its number.
//   - status: a bit by its name or number; several are alternatives.
//   - nat: snat, dnat or both, as a flow shows it; any of these; none of them.
//   - label: a number or a range; * for any label.
//   - helper, user: the whole name, letter case counts; * for any name.
//   - timeout, age: a time; bytes, rate, packets: an amount. These compare: >10M, >=10M, <60, <=60,
//     a range 1h-2h with both ends, or the exact value. Times have the units s, m, h and d (1h30m;
//     a bare number is seconds), bytes and rate K, M, G and T (powers of 1024), packets none. bytes
//     and packets add up both directions, rate is bytes a second in both. age is the time since the
//     start of the flow. Fractions of a second and of a byte are dropped before comparing.
//
// # What a flow doesn't have
//
// A flow without the field (the port of an ICMP flow, the state of a UDP flow, a helper or user
// that there isn't) doesn't match a value and matches the negation of one: dport=!22 is true of
// every ICMP flow. The comparisons differ: where the kernel did not supply what they need (bytes
// and packets the counters, age the start, rate a sample, timeout the timeout), neither
// the value nor its negation matches, because nothing is known.
type Filter struct {
	c   *filterProgram
	now int64 // nanoseconds since the epoch that age counts to; 0 for the clock
}

// filterProgram is a filter that was read: to print and to run.
type filterProgram struct {
	clauses []filterClause
	text    string
	usesAge bool
}

// filterClause is one alternative of a filter.
type filterClause struct {
	terms []filterTerm // in the order of the fields
	conds []filterCond // the same, cheapest first
}

// filterTerm is one field of a clause and its values as they stand there.
type filterTerm struct {
	field  fieldID
	values []filterValue
}

// newFilter makes the filter of clauses, which each hold at least one term.
func newFilter(clauses []filterClause) (Filter, error) {
	if len(clauses) == 0 {
		return Filter{}, nil
	}
	c := &filterProgram{clauses: clauses}
	var b strings.Builder
	for i := range clauses {
		if i > 0 {
			b.WriteString(" or ")
		}
		for j, t := range clauses[i].terms {
			if j > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(t.field.spec().Name)
			b.WriteByte('=')
			t.append(&b)
			c.usesAge = c.usesAge || t.field == fieldAge
		}
		clauses[i].conds = compileConds(clauses[i].terms)
	}
	if b.Len() > MaxFilterText {
		return Filter{}, tooLong()
	}
	c.text = b.String()
	return Filter{c: c}, nil
}

// append writes the term's values in the text form.
func (t filterTerm) append(b *strings.Builder) {
	for i, v := range t.values {
		if i > 0 {
			b.WriteByte(',')
		}
		if v.not {
			b.WriteByte('!')
		}
		b.WriteString(v.text)
	}
}

// IsZero tells whether f matches every flow because nothing is asked.
func (f Filter) IsZero() bool { return f.c == nil }

// Equal tells whether f and other have the same text form.
func (f Filter) Equal(other Filter) bool { return f.String() == other.String() }

// String returns the text form, with the fields in the order of FilterFields and the values as
// this package prints them. ParseFilter reads the same filter from it.
func (f Filter) String() string {
	if f.c == nil {
		return ""
	}
	return f.c.text
}

// MarshalText returns the text form, so that a Filter inside of JSON is a text.
func (f Filter) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText reads the text form; on an error f stays as it is.
func (f *Filter) UnmarshalText(text []byte) error {
	parsed, err := ParseFilter(string(text))
	if err != nil {
		return err
	}
	*f = parsed
	return nil
}

// Value returns the object form: a map[string]any of field to the text of its values, or for
// several clauses a []any of such maps. FilterFromValue reads the same filter from it.
func (f Filter) Value() any {
	if f.c == nil {
		return map[string]any{}
	}
	clauses := make([]any, len(f.c.clauses))
	for i, c := range f.c.clauses {
		m := make(map[string]any, len(c.terms))
		for _, t := range c.terms {
			var b strings.Builder
			t.append(&b)
			m[t.field.spec().Name] = b.String()
		}
		clauses[i] = m
	}
	if len(clauses) == 1 {
		return clauses[0]
	}
	return clauses
}

// At returns f with the age of flows counted to now instead of the moment of Match, so that all
// flows of one dump are measured alike.
func (f Filter) At(now time.Time) Filter {
	f.now = now.UnixNano()
	return f
}

// Uses tells whether f asks for a field, e.g. "rate" or "user", in any of its clauses.
func (f Filter) Uses(field string) bool {
	if f.c == nil {
		return false
	}
	for i := range f.c.clauses {
		for _, t := range f.c.clauses[i].terms {
			if t.field.spec().Name == field {
				return true
			}
		}
	}
	return false
}

// Match tells whether f matches a flow. It allocates nothing.
func (f Filter) Match(fl *Flow) bool {
	if f.c == nil {
		return true
	}
	now := f.now
	if now == 0 && f.c.usesAge {
		now = time.Now().UnixNano()
	}
	for i := range f.c.clauses {
		if f.c.clauses[i].match(fl, now) {
			return true
		}
	}
	return false
}
