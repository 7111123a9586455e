package conntracktest

import (
	"os"
	"strconv"
	"time"
)

// SlowEnv is the environment variable that says how many times slower than usual the machine is:
// a whole number, 1 where it is not set. An emulated machine on a busy one may need 10.
const SlowEnv = "CTD_TEST_SLOW"

// Slow returns how long may take here what takes at most d on a usual machine.
func Slow(d time.Duration) time.Duration {
	if n, err := strconv.Atoi(os.Getenv(SlowEnv)); err == nil && n > 1 {
		d *= time.Duration(n)
	}
	return d
}
