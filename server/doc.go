// Package server is the daemon: it opens the table, listens, recognises callers and hands their
// requests to the methods of package rpc.
//
// The way of a request: listener (listen.go) -> middleware (middleware.go) -> rpc.Handler, which
// decodes it, finds the method and writes the result out.
package server
