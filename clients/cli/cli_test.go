package cli_test

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"ctd/clients/cli"
	"ctd/clients/ctdclient/ctdclienttest"
)

// serve stands for a verb of another part of the program.
func serve() cli.Command {
	return cli.Command{Name: "serve", Help: "Run the daemon.", Run: func(_ context.Context, args []string) int {
		_, _ = os.Stdout.WriteString("serving " + strings.Join(args, " ") + "\n")
		return 0
	}}
}

func options() cli.Options {
	return cli.Options{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Version: "1.2.3", Commands: []cli.Command{serve()},
	}
}

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"ctd": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		os.Exit(cli.Run(ctx, os.Args[1:], options()))
	}})
}

// noExitSleep keeps each of the many processes from waiting a second at its end, as the race
// detector has it.
const noExitSleep = "atexit_sleep_ms=0"

// TestScripts runs each script of testdata against a daemon in memory of its own.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			srv := ctdclienttest.New(t)
			cut := ctdclienttest.New(t)
			cut.CutAfter(2, false)
			guarded := ctdclienttest.New(t)
			guarded.SetToken("secret")
			many := ctdclienttest.New(t)
			many.SetFlows(ctdclienttest.Many(5000))
			offloaded := ctdclienttest.New(t)
			offloaded.SetFlows(ctdclienttest.Offloaded())
			untracked := ctdclienttest.New(t)
			untracked.Untracked()
			off := ctdclienttest.New(t)
			off.HelperOff()
			xtables := ctdclienttest.New(t)
			xtables.HelperXtables()
			socket := ctdclienttest.NewUnix(t, filepath.Join(t.TempDir(), "ctd.sock"))
			testscript.Run(t, testscript.Params{
				Files:               []string{file},
				RequireExplicitExec: true,
				Setup: func(env *testscript.Env) error {
					env.Setenv("CTD_SERVER", srv.URL)
					env.Setenv("CUT", cut.URL)
					env.Setenv("GUARDED", guarded.URL)
					env.Setenv("MANY", many.URL)
					env.Setenv("OFFLOADED", offloaded.URL)
					env.Setenv("UNTRACKED", untracked.URL)
					env.Setenv("HELPEROFF", off.URL)
					env.Setenv("HELPERXTABLES", xtables.URL)
					env.Setenv("SOCKET", socket.URL)
					env.Setenv("GORACE", noExitSleep)
					return nil
				},
				Cmds: map[string]func(*testscript.TestScript, bool, []string){"status": status},
			})
		})
	}
}

// status N COMMAND... runs a command and wants its exit status.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N command...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("exit status %s, want %s", got, args[0])
	}
}

// TestExamples runs every example of every help text.
func TestExamples(t *testing.T) {
	help := cli.HelpTexts()
	for _, verb := range []string{
		"ctd", "ctd list", "ctd get", "ctd count", "ctd kill", "ctd reconcile", "ctd modify", "ctd create", "ctd flush",
		"ctd export", "ctd import", "ctd blocks", "ctd unblock",
		"ctd expect", "ctd expect list", "ctd expect get", "ctd expect create", "ctd expect kill", "ctd expect flush",
		"ctd helper", "ctd helper status", "ctd helper sessions", "ctd helper rules",
		"ctd stats", "ctd audit", "ctd doctor", "ctd info", "ctd completion", "ctd version",
	} {
		if _, ok := help[verb]; !ok {
			t.Errorf("%s has no help text", verb)
		}
	}
	for verb, text := range help {
		t.Run(verb, func(t *testing.T) {
			runExamples(t, text, "  ")
		})
	}
}

// TestDocumentation runs every command of the documentation.
func TestDocumentation(t *testing.T) {
	for _, name := range []string{"cli.md", "cut.md", "rtsp.md"} {
		text, err := os.ReadFile("../../docs/" + name)
		if err != nil {
			t.Fatal(err)
		}
		runExamples(t, string(text), "ctd ")
	}
}

// runExamples runs the lines that begin with prefix, each against a daemon of its own.
func runExamples(t *testing.T, text, prefix string) {
	t.Helper()
	examples := 0
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, prefix) {
			continue
		}
		line = strings.TrimSpace(line)
		examples++
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			srv := ctdclienttest.New(t)
			cmd := exec.CommandContext(t.Context(), "bash", "-o", "pipefail", "-c", line)
			cmd.Dir = t.TempDir()
			if err := os.WriteFile(filepath.Join(cmd.Dir, "banned.txt"), []byte("192.0.2.7\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			cmd.Env = append(os.Environ(), "CTD_SERVER="+srv.URL, "GORACE="+noExitSleep)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	if examples == 0 {
		t.Error("no example")
	}
}
