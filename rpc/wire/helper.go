package wire

import "time"

// HelperStatusResult is the result of helper.status.
type HelperStatusResult struct {
	Enabled  bool            `json:"enabled" doc:"whether the configuration asks for the helper"`
	Running  bool            `json:"running" doc:"whether it follows connections"`
	Reason   string          `json:"reason,omitempty" doc:"why it doesn't run"`
	Hint     string          `json:"hint,omitempty" doc:"what to do about that"`
	Settings HelperSettings  `json:"settings" doc:"how it is configured"`
	Setup    *HelperSetup    `json:"setup,omitempty" doc:"how it works here; only while it runs"`
	Current  *HelperCurrent  `json:"current,omitempty" doc:"what it has at present; only while it runs"`
	Counters *HelperCounters `json:"counters,omitempty" doc:"what it counted since it was started; only while it runs"`
}

// HelperSettings are the settings in helper.rtsp.
type HelperSettings struct {
	Install              bool     `json:"install" doc:"whether the daemon installs the rules, rather than the administrator"`
	Ports                []uint16 `json:"ports" doc:"TCP ports of RTSP servers"`
	Queue                uint16   `json:"queue" doc:"number of the packet queue"`
	Families             []string `json:"families" doc:"ipv4, ipv6"`
	Interfaces           []string `json:"interfaces" doc:"interfaces of both sides; all where there are none"`
	MarkBit              uint32   `json:"mark_bit" doc:"bit of the connection mark that takes a connection out of the queue"`
	AllowOtherSource     bool     `json:"allow_other_source" doc:"whether media may come from another address than the server's"`
	MaxSessions          int      `json:"max_sessions" doc:"streams at a time, in all"`
	MaxSessionsPerClient int      `json:"max_sessions_per_client" doc:"streams at a time for one client's address"`
}

// HelperSetup is how the helper works on this kernel.
type HelperSetup struct {
	Strategy        string    `json:"strategy" doc:"how media are let in" enum:"helper,hybrid,flows"`
	KernelHelper    string    `json:"kernel_helper,omitempty" doc:"the kernel's helper that control connections get; absent where none is had"`
	ExpectMax       int       `json:"expect_max,omitempty" doc:"expectations that the kernel allows a connection at a time"`
	Function        string    `json:"function,omitempty" doc:"what the kernel does when an expected flow comes: sip, nat-follow-master"`
	Interception    string    `json:"interception" doc:"what stands in the rules" enum:"nft,xtables,manual"`
	Table           string    `json:"table,omitempty" doc:"the daemon's nftables table with them"`
	ConntrackQueued bool      `json:"conntrack_queued" doc:"whether packets are queued with their entry of the table"`
	Started         time.Time `json:"started" doc:"when the helper was started"`
}

// HelperCurrent counts what the helper has at present.
type HelperCurrent struct {
	Connections int `json:"connections" doc:"control connections that are followed"`
	Sessions    int `json:"sessions" doc:"RTSP sessions"`
	Streams     int `json:"streams" doc:"streams of these sessions"`
	Expects     int `json:"expects" doc:"expectations of the helper's that wait"`
	Flows       int `json:"flows" doc:"related flows of the helper's"`
}

// HelperCounters count since the helper was started.
type HelperCounters struct {
	Packets        uint64 `json:"packets" doc:"packets read from the queue"`
	Malformed      uint64 `json:"malformed" doc:"packets that could not be read as IP and TCP; they passed"`
	Lost           uint64 `json:"lost" doc:"packets that the kernel could not queue; they passed unseen"`
	Requests       uint64 `json:"requests" doc:"RTSP requests"`
	Replies        uint64 `json:"replies" doc:"RTSP replies"`
	NotRTSP        uint64 `json:"not_rtsp" doc:"connections left alone because they don't speak RTSP, or no longer"`
	Setups         uint64 `json:"setups" doc:"streams that a server agreed to and that were let in"`
	Refused        uint64 `json:"refused" doc:"streams that were not let in for safety: ports, destination, source, limits"`
	Limited        uint64 `json:"limited" doc:"connections, SETUP requests and streams over a limit, each time it is met"`
	Failed         uint64 `json:"failed" doc:"registrations that the kernel refused"`
	Rewritten      uint64 `json:"rewritten" doc:"messages that were rewritten"`
	Rerewritten    uint64 `json:"rerewritten" doc:"segments that were sent again and rewritten again"`
	Unwritable     uint64 `json:"unwritable" doc:"messages that should have been rewritten and could not be"`
	Held           uint64 `json:"held" doc:"segments that were held until their message was whole"`
	Interleaved    uint64 `json:"interleaved" doc:"connections that left the queue because their media go inside them"`
	AdoptedStreams uint64 `json:"adopted_streams" doc:"streams picked up from a daemon before"`
	Ended          uint64 `json:"ended" doc:"streams that ended"`
}

// HelperSessionsResult is the result of helper.sessions.
type HelperSessionsResult struct {
	Sessions []HelperSession `json:"sessions" doc:"the sessions; none where the helper doesn't run"`
}

// HelperSession is one RTSP session.
type HelperSession struct {
	Client    string         `json:"client" doc:"the client's address and port"`
	Server    string         `json:"server" doc:"the server's address and port, as the client has them"`
	Control   *Tuple         `json:"control,omitempty" doc:"original direction of the control connection"`
	Zone      uint16         `json:"zone" doc:"zone of the control connection"`
	ID        string         `json:"id,omitempty" doc:"of the Session header; absent before the server gave it, or where the session was picked up"`
	Version   string         `json:"version,omitempty" doc:"of RTSP: 1.0, 2.0; absent where the session was picked up"`
	State     string         `json:"state" doc:"setup, ready, playing or recording"`
	UserAgent string         `json:"user_agent,omitempty" doc:"the client's program, as it says"`
	Started   time.Time      `json:"started,omitzero" doc:"when it began"`
	Adopted   bool           `json:"adopted,omitempty" doc:"picked up from a daemon before"`
	Streams   []HelperStream `json:"streams" doc:"its streams"`
}

// HelperStream is one stream of a session.
type HelperStream struct {
	URL         string   `json:"url,omitempty" doc:"of its SETUP"`
	ClientAddr  string   `json:"client_addr,omitempty" doc:"where the client wants it"`
	ClientPorts []uint16 `json:"client_ports,omitempty" doc:"as the client named them"`
	PublicAddr  string   `json:"public_addr,omitempty" doc:"where the server sends it"`
	PublicPorts []uint16 `json:"public_ports,omitempty" doc:"other than client_ports where they were rewritten"`
	ServerAddr  string   `json:"server_addr,omitempty" doc:"where it comes from; absent before the server said so"`
	ServerPorts []uint16 `json:"server_ports,omitempty" doc:"the ports it comes from"`
	Rewritten   bool     `json:"rewritten,omitempty" doc:"whether its SETUP was rewritten"`
	Expects     []Tuple  `json:"expects,omitempty" doc:"expectations that wait for it"`
	Flows       []Tuple  `json:"flows,omitempty" doc:"original directions of its related flows"`
}

// HelperRulesParams are the parameters of helper.rules.
type HelperRulesParams struct {
	Form string `json:"form,omitempty" doc:"the form of the rules; nft where absent" enum:"nft,iptables"`
}

// HelperRulesResult is the result of helper.rules.
type HelperRulesResult struct {
	Form  string `json:"form" doc:"the form of the rules" enum:"nft,iptables"`
	Rules string `json:"rules" doc:"the rules, as a script"`
}
