package server

import (
	"crypto/x509"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctd/clients/ctdclient"
	"ctd/conntrack"
	"ctd/conntrack/conntracktest"
	"ctd/rpc/wire"
)

// finding returns what the doctor finds by a check.
func finding(t testing.TB, s *Server, check string) wire.Finding {
	t.Helper()
	result, err := s.doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sick := false
	var found wire.Finding
	for _, f := range result.Findings {
		sick = sick || f.Severity == severityWarning || f.Severity == severityError
		if f.Check == check {
			found = f
		}
		if f.Message == "" {
			t.Errorf("%s has no message", f.Check)
		}
	}
	if result.Healthy == sick {
		t.Errorf("healthy %v with %+v", result.Healthy, result.Findings)
	}
	return found
}

func TestDoctorTableSize(t *testing.T) {
	f := newFixture(t, Config{NetNS: "router"}, tcpFlows(100)...)
	for most, want := range map[uint32]string{
		1000: severityOK, 126: severityOK, 125: severityWarning, 106: severityWarning, 105: severityError, 100: severityError, 0: severityError,
	} {
		f.fake.SetStats(conntrack.Stats{Max: most})
		got := finding(t, f.Server, "table_size")
		if got.Severity != want {
			t.Errorf("100 of %d: %+v, want %s", most, got, want)
		}
		// It is the whole machine's, set outside of the namespace.
		if bad := want != severityOK && most > 0; bad != strings.HasPrefix(got.Mend, "sysctl -w net.netfilter.nf_conntrack_max=2") {
			t.Errorf("100 of %d is mended by %q", most, got.Mend)
		}
	}
	f.fake.Fail(conntracktest.OpStats, 0, unix.EPERM)
	if got := finding(t, f.Server, "table_size"); got.Severity != severityError {
		t.Errorf("a table that can't be read: %+v", got)
	}
}

func TestDoctorSysctls(t *testing.T) {
	f := newFixture(t, Config{NetNS: "/run/netns/router"}, tcpFlow(1))
	for _, c := range []struct{ check, sysctl, value, want, mend string }{
		{"accounting", "nf_conntrack_acct", "1", severityOK, ""},
		{"accounting", "nf_conntrack_acct", "0", severityWarning, "nf_conntrack_acct=1"},
		{"accounting", "nf_conntrack_acct", "", severityInfo, ""}, // not built in
		{"timestamps", "nf_conntrack_timestamp", "1", severityOK, ""},
		{"timestamps", "nf_conntrack_timestamp", "0", severityWarning, "nf_conntrack_timestamp=1"},
		{"events", "nf_conntrack_events", "0", severityWarning, "nf_conntrack_events=1"},
		{"events", "nf_conntrack_events", "1", severityOK, ""},
		{"events", "nf_conntrack_events", "2", severityOK, ""},
		{"events", "nf_conntrack_events", "", severityInfo, ""},
		{"tcp_loose", "nf_conntrack_tcp_loose", "1", severityInfo, "nf_conntrack_tcp_loose=0"},
		{"tcp_loose", "nf_conntrack_tcp_loose", "0", severityOK, ""},
	} {
		f.fake.sysctls = map[string]string{}
		if c.value != "" {
			f.fake.sysctls[c.sysctl] = c.value
		}
		want := c.mend
		if want != "" {
			want = "nsenter --net=/run/netns/router sysctl -w net.netfilter." + want
		}
		if got := finding(t, f.Server, c.check); got.Severity != c.want || got.Mend != want {
			t.Errorf("%s=%s: %+v, want %s, mended by %q", c.sysctl, c.value, got, c.want, want)
		}
	}
}

// kernelServer is a server over the table of a namespace.
func kernelServer(t testing.TB, netns string) *Server {
	t.Helper()
	table, err := conntrack.Open(conntrack.Config{NetNS: netns})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	return newServer(t, Config{NetNS: netns, Socket: "ctd.sock"}, table, nil)
}

// TestDoctorMends: each command that the doctor gives, run by sh as it is, mends what it found.
func TestDoctorMends(t *testing.T) {
	ns := conntracktest.NewNS(t)
	for _, sysctl := range []string{"acct", "timestamp", "events"} {
		ns.Sysctl("net.netfilter.nf_conntrack_"+sysctl, "0")
	}
	s := kernelServer(t, ns.Name())
	for check, severity := range map[string]string{
		"accounting": severityWarning, "timestamps": severityWarning, "events": severityWarning,
		"tcp_loose": severityInfo, "active": severityError,
	} {
		got := finding(t, s, check)
		if got.Severity != severity || got.Mend == "" {
			t.Errorf("%s: %+v, want %s and how to mend it", check, got, severity)
			continue
		}
		if out, err := exec.Command("sh", "-c", got.Mend).CombinedOutput(); err != nil {
			t.Errorf("%s: %s: %v %s", check, got.Mend, err, out)
		}
		if got := finding(t, s, check); got.Severity != severityOK || got.Mend != "" {
			t.Errorf("%s after it was mended: %+v", check, got)
		}
	}
	// Connections are tracked now.
	ns.Exec("bash", "-c", "echo x >/dev/udp/127.0.0.1/9")
	if lines := kernel(t, ns, "127.0.0.1"); len(lines) != 1 {
		t.Errorf("conntrack(8) shows %q", lines)
	}
	if got := finding(t, s, "active"); got.Severity != severityOK || !strings.HasSuffix(got.Message, "the table has 1 entry") {
		t.Errorf("active: %+v", got)
	}
	// The entry outlives the rules.
	ns.Nft("flush ruleset")
	if got := finding(t, s, "active"); got.Severity != severityInfo || got.Mend == "" || !strings.Contains(got.Message, "the table has 1 entry") || !strings.Contains(got.Message, "left over") {
		t.Errorf("active with what is left over: %+v", got)
	}
}

