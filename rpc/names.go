package rpc

// Names returns the names of all methods, in their order.
func (r *Registry) Names() []string {
	var names []string
	for _, m := range r.sorted(func(*method) bool { return true }) {
		names = append(names, m.Name)
	}
	return names
}
