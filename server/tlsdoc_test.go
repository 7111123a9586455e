package server

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ctd/conntrack/conntracktest"
)

// block is a fenced block of a page.
type block struct{ language, text string }

func blocksOf(page string) []block {
	var blocks []block
	for i, part := range strings.Split(page, "```") {
		if language, text, ok := strings.Cut(part, "\n"); ok && i%2 == 1 {
			blocks = append(blocks, block{language, text})
		}
	}
	return blocks
}

// TestTLSPage runs docs/tls.md from its beginning to its end: each command, with a daemon that has what
// the page configures. The host that it speaks of is this one, and /etc/ctd a folder of the test's.
func TestTLSPage(t *testing.T) {
	page := string(read(t, "../docs/tls.md"))
	dir := t.TempDir()
	own := strings.NewReplacer("router.example.org", "localhost", "192.0.2.1", "127.0.0.1", "/etc/ctd", dir+"/etc")
	env := append(os.Environ(), "CTD_TOKEN="+secret, "RENEWED_LINEAGE="+dir+"/letsencrypt",
		"PATH="+filepath.Dir(program(t))+string(os.PathListSeparator)+os.Getenv("PATH"))
	var r *running
	var url string
	ran := 0
	run := func(text string) {
		t.Helper()
		text = own.Replace(text)
		if r != nil {
			text = strings.ReplaceAll(text, ":8420", url[strings.LastIndex(url, ":"):])
		}
		c := exec.CommandContext(t.Context(), "sh", "-eux", "-c", text)
		c.Dir, c.Env = dir, env
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		ran++
	}
	for _, b := range blocksOf(page) {
		switch b.language {
		case "sh":
			if strings.Contains(b.text, "$RENEWED_LINEAGE") { // certbot has renewed them
				run("mkdir letsencrypt\ncp server.key letsencrypt/privkey.pem\ncp server.pem letsencrypt/fullchain.pem\n")
			}
			if strings.Contains(b.text, "--cert jane.pem") { // the certificate alone
				b.text = "unset CTD_TOKEN\n" + b.text
			}
			run(b.text)
		case "toml":
			if strings.Contains(b.text, "[proxy]") { // which has another one speak TLS
				configOf(t, strings.ReplaceAll(b.text, "www-data", "root"))
				continue
			}
			cfg := configOf(t, own.Replace(b.text))
			if r == nil {
				r, url = startTLS(t, newFixture(t, cfg, tcpFlow(1)))
				continue
			}
			p, wrong := r.newPolicy(cfg, r.policy.Load())
			if len(wrong) > 0 {
				t.Fatal(wrong)
			}
			r.policy.Store(p)
		}
	}
	if ran < 8 {
		t.Errorf("%d blocks of commands", ran)
	}
	// The certificate that was made last is served.
	last := pairFiles{dir + "/etc/tls/server.pem", dir + "/etc/tls/server.key"}.load(t).Leaf
	conntracktest.Eventually(t, "the renewed certificate is served", func() bool { return r.keys().now().leaf.Equal(last) })
	if got := finding(t, r.Server, "tls"); got.Severity != severityOK || !strings.Contains(got.Message, "localhost, 127.0.0.1") {
		t.Errorf("%+v", got)
	}
}

// configOf is a page's example of a configuration.
func configOf(t testing.TB, text string) Config {
	t.Helper()
	name := filepath.Join(t.TempDir(), "ctd.toml")
	write(t, name, []byte("state_dir = \"\"\naudit.to = \"none\"\n"+text))
	l, wrong := (&grammar{Config: &name}).load()
	if len(wrong) > 0 {
		t.Fatal(wrong)
	}
	l.cfg.Socket = filepath.Join(t.TempDir(), "ctd.sock")
	return l.cfg
}
