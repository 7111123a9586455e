package conntrack

// ParseFlow reads the attributes of a flow, in the form in which ctnetlink sends them, from elsewhere:
// NFQA_CT has them of the flow that a queued packet belongs to (linux/netfilter/nfnetlink_queue.h).
func ParseFlow(attributes []byte) (Flow, error) {
	var f Flow
	var d decoder
	err := d.decodeFlow(&f, attributes)
	return f, opError("parse flow", err)
}
