// Package server is the daemon: it reads its configuration, opens the table, listens, recognises
// callers and hands their requests to the methods of package rpc. Beside that it runs the RTSP helper
// (helper.go).
//
// The way of a request: listener (listen.go) -> middleware (middleware.go) -> rpc.Handler, which
// decodes it, finds the method and writes the result out.
package server
