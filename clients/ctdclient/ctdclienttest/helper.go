package ctdclienttest

import "ctd/rpc/wire"

// HelperOff makes the server one whose RTSP helper isn't enabled.
func (s *Server) HelperOff() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noRTSP = true
}

// HelperXtables makes the server one on whose kernel nft can't queue packets, so that the RTSP helper's rules
// are xtables'.
func (s *Server) HelperXtables() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.xtables = true
}

// HelperStatus is the status of a new server's RTSP helper.
func HelperStatus() wire.HelperStatusResult {
	return wire.HelperStatusResult{
		Enabled: true, Running: true,
		Settings: wire.HelperSettings{
			Install: true, Ports: []uint16{554, 8554}, Queue: 554, Families: []string{"ipv4", "ipv6"}, Interfaces: []string{},
			MarkBit: 1 << 31, MaxSessions: 4096, MaxSessionsPerClient: 32,
		},
		Setup: &wire.HelperSetup{
			Strategy: "hybrid", KernelHelper: "Q.931", ExpectMax: 20, Function: "sip", Interception: "nft", Table: "ctd_rtsp", Started: Time(),
		},
		Current:  &wire.HelperCurrent{Connections: 1, Sessions: 2, Streams: 2, Expects: 1, Flows: 3},
		Counters: &wire.HelperCounters{Packets: 5_000_000_000, Requests: 12, Replies: 11, Setups: 2, Refused: 1, Ended: 4},
	}
}

// HelperSessions are the sessions of a new server's RTSP helper.
func HelperSessions() []wire.HelperSession {
	return []wire.HelperSession{
		{
			Client: "192.168.1.2:40000", Server: "192.0.2.1:554", ID: "0123456789", Version: "1.0", State: "playing", UserAgent: "box/1.0",
			Control: &wire.Tuple{Protocol: "tcp", Src: "192.168.1.2", Dst: "192.0.2.1", SPort: new(uint16(40000)), DPort: new(uint16(554))},
			Started: Time(), Streams: []wire.HelperStream{
				{
					URL: "rtsp://192.0.2.1/live/video", ClientAddr: "192.168.1.2", ClientPorts: []uint16{5000, 5001},
					PublicAddr: "198.51.100.1", PublicPorts: []uint16{5002, 5003}, ServerAddr: "192.0.2.1", ServerPorts: []uint16{6970, 6971}, Rewritten: true,
					Flows: []wire.Tuple{{Protocol: "udp", Src: "192.0.2.1", Dst: "198.51.100.1", SPort: new(uint16(6970)), DPort: new(uint16(5002))}},
				},
				{
					URL: "rtsp://192.0.2.1/live/audio", ClientAddr: "192.168.1.2", ClientPorts: []uint16{5004},
					PublicAddr: "198.51.100.1", PublicPorts: []uint16{5004},
					Expects: []wire.Tuple{{Protocol: "udp", Src: "192.0.2.1", Dst: "198.51.100.1", DPort: new(uint16(5004))}},
				},
			},
		},
		{Client: "[fd00::7]:40000", Server: "[2001:db8::1]:8554", State: "ready", Adopted: true, Streams: []wire.HelperStream{}},
	}
}

// helperMethod answers helper.*.
func (s *Server) helperMethod(call Call) (any, *wire.Error) {
	switch call.Method {
	case "helper.status":
		r := HelperStatus()
		if s.noRTSP {
			r = wire.HelperStatusResult{Settings: r.Settings, Reason: "not enabled", Hint: "start the daemon with --rtsp"}
		}
		if s.xtables {
			r.Setup.Interception = "xtables"
		}
		return r, nil
	case "helper.sessions":
		r := wire.HelperSessionsResult{Sessions: []wire.HelperSession{}}
		if !s.noRTSP {
			r.Sessions = HelperSessions()
		}
		return r, nil
	}
	var p wire.HelperRulesParams
	if err := wire.Decode(call.Params, &p, true); err != nil {
		return nil, err.(*wire.Error)
	}
	if p.Form == "" {
		p.Form = "nft"
	}
	return wire.HelperRulesResult{Form: p.Form, Rules: "# rules for " + p.Form + "\nqueue\n"}, nil
}
