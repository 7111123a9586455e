package ctdclient

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"ctd/rpc/wire"
)

// Client calls one daemon. Its methods may be called from many goroutines at once.
type Client struct {
	server, base          string
	protocol              Protocol
	token, user, password string
	cacert, cert          string // files, for hints
	http                  *http.Client
	progress              func(done, total int)
}

// request is a JSON-RPC 2.0 request object; one call goes in each HTTP request, so that the id
// need not differ.
type request struct {
	Version string `json:"jsonrpc"`
	Method  string `json:"method"`
	Params  any    `json:"params,omitempty"`
	ID      int    `json:"id"`
}

// response is a JSON-RPC 2.0 response object.
type response struct {
	Result json.RawMessage `json:"result"`
	Error  json.RawMessage `json:"error"`
}

// Call calls a method by name. params is a parameter struct of package wire, a map or nil;
// result is a pointer to a result struct, a *json.RawMessage for the result's exact bytes, or
// nil where nobody wants it.
func (c *Client) Call(ctx context.Context, method string, params, result any) error {
	if c.protocol == XML {
		return c.callXML(ctx, method, params, result)
	}
	body, err := c.send(ctx, method, params)
	if err != nil {
		return err
	}
	defer body.Close()
	text, err := io.ReadAll(body)
	if err != nil {
		return c.broken(ctx, method, err)
	}
	var resp response
	if err := json.Unmarshal(text, &resp); err != nil {
		return c.broken(ctx, method, err)
	}
	if isSet(resp.Error) {
		return decodeError(resp.Error)
	}
	if resp.Result == nil {
		return c.broken(ctx, method, errNoResult)
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(resp.Result, result); err != nil {
		return fmt.Errorf("%s: decode result: %w", method, err)
	}
	return nil
}

// isSet tells whether a member is there and not null.
func isSet(m json.RawMessage) bool { return m != nil && string(m) != "null" }

// send sends one JSON-RPC call and returns the answer's body; an HTTP error has become an
// error.
func (c *Client) send(ctx context.Context, method string, params any) (io.ReadCloser, error) {
	body, err := json.Marshal(request{Version: "2.0", Method: method, Params: params, ID: 1})
	if err != nil {
		return nil, fmt.Errorf("%s: encode parameters: %w", method, err)
	}
	return c.post(ctx, method, "/rpc", "application/json", body)
}

func (c *Client) post(ctx context.Context, method, path, contentType string, body []byte) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Accept", contentType)
	req.Header.Set("User-Agent", "ctdclient")
	switch {
	case c.token != "":
		req.Header.Set("Authorization", "Bearer "+c.token)
	case c.user != "":
		req.SetBasicAuth(c.user, c.password)
	}
	resp, err := c.http.Do(c.withProgress(req))
	if err != nil {
		return nil, c.unreachable(ctx, method, err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, c.statusError(resp)
	}
	return resp.Body, nil
}

// Get returns one flow. flow is an id, a [wire.Selector] or a [wire.Flow].
func (c *Client) Get(ctx context.Context, flow any) (*wire.Flow, error) {
	return call[wire.Flow](ctx, c, "conntrack.get", wire.GetParams{Flow: flow})
}

// Count counts flows.
func (c *Client) Count(ctx context.Context, p wire.CountParams) (*wire.CountResult, error) {
	return call[wire.CountResult](ctx, c, "conntrack.count", p)
}

// Kill deletes flows. Nothing that matches is no error: the result's Changed is false then.
func (c *Client) Kill(ctx context.Context, p wire.KillParams) (*wire.KillResult, error) {
	return call[wire.KillResult](ctx, c, "conntrack.kill", p)
}

// Blocks lists the addresses that a kill with block keeps apart.
func (c *Client) Blocks(ctx context.Context, p wire.BlocksParams) (*wire.BlocksResult, error) {
	return call[wire.BlocksResult](ctx, c, "conntrack.blocks", p)
}

// Unblock lifts blocks.
func (c *Client) Unblock(ctx context.Context, p wire.UnblockParams) (*wire.UnblockResult, error) {
	return call[wire.UnblockResult](ctx, c, "conntrack.unblock", p)
}

// Reconcile kills flows until only those are there that may remain. It takes as long as p.Watch and
// a little.
func (c *Client) Reconcile(ctx context.Context, p wire.ReconcileParams) (*wire.ReconcileResult, error) {
	return call[wire.ReconcileResult](ctx, c, "conntrack.reconcile", p)
}

// Modify changes flows.
func (c *Client) Modify(ctx context.Context, p wire.ModifyParams) (*wire.ModifyResult, error) {
	return call[wire.ModifyResult](ctx, c, "conntrack.modify", p)
}

// Create makes a flow and returns it as the kernel holds it.
func (c *Client) Create(ctx context.Context, p wire.CreateParams) (*wire.Flow, error) {
	return call[wire.Flow](ctx, c, "conntrack.create", p)
}

// Import makes the flows of an export.
func (c *Client) Import(ctx context.Context, p wire.ImportParams) (*wire.ImportResult, error) {
	return call[wire.ImportResult](ctx, c, "conntrack.import", p)
}

// Flush deletes all flows of a family and zone.
func (c *Client) Flush(ctx context.Context, p wire.FlushParams) (*wire.FlushResult, error) {
	return call[wire.FlushResult](ctx, c, "conntrack.flush", p)
}

// ExpectList lists expectations.
func (c *Client) ExpectList(ctx context.Context, p wire.ExpectListParams) (*wire.ExpectListResult, error) {
	return call[wire.ExpectListResult](ctx, c, "expect.list", p)
}

// ExpectGet returns one expectation. expect is an id or a [wire.Expect].
func (c *Client) ExpectGet(ctx context.Context, expect any) (*wire.Expect, error) {
	return call[wire.Expect](ctx, c, "expect.get", wire.ExpectGetParams{Expect: expect})
}

// ExpectCreate makes an expectation and returns it as the kernel holds it.
func (c *Client) ExpectCreate(ctx context.Context, p wire.ExpectCreateParams) (*wire.Expect, error) {
	return call[wire.Expect](ctx, c, "expect.create", p)
}

// ExpectKill deletes expectations.
func (c *Client) ExpectKill(ctx context.Context, p wire.ExpectKillParams) (*wire.ExpectKillResult, error) {
	return call[wire.ExpectKillResult](ctx, c, "expect.kill", p)
}

// ExpectFlush deletes all expectations.
func (c *Client) ExpectFlush(ctx context.Context, p wire.ExpectFlushParams) (*wire.FlushResult, error) {
	return call[wire.FlushResult](ctx, c, "expect.flush", p)
}

// HelperStatus returns whether and how the RTSP helper works.
func (c *Client) HelperStatus(ctx context.Context) (*wire.HelperStatusResult, error) {
	return call[wire.HelperStatusResult](ctx, c, "helper.status", wire.Empty{})
}

// HelperSessions lists the RTSP sessions.
func (c *Client) HelperSessions(ctx context.Context) (*wire.HelperSessionsResult, error) {
	return call[wire.HelperSessionsResult](ctx, c, "helper.sessions", wire.Empty{})
}

// HelperRules returns the rules that queue RTSP packets. form is nft or iptables; nft where empty.
func (c *Client) HelperRules(ctx context.Context, form string) (*wire.HelperRulesResult, error) {
	return call[wire.HelperRulesResult](ctx, c, "helper.rules", wire.HelperRulesParams{Form: form})
}

// Stats returns the table's size and counters.
func (c *Client) Stats(ctx context.Context, p wire.StatsParams) (*wire.StatsResult, error) {
	return call[wire.StatsResult](ctx, c, "conntrack.stats", p)
}

// Info returns the daemon's version and what its kernel can do.
func (c *Client) Info(ctx context.Context) (*wire.InfoResult, error) {
	return call[wire.InfoResult](ctx, c, "server.info", wire.Empty{})
}

// Doctor returns what keeps the table from being useful, and how to mend it.
func (c *Client) Doctor(ctx context.Context) (*wire.DoctorResult, error) {
	return call[wire.DoctorResult](ctx, c, "server.doctor", wire.Empty{})
}

// Whoami returns who the daemon takes the caller for.
func (c *Client) Whoami(ctx context.Context) (*wire.WhoamiResult, error) {
	return call[wire.WhoamiResult](ctx, c, "server.whoami", wire.Empty{})
}

func call[R any](ctx context.Context, c *Client, method string, params any) (*R, error) {
	r := new(R)
	if err := c.Call(ctx, method, params, r); err != nil {
		return nil, err
	}
	return r, nil
}
