// Ctd-demo makes a small network in namespaces of its own, a client behind a masquerading router and
// a server, with a little live traffic, and runs the daemon over the router's table. The network is
// removed at the end.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

const (
	defaultSocket = "/run/ctd/ctd.sock"
	defaultListen = "127.0.0.1:8420"

	runDir = "/run/ctd-demo" // the lock, and the socket where the default one is taken
)

func main() {
	if playRole() {
		return
	}
	ctd := flag.String("ctd", "bin/ctd", "the daemon's binary")
	flag.Parse()
	// Pdeathsig is about the thread that started a process: that must be one that stays.
	runtime.LockOSThread()
	if err := demo(*ctd); err != nil {
		fatal(err)
	}
}

func demo(ctd string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("needs root, for network namespaces (make run uses sudo)")
	}
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(runDir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return errors.New("a demonstration is running already")
	}
	defer os.RemoveAll(runDir)

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)

	n := &network{prefix: "ctd-demo"}
	defer func() { err = errors.Join(err, n.down()) }()
	if err := n.up(); err != nil {
		return err
	}
	if err := n.start(n.server(), "server"); err != nil {
		return err
	}
	if err := n.start(n.client(), "client"); err != nil {
		return err
	}

	socket, listen := endpoints()
	daemon := exec.Command(ctd, "serve", "--config", os.DevNull, "--netns", n.router(), "--state-dir", filepath.Join(runDir, "state"),
		"--socket", socket, "--listen", listen)
	daemon.Stdout, daemon.Stderr = os.Stdout, os.Stderr
	daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := daemon.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- daemon.Wait() }()

	select {
	case err := <-ended:
		return fmt.Errorf("%s serve ended: %w", ctd, err)
	case <-signals:
	case <-answers(socket):
		fmt.Print(greeting(ctd, socket))
		select {
		case err := <-ended:
			return fmt.Errorf("%s serve ended: %w", ctd, err)
		case <-signals:
		}
	}
	if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		daemon.Process.Kill()
		<-ended
		return errors.New("the daemon didn't end within 10 s")
	}
	return nil
}

// endpoints returns the daemon's default socket and address, or others where a daemon has them.
func endpoints() (socket, listen string) {
	socket, listen = defaultSocket, defaultListen
	if c, err := net.Dial("unix", socket); err == nil {
		c.Close()
		socket = filepath.Join(runDir, "ctd.sock")
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return socket, listen // the daemon will say why
		}
		listen = l.Addr().String()
	}
	l.Close()
	return socket, listen
}

// answers is closed when something accepts connections on the socket.
func answers(socket string) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		for {
			if c, err := net.Dial("unix", socket); err == nil {
				c.Close()
				close(done)
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	}()
	return done
}

func greeting(ctd, socket string) string {
	list := ctd + " list"
	if socket != defaultSocket {
		list = "CTD_SERVER=unix://" + socket + " " + list
	}
	if os.Getenv("SUDO_USER") != "" {
		list = "sudo " + list
	}
	return fmt.Sprintf(`
A demonstration network is up: client %s - router %s - server %s.
In another terminal:

    %s

Ctrl-C ends the daemon and removes the network.

`, clientAddr, routerWAN, serverAddr, list)
}
