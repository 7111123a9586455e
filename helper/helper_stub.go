package helper

import (
	"context"
	"errors"
)

// Helper is the RTSP helper.
type Helper struct{}

// Open sets the helper up.
func Open(context.Context, Config) (*Helper, error) {
	return nil, errors.New("the RTSP helper is not part of this build")
}

// Run reads the queue until ctx ends.
func (*Helper) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Status returns how the helper is set up.
func (*Helper) Status() Status { return Status{} }

// Sessions returns the sessions.
func (*Helper) Sessions() []Session { return nil }

// Close takes down what Open set up.
func (*Helper) Close() error { return nil }

// Rules returns the rules that a helper with cfg needs.
func Rules(_ Config, form string) (string, error) {
	if form != "nft" && form != "iptables" {
		return "", errors.New("no such form of rules")
	}
	return "# " + form + "\n", nil
}
