// Command ctd is a remote control for the Linux connection tracking table: `ctd serve` is the
// daemon, `ctd check-config` reads its configuration, `ctd passwd` and `ctd token` write who may call, every other verb is a client of it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"ctd/clients/cli"
	"ctd/server"
)

// version is set by the build.
var version = "dev"

func main() {
	// A second signal ends the program at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	serve := cli.Command{
		Name: "serve", Help: "Run the daemon.",
		Run: func(ctx context.Context, args []string) int {
			return server.Command(ctx, args, version, os.Stdout, os.Stderr)
		},
	}
	check := cli.Command{
		Name: "check-config", Help: "Say what is wrong with a configuration file.",
		Run: func(_ context.Context, args []string) int {
			return server.CheckConfigCommand(args, os.Stdout, os.Stderr)
		},
	}
	passwd := cli.Command{
		Name: "passwd", Help: "Make a user, or change one's password and rights; list users.",
		Run: func(ctx context.Context, args []string) int {
			return server.PasswdCommand(ctx, args, os.Stdin, os.Stdout, os.Stderr)
		},
	}
	token := cli.Command{
		Name: "token", Help: "Make, list and end bearer tokens.",
		Run: func(_ context.Context, args []string) int {
			return server.TokenCommand(args, os.Stdout, os.Stderr)
		},
	}
	status := cli.Run(ctx, os.Args[1:], cli.Options{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Version: version,
		Commands: []cli.Command{serve, check, passwd, token},
	})
	os.Exit(status)
}
