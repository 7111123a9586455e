package rpc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"ctd/conntrack"
	"ctd/rpc/wire"
)

func TestHandlerRefuses(t *testing.T) {
	const call = `{"jsonrpc":"2.0","method":"sum","id":1}`
	for _, c := range []struct {
		name, method, contentType, encoding, role, body string
		status                                          int
		code                                            wire.Code
		wantType                                        string
	}{
		{"GET", "GET", "application/json", "", wire.RoleViewer, "", 405, wire.InvalidRequest, "application/json"},
		{"PUT of XML", "PUT", "text/xml", "", wire.RoleViewer, "", 405, wire.InvalidRequest, xmlContentType},
		{"form", "POST", "application/x-www-form-urlencoded", "", wire.RoleViewer, call, 415, wire.Unsupported, "text/plain; charset=utf-8"},
		{"no content type", "POST", "", "", wire.RoleViewer, call, 415, wire.Unsupported, "text/plain; charset=utf-8"},
		{"gzip", "POST", "application/json", "gzip", wire.RoleViewer, call, 415, wire.Unsupported, "application/json"},
		{"gzip of XML", "POST", "text/xml", "gzip", wire.RoleViewer, methodCall("sum"), 415, wire.Unsupported, xmlContentType},
		{"JSON in Latin-1", "POST", "application/json; charset=iso-8859-1", "", wire.RoleViewer, call, 415, wire.Unsupported, "application/json"},
		{"stranger by JSON", "POST", "application/json", "", "", call, 401, wire.Unauthenticated, "application/json"},
		{"stranger by malformed JSON", "POST", "application/json", "", "", "{", 401, wire.Unauthenticated, "application/json"},
		{"stranger by XML", "POST", "text/xml", "", "", methodCall("sum"), 401, wire.Unauthenticated, xmlContentType},
		{"stranger to no method", "POST", "text/xml", "", "", methodCall("smu"), 401, wire.Unauthenticated, xmlContentType},
		{"stranger to multicall", "POST", "text/xml", "", "", methodCall("system.multicall", "<array><data/></array>"), 401, wire.Unauthenticated, xmlContentType},
		{"stranger to listMethods", "POST", "text/xml", "", "", methodCall("system.listMethods"), 401, wire.Unauthenticated, xmlContentType},
		{"too long", "POST", "application/json", "", wire.RoleViewer, call + strings.Repeat(" ", 1000), 413, wire.LimitExceeded, "application/json"},
		{"too long XML", "POST", "text/xml", "", wire.RoleViewer, methodCall("sum") + strings.Repeat(" ", 1000), 413, wire.LimitExceeded, xmlContentType},
		{"stranger's session", "POST", "text/xml", "", "", methodCall("session.raw"), 200, "", xmlContentType},
		{"identity", "POST", "application/json", "identity", wire.RoleViewer, call, 200, "", "application/json"},
		{"charset", "POST", "application/json ; charset=UTF-8", "", wire.RoleViewer, call, 200, "", "application/json"},
		{"json-rpc", "POST", "Application/JSON-RPC", "", wire.RoleViewer, call, 200, "", "application/json"},
		{"application/xml", "POST", "application/xml", "", wire.RoleViewer, methodCall("sum"), 200, "", xmlContentType},
	} {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, chunked %v", c.name, chunked), func(t *testing.T) {
				f := newFixture()
				r := httptest.NewRequest(c.method, "/rpc", strings.NewReader(c.body))
				if chunked {
					r.ContentLength = -1
				}
				r.Header.Set("Content-Type", c.contentType)
				if c.encoding != "" {
					r.Header.Set("Content-Encoding", c.encoding)
				}
				log := &CallLog{}
				ctx := WithCallLog(r.Context(), log)
				if c.role != "" {
					ctx = WithPrincipal(ctx, caller{c.role})
				}
				w := httptest.NewRecorder()
				NewHandler(f.Registry, HandlerConfig{MaxBody: 1000}).ServeHTTP(w, r.WithContext(ctx))
				if w.Code != c.status || w.Header().Get("Content-Type") != c.wantType || log.Code != c.code {
					t.Errorf("status %d, %s, code %q; want %d, %s, %q", w.Code, w.Header().Get("Content-Type"), log.Code, c.status, c.wantType, c.code)
				}
				if (f.ran.Load() > 0) != (c.status == 200) {
					t.Errorf("%d methods ran", f.ran.Load())
				}
				if (w.Header().Get("Allow") == "POST") != (c.status == 405) || (w.Header().Get("WWW-Authenticate") != "") != (c.status == 401) {
					t.Errorf("headers %v", w.Header())
				}
				number := 0
				switch c.wantType {
				case "application/json":
					number = parseAnswer(t, w.Body.Bytes()).Code
				case xmlContentType:
					_, number = parseResponse(t, w.Body.String())
				default:
					return
				}
				if c.code != "" && number != c.code.Number() {
					t.Errorf("error %d, want %s", number, c.code)
				}
			})
		}
	}
}

