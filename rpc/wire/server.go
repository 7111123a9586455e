package wire

import "time"

// Empty are the parameters of a method that takes none.
type Empty struct{}

// StatsParams are the parameters of conntrack.stats.
type StatsParams struct {
	PerCPU bool `json:"per_cpu,omitempty" doc:"also the counters of each processor"`
}

// StatsResult is the result of conntrack.stats.
type StatsResult struct {
	Entries   uint32     `json:"entries" doc:"entries in the table"`
	Max       uint32     `json:"max" doc:"net.netfilter.nf_conntrack_max"`
	Buckets   uint32     `json:"buckets" doc:"net.netfilter.nf_conntrack_buckets"`
	Expects   uint32     `json:"expects" doc:"expectations pending"`
	ExpectMax uint32     `json:"expect_max" doc:"net.netfilter.nf_conntrack_expect_max, of the whole machine"`
	Total     CPUStats   `json:"total" doc:"sum over the processors, since the namespace was made"`
	PerCPU    []CPUStats `json:"per_cpu,omitempty" doc:"only with per_cpu"`
}

// CPUStats are the counters of one processor, or their sum (CTA_STATS_*).
type CPUStats struct {
	CPU           *uint16 `json:"cpu,omitempty" doc:"number of the processor; absent in the sum"`
	Found         uint64  `json:"found" doc:"look-ups that found an entry"`
	Invalid       uint64  `json:"invalid" doc:"packets that could not be tracked"`
	Insert        uint64  `json:"insert" doc:"entries inserted by requests"`
	InsertFailed  uint64  `json:"insert_failed" doc:"entries that could not be inserted, since an equal one was there"`
	Drop          uint64  `json:"drop" doc:"packets dropped because no entry could be made"`
	EarlyDrop     uint64  `json:"early_drop" doc:"entries dropped to make room for new ones"`
	Error         uint64  `json:"error" doc:"packets in error, e.g. ICMP errors that belong to no flow"`
	SearchRestart uint64  `json:"search_restart" doc:"look-ups begun again because the table was resized"`
	ClashResolve  uint64  `json:"clash_resolve" doc:"races of two equal entries that were settled"`
	ChainTooLong  uint64  `json:"chain_toolong" doc:"inserts that failed because a hash chain was too long"`
}

// InfoResult is the result of server.info.
type InfoResult struct {
	Version      string          `json:"version" doc:"of the daemon"`
	Kernel       string          `json:"kernel" doc:"release of the running kernel"`
	Hostname     string          `json:"hostname" doc:"of the machine"`
	NetNS        string          `json:"netns,omitempty" doc:"namespace whose table is managed, where it isn't the daemon's own"`
	Started      time.Time       `json:"started" doc:"when the daemon started"`
	Capabilities map[string]bool `json:"capabilities" doc:"what kernel and configuration give: accounting, timestamps, events, ..."`
}

// Finding is one thing that the doctor found.
type Finding struct {
	Check    string `json:"check" doc:"stable name of the check, e.g. accounting"`
	Severity string `json:"severity" doc:"how bad it is" enum:"ok,info,warning,error"`
	Message  string `json:"message" doc:"what was found and what it means"`
	Mend     string `json:"mend,omitempty" doc:"the command that mends it"`
}

// DoctorResult is the result of server.doctor.
type DoctorResult struct {
	Healthy  bool      `json:"healthy" doc:"no finding is a warning or an error"`
	Findings []Finding `json:"findings" doc:"one for each check"`
}

// WhoamiResult is the result of server.whoami.
type WhoamiResult struct {
	Name       string     `json:"name" doc:"the caller's name"`
	Role       Role       `json:"role" doc:"viewer, operator or admin"`
	Via        string     `json:"via" doc:"how the caller was recognised" enum:"unix,token,password,certificate,oidc,proxy"`
	Credential string     `json:"credential,omitempty" doc:"which credential, where the name doesn't say it, e.g. a certificate's subject"`
	Networks   []string   `json:"networks,omitempty" doc:"networks to which the caller is bound: only flows with an address inside are seen and changed"`
	Expires    *time.Time `json:"expires,omitempty" doc:"when the credential ends"`
}
