package ctdclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"ctd/rpc/wire"
)

// maxErrorBody is how much is read of a body that should hold an error.
const maxErrorBody = 64 << 10

var (
	errNoResult = errors.New("it holds neither a result nor an error")
	errNoFault  = errors.New("the fault holds no faultCode")
)

// rpcError is a JSON-RPC 2.0 error object.
type rpcError struct {
	Code    int            `json:"code"`
	Message string         `json:"message"`
	Data    wire.ErrorData `json:"data"`
}

// decodeError turns a JSON-RPC error object into a *wire.Error.
func decodeError(text json.RawMessage) error {
	var e rpcError
	if err := json.Unmarshal(text, &e); err != nil {
		// Another server's data may have any form; its code and message still count.
		var bare struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
		}
		if err := json.Unmarshal(text, &bare); err != nil {
			return &wire.Error{Code: wire.Internal, Message: "the server's error object can't be read: " + err.Error()}
		}
		e = rpcError{Code: bare.Code, Message: bare.Message}
	}
	code := e.Data.Code
	if code == "" {
		code = wire.CodeOf(e.Code)
	}
	return &wire.Error{Code: code, Message: e.Message, Hint: e.Data.Hint, Errno: e.Data.Errno}
}

// unreachable says that no answer came.
func (c *Client) unreachable(ctx context.Context, method string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", method, context.Cause(ctx))
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // the address is in our own message
	}
	if strings.HasPrefix(c.server, "https:") {
		if e := c.tlsError(err); e != nil {
			return e
		}
	}
	return &wire.Error{
		Code:    wire.Unavailable,
		Message: fmt.Sprintf("can't reach ctd at %s: %v", c.server, err),
		Hint:    c.reachHint(err),
	}
}

func (c *Client) reachHint(err error) string {
	socket, unix := strings.CutPrefix(c.server, "unix://")
	switch {
	case unix && errors.Is(err, os.ErrPermission):
		return fmt.Sprintf("the socket lets in root and the daemon's own user: try sudo, or see ls -l %s", socket)
	case unix:
		return fmt.Sprintf("is the daemon running? systemctl status ctd; ls -l %s; another address goes in --server or CTD_SERVER", socket)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("is the daemon running and listening there? systemctl status ctd; ss -ltn on the host of %s", c.server)
	}
	return fmt.Sprintf("check the address %s, and systemctl status ctd on its host", c.server)
}

// broken says that an answer came but is not whole.
func (c *Client) broken(ctx context.Context, method string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", method, context.Cause(ctx))
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return &wire.Error{
		Code:    wire.Unavailable,
		Message: fmt.Sprintf("%s: the answer from %s is not whole: %v", method, c.server, err),
		Hint:    "don't use what came so far; the daemon's log says why: journalctl -u ctd",
	}
}

// statusError turns an answer that never reached a method into an error. The server says it in
// the caller's own protocol where it can, so that the body is looked at first.
func (c *Client) statusError(resp *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	e := c.bodyError(body)
	if e == nil {
		e = &wire.Error{
			Code:    codeOfStatus(resp.StatusCode),
			Message: fmt.Sprintf("%s answers %s", c.server, resp.Status),
		}
	}
	if e.Code == wire.Unauthenticated {
		e.Hint = c.tokenHint() // the server's speaks of headers
	}
	// As Go says it.
	if e.Hint == "" && resp.StatusCode == http.StatusBadRequest && bytes.Contains(body, []byte("HTTPS server")) {
		e.Hint = "it speaks TLS: call it by https://"
	}
	if e.Hint == "" && resp.StatusCode == http.StatusNotFound {
		e.Hint = "is it a ctd daemon? see --server and CTD_SERVER"
	}
	return e
}

func (c *Client) bodyError(body []byte) *wire.Error {
	var err error
	if c.protocol == XML {
		if !bytes.Contains(body, []byte("<fault>")) {
			return nil
		}
		err = decodeFault(body)
	} else {
		var r response
		if json.Unmarshal(body, &r) != nil || !isSet(r.Error) {
			return nil
		}
		err = decodeError(r.Error)
	}
	var e *wire.Error
	if !errors.As(err, &e) {
		return nil
	}
	return e
}

func (c *Client) tokenHint() string {
	where := "the daemon writes one to the file `token` beside its socket, e.g. CTD_TOKEN_FILE=" +
		filepath.Join(filepath.Dir(strings.TrimPrefix(DefaultServer, "unix://")), "token")
	switch {
	case c.token != "":
		return "the token is not the daemon's (any more): " + where
	case c.user != "":
		return "user or password is wrong, or the daemon wants a token: " + where
	case strings.HasPrefix(c.server, "unix:"):
		return "the socket lets in root and the daemon's own user: try sudo"
	case c.cert != "":
		return fmt.Sprintf("the certificate in %s is no user's of the daemon's, or it asks for none: see client_ca and certificates in its configuration; or give a token: %s", c.cert, where)
	}
	return "give a token: " + where
}

// codeOfStatus returns the code of an HTTP status that came without an error object.
func codeOfStatus(status int) wire.Code {
	switch status {
	case http.StatusBadRequest, http.StatusUnsupportedMediaType:
		return wire.InvalidRequest
	case http.StatusUnauthorized:
		return wire.Unauthenticated
	case http.StatusForbidden:
		return wire.PermissionDenied
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return wire.Unavailable
	case http.StatusRequestEntityTooLarge:
		return wire.LimitExceeded
	case http.StatusTooManyRequests:
		return wire.RateLimited
	}
	return wire.Internal
}
