package server

import (
	"bufio"
	"io"
	"net"
	"net/http"
)

// readAnswer reads a whole answer.
func readAnswer(c net.Conn, r *http.Request) (status int, body string, err error) {
	resp, err := http.ReadResponse(bufio.NewReader(c), r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, string(b), err
}
