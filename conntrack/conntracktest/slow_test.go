package conntracktest

import (
	"testing"
	"time"
)

func TestSlow(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"": time.Second, "0": time.Second, "1": time.Second, "10": 10 * time.Second, "-3": time.Second, "ten": time.Second,
	} {
		t.Setenv(SlowEnv, value)
		if got := Slow(time.Second); got != want {
			t.Errorf("%s=%q: got %v, want %v", SlowEnv, value, got, want)
		}
	}
}
