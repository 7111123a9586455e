package conntrack

// ListOptions is what the options given to Flows ask for, for a double of Table.
type ListOptions struct {
	Source  Source
	Zeroing bool
	Scanned *int // nil where nobody wants to know
	Within  Filter
}

// ResolveListOptions returns what options ask for.
func ResolveListOptions(opts ...ListOption) ListOptions {
	var cfg listConfig
	for _, opt := range opts {
		opt(&cfg)
	}
	return ListOptions{Source: cfg.source, Zeroing: cfg.zero, Scanned: cfg.scanned, Within: cfg.within}
}
