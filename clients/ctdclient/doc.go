// Package ctdclient calls a ctd daemon: over its Unix socket, HTTP or HTTPS, by JSON-RPC 2.0 or
// XML-RPC.
//
//	c, err := ctdclient.New(ctdclient.FromEnv(os.Getenv))
//	for flow, err := range c.List(ctx, wire.ListParams{Filter: "proto=tcp dport=22"}) {
//		...
//	}
//
// Every error that the daemon answers with is a [*wire.Error]; so are an unreachable daemon
// ([wire.Unavailable]) and an answer that ends early, so that a caller branches with errors.As
// alone. A list that is cut short always ends in an error. What the context ends is the
// context's error.
package ctdclient
