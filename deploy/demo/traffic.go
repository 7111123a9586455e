package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// roleEnv names the end of the traffic that this process is; unset in the one that a person starts.
const roleEnv = "CTD_DEMO_ROLE"

// playRole is the whole life of a process that makes traffic; false where this isn't one.
func playRole() bool {
	switch os.Getenv(roleEnv) {
	case "client":
		playClient()
	case "server":
		playServer()
	default:
		return false
	}
	return true
}

// playServer answers every line and every datagram with itself.
func playServer() {
	for _, addr := range []string{":22", ":80", ":443"} {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			fatal(err)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					fatal(err)
				}
				go func() {
					defer c.Close()
					io.Copy(c, c)
				}()
			}
		}()
	}
	for _, addr := range []string{":53", ":5004"} {
		p, err := net.ListenPacket("udp", addr)
		if err != nil {
			fatal(err)
		}
		go func() {
			buf := make([]byte, 1500)
			for {
				n, from, err := p.ReadFrom(buf)
				if err != nil {
					fatal(err)
				}
				p.WriteTo(buf[:n], from) // who doesn't hear it asks again
			}
		}()
	}
	select {}
}

// playClient keeps a few connections alive with a few packets a second.
func playClient() {
	go ping(serverAddr)
	go ping(serverAddr6)
	long := time.Duration(1<<63 - 1)
	go talk("tcp", serverAddr+":22", 2*time.Second, long)
	go talk("tcp", "["+serverAddr6+"]:443", 2*time.Second, long)
	go talk("udp", serverAddr+":5004", time.Second, long)
	go talk("udp", serverAddr+":53", time.Second, 3*time.Second)
	talk("tcp", serverAddr+":80", time.Second, 5*time.Second)
}

// talk says a line each interval on a connection, and makes a new one after life or when the
// old one was cut.
func talk(network, addr string, interval, life time.Duration) {
	for {
		talkOnce(network, addr, interval, life)
		time.Sleep(interval)
	}
}

func talkOnce(network, addr string, interval, life time.Duration) {
	c, err := net.DialTimeout(network, addr, 3*time.Second)
	if err != nil {
		return
	}
	defer c.Close()
	r := bufio.NewReader(c)
	for begin := time.Now(); time.Since(begin) < life; time.Sleep(interval) {
		c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := fmt.Fprintln(c, "hello", time.Now().Format(time.TimeOnly)); err != nil {
			return
		}
		if _, err := r.ReadString('\n'); err != nil {
			return
		}
	}
}

// ping keeps an ICMP flow alive.
func ping(addr string) {
	for {
		cmd := exec.Command("ping", "-q", "-i", "1", addr)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Run(); err != nil {
			time.Sleep(time.Second)
		}
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "ctd-demo:", err)
	os.Exit(1)
}
