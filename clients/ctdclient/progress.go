package ctdclient

import (
	"net/http"
	"net/http/httptrace"
	"net/textproto"

	"ctd/rpc/wire"
)

// withProgress asks the daemon to say how far the call of a request is, where somebody wants to know.
func (c *Client) withProgress(r *http.Request) *http.Request {
	if c.progress == nil {
		return r
	}
	r.Header.Set(wire.ProgressHeader, "1")
	trace := &httptrace.ClientTrace{Got1xxResponse: func(_ int, header textproto.MIMEHeader) error {
		if p, ok := wire.ParseProgress(header.Get(wire.ProgressHeader)); ok {
			c.progress(p.Done, p.Total)
		}
		return nil
	}}
	return r.WithContext(httptrace.WithClientTrace(r.Context(), trace))
}