// TestDoctorUnprivileged: a daemon that isn't root and has CAP_NET_ADMIN alone, as systemd runs
// it, finds the rules of nft all the same, and says what it can't see.
func TestDoctorUnprivileged(t *testing.T) {
	ns := conntracktest.NewNS(t)
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(nobody.Uid)
	gid, _ := strconv.Atoi(nobody.Gid)
	dir, err := os.MkdirTemp("", "ctd-doctor-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	sock := dir + "/ctd.sock"
	c := exec.Command(program(t), "serve", "--config", os.DevNull, "--socket", sock, "--state-dir", dir+"/state", "--no-listen")
	var log logBuffer
	c.Dir, c.Stdout, c.Stderr = "/", &log, &log
	c.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)},
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN},
	}
	ns.Do(func() { err = c.Start() })
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		if err := c.Wait(); err != nil {
			t.Errorf("%v\n%s", err, log.String())
		}
	}()
	conntracktest.Eventually(t, "the daemon is ready", func() bool { return strings.Contains(log.String(), "is ready") })
	client, err := ctdclient.New(ctdclient.Config{Server: "unix://" + sock})
	if err != nil {
		t.Fatal(err)
	}
	active := func() (found wire.Finding) {
		t.Helper()
		result, err := client.Doctor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range result.Findings {
			switch f.Check {
			case "active":
				found = f
			case "capabilities":
				if f.Severity != severityOK {
					t.Errorf("%+v", f)
				}
			}
		}
		return found
	}
	// Where the kernel has no xtables there is nothing that root alone could read.
	want := severityError
	if _, err := os.Stat("/proc/net/ip_tables_names"); err == nil {
		want = severityWarning
	}
	if got := active(); got.Severity != want || got.Mend == "" {
		t.Errorf("without a rule: %+v, want %s", got, want)
	}
	ns.Conntrack()
	if got := active(); got.Severity != severityOK || !strings.Contains(got.Message, "nft table") {
		t.Errorf("with a rule of nft: %+v", got)
	}
}

// TestDoctorRules: whatever makes the kernel track is recognised, what doesn't is not.
func TestDoctorRules(t *testing.T) {
	for _, c := range []struct {
		name, command, want string
	}{
		{"nothing", "true", severityError},
		{"nft rule without tracking", "nft 'add table inet t; add chain inet t c { type filter hook input priority 0; }; add rule inet t c tcp dport 22 counter'", severityError},
		{"nft ct state", "nft 'add table ip t; add chain ip t c { type filter hook input priority 0; }; add rule ip t c ct state new counter'", severityOK},
		{"nft ct mark set", "nft 'add table inet t; add chain inet t c { type filter hook input priority 0; }; add rule inet t c ct mark set 1'", severityOK},
		{"nft nat chain", "nft 'add table inet t; add chain inet t c { type nat hook postrouting priority 100; }'", severityOK},
		{"iptables-nft", "iptables-nft -A INPUT -m conntrack --ctstate NEW -j ACCEPT", severityOK},
		{"ip6tables-nft", "ip6tables-nft -A INPUT -m state --state NEW -j ACCEPT", severityOK},
		{"iptables-nft without tracking", "iptables-nft -A INPUT -p tcp --dport 22 -j ACCEPT", severityError},
		{"iptables-nft masquerade", "iptables-nft -t nat -A POSTROUTING -j MASQUERADE", severityOK},
		{"iptables-legacy nat", "iptables-legacy -t nat -A POSTROUTING -j MASQUERADE", severityOK},
		{"iptables-legacy conntrack", "iptables-legacy -A INPUT -m conntrack --ctstate NEW -j ACCEPT", severityInfo}, // its rules aren't read
	} {
		t.Run(c.name, func(t *testing.T) {
			ns := conntracktest.NewNS(t)
			ns.Exec("bash", "-c", c.command)
			got := finding(t, kernelServer(t, ns.Path()), "active")
			if got.Severity != c.want || (c.want == severityError) != (got.Mend != "") {
				t.Errorf("%+v, want %s", got, c.want)
			}
		})
	}
}

