// Package auth says who calls and what they may do: principals, roles, and the ways to recognise
// a caller. It imports nothing of the daemon; the server puts it in front of the methods.
package auth
