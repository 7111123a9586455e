package helper

import "context"

// OpenOwn is Open with a helper of our own in the kernel preferred to the kernel's.
func OpenOwn(ctx context.Context, cfg Config) (*Helper, error) {
	return open(ctx, cfg, probeOwn, probeBorrowed)
}