func TestBodyLimit(t *testing.T) {
	call := `{"jsonrpc":"2.0","method":"sum","id":1}`
	for _, c := range []struct {
		name, role, contentType, body string
		limit                         int
	}{
		{"default", wire.RoleViewer, "application/json", call, DefaultMaxBody},
		{"stranger", "", "text/xml", methodCall("session.raw"), MaxStrangerBody},
	} {
		t.Run(c.name, func(t *testing.T) {
			for more, want := range []int{200, 413} {
				body := c.body + strings.Repeat(" ", c.limit-len(c.body)+more)
				if w := newFixture().post(t, c.role, c.contentType, body); w.Code != want {
					t.Errorf("%d bytes: status %d, want %d", len(body), w.Code, want)
				}
			}
		})
	}
}

func TestWriteError(t *testing.T) {
	for contentType, want := range map[string]string{
		"application/json": `{"jsonrpc":"2.0","id":null,"error":{"code":-32010,"message":"too many calls","data":{"code":"rate_limited","hint":"wait"}}}`,
		"text/xml": xmlHeader + `<fault><value><struct><member><name>faultCode</name><value><int>-32010</int></value></member>` +
			`<member><name>faultString</name><value><string>too many calls (wait)</string></value></member></struct></value></fault>` + xmlFooter,
		"": "too many calls: wait\n",
	} {
		r := httptest.NewRequest(http.MethodPost, "/rpc", nil)
		r.Header.Set("Content-Type", contentType)
		w := httptest.NewRecorder()
		WriteError(w, r, &wire.Error{Code: wire.RateLimited, Message: "too many calls", Hint: "wait"})
		if diff := cmp.Diff(want, w.Body.String()); diff != "" || w.Code != http.StatusTooManyRequests {
			t.Errorf("%q: status %d, body (-want +got):\n%s", contentType, w.Code, diff)
		}
	}
}

func TestCallLog(t *testing.T) {
	f := newFixture()
	var text bytes.Buffer
	log := &CallLog{}
	r := httptest.NewRequest(http.MethodPost, "/rpc", strings.NewReader(`[
		{"jsonrpc":"2.0","method":"sum","id":1},
		{"jsonrpc":"2.0","method":"fail","params":["secret"],"id":2},
		{"jsonrpc":"2.0","method":"sum","params":["x"],"id":3},
		{"jsonrpc":"2.0","method":"stream","params":[1,1]}]`))
	r.Header.Set("Content-Type", "application/json")
	r = r.WithContext(WithCallLog(WithPrincipal(r.Context(), caller{wire.RoleAdmin}), log))
	NewHandler(f.Registry, HandlerConfig{Logger: slog.New(slog.NewJSONHandler(&text, nil))}).ServeHTTP(httptest.NewRecorder(), r)
	want := &CallLog{Protocol: JSONRPC, Principal: "tester", Methods: []string{"sum", "fail", "stream"}, Calls: 4, Failed: 3, Code: wire.Internal}
	if diff := cmp.Diff(want, log, cmpopts.IgnoreUnexported(CallLog{})); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	if !strings.Contains(text.String(), `"error":"secret detail"`) || strings.Count(text.String(), "\n") != 1 {
		t.Errorf("logged %q, want the one internal error", text.String())
	}
	for i := range 2 * maxLoggedMethods {
		log.call(fmt.Sprint(i, strings.Repeat("x", 1000)))
	}
	if len(log.Methods) != maxLoggedMethods || len(log.Methods[maxLoggedMethods-1]) != maxLoggedName {
		t.Errorf("%d methods, the last of %d bytes", len(log.Methods), len(log.Methods[maxLoggedMethods-1]))
	}
}

// TestEndedSession: a session method that doesn't know its caller was reached all the same.
func TestEndedSession(t *testing.T) {
	f := newFixture()
	f.RegisterPositional(Method{Name: "view", Role: wire.RoleSession, XMLOnly: true}, func(context.Context, []any) (any, error) {
		return nil, &wire.Error{Code: wire.Unauthenticated, Message: "the session has ended"}
	})
	w := f.post(t, "", "text/xml", methodCall("view", "abc"))
	if _, code := parseResponse(t, w.Body.String()); code != wire.Unauthenticated.Number() || w.Code != http.StatusOK {
		t.Errorf("status %d, fault %d, want 200 and %d", w.Code, code, wire.Unauthenticated.Number())
	}
}

