package conntrack

// Filter says which flows are meant. The zero Filter matches every flow.
type Filter struct{}

// ParseFilter reads the text form.
func ParseFilter(text string) (Filter, error) { return Filter{}, nil }

// FilterFromValue reads the object form: nil, a string (the text form), a map[string]any or a
// []any of such maps.
func FilterFromValue(v any) (Filter, error) { return Filter{}, nil }

// IsZero tells whether f matches every flow because nothing is asked.
func (f Filter) IsZero() bool { return true }

// String returns the text form.
func (f Filter) String() string { return "" }

// Value returns the object form.
func (f Filter) Value() any { return nil }

// Match tells whether f matches a flow.
func (f Filter) Match(fl *Flow) bool { return true }

// Uses tells whether f asks for a field, e.g. "rate" or "user".
func (f Filter) Uses(field string) bool { return false }

// pushdown is the part of a filter that the kernel can decide by itself. It may let more through
// than the filter, never less.
type pushdown struct {
	family             Family // FamilyAny: both
	zone               *uint16
	mark, markMask     uint32 // markMask 0: not filtered
	status, statusMask Status // statusMask 0: not filtered
	// orig and reply go to CTA_FILTER; they need a family. Only the fields whose bit
	// (CTA_FILTER_FLAG_*) is set count. IPv6 addresses are never among them.
	orig, reply           Tuple
	origFlags, replyFlags uint32
}

// pushdown returns what the kernel can filter of f.
func (f Filter) pushdown() pushdown { return pushdown{} }
