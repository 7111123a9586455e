package ctdclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// DefaultServer is where a daemon without configuration listens.
const DefaultServer = "unix:///run/ctd/ctd.sock"

// dialTimeout bounds the making of a connection, not the call.
const dialTimeout = 10 * time.Second

// Protocol is what carries the calls.
type Protocol string

// The protocols. JSON is the default: its lists stream in constant memory, while an XML-RPC
// answer is held in memory as a whole.
const (
	JSON Protocol = "json"
	XML  Protocol = "xml"
)

// Config says which daemon to call and how. The zero value is the local daemon's Unix socket,
// over JSON-RPC.
type Config struct {
	// Server is unix:///path/to/socket, http://host:port or https://host:port; DefaultServer
	// where empty.
	Server string
	// Token is sent as a bearer token where not empty, else TokenFile is read.
	Token string
	// TokenFile holds a token, as the daemon writes it beside its socket.
	TokenFile string
	// User and Password are sent as HTTP Basic credentials where there is no token.
	User, Password string
	// CACert is a PEM file with the authorities to trust instead of the system's; Cert and Key
	// are PEM files with the client's own certificate; Key is Cert where empty. All are for https
	// only.
	CACert, Cert, Key string
	// Protocol is JSON where empty.
	Protocol Protocol
	// HTTPClient makes the requests where not nil; Server still gives the address, and CACert,
	// Cert and Key are not looked at. It must reach the socket itself where Server is unix://.
	HTTPClient *http.Client
	// Progress, where not nil, is called while a kill or modify of many flows works: done of total
	// are done, a few times a second. The calls come from another goroutine, before the method
	// returns.
	Progress func(done, total int)
}

// FromEnv returns the configuration that the environment asks for, by CTD_SERVER, CTD_TOKEN,
// CTD_TOKEN_FILE, CTD_USER and CTD_PASSWORD, CTD_CACERT, CTD_CERT and CTD_KEY. getenv is os.Getenv or
// a double.
func FromEnv(getenv func(string) string) Config {
	return Config{
		Server:    getenv("CTD_SERVER"),
		Token:     getenv("CTD_TOKEN"),
		TokenFile: getenv("CTD_TOKEN_FILE"),
		User:      getenv("CTD_USER"),
		Password:  getenv("CTD_PASSWORD"),
		CACert:    getenv("CTD_CACERT"),
		Cert:      getenv("CTD_CERT"),
		Key:       getenv("CTD_KEY"),
	}
}

// New returns a client. It doesn't connect yet.
func New(cfg Config) (*Client, error) {
	if cfg.Server == "" {
		cfg.Server = DefaultServer
	}
	if cfg.Protocol == "" {
		cfg.Protocol = JSON
	}
	if cfg.Protocol != JSON && cfg.Protocol != XML {
		return nil, fmt.Errorf("protocol %q: want json or xml", cfg.Protocol)
	}
	base, socket, err := parseServer(cfg.Server)
	if err != nil {
		return nil, err
	}
	c := &Client{
		server: cfg.Server, base: base, protocol: cfg.Protocol, http: cfg.HTTPClient, progress: cfg.Progress,
		cacert: cfg.CACert, cert: cfg.Cert,
	}
	if err := c.setCredentials(cfg); err != nil {
		return nil, err
	}
	if c.http == nil {
		transport, err := newTransport(cfg, socket)
		if err != nil {
			return nil, err
		}
		c.http = &http.Client{
			Transport: transport,
			// A redirected POST would become a GET without its call.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return c, nil
}

func (c *Client) setCredentials(cfg Config) error {
	c.token, c.user, c.password = cfg.Token, cfg.User, cfg.Password
	if c.token == "" && cfg.TokenFile != "" {
		b, err := os.ReadFile(cfg.TokenFile)
		if err != nil {
			return fmt.Errorf("read token: %w", err)
		}
		c.token = strings.TrimSpace(string(b))
		if c.token == "" {
			return fmt.Errorf("read token: %s is empty", cfg.TokenFile)
		}
	}
	if strings.ContainsAny(c.token, "\r\n") {
		return errors.New("the token has a line break in it")
	}
	return nil
}

// parseServer returns the base URL of the requests and, for a Unix socket, its path.
func parseServer(server string) (base, socket string, err error) {
	if path, ok := strings.CutPrefix(server, "unix:"); ok {
		path = strings.TrimPrefix(path, "//")
		if !strings.HasPrefix(path, "/") {
			return "", "", fmt.Errorf("server %q: want unix:///path/to/socket", server)
		}
		return "http://localhost", path, nil
	}
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return "", "", fmt.Errorf("server %q: want unix:///path/to/socket, http://host:port or https://host:port", server)
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", "", fmt.Errorf("server %q: no user, query or fragment belongs in it", u.Redacted())
	}
	return u.Scheme + "://" + u.Host + strings.TrimSuffix(u.EscapedPath(), "/"), "", nil
}

func newTransport(cfg Config, socket string) (*http.Transport, error) {
	dialer := &net.Dialer{Timeout: dialTimeout}
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dialer.DialContext,
		TLSHandshakeTimeout: dialTimeout,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     30 * time.Second,
		DisableCompression:  true, // packing costs more than a local network
	}
	if socket != "" {
		t.Proxy = nil
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		}
	}
	tc, err := newTLS(cfg)
	if err != nil {
		return nil, err
	}
	t.TLSClientConfig = tc
	return t, nil
}