// brokenWriter takes so many bytes.
type brokenWriter struct {
	*httptest.ResponseRecorder
	left int
}

func (w *brokenWriter) Write(b []byte) (int, error) {
	if w.left -= len(b); w.left < 0 {
		return 0, errors.New("broken pipe")
	}
	return len(b), nil
}

// TestCallerGone: a stream stops when nobody reads it, and nothing goes on as if it had ended.
func TestCallerGone(t *testing.T) {
	f := newFixture()
	h := NewHandler(f.Registry, HandlerConfig{})
	log := &CallLog{}
	r := httptest.NewRequest(http.MethodPost, "/rpc", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"stream","params":[1000000000]}`))
	r.Header.Set("Content-Type", "application/json")
	r = r.WithContext(WithCallLog(WithPrincipal(r.Context(), caller{wire.RoleViewer}), log))
	defer func() {
		if v := recover(); v != http.ErrAbortHandler || log.Code != wire.Unavailable {
			t.Errorf("recovered %v with the code %q, want http.ErrAbortHandler and unavailable", v, log.Code)
		}
	}()
	h.ServeHTTP(&brokenWriter{httptest.NewRecorder(), 1 << 20}, r)
	t.Error("a stream to nobody ended well")
}

// TestAbort: a method may cut the connection.
func TestAbort(t *testing.T) {
	r := NewRegistry()
	Register(r, Method{Name: "abort", Role: wire.RoleAny}, func(context.Context, *wire.Empty) (any, error) { panic(http.ErrAbortHandler) })
	defer func() {
		if v := recover(); v != http.ErrAbortHandler {
			t.Errorf("recovered %v, want http.ErrAbortHandler", v)
		}
	}()
	_, err := r.Call(WithPrincipal(context.Background(), caller{wire.RoleViewer}), "abort", Params{})
	t.Errorf("returned %v", err)
}

func TestCancelled(t *testing.T) {
	f := newFixture()
	ctx, cancel := context.WithCancel(WithPrincipal(context.Background(), caller{wire.RoleViewer}))
	cancel()
	if _, err := f.Call(ctx, "sum", Params{}); !errors.Is(err, &wire.Error{Code: wire.Unavailable}) || f.ran.Load() > 0 {
		t.Errorf("got %v after %d calls", err, f.ran.Load())
	}
}

func TestErrorOf(t *testing.T) {
	for _, c := range []struct {
		err   error
		code  wire.Code
		text  string
		errno string
	}{
		{unix.ENOENT, wire.NotFound, "no such file or directory", "ENOENT"},
		{fmt.Errorf("kill flow: %w", unix.EPERM), wire.PermissionDenied, "kill flow: operation not permitted", "EPERM"},
		{os.NewSyscallError("sendmsg", unix.EEXIST), wire.AlreadyExists, "sendmsg: file exists", "EEXIST"},
		{unix.EBUSY, wire.Busy, "device or resource busy", "EBUSY"},
		{unix.EINTR, wire.Busy, "interrupted system call", "EINTR"},
		{unix.EOPNOTSUPP, wire.Unsupported, "operation not supported", "EOPNOTSUPP"},
		{unix.EINVAL, wire.InvalidParams, "invalid argument", "EINVAL"},
		{unix.ENOMEM, wire.LimitExceeded, "cannot allocate memory", "ENOMEM"},
		{unix.ENOBUFS, wire.LimitExceeded, "no buffer space available", "ENOBUFS"},
		{unix.ENOSPC, wire.LimitExceeded, "no space left on device", "ENOSPC"},
		{unix.EIO, wire.Internal, "internal error", "EIO"},
		{fmt.Errorf("get: %w", conntrack.ErrNotFound), wire.NotFound, "get: no such entry", "ENOENT"},
		{fmt.Errorf("list: %w", context.DeadlineExceeded), wire.Deadline, "it took too long", ""},
		{os.ErrDeadlineExceeded, wire.Deadline, "it took too long", ""},
		{context.Canceled, wire.Unavailable, "the call was cancelled", ""},
		{errors.ErrUnsupported, wire.Unsupported, "unsupported operation", ""},
		{errors.New("secret"), wire.Internal, "internal error", ""},
		{&wire.Error{Code: wire.Internal, Message: "secret"}, wire.Internal, "internal error", ""},
		{fmt.Errorf("flow 3: %w", &wire.Error{Code: wire.Conflict, Message: "changed", Hint: "h"}), wire.Conflict, "flow 3: changed", ""},
	} {
		got := ErrorOf(c.err)
		if got.Code != c.code || got.Message != c.text || got.Errno != c.errno || got.Hint == "" {
			t.Errorf("%v: got %+v, want %s %q %s and a hint", c.err, got, c.code, c.text, c.errno)
		}
	}
}

// TestJSONEncoder holds the encoder against encoding/json.
func TestJSONEncoder(t *testing.T) {
	mark, timeout := uint32(0), uint32(4294967295)
	rate := 0.1
	for _, v := range []any{
		wire.ListResult{Flows: []wire.Flow{{
			ID: 1, Family: "ipv4", Orig: &wire.Tuple{Src: "10.0.0.1", Rate: &rate}, Mark: &mark, Timeout: &timeout,
			Status: []string{"assured"}, Labels: []int{0, 127}, Unknown: map[string]string{"30": "00", "3": "<&>\u2028"},
		}}},
		wire.StatsResult{Total: wire.CPUStats{Found: 1 << 63}},
		[]any{nil, true, -1, uint8(2), 1e21, 1e-7, 123456789.5, "\x00\x1f\"\\/\r\n\t\u00e9😀", map[string]any{"b": 1, "a": []any{}}, json.Number("1.50"), []int{}},
		"",
		map[string]bool{"z": true, "a": false},
	} {
		e := &jsonEncoder{}
		if err := encodeValue(e, v); err != nil {
			t.Fatal(err)
		}
		var got, want any
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(json.Unmarshal(e.buf, &got), json.Unmarshal(b, &want)); err != nil {
			t.Fatalf("%q: %v", e.buf, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("JSON (-encoding/json +got):\n%s", diff)
		}
	}
}

func TestEncodeEdges(t *testing.T) {
	for _, c := range []struct {
		name string
		in   any
		want string
	}{
		{"nil slice", wire.ListResult{}.Flows, "[]"},
		{"nil map", map[string]int(nil), "{}"},
		{"small numbers", wire.TCP{WScale: []uint16{7, 6}}, `{"wscale":[7,6]}`},
		{"no number", []float64{math.NaN(), math.Inf(-1)}, "[null,null]"},
		{"not UTF-8", "a\xffb", `"a\ufffdb"`},
		{"bytes", []byte{0, 255}, `"AP8="`},
	} {
		e := &jsonEncoder{}
		if err := encodeValue(e, c.in); err != nil || string(e.buf) != c.want {
			t.Errorf("%s: got %s, %v, want %s", c.name, e.buf, err, c.want)
		}
	}
	if err := encodeValue(&jsonEncoder{}, make(chan int)); err == nil {
		t.Error("a channel is encoded")
	}
}

// TestEncoderDoesNotAllocate: these calls come 60 times a flow.
func TestEncoderDoesNotAllocate(t *testing.T) {
	for name, e := range map[string]encoder{
		"JSON-RPC": &jsonEncoder{sink: sink{w: discarding{}, buf: make([]byte, 0, bufferSize)}},
		"XML-RPC":  &xmlEncoder{sink: sink{w: discarding{}, buf: make([]byte, 0, bufferSize)}, objects: make([]bool, 0, 8)},
	} {
		if n := testing.AllocsPerRun(10000, func() { encodeSample(e) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func encodeSample(e encoder) {
	e.beginObject()
	e.key("id")
	e.uint(1234567890)
	e.key("src")
	e.str("192.168.100.200")
	e.key("status")
	e.beginArray()
	e.str("confirmed")
	e.int(-1)
	e.endArray()
	e.key("assured")
	e.boolean(true)
	e.key("rate")
	e.float(1.5)
	e.key("none")
	e.null()
	e.endObject()
}

func BenchmarkEncoder(b *testing.B) {
	for _, c := range []struct {
		name string
		e    encoder
	}{
		{"json", &jsonEncoder{sink: sink{w: discarding{}, buf: make([]byte, 0, bufferSize)}}},
		{"xml", &xmlEncoder{sink: sink{w: discarding{}, buf: make([]byte, 0, bufferSize)}}},
	} {
		b.Run(c.name+"/8 values", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				encodeSample(c.e)
			}
		})
	}
}

// TestHintOfOverrun: the sockets' buffers don't depend on net.core.rmem_max, so no hint names it.
func TestHintOfOverrun(t *testing.T) {
	if got := ErrorOf(unix.ENOBUFS); !strings.Contains(got.Hint, "try again") || strings.Contains(got.Hint, "rmem_max") {
		t.Errorf("hint %q", got.Hint)
	}
}
