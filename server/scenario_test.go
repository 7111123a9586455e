package server

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"ctd/conntrack/conntracktest"
)

// TestScenario runs the same scenario with each kind of client against a daemon: make a
// connection, find it, change its mark and timeout, kill it, see it gone, which conntrack(8)
// confirms each time. Ids, marks and byte counts above 2^31 arrive as they are.
func TestScenario(t *testing.T) {
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	began := time.Now()
	port := bigFlow(t, ns)
	t.Logf("2 GiB in %v", time.Since(began))
	p := startProcess(t, ns, t.TempDir())
	for i, command := range [][]string{
		{"python3", "testdata/scenario.py"},
		{"php", "testdata/page.php"},
		{"bash", "testdata/scenario.sh"},
	} {
		t.Run(command[0], func(t *testing.T) {
			c := exec.Command(command[0], command[1:]...)
			c.Env = append(os.Environ(), "CTD_URL="+p.url, "CTD_TOKEN="+p.token, "CTD_NETNS="+ns.Name(),
				fmt.Sprintf("CTD_SRC=10.9.0.%d", i+1), fmt.Sprintf("CTD_BIG_PORT=%d", port))
			out, err := c.CombinedOutput()
			if err != nil || !strings.HasSuffix(string(out), "done\n") {
				t.Errorf("%v\n%s\ndaemon's log:\n%s", err, out, p.log.String())
			}
		})
	}
}
