package rtsp

import (
	"net/netip"
	"strings"
	"time"
)

// messageCase is a message as a device sends it. The same table is for reading, for rewriting and for
// the seeds of the fuzz targets.
type messageCase struct {
	name     string
	text     string
	want     Message // without Head, which is the whole text
	rewrites []rewriteCase
}

// rewriteCase is a rewriting of a message: the texts of the edits, or the error.
type rewriteCase struct {
	name    string
	changes map[int]Change
	grow    int
	want    []string
	err     error
}

// lines is a head.
func lines(text ...string) string { return strings.Join(text, "\r\n") + "\r\n\r\n" }

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// alone is an address without a port.
func alone(s string) netip.AddrPort { return netip.AddrPortFrom(addr(s), 0) }

func pair(first, last uint16) Ports { return Ports{First: first, Last: last, Sep: '-'} }

// change is the change of a single alternative, or of the first.
func change(c Change) map[int]Change { return map[int]Change{0: c} }

func messageCases() []messageCase {
	return []messageCase{
		{
			name: "ffmpeg setup",
			text: lines("SETUP rtsp://203.0.113.10:9554/cam/trackID=0 RTSP/1.0",
				"Transport: RTP/AVP/UDP;unicast;client_port=9998-9999", "CSeq: 3", "User-Agent: Lavf59.27.100"),
			want: Message{
				Request: true, Method: MethodSetup, URI: "rtsp://203.0.113.10:9554/cam/trackID=0", Major: 1,
				CSeq: 3, HasCSeq: true, UserAgent: "Lavf59.27.100",
				Transports: []Transport{{Spec: "RTP/AVP/UDP", Lower: "UDP", Unicast: true, ClientPort: pair(9998, 9999)}},
			},
			rewrites: []rewriteCase{
				{name: "same length", changes: change(Change{ClientPort: Ports{First: 1024}}), want: []string{"RTP/AVP/UDP;unicast;client_port=1024-1025"}},
				{name: "same ports", changes: change(Change{ClientPort: Ports{First: 9998}})},
				{name: "nothing written there", changes: change(Change{ServerPort: Ports{First: 9}, Destination: addr("192.0.2.1"), DropSource: true})},
				{name: "longer, UDP left out", changes: change(Change{ClientPort: Ports{First: 40000}}), want: []string{"RTP/AVP;unicast;client_port=40000-40001  "}},
				{name: "no second port", changes: change(Change{ClientPort: Ports{First: 65535}}), err: errPort},
				{name: "ends far apart", changes: change(Change{ClientPort: Ports{First: 65535, Last: 1024}}), want: []string{"RTP/AVP;unicast;client_port=65535-1024   "}},
			},
		},
		{
			name: "ffmpeg record",
			text: lines("SETUP rtsp://203.0.113.10:9554/up/streamid=0 RTSP/1.0",
				"Transport: RTP/AVP/UDP;unicast;client_port=9190-9191;mode=record", "CSeq: 3", "User-Agent: Lavf59.27.100"),
			want: Message{
				Request: true, Method: MethodSetup, URI: "rtsp://203.0.113.10:9554/up/streamid=0", Major: 1,
				CSeq: 3, HasCSeq: true, UserAgent: "Lavf59.27.100",
				Transports: []Transport{{Spec: "RTP/AVP/UDP", Lower: "UDP", Unicast: true, ClientPort: pair(9190, 9191), Mode: "RECORD"}},
			},
		},
		{
			name: "ffmpeg interleaved",
			text: lines("SETUP rtsp://203.0.113.10:9554/cam/trackID=1 RTSP/1.0",
				"Transport: RTP/AVP/TCP;unicast;interleaved=2-3", "CSeq: 4", "User-Agent: Lavf59.27.100", "Session: c13eee01617c4a47bec503fac80328e9"),
			want: Message{
				Request: true, Method: MethodSetup, URI: "rtsp://203.0.113.10:9554/cam/trackID=1", Major: 1,
				CSeq: 4, HasCSeq: true, UserAgent: "Lavf59.27.100", Session: "c13eee01617c4a47bec503fac80328e9",
				Transports: []Transport{{Spec: "RTP/AVP/TCP", Lower: "TCP", Unicast: true, HasInterleaved: true, Interleaved: Channels{2, 3}}},
			},
		},
		{
			name: "gortsplib reply",
			text: lines("RTSP/1.0 200 OK", "CSeq: 3", "Server: gortsplib", "Session: e0d2904553fc46949f18167a8534626b;timeout=55",
				"Transport: RTP/AVP;unicast;client_port=27392-27393;server_port=9000-9001;ssrc=A358FFF0"),
			want: Message{
				Status: 200, Major: 1, CSeq: 3, HasCSeq: true, Server: "gortsplib",
				Session: "e0d2904553fc46949f18167a8534626b", SessionTimeout: 55 * time.Second,
				Transports: []Transport{{Spec: "RTP/AVP", Lower: "UDP", Unicast: true, ClientPort: pair(27392, 27393), ServerPort: pair(9000, 9001), SSRC: []uint32{0xa358fff0}}},
			},
			rewrites: []rewriteCase{
				{name: "restored, shorter", changes: change(Change{ClientPort: pair(5000, 5001)}), want: []string{"RTP/AVP;unicast;client_port=5000-5001;server_port=9000-9001;ssrc=A358FFF0  "}},
				{name: "no room", changes: change(Change{ServerPort: pair(30000, 30001)}), grow: 1, err: ErrTooLong},
				{name: "just room", changes: change(Change{ServerPort: pair(30000, 30001)}), grow: 2, want: []string{"RTP/AVP;unicast;client_port=27392-27393;server_port=30000-30001;ssrc=A358FFF0"}},
			},
		},
		{
			name: "GStreamer 1.0 reply",
			text: lines("RTSP/1.0 200 OK", "CSeq: 3",
				`Transport: RTP/AVP;unicast;client_port=43528-43529;server_port=41382-41383;ssrc=BA76733E;mode="PLAY"`,
				"Server: GStreamer RTSP server", "Session: 0DFpCM2Gh1v7Eu_r"),
			want: Message{
				Status: 200, Major: 1, CSeq: 3, HasCSeq: true, Server: "GStreamer RTSP server", Session: "0DFpCM2Gh1v7Eu_r",
				Transports: []Transport{{
					Spec: "RTP/AVP", Lower: "UDP", Unicast: true, ClientPort: pair(43528, 43529), ServerPort: pair(41382, 41383),
					SSRC: []uint32{0xba76733e}, Mode: "PLAY",
				}},
			},
		},
		{
			name: "GStreamer with two user agents",
			text: lines("OPTIONS rtsp://203.0.113.10:7070/stream RTSP/1.0", "CSeq: 1", "User-Agent: GStreamer/1.22.0",
				"User-Agent: RealMedia Player Version 6.0.9.1235 (linux-2.0-libc6-i386-gcc2.95)", "ClientChallenge: 9e26d33f2984236010ef6253fb1887f7",
				"CompanyID: KnKV4M4I/B2FjJ1TToLycw==", "PlayerStarttime: [28/03/2003:22:50:23 00:00]"),
			want: Message{Request: true, Method: MethodOptions, URI: "rtsp://203.0.113.10:7070/stream", Major: 1, CSeq: 1, HasCSeq: true, UserAgent: "GStreamer/1.22.0"},
		},
		{
			name: "GStreamer 2.0 with client_port",
			text: lines("SETUP rtsp://203.0.113.10:7070/stream/stream=0 RTSP/2.0", "CSeq: 3", "User-Agent: GStreamer/1.22.0",
				"Pipelined-Requests: 624362223", "Accept-Ranges: npt, clock, smpte, clock", "Transport: RTP/AVP;unicast;client_port=33324-33325"),
			want: Message{
				Request: true, Method: MethodSetup, URI: "rtsp://203.0.113.10:7070/stream/stream=0", Major: 2, CSeq: 3, HasCSeq: true, UserAgent: "GStreamer/1.22.0",
				Transports: []Transport{{Spec: "RTP/AVP", Lower: "UDP", Unicast: true, ClientPort: pair(33324, 33325)}},
			},
		},
		{
			name: "GStreamer offering all",
			text: lines("SETUP rtsp://192.0.2.9/x RTSP/1.0", "CSeq: 4",
				"Transport: RTP/AVP;unicast;client_port=5000-5001,RTP/AVP;multicast,RTP/AVP/TCP;unicast;interleaved=0-1"),
			want: Message{
				Request: true, Method: MethodSetup, URI: "rtsp://192.0.2.9/x", Major: 1, CSeq: 4, HasCSeq: true,
				Transports: []Transport{
					{Spec: "RTP/AVP", Lower: "UDP", Unicast: true, ClientPort: pair(5000, 5001)},
					{Spec: "RTP/AVP", Lower: "UDP", Multicast: true},
					{Spec: "RTP/AVP/TCP", Lower: "TCP", Unicast: true, HasInterleaved: true, Interleaved: Channels{0, 1}},
				},
			},
			rewrites: []rewriteCase{
				{
					name: "the first", changes: change(Change{ClientPort: Ports{First: 6000}}),
					want: []string{"RTP/AVP;unicast;client_port=6000-6001,RTP/AVP;multicast,RTP/AVP/TCP;unicast;interleaved=0-1"},
				},
				{name: "one that isn't there", changes: map[int]Change{3: {}}, err: errNoTransport},
			},
		},
		{
			name: "live555 reply with destination and source",
			text: lines("RTSP/1.0 200 OK", "CSeq: 4", "Date: Sun, Nov 22 2026 05:08:24 GMT",
				"Transport: RTP/AVP;unicast;destination=203.0.113.1;source=203.0.113.10;client_port=46684-46685;server_port=6970-6971", "Session: C818E677;timeout=65"),
			want: Message{
				Status: 200, Major: 1, CSeq: 4, HasCSeq: true, Session: "C818E677", SessionTimeout: 65 * time.Second,
				Transports: []Transport{{
					Spec: "RTP/AVP", Lower: "UDP", Unicast: true, ClientPort: pair(46684, 46685), ServerPort: pair(6970, 6971),
					Destination: "203.0.113.1", HasDestination: true, DestinationAddr: alone("203.0.113.1"),
					Source: "203.0.113.10", HasSource: true, SourceAddr: alone("203.0.113.10"),
				}},
			},
			rewrites: []rewriteCase{
				{
					name: "restored", changes: change(Change{Destination: addr("192.168.7.1"), Source: addr("10.0.0.1")}),
					want: []string{"RTP/AVP;unicast;destination=192.168.7.1;source=10.0.0.1;client_port=46684-46685;server_port=6970-6971    "},
				},
				{
					name: "without addresses", changes: change(Change{DropDestination: true, DropSource: true, Destination: addr("::1")}),
					want: []string{"RTP/AVP;unicast;client_port=46684-46685;server_port=6970-6971" + strings.Repeat(" ", len(";destination=203.0.113.1;source=203.0.113.10"))},
				},
				{name: "IPv6 is longer", changes: change(Change{Destination: addr("2001:db8::1")}), want: []string{
					"RTP/AVP;unicast;destination=2001:db8::1;source=203.0.113.10;client_port=46684-46685;server_port=6970-6971",
				}},
			},
		},
		{
			name: "openRTSP setup",
			text: lines("SETUP rtsp://203.0.113.10:8554/test.mp3/track1 RTSP/1.0", "CSeq: 4",
				"User-Agent: live/testProgs/openRTSP (LIVE555 Streaming Media v2026.06.24)", "Transport: RTP/AVP;unicast;client_port=46684-46685"),
			want: Message{
				Request: true, Method: MethodSetup, URI: "rtsp://203.0.113.10:8554/test.mp3/track1", Major: 1, CSeq: 4, HasCSeq: true,
				UserAgent:  "live/testProgs/openRTSP (LIVE555 Streaming Media v2026.06.24)",
				Transports: []Transport{{Spec: "RTP/AVP", Lower: "UDP", Unicast: true, ClientPort: pair(46684, 46685)}},
			},
		},
		{
			name: "VLC setup",
			text: lines("SETUP rtsp://10.1.2.3:554/vod.mpg/trackID=0 RTSP/1.0", "CSeq: 5", "User-Agent: LibVLC/3.0.18 (LIVE555 Streaming Media v2016.11.28)",
				"Transport: RTP/AVP;unicast;client_port=63058-63059"),
			want: Message{
				Request: true, Method: MethodSetup, URI: "rtsp://10.1.2.3:554/vod.mpg/trackID=0", Major: 1, CSeq: 5, HasCSeq: true,
				UserAgent:  "LibVLC/3.0.18 (LIVE555 Streaming Media v2016.11.28)",
				Transports: []Transport{{Spec: "RTP/AVP", Lower: "UDP", Unicast: true, ClientPort: pair(63058, 63059)}},
			},
		},
		{
			name: "set-top box with destination",
			text: lines("SETUP rtsp://10.9.8.7:554/ch1 RTSP/1.0", "CSeq:2", "Transport:MP2T/H2221/UDP;unicast;destination=192.168.1.20;client_port=1234"),
			want: Message{
				Request: true, Method: MethodSetup, URI: "rtsp://10.9.8.7:554/ch1", Major: 1, CSeq: 2, HasCSeq: true,
				Transports: []Transport{{
					Spec: "MP2T/H2221/UDP", Lower: "UDP", Unicast: true, ClientPort: Ports{First: 1234, Last: 1234},
					Destination: "192.168.1.20", HasDestination: true, DestinationAddr: alone("192.168.1.20"),
				}},
			},
			rewrites: []rewriteCase{
				{
					name: "a single port stays one", changes: change(Change{ClientPort: pair(20000, 20001), Destination: addr("198.51.100.7")}), grow: 1,
					want: []string{"MP2T/H2221/UDP;unicast;destination=198.51.100.7;client_port=20000"},
				},
				{
					name: "destination left out makes room", changes: change(Change{ClientPort: Ports{First: 20000}, DropDestination: true}),
					want: []string{"MP2T/H2221/UDP;unicast;client_port=20000" + strings.Repeat(" ", 24)},
				},
			},
		},
		{
			name: "set-top box with a port in destination",
			text: lines("SETUP rtsp://10.9.8.7/ch1 RTSP/1.0", "CSeq: 2", "Transport: RAW/RAW/UDP;unicast;destination=192.168.1.20:5000"),
			want: Message{
				Request: true, Method: MethodSetup, URI: "rtsp://10.9.8.7/ch1", Major: 1, CSeq: 2, HasCSeq: true,
				Transports: []Transport{{
					Spec: "RAW/RAW/UDP", Lower: "UDP", Unicast: true,
					Destination: "192.168.1.20", HasDestination: true, DestinationAddr: netip.MustParseAddrPort("192.168.1.20:5000"),
				}},
			},
			rewrites: []rewriteCase{
				{name: "its port", changes: change(Change{ClientPort: Ports{First: 6000}}), want: []string{"RAW/RAW/UDP;unicast;destination=192.168.1.20:6000"}},
				{name: "IPv6 gets brackets", changes: change(Change{Destination: addr("2001:db8::1")}), grow: 9, want: []string{"RAW/RAW/UDP;unicast;destination=[2001:db8::1]:5000"}},
			},
		},
		{
			name: "set-top box, destination with another port than client_port",
			text: lines("SETUP rtsp://10.9.8.7/ch1 RTSP/1.0", "CSeq: 2", "Transport: RAW/RAW/UDP;destination=192.168.1.20:5000;client_port=7000"),
			want: Message{
				Request: true, Method: MethodSetup, URI: "rtsp://10.9.8.7/ch1", Major: 1, CSeq: 2, HasCSeq: true,
				Transports: []Transport{{
					Spec: "RAW/RAW/UDP", Lower: "UDP", ClientPort: Ports{First: 7000, Last: 7000},
					Destination: "192.168.1.20", HasDestination: true, DestinationAddr: netip.MustParseAddrPort("192.168.1.20:5000"),
				}},
			},
			rewrites: []rewriteCase{
				{name: "which stays", changes: change(Change{ClientPort: Ports{First: 6000}}), want: []string{"RAW/RAW/UDP;destination=192.168.1.20:5000;client_port=6000"}},
			},
		},
		{
			name: "two ports with a slash",
			text: lines("SETUP rtsp://a/b RTSP/1.0", "CSeq: 2", "Transport: RTP/AVP;unicast;client_port=5000/6001"),
			want: Message{
				Request: true, Method: MethodSetup, URI: "rtsp://a/b", Major: 1, CSeq: 2, HasCSeq: true,
				Transports: []Transport{{Spec: "RTP/AVP", Lower: "UDP", Unicast: true, ClientPort: Ports{5000, 6001, '/'}}},
			},
			rewrites: []rewriteCase{
				{name: "style", changes: change(Change{ClientPort: pair(7000, 9001)}), want: []string{"RTP/AVP;unicast;client_port=7000/9001"}},
			},
		},
		{
			name: "spaces, tabs and odd case",
			text: lines("SETUP  rtsp://a/b\tRTSP/1.0 ", "cseq :\t7 ", "TRANSPORT :  rtp/avp ; Unicast;\tClient_Port = \"5000 - 5001\" ; Foo=Bar \t", "SESSION:  ab ; Timeout = \"60\" "),
			want: Message{
				Request: true, Method: MethodSetup, URI: "rtsp://a/b", Major: 1, CSeq: 7, HasCSeq: true, Session: "ab", SessionTimeout: time.Minute,
				Transports: []Transport{{Spec: "RTP/AVP", Lower: "UDP", Unicast: true, ClientPort: pair(5000, 5001)}},
			},
			rewrites: []rewriteCase{
				{name: "as they are", changes: change(Change{ClientPort: Ports{First: 6000}}), want: []string{"rtp/avp ; Unicast;\tClient_Port = \"6000 - 6001\" ; Foo=Bar  "}},
				{name: "room at the end", changes: change(Change{ClientPort: Ports{First: 60000}}), want: []string{"rtp/avp ; Unicast;\tClient_Port = \"60000 - 60001\" ; Foo=Bar"}},
			},
		},
		{
			name: "bare line feeds",
			text: "SETUP rtsp://a/b RTSP/1.0\nCSeq: 1\nTransport: RTP/AVP ;unicast ;client_port=5000-5001\n\n",
			want: Message{
				Request: true, Method: MethodSetup, URI: "rtsp://a/b", Major: 1, CSeq: 1, HasCSeq: true,
				Transports: []Transport{{Spec: "RTP/AVP", Lower: "UDP", Unicast: true, ClientPort: pair(5000, 5001)}},
			},
			rewrites: []rewriteCase{
				{name: "without spaces", changes: change(Change{ClientPort: Ports{First: 60000}}), want: []string{"RTP/AVP;unicast;client_port=60000-60001"}},
			},
		},
		{
			name: "a header on several lines",
			text: lines("SETUP rtsp://a/b RTSP/1.0", "CSeq:", " 1", "Transport:", "\tRTP/AVP;unicast;", "  client_port=5000-5001,", " RTP/AVP/TCP;interleaved=0", " "),
			want: Message{
				Request: true, Method: MethodSetup, URI: "rtsp://a/b", Major: 1, CSeq: 1, HasCSeq: true,
				Transports: []Transport{
					{Spec: "RTP/AVP", Lower: "UDP", Unicast: true, ClientPort: pair(5000, 5001)},
					{Spec: "RTP/AVP/TCP", Lower: "TCP", HasInterleaved: true},
				},
			},
			rewrites: []rewriteCase{
				{name: "keeps its lines", changes: change(Change{ClientPort: Ports{First: 6000}}), want: []string{"RTP/AVP;unicast;\r\n  client_port=6000-6001,\r\n RTP/AVP/TCP;interleaved=0   "}},
				{name: "fills its last line", changes: change(Change{ClientPort: Ports{First: 60000}}), want: []string{"RTP/AVP;unicast;\r\n  client_port=60000-60001,\r\n RTP/AVP/TCP;interleaved=0 "}},
			},
		},
		{
			name: "several Transport headers",
			text: lines("SETUP rtsp://a/b RTSP/1.0", "CSeq: 1", "Transport: RTP/AVP;client_port=5000-5001", "Transport:", "Transport: RTP/SAVP;client_port=5002-5003, ,"),
			want: Message{
				Request: true, Method: MethodSetup, URI: "rtsp://a/b", Major: 1, CSeq: 1, HasCSeq: true,
				Transports: []Transport{
					{Spec: "RTP/AVP", Lower: "UDP", ClientPort: pair(5000, 5001)},
					{Spec: "RTP/SAVP", Lower: "UDP", ClientPort: pair(5002, 5003)},
				},
			},
			rewrites: []rewriteCase{
				{name: "both", changes: map[int]Change{0: {ClientPort: Ports{First: 6000}}, 1: {ClientPort: Ports{First: 6002}}}, want: []string{"RTP/AVP;client_port=6000-6001", "RTP/SAVP;client_port=6002-6003, ,"}},
				{name: "only one may grow", changes: map[int]Change{0: {ClientPort: Ports{First: 60000}}, 1: {ClientPort: pair(1, 60002)}}, grow: 2, want: []string{"RTP/AVP;client_port=60000-60001", "RTP/SAVP;client_port=1-60002, ,  "}},
				{name: "both would grow", changes: map[int]Change{0: {ClientPort: Ports{First: 60000}}, 1: {ClientPort: Ports{First: 60002}}}, grow: 100, err: ErrTooLong},
			},
		},
		{
			name: "RTSP 2.0 dest_addr without hosts",
			text: lines("SETUP rtsp://example.com/foo/bar/baz.rm RTSP/2.0", "CSeq: 302", `Transport: RTP/AVP;unicast;dest_addr=":4588"/":4589"`, "User-Agent: PhonyClient/1.2"),
			want: Message{
				Request: true, Method: MethodSetup, URI: "rtsp://example.com/foo/bar/baz.rm", Major: 2, CSeq: 302, HasCSeq: true, UserAgent: "PhonyClient/1.2",
				Transports: []Transport{{Spec: "RTP/AVP", Lower: "UDP", Unicast: true, DestAddr: []HostPort{{Port: 4588}, {Port: 4589}}}},
			},
			rewrites: []rewriteCase{
				{name: "ports", changes: change(Change{ClientPort: Ports{First: 6000}, Destination: addr("192.0.2.1"), DropDestination: true}), want: []string{`RTP/AVP;unicast;dest_addr=":6000"/":6001"`}},
			},
		},
		{
			name: "RTSP 2.0 reply with both sides",
			text: lines("RTSP/2.0 200 OK", "CSeq: 302",
				`Transport: RTP/AVP;unicast;dest_addr="192.0.2.53:4588"/"192.0.2.53:4589";src_addr="198.51.100.241:6256"/"[2001:db8::1]:6257";ssrc=2A3F93ED/2A3F93EE;RTCP-mux;setup=Active;connection="new"`,
				"Session: 47112344;timeout=3600"),
			want: Message{
				Status: 200, Major: 2, CSeq: 302, HasCSeq: true, Session: "47112344", SessionTimeout: time.Hour,
				Transports: []Transport{{
					Spec: "RTP/AVP", Lower: "UDP", Unicast: true, SSRC: []uint32{0x2a3f93ed, 0x2a3f93ee}, RTCPMux: true, Setup: "active", Connection: "new",
					DestAddr: []HostPort{{"192.0.2.53", addr("192.0.2.53"), 4588}, {"192.0.2.53", addr("192.0.2.53"), 4589}},
					SrcAddr:  []HostPort{{"198.51.100.241", addr("198.51.100.241"), 6256}, {"2001:db8::1", addr("2001:db8::1"), 6257}},
				}},
			},
			rewrites: []rewriteCase{
				{name: "hosts dropped", changes: change(Change{DropDestination: true, DropSource: true, ServerPort: pair(7000, 7005)}), want: []string{
					`RTP/AVP;unicast;dest_addr=":4588"/":4589";src_addr=":7000"/":7005";ssrc=2A3F93ED/2A3F93EE;RTCP-mux;setup=Active;connection="new"` + strings.Repeat(" ", 47),
				}},
				{name: "hosts changed", changes: change(Change{Destination: addr("10.0.0.2"), Source: addr("2001:db8::2")}), want: []string{
					`RTP/AVP;unicast;dest_addr="10.0.0.2:4588"/"10.0.0.2:4589";src_addr="[2001:db8::2]:6256"/"[2001:db8::2]:6257";ssrc=2A3F93ED/2A3F93EE;RTCP-mux;setup=Active;connection="new"` + "     ",
				}},
			},
		},
		{
			name: "RTSP 2.0 dest_addr without quotes",
			text: lines("SETUP rtsp://a/b RTSP/2.0", "CSeq: 1", "Transport: RTP/AVP;dest_addr=192.0.2.1:5000/[2001:db8::1]:5001;src_addr=server.example:7/2001:db8::7"),
			want: Message{
				Request: true, Method: MethodSetup, URI: "rtsp://a/b", Major: 2, CSeq: 1, HasCSeq: true,
				Transports: []Transport{{
					Spec: "RTP/AVP", Lower: "UDP",
					DestAddr: []HostPort{{"192.0.2.1", addr("192.0.2.1"), 5000}, {"2001:db8::1", addr("2001:db8::1"), 5001}},
					SrcAddr:  []HostPort{{Host: "server.example", Port: 7}, {Host: "2001:db8::7", Addr: addr("2001:db8::7")}},
				}},
			},
			rewrites: []rewriteCase{
				{name: "a list with a host without port goes", changes: change(Change{DropSource: true}), want: []string{"RTP/AVP;dest_addr=192.0.2.1:5000/[2001:db8::1]:5001" + strings.Repeat(" ", 38)}},
			},
		},
		{
			name: "two alternatives that say UDP",
			text: lines("SETUP rtsp://a/b RTSP/1.0", "CSeq: 1", "Transport: RTP/AVP/UDP;client_port=5000-5001,RTP/AVPF/UDP;client_port=5000-5001"),
			want: Message{
				Request: true, Method: MethodSetup, URI: "rtsp://a/b", Major: 1, CSeq: 1, HasCSeq: true,
				Transports: []Transport{
					{Spec: "RTP/AVP/UDP", Lower: "UDP", ClientPort: pair(5000, 5001)},
					{Spec: "RTP/AVPF/UDP", Lower: "UDP", ClientPort: pair(5000, 5001)},
				},
			},
			rewrites: []rewriteCase{
				{name: "one left as it is", changes: change(Change{ClientPort: Ports{First: 60000}}), want: []string{
					"RTP/AVP;client_port=60000-60001,RTP/AVPF/UDP;client_port=5000-5001  ",
				}},
			},
		},
		{
			name: "RealServer offering its own",
			text: lines("SETUP rtsp://a:554/real.rm/streamid=0 RTSP/1.0", "CSeq: 3",
				"Transport: x-real-rdt/mcast;client_port=6970;mode=play,x-real-rdt/udp;client_port=6970;mode=play,x-pn-tng/tcp;mode=play,rtp/avp;unicast;client_port=6970-6971;mode=play",
				"If-Match: 1-2"),
			want: Message{
				Request: true, Method: MethodSetup, URI: "rtsp://a:554/real.rm/streamid=0", Major: 1, CSeq: 3, HasCSeq: true,
				Transports: []Transport{
					{Spec: "X-REAL-RDT/MCAST", Lower: "MCAST", ClientPort: Ports{First: 6970, Last: 6970}, Mode: "PLAY"},
					{Spec: "X-REAL-RDT/UDP", Lower: "UDP", ClientPort: Ports{First: 6970, Last: 6970}, Mode: "PLAY"},
					{Spec: "X-PN-TNG/TCP", Lower: "TCP", Mode: "PLAY"},
					{Spec: "RTP/AVP", Lower: "UDP", Unicast: true, ClientPort: pair(6970, 6971), Mode: "PLAY"},
				},
			},
			rewrites: []rewriteCase{
				{name: "two of them", changes: map[int]Change{1: {ClientPort: pair(7970, 7971)}, 3: {ClientPort: pair(7970, 7971)}}, want: []string{
					"x-real-rdt/mcast;client_port=6970;mode=play,x-real-rdt/udp;client_port=7970;mode=play,x-pn-tng/tcp;mode=play,rtp/avp;unicast;client_port=7970-7971;mode=play",
				}},
			},
		},
		{
			name: "Axis multicast reply",
			text: lines("RTSP/1.0 200 OK", "CSeq: 3", "Transport: RTP/AVP;multicast;destination=239.250.0.1;port=50000-50001;ttl=5;mode=\"PLAY\"", `Session: "1A2B";timeout=60`),
			want: Message{
				Status: 200, Major: 1, CSeq: 3, HasCSeq: true, Session: `"1A2B"`, SessionTimeout: time.Minute,
				Transports: []Transport{{
					Spec: "RTP/AVP", Lower: "UDP", Multicast: true, Port: pair(50000, 50001), TTL: 5, Mode: "PLAY",
					Destination: "239.250.0.1", HasDestination: true, DestinationAddr: alone("239.250.0.1"),
				}},
			},
		},
		{
			name: "Hikvision reply",
			text: lines("RTSP/1.0 200 OK", "CSeq: 5", "Session:        1163234566;timeout=60",
				"Transport: RTP/AVP;unicast;client_port=59456-59457;server_port=8228-8229;ssrc=51af8d2b;mode=\"play\"", "Date:  Sun, Nov 22 2026 13:08:26 GMT"),
			want: Message{
				Status: 200, Major: 1, CSeq: 5, HasCSeq: true, Session: "1163234566", SessionTimeout: time.Minute,
				Transports: []Transport{{
					Spec: "RTP/AVP", Lower: "UDP", Unicast: true, ClientPort: pair(59456, 59457), ServerPort: pair(8228, 8229), SSRC: []uint32{0x51af8d2b}, Mode: "PLAY",
				}},
			},
		},
		{
			name: "IPv6 destination",
			text: lines("SETUP rtsp://[2001:db8::9]/b RTSP/1.0", "CSeq: 1", "Transport: RTP/AVP;unicast;destination=2001:db8::5;source=[fe80::1%eth0];client_port=5000-5001"),
			want: Message{
				Request: true, Method: MethodSetup, URI: "rtsp://[2001:db8::9]/b", Major: 1, CSeq: 1, HasCSeq: true,
				Transports: []Transport{{
					Spec: "RTP/AVP", Lower: "UDP", Unicast: true, ClientPort: pair(5000, 5001),
					Destination: "2001:db8::5", HasDestination: true, DestinationAddr: alone("2001:db8::5"),
					Source: "fe80::1%eth0", HasSource: true, SourceAddr: alone("fe80::1"),
				}},
			},
			rewrites: []rewriteCase{
				{name: "bare and in brackets", changes: change(Change{Destination: addr("2001:db8::6"), Source: addr("fe80::2%eth1")}), want: []string{
					"RTP/AVP;unicast;destination=2001:db8::6;source=[fe80::2];client_port=5000-5001     ",
				}},
			},
		},
		{
			name: "nonsense in known parameters",
			text: lines("SETUP rtsp://a/b RTSP/1.0", "CSeq: 1",
				`Transport: RTP/AVP;client_port=70000-70001;server_port=5000-;port=0;destination;source=;interleaved=300;ssrc=xyz/1;ttl=256;mode="a;b,c";x="\";client_port=1-2";dest_addr="a:b"/"[::1";=;;`),
			want: Message{
				Request: true, Method: MethodSetup, URI: "rtsp://a/b", Major: 1, CSeq: 1, HasCSeq: true,
				Transports: []Transport{{
					Spec: "RTP/AVP", Lower: "UDP", HasDestination: true, HasSource: true, HasInterleaved: true, SSRC: []uint32{1}, Mode: "A;B,C",
					DestAddr: []HostPort{{Host: "a:b"}, {Host: "[::1"}},
				}},
			},
			rewrites: []rewriteCase{
				{name: "nothing to change", changes: change(Change{ClientPort: Ports{First: 6000}, ServerPort: Ports{First: 6000}, Source: addr("::")})},
				{name: "hosts that are none", changes: change(Change{Destination: addr("::1")}), want: []string{
					`RTP/AVP;client_port=70000-70001;server_port=5000-;port=0;destination;source=;interleaved=300;ssrc=xyz/1;ttl=256;mode="a;b,c";x="\";client_port=1-2";dest_addr="[::1]"/"[::1]";=;;`,
				}, grow: 3},
			},
		},
		{
			name: "a parameter twice, and a quote that isn't closed",
			text: lines("SETUP rtsp://a/b RTSP/1.0", "CSeq: 1", `Transport: RTP/AVP;client_port=x;client_port=1000;client_port=2000-2001;a="b;destination=1.2.3.4,c`),
			want: Message{
				Request: true, Method: MethodSetup, URI: "rtsp://a/b", Major: 1, CSeq: 1, HasCSeq: true,
				Transports: []Transport{
					{
						Spec: "RTP/AVP", Lower: "UDP", ClientPort: Ports{First: 1000, Last: 1000},
						Destination: "1.2.3.4", HasDestination: true, DestinationAddr: alone("1.2.3.4"),
					},
					{Spec: "C"},
				},
			},
			rewrites: []rewriteCase{
				{name: "all are changed", changes: change(Change{ClientPort: Ports{First: 3000}}), want: []string{`RTP/AVP;client_port=x;client_port=3000;client_port=3000-3001;a="b;destination=1.2.3.4,c`}},
			},
		},
		{
			name: "an alternative of one parameter",
			text: lines("SETUP rtsp://a/b RTSP/1.0", "CSeq: 1", "Transport: ;destination=1.2.3.4,RTP/AVP"),
			want: Message{
				Request: true, Method: MethodSetup, URI: "rtsp://a/b", Major: 1, CSeq: 1, HasCSeq: true,
				Transports: []Transport{{Destination: "1.2.3.4", HasDestination: true, DestinationAddr: alone("1.2.3.4")}, {Spec: "RTP/AVP", Lower: "UDP"}},
			},
			rewrites: []rewriteCase{
				{name: "keeps its place", changes: change(Change{DropDestination: true}), want: []string{";,RTP/AVP" + strings.Repeat(" ", 19)}},
			},
		},
		{
			name: "too many addresses to change",
			text: lines("SETUP rtsp://a/b RTSP/2.0", "CSeq: 1", `Transport: RTP/AVP;dest_addr=":1"/":2"/":3"`),
			want: Message{
				Request: true, Method: MethodSetup, URI: "rtsp://a/b", Major: 2, CSeq: 1, HasCSeq: true,
				Transports: []Transport{{Spec: "RTP/AVP", Lower: "UDP", DestAddr: []HostPort{{Port: 1}, {Port: 2}, {Port: 3}}}},
			},
			rewrites: []rewriteCase{{name: "ports", changes: change(Change{ClientPort: Ports{First: 6000}}), err: errAddrs}},
		},
		{
			name: "a URI with spaces and other bytes",
			text: lines("PLAY rtsp://a/my file \xe9.mp4 RTSP/1.0", "CSeq: 18446744073709551615", "Session: x", "Session: x;timeout=99999999999"),
			want: Message{Request: true, Method: MethodPlay, URI: "rtsp://a/my file \xe9.mp4", Major: 1, CSeq: 1<<64 - 1, HasCSeq: true, Session: "x"},
		},
		{
			name: "a redirect",
			text: lines("RTSP/1.0 302 Moved Temporarily", "CSeq: 2", "Location: rtsp://b/\x1b[31m\xff", "a line without colon", ": no name"),
			want: Message{Status: 302, Major: 1, CSeq: 2, HasCSeq: true, Location: "rtsp://b/?[31m?"},
		},
		{
			name: "no reason and no headers",
			text: "RTSP/1.0 454\n\n",
			want: Message{Status: 454, Major: 1},
		},
		{
			name: "a reply with methods",
			text: lines("RTSP/1.0  200  ", "Public: OPTIONS,", " SETUP", "Content-length: 0", "Content-Length:000"),
			want: Message{Status: 200, Major: 1, Public: "OPTIONS,   SETUP"},
		},
	}
}
