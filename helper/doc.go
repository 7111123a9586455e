// Package helper is the place of protocol helpers: programs in user space that read a control
// protocol from a packet queue and tell the connection tracking table which flows belong to it.
// None is built in yet.
package helper
