// Package cli is the verbs of the ctd command that call a daemon: list, get, count, kill, modify,
// create, flush, expect, helper, stats, doctor, info, completion and version. Run is its whole interface.
package cli
