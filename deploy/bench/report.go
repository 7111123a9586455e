package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// write prints the findings.
func (b *bench) write() error {
	_, err := fmt.Print(b.document(machine(b.ctd)))
	return err
}

func (b *bench) document(machine []string) string {
	var s strings.Builder
	fmt.Fprintf(&s, `# Benchmarks

Written by `+"`make bench`"+`, on %s:

`, time.Now().Format(time.DateOnly))
	for _, line := range machine {
		fmt.Fprintf(&s, "- %s\n", line)
	}
	fmt.Fprintf(&s, `
What is compared ran side by side, in turns, on the same table in a network namespace with accounting
on: %d turns for what takes long, %d of %d each for single calls. The times are medians, from the client's side:
ctd's client sends a JSON-RPC request over loopback TCP and discards the answer as it comes, having
checked how many flows it was; conntrack(8) is started anew each time and writes to /dev/null. Both
have the machine's processors to share. A ratio below 1 means that ctd was faster. RTSP requests are OPTIONS
and GET_PARAMETER, from a client to a server through a router between them that masquerades, at a port
that the helper has in its queue and at one that it hasn't; here the ratio is that of the times, too.

| what | ctd | against | took | ratio | bar | kept |
|---|---:|---|---:|---:|---:|---|
`, b.runs, b.calls/block, block)
	for _, r := range b.rows {
		ratio, kept := "", "no"
		if r.against != "" {
			ratio = fmt.Sprintf("%.3f", r.ratio)
		}
		switch {
		case r.bar == "":
			kept = ""
		case r.kept:
			kept = "yes"
		}
		fmt.Fprintf(&s, "| %s | %s | %s | %s | %s | %s | %s |\n", r.what, r.ours, r.against, r.theirs, ratio, r.bar, kept)
	}
	return s.String()
}

// machine says what all this ran on.
func machine(ctd string) []string {
	lines := []string{fmt.Sprintf("processor: %s, %d of them, %s", processor(), runtime.NumCPU(), runtime.GOARCH)}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		lines = append(lines, fmt.Sprintf("memory: %.1f GiB", float64(info.Totalram)*float64(info.Unit)/(1<<30)))
	}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		lines = append(lines, "kernel: "+unix.ByteSliceToString(uts.Release[:]))
	}
	if b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_buckets"); err == nil {
		lines = append(lines, "hash table: "+strings.TrimSpace(string(b))+" buckets")
	}
	for _, argv := range [][]string{{ctd, "version"}, {"conntrack", "--version"}} {
		if out, err := exec.Command(argv[0], argv[1:]...).Output(); err == nil {
			lines = append(lines, strings.TrimSpace(string(out)))
		}
	}
	return append(lines, "go: "+runtime.Version())
}

func processor() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