// TestDoctorCapabilities: a capability that is missing is found, and named with how to get it.
func TestDoctorCapabilities(t *testing.T) {
	conntracktest.Kernel(t)
	f := newFixture(t, Config{})
	drop := func(capability uint, netns string) wire.Finding {
		found := make(chan wire.Finding)
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends without the capability
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var data [2]unix.CapUserData
			if err := unix.Capget(&header, &data[0]); err != nil {
				t.Error(err)
			}
			data[capability/32].Effective &^= 1 << (capability % 32)
			if err := unix.Capset(&header, &data[0]); err != nil {
				t.Error(err)
			}
			s := &Server{cfg: Config{NetNS: netns}, table: f.fake}
			found <- s.checkCapabilities(t.Context())
		}()
		return <-found
	}
	for _, c := range []struct {
		capability  uint
		netns, want string
		mend        string
	}{
		{unix.CAP_NET_ADMIN, "", severityError, "setcap cap_net_admin,cap_net_raw+ep /"},
		{unix.CAP_NET_ADMIN, "router", severityError, "setcap cap_net_admin"},
		{unix.CAP_SYS_ADMIN, "", severityOK, ""},
		{unix.CAP_SYS_ADMIN, "router", severityError, "setcap cap_net_admin,cap_net_raw,cap_sys_admin+ep /"},
		{unix.CAP_CHOWN, "router", severityOK, ""},
	} {
		got := drop(c.capability, c.netns)
		if got.Severity != c.want || !strings.HasPrefix(got.Mend, c.mend) {
			t.Errorf("without %d in %q: %+v, want %s and %q", c.capability, c.netns, got, c.want, c.mend)
		}
	}
}

// TestDoctorTLS: a certificate that ends soon, or can't be used, is found before callers notice.
func TestDoctorTLS(t *testing.T) {
	ca := newAuthority(t, "ca")
	pair := func(name string, until time.Duration, change func(*x509.Certificate)) TLSConfig {
		template := serverTemplate(name)
		template.NotAfter = time.Now().Add(until)
		if change != nil {
			change(template)
		}
		return ca.issue(t, name, template).config()
	}
	readable := pair("readable", 30*24*time.Hour, nil)
	if err := os.Chmod(readable.Key, 0o644); err != nil {
		t.Fatal(err)
	}
	const day = 24 * time.Hour
	for name, c := range map[string]struct {
		cfg      Config
		severity string
		want     string // in the message
	}{
		"none":            {Config{}, severityOK, "there is no TLS"},
		"loopback":        {Config{Listen: []string{DefaultListen}}, severityOK, "there is no TLS"},
		"beyond":          {Config{Listen: []string{DefaultListen, ":1"}, Insecure: true}, severityWarning, "nothing is encrypted at :1: "},
		"beyond, beside":  {Config{Listen: []string{"http://:1"}, Insecure: true, TLS: pair("a", 15*day, nil)}, severityWarning, "write https:// there"},
		"long":            {Config{Listen: []string{":1"}, TLS: pair("b", 14*day+time.Hour, nil)}, severityOK, "the certificate for b, 127.0.0.1 is valid until "},
		"two weeks":       {Config{TLS: pair("c", 14*day-time.Minute, nil)}, severityWarning, ", in 13 days; "},
		"a day":           {Config{TLS: pair("d", 25*time.Hour, nil)}, severityWarning, ", in 1 day; "},
		"hours":           {Config{TLS: pair("e", time.Hour, nil)}, severityWarning, ", in less than a day; "},
		"expired":         {Config{TLS: pair("f", -time.Minute, nil)}, severityError, " expired at "},
		"not yet":         {Config{TLS: pair("g", 20*day, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) })}, severityError, "is the clock right?"},
		"without names":   {Config{TLS: pair("h", 20*day, func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, nil })}, severityWarning, "names no host"},
		"everybody reads": {Config{TLS: readable}, severityInfo, "every user of this machine can read the key"},
	} {
		got := finding(t, newFixture(t, c.cfg).Server, "tls")
		if got.Severity != c.severity || !strings.Contains(got.Message, c.want) {
			t.Errorf("%s: %+v, want %s and %q", name, got, c.severity, c.want)
		}
	}
	f := newFixture(t, Config{TLS: readable})
	if out, err := exec.Command("sh", "-c", finding(t, f.Server, "tls").Mend).CombinedOutput(); err != nil {
		t.Errorf("%v %s", err, out)
	}
	if got := finding(t, f.Server, "tls"); got.Severity != severityOK {
		t.Errorf("mended: %+v", got)
	}
	if got := unreadable(readable); got != "" {
		t.Errorf("%s can't be read", got)
	}
	readable.ClientCA = ca.dir + "/none"
	if got := unreadable(readable); got != readable.ClientCA {
		t.Errorf("%q can't be read", got)
	}
	write(t, readable.Cert, nil)
	conntracktest.Eventually(t, "a file that can't be used is found", func() bool {
		got := finding(t, f.Server, "tls")
		return got.Severity == severityWarning && strings.Contains(got.Message, "those before go on: tls.cert: ")
	})
}
