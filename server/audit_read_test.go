package server

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ctd/auth/audit"
	"ctd/clients/ctdclient"
	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
)

// TestDoctorOfUnreadableRecord: a record that was given to another is told of, though what is open is written on.
func TestDoctorOfUnreadableRecord(t *testing.T) {
	ns := conntracktest.NewNS(t)
	ns.Conntrack()
	socket, state := foldersFor(t)
	path := filepath.Join(state, "audit.log")
	text, err := json.Marshal(Config{
		Socket: socket, StateDir: state, RunAs: "nobody",
		Audit: audit.Config{To: audit.ToFile, File: path, MaxSize: 1 << 20, MaxFiles: 3},
	})
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), serveEnv+"="+string(text))
	l := launch(t, ns, c)
	client, err := ctdclient.New(ctdclient.Config{Server: "unix://" + socket})
	if err != nil {
		t.Fatal(err)
	}
	found := func() wire.Finding {
		t.Helper()
		d, err := client.Doctor(t.Context())
		if err != nil {
			t.Fatalf("%v\n%s", err, l.output.String())
		}
		for _, f := range d.Findings {
			if f.Check == "audit" {
				return f
			}
		}
		t.Fatalf("%+v", d)
		return wire.Finding{}
	}
	if f := found(); f.Severity != severityOK {
		t.Errorf("%+v", f)
	}
	if err := os.Chown(path, 0, 0); err != nil {
		t.Fatal(err)
	}
	if f := found(); f.Severity != severityWarning || !strings.Contains(f.Message, "can't be read") || f.Mend != "chown 65534 "+path+" && chmod u+r "+path {
		t.Errorf("%+v", f)
	}
	if err := os.Chown(path, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	if f := found(); f.Severity != severityOK {
		t.Errorf("%+v", f)
	}
}
